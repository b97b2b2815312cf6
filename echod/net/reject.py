"""
The protocol of a connection that is refused after it was accepted.

Invariant: such a connection is aborted as soon as it is made.
"""

from twisted.internet.protocol import Protocol

from echod.net.interfaces import IEchoTransport


class RejectProtocol(Protocol):
    """
    Aborts a refused connection.  A layer between the port and the factory, such as that of an
    C{ssl:} endpoint, cannot handle a C{buildProtocol} that returns C{None} (Twisted #6640).
    """

    transport: IEchoTransport  # type: ignore[assignment]  # ITransport leaves most of it out

    def connectionMade(self) -> None:
        self.transport.abortConnection()
