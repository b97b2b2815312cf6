"""
Tests for the history.
"""

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from echod.stats.eventloop import MAX_SAMPLES, History, ListenerRates, ListenerTotals
from echod.stats.snapshot import Sample


class HistoryTests(SynchronousTestCase):
    """
    Tests for L{History}.
    """

    def setUp(self):
        self.clock = Clock()
        self.now = Sample(0, 1000, 10, 0.0)
        self.listeners = {}
        self.history = History(self.clock, lambda: (self.now, self.listeners))

    def test_samples(self):
        """
        A sample has the difference of a counter to the second before.
        """
        self.history.startService()
        self.now = Sample(3, 1500, 12, 0.25)
        self.clock.advance(1)
        self.now = Sample(2, 1501, 12, 0.0)
        self.clock.advance(1)
        self.assertEqual(
            list(self.history.samples), [Sample(3, 500, 2, 0.25), Sample(2, 1, 0, 0.0)]
        )

    def test_too_late(self):
        """
        When the loop is late, each missed second gets its share.
        """
        self.history.startService()
        self.now = Sample(1, 1400, 10, 3.5)
        self.clock.advance(4)
        self.assertEqual(list(self.history.samples), [Sample(1, 100, 0, 3.5)] * 4)

    def test_rates(self):
        """
        Each listener has the rates of the last second and its maxima.  A listener that appears
        starts from 0.
        """
        self.listeners = {"tcp": ListenerTotals(1, 100, 1000)}
        self.history.startService()
        self.listeners = {"tcp": ListenerTotals(5, 110, 3000), "tls": ListenerTotals(1, 2, 3)}
        self.clock.advance(1)
        self.assertEqual(
            self.history.rates,
            {
                "tcp": ListenerRates(10, 2000, 5, 10, 2000),
                "tls": ListenerRates(2, 3, 1, 2, 3),
            },
        )
        self.listeners = {"tcp": ListenerTotals(2, 112, 3000)}
        self.clock.advance(2)
        self.assertEqual(self.history.rates["tcp"], ListenerRates(1, 0, 5, 10, 2000))

    def test_bounded(self):
        """
        Samples older than the limit are dropped.
        """
        self.history.startService()
        self.clock.advance(10 * MAX_SAMPLES)
        self.clock.pump([1] * 20)
        self.assertEqual(len(self.history.samples), MAX_SAMPLES)

    def test_stop(self):
        """
        It leaves no timer behind, and may be stopped before it was started.
        """
        self.history.stopService()
        self.history.startService()
        self.history.stopService()
        self.history.stopService()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_failure(self):
        """
        An exception of the callback is logged, and does not stop the history.
        """
        self.history.startService()
        self.now = None
        self.clock.advance(1)
        self.assertEqual(len(self.flushLoggedErrors(AttributeError)), 1)
        self.history.stopService()
        self.assertEqual(self.clock.getDelayedCalls(), [])
