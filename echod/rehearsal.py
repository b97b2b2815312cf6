"""
C{--check_config}: the daemon is started and stopped again, to find out whether it could run, and
what a start would warn of.

Invariant: nothing is left behind, and nobody is told but who asked.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import react
from twisted.logger import ILogObserver, LogEvent, LogLevel, formatEvent, globalLogPublisher
from zope.interface import provider

from echod import __version__
from echod._util.stdio import report_output_error
from echod._util.text import escape
from echod.net.listener import ListenError
from echod.service import EchodService
from echod.tls.reload import format_duration, names_text


@contextmanager
def _warnings() -> Iterator[list[str]]:
    """
    What is warned of for as long as the C{with} block takes, each warning once.
    """
    found: list[str] = []

    @provider(ILogObserver)
    def observe(event: LogEvent) -> None:
        if event.get("log_level") is LogLevel.warn:
            text = escape(formatEvent(event))
            if text not in found:
                found.append(text)

    globalLogPublisher.addObserver(observe)
    try:
        yield found
    finally:
        globalLogPublisher.removeObserver(observe)


def _judge(service: EchodService, warnings: list[str], workers: int) -> None:
    """
    Say what there is to be warned of, and what would run.
    """
    for text in warnings:
        print(f"echod: warning: {text}", file=sys.__stderr__)
    judgment = "all is well"
    if warnings:
        judgment = "1 warning" if len(warnings) == 1 else f"{len(warnings)} warnings"
    print(f"echod {__version__}: {judgment}; this would listen on")
    for listener in service.all_listeners():
        print(f"  {listener.address()}, {listener.option}")
    print(f"for at most {service.max_connections} connections at once")
    if workers > 1:
        print(f"with {workers} workers")
    if service.certificates is not None:
        print("with")
        for each in service.certificates.served:
            until, path = format_duration(each.not_after), escape(each.path)
            print(f"  {names_text(each)}, until {until}, {path}")


def check_config(reactor: Any, build: Callable[[], EchodService], workers: int = 1) -> None:
    """
    Build and start a service, stop it again, and say what would run.  What a start would
    log as a warning goes to standard error, and is no failure.

    @raise SystemExit: always; with 0 when it could run, else with the line that says
        why not.
    """
    with _warnings() as warnings:
        service = build()
        service.check_log()
        if service.key_log is not None:
            service.key_log.undo()

        async def start_and_stop(_: Any) -> None:
            failed = False
            try:
                service.startService()
                _judge(service, warnings, workers)
                sys.stdout.flush()
            except OSError as error:
                report_output_error("echod: --check", error, sys.stdout, sys.stderr)
                failed = True
            except ListenError:
                # It has said why; and react() takes a status from a plain SystemExit only.
                failed = True
            await service.stopService()
            if failed:
                raise SystemExit(1)

        react(lambda r: Deferred.fromCoroutine(start_and_stop(r)), _reactor=reactor)
