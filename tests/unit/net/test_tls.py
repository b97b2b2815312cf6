"""
TLS on the transport's own socket, against OpenSSL at the other end. A stand-in does on request what
OpenSSL does once in a thousand connections.
"""

import socket

from OpenSSL import SSL
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import (
    IConsumer,
    IHalfCloseableDescriptor,
    INegotiated,
    IPushProducer,
    ISSLTransport,
    ISystemHandle,
    ITLSTransport,
    IUNIXTransport,
)
from twisted.python.failure import Failure
from zope.interface.verify import verifyObject

from echod._util.sockets import unread
from echod.net.tls import MAX_RECORDS
from echod.net.unix import EagerUNIXTransport
from echod.tls._openssl import RECORD_BYTES
from tests.support.clients import VERSIONS, TLSClient, context as client_context
from tests.support.pairs import BIG, Puller, Pusher, Recorder, drained
from tests.support.tlspairs import CLIENT, Secured, SecureTestCase, finished
from tests.support.tlsrecords import (
    ALERT,
    CLIENT_HELLO,
    DATA,
    HANDSHAKE,
    OldSealer,
    Sealer,
    keep_secrets,
)


class InterfaceTests(SecureTestCase):
    """
    What a transport with TLS provides.
    """

    def test_interfaces(self):
        """
        It provides the interfaces of a TCP transport, and those for TLS.
        """
        for version in VERSIONS:
            transport, _, _ = self.secured(Secured(), version, tcp=True)
            for interface in (
                ITLSTransport,
                ISSLTransport,
                INegotiated,
                ISystemHandle,
                IConsumer,
                IPushProducer,
                IHalfCloseableDescriptor,
            ):
                verifyObject(interface, transport)

    def test_unix_interfaces(self):
        """
        The same holds on a UNIX socket.
        """
        protocol = Secured()
        transport, client, _ = self.start(protocol, transport_class=EagerUNIXTransport)
        for interface in (IUNIXTransport, ISSLTransport, INegotiated):
            verifyObject(interface, transport)
        self.shake(client)
        self.deliver(client, b"hello")
        self.reactor.turn()
        transport.write(b"and back")
        self.assertEqual(protocol.received, [b"hello"])
        self.assertEqual(self.received_now(client), b"and back")

    def test_handle(self):
        """
        Its handle is OpenSSL's connection.
        """
        transport, _, _ = self.secured(Secured())
        self.assertIsInstance(transport.getHandle(), SSL.Connection)
        self.assertIn(transport.getHandle().get_protocol_version_name(), "TLSv1.3")

    def test_peer_certificate(self):
        """
        The client's certificate is known if it has sent one.
        """
        transport, _, _ = self.secured(Secured())
        self.assertIsNone(transport.getPeerCertificate())
        factory, client = self.factory(), client_context("TLS 1.3")
        factory.getContext().set_verify(SSL.VERIFY_PEER, lambda *_: True)
        client.use_certificate(CLIENT.certificate)
        client.use_privatekey(CLIENT.key)
        transport, _, _ = self.secured(Secured(), factory=factory, client=client)
        shown = transport.getPeerCertificate().to_cryptography()
        self.assertEqual(shown, CLIENT.certificate)

    def test_negotiated_protocol(self):
        """
        The protocol that ALPN chose is known if it chose one.
        """
        transport, _, _ = self.secured(Secured())
        self.assertIsNone(transport.negotiatedProtocol)
        factory, client = self.factory(), client_context("TLS 1.3")
        factory.getContext().set_alpn_select_callback(lambda _, offered: offered[-1])
        client.set_alpn_protos([b"other", b"echo"])
        transport, _, _ = self.secured(Secured(), factory=factory, client=client)
        self.assertEqual(transport.negotiatedProtocol, b"echo")


class HandshakeTests(SecureTestCase):
    """
    The handshake.
    """

    def test_completed_once(self):
        """
        C{handshakeCompleted} is called once, with every version, and data goes both ways after it.
        """
        for version in VERSIONS:
            protocol = Secured()
            transport, client, _ = self.start(protocol, version)
            self.assertEqual(protocol.handshakes, 0)
            self.shake(client)
            self.assertEqual(protocol.handshakes, 1)
            self.deliver(client, b"hello")
            self.reactor.turn()
            self.assertEqual(protocol.received, [b"hello"])
            transport.write(b"and back")
            self.assertEqual(self.received_now(client), b"and back")
            self.assertEqual(protocol.handshakes, 1)
            self.assertEqual(self.reactor.writers, [])

    def test_no_listener(self):
        """
        A protocol without C{handshakeCompleted} gets its data all the same.
        """
        protocol = Recorder()
        _, client, _ = self.secured(protocol)
        self.deliver(client, b"hello")
        self.reactor.turn()
        self.assertEqual(protocol.received, [b"hello"])

    def test_data_with_the_handshake(self):
        """
        Data that comes with the client's last message is delivered.
        """
        protocol = Secured()
        _, client, _ = self.start(protocol)
        self.reactor.until(lambda: finished(client.tls.do_handshake))
        self.deliver(client, b"hello")
        self.reactor.turn()
        self.assertEqual(protocol.received, [b"hello"])

    def test_write_before(self):
        """
        What is written before the end of the handshake is queued, and sent encrypted, in order.
        """
        protocol = Secured(on_handshake=lambda transport: transport.write(b"third"))
        transport, client, peer = self.start(protocol)
        transport.write(b"first")
        transport.writeSequence([b"sec", b"ond"])
        self.reactor.turn()
        self.assertEqual(drained(peer), b"")
        self.shake(client)
        self.assertEqual(self.receive(client, 16), b"firstsecondthird")

    def test_after_plain_text(self):
        """
        TLS may start on a connection that has been in plain text.
        """

        def agree():
            protocol.on_data = lambda: None
            protocol.transport.write(b"go on")
            protocol.transport.startTLS(factory)

        factory, protocol = self.factory(), Recorder(agree)
        _, peer = self.connect(protocol)
        peer.send(b"STARTTLS")
        self.reactor.turn()
        self.assertEqual(drained(peer), b"go on")
        client = TLSClient(peer, client_context("TLS 1.3"))
        self.shake(client)
        self.deliver(client, b"hello")
        self.reactor.turn()
        self.assertEqual(protocol.received, [b"STARTTLS", b"hello"])

    def test_plain_text_queued(self):
        """
        TLS does not start while plain text is queued, since that would be sent encrypted.
        """
        protocol = Recorder()
        transport, peer = self.connect(protocol)
        transport.write(BIG)
        factory = self.factory()
        self.assertRaises(RuntimeError, transport.startTLS, factory)
        self.assertEqual(self.drain(peer, len(BIG)), BIG)
        self.reactor.turn()
        transport.startTLS(factory)
        self.shake(TLSClient(peer, client_context("TLS 1.3")))

    def test_as_client(self):
        """
        The side that accepted the connection may be the TLS client.
        """
        protocol = Secured()
        transport, peer = self.connect(protocol)

        class ClientFactory:
            def getContext(self):
                return client_context("TLS 1.3")

        transport.startTLS(ClientFactory(), False)
        server = TLSClient(peer, self.factory().getContext())
        server.tls.set_accept_state()
        self.reactor.until(lambda: finished(server.tls.do_handshake), seconds=5)
        self.reactor.turn()
        self.assertEqual(protocol.handshakes, 1)

    def test_not_tls(self):
        """
        A client that does not speak TLS gets an alert, and the end is OpenSSL's error.
        """
        protocol = Secured()
        _, _, peer = self.start(protocol)
        peer.send(b"GET / HTTP/1.0\r\n\r\n")
        self.reactor.until(lambda: protocol.lost)
        self.assert_lost(protocol, SSL.Error)
        self.assertEqual((protocol.handshakes, protocol.ended), (0, 0))

    def test_no_version_in_common(self):
        """
        Without a version in common, the client gets an alert, and the end is an error.
        """
        factory, protocol = self.factory(), Secured()
        factory.getContext().set_min_proto_version(SSL.TLS1_3_VERSION)
        _, client, _ = self.start(protocol, "TLS 1.2", factory)
        error = self.assertRaises(SSL.Error, self.shake, client)
        self.assertIn("protocol version", str(error))
        self.assert_lost(protocol, SSL.Error)

    def test_end_in_the_middle(self):
        """
        A client that goes during the handshake has not closed cleanly.
        """
        for flight in (False, True):
            protocol = Secured()
            _, client, peer = self.start(protocol)
            if flight:
                finished(client.tls.do_handshake)
            else:
                peer.send(b"\x16")
            self.reactor.turn()
            peer.close()
            self.reactor.until(lambda protocol=protocol: protocol.lost)
            self.assert_lost(protocol, ConnectionLost)
            self.assertEqual((protocol.handshakes, protocol.ended), (0, 0))

    def test_end_before(self):
        """
        A client that closes its sending side before its first byte has closed cleanly, and sees
        the end of file and no reset, whether something is queued for it or not.
        """
        for queued in (b"", b"hello"):
            protocol = Secured()
            transport, _, peer = self.start(protocol, tcp=True)
            transport.write(queued)
            peer.shutdown(socket.SHUT_WR)
            self.reactor.until(lambda protocol=protocol: protocol.lost)
            self.assert_lost(protocol, ConnectionDone)
            self.assertEqual((protocol.handshakes, protocol.ended), (0, 0))
            self.assertEqual(peer.recv(1), b"")
            self.assertEqual(self.reactor.removeAll(), [])

    def test_lose_connection(self):
        """
        Closing during the handshake, with nothing queued, ends the connection at once.
        """
        protocol = Secured()
        transport, client, _ = self.start(protocol)
        finished(client.tls.do_handshake)
        self.reactor.turn()
        transport.loseConnection()
        self.reactor.turn()
        self.assert_lost(protocol, ConnectionAborted)
        self.assertEqual(self.reactor.removeAll(), [])
        transport.loseConnection()
        self.reactor.turn()
        self.assert_lost(protocol, ConnectionAborted)

    def test_lose_connection_queued(self):
        """
        Closing during the handshake, with data queued, is done after it, with a close_notify; what
        the client sends until then is not delivered.
        """
        for version in VERSIONS:
            protocol = Secured()
            transport, client, _ = self.start(protocol, version)
            transport.write(BIG)
            transport.loseConnection()
            self.shake(client)
            self.deliver(client, b"hello")
            self.assertEqual(self.receive(client, len(BIG)), BIG)
            self.reactor.until(lambda protocol=protocol: protocol.lost)
            self.assert_lost(protocol, ConnectionDone)
            self.assertEqual(protocol.received, [])

    def test_lose_connection_little_queued(self):
        """
        The same holds when the queued data fits into the send buffer.
        """
        protocol = Secured()
        transport, client, _ = self.start(protocol)
        transport.write(b"sorry")
        transport.loseConnection()
        self.shake(client)
        self.assertEqual(self.receive(client, 5), b"sorry")
        self.assertEqual(client.receive(), b"")
        self.assert_lost(protocol, ConnectionDone)

    def test_lose_write_connection(self):
        """
        A half-close during the handshake is done after it.
        """
        protocol = Secured()
        transport, client, _ = self.start(protocol)
        transport.loseWriteConnection()
        self.reactor.turn()
        self.assertEqual(self.reactor.writers, [])
        self.shake(client)
        self.assertEqual(client.receive(), b"")
        self.assertEqual(protocol.write_ended, 1)
        self.deliver(client, b"hello")
        self.reactor.turn()
        self.assertEqual(protocol.received, [b"hello"])

    def test_lose_connection_at_its_end(self):
        """
        A protocol that closes in C{handshakeCompleted} gets no data.
        """
        protocol = Secured(on_handshake=lambda transport: transport.loseConnection())
        _, client, _ = self.start(protocol)
        self.reactor.until(lambda: finished(client.tls.do_handshake))
        self.deliver(client, b"hello")
        self.reactor.turn()
        self.reactor.turn()
        self.assertEqual(client.receive(), b"")
        self.assertEqual(protocol.received, [])
        self.assert_lost(protocol, ConnectionDone)

    def test_abort_at_its_end(self):
        """
        A protocol that aborts in C{handshakeCompleted} gets no data.
        """
        protocol = Secured(on_handshake=lambda transport: transport.abortConnection())
        _, client, _ = self.start(protocol)
        self.reactor.until(lambda: finished(client.tls.do_handshake))
        self.deliver(client, b"hello")
        self.reactor.turn()
        self.reactor.turn()
        self.assertEqual(protocol.received, [])
        self.assert_lost(protocol, ConnectionAborted)

    def test_end_of_input(self):
        """
        When the reactor reports the end of input during the handshake, and only the close is left
        to do, no close_notify is sent.
        """
        protocol = Secured()
        transport, _, peer = self.start(protocol)
        puller = Puller(transport, [])
        puller.resumeProducing = lambda: None
        transport.registerProducer(puller, False)
        transport.loseConnection()
        transport.unregisterProducer()
        transport.readConnectionLost(Failure(ConnectionDone()))
        self.assert_lost(protocol, ConnectionDone)
        self.assertEqual(peer.recv(1), b"")

    def test_pause_at_its_end(self):
        """
        A protocol that pauses in C{handshakeCompleted} gets no data until it resumes.
        """
        protocol = Secured(on_handshake=lambda transport: transport.pauseProducing())
        transport, client, _ = self.start(protocol)
        self.reactor.until(lambda: finished(client.tls.do_handshake))
        self.deliver(client, b"hello")
        self.reactor.turn()
        self.reactor.turn()
        self.assertEqual(protocol.received, [])
        transport.resumeProducing()
        self.reactor.turn()
        self.assertEqual(protocol.received, [b"hello"])

    def test_pause_in_the_middle(self):
        """
        While the transport is paused the handshake does not go on; it does after
        C{resumeProducing}.
        """
        protocol = Secured()
        transport, client, _ = self.start(protocol)
        transport.pauseProducing()
        finished(client.tls.do_handshake)
        self.reactor.turn()
        self.assertFalse(finished(client.tls.do_handshake))
        transport.resumeProducing()
        self.shake(client)
        self.assertEqual(protocol.handshakes, 1)

    def test_blocked(self):
        """
        A handshake that cannot write goes on as soon as the socket is writable.
        """
        protocol = Secured()
        transport, tls, _ = self.scripted(
            protocol, handshaken=False, do_handshake=[SSL.WantWriteError(), SSL.WantWriteError()]
        )
        transport.doRead()
        for tries in (1, 2):
            self.assertEqual((tls.calls.count("do_handshake"), protocol.handshakes), (tries, 0))
            self.assertEqual(self.reactor.writers, [transport])
            self.reactor.turn()
        self.assertEqual(protocol.handshakes, 1)
        self.assertEqual(self.reactor.writers, [])

    def test_blocked_while_paused(self):
        """
        If the socket becomes writable while the transport is paused, the handshake goes on when it
        resumes.
        """
        protocol = Secured()
        transport, _, _ = self.scripted(
            protocol, handshaken=False, do_handshake=[SSL.WantWriteError()]
        )
        transport.doRead()
        transport.pauseProducing()
        self.reactor.turn()
        transport.resumeProducing()
        self.reactor.turn()
        self.reactor.turn()
        self.assertEqual(protocol.handshakes, 1)

    def test_blocked_while_closing(self):
        """
        A handshake that cannot write goes on also when only queued data and the close follow it.
        """
        protocol = Secured()
        transport, tls, _ = self.scripted(
            protocol, handshaken=False, do_handshake=[SSL.WantWriteError()]
        )
        transport.write(b"sorry")
        transport.doRead()
        transport.loseConnection()
        self.reactor.turn()
        self.reactor.turn()
        self.assertEqual(tls.sent, b"sorry")
        self.assert_lost(protocol, ConnectionDone)


class DataTests(SecureTestCase):
    """
    Records, in both directions.
    """

    def test_write_at_once(self):
        """
        When nothing is queued, the client has the data before the reactor's next turn.
        """
        for version in VERSIONS:
            transport, client, _ = self.secured(Secured(), version)
            transport.write(b"one")
            transport.writeSequence([b"two", b"three"])
            self.assertEqual(self.received_now(client), b"onetwothree")
            self.assertEqual(self.reactor.writers, [])

    def test_write_nothing(self):
        """
        Writing nothing sends nothing.
        """
        transport, client, peer = self.secured(Secured())
        self.received_now(client)
        transport.write(b"")
        transport.writeSequence([])
        self.reactor.turn()
        self.assertEqual(drained(peer), b"")
        transport.write(b"hello")
        self.assertEqual(self.received_now(client), b"hello")

    def test_more_than_the_kernel_takes(self):
        """
        What the kernel does not take at once is sent later, before what is written after it.
        """
        for version in VERSIONS:
            transport, client, _ = self.secured(Secured(), version)
            transport.write(BIG)
            transport.write(b"and more")
            expected = BIG + b"and more"
            self.assertEqual(self.receive(client, len(expected)), expected)
            self.reactor.until(lambda: not self.reactor.writers)
            transport.write(b"hello")
            self.assertEqual(self.received_now(client), b"hello")

    def test_odd_pieces(self):
        """
        Writes of any size stay in order when each is larger than the send buffer.
        """
        transport, client, _ = self.secured(Secured())
        sizes = [1, 16383, 16384, 16385, 131071, 131073, 5, 300000]
        pieces = [bytes([number]) * size for number, size in enumerate(sizes)]
        for piece in pieces:
            transport.write(piece)
        expected = b"".join(pieces)
        self.assertEqual(self.receive(client, len(expected)), expected)

    def test_producer(self):
        """
        A producer is paused when too much is queued, and resumed when nothing is left.
        """
        transport, client, _ = self.secured(Secured())
        pusher = Pusher()
        transport.registerProducer(pusher, True)
        transport.write(BIG)
        self.assertEqual(pusher.told, ["pause"])
        self.receive(client, len(BIG))
        self.reactor.until(lambda: not self.reactor.writers)
        self.assertEqual(pusher.told, ["pause", "resume"])

    def test_pull_producer(self):
        """
        A pull producer may start before the end of the handshake, and is asked until it has
        finished.
        """
        transport, client, _ = self.start(Secured())
        puller = Puller(transport, [b"first", BIG, b"last"])
        transport.registerProducer(puller, False)
        self.shake(client)
        expected = b"first" + BIG + b"last"
        self.assertEqual(self.receive(client, len(expected)), expected)
        self.reactor.until(lambda: transport.producer is None)

    def test_small_records(self):
        """
        Records of one byte are delivered in order.
        """
        protocol = Secured()
        _, client, _ = self.secured(protocol)
        data = bytes(range(40))
        self.deliver(client, data, record=1)
        self.reactor.until(lambda: len(protocol.data) == len(data))
        self.assertEqual(protocol.data, data)

    def test_whole_records(self):
        """
        A record of any size is delivered whole, in one turn.
        """
        protocol = Secured()
        _, client, _ = self.secured(protocol)
        for size in (1, 3000, RECORD_BYTES - 1, RECORD_BYTES, 1):
            protocol.received.clear()
            self.deliver(client, b"-" * size)
            self.reactor.turn()
            self.assertEqual([len(piece) for piece in protocol.received], [size])

    def busy_client(self, protocol):
        """
        A connection after its handshake, on which a client may send much at once.
        """
        transport, client, peer = self.secured(protocol)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        self.deliver(client, b"-" * RECORD_BYTES)
        self.reactor.turn()
        protocol.received.clear()
        return transport, client

    def test_bounded_turn(self):
        """
        A turn reads a bounded number of one connection's full records, and the rest is read without
        more input.
        """
        protocol = Secured()
        transport, client = self.busy_client(protocol)
        records = MAX_RECORDS + 3
        self.deliver(client, b"-" * RECORD_BYTES * records)
        transport.doRead()
        self.assertEqual(len(protocol.received), MAX_RECORDS)
        self.reactor.turn()
        self.assertEqual(len(protocol.received), records)

    def sealed(self, version):
        """
        A connection after its handshake, and an object that makes the client's records.
        """
        protocol, made = Secured(), client_context(version)
        secrets = keep_secrets(made)
        transport, client, peer = self.secured(protocol, client=made)
        drained(peer)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        if version == "TLS 1.3":
            return protocol, transport, peer, Sealer(secrets)
        return protocol, transport, peer, OldSealer(secrets, client.tls.server_random())

    def assert_bounded(self, version, make, number, records_a_turn=MAX_RECORDS):
        """
        Many records without data: a turn handles a bounded number of them, and the data after them
        is read without more input.
        """
        protocol, transport, peer, sealer = self.sealed(version)
        records = [*(make(sealer) for _ in range(number)), sealer.seal(DATA, b"behind them")]
        peer.sendall(b"".join(records))
        left = unread(transport.fileno())
        most = max(map(len, records)) * records_a_turn
        while left:
            self.assertIsNone(transport.doRead())
            before, left = left, unread(transport.fileno())
            self.assertLess(0, before - left)
            self.assertLessEqual(before - left, most)
            drained(peer)
        self.assertEqual(protocol.received, [b"behind them"])

    def test_key_updates(self):
        """
        The number of KeyUpdates in a turn is bounded.
        """
        self.assert_bounded("TLS 1.3", lambda sealer: sealer.key_update(), 300)

    def test_empty_records(self):
        """
        OpenSSL accepts 32 records without data, or with padding only, in a turn, and then ends the
        connection.
        """
        self.assert_bounded("TLS 1.2", lambda sealer: sealer.seal(DATA, b""), 32, 33)
        self.assert_bounded("TLS 1.3", lambda sealer: sealer.seal(DATA, b"", 1000), 32, 33)

    def test_renegotiations(self):
        """
        The number of refused renegotiations in a turn is bounded.
        """
        self.assert_bounded("TLS 1.2", lambda sealer: sealer.seal(HANDSHAKE, CLIENT_HELLO), 300)

    def test_warnings(self):
        """
        The number of warning alerts (user_canceled) in a turn is bounded.
        """
        for version in VERSIONS:
            self.assert_bounded(version, lambda sealer: sealer.seal(ALERT, b"\1\x5a"), 4)

    def test_pause_between_records(self):
        """
        A protocol that pauses gets the next record when it resumes, and not before.
        """
        protocol = Secured()
        protocol.on_data = lambda: protocol.transport.pauseProducing()
        transport, client = self.busy_client(protocol)
        transport.resumeProducing()
        self.deliver(client, b"-" * RECORD_BYTES * 3)
        for _ in range(3):
            self.reactor.turn()
        self.assertEqual(len(protocol.received), 1)
        transport.resumeProducing()
        self.assertEqual(len(protocol.received), 1)
        self.reactor.turn()
        self.assertEqual(len(protocol.received), 2)

    def test_change_of_mind(self):
        """
        A protocol that resumes, then pauses or closes before the next turn, gets nothing.
        """
        for last in ("pauseProducing", "loseConnection", "abortConnection"):
            protocol = Secured()
            protocol.on_data = lambda protocol=protocol: protocol.transport.pauseProducing()
            transport, client = self.busy_client(protocol)
            transport.resumeProducing()
            self.deliver(client, b"-" * RECORD_BYTES * 2)
            self.reactor.turn()
            transport.resumeProducing()
            getattr(transport, last)()
            self.reactor.turn()
            self.reactor.turn()
            self.assertEqual(len(protocol.received), 1)

    def test_end_after_a_pause(self):
        """
        A protocol that resumes twice gets the rest, and then one notice of the end.
        """
        protocol = Secured()
        protocol.on_data = lambda: protocol.transport.pauseProducing()
        transport, client, _ = self.secured(protocol)
        self.deliver(client, b"-" * RECORD_BYTES + b"last")
        client.tls.shutdown()
        self.reactor.turn()
        protocol.on_data = lambda: None
        transport.resumeProducing()
        transport.resumeProducing()
        for _ in range(3):
            self.reactor.turn()
        self.assertEqual(len(protocol.data), RECORD_BYTES + 4)
        self.assertEqual(protocol.ended, 1)
        transport.resumeProducing()
        self.reactor.turn()
        self.assertEqual(protocol.ended, 1)

    def test_abort_between_records(self):
        """
        Nothing more is delivered after an abort.
        """
        protocol = Secured()
        protocol.on_data = lambda: protocol.transport.abortConnection()
        _, client, _ = self.secured(protocol)
        self.deliver(client, b"-" * RECORD_BYTES * 2)
        self.reactor.turn()
        self.reactor.turn()
        self.assertEqual(len(protocol.data), RECORD_BYTES)
        self.assert_lost(protocol, ConnectionAborted)

    def test_lose_connection_between_records(self):
        """
        Nothing more is delivered after C{loseConnection}.
        """
        protocol = Secured()
        protocol.on_data = lambda: protocol.transport.loseConnection()
        _, client, _ = self.secured(protocol)
        self.deliver(client, b"-" * RECORD_BYTES * 2)
        self.reactor.turn()
        self.reactor.turn()
        self.assertEqual(len(protocol.data), RECORD_BYTES)
        self.assert_lost(protocol, ConnectionDone)

    def test_pause_before_a_write(self):
        """
        A protocol that pauses while OpenSSL has to write gets nothing until it resumes.
        """
        protocol = Secured()
        script = [SSL.WantWriteError(), b"later"]
        transport, _, peer = self.scripted(protocol, recv=script)
        transport.doRead()
        transport.pauseProducing()
        self.reactor.turn()
        self.assertEqual(protocol.data, b"")
        peer.send(b"-")
        transport.resumeProducing()
        self.reactor.turn()
        self.assertEqual(protocol.data, b"later")

    def test_error_after_a_write(self):
        """
        A protocol that fails on data that came once OpenSSL could write is ended, and the failure
        is logged once.
        """
        protocol = Secured()
        protocol.on_data = lambda: 1 / 0
        self.scripted(protocol, recv=[SSL.WantWriteError(), b"-"])[0].doRead()
        self.reactor.turn()
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assert_lost(protocol, ZeroDivisionError)
        self.assertEqual(self.reactor.removeAll(), [])


class BlockedTests(SecureTestCase):
    """
    When OpenSSL has to wait for the kernel or for the peer.
    """

    def test_write(self):
        """
        A record that does not fit into the send buffer is sent once it fits.
        """
        transport, _, make_room = self.blocked(Secured())
        transport.write(b"hello")
        self.assertEqual(self.reactor.writers, [transport])
        make_room()
        self.reactor.turn()
        self.assertEqual(self.reactor.writers, [])

    def test_write_wants_to_read(self):
        """
        A write for which OpenSSL must read first is done after the read, and the reactor does not
        wait for writability until then.
        """
        protocol = Secured()
        transport, tls, peer = self.scripted(
            protocol, send=[SSL.WantReadError(), SSL.WantReadError()]
        )
        transport.write(b"one")
        self.reactor.turn()
        self.assertEqual((tls.sent, self.reactor.writers), (b"", []))
        transport.write(b"two")
        self.reactor.turn()
        self.assertEqual((tls.calls, self.reactor.writers), (["send"] * 2, []))
        tls.script["recv"] = [b"hello"]
        peer.send(b"-")
        self.reactor.turn()
        self.reactor.turn()
        self.assertEqual((protocol.received, tls.sent), ([b"hello"], b"onetwo"))
        self.assertEqual(self.reactor.writers, [])

    def test_read_wants_to_write(self):
        """
        A read for which OpenSSL must write first is done once the socket is writable.
        """
        protocol = Secured()
        transport, _, _ = self.scripted(protocol, recv=[SSL.WantWriteError(), b"hello"])
        transport.doRead()
        self.assertEqual((protocol.received, self.reactor.writers), ([], [transport]))
        self.reactor.turn()
        self.assertEqual((protocol.received, self.reactor.writers), ([b"hello"], []))

    def test_read_wants_to_write_more(self):
        """
        A read that wants to write again waits for the socket again.
        """
        protocol = Secured()
        transport, _, _ = self.scripted(
            protocol, recv=[SSL.WantWriteError(), SSL.WantWriteError(), b"hello"]
        )
        transport.doRead()
        self.reactor.turn()
        self.assertEqual((protocol.received, self.reactor.writers), ([], [transport]))
        self.reactor.turn()
        self.assertEqual((protocol.received, self.reactor.writers), ([b"hello"], []))

    def test_read_wants_to_write_and_fails(self):
        """
        When the read that wanted to write fails, the connection ends, and queued data is not sent.
        """
        for error, reason in (
            (SSL.Error([("", "", "bad")]), SSL.Error),
            (SSL.SysCallError(-1, "Unexpected EOF"), ConnectionLost),
        ):
            protocol = Secured()
            transport, tls, _ = self.scripted(
                protocol, recv=[SSL.WantWriteError(), error], send=[SSL.WantWriteError()]
            )
            transport.write(b"queued")
            transport.doRead()
            self.reactor.turn()
            self.assert_lost(protocol, reason)
            self.assertEqual((tls.sent, self.reactor.removeAll()), (b"", []))

    def test_broken(self):
        """
        Sending queued data to a peer that has gone ends the connection.
        """
        protocol = Secured()
        transport, _, peer = self.secured(protocol)
        transport.pauseProducing()
        transport.write(BIG)
        peer.close()
        self.reactor.until(lambda: protocol.lost)
        self.assert_lost(protocol, ConnectionLost)
