"""
Tests for the event-loop lag.
"""

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from echod.stats.eventloop import LAG_BOUNDS, LAG_INTERVAL, LoopLag


class LagTests(SynchronousTestCase):
    """
    Tests for L{LoopLag}.
    """

    def setUp(self):
        self.clock = Clock()
        self.lag = LoopLag(self.clock)

    def test_on_time(self):
        """
        A loop that is never late has no lag.
        """
        self.lag.startService()
        self.clock.pump([LAG_INTERVAL] * 8)
        self.assertEqual((self.lag.histogram.counts[0], self.lag.last), (8, 0.0))

    def test_blocked(self):
        """
        The lag is the time for which something blocks the loop.
        """
        self.lag.startService()
        self.clock.advance(LAG_INTERVAL + 0.75)
        self.assertEqual(self.lag.last, 0.75)
        counts = dict(zip((*LAG_BOUNDS, "more"), self.lag.histogram.counts, strict=True))
        self.assertEqual({bound for bound, n in counts.items() if n}, {1})
        self.clock.advance(LAG_INTERVAL)
        self.assertEqual((self.lag.last, self.lag.histogram.sum), (0.0, 0.75))

    def test_worst(self):
        """
        The maximum is that since the previous call.
        """
        self.lag.startService()
        for late in (0.5, 2, 0):
            self.clock.advance(LAG_INTERVAL + late)
        self.assertEqual((self.lag.take_max(), self.lag.take_max()), (2.0, 0.0))

    def test_stop(self):
        """
        It leaves no timer behind, and may be stopped before it was started.
        """
        self.lag.stopService()
        self.lag.startService()
        self.lag.stopService()
        self.assertEqual(self.clock.getDelayedCalls(), [])
