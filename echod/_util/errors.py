"""
The errors that end a start.

Invariant: an error of this family is one line for the operator and an exit status, whoever raises
it and wherever it is caught.
"""


class StartupError(SystemExit, Exception):
    """
    The daemon cannot start.

    As a C{SystemExit} it ends twistd and twist with status 1 and its text on standard error,
    without a traceback.  It is an ordinary C{Exception} too: a twistd in the background tells
    those, and no others, to the process that waits for it, and removes its pidfile for them.

    @cvar program: the program whose option is wrong; empty when the line has been written.
    """

    program = "echod"

    def __init__(self, text: str):
        """
        @param text: the option with its value, what is wrong, and the way out.
        """
        super().__init__(f"{self.program}: {text}" if self.program else text)
