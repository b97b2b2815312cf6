"""
One run of C{echod-check}: what is asked, and what is said about the answer.

Invariant: results go to standard output, failures and remarks to standard
error, and C{--quiet} silences both.
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
from echod.check.report import answer_json, answer_text, session_text
from echod.check.results import CaseResult, CheckFailed, CheckResult, Outcome

PROGRESS_SECONDS = 1.0


class Runner:
    """
    One run of the command.
    """

    def __init__(
        self, reactor: Any, options: CheckOptions, dialler: Connector, out: TextIO, err: TextIO
    ):
        self._reactor = reactor
        self._options = options
        self._dialler = dialler
        self._out = out
        self._err = err

    async def run(self) -> Outcome:
        """
        Do what the options ask for.
        """
        if self._options["insecure"]:
            self._warn("echod-check: --insecure: anybody could be answering")
        if self._options["conformance"]:
            return await self._conformance()
        if self._options["ping"]:
            return await self._ping()
        return await self._checks()

    def _say(self, line: str) -> None:
        if not self._options["quiet"]:
            # In one piece: who reads may have enough when the line is there.
            self._out.write(f"{line}\n")
            self._out.flush()

    def _warn(self, line: str) -> None:
        if not self._options["quiet"]:
            # Where nobody can be told, there is the status.
            with suppress(OSError):
                print(line, file=self._err, flush=True)

    def output_failed(self, error: OSError) -> Outcome:
        """
        Nobody reads what is printed, or the disk is full.
        """
        report_output_error("echod-check", error, self._out, self._err)
        return Outcome.USAGE

    async def _checks(self) -> Outcome:
        options = self._options
        worst = Outcome.OK
        for number in range(options["count"] or 1):
            if number:
                await deferLater(self._reactor, options["interval"], lambda: None)
            answer = await check(
                self._reactor, self._dialler.dial, options["size"], options["timeout"]
            )
            self._tell(answer)
            if worst is Outcome.OK:
                worst = answer.outcome
        return worst

    def _tell(self, answer: CheckResult) -> None:
        target = self._options.target
        if self._options["json"]:
            self._say(json.dumps(answer_json(target, answer)))
            return
        text = answer_text(target, answer)
        if answer.failure:
            self._warn(f"echod-check: {text}")
        else:
            self._say(text)
        if answer.session:
            self._say(f"  {session_text(answer.session)}")

    async def _conformance(self) -> Outcome:
        from echod.check.conformance import conformance
        from echod.check.report import case_json, case_text

        options = self._options
        results: list[CaseResult] = []

        def told(result: CaseResult) -> None:
            results.append(result)
            if not options["json"]:
                self._say(case_text(result))

        passed = await conformance(self._reactor, self._dialler.dial, options["timeout"], told)
        if options["json"]:
            cases = [case_json(result) for result in results]
            self._say(json.dumps({"target": options.target, "passed": passed, "cases": cases}))
        else:
            good = sum(result.passed for result in results)
            self._say(f"{good} of {len(results)} passed")
        return Outcome.OK if passed else Outcome.FAILED

    async def _ping(self) -> Outcome:
        from echod.check.ping import Ping
        from echod.check.report import echo_text, ping_json, ping_text, progress_text

        options = self._options
        quiet_lines = options["json"] or options["rate"]

        def told(number: int, peer: str, result: float | CheckFailed) -> None:
            if not quiet_lines:
                self._say(echo_text(number, options["size"], peer, result))

        ping = Ping(
            self._reactor,
            self._dialler.dial,
            told,
            size=options["size"],
            rate=options["rate"] or options["connections"] / options["interval"],
            connections=options["connections"],
            count=options["count"],
            timeout_seconds=options["timeout"],
        )

        def progress() -> None:
            text = progress_text(ping.elapsed, ping.sent, ping.latencies)
            self._err.write(f"\r\x1b[K{text}")
            self._err.flush()

        shown = LoopingCall(progress)
        shown.clock = self._reactor
        if quiet_lines and self._err.isatty() and not options["quiet"]:
            shown.start(PROGRESS_SECONDS, now=False)
        try:
            await ping.run()
        except CancelledError:
            # Ctrl-C: the end that a run without --count has.
            pass
        finally:
            if shown.running:
                shown.stop()
                self._err.write("\r\x1b[K")
        figures = (options.target, ping.sent, ping.latencies, ping.elapsed)
        self._say(json.dumps(ping_json(*figures)) if options["json"] else ping_text(*figures))
        if ping.failure is None:
            return Outcome.OK if ping.sent else Outcome.INTERRUPTED
        return Outcome.FAILED if ping.latencies.count else ping.failure.outcome
