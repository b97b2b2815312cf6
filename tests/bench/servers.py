"""
Echo servers for comparison with echod, each as in its documentation:
C{python -m tests.bench.servers KIND [CERT_AND_KEY]}.  The first
line of standard output is the port.
"""

import argparse
import asyncio
import ssl


def twisted_wire(pem: str | None) -> None:
    """
    Twisted's own echo protocol on its default reactor.
    """
    from twisted.internet import reactor, ssl as twisted_ssl
    from twisted.internet.protocol import Factory
    from twisted.protocols.wire import Echo

    factory = Factory.forProtocol(Echo)
    factory.noisy = False
    if pem is None:
        port = reactor.listenTCP(0, factory, backlog=4096)
    else:
        context = twisted_ssl.DefaultOpenSSLContextFactory(
            pem, pem, sslmethod=twisted_ssl.SSL.TLS_METHOD
        )
        port = reactor.listenSSL(0, factory, context, backlog=4096)
    print(port.getHost().port, flush=True)
    reactor.run()


class AsyncioEcho(asyncio.Protocol):
    """
    The echo of Python's own documentation.
    """

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)  # type: ignore[attr-defined]


async def _serve(pem: str | None) -> None:
    context = None
    if pem is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pem)
    server = await asyncio.get_running_loop().create_server(
        AsyncioEcho, "127.0.0.1", 0, ssl=context, backlog=4096
    )
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def asyncio_protocol(pem: str | None) -> None:
    """
    An asyncio Protocol on asyncio's own loop.
    """
    asyncio.run(_serve(pem))


def uvloop_protocol(pem: str | None) -> None:
    """
    The same Protocol on uvloop.
    """
    import uvloop

    uvloop.run(_serve(pem))


KINDS = {"twisted": twisted_wire, "asyncio": asyncio_protocol, "uvloop": uvloop_protocol}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.servers",
        description="Run an echo server on a free port, which it prints, until it is killed.",
    )
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("pem", nargs="?", help="certificate and key, for TLS")
    given = parser.parse_args()
    KINDS[given.kind](given.pem)
