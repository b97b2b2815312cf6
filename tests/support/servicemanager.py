"""
A fake of systemd's notification socket (sd_notify(3)).

Invariant: it receives and never answers, as systemd.
"""

import contextlib
import os
import socket
from collections.abc import Iterator


class ServiceManager:
    """
    The receiver of C{NOTIFY_SOCKET}.

    @ivar messages: all messages, in order, each a list of assignments.
    """

    def __init__(self, path: str = ""):
        """
        @param path: the path of the socket; empty for a new abstract name (unix(7)).
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
        The environment of a service that it starts.
        """
        return {"NOTIFY_SOCKET": self.address}

    def take(self) -> list[list[str]]:
        """
        Receive what has arrived since the last call.
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
        All assignments so far.
        """
        self.take()
        return [assignment for message in self.messages for assignment in message]

    def fill(self) -> int:
        """
        Send to it until its queue is full.

        @return: how many messages it holds.
        """
        number = 0
        with contextlib.ExitStack() as senders:
            while True:
                # SO_SNDBUF limits each sender as well, so the queue is full only when a new
                # sender cannot send.
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
