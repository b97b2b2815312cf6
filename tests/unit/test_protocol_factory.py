"""
Tests for L{EchoFactory}: which clients are admitted, and which are refused.
"""

from ipaddress import ip_network

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.internet.interfaces import IProtocolFactory
from twisted.logger import capturedLogs, formatEvent
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from zope.interface.verify import verifyObject

from echod.connections.connection import Reason
from echod.net.reject import RejectProtocol
from echod.protocol import Echo
from echod.proxyprotocol.protocol import ProxyHeaderProtocol, ProxyPolicy
from tests.support.certificates import make_certificate
from tests.support.echoes import ProtocolTestCase, SocketTransport
from tests.support.handshakes import CertificateInfo


class EchoFactoryTests(ProtocolTestCase):
    """
    The factory makes an L{Echo} for each connection.
    """

    def test_builds(self):
        """
        Each connection gets its own L{Echo}.
        """
        factory = self.factory
        verifyObject(IProtocolFactory, factory)
        one, two = (factory.buildProtocol(None) for _ in range(2))
        self.assertIsInstance(one, Echo)
        self.assertIsNot(one, two)
        self.assertIs(one.factory, factory)

    def test_lazily(self):
        """
        If no limit depends on a client's address, no address is made.
        """
        built = self.factory.build_lazily(lambda: self.fail("made an address"))
        self.assertIsInstance(built, Echo)
        self.assertIs(built.factory, self.factory)

    def test_silent(self):
        """
        The start and stop of the factory are not logged.
        """
        with capturedLogs() as events:
            self.factory.doStart()
            self.factory.doStop()
        self.assertEqual(list(events), [])

    def test_tls(self):
        """
        With TLS, the connection starts TLS; without TLS, it does not.
        """
        context = object()
        for given in (context, None):
            self.make(tls=given)
            _, transport = self.connect()
            self.assertIs(transport.tls, given)


class RefusedTests(ProtocolTestCase):
    """
    Clients that are refused before anything is read.
    """

    CLIENT = IPv4Address("TCP", "192.0.2.7", 40000)

    def logged(self):
        with capturedLogs() as events:
            self.connections.refusals.log_summary()
        return [formatEvent(event) for event in events]

    def assert_refused(self, reason, address=CLIENT):
        """
        The client is refused for this reason: with C{None} for a port, with a protocol for a layer.
        """
        before = len(self.connections)
        self.factory.outermost = True
        self.assertIsNone(self.factory.build_lazily(lambda: address))
        self.factory.outermost = False
        refused = self.factory.buildProtocol(address)
        self.assertIsInstance(refused, RejectProtocol)
        self.assertIs(refused.factory, self.factory)
        self.assertEqual(len(self.connections), before)
        counts = self.connections.refusals.counts
        self.assertEqual(counts, {("tcp", reason): 2})
        counts.clear()

    def test_address(self):
        """
        A client that the access rules deny is refused, also with an IPv4-mapped address.
        """
        self.make(deny=["192.0.2.0/24"])
        self.assert_refused(Reason.DENIED)
        self.assertEqual(self.logged(), ["refused 2: denied, the last from 192.0.2.7:40000 to tcp"])
        self.assert_refused(Reason.DENIED, IPv6Address("TCP", "::ffff:192.0.2.7", 1))
        self.assertEqual(self.logged(), ["refused 2: denied, the last from 192.0.2.7:1 to tcp"])
        self.assertIsInstance(self.factory.buildProtocol(UNIXAddress(b"/x")), Echo)

    def test_full(self):
        """
        At the limit of connections, every client is refused.
        """
        self.make(most=2, deny=["192.0.2.7"])
        others = [IPv4Address("TCP", f"192.0.2.{n}", 1) for n in (1, 2)]
        echos = [self.connect(SocketTransport(peer=each))[0] for each in others]
        self.assert_refused(Reason.MAX_CONNECTIONS)
        self.assert_refused(Reason.MAX_CONNECTIONS, UNIXAddress(b"/x"))
        echos[0].connectionLost(Failure(ConnectionDone()))
        self.assert_refused(Reason.DENIED)
        self.assertIsInstance(self.factory.buildProtocol(others[0]), Echo)

    def test_rate(self):
        """
        A client over its connect rate is refused until time has passed.
        """
        self.make(rate=(1.0, 2))
        for _ in range(2):
            self.assertIsInstance(self.factory.buildProtocol(self.CLIENT), Echo)
        self.assert_refused(Reason.CONNECT_RATE)
        self.clock.advance(1)
        self.assertIsInstance(self.factory.buildProtocol(self.CLIENT), Echo)

    def test_header_required(self):
        """
        If a PROXY header is required, a peer that is not trusted is refused.
        """
        self.make(proxies=ProxyPolicy(True, [ip_network("198.51.100.0/24")]))
        self.assert_refused(Reason.PROXY_HEADER)
        self.assert_refused(Reason.PROXY_HEADER, UNIXAddress(b"/x"))
        trusted = self.factory.buildProtocol(IPv4Address("TCP", "198.51.100.1", 1))
        self.assertIsInstance(trusted, ProxyHeaderProtocol)
        self.assertIs(trusted.factory, self.factory)

    def test_header_optional(self):
        """
        If it is optional, a peer that is not trusted is a client.
        """
        policy = ProxyPolicy(False, [ip_network("198.51.100.0/24")])
        self.make(proxies=policy, deny=["192.0.2.9"])
        self.assertIsInstance(self.factory.buildProtocol(self.CLIENT), Echo)
        self.assert_refused(Reason.DENIED, IPv4Address("TCP", "192.0.2.9", 1))
        trusted = self.factory.buildProtocol(IPv4Address("TCP", "198.51.100.1", 1))
        self.assertIsInstance(trusted, ProxyHeaderProtocol)

    def test_proxy_is_no_client(self):
        """
        For a trusted proxy, only the limit of all connections applies.
        """
        policy = ProxyPolicy(True, [ip_network("192.0.2.7")])
        self.make(most=1, proxies=policy, deny=["192.0.2.7"], per_client=1, rate=(1.0, 1))
        for _ in range(5):
            self.assertIsInstance(self.factory.buildProtocol(self.CLIENT), ProxyHeaderProtocol)
        self.make(most=0, proxies=policy)
        self.assert_refused(Reason.MAX_CONNECTIONS)

    def test_under_a_layer(self):
        """
        Under Twisted's own TLS, a refused connection is aborted at once.
        """
        factory = self.make(deny=["192.0.2.7"], per_client=1)
        layer = TLSMemoryBIOFactory(CertificateInfo(make_certificate()), False, factory, self.clock)
        transport = SocketTransport()
        wrapper = layer.buildProtocol(transport.getPeer())
        wrapper.makeConnection(transport)
        self.assertTrue(transport.disconnected)
        wrapper.connectionLost(Failure(ConnectionAborted()))
        self.assertEqual((len(self.connections), self.admission.clients()), (0, 0))
        self.assertEqual(self.connections.refusals.counts, {("tcp", Reason.DENIED): 1})
        self.assertEqual((self.reasons(), self.clock.getDelayedCalls()), ([], []))
