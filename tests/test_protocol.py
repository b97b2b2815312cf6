"""
The echo itself, on a transport that is a string.
"""

import contextlib
import socket
from ipaddress import ip_network

from OpenSSL import SSL
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import (
    IHalfCloseableProtocol,
    IHandshakeListener,
    IProtocolFactory,
    IPushProducer,
    ISSLTransport,
)
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.logger import capturedLogs, formatEvent
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import directlyProvides
from zope.interface.verify import verifyObject

from echod.admission import AddressRules, Admission, ConnectRate
from echod.connection import Connection, Reason
from echod.connections import Connections
from echod.credentials import Credentials
from echod.limits import TimeLimits
from echod.protocol import Echo, EchoFactory, Refused
from echod.proxy import ProxyHeader, ProxyPolicy
from echod.tls import Policy, server_context
from tests.certificates import make_certificate
from tests.handshakes import Served, client_context, shake_hands


class SocketTransport(StringTransport):
    """
    What L{StringTransport} lacks of a socket's transport.  It refuses to be closed under
    a registered producer, where Twisted's transports would wait for ever (#4719).

    @ivar half_closes: how often our sending side was closed.
    @ivar tls: what TLS was started with.
    @ivar handle: OpenSSL's connection.
    """

    handle = None

    dataBuffer = b""
    offset = 0
    half_closes = 0
    tls = None

    def __init__(self, descriptor=-1, peer=None):
        super().__init__(peerAddress=peer or IPv4Address("TCP", "192.0.2.7", 40000))
        self._descriptor = descriptor

    def fileno(self):
        return self._descriptor

    def startTLS(self, context):
        assert self.producer is None, "TLS must come before the producer"
        self.tls = context

    def getHandle(self):
        return self.handle

    def loseConnection(self):
        assert self.producer is None, "a registered producer holds the close back"
        super().loseConnection()

    def loseWriteConnection(self):
        assert self.producer is None, "a registered producer holds the close back"
        self.half_closes += 1

    def abortConnection(self):
        self.disconnected = self.disconnecting = True


class ProtocolTestCase(SynchronousTestCase):
    """
    A listener without a socket.
    """

    def setUp(self):
        self.clock = Clock()
        self.connections = Connections(self.clock, TimeLimits(), access_log=True)
        self.factory = self.make()

    def make(self, most=1000, allow=(), deny=(), per_client=0, rate=None, tls=None, proxies=None):
        rules = AddressRules(map(ip_network, allow), map(ip_network, deny))
        made = ConnectRate(self.clock, *rate) if rate else None
        self.admission = Admission(self.connections, most, rules, per_client, made)
        self.factory = EchoFactory("tcp", self.admission, tls, proxies)
        return self.factory

    def connect(self, transport=None):
        transport = transport or SocketTransport()
        echo = self.factory.buildProtocol(transport.getPeer())
        echo.makeConnection(transport)
        return echo, transport

    def reasons(self):
        return list(self.connections.ended.elements())


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
        echo.finish(Reason.DRAIN)
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
        echo.finish(Reason.DRAIN)
        echo.finish(Reason.ERROR)
        self.assertEqual(transport.half_closes, 1)
        echo.connectionLost(Failure(ConnectionDone()))
        self.assertEqual(self.reasons(), [Reason.DRAIN])

    def test_finish_after_client_half_closed(self):
        """
        A client that has closed its side is owed its echo, and a drain does not disturb that.
        """
        echo, transport = self.connect()
        echo.readConnectionLost()
        echo.finish(Reason.DRAIN)
        self.assertEqual(transport.half_closes, 0)
        echo.connectionLost(Failure(ConnectionDone()))
        self.assertEqual(self.reasons(), [Reason.CLIENT])

    def test_finish_on_a_layer(self):
        """
        Over a layer that cannot half-close, such as Twisted's own TLS, a polite end closes.
        """
        echo, transport = self.connect(StringTransport())
        echo.finish(Reason.DRAIN)
        self.assertTrue(transport.disconnecting)

    def test_abort(self):
        """
        A rude end resets the connection at once and echoes nothing more.
        """
        echo, transport = self.connect()
        echo.abort(Reason.WRITE_STALL)
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
            echo.awaited = Reason.HANDSHAKE

        def overdue(echo):
            echo.awaited = Reason.HANDSHAKE
            echo.overdue()

        def finish_awaited(echo):
            echo.awaited = Reason.HANDSHAKE
            echo.finish(Reason.DRAIN)

        def client(echo):
            echo.readConnectionLost()

        def finish(echo):
            echo.finish(Reason.DRAIN)

        def abort(echo):
            echo.abort(Reason.ABORTED)

        def finish_abort(echo):
            echo.finish(Reason.DRAIN)
            echo.abort()

        def finish_stall(echo):
            echo.finish(Reason.DRAIN)
            echo.abort(Reason.WRITE_STALL)

        for begin, error, expected in (
            (nothing, done, Reason.CLIENT),
            (nothing, lost, Reason.RESET),
            (nothing, tls_error, Reason.ERROR),
            (nothing, RuntimeError("a bug"), Reason.ERROR),
            (shake_hands, tls_error, Reason.HANDSHAKE),
            (shake_hands, done, Reason.CLIENT),
            (shake_hands, lost, Reason.RESET),
            (overdue, aborted, Reason.HANDSHAKE),
            (finish_awaited, aborted, Reason.DRAIN),
            (client, done, Reason.CLIENT),
            (client, lost, Reason.RESET),
            (finish, done, Reason.DRAIN),
            (finish, lost, Reason.DRAIN),
            (finish, RuntimeError("a bug"), Reason.ERROR),
            (abort, aborted, Reason.ABORTED),
            (abort, lost, Reason.ABORTED),
            (finish_abort, aborted, Reason.DRAIN),
            (finish_stall, aborted, Reason.WRITE_STALL),
        ):
            echo, _ = self.connect()
            begin(echo)
            self.connections.ended.clear()
            echo.connectionLost(Failure(error))
            self.assertEqual(self.reasons(), [expected], (begin.__name__, error))

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
        self.assertEqual(echo.facts(), {})
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
        self.assertEqual((echo.unread(), echo.owed()), (0, (0, 0, 0)))
        theirs.sendall(b"seven!!")
        self.assertEqual((echo.unread(), echo.owed()), (7, (0, 0, 0)))
        ours.sendall(b"not taken")
        transport.dataBuffer, transport.offset = b"12345", 2
        in_kernel, *in_transport = echo.owed()
        self.assertGreater(in_kernel, 0)
        self.assertEqual(in_transport, [5, 2])

    def test_facts_of_tls(self):
        """
        What TLS has agreed on is told at the end; of a plain connection there is nothing to tell.
        """
        echo, transport = self.connect()
        self.assertEqual(echo.facts(), {})
        self.factory.tls = object()
        made = make_certificate()
        own = Credentials("made.pem", (made.certificate,), made.key, (), None)
        hands = shake_hands(server_context(Policy(), [own]), client_context(), b"a.example")
        echo, transport = self.connect()
        transport.handle = hands.server
        directlyProvides(transport, ISSLTransport)
        echo.handshakeCompleted()
        self.assertFalse(transport.disconnected)
        echo.connectionLost(Failure(ConnectionDone()))
        self.assertEqual(echo.facts()["tls_sni"], "a.example")

    def test_outlived(self):
        """
        A client that resumes a session after the end of its certificate gets no byte back.
        """
        self.factory.tls = object()
        authority = make_certificate(["authority"], authority=True)
        made, shown = make_certificate(), make_certificate(["client"], authority)
        own = Credentials("made.pem", (made.certificate,), made.key, (), None)
        policy = Policy(client_auth="require")
        server = server_context(policy, [own], [authority.certificate])
        client = client_context(None, shown)
        first = shake_hands(server, client)
        session = first.client.get_session()
        echo, transport = self.connect()
        transport.handle = handle = shake_hands(server, client, session=session).server
        certificate = handle.get_peer_certificate()
        certificate.gmtime_adj_notAfter(-1)
        self.patch(handle, "get_peer_certificate", lambda: certificate)
        echo.handshakeCompleted()
        with capturedLogs() as events:
            echo.connectionLost(Failure(ConnectionAborted()))
            self.connections.refusals.tell()
        self.assertTrue(transport.disconnected)
        self.assertEqual(self.reasons(), [Reason.HANDSHAKE])
        self.assertIn("resumed after the end of the client's certificate", formatEvent(events[0]))


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
        self.assertIs(echo.awaited, Reason.HANDSHAKE)
        echo.handshakeCompleted()
        self.assertIsNone(echo.awaited)
        self.make()
        self.assertIsNone(self.connect()[0].awaited)

    def test_overdue(self):
        """
        A handshake that is late ends in a reset and counts as a refusal, with the word for it.
        """
        echo, transport = self.connect()
        echo.overdue()
        self.assertTrue(transport.disconnected and echo.ending)
        with capturedLogs() as events:
            echo.connectionLost(Failure(ConnectionAborted()))
            self.connections.refusals.tell()
        self.assertEqual(
            [formatEvent(event) for event in events],
            ["refused 1: handshake, the last from 192.0.2.7:40000 to tcp, late"],
        )

    def test_fails(self):
        """
        A handshake that fails counts as a refusal, with OpenSSL's words for it.
        """
        echo, _ = self.connect()
        with capturedLogs() as events:
            echo.connectionLost(Failure(SSL.Error([("", "", "wrong version number")])))
            self.connections.refusals.tell()
        self.assertEqual(
            [formatEvent(event) for event in events],
            ["refused 1: handshake, the last from 192.0.2.7:40000 to tcp, wrong version number"],
        )

    def test_finish(self):
        """
        Before it is over there is nobody to say goodbye to.
        """
        echo, transport = self.connect()
        echo.finish(Reason.IDLE)
        self.assertEqual((transport.disconnected, transport.half_closes), (True, 0))
        # Once only.
        echo.finish(Reason.DRAIN)
        echo.connectionLost(Failure(ConnectionAborted()))
        self.assertEqual(self.reasons(), [Reason.IDLE])

    def test_layer(self):
        """
        It is awaited as well from a layer of Twisted's that stands before us.
        """
        factory = self.make()
        layer = TLSMemoryBIOFactory(Served(make_certificate()), False, factory, self.clock)
        transport = SocketTransport()
        wrapper = layer.buildProtocol(transport.getPeer())
        wrapper.makeConnection(transport)
        echo = wrapper.wrappedProtocol
        self.assertIs(echo.awaited, Reason.HANDSHAKE)
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
        self.assertEqual((echo.awaited, got), (None, b"hello"))

    def test_outermost(self):
        """
        A transport that can do TLS, and on which nobody began it, is a plain one.
        """
        self.make()
        for outermost, awaited in ((True, None), (False, Reason.HANDSHAKE)):
            self.factory.outermost = outermost
            transport = SocketTransport()
            directlyProvides(transport, ISSLTransport)
            self.assertIs(self.connect(transport)[0].awaited, awaited)


class CountTests(ProtocolTestCase):
    """
    How many connections a client has.
    """

    ENDS = {
        "client": (lambda echo: echo.readConnectionLost(), ConnectionDone),
        "reset": (lambda echo: None, ConnectionLost),
        "finish": (lambda echo: echo.finish(Reason.IDLE), ConnectionDone),
        "abort": (lambda echo: echo.abort(Reason.WRITE_STALL), ConnectionAborted),
        "handshake": (lambda echo: echo.overdue(), ConnectionAborted),
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


class EchoFactoryTests(ProtocolTestCase):
    """
    What makes an L{Echo} for each connection.
    """

    def test_builds(self):
        """
        Every connection gets an echo of its own.
        """
        factory = self.factory
        verifyObject(IProtocolFactory, factory)
        one, two = (factory.buildProtocol(None) for _ in range(2))
        self.assertIsInstance(one, Echo)
        self.assertIsNot(one, two)
        self.assertIs(one.factory, factory)

    def test_silent(self):
        """
        A factory that starts and stops writes nothing to the log.
        """
        with capturedLogs() as events:
            self.factory.doStart()
            self.factory.doStop()
        self.assertEqual(list(events), [])

    def test_tls(self):
        """
        A TLS listener starts TLS before anything else, and a plain one never does.
        """
        context = object()
        for given in (context, None):
            self.make(tls=given)
            _, transport = self.connect()
            self.assertIs(transport.tls, given)


class RefusedTests(ProtocolTestCase):
    """
    Who is turned away before anything is read.
    """

    CLIENT = IPv4Address("TCP", "192.0.2.7", 40000)

    def told(self):
        with capturedLogs() as events:
            self.connections.refusals.tell()
        return [formatEvent(event) for event in events]

    def assert_refused(self, reason, address=CLIENT):
        """
        The client is refused for this reason, in the way that suits whoever asks.
        """
        before = len(self.connections)
        self.factory.outermost = True
        self.assertIsNone(self.factory.buildProtocol(address))
        self.factory.outermost = False
        refused = self.factory.buildProtocol(address)
        self.assertIsInstance(refused, Refused)
        self.assertIs(refused.factory, self.factory)
        self.assertEqual(len(self.connections), before)
        counts = self.connections.refusals.counts
        self.assertEqual(counts, {("tcp", reason): 2})
        counts.clear()

    def test_address(self):
        """
        Whom the rules keep out is refused, by the address that an IPv4 client really has.
        """
        self.make(deny=["192.0.2.0/24"])
        self.assert_refused(Reason.ADDRESS)
        self.assertEqual(self.told(), ["refused 2: address, the last from 192.0.2.7:40000 to tcp"])
        self.assert_refused(Reason.ADDRESS, IPv6Address("TCP", "::ffff:192.0.2.7", 1))
        self.assertEqual(self.told(), ["refused 2: address, the last from 192.0.2.7:1 to tcp"])
        self.assertIsInstance(self.factory.buildProtocol(UNIXAddress(b"/x")), Echo)

    def test_full(self):
        """
        When there are as many connections as may be, everybody else is refused.
        """
        self.make(most=2, deny=["192.0.2.7"])
        others = [IPv4Address("TCP", f"192.0.2.{n}", 1) for n in (1, 2)]
        echos = [self.connect(SocketTransport(peer=each))[0] for each in others]
        self.assert_refused(Reason.MAX_CONNECTIONS)
        self.assert_refused(Reason.MAX_CONNECTIONS, UNIXAddress(b"/x"))
        echos[0].connectionLost(Failure(ConnectionDone()))
        self.assert_refused(Reason.ADDRESS)
        self.assertIsInstance(self.factory.buildProtocol(others[0]), Echo)

    def test_rate(self):
        """
        Who comes too often is refused, until time has passed.
        """
        self.make(rate=(1.0, 2))
        for _ in range(2):
            self.assertIsInstance(self.factory.buildProtocol(self.CLIENT), Echo)
        self.assert_refused(Reason.RATE)
        self.clock.advance(1)
        self.assertIsInstance(self.factory.buildProtocol(self.CLIENT), Echo)

    def test_header_required(self):
        """
        Where a PROXY header is required, whoever is not trusted to send one is refused.
        """
        self.make(proxies=ProxyPolicy(True, [ip_network("198.51.100.0/24")]))
        self.assert_refused(Reason.PROXY_HEADER)
        self.assert_refused(Reason.PROXY_HEADER, UNIXAddress(b"/x"))
        trusted = self.factory.buildProtocol(IPv4Address("TCP", "198.51.100.1", 1))
        self.assertIsInstance(trusted, ProxyHeader)
        self.assertIs(trusted.factory, self.factory)

    def test_header_optional(self):
        """
        Where it is optional, whoever is not trusted is a client like any other.
        """
        policy = ProxyPolicy(False, [ip_network("198.51.100.0/24")])
        self.make(proxies=policy, deny=["192.0.2.9"])
        self.assertIsInstance(self.factory.buildProtocol(self.CLIENT), Echo)
        self.assert_refused(Reason.ADDRESS, IPv4Address("TCP", "192.0.2.9", 1))
        trusted = self.factory.buildProtocol(IPv4Address("TCP", "198.51.100.1", 1))
        self.assertIsInstance(trusted, ProxyHeader)

    def test_not_the_proxy_is_the_client(self):
        """
        A trusted proxy is asked for nothing of its own, but for room.
        """
        policy = ProxyPolicy(True, [ip_network("192.0.2.7")])
        self.make(most=1, proxies=policy, deny=["192.0.2.7"], per_client=1, rate=(1.0, 1))
        for _ in range(5):
            self.assertIsInstance(self.factory.buildProtocol(self.CLIENT), ProxyHeader)
        self.make(most=0, proxies=policy)
        self.assert_refused(Reason.MAX_CONNECTIONS)

    def test_under_a_layer(self):
        """
        Under Twisted's own TLS a refused connection is aborted at once, and nothing is left.
        """
        factory = self.make(deny=["192.0.2.7"], per_client=1)
        layer = TLSMemoryBIOFactory(Served(make_certificate()), False, factory, self.clock)
        transport = SocketTransport()
        wrapper = layer.buildProtocol(transport.getPeer())
        wrapper.makeConnection(transport)
        self.assertTrue(transport.disconnected)
        wrapper.connectionLost(Failure(ConnectionAborted()))
        self.assertEqual((len(self.connections), self.admission.clients()), (0, 0))
        self.assertEqual(self.connections.refusals.counts, {("tcp", Reason.ADDRESS): 1})
        self.assertEqual((self.reasons(), self.clock.getDelayedCalls()), ([], []))
