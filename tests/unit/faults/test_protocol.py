"""
Tests for L{FaultyEcho}: the connection of a client that gets a fault, on a transport in memory.
"""

from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.python.failure import Failure

from echod.connections.connection import Reason
from echod.faults.protocol import MAX_HELD_BYTES, RESET_INTERVAL, FaultyEcho
from tests.support.echoes import SocketTransport
from tests.support.faultechoes import FaultTestCase


class FaultyEchoTests(FaultTestCase):
    """
    One connection with faults.
    """

    def lost(self, echo, error=ConnectionDone):
        echo.connectionLost(Failure(error()))
        self.assertEqual(self.clock.getDelayedCalls(), [])
        return self.reasons()

    def test_echoes_through_all_stages(self):
        """
        The bytes go through the faults in the order of the command line, and count when they are
        sent.
        """
        echo, transport = self.misbehave("latency=1s", "limit=5")
        self.assertIsInstance(echo, FaultyEcho)
        echo.dataReceived(b"0123456789")
        self.assertEqual((transport.value(), echo.bytes_echoed), (b"", 0))
        self.clock.advance(1)
        self.assertEqual((transport.value(), echo.bytes_echoed), (b"01234", 5))
        self.assertEqual((echo.ending, transport.half_closes), (True, 1))
        echo.dataReceived(b"discarded")
        self.assertEqual(transport.value(), b"01234")
        echo.readConnectionLost()
        self.assertTrue(transport.disconnecting)
        self.assertEqual(self.lost(echo), [Reason.FAULT])

    def test_log_fields(self):
        """
        The access record says which faults the connection got, each once.
        """
        echo, _ = self.misbehave("latency=1s", "reset=1MiB", "latency=2s")
        self.assertEqual(echo.log_fields(), {"fault": "latency+reset"})
        faults = self.connections.totals.faults
        self.assertEqual(faults, {("tcp", "latency"): 1, ("tcp", "reset"): 1})

    def test_half_close(self):
        """
        A client that closes its sending side gets the rest with its delay, then the close.
        """
        echo, transport = self.misbehave("latency=1s")
        echo.dataReceived(b"last words")
        echo.readConnectionLost()
        echo.readConnectionLost()
        self.assertFalse(echo.ending or transport.disconnecting)
        self.clock.advance(1)
        self.assertEqual(transport.value(), b"last words")
        self.assertTrue(transport.disconnecting)
        self.assertEqual(self.lost(echo), [Reason.CLIENT])

    def test_stops_reading(self):
        """
        When too much is delayed, the connection stops reading; when half of it is gone, it reads
        again.
        """
        echo, transport = self.misbehave("bandwidth=64KiB")
        echo.dataReceived(bytes(MAX_HELD_BYTES // 2))
        self.assertEqual(transport.producerState, "producing")
        echo.dataReceived(bytes(MAX_HELD_BYTES))
        self.assertEqual(transport.producerState, "paused")
        self.assertFalse(echo.paused)
        self.clock.pump([0.1] * 10)
        self.assertEqual(transport.producerState, "paused")
        self.clock.pump([0.1] * 15)
        self.assertEqual(transport.producerState, "producing")
        echo.dataReceived(b"x")
        self.clock.pump([0.1] * 40)
        self.assertEqual(echo.bytes_echoed, MAX_HELD_BYTES * 3 // 2 + 1)

    def test_stops_reading_with_the_transport(self):
        """
        It reads only while neither the transport nor the delayed bytes are too many.
        """
        echo, transport = self.misbehave("bandwidth=64KiB")
        echo.dataReceived(bytes(MAX_HELD_BYTES * 2))
        echo.pauseProducing()
        echo.resumeProducing()
        self.assertEqual((transport.producerState, echo.paused), ("paused", False))
        echo.pauseProducing()
        self.clock.pump([0.1] * 40)
        self.assertEqual((transport.producerState, echo.paused), ("paused", True))
        echo.resumeProducing()
        self.assertEqual((transport.producerState, echo.paused), ("producing", False))

    def test_reads_nothing_after_the_end(self):
        """
        After the end of the input it never reads again, which Twisted would report as another end.
        """
        echo, transport = self.misbehave("bandwidth=64KiB")
        echo.dataReceived(bytes(MAX_HELD_BYTES))
        echo.readConnectionLost()
        self.clock.pump([0.1] * 15)
        echo.resumeProducing()
        self.assertEqual(transport.producerState, "paused")

    def test_reset_by_bytes(self):
        """
        The reset comes when the client has received exactly the bytes before it.
        """
        pending = [(3, 0)] * 3
        transport = SocketTransport()
        echo, _ = self.misbehave("reset=3B", transport=transport)
        echo.pending = lambda: pending.pop() if pending else (0, 0)
        echo.dataReceived(b"0123")
        self.assertEqual((transport.value(), echo.ending), (b"012", True))
        echo.close(Reason.DRAIN)
        echo.readConnectionLost()
        self.assertFalse(transport.disconnected or transport.disconnecting)
        self.clock.advance(RESET_INTERVAL)
        self.clock.advance(RESET_INTERVAL)
        self.assertFalse(transport.disconnected)
        self.clock.advance(RESET_INTERVAL)
        self.assertTrue(transport.disconnected)
        self.assertEqual(self.lost(echo, ConnectionAborted), [Reason.FAULT])

    def test_reset_of_a_lost_connection(self):
        """
        A client that breaks the connection first ends the wait for the reset.
        """
        echo, transport = self.misbehave("reset=3B")
        echo.pending = lambda: (3, 0)
        echo.dataReceived(b"0123")
        self.assertEqual(self.lost(echo, ConnectionLost), [Reason.FAULT])
        self.assertFalse(transport.disconnected)

    def test_reset_by_time(self):
        """
        The reset comes at its time, whatever is delayed.
        """
        echo, transport = self.misbehave("latency=9s", "reset=5s")
        echo.dataReceived(b"one")
        self.clock.advance(5)
        self.assertEqual((transport.value(), transport.disconnected), (b"", True))
        self.assertEqual(self.lost(echo, ConnectionAborted), [Reason.FAULT])

    def test_refuse(self):
        """
        A refused connection is aborted at once, and counts as one.
        """
        for tls in (None, object()):
            echo, transport = self.misbehave("refuse", tls=tls, greets=True)
            self.assertEqual((transport.disconnected, transport.value()), (True, b""))
            echo.dataReceived(b"one")
            self.assertEqual(transport.value(), b"")
            echo.connectionLost(Failure(ConnectionAborted()))
        self.assertEqual(self.reasons(), [Reason.FAULT] * 2)

    def test_timeout(self):
        """
        Everything is taken and nothing answered; a minute after the client's end there is a close.
        """
        echo, transport = self.misbehave("timeout", greets=True)
        echo.dataReceived(bytes(1 << 20))
        echo.readConnectionLost()
        self.assertEqual((transport.value(), transport.producerState), (b"", "producing"))
        self.clock.advance(60)
        self.assertTrue(transport.disconnecting)
        self.assertEqual(self.lost(echo), [Reason.FAULT])

    def test_slow_close(self):
        """
        The close of the client is answered later.
        """
        echo, transport = self.misbehave("slow-close=2s")
        echo.dataReceived(b"one")
        echo.readConnectionLost()
        self.assertEqual((transport.value(), transport.disconnecting), (b"one", False))
        self.clock.advance(2)
        self.assertTrue(transport.disconnecting)
        self.assertEqual(self.lost(echo), [Reason.CLIENT])

    def test_limit_after_the_end(self):
        """
        A limit that ends a connection whose client has closed closes it at once.
        """
        echo, transport = self.misbehave("limit=2", "slow-close=2s")
        echo.dataReceived(b"012")
        echo.readConnectionLost()
        self.clock.advance(2)
        self.assertEqual((transport.value(), transport.half_closes), (b"01", 0))
        self.assertTrue(transport.disconnecting)
        self.assertEqual(self.lost(echo), [Reason.FAULT])

    def test_close(self):
        """
        A polite end sends at once what is delayed.
        """
        echo, transport = self.misbehave("latency=1s", "slicer=1,delay=1s")
        echo.dataReceived(b"one")
        echo.close(Reason.DRAIN)
        self.assertEqual((transport.value(), transport.half_closes), (b"one", 1))
        echo.close(Reason.MAX_LIFETIME)
        self.assertEqual(transport.half_closes, 1)
        self.assertEqual(self.lost(echo), [Reason.DRAIN])

    def test_close_after_the_end(self):
        """
        A polite end after the client's own gives what is delayed, and is then the client's.
        """
        echo, transport = self.misbehave("latency=1s")
        echo.dataReceived(b"one")
        echo.readConnectionLost()
        echo.close(Reason.IDLE_TIMEOUT)
        self.assertEqual((transport.value(), transport.disconnecting), (b"one", True))
        self.assertEqual(self.lost(echo), [Reason.CLIENT])

    def test_close_before_the_handshake(self):
        """
        Before the end of the handshake there is nothing to send: the connection is aborted.
        """
        echo, transport = self.misbehave("latency=1s", tls=object())
        echo.close(Reason.DRAIN)
        self.assertEqual((transport.disconnected, transport.half_closes), (True, 0))

    def test_abort(self):
        """
        An abort forgets what is delayed.
        """
        echo, transport = self.misbehave("latency=1s")
        echo.dataReceived(b"one")
        echo.abort(Reason.ABORTED)
        self.clock.advance(2)
        self.assertEqual((transport.value(), transport.disconnected), (b"", True))
        self.assertEqual(self.lost(echo, ConnectionAborted), [Reason.ABORTED])

    def test_lost(self):
        """
        A connection that is lost forgets what is delayed, and nothing refers to it.
        """
        echo, transport = self.misbehave("latency=1s", "reset=5s")
        echo.dataReceived(b"one")
        self.assertEqual(self.lost(echo, ConnectionLost), [Reason.RESET])
        self.assertEqual(transport.value(), b"")
        self.assertEqual(self.factory._faulty, set())
