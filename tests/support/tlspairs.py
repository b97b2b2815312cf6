"""
TLS on both ends of a pair of sockets.
"""

import contextlib

from OpenSSL import SSL
from twisted.internet.interfaces import (
    IHandshakeListener,
)
from zope.interface import implementer

from echod.net.transport import EagerTransport
from echod.tls._openssl import RECORD_BYTES
from tests.support.certificates import make_certificate
from tests.support.clients import TLSClient, context as client_context
from tests.support.handshakes import CertificateInfo
from tests.support.pairs import HalfCloseable, PairTestCase, drained

SERVER = make_certificate()
CLIENT = make_certificate(("client",))


@implementer(IHandshakeListener)
class Secured(HalfCloseable):
    """
    A half-closeable protocol that counts completed handshakes.

    @ivar handshakes: how many.
    @ivar on_handshake: called after each.
    """

    def __init__(self, at_end=lambda transport: None, on_handshake=lambda transport: None):
        super().__init__(at_end)
        self.handshakes = 0
        self.on_handshake = on_handshake

    def handshakeCompleted(self):
        self.handshakes += 1
        self.on_handshake(self.transport)


class ScriptedTLS:
    """
    A fake of OpenSSL's connection, with answers from a script.

    @ivar script: for each method, what it does at its next calls: an error is raised, and
        all else returned.  After that, all goes well, and there is nothing to read.
    @ivar sent: what was sent.
    @ivar calls: the names of the methods called, in order.
    """

    def __init__(self, **script):
        self.script = script
        self.sent = b""
        self.calls = []

    def _next(self, name, otherwise):
        self.calls.append(name)
        answers = self.script.get(name)
        answer = answers.pop(0) if answers else otherwise
        if isinstance(answer, Exception):
            raise answer
        return answer

    def do_handshake(self):
        self._next("do_handshake", None)

    def recv(self):
        return self._next("recv", SSL.WantReadError())

    def send(self, data):
        size = self._next("send", len(data))
        self.sent += bytes(data[:size])
        return size

    def shutdown(self):
        return self._next("shutdown", False)


def finished(operation):
    """
    Whether a client's operation is done; if not, it waits for our side.
    """
    try:
        operation()
    except (SSL.WantReadError, SSL.WantWriteError):
        return False
    return True


class SecureTestCase(PairTestCase):
    """
    Makes TLS connections.
    """

    def factory(self):
        """
        The server's argument of C{startTLS}.
        """
        return CertificateInfo(SERVER)

    def start(
        self,
        protocol,
        version="TLS 1.3",
        factory=None,
        client=None,
        transport_class=EagerTransport,
        tcp=False,
    ):
        """
        Start TLS on both ends.

        @param client: the client's context.
        @return: the transport, the client, and the client's socket.
        """
        transport, peer = self.connect(protocol, transport_class, tcp)
        transport.startTLS(factory or self.factory())
        return transport, TLSClient(peer, client or client_context(version)), peer

    def shake(self, client):
        """
        Turn the reactor until both ends have completed the handshake.
        """
        self.reactor.until(lambda: finished(client.tls.do_handshake))
        for _ in range(5):
            self.reactor.turn(1)

    def secured(self, protocol, version="TLS 1.3", **more):
        """
        Start TLS and do the handshake.
        """
        transport, client, peer = self.start(protocol, version, **more)
        self.shake(client)
        return transport, client, peer

    def scripted(self, protocol, handshaken=True, **script):
        """
        Start TLS with a fake of OpenSSL, by default after the handshake.

        @return: the transport, the fake and the peer's socket.
        """
        transport, peer = self.connect(protocol)
        transport.startTLS(self.factory())
        tls = ScriptedTLS(**({} if handshaken else script))
        transport.__dict__.update(
            _tls=tls, _proceed=tls.do_handshake, _recv=tls.recv, _send=tls.send
        )
        if handshaken:
            transport.doRead()
            tls.script, tls.calls = script, []
        return transport, tls, peer

    def deliver(self, client, data, record=RECORD_BYTES):
        """
        Let a client send data at once, in records of a chosen size.
        """
        for start in range(0, len(data), record):
            self.assertEqual(
                client.tls.send(data[start : start + record]), len(data[start:][:record])
            )

    def receive(self, client, size):
        """
        Turn the reactor until a client has received this many bytes.
        """
        got = bytearray()

        def enough():
            while len(got) < size and (piece := client.receive(size - len(got))):
                got.extend(piece)
            return len(got) == size

        self.reactor.until(enough)
        return bytes(got)

    def received_now(self, client):
        """
        What a client can receive without a turn of the reactor.
        """
        got = b""
        while piece := client.receive():
            got += piece
        return got

    def fill(self, transport):
        """
        Fill the kernel's send buffer with bytes that OpenSSL does not know of.

        @return: how many.
        """
        size = 0
        for piece in (4096, 1):
            with contextlib.suppress(BlockingIOError):
                while True:
                    size += transport.socket.send(b"-" * piece)
        return size

    def blocked(self, protocol):
        """
        A connection with a full send buffer.

        @return: the transport, the client, and a function that reads all that the kernel holds.
        """
        transport, client, peer = self.secured(protocol)
        drained(peer)
        size = self.fill(transport)
        return transport, client, lambda: self.assertEqual(len(drained(peer, size)), size)
