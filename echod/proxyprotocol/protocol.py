"""
Clients behind a proxy: whom to believe, and the reading of the header that says who the
client is.

Invariant: the header is taken from the stream to the byte, since what
follows may be TLS, which reads from the socket itself; and it is believed from those only
whom the operator trusts.
"""

from collections.abc import Callable, Iterable
from typing import Any, Protocol as Interface

from twisted.internet.interfaces import IAddress, IHalfCloseableProtocol
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from echod._util.sockets import unread
from echod._util.text import format_address, ip_of
from echod.connections.admission import Network, Networks
from echod.connections.connection import Reason, reason_from_failure
from echod.connections.tracker import Connections
from echod.proxyprotocol.parser import V2_MOST_BYTES, InvalidProxyHeader, ProxyInfo, ProxyParser


class ProxyPolicy:
    """
    Whose header is believed, and whether there has to be one.

    @ivar required: whether a connection without a header is refused.
    """

    def __init__(self, required: bool, networks: Iterable[Network], unix: bool = False):
        """
        @param networks: the addresses of trusted proxies.
        @param unix: whether whoever connects to a UNIX socket is one.
        """
        self.required = required
        self._networks = Networks(networks)
        self._unix = unix

    def trusts(self, address: IAddress) -> bool:
        """
        Whether a header from there is believed.
        """
        ip = ip_of(address)
        if ip is None:
            return self._unix and not hasattr(address, "host")
        return ip in self._networks


class IPeekTransport(Interface):
    """
    What the reading of a header asks of a transport.

    @ivar protocol: who is told what happens on it.
    """

    protocol: Any

    def startPeek(
        self, look: Callable[[bytes], tuple[int, Callable[[], None] | None]], most: int
    ) -> None: ...
    def stopPeek(self) -> None: ...
    def abortConnection(self) -> None: ...
    def loseConnection(self) -> None: ...
    def getPeer(self) -> IAddress: ...
    def fileno(self) -> int: ...


class IProxiedFactory(Interface):
    """
    What follows the header.

    @ivar listener: the listener's name.
    @ivar connections: the live set.
    """

    listener: str
    connections: Connections

    def admit(self, behind: "ProxyHeaderProtocol", first: bytes) -> Any:
        """
        Let a client in whose address is known, or refuse it.

        @param first: what it has sent already.
        @return: the protocol that takes over, C{None} when it is refused.
        """


@implementer(IHalfCloseableProtocol)
class ProxyHeaderProtocol(Protocol):
    """
    A connection from a proxy, until the header has been read.

    @ivar client: the client's address.
    @ivar ending: whether the end has begun.
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
        The client's address.
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
        self.transport.startPeek(self._look, V2_MOST_BYTES)

    def _look(self, data: bytes) -> tuple[int, Callable[[], None] | None]:
        try:
            size = self._parser.feed(data)
        except InvalidProxyHeader as error:
            self._detail = str(error)
            return 0, self._refuse
        if self._parser.header is not None:
            self._header = self._parser.header
            return size, self._go_on
        return size, None if size else self._without_header

    def _go_on(self) -> None:
        self.factory.admit(self, b"")

    def _without_header(self) -> Any:
        """
        There is no header; what looked like the beginning of one is the client's.
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
        The header has not come in time.  A connection on which nothing has come is a load
        balancer's health check, or a client of one that sends the header with the client's first
        bytes: it ends, and is no refusal.
        """
        if self._required and not self._parser.taken and not self.unread():
            self._reason = Reason.IDLE_TIMEOUT
            self._leave()
            return
        self._detail = "late"
        self._without_header()

    def readConnectionLost(self) -> None:
        """
        The other side has sent all it will, and there was no header in it.
        """
        if not self._parser.taken:
            self._leave()
        elif (protocol := self._without_header()) is not None:
            protocol.readConnectionLost()

    def _leave(self) -> None:
        self.ending = True
        self.transport.loseConnection()

    def writeConnectionLost(self) -> None:
        """
        Nothing is ever written here.
        """

    def close(self, reason: Reason) -> None:
        """
        End; there is nothing that is owed.
        """
        self.abort(reason)

    def abort(self, reason: Reason | None = None) -> None:
        """
        End at once, with a reset.
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
        Bytes that the kernel has received and we have not.
        """
        return unread(self.transport.fileno())

    def pending(self) -> tuple[int, ...]:
        """
        Nothing is.
        """
        return (0,)

    def peer(self) -> str:
        """
        The client's address in words, as far as it is known.
        """
        return format_address(self.client)

    def log_fields(self) -> dict[str, str]:
        """
        What the header told, and whose it was.
        """
        if self._header.client is None:
            return self._header.log_fields
        return {"proxy": format_address(self.transport.getPeer()), **self._header.log_fields}
