"""
Stand-ins for a listening port and the reactor that makes them.

The rule of this room: each keeps the order in which it was used, and does nothing by itself.
"""

import os
import socket
from collections.abc import Callable

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IListeningPort, IReadDescriptor
from twisted.internet.testing import MemoryReactorClock
from zope.interface import implementer


@implementer(IListeningPort)
class FakePort:
    """
    A port that listens on nothing.

    @ivar socket: a socket, for its options.
    @ivar closing: what L{stopListening} answers.
    @ivar stopped: whether it has been told to stop.
    """

    closing: "Deferred[None] | None" = None
    stopped = False

    def __init__(self, sock: socket.socket, factory: object = None):
        self.socket = sock
        self.factory = factory

    def startListening(self) -> None: ...

    def stopListening(self) -> "Deferred[None] | None":
        self.stopped = True
        return self.closing

    def getHost(self) -> IPv4Address:
        return IPv4Address("TCP", "192.0.2.1", 9000)


@implementer(IReadDescriptor)
class AcceptingPort(FakePort):
    """
    A port on a listening socket, which accepts a client at each turn.

    @ivar done: what happened, in order: how many bytes each client had sent, then C{"closed"}.
    @ivar broken: whether it fails to accept, as when there is no descriptor left.
    """

    broken = False

    def __init__(self, sock: socket.socket, clock: MemoryReactorClock):
        super().__init__(sock)
        self.done: list[object] = []
        self.turns = 0
        self._clock = clock

    def fileno(self) -> int:
        return self.socket.fileno()

    def connectionLost(self, reason: object) -> None: ...

    def logPrefix(self) -> str:
        return "-"

    def doRead(self) -> None:
        self.turns += 1
        if not self.broken:
            client, _ = self.socket.accept()
            with client:
                self.done.append(len(client.recv(100)))

    def stopListening(self) -> "Deferred[None]":
        # As Twisted's does: the port closes one turn later.
        closing: Deferred[None] = Deferred()
        closing.addCallback(lambda _: self.done.append("closed"))
        self._clock.callLater(0, closing.callback, None)
        return closing


class PortReactor(MemoryReactorClock):
    """
    A reactor whose ports have a socket, and which has not begun to run.

    @ivar ports: the ports, in the order in which they were made.
    """

    def __init__(self) -> None:
        super().__init__()
        self.ports: list[FakePort] = []

    def adoptStreamPort(self, fileno: int, addressFamily: int, factory: object) -> FakePort:
        super().adoptStreamPort(fileno, addressFamily, factory)
        return self._port(socket.socket(fileno=os.dup(fileno)), factory)

    def listenTCP(
        self, port: int, factory: object, backlog: int = 50, interface: str = ""
    ) -> FakePort:
        super().listenTCP(port, factory, backlog, interface)
        return self._port(socket.socket(), factory)

    def listenUNIX(
        self, address: str, factory: object, backlog: int = 50, mode: int = 0o666, wantPID: int = 0
    ) -> FakePort:
        super().listenUNIX(address, factory, backlog, mode, wantPID)
        return self._port(socket.socket(socket.AF_UNIX), factory)

    def callFromThread(self, callable: Callable[..., object], *args: object) -> None:
        self.callLater(0, callable, *args)

    def _port(self, sock: socket.socket, factory: object) -> FakePort:
        self.ports.append(FakePort(sock, factory))
        return self.ports[-1]

    def close(self) -> None:
        """
        Close the sockets of all ports.
        """
        for port in self.ports:
            port.socket.close()
