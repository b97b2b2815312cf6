"""
C{--check}: find out whether the daemon could run.

Invariant: nothing is left behind, and the service manager is not notified.
"""

import sys
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import react

from echod import __version__
from echod._util.stdio import print_error, report_output_error
from echod._util.text import escape
from echod.logs.capture import captured_warnings
from echod.net.listener import ListenError
from echod.service import EchodService
from echod.tls.reload import format_time, names_text
from echod.udp import UDPListener


def _print_check(service: EchodService, warnings: list[str], workers: int) -> None:
    for text in warnings:
        print_error(f"echod: warning: {text}", priority=4)
    judgment = "all is well"
    if warnings:
        judgment = "1 warning" if len(warnings) == 1 else f"{len(warnings)} warnings"
    print(f"echod {__version__}: {judgment}; this would listen on")
    for listener in service.all_listeners():
        print(f"  {listener.address()}, {listener.option}")
    # UDP has no connections, and those of the status page do not count.
    if any(not isinstance(each, UDPListener) for each in service.listeners):
        print(f"for at most {service.collector.max_connections} connections at once")
    if workers > 1:
        print(f"with {workers} workers")
    if service.certificates is not None:
        print("with")
        for each in service.certificates.served:
            until, path = format_time(each.not_after), escape(each.path)
            print(f"  {names_text(each)}, until {until}, {path}")
            if each.self_made:
                print(f"  SHA-256 fingerprint {each.fingerprint}; each start makes a new one")


def check_config(reactor: Any, build: Callable[[], EchodService], workers: int = 1) -> None:
    """
    Do what C{--check} asks for: build and start a service, print what would run, and stop it again.
    The warnings that a start would log go to standard error; they are no failure.  No file is left
    behind.

    @raise StartupError: if an option or a file is wrong.
    @raise SystemExit: otherwise: with 0 if the service could start, and 1 if not.
    """
    with captured_warnings() as warnings:
        service = build()
        service.check_log()
        if service.key_log is not None:
            service.key_log.undo()

        async def start_and_stop(_: Any) -> None:
            failed = False
            try:
                service.startService()
                _print_check(service, warnings, workers)
                sys.stdout.flush()
            except OSError as error:
                report_output_error("echod: --check", error, sys.stdout, sys.stderr)
                failed = True
            except ListenError:
                # The listener has written why to standard error.  react() takes an exit status
                # only from SystemExit itself, not from a subclass.
                failed = True
            await service.stopService()
            if failed:
                raise SystemExit(1)

        react(lambda r: Deferred.fromCoroutine(start_and_stop(r)), _reactor=reactor)
