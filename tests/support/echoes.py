"""
An C{EchoFactory} without a socket, for tests of its connections.
"""

from ipaddress import ip_network

from twisted.internet.address import IPv4Address
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase

from echod.connections.admission import AccessRules, Admission, RateLimiter
from echod.connections.timeouts import Timeouts
from echod.connections.tracker import Connections
from echod.protocol import EchoFactory
from tests.support.fakes import EventAccessLog


class SocketTransport(StringTransport):
    """
    L{StringTransport} with more of a socket's transport.  A close with a registered producer is
    an error here; Twisted's transports would wait for ever (#4719).

    @ivar half_closes: how often our sending side was closed.
    @ivar tls: what TLS was started with.
    @ivar handle: OpenSSL's connection.
    """

    handle = None

    dataBuffer = b""
    offset = 0
    _tempDataLen = 0
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
    An C{EchoFactory} without a socket.
    """

    def setUp(self):
        self.clock = Clock()
        self.connections = Connections(self.clock, Timeouts(), EventAccessLog())
        self.factory = self.make()

    def make(self, most=1000, allow=(), deny=(), per_client=0, rate=None, tls=None, proxies=None):
        rules = AccessRules(map(ip_network, allow), map(ip_network, deny))
        made = RateLimiter(self.clock, *rate) if rate else None
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
