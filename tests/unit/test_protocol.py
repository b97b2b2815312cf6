"""
Tests for L{Echo}, on a transport in memory.
"""

import contextlib
import socket

from OpenSSL import SSL, crypto
from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import (
    IHalfCloseableProtocol,
    IHandshakeListener,
    IPushProducer,
    ISSLTransport,
)
from twisted.internet.testing import StringTransport
from twisted.logger import capturedLogs, formatEvent
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from zope.interface import directlyProvides
from zope.interface.verify import verifyObject

from echod.connections.connection import IConnection, Reason
from echod.protocol import Echo
from echod.tls.context import TLSPolicy, server_context
from echod.tls.credentials import KeyPair
from tests.support.certificates import make_certificate
from tests.support.echoes import ProtocolTestCase, SocketTransport
from tests.support.handshakes import (
    VERSIONS,
    CertificateInfo,
    Handshake,
    client_context,
    shake_hands,
)
from tests.support.pairs import tcp_pair


class AfterClientHello:
    """
    A connection of pyOpenSSL that has received a ClientHello.
    """

    def client_random(self):
        return bytes(32)

    def get_peer_finished(self):
        return None


class EchoTests(ProtocolTestCase):
    """
    One connection, from accept to its end.
    """

    def test_interfaces(self):
        """
        L{Echo} provides Twisted's interfaces, and all of L{IConnection}.
        """
        echo, _ = self.connect()
        verifyObject(IHalfCloseableProtocol, echo)
        verifyObject(IPushProducer, echo)
        verifyObject(IHandshakeListener, echo)
        asked = set(IConnection.__annotations__)
        asked.update(name for name in vars(IConnection) if not name.startswith("_"))
        self.assertEqual([name for name in asked if not hasattr(echo, name)], [])

    def test_echoes(self):
        """
        What a client sends comes back, whole and in order.
        """
        echo, transport = self.connect()
        for data in (b"one", b"\0\xff", b"three"):
            echo.dataReceived(data)
        self.assertEqual(transport.value(), b"one\0\xffthree")
        self.assertEqual(echo.bytes_echoed, 10)

    def test_relayed(self):
        """
        What the transport sends back by itself is counted.
        """
        echo, transport = self.connect()
        echo.dataReceived(b"one")
        echo.bytes_relayed(100_000)
        self.assertEqual((echo.bytes_echoed, transport.value()), (100_003, b"one"))

    def test_is_tracked(self):
        """
        A connection is among the live ones from accept to its end.
        """
        echo, _ = self.connect()
        self.assertEqual((len(self.connections), echo.listener), (1, "tcp"))
        echo.connectionLost(Failure(ConnectionDone()))
        self.assertEqual((len(self.connections), self.reasons()), (0, [Reason.CLIENT]))

    def test_back_pressure(self):
        """
        While a client does not read its echo, nothing is read from it.
        """
        echo, transport = self.connect()
        self.assertIs(transport.producer, echo)
        self.assertTrue(transport.streaming)
        transport.producer.pauseProducing()
        self.assertEqual((transport.producerState, echo.paused), ("paused", True))
        transport.producer.resumeProducing()
        self.assertEqual((transport.producerState, echo.paused), ("producing", False))

    def test_stop_producing_ends_nothing(self):
        """
        C{stopProducing} ends nothing; C{connectionLost} has the reason.
        """
        echo, transport = self.connect()
        transport.producer.stopProducing()
        self.assertEqual(self.reasons(), [])
        echo.connectionLost(Failure(ConnectionLost()))
        self.assertEqual(self.reasons(), [Reason.RESET])

    def test_client_half_closes(self):
        """
        A client that closes its sending side gets its echo, then the close, also while reading is
        paused.
        """
        echo, transport = self.connect()
        echo.dataReceived(b"last words")
        echo.pauseProducing()
        echo.readConnectionLost()
        self.assertEqual(transport.value(), b"last words")
        self.assertTrue(transport.disconnecting)
        self.assertFalse(transport.disconnected)

    def test_close(self):
        """
        A polite end half-closes, then reads and discards until the client closes.
        """
        echo, transport = self.connect()
        echo.dataReceived(b"before")
        echo.pauseProducing()
        echo.close(Reason.DRAIN)
        self.assertEqual((transport.half_closes, transport.producerState), (1, "producing"))
        echo.writeConnectionLost()
        echo.dataReceived(b"after")
        self.assertEqual((transport.value(), echo.bytes_echoed), (b"before", 6))
        self.assertFalse(transport.disconnecting)
        echo.readConnectionLost()
        self.assertTrue(transport.disconnecting)
        echo.connectionLost(Failure(ConnectionDone()))
        self.assertEqual(self.reasons(), [Reason.DRAIN])

    def test_close_once(self):
        """
        A second polite end changes nothing.
        """
        echo, transport = self.connect()
        echo.close(Reason.DRAIN)
        echo.close(Reason.ERROR)
        self.assertEqual(transport.half_closes, 1)
        echo.connectionLost(Failure(ConnectionDone()))
        self.assertEqual(self.reasons(), [Reason.DRAIN])

    def test_close_after_client_half_closed(self):
        """
        A drain does not change the end of a client that has already closed its sending side.
        """
        echo, transport = self.connect()
        echo.readConnectionLost()
        echo.close(Reason.DRAIN)
        self.assertEqual(transport.half_closes, 0)
        echo.connectionLost(Failure(ConnectionDone()))
        self.assertEqual(self.reasons(), [Reason.CLIENT])

    def test_close_on_a_layer(self):
        """
        On a layer that cannot half-close, such as Twisted's own TLS, a polite end closes.
        """
        echo, transport = self.connect(StringTransport())
        echo.close(Reason.DRAIN)
        self.assertTrue(transport.disconnecting)

    def test_abort(self):
        """
        An abort resets the connection at once and echoes nothing more.
        """
        echo, transport = self.connect()
        echo.abort(Reason.WRITE_TIMEOUT)
        echo.dataReceived(b"too late")
        self.assertTrue(transport.disconnected)
        self.assertEqual((transport.value(), echo.ending), (b"", True))

    def test_reasons(self):
        """
        Each way to end has its reason.
        """
        done, lost, aborted = ConnectionDone(), ConnectionLost(), ConnectionAborted()

        tls_error = SSL.Error([("SSL routines", "", "no shared cipher")])

        def nothing(echo):
            pass

        def shake_hands(echo):
            echo.waiting_for = Reason.HANDSHAKE

        def hello(echo):
            shake_hands(echo)
            echo.transport.handle = AfterClientHello()

        def hello_close(echo):
            hello(echo)
            echo.readConnectionLost()

        def hello_drain(echo):
            hello(echo)
            echo.close(Reason.DRAIN)

        def hello_agreed(echo):
            hello(echo)
            echo.waiting_for = None

        def timed_out(echo):
            echo.waiting_for = Reason.HANDSHAKE
            echo.timed_out()

        def close_in_handshake(echo):
            echo.waiting_for = Reason.HANDSHAKE
            echo.close(Reason.DRAIN)

        def client(echo):
            echo.readConnectionLost()

        def close(echo):
            echo.close(Reason.DRAIN)

        def abort(echo):
            echo.abort(Reason.ABORTED)

        def close_abort(echo):
            echo.close(Reason.DRAIN)
            echo.abort()

        def close_write_timeout(echo):
            echo.close(Reason.DRAIN)
            echo.abort(Reason.WRITE_TIMEOUT)

        for begin, error, expected in (
            (nothing, done, Reason.CLIENT),
            (nothing, lost, Reason.RESET),
            (nothing, tls_error, Reason.ERROR),
            (nothing, RuntimeError("a bug"), Reason.ERROR),
            (shake_hands, tls_error, Reason.HANDSHAKE),
            (shake_hands, done, Reason.CLIENT),
            (shake_hands, lost, Reason.RESET),
            (hello, done, Reason.HANDSHAKE),
            (hello, lost, Reason.HANDSHAKE),
            (hello_close, aborted, Reason.HANDSHAKE),
            (hello_drain, aborted, Reason.DRAIN),
            (hello_agreed, lost, Reason.RESET),
            (timed_out, aborted, Reason.HANDSHAKE),
            (close_in_handshake, aborted, Reason.DRAIN),
            (client, done, Reason.CLIENT),
            (client, lost, Reason.RESET),
            (close, done, Reason.DRAIN),
            (close, lost, Reason.DRAIN),
            (close, RuntimeError("a bug"), Reason.ERROR),
            (abort, aborted, Reason.ABORTED),
            (abort, lost, Reason.ABORTED),
            (close_abort, aborted, Reason.DRAIN),
            (close_write_timeout, aborted, Reason.WRITE_TIMEOUT),
        ):
            echo, _ = self.connect()
            begin(echo)
            self.connections.totals.ended.clear()
            echo.connectionLost(Failure(error))
            self.assertEqual(self.reasons(), [expected], (begin.__name__, error))

    def test_handshake_failure(self):
        """
        A handshake that fails is logged with what OpenSSL says of it, also after a whole
        ClientHello; one that the client leaves says so.
        """
        for error, words in (
            (SSL.Error([("", "", "no shared cipher")]), "no shared cipher"),
            (ConnectionLost(), "the client went away"),
            (ConnectionDone(), "the client went away"),
        ):
            echo, _ = self.connect()
            echo.waiting_for = Reason.HANDSHAKE
            echo.transport.handle = AfterClientHello()
            echo.connectionLost(Failure(error))
            with capturedLogs() as events:
                self.connections.refusals.log_summary()
            (event,) = events
            self.assertEqual((event["reason"], event["detail"]), (Reason.HANDSHAKE, words))

    def test_error(self):
        """
        The access record has the error, with its control characters escaped.
        """
        for error, words in (
            (SSL.Error([("", "", "bad record mac")]), "bad record mac"),
            (RuntimeError("a\nbug"), "a\\nbug"),
            (RuntimeError(), "no reason given"),
        ):
            echo, _ = self.connect()
            with capturedLogs() as events:
                echo.connectionLost(Failure(error))
            (event,) = (each for each in events if each.get("event") == "access")
            self.assertEqual((event["reason"], event["detail"]), ("error", words))

    def test_peer(self):
        """
        C{peer} is the client's address, as text.
        """
        echo, _ = self.connect()
        self.assertEqual(echo.peer(), "192.0.2.7:40000")

    def test_peer_of_the_transport(self):
        """
        Where the port calls the factory directly, it comes from the tuple that the transport has;
        on a UNIX socket, and below a layer, which may know another address, from C{getPeer}.
        """
        for outermost, client, expected in (
            (True, ("::ffff:192.0.2.9", 5, 0, 0), "192.0.2.9:5"),
            (True, (b"/x", None), "192.0.2.7:40000"),
            (False, ("192.0.2.9", 5), "192.0.2.7:40000"),
        ):
            echo, transport = self.connect()
            echo.factory.outermost = outermost
            transport.client = client
            self.assertEqual(echo.peer(), expected)

    def test_log_fields(self):
        """
        Without a PROXY header and without TLS there are no further log fields.
        """
        echo, transport = self.connect()
        self.assertEqual(echo.log_fields(), {})
        self.assertIs(echo.client, transport.getPeer())

    def test_health_check(self):
        """
        A connection without a byte is logged at debug only.
        """
        for send, level in ((b"", "debug"), (b"x", "info")):
            echo, _ = self.connect()
            if send:
                echo.dataReceived(send)
            echo.readConnectionLost()
            with capturedLogs() as events:
                echo.connectionLost(Failure(ConnectionDone()))
            self.assertEqual([event["log_level"].name for event in events], [level])

    def test_unread_and_pending(self):
        """
        C{unread} has the bytes in the kernel; C{pending} those in the kernel and in the transport.
        """
        ours, theirs = socket.socketpair()
        self.addCleanup(ours.close)
        self.addCleanup(theirs.close)
        echo, transport = self.connect(SocketTransport(ours.fileno()))
        self.assertEqual((echo.unread(), echo.pending()), (0, (0, 0)))
        theirs.sendall(b"seven!!")
        self.assertEqual((echo.unread(), echo.pending()), (7, (0, 0)))
        ours.sendall(b"not taken")
        transport.dataBuffer, transport.offset, transport._tempDataLen = b"12345", 2, 4
        in_kernel, in_transport = echo.pending()
        self.assertGreater(in_kernel, 0)
        self.assertEqual(in_transport, 7)

    def test_acknowledged(self):
        """
        C{acknowledged} asks the transport's socket, if it has one.
        """
        echo, transport = self.connect()
        self.assertIsNone(echo.acknowledged())
        ours, theirs = tcp_pair()
        self.addCleanup(ours.close)
        self.addCleanup(theirs.close)
        transport.socket = ours
        self.assertIsNone(echo.acknowledged())
        ours.sendall(b"hello")
        # Its FIN acknowledges what has come before.
        theirs.shutdown(socket.SHUT_WR)
        self.assertEqual(ours.recv(1), b"")
        self.assertEqual(echo.acknowledged(), 5)

    def test_end_if_delivered(self):
        """
        It asks a transport of ours whether the client has all; others do not wait for that.
        """
        echo, transport = self.connect()
        self.assertFalse(echo.end_if_delivered())
        for answer in (False, True):
            transport.endIfDelivered = lambda answer=answer: answer
            self.assertIs(echo.end_if_delivered(), answer)

    def test_log_fields_of_tls(self):
        """
        With TLS, the log fields are those of the session.
        """
        echo, transport = self.connect()
        self.assertEqual(echo.log_fields(), {})
        self.factory.tls = object()
        made = make_certificate()
        own = KeyPair("made.pem", (made.certificate,), made.key, (), None)
        hands = shake_hands(server_context(TLSPolicy(), [own]), client_context(), b"a.example")
        echo, transport = self.connect()
        transport.handle = hands.server
        directlyProvides(transport, ISSLTransport)
        echo.handshakeCompleted()
        self.assertFalse(transport.disconnected)
        echo.connectionLost(Failure(ConnectionDone()))
        self.assertEqual(echo.log_fields()["tls_sni"], "a.example")

    def test_expired_client_certificate(self):
        """
        A client that resumes a session after its certificate has expired is aborted.
        """
        self.factory.tls = object()
        authority = make_certificate(["authority"], authority=True)
        made, shown = make_certificate(), make_certificate(["client"], authority)
        own = KeyPair("made.pem", (made.certificate,), made.key, (), None)
        policy = TLSPolicy(client_auth="require")
        server = server_context(policy, [own], [authority.certificate])
        client = client_context(None, shown)
        first = shake_hands(server, client)
        session = first.client.get_session()
        echo, transport = self.connect()
        transport.handle = handle = shake_hands(server, client, session=session).server
        ended = crypto.X509.from_cryptography(make_certificate(["client"], days=-1).certificate)
        self.patch(handle, "get_peer_certificate", lambda: ended)
        echo.handshakeCompleted()
        with capturedLogs() as events:
            echo.connectionLost(Failure(ConnectionAborted()))
            self.connections.refusals.log_summary()
        self.assertTrue(transport.disconnected)
        self.assertEqual(self.reasons(), [Reason.HANDSHAKE])
        self.assertIn("resumed after the end of the client's certificate", formatEvent(events[0]))


def context_for(own):
    return server_context(TLSPolicy(), [KeyPair("", (own.certificate,), own.key, (), None)])


class HandshakeTests(ProtocolTestCase):
    """
    A connection before the end of its TLS handshake.
    """

    def setUp(self):
        super().setUp()
        self.make(tls=object())

    def test_waiting_for(self):
        """
        With TLS, the connection waits for the handshake until it is complete; without TLS, it waits
        for nothing.
        """
        echo, _ = self.connect()
        self.assertIs(echo.waiting_for, Reason.HANDSHAKE)
        echo.handshakeCompleted()
        self.assertIsNone(echo.waiting_for)
        self.make()
        self.assertIsNone(self.connect()[0].waiting_for)

    def test_timed_out(self):
        """
        A handshake that times out is aborted and counts as a refusal, with the detail C{late}.
        """
        echo, transport = self.connect()
        echo.timed_out()
        self.assertTrue(transport.disconnected and echo.ending)
        with capturedLogs() as events:
            echo.connectionLost(Failure(ConnectionAborted()))
            self.connections.refusals.log_summary()
        self.assertEqual(
            [formatEvent(event) for event in events],
            ["refused 1: handshake, the last from 192.0.2.7:40000 to tcp, late"],
        )

    def test_counted(self):
        """
        A handshake counts once: as complete, with its version, or as failed, also if the client
        leaves in the middle of it.  It does not count if the client has sent nothing, or if the
        daemon ends it.
        """
        handshakes = self.connections.totals.handshakes
        own = make_certificate(["a.example"])
        for version in VERSIONS:
            echo, transport = self.connect()
            hands = Handshake(context_for(own), client_context(version)).run()
            transport.handle = hands.server
            echo.handshakeCompleted()
            echo.connectionLost(Failure(ConnectionLost()))
            self.assertEqual(handshakes, {("ok", version): 1})
            handshakes.clear()
        silent = Handshake(context_for(own), client_context())
        begun = Handshake(context_for(own), client_context())
        begun.step()
        tls_error = SSL.Error([("", "", "wrong version number")])
        complete = shake_hands(context_for(own), client_context("TLSv1.3"))
        for hands, begin, error, expected in (
            (silent, None, ConnectionDone(), {}),
            (silent, None, ConnectionLost(), {}),
            (silent, None, tls_error, {("failed", ""): 1}),
            (silent, Echo.timed_out, ConnectionAborted(), {("failed", ""): 1}),
            (begun, None, ConnectionDone(), {("failed", ""): 1}),
            (begun, None, ConnectionLost(), {("failed", ""): 1}),
            (complete, Echo.timed_out, ConnectionAborted(), {("failed", "TLSv1.3"): 1}),
            (begun, lambda echo: echo.close(Reason.DRAIN), ConnectionAborted(), {}),
        ):
            echo, transport = self.connect()
            transport.handle = hands.server
            if begin is not None:
                begin(echo)
            echo.connectionLost(Failure(error))
            self.assertEqual(handshakes, expected, (hands is begun, error))
            handshakes.clear()

    def test_a_part_of_a_hello(self):
        """
        A client that sends less than a whole message and leaves has failed its handshake, as one
        that sends more.
        """
        for begun, refused in ((True, 1), (False, 0)):
            echo, transport = self.connect()
            transport.handshakeBegun = begun
            echo.connectionLost(Failure(ConnectionDone()))
            self.assertEqual(self.connections.refusals.counts.total(), refused)
            self.connections.refusals.counts.clear()

    def test_fails(self):
        """
        A handshake that fails counts as a refusal, with OpenSSL's reason.
        """
        echo, _ = self.connect()
        with capturedLogs() as events:
            echo.connectionLost(Failure(SSL.Error([("", "", "wrong version number")])))
            self.connections.refusals.log_summary()
        self.assertEqual(
            [formatEvent(event) for event in events],
            ["refused 1: handshake, the last from 192.0.2.7:40000 to tcp, wrong version number"],
        )

    def test_close_in_handshake(self):
        """
        Before the end of the handshake, a polite end aborts.
        """
        echo, transport = self.connect()
        echo.close(Reason.IDLE_TIMEOUT)
        self.assertEqual((transport.disconnected, transport.half_closes), (True, 0))
        # A second end changes nothing.
        echo.close(Reason.DRAIN)
        echo.connectionLost(Failure(ConnectionAborted()))
        self.assertEqual(self.reasons(), [Reason.IDLE_TIMEOUT])

    def test_layer(self):
        """
        The connection also waits for the handshake of a TLS layer of Twisted's.
        """
        factory = self.make()
        layer = TLSMemoryBIOFactory(CertificateInfo(make_certificate()), False, factory, self.clock)
        transport = SocketTransport()
        wrapper = layer.buildProtocol(transport.getPeer())
        wrapper.makeConnection(transport)
        echo = wrapper.wrappedProtocol
        self.assertIs(echo.waiting_for, Reason.HANDSHAKE)
        client = SSL.Connection(client_context("TLSv1.3"))
        client.set_connect_state()
        sent = got = b""
        for _ in range(10):
            with contextlib.suppress(SSL.WantReadError):
                client.do_handshake()
                sent = sent or bytes(client.send(b"hello"))
                got = got or client.recv(100)
            with contextlib.suppress(SSL.WantReadError):
                wrapper.dataReceived(client.bio_read(65536))
            self.clock.advance(1)
            if transport.value():
                client.bio_write(transport.value())
                transport.clear()
        self.assertEqual((echo.waiting_for, got), (None, b"hello"))

    def test_outermost(self):
        """
        A transport that can start TLS, and has not, is a plain one.
        """
        self.make()
        for outermost, waiting_for in ((True, None), (False, Reason.HANDSHAKE)):
            self.factory.outermost = outermost
            transport = SocketTransport()
            directlyProvides(transport, ISSLTransport)
            self.assertIs(self.connect(transport)[0].waiting_for, waiting_for)


class CountTests(ProtocolTestCase):
    """
    The count of a client's connections.
    """

    ENDS = {
        "client": (lambda echo: echo.readConnectionLost(), ConnectionDone),
        "reset": (lambda echo: None, ConnectionLost),
        "close": (lambda echo: echo.close(Reason.IDLE_TIMEOUT), ConnectionDone),
        "abort": (lambda echo: echo.abort(Reason.WRITE_TIMEOUT), ConnectionAborted),
        "handshake": (lambda echo: echo.timed_out(), ConnectionAborted),
        "bug": (lambda echo: None, ZeroDivisionError),
    }

    def test_every_end(self):
        """
        A connection counts once, from accept until its end, for each kind of end.
        """
        for tls in (None, object()):
            for name, (begin, error) in self.ENDS.items():
                self.make(per_client=2, tls=tls)
                echo, _ = self.connect()
                self.assertEqual(self.admission.clients(), 1, name)
                begin(echo)
                self.assertEqual(self.admission.clients(), 1, name)
                echo.connectionLost(Failure(error()))
                self.assertEqual(self.admission.clients(), 0, name)
                echo.connectionLost(Failure(error()))
                self.assertEqual(self.admission.clients(), 0, name)

    def test_limit(self):
        """
        A client can have as many connections as its limit, and one more when one has ended.
        """
        self.make(per_client=2)
        self.factory.outermost = True
        (one, _), _ = self.connect(), self.connect()
        peer = IPv4Address("TCP", "192.0.2.7", 1)
        self.assertIsNone(self.factory.buildProtocol(peer))
        self.assertIsInstance(self.factory.buildProtocol(IPv4Address("TCP", "192.0.2.8", 1)), Echo)
        one.connectionLost(Failure(ConnectionDone()))
        self.assertIsInstance(self.factory.buildProtocol(peer), Echo)

    def test_not_counted(self):
        """
        Without a limit, clients are not counted.
        """
        echo, _ = self.connect()
        self.assertEqual(self.admission.clients(), 0)
        echo.connectionLost(Failure(ConnectionDone()))
        self.assertEqual(self.admission.clients(), 0)
