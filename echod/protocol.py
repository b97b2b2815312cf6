"""
The echo: L{Echo}, the protocol of one connection, and L{EchoFactory}, which makes an L{Echo} for
each connection that a listener accepts.

Invariant: between C{dataReceived} and C{write} there is one addition and nothing else.  All other
methods of L{Echo} are about the end of the connection: the client closes it, or the daemon does,
and neither loses a byte.
"""

import typing
from collections.abc import Callable

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

from echod._util.sockets import bytes_acknowledged, outq, unread
from echod._util.text import escape, format_address, format_host_port
from echod.connections.admission import Admission
from echod.connections.connection import CLIENT, Reason, reason_from_failure
from echod.net.interfaces import IEchoTransport
from echod.net.reject import RejectProtocol
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

NO_HOST: tuple[typing.Any, ...] = (None, None)
"""Stands for the C{client} of a transport that has no such attribute."""


@implementer(IHalfCloseableProtocol, IHandshakeListener, IPushProducer)
class Echo(Protocol):
    """
    The connection of one client.  It sends back what the client sends.

    It is also the producer of its own transport: if the client does not read its echo, the
    transport calls C{pauseProducing}, reading stops, the client's TCP window closes, and the
    client waits.

    @ivar bytes_echoed: bytes received and handed to the transport.
    @ivar paused: whether reading has stopped because the transport's buffer is full.
    @ivar ending: whether the end has begun; data that arrives now is discarded.
    @ivar waiting_for: C{Reason.HANDSHAKE} until the TLS handshake is complete.
    @ivar header: the protocol that has read the PROXY header, C{None} without a header.
    """

    factory: "EchoFactory"
    transport: IEchoTransport  # type: ignore[assignment]  # ITransport leaves most of it out

    bytes_echoed = 0
    paused = False
    ending = False
    waiting_for: Reason | None = None
    header: ProxyHeaderProtocol | None = None
    _reason: Reason | None = None
    _detail = ""

    def connectionMade(self) -> None:
        factory = self.factory
        # The connection is counted first, so that its end is logged whatever fails after this.
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

    def dataReceived(self, data: bytes) -> None:
        if self.ending:
            return
        self.bytes_echoed += len(data)
        self.transport.write(data)

    def bytes_relayed(self, count: int) -> None:
        """
        The transport has received and sent back so many bytes by itself.  Since this method
        exists, the transport may do so when data comes in bulk.
        """
        self.bytes_echoed += count

    def pauseProducing(self) -> None:
        self.paused = True
        self.transport.pauseProducing()

    def resumeProducing(self) -> None:
        self.paused = False
        self.transport.resumeProducing()

    def stopProducing(self) -> None:
        """
        Do nothing: the connection is lost, and C{connectionLost} follows.
        """

    def readConnectionLost(self) -> None:
        """
        The client has closed its sending side: send the rest of its echo, then close.  The
        transport closes when the client has acknowledged all.

        The producer is unregistered first: with a registered producer, C{loseConnection} never
        closes (Twisted #4719).
        """
        if not self.ending:
            self._begin_end(CLIENT)
        self.transport.loseConnection()

    def writeConnectionLost(self) -> None:
        """
        Do nothing: L{close} has closed our sending side, and the client's close is still to come.
        """

    def close(self, reason: Reason) -> None:
        """
        End the connection politely: send the rest of the echo, half-close, then read and discard
        until the client closes.  L{Connections<echod.connections.tracker.Connections>} limits how
        long that may take.
        """
        if self.ending:
            return
        if self.waiting_for is not None:
            # Before the end of the handshake there is no echo to send.
            self.abort(reason)
            return
        self._begin_end(reason)
        self.transport.resumeProducing()
        if hasattr(type(self.transport), "loseWriteConnection"):
            self.transport.loseWriteConnection()
        else:
            # The TLS layer of an ssl: endpoint passes methods that it does not have on to the
            # connection below, which would send a FIN without a close_notify.
            self.transport.loseConnection()

    def abort(self, reason: Reason | None = None) -> None:
        """
        End the connection at once, with a reset.  The rest of the echo is lost.

        @param reason: C{None} keeps the reason of the polite end that has begun.
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
        if self.waiting_for is not None and why is Reason.HANDSHAKE:
            handshakes = factory.connections.totals.handshakes
            handle = self.transport.getHandle()
            known = handle is not None and is_complete(handle)
            handshakes["failed", version(handle) if known else ""] += 1
        if factory.admission.counts_clients:
            factory.admission.release(self.client)

    def _end_reason(self, failure: Failure) -> Reason:
        reason = reason_from_failure(failure)
        if reason is CLIENT and self.waiting_for is None:
            return self._reason or reason
        client_ended = reason is not Reason.ERROR and self._reason in (None, Reason.CLIENT)
        if client_ended and self.waiting_for is not None and self._handshake_begun():
            # Without a byte of it, it is a health check that only connects, and no failure.
            self._detail = "the client went away"
            return self.waiting_for
        if reason is Reason.CLIENT:
            return self._reason or reason
        if reason is Reason.ERROR:
            secure = self.waiting_for is not None or ISSLTransport.providedBy(self.transport)
            handle = self.transport.getHandle() if secure else None
            self._detail = escape(failure_text(handle, failure.value))
            return self.waiting_for or reason
        # A client that resets the connection before it has read its echo has caused the end
        # itself, even if it had closed its sending side before.
        return reason if self._reason in (None, Reason.CLIENT) else self._reason

    def _handshake_begun(self) -> bool:
        # Transports that are not ours tell only whether the whole ClientHello has come.
        transport = self.transport
        begun: bool = getattr(transport, "handshakeBegun", False)
        return begun or has_said_hello(transport.getHandle())

    def handshakeCompleted(self) -> None:
        """
        The TLS handshake is complete.  Nothing that the client sent after it has been read yet.
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
        The TLS handshake took longer than C{--handshake-timeout}: abort the connection.
        """
        self._detail = "late"
        self.abort(Reason.HANDSHAKE)

    @property
    def client(self) -> IAddress:
        """
        The client's address: from the PROXY header if there was one, else the peer's.
        """
        return self.header.client if self.header else self.transport.getPeer()

    @property
    def listener(self) -> str:
        """
        The name of the listener that accepted this connection.
        """
        return self.factory.listener

    def unread(self) -> int:
        """
        The bytes that the kernel has received from the client and the daemon has not read.
        """
        return unread(self.transport.fileno())

    def pending(self) -> tuple[int, ...]:
        """
        What the client has not acknowledged: in the kernel, and in the transport.
        """
        return outq(self.transport.fileno()), queued(self.transport)

    def acknowledged(self) -> int | None:
        """
        How many bytes the client's kernel has acknowledged, if ours tells that.
        """
        # Of an ssl: endpoint, the TLS layer has the socket of the transport below.
        sock = getattr(self.transport, "socket", None)
        return None if sock is None else bytes_acknowledged(sock)

    def end_if_delivered(self) -> bool:
        """
        After the client's FIN, a transport of ours waits until the client has acknowledged all.
        On reactors that do not tell it of that, it has to look from time to time.

        @return: whether the connection has ended.
        """
        look = getattr(self.transport, "endIfDelivered", None)
        return look is not None and look()

    def peer(self) -> str:
        """
        The client's address, as text.
        """
        if self.header is None and self.factory.outermost:
            # Twisted's transports have the host and the port already; on a UNIX socket, no port.
            host, port, *_ = getattr(self.transport, "client", NO_HOST)
            if port is not None:
                return format_host_port(host, port)
        return format_address(self.client)

    def log_fields(self) -> dict[str, str]:
        """
        The fields of the access record that come from the PROXY header and from TLS.
        """
        fields = self.header.log_fields() if self.header else {}
        if self.factory.outermost and self.factory.tls is None:
            return fields
        if ISSLTransport.providedBy(self.transport):
            fields = fields | session_fields(self.transport.getHandle())
        return fields


class EchoFactory(Factory):
    """
    Makes an L{Echo} for each connection that one listener accepts, or refuses the connection.

    @ivar listener: the listener's name, for logs and metrics.
    @ivar admission: decides which clients may connect.
    @ivar connections: the live connections of all listeners.
    @ivar tls: starts TLS on each connection; C{None} for plain TCP.
    @ivar proxies: which peers may send a PROXY header; C{None} to read no header.
    @ivar outermost: whether the port calls this factory directly, with no layer between them.
    @ivar protocol: makes the L{Echo} of an admitted client.
    """

    noisy = False
    outermost = False
    protocol: Callable[[], Echo] = Echo  # type: ignore[assignment]  # Twisted's may be None

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
        self._reads_addresses = proxies is not None or admission.needs_ip

    def listening(self, bare: bool) -> None:
        """
        The port listens now.

        @param bare: whether the port calls this factory directly.
        @raise ValueError: if it does not, and TLS or PROXY headers need the socket itself.
        """
        self.outermost = bare
        if self.proxies and not bare:
            raise ValueError("this endpoint's own layer stands before a PROXY header")
        if self.tls and not bare:
            raise ValueError("this endpoint's own layer stands before TLS")

    def build_lazily(self, address: Callable[[], IAddress]) -> Protocol | None:
        """
        Do what C{buildProtocol} does; our ports call this in its place.

        @param address: makes the client's address, which most connections never need.
        """
        if self._reads_addresses or self.admission.is_full():
            return self.buildProtocol(address())
        protocol = self.protocol()
        protocol.factory = self
        return protocol

    def buildProtocol(self, addr: IAddress) -> Protocol | None:  # type: ignore[override]  # never None
        """
        Admit a connection, or refuse it before anything is read from it.
        """
        proxies = self.proxies if self.proxies and self.proxies.trusts(addr) else None
        reason = self._refusal(addr, proxies is not None)
        protocol: Echo | ProxyHeaderProtocol | RejectProtocol
        if reason is None:
            protocol = ProxyHeaderProtocol(proxies.required) if proxies else self.protocol()
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
            # The limits for each client apply to the address in the header, in C{admit}.
            return None
        if self.proxies is not None and self.proxies.required:
            return Reason.PROXY_HEADER
        return self.admission.refusal(address)

    def admit(self, behind: ProxyHeaderProtocol, first: bytes) -> Echo | None:
        """
        Admit a client whose address a PROXY header has given, or refuse it.

        @param behind: the protocol that has read the header.
        @param first: the data that the client has already sent after the header.
        @return: the protocol that takes over, C{None} if the client is refused.
        """
        transport = behind.transport
        transport.stopPeek()
        reason = self.admission.refusal(behind.client)
        if reason is None and first and self.tls is not None:
            # These bytes begin as a PROXY header does, which no TLS record does.
            reason = Reason.HANDSHAKE
        if reason is not None:
            behind.abort(reason)
            return None
        echo = self.protocol()
        echo.factory, echo.header = self, behind
        transport.protocol = echo
        echo.makeConnection(transport)
        if first:
            echo.dataReceived(first)
        return echo
