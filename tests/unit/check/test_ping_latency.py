"""
Tests for the histogram of latencies.
"""

import random

from twisted.trial.unittest import SynchronousTestCase

from echod.check.ping import LatencyHistogram


class LatenciesTests(SynchronousTestCase):
    """
    Tests for L{LatencyHistogram}.
    """

    def test_percentiles(self):
        """
        A percentile is exact to 1 %, and never rounded down.
        """
        chance = random.Random(6)
        times = sorted(chance.expovariate(1000) + 1e-5 for _ in range(5001))
        latencies = LatencyHistogram()
        for time in times:
            latencies.add(time)
        for percent, index in ((50, 2500), (99, 4950)):
            ratio = latencies.percentile(percent) / times[index]
            self.assertTrue(1 <= ratio <= 1.0101, ratio)
        self.assertEqual(latencies.min, times[0])
        self.assertEqual(latencies.max, latencies.percentile(100))
        self.assertEqual(latencies.max, times[-1])
        self.assertEqual(latencies.count, 5001)

    def test_bounded(self):
        """
        The number of bins is bounded.
        """
        latencies = LatencyHistogram()
        for number in range(100_000):
            latencies.add(number / 1000)
        self.assertLess(len(latencies._bins), 3000)

    def test_histogram(self):
        """
        The bounds are powers of two, without gaps, and all times are counted.
        """
        latencies = LatencyHistogram()
        for time in (0.0, 3e-6, 5e-6, 6e-6):
            latencies.add(time)
        self.assertEqual(latencies.histogram(), [(1e-6, 1), (2e-6, 0), (4e-6, 1), (8e-6, 2)])

    def test_none(self):
        """
        An empty histogram has no percentiles.
        """
        self.assertEqual(LatencyHistogram().histogram(), [])
        self.assertEqual(LatencyHistogram().percentile(50), 0.0)
