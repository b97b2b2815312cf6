"""
Tests for the limits of the HTTP server.
"""

from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from echod.admin.site import (
    HARD_LIMIT,
    IDLE_TIMEOUT,
    MAX_ACCEPTS,
    MAX_BODY_BYTES,
    MAX_LENGTH_DIGITS,
    SOFT_LIMIT,
    AdminSite,
)
from tests.support.fakes import SocketTransport


class Answering(Resource):
    """
    A resource that records the requests.
    """

    isLeaf = True

    def __init__(self):
        super().__init__()
        self.bodies = []
        self.late = False
        self.waiting = []

    def render(self, request):
        self.bodies.append(request.content.read())
        if self.late:
            self.waiting.append(request)
            return NOT_DONE_YET
        return b"yes"


class SiteTests(SynchronousTestCase):
    """
    Tests for connections, timeouts and bodies.
    """

    def setUp(self):
        self.clock = Clock()
        self.root = Answering()
        self.site = AdminSite(self.root, self.clock)
        self.site.doStart()
        self.addCleanup(self.site.doStop)

    def connect(self):
        transport = SocketTransport()
        self.addCleanup(transport.close)
        channel = self.site.buildProtocol(None)
        channel.makeConnection(transport)
        transport.protocol = channel
        return transport

    def ask(self, transport, method=b"GET", headers=b"", body=b""):
        head = method + b" / HTTP/1.1\r\nHost: x\r\n" + headers + b"\r\n"
        transport.protocol.dataReceived(head + body)

    def test_keep_alive(self):
        """
        A connection serves several requests, until it is idle for too long.
        """
        transport = self.connect()
        for number in range(1, 4):
            self.ask(transport)
            self.assertEqual(transport.value().count(b"\r\n\r\nyes"), number)
            self.clock.advance(IDLE_TIMEOUT - 1)
        self.assertFalse(transport.disconnecting)
        self.clock.advance(1)
        self.assertTrue(transport.disconnecting)

    def test_idle(self):
        """
        A connection without a request is closed without a log record, and aborted if that
        does not end.
        """
        with capturedLogs() as events:
            transport = self.connect()
            self.ask(transport)
            self.clock.advance(IDLE_TIMEOUT)
            self.assertTrue(transport.disconnecting)
            self.assertFalse(transport.disconnected)
            self.clock.advance(IDLE_TIMEOUT)
            self.assertTrue(transport.disconnected)
            transport.protocol.connectionLost(Failure(ConnectionDone()))
        self.assertEqual(events, [])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_unread(self):
        """
        A connection whose request is not read yet gets the timeout once more, after each
        request.
        """
        transport = self.connect()
        transport.client.send(b"GET")
        for _ in range(2):
            self.clock.advance(IDLE_TIMEOUT)
            self.assertFalse(transport.disconnecting)
            self.ask(transport)
        self.clock.advance(IDLE_TIMEOUT)
        self.assertFalse(transport.disconnecting)
        self.clock.advance(IDLE_TIMEOUT)
        self.assertTrue(transport.disconnecting)

    def test_nothing_unread(self):
        """
        A connection without a request is closed at once.
        """
        transport = self.connect()
        self.clock.advance(IDLE_TIMEOUT)
        self.assertTrue(transport.disconnecting)

    def test_last(self):
        """
        Its requests are read after those of other connections, where the transport can do
        that.
        """
        transport = self.connect()
        self.assertEqual(transport.last, [True])

    def test_ahead(self):
        """
        After pipelined requests the connection is closed with the first response; also with
        a body before the next request.
        """
        request = b"GET / HTTP/1.1\r\nHost: x\r\n"
        for first, rest in (
            (b"\r\n", b"\r\n"),
            (b"Content-Length: 1\r\n\r\na", b"\r\n"),
        ):
            transport = self.connect()
            transport.protocol.dataReceived(request + first + (request + rest) * 1000)
            self.assertEqual(transport.value().count(b"\r\n\r\nyes"), 1)
            self.assertTrue(transport.disconnecting)
        self.root.late = True
        transport = self.connect()
        self.ask(transport)
        self.ask(transport)
        (answered,) = self.root.waiting
        answered.write(b"yes")
        answered.finish()
        self.assertEqual(len(self.root.waiting), 1)
        self.assertTrue(transport.disconnecting)

    def test_no_clock(self):
        """
        It starts no timer for an access log.
        """
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_body_is_dropped(self):
        """
        A body is discarded.
        """
        transport = self.connect()
        size = MAX_BODY_BYTES
        self.ask(transport, b"POST", b"Content-Length: %d\r\n" % size, bytes(size))
        self.assertEqual(self.root.bodies, [b""])
        self.assertFalse(transport.disconnected)
        form = b"Content-Type: application/x-www-form-urlencoded\r\n"
        self.ask(transport, b"POST", form + b"Content-Length: 3\r\n", b"a=b")
        self.assertEqual(self.root.bodies, [b"", b""])

    def test_endless_body(self):
        """
        A client with a longer body is aborted.
        """
        for headers, body in (
            (b"Content-Length: 1000000000000\r\n", bytes(MAX_BODY_BYTES + 1)),
            (b"Transfer-Encoding: chunked\r\n", b"%x\r\n" % (1 << 20) + bytes(1 << 20)),
        ):
            transport = self.connect()
            self.ask(transport, b"POST", headers, body)
            self.assertTrue(transport.disconnected)
        self.assertEqual(self.root.bodies, [])

    def test_endless_head(self):
        """
        An endless header is aborted as well.
        """
        transport = self.connect()
        transport.protocol.dataReceived(b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 5000)
        self.assertTrue(transport.disconnecting)

    def test_room(self):
        """
        When there are too many connections, the oldest is aborted for the newest.
        """
        all_of_them = [self.connect() for _ in range(SOFT_LIMIT + 2)]
        self.assertEqual(
            [each.disconnected for each in all_of_them], [True] * 2 + [False] * SOFT_LIMIT
        )
        self.ask(all_of_them[-1])
        self.assertIn(b"\r\n\r\nyes", all_of_them[-1].value())

    def test_waiting(self):
        """
        A connection whose request is being answered, or is not read yet, stays; more than
        the limit may stay for a moment.
        """
        self.root.late = True
        waiting = []
        for number in range(SOFT_LIMIT):
            waiting.append(self.connect())
            if number % 2:
                self.ask(waiting[-1])
            else:
                waiting[-1].client.send(b"GET")
        more = [self.connect() for _ in range(3)]
        self.assertEqual([each.disconnected for each in waiting], [False] * SOFT_LIMIT)
        self.assertEqual([each.disconnected for each in more], [True, True, False])

    def test_always_sending(self):
        """
        Connections that send without completing a request do not accumulate.
        """
        self.root.late = True
        answering = self.connect()
        self.ask(answering)
        sending = []
        for _ in range(HARD_LIMIT + 1):
            sending.append(self.connect())
            sending[-1].client.send(b"GET")
        self.assertEqual(len(self.site.channels), HARD_LIMIT)
        self.assertFalse(answering.disconnected)
        self.assertEqual([each.disconnected for each in sending[:3]], [True, True, False])

    def test_all_wait(self):
        """
        While too many clients wait for a response, the port accepts none, until one has its
        response, or was read from and has not completed a request.
        """
        self.assertEqual(self.site.acceptsAtOnce, MAX_ACCEPTS)
        waiting = []
        for number in range(HARD_LIMIT - 1, -1, -1):
            waiting.append(self.connect())
            waiting[-1].client.send(b"GET")
            self.assertEqual(self.site.acceptsAtOnce, min(MAX_ACCEPTS, number))
        first, second, *_ = waiting
        self.ask(first)
        first.protocol.pauseProducing()
        self.assertEqual(self.site.acceptsAtOnce, 1)
        second.protocol.dataReceived(b"GET")
        self.assertEqual(self.site.acceptsAtOnce, 2)
        self.connect()
        self.assertEqual([each.disconnected for each in waiting[:3]], [True, True, False])

    def test_not_waiting(self):
        """
        A connection that is closing, or does not read its responses, is aborted for others,
        whatever it has sent.
        """
        first, second, third = (self.connect() for _ in range(3))
        for each in (first, second, third):
            each.client.send(b"GET")
        first.loseConnection()
        second.protocol.pauseProducing()
        third.protocol.pauseProducing()
        third.protocol.resumeProducing()
        for _ in range(SOFT_LIMIT):
            self.connect()
        self.assertEqual(
            [each.disconnected for each in (first, second, third)], [True, True, False]
        )

    def test_long_length(self):
        """
        A Content-Length that Python cannot convert is a bad request, and nothing is logged.
        """
        for digits in (MAX_LENGTH_DIGITS + 1, 5000):
            for name in (b"Content-Length", b"CONTENT-LENGTH"):
                transport = self.connect()
                self.ask(transport, b"POST", name + b":\t" + b"1" * digits + b"\r\n")
                self.assertTrue(transport.value().startswith(b"HTTP/1.1 400 "))
                self.assertTrue(transport.disconnecting)
        self.assertEqual(self.root.bodies, [])

    def test_gone(self):
        """
        A lost connection does not count.
        """
        for _ in range(2 * SOFT_LIMIT):
            transport = self.connect()
            transport.protocol.connectionLost(Failure(ConnectionDone()))
        self.assertEqual(len(self.site.channels), 0)

    def test_lose_all(self):
        """
        At a stop, idle connections are closed, and the clients in the accept queue are accepted,
        however many wait.
        """
        for _ in range(HARD_LIMIT):
            self.connect().client.send(b"GET")
        transport = self.connect()
        self.ask(transport)
        self.assertFalse(transport.disconnecting)
        self.assertLess(self.site.acceptsAtOnce, MAX_ACCEPTS)
        self.site.close_all()
        self.assertTrue(transport.disconnecting)
        self.assertEqual(self.site.acceptsAtOnce, MAX_ACCEPTS)

    def test_no_log(self):
        """
        Requests are not logged.
        """
        self.ask(self.connect())
        self.assertEqual(self.flushLoggedErrors(), [])
        self.site.log(None)
