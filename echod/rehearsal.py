"""
C{--check}: the daemon is started and stopped again, to find out whether it could run.

The rule of this room: nothing is left behind, and nobody is told but who asked.
"""

import sys
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import react

from echod import __version__
from echod.daemon import EchodService
from echod.listener import ListenFailed
from echod.rotation import names_text, time_text
from echod.stdio import report_output_error


def check(reactor: Any, service: EchodService, workers: int = 1) -> None:
    """
    Start the service, stop it again, and say what would run.

    @raise SystemExit: always; with 0 when all is well, else with the line that says
        what is not.
    """
    service.try_log()
    if service.key_log is not None:
        service.key_log.undo()

    async def start_and_stop(_: Any) -> None:
        failed = False
        try:
            service.startService()
            print(f"echod {__version__}: all is well; this would listen on")
            for listener in service.all_listeners():
                print(f"  {listener.address()}, {listener.option}")
            print(f"for at most {service.max_connections} connections at once")
            if workers > 1:
                print(f"with {workers} workers")
            if service.certificates is not None:
                print("with")
                for each in service.certificates.served:
                    print(f"  {names_text(each)}, until {time_text(each.not_after)}, {each.path}")
            sys.stdout.flush()
        except OSError as error:
            report_output_error("echod: --check", error, sys.stdout, sys.stderr)
            failed = True
        except ListenFailed:
            # It has said why; and react() takes a status from a plain SystemExit only.
            failed = True
        await service.stopService()
        if failed:
            raise SystemExit(1)

    react(lambda r: Deferred.fromCoroutine(start_and_stop(r)), _reactor=reactor)
