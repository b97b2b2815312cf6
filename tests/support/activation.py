"""
Daemons that inherit listening sockets, as a socket unit of systemd passes them.
"""

import socket
import sys

from tests.support import socketactivate
from tests.support.daemons import REACTOR, Daemon


class ActivatedDaemon(Daemon):
    """
    A daemon that inherits listening sockets.
    """

    def __init__(self, sockets: dict[str, list[socket.socket]], *options: str):
        """
        @param sockets: the sockets that it inherits, by name (C{LISTEN_FDNAMES}).
        """
        super().__init__(*options, reactor=REACTOR)
        given = [(name, each.fileno()) for name, several in sockets.items() for each in several]
        self.pass_fds = tuple(descriptor for _, descriptor in given)
        self._expected = len(given)
        names = [f"{name}={descriptor}" for name, descriptor in given]
        self._command = (sys.executable, socketactivate.__file__, *names, "--", *self._command)
