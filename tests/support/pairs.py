"""
A transport of echod on one end of a connection, and a plain socket on the other.

Invariant: both ends are in one thread, so the test decides which of them acts.
"""

import socket
from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import (
    IAddress,
    IHalfCloseableProtocol,
    IPullProducer,
    IPushProducer,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from echod.net.transport import EagerTransport
from tests.support.fakes import DescriptorReactor

BIG = bytes(range(256)) * 4096
"""One MiB, far more than the kernel takes on a connection made by L{PairTestCase}."""


class Recorder(Protocol):
    """
    A protocol that records its calls.

    @ivar received: the data of each C{dataReceived}.
    @ivar lost: the reason of each C{connectionLost}.
    @ivar on_data: what to call after each piece.
    """

    def __init__(self, on_data: Callable[[], object] = lambda: None) -> None:
        self.received: list[bytes] = []
        self.lost: list[Failure] = []
        self.on_data = on_data

    @property
    def data(self) -> bytes:
        """
        All that has come.
        """
        return b"".join(self.received)

    def dataReceived(self, data: bytes) -> None:
        self.received.append(data)
        self.on_data()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost.append(reason)


@implementer(IHalfCloseableProtocol)
class HalfCloseable(Recorder):
    """
    The same, half-closeable.

    @ivar ended: how often C{readConnectionLost} was called.
    @ivar write_ended: how often C{writeConnectionLost} was called.
    @ivar at_end: called at C{readConnectionLost}.
    """

    def __init__(self, at_end: Callable[[Any], object] = lambda transport: None) -> None:
        super().__init__()
        self.ended = self.write_ended = 0
        self.at_end = at_end

    def readConnectionLost(self) -> None:
        self.ended += 1
        self.at_end(self.transport)

    def writeConnectionLost(self) -> None:
        self.write_ended += 1


class Echoing(HalfCloseable):
    """
    Sends back what it gets, and is its transport's producer.

    @ivar paused: how often it was paused.
    """

    def __init__(self) -> None:
        super().__init__(lambda transport: transport.loseConnection())
        self.paused = 0

    def dataReceived(self, data: bytes) -> None:
        super().dataReceived(data)
        self.transport.write(data)

    def pauseProducing(self) -> None:
        self.paused += 1
        self.transport.pauseProducing()

    def resumeProducing(self) -> None:
        self.transport.resumeProducing()

    def stopProducing(self) -> None:
        pass


class Relayed(Echoing):
    """
    The same, and does not need to see the bytes.

    @ivar relayed: how many bytes the transport has relayed, in order.
    @ivar on_relayed: called after each relay.
    """

    def __init__(self) -> None:
        super().__init__()
        self.relayed: list[int] = []
        self.on_relayed: Callable[[], object] = lambda: None

    def bytes_relayed(self, count: int) -> None:
        self.relayed.append(count)
        self.on_relayed()


@implementer(IPushProducer)
class Pusher:
    """
    A push producer that records its calls.

    @ivar told: C{"pause"}, C{"resume"} and C{"stop"}, in order.
    @ivar on_pause: what to call at each pause.
    """

    def __init__(self, on_pause: Callable[[], object] = lambda: None) -> None:
        self.told: list[str] = []
        self.on_pause = on_pause

    def pauseProducing(self) -> None:
        self.told.append("pause")
        self.on_pause()

    def resumeProducing(self) -> None:
        self.told.append("resume")

    def stopProducing(self) -> None:
        self.told.append("stop")


@implementer(IPullProducer)
class Puller:
    """
    A pull producer that writes a piece at each call, and unregisters after the last.
    """

    def __init__(self, transport: Any, pieces: list[bytes]) -> None:
        self.transport = transport
        self.pieces = pieces
        self.stopped = False

    def resumeProducing(self) -> None:
        if self.pieces:
            self.transport.write(self.pieces.pop(0))
        else:
            self.transport.unregisterProducer()

    def stopProducing(self) -> None:
        self.stopped = True


def tcp_pair(host: str = "127.0.0.1") -> tuple[socket.socket, socket.socket]:
    """
    The two ends of a TCP connection, the server's first.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as listening:
        client = socket.create_connection(listening.getsockname()[:2], timeout=60)
        return listening.accept()[0], client


def drained(sock: socket.socket, most: int = 1 << 20) -> bytes:
    """
    What can be read from a socket without waiting.
    """
    got = bytearray()
    patience = sock.gettimeout()
    sock.setblocking(False)
    try:
        while len(got) < most and (data := sock.recv(most - len(got))):
            got += data
    except BlockingIOError:
        pass
    finally:
        sock.settimeout(patience)
    return bytes(got)


class RecordingFactory(Factory):
    """
    A factory that keeps its protocols.

    @ivar protocols: the protocols.
    @ivar addresses: the addresses for which they were made.
    """

    noisy = False

    def __init__(self) -> None:
        self.protocols: list[Recorder] = []
        self.addresses: list[IAddress] = []

    def buildProtocol(self, address: IAddress) -> Recorder:  # type: ignore[override]
        self.addresses.append(address)
        self.protocols.append(Recorder())
        return self.protocols[-1]


class PairTestCase(SynchronousTestCase):
    """
    Makes connections, and closes them after the test.

    @ivar reactor: the transports' reactor.
    """

    def setUp(self) -> None:
        self.reactor = DescriptorReactor()

    def pair(self, tcp: bool = False) -> tuple[socket.socket, socket.socket]:
        """
        Two connected sockets, ours first.  Neither a read nor a write of the other's
        waits for more than 20 s.
        """
        if tcp:
            ours, peer = tcp_pair()
        else:
            ours, peer = socket.socketpair()
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32768)
        peer.settimeout(60)
        self.addCleanup(ours.close)
        self.addCleanup(peer.close)
        return ours, peer

    def connect(
        self,
        protocol: Protocol,
        transport_class: Any = EagerTransport,
        tcp: bool = False,
        client: Any = ("192.0.2.7", 40000),
    ) -> tuple[Any, socket.socket]:
        """
        Connect a protocol.

        @return: its transport, and the peer's socket.
        """
        ours, peer = self.pair(tcp)
        transport = transport_class(ours, protocol, client, None, 0, self.reactor)
        if not tcp:
            # As on UNIX transports: there are no acknowledgments to wait for.
            transport._isDelivered = lambda: True
        protocol.makeConnection(transport)
        return transport, peer

    def drain(self, peer: socket.socket, size: int) -> bytes:
        """
        Turn the reactor until a peer has received this many bytes.
        """
        got = bytearray()

        def enough() -> bool:
            got.extend(drained(peer, size - len(got)) if len(got) < size else b"")
            return len(got) == size

        self.reactor.until(enough)
        return bytes(got)

    def assert_lost(self, protocol: Recorder, *reasons: type[Exception]) -> None:
        """
        Assert that C{connectionLost} was called with these reasons.
        """
        self.assertEqual([failure.type for failure in protocol.lost], list(reasons))
