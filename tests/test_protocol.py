"""
The echo itself, on a transport that is a string.
"""

import socket

from OpenSSL import SSL
from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import (
    IHalfCloseableProtocol,
    IProtocolFactory,
    IPushProducer,
)
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.logger import capturedLogs
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from echod.connection import Connection, Reason
from echod.connections import Connections
from echod.protocol import Echo, EchoFactory


class SocketTransport(StringTransport):
    """
    What L{StringTransport} lacks of a socket's transport.  It refuses to be closed under
    a registered producer, where Twisted's transports would wait for ever (#4719).

    @ivar half_closes: how often our sending side was closed.
    @ivar tls: what TLS was started with.
    """

    dataBuffer = b""
    offset = 0
    half_closes = 0
    tls = None

    def __init__(self, descriptor=-1):
        super().__init__(peerAddress=IPv4Address("TCP", "192.0.2.7", 40000))
        self._descriptor = descriptor

    def fileno(self):
        return self._descriptor

    def startTLS(self, context):
        assert self.producer is None, "TLS must come before the producer"
        self.tls = context

    def loseConnection(self):
        assert self.producer is None, "a registered producer holds the close back"
        super().loseConnection()

    def loseWriteConnection(self):
        assert self.producer is None, "a registered producer holds the close back"
        self.half_closes += 1

    def abortConnection(self):
        self.disconnected = self.disconnecting = True


class EchoTests(SynchronousTestCase):
    """
    One connection, from accept to end.
    """

    def setUp(self):
        self.connections = Connections(Clock(), write_timeout=30.0, access_log=False)
        self.factory = EchoFactory("tcp", self.connections)

    def connect(self, transport=None):
        transport = transport or SocketTransport()
        echo = self.factory.buildProtocol(transport.getPeer())
        echo.makeConnection(transport)
        return echo, transport

    def reasons(self):
        return list(self.connections.ended.elements())

    def test_interfaces(self):
        """
        Twisted finds the half-close and producer methods it looks for, and the live set its own.
        """
        echo, _ = self.connect()
        verifyObject(IHalfCloseableProtocol, echo)
        verifyObject(IPushProducer, echo)
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

        def nothing(echo):
            pass

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
            (nothing, SSL.Error([("SSL routines", "", "no shared cipher")]), Reason.ERROR),
            (nothing, RuntimeError("a bug"), Reason.ERROR),
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


class EchoFactoryTests(SynchronousTestCase):
    """
    What makes an L{Echo} for each connection.
    """

    def setUp(self):
        self.connections = Connections(Clock(), write_timeout=30.0, access_log=False)

    def test_builds(self):
        """
        Every connection gets an echo of its own.
        """
        factory = EchoFactory("tcp", self.connections)
        verifyObject(IProtocolFactory, factory)
        one, two = (factory.buildProtocol(None) for _ in range(2))
        self.assertIsInstance(one, Echo)
        self.assertIsNot(one, two)
        self.assertIs(one.factory, factory)

    def test_silent(self):
        """
        A factory that starts and stops writes nothing to the log.
        """
        factory = EchoFactory("tcp", self.connections)
        with capturedLogs() as events:
            factory.doStart()
            factory.doStop()
        self.assertEqual(list(events), [])

    def test_tls(self):
        """
        A TLS listener starts TLS before anything else, and a plain one never does.
        """
        context = object()
        for given in (context, None):
            transport = SocketTransport()
            EchoFactory("x", self.connections, given).buildProtocol(None).makeConnection(transport)
            self.assertIs(transport.tls, given)
