"""
A server's handshake in bounded steps, on sockets but without the reactor's loop.
"""

import socket
import struct

from OpenSSL import SSL
from twisted.internet.error import ConnectionLost

from echod._util.sockets import unread
from echod.net import tls
from echod.net.handshake import MAX_HANDSHAKE_RECORDS, MAX_HELLO_BYTES, MAX_HELLO_RECORDS
from echod.tls._openssl import HandshakeMemory, reason_text
from tests.support.clienthellos import hello, records, vector
from tests.support.clients import VERSIONS, context as client_context
from tests.support.pairs import drained
from tests.support.tlspairs import Secured, SecureTestCase, finished
from tests.support.tlsrecords import CLIENT_HELLO
from tests.support.tlswire import WireClient

TURN_BYTES = len(HandshakeMemory.input)


class ServerHandshakeTestCase(SecureTestCase):
    """
    Sends what a client may send in its handshake.
    """

    def answer(self, *sent, factory=None):
        """
        Begin a handshake, send, and run turns until all is received or it has failed.

        @return: the server's answer, and why the handshake failed, if it did.
        """
        self.protocol = protocol = Secured()
        transport, _, peer = self.start(protocol, factory=factory)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        for data in sent:
            peer.sendall(data)
            while left := unread(transport.fileno()):
                self.reactor.turn()
                if protocol.lost:
                    break
                received = left - unread(transport.fileno())
                self.assertTrue(0 < received <= TURN_BYTES, received)
        why = reason_text(protocol.lost[0].value) if protocol.lost else ""
        try:
            return drained(peer), why
        except ConnectionResetError:
            # It had more to say when it was refused.
            return b"", why


class LimitTests(ServerHandshakeTestCase):
    """
    How much a client may send.
    """

    def test_ordinary(self):
        """
        A ClientHello of up to 16 KiB, in up to 16 records, is answered, and each turn receives a
        bounded part of it.
        """
        for size in (0, 2000, 15_000, MAX_HELLO_BYTES - 10):
            message = hello(size)
            for number in (1, MAX_HELLO_RECORDS):
                sent = records(message, -(-len(message) // number))
                if len(sent) > MAX_HELLO_BYTES:
                    continue
                answer, why = self.answer(sent)
                self.assertEqual((answer[:1], answer[5:6], why), (b"\x16", b"\2", ""))

    def test_pieces(self):
        """
        The same holds byte by byte.
        """
        message = records(hello(300), 30)
        answer, why = self.answer(*(message[offset : offset + 1] for offset in range(len(message))))
        self.assertEqual((answer[5:6], why), (b"\2", ""))

    def test_begun(self):
        """
        A handshake has begun with its first byte, TLS or not, and not before; afterwards it is no
        longer one.
        """
        for data in (b"x", b"\x16\3\1", records(hello())):
            protocol = Secured()
            transport, peer = self.connect(protocol)
            transport.startTLS(self.factory())
            self.assertIs(transport.handshakeBegun, False)
            transport.doRead()
            self.assertIs(transport.handshakeBegun, False)
            peer.send(data)
            transport.doRead()
            self.assertIs(transport.handshakeBegun, True)
            transport._handshaking = False
            self.assertIs(transport.handshakeBegun, False)

    def test_large_hello(self):
        """
        A ClientHello of more than 16 KiB is refused before all of it is received.
        """
        for size in (17_000, 20_000, 65_000):
            for size_limit in (4000, 16384):
                why = self.answer(records(hello(size), size_limit))[1]
                self.assertRegex(why, "a ClientHello (of more than 16 KiB|in more than 16 records)")
        self.assertEqual(why, "a ClientHello of more than 16 KiB")

    def test_many_records(self):
        """
        A ClientHello in more than 16 records is refused, however short it is, also if each record
        has one byte.
        """
        for message, size_limit in ((hello(300), 17), (hello(15_000), 800), (hello(15_000), 1)):
            answer, why = self.answer(records(message, size_limit))
            self.assertEqual((answer, why), (b"", "a ClientHello in more than 16 records"))

    def test_many_records_later(self):
        """
        After our first answer the number of records is limited too.
        """
        key = b"\x10" + vector(3, bytes(1500))
        why = self.answer(records(hello()), records(key, 1))[1]
        self.assertEqual(why, f"a handshake in more than {MAX_HANDSHAKE_RECORDS} records")

    def test_large_later(self):
        """
        After our first answer the size is limited too, as with a long chain of certificates.
        """
        factory = self.factory()
        factory.getContext().set_verify(SSL.VERIFY_PEER, lambda *_: True)
        chain = b"\x0b" + vector(3, vector(3, bytes(90_000)))
        why = self.answer(records(hello()), records(chain), factory=factory)[1]
        self.assertEqual(why, "a handshake of more than 64 KiB")

    def test_not_tls(self):
        """
        Bytes that are not TLS fail with OpenSSL's error and alert, whatever length their record
        seems to have.
        """
        for rubbish in (b"GET / HTTP/1.0\r\n\r\n", bytes(5000), b"\xff" * 5000, b"SSH-2.0-x\r\n"):
            answer, why = self.answer(rubbish)
            self.assertNotIn("ClientHello", why)
            self.assertEqual(answer[:1], b"\x15" if answer else b"")

    def test_renegotiation_in_the_middle(self):
        """
        A second ClientHello right after the first fails the handshake.
        """
        answer, why = self.answer(records(hello()), records(CLIENT_HELLO))
        self.assertEqual(why, "unexpected message")
        self.assertEqual(answer[-7:-4], b"\x15\3\3")


class EndTests(ServerHandshakeTestCase):
    """
    Data after the last message, and other ends.
    """

    def test_data_after(self):
        """
        Data in one segment with the client's last message is delivered, whether its records are
        complete or not.
        """
        for version in VERSIONS:
            for size_limit in (1, 3000, 16384):
                for cut in (0, 1, 4):
                    protocol = Secured()
                    transport, peer = self.connect(protocol)
                    transport.startTLS(self.factory())
                    peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
                    client = WireClient(peer, client_context(version))
                    peer.sendall(client.flight())
                    self.reactor.turn()
                    client.tls.bio_write(drained(peer))
                    last = client.flight()
                    if version == "TLS 1.2":
                        # It has to answer our Finished first.
                        peer.sendall(last)
                        self.reactor.turn()
                        client.tls.bio_write(drained(peer))
                        last = client.flight()
                    data = bytes(range(200)) * 30
                    pieces = [data[at : at + size_limit] for at in range(0, len(data), size_limit)]
                    sent = last + b"".join(map(client.record, pieces))
                    peer.sendall(sent[: len(sent) - cut])
                    self.reactor.turn()
                    peer.sendall(sent[len(sent) - cut :])
                    self.reactor.until(lambda got=protocol, all_of=data: got.data == all_of)
                    self.assertEqual(protocol.handshakes, 1)

    def test_blocked(self):
        """
        An answer that does not fit into the send buffer is sent as soon as it fits, the last one
        too.
        """
        for version in VERSIONS:
            protocol = Secured()
            transport, client, peer = self.start(protocol, version)
            for _ in ("our answer", "our last message"):
                finished(client.tls.do_handshake)
                filled = self.fill(transport)
                for _ in range(3):
                    self.reactor.turn()
                self.assertEqual((self.reactor.writers, protocol.handshakes), ([transport], 0))
                self.assertEqual(len(drained(peer, filled)), filled)
                self.reactor.turn()
            self.shake(client)
            self.assertEqual(protocol.handshakes, 1)
            self.deliver(client, b"hello")
            self.reactor.turn()
            self.assertEqual(protocol.received, [b"hello"])

    def test_reset(self):
        """
        A reset during the handshake is a lost connection.
        """
        protocol = Secured()
        _, _, peer = self.start(protocol, tcp=True)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.close()
        self.reactor.until(lambda: protocol.lost)
        self.assert_lost(protocol, ConnectionLost)

    def test_gone_before_the_answer(self):
        """
        If the client is gone when we answer, the connection is lost; if it is gone when we send an
        alert, the handshake has failed.
        """
        for sent, reason in ((records(hello()), ConnectionLost), (b"GET / HTTP/1.0", SSL.Error)):
            protocol = Secured()
            _, _, peer = self.start(protocol)
            peer.sendall(sent)
            peer.close()
            self.reactor.turn()
            self.assert_lost(protocol, reason)

    def test_other_version(self):
        """
        With a pyOpenSSL that cannot attach a socket, OpenSSL does the handshake on the socket.
        """
        self.patch(tls, "memory_of", lambda tls: None)
        for version in VERSIONS:
            protocol = Secured()
            _, client, _ = self.secured(protocol, version)
            self.deliver(client, b"hello")
            self.reactor.turn()
            self.assertEqual((protocol.handshakes, protocol.received), (1, [b"hello"]))
