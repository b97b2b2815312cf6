"""
HTTP for the few who look: what a client can make it hold.
"""

from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from echod.admin.site import (
    ACCEPTS,
    HARD_LIMIT,
    IDLE_TIMEOUT,
    MAX_BODY_BYTES,
    MAX_LENGTH_DIGITS,
    SOFT_LIMIT,
    AdminSite,
)
from tests.support.fakes import SocketTransport


class Answering(Resource):
    """
    A resource that notes what has been asked.
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
    So many connections, so many seconds, so many bytes.
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
        A connection serves request after request, until it has been idle for long.
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
        Who asks for nothing is let go without a word in the log, and cut off when that
        does not come to an end.
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
        Who has asked, and has not been read yet, is let go after another such time only,
        and has it again after each request.
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
        Who has asked for nothing is let go at once.
        """
        transport = self.connect()
        self.clock.advance(IDLE_TIMEOUT)
        self.assertTrue(transport.disconnecting)

    def test_last(self):
        """
        Its requests are read when all others have been served, where the transport can.
        """
        transport = self.connect()
        self.assertEqual(transport.last, [True])

    def test_ahead(self):
        """
        Of who asks for more before there is an answer, one is the last; also when the
        next comes behind a body, or while the answer is being made.
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
        It keeps no clock for a log that it does not have.
        """
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_body_is_dropped(self):
        """
        A body is not kept, in memory or in a file.
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
        Who sends more than that is cut off.
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
        Nor is a head without an end read for long.
        """
        transport = self.connect()
        transport.protocol.dataReceived(b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 5000)
        self.assertTrue(transport.disconnecting)

    def test_room(self):
        """
        When there are too many, who has been there longest makes room for the newest.
        """
        all_of_them = [self.connect() for _ in range(SOFT_LIMIT + 2)]
        self.assertEqual(
            [each.disconnected for each in all_of_them], [True] * 2 + [False] * SOFT_LIMIT
        )
        self.ask(all_of_them[-1])
        self.assertIn(b"\r\n\r\nyes", all_of_them[-1].value())

    def test_waiting(self):
        """
        One whose request is being answered, or has come and has not been read yet, makes no
        room; until all are of that kind, when there are more for a moment.
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
        Those who send and send, and ask for nothing, do not add up.
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
        When so many wait for an answer, the port accepts no more, until one is answered, or has
        been read from and has not asked.
        """
        self.assertEqual(self.site.acceptsAtOnce, ACCEPTS)
        waiting = []
        for number in range(HARD_LIMIT - 1, -1, -1):
            waiting.append(self.connect())
            waiting[-1].client.send(b"GET")
            self.assertEqual(self.site.acceptsAtOnce, min(ACCEPTS, number))
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
        One that is being closed, or does not take its answers, is not read from: it makes room,
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
        A Content-Length of more digits than Python makes a number of is a bad request, and
        nothing in the log.
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
        Who has gone takes no room.
        """
        for _ in range(2 * SOFT_LIMIT):
            transport = self.connect()
            transport.protocol.connectionLost(Failure(ConnectionDone()))
        self.assertEqual(len(self.site.channels), 0)

    def test_lose_all(self):
        """
        At the end, idle connections are closed, and the clients in the kernel's queue accepted,
        however many wait.
        """
        for _ in range(HARD_LIMIT):
            self.connect().client.send(b"GET")
        transport = self.connect()
        self.ask(transport)
        self.assertFalse(transport.disconnecting)
        self.assertLess(self.site.acceptsAtOnce, ACCEPTS)
        self.site.close_all()
        self.assertTrue(transport.disconnecting)
        self.assertEqual(self.site.acceptsAtOnce, ACCEPTS)

    def test_no_log(self):
        """
        Requests are not logged.
        """
        self.ask(self.connect())
        self.assertEqual(self.flushLoggedErrors(), [])
        self.site.log(None)
