"""
The way into C{echod-check}.

Invariant: ctrl-C has a meaning of ours before anything is imported that takes
time.  Python's own is a traceback.
"""

import os
import signal

INTERRUPTED = 130
"""
The exit status of a check that was interrupted, as L{Outcome<echod.check.results.Outcome>} has it.
"""


def leave_at_once(*_: object) -> None:
    """
    End, without a word: nothing has been begun yet.
    """
    os._exit(INTERRUPTED)


def main(arguments: list[str] | None = None) -> None:
    """
    The command C{echod-check}.

    @param arguments: the command line; C{None} for the process's own.
    @raise SystemExit: always, with a status of L{Outcome<echod.check.results.Outcome>}.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, leave_at_once)
    from echod._util.stdio import prepare_standard_streams

    prepare_standard_streams()
    from echod.check.cli import command

    command(arguments)
