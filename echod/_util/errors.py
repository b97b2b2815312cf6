"""
The errors that stop the start of the daemon.

Invariant: an error of this family is one line for the operator and exit status 1, wherever it is
raised or caught.
"""


class StartupError(SystemExit, Exception):
    """
    The daemon cannot start.

    As a C{SystemExit} it ends twistd and twist with status 1 and its text on standard error,
    without a traceback.  It is also an C{Exception}: only for those, a twistd in the background
    reports the error to the process that started it, and removes its pidfile.

    @cvar program: the program whose option is wrong; empty when the line is printed already.
    """

    program = "echod"

    def __init__(self, text: str):
        """
        @param text: the option with its value, what is wrong, and what to give instead.
        """
        super().__init__(f"{self.program}: {text}" if self.program else text)
