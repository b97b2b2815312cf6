"""
Starting TLS on both ends of a pair of sockets, for the tests of the TLS half.
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
from tests.support.handshakes import CertificateInfo
from tests.support.pairs import HalfCloseable, PairTestCase, drained
from tests.support.tlsclient import TLSClient, context as client_context

SERVER = make_certificate()
CLIENT = make_certificate(("client",))


@implementer(IHandshakeListener)
class Secured(HalfCloseable):
    """
    A half-closeable protocol that is told when the handshake is done.

    @ivar handshakes: how often it was told.
    @ivar on_handshake: what to call then.
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
    What OpenSSL's connection is for a transport, with answers from a script.

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
    Whether a client's operation is done, where it may have to wait for us.
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
        What a server starts TLS with.
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
        Start TLS on both ends; what comes next is up to the test.

        @param client: the client's context.
        @return: the transport, the client, and the client's socket.
        """
        transport, peer = self.connect(protocol, transport_class, tcp)
        transport.startTLS(factory or self.factory())
        return transport, TLSClient(peer, client or client_context(version)), peer

    def shake(self, client):
        """
        Turn until the handshake is done, on both ends.
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
        Start TLS with a stand-in for OpenSSL, by default past the handshake.

        @return: the transport, the stand-in and the peer's socket.
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
        Let a client send data, in records of a chosen size, all in one go.
        """
        for start in range(0, len(data), record):
            self.assertEqual(
                client.tls.send(data[start : start + record]), len(data[start:][:record])
            )

    def receive(self, client, size):
        """
        Turn until a client has so many bytes.
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
        What a client has already, without a turn of ours.
        """
        got = b""
        while piece := client.receive():
            got += piece
        return got

    def fill(self, transport):
        """
        Fill what the kernel takes with rubbish, behind OpenSSL's back.

        @return: how much that was.
        """
        size = 0
        for piece in (4096, 1):
            with contextlib.suppress(BlockingIOError):
                while True:
                    size += transport.socket.send(b"-" * piece)
        return size

    def blocked(self, protocol):
        """
        A connection on which the kernel takes nothing.

        @return: the transport, the client, and what takes all that the kernel holds.
        """
        transport, client, peer = self.secured(protocol)
        drained(peer)
        size = self.fill(transport)
        return transport, client, lambda: self.assertEqual(len(drained(peer, size)), size)
