"""
A stand-in for systemd: the socket that a service tells it things on.

Invariant: it takes what it is told and says nothing, as systemd does.
"""

import contextlib
import os
import socket
from collections.abc import Iterator


class ServiceManager:
    """
    Where C{NOTIFY_SOCKET} leads.

    @ivar messages: what has been taken, in order, each a list of assignments.
    """

    def __init__(self, path: str = ""):
        """
        @param path: where the socket shall be; none for an abstract name (unix(7)) that
            is nobody else's.
        """
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(path)
        self._socket.setblocking(False)
        self.messages: list[list[str]] = []

    @property
    def address(self) -> str:
        """
        The value of C{NOTIFY_SOCKET}.
        """
        return os.fsdecode(self._socket.getsockname()).replace("\0", "@")

    @property
    def environment(self) -> dict[str, str]:
        """
        What it gives to a service that it starts.
        """
        return {"NOTIFY_SOCKET": self.address}

    def take(self) -> list[list[str]]:
        """
        Take what has come since the last time.
        """
        taken = []
        while True:
            try:
                taken.append(self._socket.recv(65536).decode().split("\n"))
            except BlockingIOError:
                self.messages += taken
                return taken

    def told(self) -> list[str]:
        """
        All the assignments that have come so far.
        """
        self.take()
        return [assignment for message in self.messages for assignment in message]

    def fill(self) -> int:
        """
        Send to it until it can take no more, from anybody.

        @return: how many messages it holds.
        """
        number = 0
        with contextlib.ExitStack() as senders:
            while True:
                # How much one may have under way is bounded as well (SO_SNDBUF): it takes
                # one that has nothing under way to find out.
                sender = senders.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
                sender.setblocking(False)
                sender.connect(self._socket.getsockname())
                before = number
                try:
                    while True:
                        sender.send(b"X=1")
                        number += 1
                except BlockingIOError:
                    if number == before:
                        return number

    def close(self) -> None:
        self._socket.close()


@contextlib.contextmanager
def service_manager(path: str = "") -> Iterator[ServiceManager]:
    """
    A service manager for the length of a C{with} block.
    """
    manager = ServiceManager(path)
    try:
        yield manager
    finally:
        manager.close()
