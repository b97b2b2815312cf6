"""
Daemons that inherit listening sockets, as from a socket unit of systemd.
"""

import socket
import sys

from tests.support import socketactivate
from tests.support.daemons import REACTOR, Daemon


class ActivatedDaemon(Daemon):
    """
    A daemon that is given listening sockets.
    """

    def __init__(self, sockets: dict[str, list[socket.socket]], *options: str):
        """
        @param sockets: those that it is given, by name.
        """
        super().__init__(*options, reactor=REACTOR)
        given = [(name, each.fileno()) for name, several in sockets.items() for each in several]
        self.pass_fds = tuple(descriptor for _, descriptor in given)
        self._expected = len(given)
        names = [f"{name}={descriptor}" for name, descriptor in given]
        self._command = (sys.executable, socketactivate.__file__, *names, "--", *self._command)
