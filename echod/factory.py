"""
Who gets a protocol, and which.

The rule of this room: nobody is let in who has not been admitted, and who is refused is
refused before anything is read, or TLS begins.
"""

from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory, Protocol

from echod._util.sockets import address_text
from echod.connections.admission import Admission
from echod.connections.connection import Reason
from echod.protocol import Echo
from echod.proxyprotocol.protocol import ProxyHeader, ProxyPolicy
from echod.surroundings import StreamTransport
from echod.tls.context import ServerContext


class Refused(Protocol):
    """
    A client that is not let in, where a layer between us and the connection takes
    nothing less than a protocol for it (Twisted #6640).
    """

    transport: StreamTransport  # type: ignore[assignment]  # ITransport leaves most of it out

    def connectionMade(self) -> None:
        self.transport.abortConnection()


class EchoFactory(Factory):
    """
    Makes an L{Echo} for each connection that one listener accepts, or refuses it.

    It is the L{Listener<echod.surroundings.Listener>} of its connections.

    @ivar proxies: whose PROXY headers are believed, C{None} to read none.
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

    def buildProtocol(self, addr: IAddress) -> Protocol | None:  # type: ignore[override]  # never None
        """
        Let a connection in, or refuse it before anything is read.
        """
        proxies = self.proxies if self.proxies and self.proxies.trusts(addr) else None
        reason = self._refusal(addr, proxies is not None)
        protocol: Echo | ProxyHeader | Refused
        if reason is None:
            protocol = ProxyHeader(proxies.required) if proxies else Echo()
        else:
            self.connections.refusals.add(self.listener, reason, address_text(addr))
            if self.outermost:
                return None
            protocol = Refused()
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

    def let_in(self, behind: ProxyHeader, first: bytes) -> Echo | None:
        """
        Let a client in whose address is known, now that its proxy has named it, or
        refuse it.

        @param first: what it has sent already.
        """
        transport = behind.transport
        transport.endInspection()
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
