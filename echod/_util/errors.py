"""
The errors that stop the start of the daemon, and the exit statuses that tell a service manager why.

Invariant: an error of this family is one line for the operator, wherever it is raised or caught.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from echod._util.stdio import print_error

CONFIG_STATUS = os.EX_CONFIG
"""
The exit status for a wrong option or a file that cannot be used (sysexits(3)): another start would
fail in the same way.
"""

BIND_STATUS = 1
"""The exit status for a port that cannot be bound, or a worker that cannot start."""


class StartupError(SystemExit, Exception):
    """
    The daemon cannot start.

    As a C{SystemExit} it ends twistd and twist without a traceback.  It is also an C{Exception}:
    only for those, a twistd in the background reports the error to the process that started it,
    and removes its pidfile.

    @cvar program: the program whose option is wrong; empty when the line is printed already.
    """

    program = "echod"

    def __init__(self, text: str):
        """
        @param text: the option with its value, what is wrong, and what to give instead.
        """
        super().__init__(f"{self.program}: {text}" if self.program else text)


@contextmanager
def exit_on_error() -> Iterator[None]:
    """
    End the process if the C{with} block raises a L{StartupError}: with its line on standard error,
    and L{CONFIG_STATUS}.  Python itself would exit with 1.

    @raise SystemExit: with the status.
    """
    try:
        yield
    except StartupError as error:
        if error.code == BIND_STATUS:
            raise
        print_error(str(error.code))
        raise SystemExit(CONFIG_STATUS) from None
