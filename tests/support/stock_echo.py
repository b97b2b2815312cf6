"""
The echo server of Twisted's documentation on Twisted's default reactor:
C{stock_echo.py KIND [PEM]}.

It prints its free port.  On SIGUSR1 it makes the call that its kind is named after, such as
C{loseConnection}.
"""

import argparse
import signal
from typing import Any

from twisted.internet import reactor, ssl
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import Factory, Protocol
from twisted.protocols.policies import WrappingFactory
from twisted.protocols.wire import Echo
from zope.interface import implementer


class RememberedEcho(Echo):
    """
    An echo that its factory keeps in a list.
    """

    def connectionMade(self) -> None:
        self.factory.live.append(self)  # type: ignore[union-attr]


@implementer(IHalfCloseableProtocol)
class HalfCloseableEcho(Echo):
    """
    An echo that closes when the client has closed its sending side.
    """

    def readConnectionLost(self) -> None:
        self.transport.loseConnection()  # type: ignore[union-attr]

    def writeConnectionLost(self) -> None:
        pass


def serve(kind: str, pem: str | None) -> Any:
    """
    Listen.

    @return: what to do on C{SIGUSR1}.
    """
    half_closeable = kind in ("half-closeable", "wrapped")
    protocol: type[Protocol] = HalfCloseableEcho if half_closeable else RememberedEcho
    factory: Any = Factory.forProtocol(protocol)
    live = factory.live = []
    if kind == "wrapped":
        factory = WrappingFactory(factory)
    if pem is None:
        port = reactor.listenTCP(0, factory, interface="127.0.0.1")
    else:
        context = ssl.DefaultOpenSSLContextFactory(pem, pem, sslmethod=ssl.SSL.TLS_METHOD)
        port = reactor.listenSSL(0, factory, context, interface="127.0.0.1")
    print(f"listening on 127.0.0.1:{port.getHost().port}, --port 0", flush=True)

    def end() -> None:
        if kind == "stopListening":
            port.stopListening()
        else:
            for connection in live:
                getattr(connection.transport, kind)()

    return end


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Run an echo server until it is killed.")
    parser.add_argument("kind", help="echo, half-closeable, wrapped, or the call on SIGUSR1")
    parser.add_argument("pem", nargs="?", help="certificate and key, for TLS")
    given = parser.parse_args()
    end = serve(given.kind, given.pem)
    signal.signal(signal.SIGUSR1, lambda *_: reactor.callFromThread(end))
    reactor.run()
