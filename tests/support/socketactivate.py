"""
Starts a command with listening sockets, as systemd does for a socket unit:
C{python socketactivate.py NAME=DESCRIPTOR... -- COMMAND...}.

Invariant: the command replaces this process, and has only these sockets and its standard
streams.
"""

import argparse
import os
import sys


def main(arguments: list[str]) -> None:
    """
    Move the descriptors to where sd_listen_fds(3) looks for them, set the environment, and run
    the command.
    """
    parser = argparse.ArgumentParser(
        usage="socketactivate.py NAME=DESCRIPTOR... -- COMMAND...",
        description="Start a command with listening sockets.",
    )
    parser.add_argument("sockets", nargs="*", metavar="NAME=DESCRIPTOR")
    split = arguments.index("--") if "--" in arguments else len(arguments)
    given, command = parser.parse_args(arguments[:split]), arguments[split + 1 :]
    if not command:
        parser.error("a command is missing")
    sockets = [argument.partition("=") for argument in given.sockets]
    # Out of the way first: one of them may be where another has to go.
    aside = [os.dup2(int(descriptor), 100 + n) for n, (_, _, descriptor) in enumerate(sockets)]
    os.closerange(3, 100)
    for place, descriptor in enumerate(aside, 3):
        os.dup2(descriptor, place)
        os.close(descriptor)
    os.environ["LISTEN_PID"] = str(os.getpid())
    os.environ["LISTEN_FDS"] = str(len(sockets))
    os.environ["LISTEN_FDNAMES"] = ":".join(name for name, _, _ in sockets)
    os.execv(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
