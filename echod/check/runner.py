"""
One run of C{echod-check}: runs what the options ask for, and prints the results.

Invariant: results go to standard output, failures and warnings to standard error, and C{--quiet}
silences both.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from twisted.internet.defer import CancelledError
from twisted.internet.task import LoopingCall, deferLater

from echod._util.stdio import report_output_error
from echod.check.connect import Connector
from echod.check.options import CheckOptions
from echod.check.probe import check
from echod.check.report import result_json, result_text, session_text
from echod.check.results import CaseResult, CheckError, CheckResult, DescriptorError, Outcome
from echod.check.terminal import MIN_PLOT_COLUMNS, LatencyPlot, columns, uses_color

PROGRESS_INTERVAL = 1.0
"""How often the progress is printed, in seconds."""

ERASE_LINE = "\r\x1b[K"

NO_ECHO = frozenset((Outcome.CLOSED_EARLY, Outcome.RESET, Outcome.LOST, Outcome.CORRUPTED))
"""The outcomes of a plain check of a port for TLS; a timeout leaves no time to look."""


class Runner:
    """
    One run of the command.
    """

    def __init__(
        self,
        reactor: Any,
        options: CheckOptions,
        connector: Connector,
        out: TextIO,
        err: TextIO,
        environ: Mapping[str, str],
    ):
        self._reactor = reactor
        self._options = options
        self._connector = connector
        self._out = out
        self._err = err
        self._environ = environ
        self._color_out, self._color_err = (uses_color(each, environ) for each in (out, err))

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

    @contextmanager
    def _progress(self, text: Callable[[], str], silent: bool) -> Iterator[None]:
        """
        Show the progress in one line of the terminal, which is erased at the end.
        """

        def show() -> None:
            self._err.write(f"{ERASE_LINE}{text()}")
            self._err.flush()

        progress = LoopingCall(show)
        progress.clock = self._reactor
        if not silent and self._err.isatty() and not self._options["quiet"]:
            progress.start(PROGRESS_INTERVAL, now=False)
        try:
            yield
        finally:
            if progress.running:
                progress.stop()
                self._erase()

    def _erase(self) -> None:
        self._err.write(ERASE_LINE)
        self._err.flush()

    def output_failed(self, error: OSError) -> Outcome:
        """
        Report that standard output cannot be written.

        @return: the outcome.
        """
        report_output_error("echod-check", error, self._out, self._err)
        return Outcome.USAGE

    def descriptors_failed(self, error: DescriptorError) -> Outcome:
        """
        Report that there are too few file descriptors.

        @return: the outcome.
        """
        self._warn(f"echod-check: {error}")
        return Outcome.USAGE

    async def _checks(self) -> Outcome:
        options = self._options
        outcome = Outcome.OK
        for number in range(options["count"] or 1):
            if number:
                await deferLater(self._reactor, options["interval"], lambda: None)
            result = await self._check()
            plain = not (number or options["tls"] or options["udp"] or options["quiet"])
            if plain and result.outcome in NO_ECHO:
                await self._explain(result)
            self._print_result(result)
            if outcome is Outcome.OK:
                outcome = result.outcome
        return outcome

    async def _check(self) -> CheckResult:
        options = self._options
        limits = options["size"], options["timeout"]
        if options["udp"]:
            from echod.check.udp import check_datagram

            return await check_datagram(self._reactor, options.udp_target, *limits)
        return await check(self._reactor, self._connector.dial, *limits)

    async def _explain(self, result: CheckResult) -> None:
        """
        If the server speaks TLS, say so in the failure.
        """
        # Imported for a failure only.
        from echod.check.tlsprobe import tls_answer

        failure = result.failure
        answer = await tls_answer(self._reactor, self._connector.dial)
        if failure is not None and answer is not None:
            text = f"{failure.detail}; the server answers a ClientHello with {answer}: add --tls"
            result.failure = CheckError(failure.outcome, text)

    def _print_result(self, result: CheckResult) -> None:
        target = self._options.target
        if self._options["json"]:
            self._print(json.dumps(result_json(target, result)))
            return
        if result.failure:
            self._warn(f"echod-check: {result_text(target, result, self._color_err)}")
        else:
            self._print(result_text(target, result, self._color_out))
        if result.session:
            self._print(f"  {session_text(result.session)}")

    async def _conformance(self) -> Outcome:
        from echod.check.conformance import CASES, conformance, connects
        from echod.check.report import case_json, case_text

        options = self._options
        results: list[CaseResult] = []
        now = [0, "connecting"]
        start = self._reactor.seconds()
        failure = await connects(self._reactor, self._connector.dial, options["timeout"])
        if failure is not None:
            return self._not_there(failure)

        def starts(number: int, name: str) -> None:
            now[:] = number, name

        def text() -> str:
            elapsed = self._reactor.seconds() - start
            return f"{now[0]} of {len(CASES)}: {now[1]}, {elapsed:.0f} s"

        def report(result: CaseResult) -> None:
            results.append(result)
            if not options["json"]:
                if self._err.isatty() and not options["quiet"]:
                    self._erase()
                self._print(case_text(result, self._color_out))

        with self._progress(text, silent=False):
            passed = await conformance(
                self._reactor, self._connector.dial, options["timeout"], report, starts
            )
        if options["json"]:
            cases = [case_json(result) for result in results]
            self._print(json.dumps({"target": options.target, "passed": passed, "cases": cases}))
        else:
            number = sum(result.passed for result in results)
            self._print(f"{number} of {len(results)} passed")
        return Outcome.OK if passed else Outcome.FAILED

    def _not_there(self, failure: CheckError) -> Outcome:
        """
        There is no server for C{--conformance}.
        """
        result = CheckResult(failure=failure)
        if self._options["json"]:
            found = {"passed": False, "cases": []}
            shown = result_json(self._options.target, result)
            kept = ("target", "outcome", "detail", "status")
            self._print(json.dumps({name: shown[name] for name in kept} | found))
        else:
            self._print_result(result)
        return failure.outcome

    async def _ping(self) -> Outcome:
        from echod.check.ping import Ping
        from echod.check.report import echo_text, ping_json, ping_text, progress_text

        options = self._options
        prints_echoes = not (options["json"] or options["rate"])
        plots = not options["json"] and columns(self._out, self._environ) >= MIN_PLOT_COLUMNS
        plot = LatencyPlot()

        def report(number: int, peer: str, result: float | CheckError) -> None:
            if prints_echoes:
                self._print(echo_text(number, options["size"], peer, result, self._color_out))
            if not plots:
                return
            if isinstance(result, CheckError):
                plot.add_lost(ping.elapsed)
            else:
                plot.add(ping.elapsed, result)

        kind: type[Ping] = Ping
        extra: dict[str, Any] = {}
        if options["udp"]:
            from echod.check.udpping import DatagramPing

            kind = DatagramPing
            note = self._print if prints_echoes else lambda line: None
            extra = {"target": options.udp_target, "note": note}
        ping = kind(
            self._reactor,
            self._connector.dial,
            report,
            **extra,
            size=options["size"],
            rate=options["rate"] or options["connections"] / options["interval"],
            connections=options["connections"],
            count=options["count"],
            timeout_seconds=options["timeout"],
        )

        def text() -> str:
            return progress_text(ping.elapsed, ping.sent, ping.latencies)

        # Ctrl-C: a run without --count ends so.
        with self._progress(text, silent=prints_echoes), suppress(CancelledError):
            await ping.run()
        outcome = _ping_outcome(ping.sent, ping.latencies.count, ping.failure)
        figures = (options.target, ping.sent, ping.latencies, ping.elapsed)
        if options["json"]:
            summary = ping_json(*figures, outcome, ping.failure) | ping.extra()
            self._print(json.dumps(summary))
        else:
            # Without a line for each message, nothing else says why one is lost.
            why = None if prints_echoes else ping.failure
            self._print("\n".join((ping_text(*figures, why, self._color_out), *plot.lines())))
            if ping.extra():
                self._print(", ".join(f"{count} {name}" for name, count in ping.extra().items()))
        return outcome


def _ping_outcome(sent: int, received: int, failure: CheckError | None) -> Outcome:
    if failure is None:
        return Outcome.OK if sent else Outcome.INTERRUPTED
    return Outcome.FAILED if received else failure.outcome
