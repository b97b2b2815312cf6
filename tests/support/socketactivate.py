"""
Starts a command with listening sockets, as systemd does for a socket unit:
C{python socketactivate.py NAME=DESCRIPTOR... -- COMMAND...}.

Invariant: the command is the process that was started, and has these
sockets and its standard streams only.
"""

import os
import sys


def main(arguments: list[str]) -> None:
    """
    Put the descriptors where they are looked for (sd_listen_fds(3)), say so, and become
    the command.
    """
    split = arguments.index("--")
    sockets = [argument.partition("=") for argument in arguments[:split]]
    # Out of the way first: one of them may be where another has to go.
    aside = [os.dup2(int(descriptor), 100 + n) for n, (_, _, descriptor) in enumerate(sockets)]
    os.closerange(3, 100)
    for place, descriptor in enumerate(aside, 3):
        os.dup2(descriptor, place)
        os.close(descriptor)
    os.environ["LISTEN_PID"] = str(os.getpid())
    os.environ["LISTEN_FDS"] = str(len(sockets))
    os.environ["LISTEN_FDNAMES"] = ":".join(name for name, _, _ in sockets)
    command = arguments[split + 1 :]
    os.execv(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
