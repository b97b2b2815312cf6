"""
The client's half of a plain connection.
"""

from twisted.internet.address import IPv4Address
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IHalfCloseableProtocol, IPushProducer
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from echod.check.results import CheckFailed, Outcome
from echod.check.stream import MAX_UNREAD_BYTES, Stream


class Transport:
    """
    A transport that notes what is asked of it.
    """

    def __init__(self):
        self.done = []
        self.paused = False

    def getPeer(self):
        return IPv4Address("TCP", "192.0.2.1", 9000)

    def registerProducer(self, producer, streaming):
        self.done.append(("register", streaming))

    def pauseProducing(self):
        self.paused = True

    def resumeProducing(self):
        self.paused = False

    def write(self, piece):
        self.done.append(piece)

    def __getattr__(self, name):
        if name == "setTcpNoDelay":
            raise AttributeError(name)
        return lambda: self.done.append(name)


class TCPTransport(Transport):
    """
    One that can be told not to wait for more.
    """

    def setTcpNoDelay(self, yes):
        self.done.append(("nodelay", yes))


class StreamTests(SynchronousTestCase):
    """
    Tests for L{Stream}.
    """

    def setUp(self):
        self.stream = Stream()
        self.transport = TCPTransport()
        self.stream.makeConnection(self.transport)
        self.done = self.transport.done

    def begin(self, coroutine):
        return Deferred.fromCoroutine(coroutine)

    def fails(self, work, outcome):
        self.assertIs(self.failureResultOf(work, CheckFailed).value.outcome, outcome)

    def test_connected(self):
        """
        Small messages leave at once, and the transport tells when it is full.
        """
        verifyObject(IHalfCloseableProtocol, self.stream)
        verifyObject(IPushProducer, self.stream)
        self.assertEqual(self.done, [("nodelay", True), ("register", True)])
        self.assertEqual(self.stream.peer, "192.0.2.1:9000")

    def test_no_tcp(self):
        """
        A transport that is not TCP does as well.
        """
        transport = Transport()
        Stream().makeConnection(transport)
        self.assertEqual(transport.done, [("register", True)])

    def test_read(self):
        """
        What comes is read, before or after somebody waits, and then the end.
        """
        waiting = self.begin(self.stream.read())
        self.assertNoResult(waiting)
        self.stream.dataReceived(b"a")
        self.stream.dataReceived(b"b")
        self.assertEqual(self.successResultOf(waiting), b"a")
        self.assertEqual(self.successResultOf(self.begin(self.stream.read())), b"b")
        waiting = self.begin(self.stream.read())
        self.stream.readConnectionLost()
        self.assertEqual(self.successResultOf(waiting), b"")

    def test_bounded(self):
        """
        With much unread, the peer is made to wait, until somebody reads all of it.
        """
        self.stream.dataReceived(bytes(MAX_UNREAD_BYTES))
        self.assertTrue(self.transport.paused)
        self.successResultOf(self.begin(self.stream.read()))
        self.begin(self.stream.read())
        self.assertFalse(self.transport.paused)

    def test_pause_after_the_end(self):
        """
        Behind its end a stream is neither paused nor resumed: Twisted would tell the end
        again.
        """
        self.stream.readConnectionLost()
        self.stream.pause()
        self.assertFalse(self.transport.paused)

    def test_write(self):
        """
        Writing waits while the transport is full.
        """
        self.assertIsNone(self.successResultOf(self.begin(self.stream.write(b"a"))))
        self.stream.pauseProducing()
        waiting = self.begin(self.stream.write(b"b"))
        self.assertNoResult(waiting)
        self.assertEqual(self.done[2:], [b"a", b"b"])
        self.stream.resumeProducing()
        self.successResultOf(waiting)
        self.stream.stopProducing()

    def test_reset(self):
        """
        Reader, writer and closer are told of a reset.
        """
        self.stream.pauseProducing()
        reading = self.begin(self.stream.read())
        writing = self.begin(self.stream.write(b"b"))
        self.stream.connectionLost(Failure(ConnectionLost()))
        self.fails(reading, Outcome.RESET)
        self.fails(writing, Outcome.RESET)
        self.fails(self.begin(self.stream.read()), Outcome.RESET)
        self.fails(self.begin(self.stream.write(b"b")), Outcome.RESET)
        self.fails(self.begin(self.stream.finish()), Outcome.RESET)
        self.successResultOf(self.begin(self.stream.lose()))

    def test_what_came_before_a_reset(self):
        """
        What came before a reset is read first.
        """
        self.stream.dataReceived(b"a")
        self.stream.connectionLost(Failure(ConnectionLost()))
        self.assertEqual(self.successResultOf(self.begin(self.stream.read())), b"a")

    def test_closed(self):
        """
        A connection that was closed reads as its end, and takes nothing more.
        """
        self.stream.connectionLost(Failure(ConnectionDone()))
        self.assertEqual(self.successResultOf(self.begin(self.stream.read())), b"")
        self.fails(self.begin(self.stream.write(b"b")), Outcome.CLOSED_EARLY)

    def test_finish(self):
        """
        Our direction ends, and the transport does not wait for a producer.
        """
        self.successResultOf(self.begin(self.stream.finish()))
        self.stream.writeConnectionLost()
        self.assertEqual(self.done[2:], ["unregisterProducer", "loseWriteConnection"])

    def test_lose(self):
        """
        Closing is over when the connection is gone; until then one can give up on it.
        """
        impatient = self.begin(self.stream.lose())
        impatient.cancel()
        self.failureResultOf(impatient, CancelledError)
        waiting = self.begin(self.stream.lose())
        self.assertNoResult(waiting)
        self.stream.connectionLost(Failure(ConnectionDone()))
        self.successResultOf(waiting)

    def test_abort(self):
        """
        Abort is the transport's.
        """
        self.stream.abort()
        self.assertEqual(self.done[2:], ["abortConnection"])

    def test_given_up(self):
        """
        Who no longer waits is not told.
        """
        self.stream.pauseProducing()
        for work in (self.stream.read(), self.stream.write(b"a")):
            waiting = self.begin(work)
            waiting.cancel()
            self.failureResultOf(waiting, CancelledError)
        self.stream.dataReceived(b"b")
        self.stream.resumeProducing()
        self.assertEqual(self.successResultOf(self.begin(self.stream.read())), b"b")
