"""
Tests for C{--greet}: the first line that a client gets.
"""

import json

from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionDone
from twisted.python.failure import Failure

from echod import protocol
from echod.connections.connection import Reason
from tests.support.echoes import SocketTransport
from tests.support.faultechoes import FaultTestCase


class Header:
    """
    A PROXY header that has been read.
    """

    client = IPv4Address("TCP", "198.51.100.9", 7)

    def __init__(self, fields):
        self.fields = fields

    def log_fields(self):
        return self.fields


class GreetingTests(FaultTestCase):
    """
    The greeting.
    """

    def test_plain(self):
        """
        The line comes first, and does not count as echo; then comes the echo.
        """
        self.make_faulty(greets=True)
        self.connections.opened = 4
        echo, transport = self.connect()
        line = transport.value()
        self.assertTrue(line.endswith(b"}\n"))
        self.assertEqual(
            json.loads(line),
            {
                "time": "1970-01-12T13:46:40.250Z",
                "connection": 5,
                "client": "192.0.2.7:40000",
                "listener": "tcp",
                "address": "10.0.0.1:12345",
            },
        )
        echo.dataReceived(b"one")
        self.assertEqual((transport.value(), echo.bytes_echoed), (line + b"one", 3))
        echo.connectionLost(Failure(ConnectionDone()))
        self.assertEqual(self.reasons(), [Reason.CLIENT])

    def test_worker_and_faults(self):
        """
        It has the worker and the faults, if there are any, and is not delayed.
        """
        _, transport = self.misbehave("latency=1s", greets=True, worker="3")
        fields = json.loads(transport.value())
        self.assertEqual((fields["worker"], fields["fault"]), ("3", "latency"))

    def test_hostile(self):
        """
        Whatever a proxy says, the line is one line of printable ASCII.
        """
        self.make_faulty(greets=True)
        echo = self.factory.buildProtocol(IPv4Address("TCP", "192.0.2.7", 1))
        hostile = '"\n\x1b[2J\u2028\ud800\x7f{"'
        echo.header = Header({"proxy": "192.0.2.7:1", "proxy_authority": hostile})
        self.connections.add(echo.header)
        transport = SocketTransport()
        echo.makeConnection(transport)
        line = transport.value()
        self.assertEqual(line.count(b"\n"), 1)
        self.assertTrue(line[:-1].replace(b"\x7f", b"").decode("ascii").isprintable())
        self.assertNotIn(b"\x7f", line)
        fields = json.loads(line)
        self.assertEqual(fields["client"], "198.51.100.9:7")
        self.assertEqual(fields["proxy_authority"], hostile)

    def test_tls(self):
        """
        With TLS, it comes after the handshake.
        """
        self.make_faulty(greets=True, tls=object())
        echo, transport = self.connect()
        self.assertEqual(transport.value(), b"")
        echo.handshakeCompleted()
        self.assertEqual(transport.value().count(b"\n"), 1)

    def test_refused_after_the_handshake(self):
        """
        A client whose certificate has expired since its session began gets none.
        """
        self.patch(protocol, "client_certificate_expired", lambda handle: True)
        self.make_faulty(greets=True, tls=object())
        echo, transport = self.connect()
        echo.handshakeCompleted()
        self.assertEqual((transport.value(), transport.disconnected), (b"", True))

    def test_off(self):
        """
        A listener with faults only has no greeting.
        """
        _, transport = self.misbehave("latency=1s")
        self.assertEqual(transport.value(), b"")
