"""
Tests for the ping.
"""

from twisted.internet.defer import Deferred

from tests.support.memory import Dials, echo, sleep
from tests.support.pinging import PingTestCase


class PingTests(PingTestCase):
    """
    Tests for L{Ping}.
    """

    def test_echoes(self):
        """
        Each message is reported when it is back, with its time.
        """

        async def slow(end):
            while piece := await end.read():
                await sleep(self.clock, 0.5)
                await end.write(piece)

        ping = self.run_ping(Dials(slow))
        peer = "192.0.2.1:9000"
        self.assertEqual(self.told, [(1, peer, 0.5), (2, peer, 0.5), (3, peer, 0.5)])
        self.assertEqual((ping.sent, ping.lost, ping.failure), (3, 0, None))
        self.assertEqual(ping.elapsed, 3.5)

    def test_stalled(self):
        """
        The time counts from when a message was due, so a stalled server is charged for each
        message.
        """

        async def stalls(end):
            await sleep(self.clock, 1)
            await echo(end)

        self.run_ping(Dials(stalls), rate=4.0, count=6)
        self.assertEqual(self.outcomes(), [1.0, 0.75, 0.5, 0.25, 0.0, 0.0])

    def test_not_taken(self):
        """
        A message that could not be written is charged from when it was due.
        """

        async def stalls(end):
            await sleep(self.clock, 1)
            await echo(end)

        self.run_ping(Dials(stalls), rate=4.0, count=4, size=2 << 20)
        self.assertEqual(self.outcomes(), [1.0, 0.75, 0.5, 0.25])

    def test_own_timer(self):
        """
        The delay of the client's timer is not charged to the server.
        """
        ping = self.ping(Dials(echo), count=2)
        running = Deferred.fromCoroutine(ping.run())
        self.clock.advance(1.5)
        self.successResultOf(running)
        self.assertEqual(self.outcomes(), [0.0, 0.0])

    def test_connections(self):
        """
        The connections send in turn.
        """
        dials = Dials(echo)
        self.run_ping(dials, connections=3, count=7)
        self.assertEqual(len(dials.ends), 3)
        self.assertEqual([number for number, *_ in self.told], [1, 2, 3, 4, 5, 6, 7])

    def test_stopped(self):
        """
        Messages in flight at a cancellation are not counted, and no timer or connection
        stays.
        """

        async def slow(end):
            await end.write(await end.read())
            await Deferred()

        dials = Dials(slow)
        ping = self.ping(dials, count=None, connections=2)
        running = Deferred.fromCoroutine(ping.run())
        self.clock.advance(1)
        self.clock.advance(1)
        running.cancel()
        self.failureResultOf(running)
        self.assertEqual((ping.sent, ping.lost), (2, 0))
        self.assertEqual(self.clock.getDelayedCalls(), [])
        for end in dials.ends:
            self.assertIn("abort", end.done)
