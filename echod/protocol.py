"""
The echo: its protocol, and the factory that makes one for each connection.

Invariant: between C{dataReceived} and C{write} stands one addition and nothing else.  All the rest
of L{Echo} is about ends: the client's, ours, and how no byte is lost at either.
"""

from typing import Any, Protocol as Interface

from twisted.internet.interfaces import (
    IAddress,
    IHalfCloseableProtocol,
    IHandshakeListener,
    IPushProducer,
    ISSLTransport,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from echod._util.sockets import outq, unread
from echod._util.text import escape, format_address
from echod.connections.admission import Admission
from echod.connections.connection import Reason, reason_from_failure
from echod.connections.tracker import Connections
from echod.net.transport import queued
from echod.proxyprotocol.protocol import ProxyHeaderProtocol, ProxyPolicy
from echod.tls.context import ServerContext
from echod.tls.info import (
    client_certificate_expired,
    failure_text,
    has_said_hello,
    is_complete,
    session_fields,
    version,
)


class IEchoTransport(Interface):
    """
    What L{Echo} asks of its transport: Twisted's C{ITCPTransport}, C{IConsumer} and
    C{IPushProducer}, and the descriptor.
    """

    def write(self, data: bytes) -> None: ...
    def registerProducer(self, producer: IPushProducer, streaming: bool) -> None: ...
    def unregisterProducer(self) -> None: ...
    def pauseProducing(self) -> None: ...
    def resumeProducing(self) -> None: ...
    def loseConnection(self) -> None: ...
    def loseWriteConnection(self) -> None: ...
    def abortConnection(self) -> None: ...
    def stopPeek(self) -> None: ...
    def getPeer(self) -> IAddress: ...
    def fileno(self) -> int: ...
    def getHandle(self) -> Any: ...
    def startTLS(self, ctx: ServerContext) -> None: ...


class IListenerInfo(Interface):
    """
    What all connections of one listener share; their factory.

    @ivar listener: the listener's name, for logs and totals.
    @ivar admission: who may come in.
    @ivar connections: where each connection reports its birth and its end.
    @ivar tls: what TLS starts with on each connection, C{None} for plain TCP.
    @ivar outermost: whether the port asks the factory itself, with no layer between.
    """

    listener: str
    admission: Admission
    connections: Connections
    tls: ServerContext | None
    outermost: bool


@implementer(IHalfCloseableProtocol, IHandshakeListener, IPushProducer)
class Echo(Protocol):
    """
    One client's connection: what it sends is sent back.

    It is also the producer of its own transport: when the client does not take what
    it is sent, the transport asks for a pause, reading stops, the client's TCP window
    closes, and it is the client who waits.

    @ivar bytes_echoed: bytes received and handed to the transport.
    @ivar paused: whether the transport holds so much that reading has stopped.
    @ivar ending: whether the end has begun; what arrives now is discarded.
    @ivar waiting_for: C{Reason.HANDSHAKE} until the TLS handshake is over.
    @ivar header: what has read the PROXY header, if there was one.
    """

    factory: IListenerInfo
    transport: IEchoTransport  # type: ignore[assignment]  # ITransport leaves most of it out

    bytes_echoed = 0
    paused = False
    ending = False
    waiting_for: Reason | None = None
    header: ProxyHeaderProtocol | None = None
    _reason: Reason | None = None
    _detail = ""

    @property
    def client(self) -> IAddress:
        """
        The client's address.
        """
        return self.header.client if self.header else self.transport.getPeer()

    @property
    def listener(self) -> str:
        """
        The name of the listener that accepted this connection.
        """
        return self.factory.listener

    def connectionMade(self) -> None:
        factory = self.factory
        # First of all, so that whatever fails from here on, its end is told.
        if self.header is None:
            factory.connections.add(self)
        else:
            factory.connections.replace(self.header, self)
        if factory.admission.counts_clients:
            factory.admission.acquire(self.client)
        if factory.tls is not None:
            self.transport.startTLS(factory.tls)
        if factory.tls is not None or (
            not factory.outermost and ISSLTransport.providedBy(self.transport)
        ):
            self.waiting_for = Reason.HANDSHAKE
        self.transport.registerProducer(self, True)

    def handshakeCompleted(self) -> None:
        """
        TLS has been agreed upon; nothing that the client sent has been read yet.
        """
        if client_certificate_expired(self.transport.getHandle()):
            self._detail = "resumed after the end of the client's certificate"
            self.abort(Reason.HANDSHAKE)
        else:
            self.waiting_for = None
            handshakes = self.factory.connections.totals.handshakes
            handshakes["ok", version(self.transport.getHandle())] += 1

    def timed_out(self) -> None:
        """
        The TLS handshake has not come to its end in time.
        """
        self._detail = "late"
        self.abort(Reason.HANDSHAKE)

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
        Our side is closed, as L{close} asked; the client's close is what remains.
        """

    def close(self, reason: Reason) -> None:
        """
        End politely: send what is owed, close our side, then read and discard until
        the client has closed its own.  L{Connections} sets the bound on that.
        """
        if self.ending:
            return
        if self.waiting_for is not None:
            # Nothing is owed before TLS, and there is nobody to say goodbye to.
            self.abort(reason)
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
        factory = self.factory
        why = self._end_reason(reason)
        if not factory.connections.remove(self, why, self._detail):
            return
        if why is Reason.HANDSHAKE:
            handshakes = factory.connections.totals.handshakes
            handle = self.transport.getHandle()
            known = handle is not None and is_complete(handle)
            handshakes["failed", version(handle) if known else ""] += 1
        if factory.admission.counts_clients:
            factory.admission.release(self.client)

    def _end_reason(self, failure: Failure) -> Reason:
        reason = reason_from_failure(failure)
        went = reason is not Reason.ERROR and self._reason in (None, Reason.CLIENT)
        if went and self.waiting_for is not None and has_said_hello(self.transport.getHandle()):
            # Who says nothing only looks whether the port takes connections.
            self._detail = "the client went away"
            return self.waiting_for
        if reason is Reason.CLIENT:
            return self._reason or reason
        if reason is Reason.ERROR:
            secure = self.waiting_for is not None or ISSLTransport.providedBy(self.transport)
            handle = self.transport.getHandle() if secure else None
            self._detail = escape(failure_text(handle, failure.value))
            return self.waiting_for or reason
        # A client that breaks the connection while it is owed something did that
        # itself, even if it had closed its sending side before.
        return reason if self._reason in (None, Reason.CLIENT) else self._reason

    def unread(self) -> int:
        """
        Bytes that the kernel has received from the client and we have not.
        """
        return unread(self.transport.fileno())

    def pending(self) -> tuple[int, ...]:
        """
        What the client has not taken yet: bytes in the kernel, and in the transport.
        """
        return outq(self.transport.fileno()), queued(self.transport)

    def peer(self) -> str:
        """
        The client's address in words.
        """
        return format_address(self.client)

    def log_fields(self) -> dict[str, str]:
        """
        What the PROXY header told, if there was one, and what TLS has agreed on.
        """
        facts = self.header.log_fields() if self.header else {}
        if ISSLTransport.providedBy(self.transport):
            facts = facts | session_fields(self.transport.getHandle())
        return facts


class RejectProtocol(Protocol):
    """
    A client that is not let in, where a layer between us and the connection takes
    nothing less than a protocol for it (Twisted #6640).
    """

    transport: IEchoTransport  # type: ignore[assignment]  # ITransport leaves most of it out

    def connectionMade(self) -> None:
        self.transport.abortConnection()


class EchoFactory(Factory):
    """
    Makes an L{Echo} for each connection that one listener accepts, or refuses it.

    It is the L{IListenerInfo<echod.protocol.IListenerInfo>} of its connections.

    @ivar proxies: whose PROXY headers are believed, C{None} to read none.
    @ivar outermost: whether the port asks this factory itself, with no layer between.
    """

    noisy = False
    outermost = False

    def __init__(
        self,
        listener: str,
        admission: Admission,
        tls: ServerContext | None = None,
        proxies: ProxyPolicy | None = None,
    ):
        self.listener = listener
        self.admission = admission
        self.connections = admission.connections
        self.tls = tls
        self.proxies = proxies

    def listening(self, bare: bool) -> None:
        """
        The port is there; with TLS or PROXY headers, the socket itself is needed.
        """
        self.outermost = bare
        if self.proxies and not bare:
            raise ValueError("this endpoint's own layer stands before a PROXY header")
        if self.tls and not bare:
            raise ValueError("this endpoint's own layer stands before TLS")

    def buildProtocol(self, addr: IAddress) -> Protocol | None:  # type: ignore[override]  # never None
        """
        Let a connection in, or refuse it before anything is read.
        """
        proxies = self.proxies if self.proxies and self.proxies.trusts(addr) else None
        reason = self._refusal(addr, proxies is not None)
        protocol: Echo | ProxyHeaderProtocol | RejectProtocol
        if reason is None:
            protocol = ProxyHeaderProtocol(proxies.required) if proxies else Echo()
        else:
            self.connections.refusals.add(self.listener, reason, format_address(addr))
            if self.outermost:
                return None
            protocol = RejectProtocol()
        protocol.factory = self
        return protocol

    def _refusal(self, address: IAddress, proxied: bool) -> Reason | None:
        if self.admission.is_full():
            return Reason.MAX_CONNECTIONS
        if proxied:
            # Not the proxy is the client.
            return None
        if self.proxies is not None and self.proxies.required:
            return Reason.PROXY_HEADER
        return self.admission.refusal(address)

    def admit(self, behind: ProxyHeaderProtocol, first: bytes) -> Echo | None:
        """
        Let a client in whose address is known, now that its proxy has named it, or
        refuse it.

        @param first: what it has sent already.
        """
        transport = behind.transport
        transport.stopPeek()
        reason = self.admission.refusal(behind.client)
        if reason is None and first and self.tls is not None:
            # No TLS record begins like a PROXY header.
            reason = Reason.HANDSHAKE
        if reason is not None:
            behind.abort(reason)
            return None
        echo = Echo()
        echo.factory, echo.header = self, behind
        transport.protocol = echo
        echo.makeConnection(transport)
        if first:
            echo.dataReceived(first)
        return echo
