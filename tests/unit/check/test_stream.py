"""
Tests for the plain stream.
"""

from twisted.internet.address import IPv4Address
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IHalfCloseableProtocol, IPushProducer
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from echod.check.results import CheckError, Outcome
from echod.check.stream import MAX_UNREAD_BYTES, Stream


class Transport:
    """
    A transport that records its calls.
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
    A transport with C{setTcpNoDelay}.
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
        self.assertIs(self.failureResultOf(work, CheckError).value.outcome, outcome)

    def test_connected(self):
        """
        Nagle's algorithm is disabled, and the stream is the transport's producer.
        """
        verifyObject(IHalfCloseableProtocol, self.stream)
        verifyObject(IPushProducer, self.stream)
        self.assertEqual(self.done, [("nodelay", True), ("register", True)])
        self.assertEqual(self.stream.peer, "192.0.2.1:9000")

    def test_no_tcp(self):
        """
        A transport without TCP options works.
        """
        transport = Transport()
        Stream().makeConnection(transport)
        self.assertEqual(transport.done, [("register", True)])

    def test_read(self):
        """
        Bytes are read, before or after a reader waits; then the end of the stream.
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
        With a full buffer the stream stops receiving, until it is empty.
        """
        self.stream.dataReceived(bytes(MAX_UNREAD_BYTES))
        self.assertTrue(self.transport.paused)
        self.successResultOf(self.begin(self.stream.read()))
        self.begin(self.stream.read())
        self.assertFalse(self.transport.paused)

    def test_pause_after_the_end(self):
        """
        After its end a stream is neither paused nor resumed: Twisted would report the end
        again.
        """
        self.stream.readConnectionLost()
        self.stream.pause()
        self.assertFalse(self.transport.paused)

    def test_write(self):
        """
        A write waits while the transport is full.
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
        A reset wakes the reader, the writer and the closer.
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
        Bytes from before a reset are read first.
        """
        self.stream.dataReceived(b"a")
        self.stream.connectionLost(Failure(ConnectionLost()))
        self.assertEqual(self.successResultOf(self.begin(self.stream.read())), b"a")

    def test_closed(self):
        """
        A closed connection reads as its end, and refuses writes.
        """
        self.stream.connectionLost(Failure(ConnectionDone()))
        self.assertEqual(self.successResultOf(self.begin(self.stream.read())), b"")
        self.fails(self.begin(self.stream.write(b"b")), Outcome.CLOSED_EARLY)

    def test_finish(self):
        """
        A half-close unregisters the producer.
        """
        self.successResultOf(self.begin(self.stream.finish()))
        self.stream.writeConnectionLost()
        self.assertEqual(self.done[2:], ["unregisterProducer", "loseWriteConnection"])

    def test_lose(self):
        """
        Closing ends when the connection is lost, and can be canceled.
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
        An abort is the transport's.
        """
        self.stream.abort()
        self.assertEqual(self.done[2:], ["abortConnection"])

    def test_given_up(self):
        """
        A canceled reader is not woken.
        """
        self.stream.pauseProducing()
        for work in (self.stream.read(), self.stream.write(b"a")):
            waiting = self.begin(work)
            waiting.cancel()
            self.failureResultOf(waiting, CancelledError)
        self.stream.dataReceived(b"b")
        self.stream.resumeProducing()
        self.assertEqual(self.successResultOf(self.begin(self.stream.read())), b"b")
