"""
One run of C{echod-check}: runs what the options ask for, and prints the results.

Invariant: results go to standard output, failures and warnings to standard error, and C{--quiet}
silences both.
"""

import json
from contextlib import suppress
from typing import Any, TextIO

from twisted.internet.defer import CancelledError
from twisted.internet.task import LoopingCall, deferLater

from echod._util.stdio import report_output_error
from echod.check.connect import Connector
from echod.check.options import CheckOptions
from echod.check.probe import check
from echod.check.report import result_json, result_text, session_text
from echod.check.results import CaseResult, CheckError, CheckResult, Outcome

PROGRESS_INTERVAL = 1.0
"""How often the progress of C{--ping} is printed, in seconds."""


class Runner:
    """
    One run of the command.
    """

    def __init__(
        self, reactor: Any, options: CheckOptions, connector: Connector, out: TextIO, err: TextIO
    ):
        self._reactor = reactor
        self._options = options
        self._connector = connector
        self._out = out
        self._err = err

    async def run(self) -> Outcome:
        """
        Run what the options ask for.

        @return: the outcome; of several failures, the first.
        """
        if self._options["insecure"]:
            self._warn("echod-check: --insecure: the server's identity is not verified")
        if self._options["conformance"]:
            return await self._conformance()
        if self._options["ping"]:
            return await self._ping()
        return await self._checks()

    def _print(self, line: str) -> None:
        if not self._options["quiet"]:
            # In one write: the reader of a pipe may close it after the line, before a newline
            # that is written alone.
            self._out.write(f"{line}\n")
            self._out.flush()

    def _warn(self, line: str) -> None:
        if not self._options["quiet"]:
            # If standard error fails, the exit status is left.
            with suppress(OSError):
                print(line, file=self._err, flush=True)

    def output_failed(self, error: OSError) -> Outcome:
        """
        Report that standard output cannot be written.

        @return: the outcome.
        """
        report_output_error("echod-check", error, self._out, self._err)
        return Outcome.USAGE

    async def _checks(self) -> Outcome:
        options = self._options
        outcome = Outcome.OK
        for number in range(options["count"] or 1):
            if number:
                await deferLater(self._reactor, options["interval"], lambda: None)
            result = await check(
                self._reactor, self._connector.dial, options["size"], options["timeout"]
            )
            self._print_result(result)
            if outcome is Outcome.OK:
                outcome = result.outcome
        return outcome

    def _print_result(self, result: CheckResult) -> None:
        target = self._options.target
        if self._options["json"]:
            self._print(json.dumps(result_json(target, result)))
            return
        text = result_text(target, result)
        if result.failure:
            self._warn(f"echod-check: {text}")
        else:
            self._print(text)
        if result.session:
            self._print(f"  {session_text(result.session)}")

    async def _conformance(self) -> Outcome:
        from echod.check.conformance import conformance
        from echod.check.report import case_json, case_text

        options = self._options
        results: list[CaseResult] = []

        def report(result: CaseResult) -> None:
            results.append(result)
            if not options["json"]:
                self._print(case_text(result))

        passed = await conformance(self._reactor, self._connector.dial, options["timeout"], report)
        if options["json"]:
            cases = [case_json(result) for result in results]
            self._print(json.dumps({"target": options.target, "passed": passed, "cases": cases}))
        else:
            number = sum(result.passed for result in results)
            self._print(f"{number} of {len(results)} passed")
        return Outcome.OK if passed else Outcome.FAILED

    async def _ping(self) -> Outcome:
        from echod.check.ping import Ping
        from echod.check.report import echo_text, ping_json, ping_text, progress_text

        options = self._options
        prints_echoes = not (options["json"] or options["rate"])

        def report(number: int, peer: str, result: float | CheckError) -> None:
            if prints_echoes:
                self._print(echo_text(number, options["size"], peer, result))

        ping = Ping(
            self._reactor,
            self._connector.dial,
            report,
            size=options["size"],
            rate=options["rate"] or options["connections"] / options["interval"],
            connections=options["connections"],
            count=options["count"],
            timeout_seconds=options["timeout"],
        )

        def print_progress() -> None:
            text = progress_text(ping.elapsed, ping.sent, ping.latencies)
            self._err.write(f"\r\x1b[K{text}")
            self._err.flush()

        progress = LoopingCall(print_progress)
        progress.clock = self._reactor
        if not prints_echoes and self._err.isatty() and not options["quiet"]:
            progress.start(PROGRESS_INTERVAL, now=False)
        try:
            await ping.run()
        except CancelledError:
            # Ctrl-C: a run without --count ends so.
            pass
        finally:
            if progress.running:
                progress.stop()
                self._err.write("\r\x1b[K")
        figures = (options.target, ping.sent, ping.latencies, ping.elapsed)
        self._print(json.dumps(ping_json(*figures)) if options["json"] else ping_text(*figures))
        if ping.failure is None:
            return Outcome.OK if ping.sent else Outcome.INTERRUPTED
        return Outcome.FAILED if ping.latencies.count else ping.failure.outcome
