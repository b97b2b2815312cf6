"""
Fakes of a listening port, of the reactor that makes it, and of a connection.

Invariant: a fake records its calls in order, and does nothing by itself.
"""

import os
import select
import socket
import time
from collections.abc import Callable
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IListeningPort, IReactorFDSet, IReadDescriptor
from twisted.internet.posixbase import _DisconnectSelectableMixin
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock, StringTransport
from zope.interface import implementer

from echod._util.access import AccessRecord
from echod._util.text import format_address
from echod.connections.connection import IConnection, Reason
from echod.connections.tracker import Connections


class FakeConnection(IConnection):
    """
    A connection that records how it was asked to end.

    @ivar asked: these calls, in order, each with its reason.
    @ivar in_kernel: what L{unread} answers.
    @ivar not_taken: what L{pending} answers.
    @ivar acked: what L{acknowledged} answers.
    @ivar delivered: what L{end_if_delivered} answers.
    @ivar known: what L{log_fields} answers.
    """

    bytes_echoed = 0
    paused = False
    ending = False
    waiting_for: Reason | None = None
    heard = True
    acked: int | None = None
    delivered = False
    listener = "tcp"
    client: IAddress = IPv4Address("TCP", "192.0.2.7", 40000)

    def __init__(self, connections: Connections | None = None, dies_at_once: bool = False):
        self.asked: list[tuple[str, Reason | None]] = []
        self.in_kernel = 0
        self.not_taken: tuple[int, ...] = (0, 0)
        self.known: dict[str, str] = {}
        self._connections = connections
        self._dies_at_once = dies_at_once
        if connections is not None:
            connections.add(self)

    def unread(self) -> int:
        return self.in_kernel

    def pending(self) -> tuple[int, ...]:
        return self.not_taken

    def acknowledged(self) -> int | None:
        return self.acked

    def end_if_delivered(self) -> bool:
        return self.delivered

    def peer(self) -> str:
        return format_address(self.client)

    def log_fields(self) -> dict[str, str]:
        return self.known

    def timed_out(self) -> None:
        self._end("overdue", self.waiting_for)

    def close(self, reason: Reason) -> None:
        self._end("finish", reason)

    def abort(self, reason: Reason | None = None) -> None:
        self._end("abort", reason)

    def _end(self, how: str, reason: Reason | None) -> None:
        self.ending = True
        self.asked.append((how, reason))
        if self._dies_at_once and self._connections is not None:
            self._connections.remove(self, reason or Reason.CLIENT)


class EventAccessLog:
    """
    An access log that leaves every record to be emitted as an event, and wants each.
    """

    def wants(self, probe: bool) -> bool:
        return True

    def write(self, record: AccessRecord) -> bool:
        return False


class SocketTransport(StringTransport):
    """
    A transport that keeps what is written to it, and has a real socket to read from.

    @ivar client: the other end of the socket.
    @ivar last: what L{readLast} was asked.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.client, self._socket = socket.socketpair()
        self.last: list[bool] = []

    def readLast(self, always: bool) -> None:
        self.last.append(always)

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        """
        Close both ends.
        """
        self.client.close()
        self._socket.close()


@implementer(IListeningPort)
class FakePort:
    """
    A port without a listening socket.

    @ivar socket: a socket, for its options.
    @ivar closing: what L{stopListening} answers.
    @ivar stopped: whether it has been told to stop.
    @ivar reading: whether it accepts.
    """

    closing: "Deferred[None] | None" = None
    stopped = False
    reading = True

    def __init__(self, sock: socket.socket, factory: object = None):
        self.socket = sock
        self.factory = factory

    def startListening(self) -> None: ...

    def stopListening(self) -> "Deferred[None] | None":
        self.stopped = True
        return self.closing

    def getHost(self) -> IPv4Address:
        return IPv4Address("TCP", "192.0.2.1", 9000)

    def fileno(self) -> int:
        return self.socket.fileno()

    def stopReading(self) -> None:
        self.reading = False


@implementer(IReadDescriptor)
class AcceptingPort(FakePort):
    """
    A port on a real listening socket, which accepts one client each turn.

    @ivar done: what happened, in order: how many bytes each client had sent, then C{"closed"}.
    @ivar calls: how often C{doRead} was called.
    @ivar broken: whether it fails to accept, as when there is no descriptor left.
    @ivar on_accept: called after each client.
    """

    broken = False
    on_accept: Callable[[], object] = staticmethod(lambda: None)

    def __init__(self, sock: socket.socket, clock: MemoryReactorClock):
        super().__init__(sock)
        self.done: list[object] = []
        self.calls = 0
        self._clock = clock

    def fileno(self) -> int:
        return self.socket.fileno()

    def connectionLost(self, reason: object) -> None: ...

    def logPrefix(self) -> str:
        return "-"

    def doRead(self) -> None:
        self.calls += 1
        if not self.broken:
            client, _ = self.socket.accept()
            with client:
                self.done.append(len(client.recv(100)))
            self.on_accept()

    def stopListening(self) -> "Deferred[None]":
        # As Twisted's does: the port closes one turn later.
        closing: Deferred[None] = Deferred()
        closing.addCallback(lambda _: self.done.append("closed"))
        self._clock.callLater(0, closing.callback, None)
        return closing


class PortReactor(MemoryReactorClock):
    """
    A reactor whose ports have a real socket; it does not run.

    @ivar ports: the ports, in the order in which they were made.
    @ivar stop_signals: those that have stopped it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.ports: list[FakePort] = []
        self.stop_signals: list[int] = []

    def sigTerm(self, number: int, frame: object = None) -> None:
        self.stop_signals.append(number)

    sigInt = sigTerm

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


@implementer(IReactorFDSet)
class DescriptorReactor(Clock, _DisconnectSelectableMixin):
    """
    A reactor that polls real descriptors, but only in L{turn}.

    @ivar readers: descriptors that wait to read.
    @ivar writers: descriptors that wait to write.
    """

    def __init__(self) -> None:
        super().__init__()
        self.readers: list[Any] = []
        self.writers: list[Any] = []

    def addReader(self, reader: Any) -> None:
        if reader not in self.readers:
            self.readers.append(reader)

    def addWriter(self, writer: Any) -> None:
        if writer not in self.writers:
            self.writers.append(writer)

    def removeReader(self, reader: Any) -> None:
        if reader in self.readers:
            self.readers.remove(reader)

    def removeWriter(self, writer: Any) -> None:
        if writer in self.writers:
            self.writers.remove(writer)

    def getReaders(self) -> list[Any]:
        return list(self.readers)

    def getWriters(self) -> list[Any]:
        return list(self.writers)

    def removeAll(self) -> list[Any]:
        both = self.readers + [each for each in self.writers if each not in self.readers]
        self.readers, self.writers = [], []
        return both

    def turn(self, milliseconds: int = 0) -> None:
        """
        Make the delayed calls that are due, then call C{doRead} and C{doWrite} of all that are
        ready.

        @param milliseconds: how long to wait for one that is ready.
        """
        self.advance(0)
        poller = select.poll()
        for each in {*self.readers, *self.writers}:
            reads = select.POLLIN if each in self.readers else 0
            poller.register(each, reads | (select.POLLOUT if each in self.writers else 0))
        ready = dict(poller.poll(milliseconds))
        broken = select.POLLHUP | select.POLLERR
        for waiting, event, act in (
            (self.readers, select.POLLIN, "doRead"),
            (self.writers, select.POLLOUT, "doWrite"),
        ):
            for each in list(waiting):
                if each in waiting and ready.get(each.fileno(), 0) & (event | broken):
                    why = getattr(each, act)()
                    if why:
                        self._disconnectSelectable(each, why, act == "doRead")

    def until(self, condition: Callable[[], object], seconds: float = 60) -> None:
        """
        Turn until a condition holds.
        """
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                raise AssertionError("what was waited for has not happened")
            self.turn(1)
