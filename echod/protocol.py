"""
The echo itself.

The rule of this room: between C{dataReceived} and C{write} stands one addition and
nothing else.  All the rest of L{Echo} is about ends: the client's, ours, and how no
byte is lost at either.
"""

from typing import Protocol as Interface

from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import (
    IAddress,
    IHalfCloseableProtocol,
    IPushProducer,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from echod.connection import Reason
from echod.connections import Connections
from echod.sockets import address_text, unread, unsent
from echod.tls import ServerContext, start_tls


class StreamTransport(Interface):
    """
    What L{Echo} asks of its transport: Twisted's C{ITCPTransport}, C{IConsumer} and
    C{IPushProducer}, the descriptor, and the buffer that every such transport has.
    """

    dataBuffer: bytes
    offset: int

    def write(self, data: bytes) -> None: ...
    def registerProducer(self, producer: IPushProducer, streaming: bool) -> None: ...
    def unregisterProducer(self) -> None: ...
    def pauseProducing(self) -> None: ...
    def resumeProducing(self) -> None: ...
    def loseConnection(self) -> None: ...
    def loseWriteConnection(self) -> None: ...
    def abortConnection(self) -> None: ...
    def getPeer(self) -> IAddress: ...
    def fileno(self) -> int: ...


@implementer(IHalfCloseableProtocol, IPushProducer)
class Echo(Protocol):
    """
    One client's connection: what it sends is sent back.

    It is also the producer of its own transport: when the client does not take what
    it is sent, the transport asks for a pause, reading stops, the client's TCP window
    closes, and it is the client who waits.

    @ivar bytes_echoed: bytes received and handed to the transport.
    @ivar paused: whether the transport holds so much that reading has stopped.
    @ivar ending: whether the end has begun; what arrives now is discarded.
    """

    factory: "EchoFactory"
    transport: StreamTransport  # type: ignore[assignment]  # ITransport leaves most of it out

    bytes_echoed = 0
    paused = False
    ending = False
    _reason: Reason | None = None

    @property
    def listener(self) -> str:
        """
        The name of the listener that accepted this connection.
        """
        return self.factory.listener

    def connectionMade(self) -> None:
        if self.factory.tls is not None:
            start_tls(self.transport, self.factory.tls)
        self.transport.registerProducer(self, True)
        self.factory.connections.add(self)

    def dataReceived(self, data: bytes) -> None:
        if self.ending:
            return
        self.bytes_echoed += len(data)
        self.transport.write(data)

    def pauseProducing(self) -> None:
        self.paused = True
        self.transport.pauseProducing()

    def resumeProducing(self) -> None:
        self.paused = False
        self.transport.resumeProducing()

    def stopProducing(self) -> None:
        """
        The transport is gone, and tells its producer; C{connectionLost} says the rest.
        """

    def readConnectionLost(self) -> None:
        """
        The client has sent all it will send: send it what it is owed, then close.

        A registered producer would hold the close back for ever (Twisted #4719).
        """
        if not self.ending:
            self._begin_end(Reason.CLIENT)
        self.transport.loseConnection()

    def writeConnectionLost(self) -> None:
        """
        Our side is closed, as L{finish} asked; the client's close is what remains.
        """

    def finish(self, reason: Reason) -> None:
        """
        End politely: send what is owed, close our side, then read and discard until
        the client has closed its own.  L{Connections} sets the bound on that.
        """
        if self.ending:
            return
        self._begin_end(reason)
        self.transport.resumeProducing()
        if hasattr(type(self.transport), "loseWriteConnection"):
            self.transport.loseWriteConnection()
        else:
            # A layer such as that of ssl: hands what it does not know to the connection
            # below, and that would send a FIN without a close_notify.
            self.transport.loseConnection()

    def abort(self, reason: Reason | None = None) -> None:
        """
        End at once, with a reset; what is owed is lost, and the reason says why.
        Without one, the reason that a polite end began with stands.
        """
        self.ending = True
        self._reason = reason or self._reason
        self.transport.abortConnection()

    def _begin_end(self, reason: Reason) -> None:
        self.ending = True
        self._reason = reason
        self.transport.unregisterProducer()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.factory.connections.remove(self, self._end_reason(reason))

    def _end_reason(self, failure: Failure) -> Reason:
        kind = failure.type or Exception
        if issubclass(kind, ConnectionDone | ConnectionAborted):
            return self._reason or Reason.CLIENT
        if not issubclass(kind, ConnectionLost):
            return Reason.ERROR
        # A client that breaks the connection while it is owed something did that
        # itself, even if it had closed its sending side before.
        return Reason.RESET if self._reason in (None, Reason.CLIENT) else self._reason

    def unread(self) -> int:
        """
        Bytes that the kernel has received from the client and we have not.
        """
        return unread(self.transport.fileno())

    def owed(self) -> tuple[int, ...]:
        """
        What the client has not taken yet: bytes in the kernel, and the length of and
        the place in the transport's own buffer.  Any change means that it takes.
        """
        transport = self.transport
        return unsent(transport.fileno()), len(transport.dataBuffer), transport.offset

    def peer(self) -> str:
        """
        The client's address in words.
        """
        return address_text(self.transport.getPeer())


class EchoFactory(Factory):
    """
    Makes an L{Echo} for each connection that one listener accepts.

    @ivar listener: the listener's name, for logs and totals.
    @ivar connections: where each connection reports its birth and its end.
    @ivar tls: what TLS starts with on each connection, C{None} for plain TCP.
    """

    protocol = Echo  # type: ignore[assignment]  # a class is the callable that is asked for
    noisy = False

    def __init__(
        self,
        listener: str,
        connections: Connections,
        tls: ServerContext | None = None,
    ):
        self.listener = listener
        self.connections = connections
        self.tls = tls
