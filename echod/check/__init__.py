"""
The client C{echod-check}: is this echo server alive, exact and fast?

It connects, sends random bytes, compares what comes back, and closes.  Its exit status names the
fault.

Invariant: a check may run every few seconds as a health check, so nothing is imported that it
does not need.  This module imports nothing that takes time before C{main} handles Ctrl-C, for
which Python would print a traceback.

Open C{cli.py} first: it runs the command.  C{results.py} has the outcomes, C{probe.py} the check.
"""

import os
import signal

INTERRUPTED = 130
"""
The exit status after Ctrl-C or SIGTERM, that of
L{Outcome.INTERRUPTED<echod.check.results.Outcome>}.
"""


def exit_interrupted(*_: object) -> None:
    """
    The signal handler until the reactor runs: exit at once, since nothing has started.
    """
    os._exit(INTERRUPTED)


def main(arguments: list[str] | None = None) -> None:
    """
    The command C{echod-check}.

    @param arguments: the command line; C{None} for the process's own.
    @raise SystemExit: always, with the status of an L{Outcome<echod.check.results.Outcome>}.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, exit_interrupted)
    from echod._util.stdio import prepare_standard_streams

    prepare_standard_streams()
    from echod.check.cli import command

    command(arguments)
