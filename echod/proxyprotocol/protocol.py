"""
The protocol that reads the PROXY header of a connection, and the policy that says which proxies
are trusted.

Invariant: no byte after the header is read, since that may be TLS, which reads from the socket
itself; and a header is accepted only from a proxy that the operator trusts.
"""

import typing
from collections.abc import Callable, Iterable
from typing import Any

from twisted.internet.interfaces import IAddress, IHalfCloseableProtocol
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from echod._util.sockets import unread
from echod._util.text import format_address, ip_of
from echod._util.values import Network
from echod.connections.admission import Networks
from echod.connections.connection import Reason, reason_from_failure
from echod.connections.tracker import Connections
from echod.proxyprotocol.parser import MAX_V2_BYTES, ProxyHeaderError, ProxyInfo, ProxyParser


class ProxyPolicy:
    """
    Which proxies are trusted, and whether a header is required.

    @ivar required: whether a connection without a header is refused.
    """

    def __init__(self, required: bool, networks: Iterable[Network], unix: bool = False):
        """
        @param networks: the networks of trusted proxies.
        @param unix: whether every client of a UNIX socket is a trusted proxy.
        """
        self.required = required
        self._networks = Networks(networks)
        self._unix = unix

    def trusts(self, address: IAddress) -> bool:
        """
        Whether a header from this address is accepted.
        """
        ip = ip_of(address)
        if ip is None:
            return self._unix and not hasattr(address, "host")
        return ip in self._networks


class IPeekTransport(typing.Protocol):
    """
    What L{ProxyHeaderProtocol} needs of its transport.

    @ivar protocol: the protocol that the transport reports to.
    """

    protocol: Any

    def startPeek(
        self, callback: Callable[[bytes], tuple[int, Callable[[], None] | None]], size: int
    ) -> None: ...
    def stopPeek(self) -> None: ...
    def abortConnection(self) -> None: ...
    def loseConnection(self) -> None: ...
    def getPeer(self) -> IAddress: ...
    def fileno(self) -> int: ...


class IProxiedFactory(typing.Protocol):
    """
    What L{ProxyHeaderProtocol} needs of its factory.

    @ivar listener: the listener's name.
    @ivar connections: the open connections.
    """

    listener: str
    connections: Connections

    def admit(self, header: "ProxyHeaderProtocol", first: bytes) -> Any:
        """
        Admit the client whose address is now known, or refuse it.

        @param header: the protocol that has read the header.
        @param first: the bytes that the client has sent and that were already received.
        @return: the protocol that takes over; C{None} if the client is refused.
        """


@implementer(IHalfCloseableProtocol)
class ProxyHeaderProtocol(Protocol):
    """
    The protocol of a proxied connection until its header has been read.

    @ivar ending: whether the connection is being closed.
    """

    factory: IProxiedFactory
    transport: IPeekTransport  # type: ignore[assignment]  # ITransport leaves most of it out

    bytes_echoed = 0
    paused = False
    ending = False
    waiting_for: Reason | None = Reason.PROXY_HEADER
    _reason: Reason | None = None
    _detail = ""

    def __init__(self, required: bool):
        """
        @param required: whether a connection without a header is refused.
        """
        self._required = required
        self._parser = ProxyParser()
        self._header = ProxyInfo()

    @property
    def client(self) -> IAddress:
        """
        The client's address: the header's, else the connection's.
        """
        return self._header.client or self.transport.getPeer()

    @property
    def listener(self) -> str:
        """
        The name of the listener that accepted this connection.
        """
        return self.factory.listener

    def connectionMade(self) -> None:
        self.factory.connections.add(self)
        self.transport.startPeek(self._peeked, MAX_V2_BYTES)

    def _peeked(self, data: bytes) -> tuple[int, Callable[[], None] | None]:
        try:
            size = self._parser.feed(data)
        except ProxyHeaderError as error:
            self._detail = str(error)
            return 0, self._refuse
        if self._parser.header is not None:
            self._header = self._parser.header
            return size, self._admit
        return size, None if size else self._without_header

    def _admit(self) -> None:
        self.factory.admit(self, b"")

    def _without_header(self) -> Any:
        """
        There is no header; the bytes that looked like the beginning of one are the client's.
        """
        if self._required:
            self._detail = self._detail or "there is none"
            return self._refuse()
        self._detail = ""
        return self.factory.admit(self, self._parser.taken)

    def _refuse(self) -> None:
        self.abort(Reason.PROXY_HEADER)

    def timed_out(self) -> None:
        """
        The header has not come in time.

        A connection on which nothing has come is the health check of a load balancer, or comes
        through one that sends the header together with the client's first bytes.  It is closed as
        idle, and not counted as refused.
        """
        if self._required and not self._parser.taken and not self.unread():
            self._reason = Reason.IDLE_TIMEOUT
            self._lose()
            return
        self._detail = "late"
        self._without_header()

    def readConnectionLost(self) -> None:
        """
        The proxy has closed its sending side before the end of a header.
        """
        if not self._parser.taken:
            self._lose()
        elif (protocol := self._without_header()) is not None:
            protocol.readConnectionLost()

    def _lose(self) -> None:
        self.ending = True
        self.transport.loseConnection()

    def writeConnectionLost(self) -> None:
        """
        This protocol never closes its sending side alone.
        """

    def close(self, reason: Reason) -> None:
        """
        End the connection; there is no echo to send.
        """
        self.abort(reason)

    def abort(self, reason: Reason | None = None) -> None:
        """
        End the connection at once, with a reset.
        """
        self.ending = True
        self._reason = reason or self._reason
        self.transport.abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.transport.stopPeek()
        self.factory.connections.remove(
            self, self._reason or reason_from_failure(reason), self._detail
        )

    def unread(self) -> int:
        """
        The number of bytes that the kernel has received and this protocol has not read.
        """
        return unread(self.transport.fileno())

    def pending(self) -> tuple[int, ...]:
        """
        Nothing is ever pending.
        """
        return (0,)

    def acknowledged(self) -> None:
        """
        Nothing is ever sent.
        """

    def end_if_delivered(self) -> bool:
        """
        Nothing is ever pending, so this protocol never waits for the client.
        """
        return False

    def peer(self) -> str:
        """
        The client's address as text.
        """
        return format_address(self.client)

    def log_fields(self) -> dict[str, str]:
        """
        The proxy's address, and the fields of the header.
        """
        if self._header.client is None:
            return self._header.log_fields
        return {"proxy": format_address(self.transport.getPeer()), **self._header.log_fields}
