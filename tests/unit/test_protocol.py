"""
The echo itself, on a transport that is a string.
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

from echod.connections.connection import Connection, Reason
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


class Helloed:
    """
    OpenSSL's connection, when the client's first message has come.
    """

    def client_random(self):
        return bytes(32)

    def get_peer_finished(self):
        return None


class EchoTests(ProtocolTestCase):
    """
    One connection, from accept to end.
    """

    def test_interfaces(self):
        """
        Twisted finds the half-close and producer methods it looks for, and the live set its own.
        """
        echo, _ = self.connect()
        verifyObject(IHalfCloseableProtocol, echo)
        verifyObject(IPushProducer, echo)
        verifyObject(IHandshakeListener, echo)
        asked = set(Connection.__annotations__)
        asked.update(name for name in vars(Connection) if not name.startswith("_"))
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

    def test_joins_and_leaves_the_live_set(self):
        """
        A connection counts as live from accept to end, under its listener's name.
        """
        echo, _ = self.connect()
        self.assertEqual((len(self.connections), echo.listener), (1, "tcp"))
        echo.connectionLost(Failure(ConnectionDone()))
        self.assertEqual((len(self.connections), self.reasons()), (0, [Reason.CLIENT]))

    def test_back_pressure(self):
        """
        A client that does not take its echo is not read from until it does.
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
        A transport that is gone tells its producer so, and the reason is still the network's.
        """
        echo, transport = self.connect()
        transport.producer.stopProducing()
        self.assertEqual(self.reasons(), [])
        echo.connectionLost(Failure(ConnectionLost()))
        self.assertEqual(self.reasons(), [Reason.RESET])

    def test_client_half_closes(self):
        """
        A client that closes its sending side gets its echo, then our close, even when paused.
        """
        echo, transport = self.connect()
        echo.dataReceived(b"last words")
        echo.pauseProducing()
        echo.readConnectionLost()
        self.assertEqual(transport.value(), b"last words")
        self.assertTrue(transport.disconnecting)
        self.assertFalse(transport.disconnected)

    def test_finish(self):
        """
        A polite end closes our sending side, reads on, discards, and waits for the client.
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

    def test_finish_once(self):
        """
        An end that has begun does not begin again.
        """
        echo, transport = self.connect()
        echo.close(Reason.DRAIN)
        echo.close(Reason.ERROR)
        self.assertEqual(transport.half_closes, 1)
        echo.connectionLost(Failure(ConnectionDone()))
        self.assertEqual(self.reasons(), [Reason.DRAIN])

    def test_finish_after_client_half_closed(self):
        """
        A client that has closed its side is owed its echo, and a drain does not disturb that.
        """
        echo, transport = self.connect()
        echo.readConnectionLost()
        echo.close(Reason.DRAIN)
        self.assertEqual(transport.half_closes, 0)
        echo.connectionLost(Failure(ConnectionDone()))
        self.assertEqual(self.reasons(), [Reason.CLIENT])

    def test_finish_on_a_layer(self):
        """
        Over a layer that cannot half-close, such as Twisted's own TLS, a polite end closes.
        """
        echo, transport = self.connect(StringTransport())
        echo.close(Reason.DRAIN)
        self.assertTrue(transport.disconnecting)

    def test_abort(self):
        """
        A rude end resets the connection at once and echoes nothing more.
        """
        echo, transport = self.connect()
        echo.abort(Reason.WRITE_TIMEOUT)
        echo.dataReceived(b"too late")
        self.assertTrue(transport.disconnected)
        self.assertEqual((transport.value(), echo.ending), (b"", True))

    def test_reasons(self):
        """
        Each way to end has its own word in the log.
        """
        done, lost, aborted = ConnectionDone(), ConnectionLost(), ConnectionAborted()

        tls_error = SSL.Error([("SSL routines", "", "no shared cipher")])

        def nothing(echo):
            pass

        def shake_hands(echo):
            echo.waiting_for = Reason.HANDSHAKE

        def hello(echo):
            shake_hands(echo)
            echo.transport.handle = Helloed()

        def hello_close(echo):
            hello(echo)
            echo.readConnectionLost()

        def hello_finish(echo):
            hello(echo)
            echo.close(Reason.DRAIN)

        def hello_agreed(echo):
            hello(echo)
            echo.waiting_for = None

        def timed_out(echo):
            echo.waiting_for = Reason.HANDSHAKE
            echo.timed_out()

        def finish_awaited(echo):
            echo.waiting_for = Reason.HANDSHAKE
            echo.close(Reason.DRAIN)

        def client(echo):
            echo.readConnectionLost()

        def close(echo):
            echo.close(Reason.DRAIN)

        def abort(echo):
            echo.abort(Reason.ABORTED)

        def finish_abort(echo):
            echo.close(Reason.DRAIN)
            echo.abort()

        def finish_stall(echo):
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
            (hello_finish, aborted, Reason.DRAIN),
            (hello_agreed, lost, Reason.RESET),
            (timed_out, aborted, Reason.HANDSHAKE),
            (finish_awaited, aborted, Reason.DRAIN),
            (client, done, Reason.CLIENT),
            (client, lost, Reason.RESET),
            (close, done, Reason.DRAIN),
            (close, lost, Reason.DRAIN),
            (close, RuntimeError("a bug"), Reason.ERROR),
            (abort, aborted, Reason.ABORTED),
            (abort, lost, Reason.ABORTED),
            (finish_abort, aborted, Reason.DRAIN),
            (finish_stall, aborted, Reason.WRITE_TIMEOUT),
        ):
            echo, _ = self.connect()
            begin(echo)
            self.connections.totals.ended.clear()
            echo.connectionLost(Failure(error))
            self.assertEqual(self.reasons(), [expected], (begin.__name__, error))

    def test_error(self):
        """
        What was wrong is told with the end, in words that nothing hides in.
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
        The client is named by its address.
        """
        echo, _ = self.connect()
        self.assertEqual(echo.peer(), "192.0.2.7:40000")

    def test_facts(self):
        """
        Of a client that no proxy stands before, nothing else is known.
        """
        echo, transport = self.connect()
        self.assertEqual(echo.log_fields(), {})
        self.assertIs(echo.client, transport.getPeer())

    def test_health_check(self):
        """
        A client that comes and goes without a byte is no more than a line at debug.
        """
        for send, level in ((b"", "debug"), (b"x", "info")):
            echo, _ = self.connect()
            if send:
                echo.dataReceived(send)
            echo.readConnectionLost()
            with capturedLogs() as events:
                echo.connectionLost(Failure(ConnectionDone()))
            self.assertEqual([event["log_level"].name for event in events], [level])

    def test_unread_and_owed(self):
        """
        What waits in the kernel counts in both directions, and so does the transport's buffer.
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

    def test_facts_of_tls(self):
        """
        What TLS has agreed on is told at the end; of a plain connection there is nothing to tell.
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

    def test_outlived(self):
        """
        A client that resumes a session after the end of its certificate gets no byte back.
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


def served_by(own):
    return server_context(TLSPolicy(), [KeyPair("", (own.certificate,), own.key, (), None)])


class HandshakeTests(ProtocolTestCase):
    """
    A connection whose TLS handshake is still to come.
    """

    def setUp(self):
        super().setUp()
        self.make(tls=object())

    def test_awaited(self):
        """
        It is awaited from accept until it is over; on a plain connection nothing is.
        """
        echo, _ = self.connect()
        self.assertIs(echo.waiting_for, Reason.HANDSHAKE)
        echo.handshakeCompleted()
        self.assertIsNone(echo.waiting_for)
        self.make()
        self.assertIsNone(self.connect()[0].waiting_for)

    def test_overdue(self):
        """
        A handshake that is late ends in a reset and counts as a refusal, with the word for it.
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
        A handshake counts once: as one that went well, with its version, or as one that
        failed, also when the client breaks it off in the middle.  Those of clients that have
        said nothing do not, nor do those that we break off.
        """
        handshakes = self.connections.totals.handshakes
        own = make_certificate(["a.example"])
        for version in VERSIONS:
            echo, transport = self.connect()
            hands = Handshake(served_by(own), client_context(version)).run()
            transport.handle = hands.server
            echo.handshakeCompleted()
            echo.connectionLost(Failure(ConnectionLost()))
            self.assertEqual(handshakes, {("ok", version): 1})
            handshakes.clear()
        silent = Handshake(served_by(own), client_context())
        begun = Handshake(served_by(own), client_context())
        begun.step()
        tls_error = SSL.Error([("", "", "wrong version number")])
        complete = shake_hands(served_by(own), client_context("TLSv1.3"))
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

    def test_fails(self):
        """
        A handshake that fails counts as a refusal, with OpenSSL's words for it.
        """
        echo, _ = self.connect()
        with capturedLogs() as events:
            echo.connectionLost(Failure(SSL.Error([("", "", "wrong version number")])))
            self.connections.refusals.log_summary()
        self.assertEqual(
            [formatEvent(event) for event in events],
            ["refused 1: handshake, the last from 192.0.2.7:40000 to tcp, wrong version number"],
        )

    def test_finish(self):
        """
        Before it is over there is nobody to say goodbye to.
        """
        echo, transport = self.connect()
        echo.close(Reason.IDLE_TIMEOUT)
        self.assertEqual((transport.disconnected, transport.half_closes), (True, 0))
        # Once only.
        echo.close(Reason.DRAIN)
        echo.connectionLost(Failure(ConnectionAborted()))
        self.assertEqual(self.reasons(), [Reason.IDLE_TIMEOUT])

    def test_layer(self):
        """
        It is awaited as well from a layer of Twisted's that stands before us.
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
        A transport that can do TLS, and on which nobody began it, is a plain one.
        """
        self.make()
        for outermost, waiting_for in ((True, None), (False, Reason.HANDSHAKE)):
            self.factory.outermost = outermost
            transport = SocketTransport()
            directlyProvides(transport, ISSLTransport)
            self.assertIs(self.connect(transport)[0].waiting_for, waiting_for)


class CountTests(ProtocolTestCase):
    """
    How many connections a client has.
    """

    ENDS = {
        "client": (lambda echo: echo.readConnectionLost(), ConnectionDone),
        "reset": (lambda echo: None, ConnectionLost),
        "finish": (lambda echo: echo.close(Reason.IDLE_TIMEOUT), ConnectionDone),
        "abort": (lambda echo: echo.abort(Reason.WRITE_TIMEOUT), ConnectionAborted),
        "handshake": (lambda echo: echo.timed_out(), ConnectionAborted),
        "bug": (lambda echo: None, ZeroDivisionError),
    }

    def test_back_at_none(self):
        """
        Whatever its end, a connection is counted from accept until then, and once.
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

    def test_exact(self):
        """
        A client has as many as it may, and one more when one is gone.
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
        Without a limit there is no count, and nothing to go wrong with it.
        """
        echo, _ = self.connect()
        self.assertEqual(self.admission.clients(), 0)
        echo.connectionLost(Failure(ConnectionDone()))
        self.assertEqual(self.admission.clients(), 0)
