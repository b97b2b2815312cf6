"""
Histograms: which bound a value belongs to.
"""

from twisted.trial.unittest import SynchronousTestCase

from echod._util.histogram import Histogram


class HistogramTests(SynchronousTestCase):
    """
    Counts between bounds.
    """

    def test_add(self):
        """
        A value belongs to the first bound that it does not exceed, and else above all.
        """
        histogram = Histogram((1, 10, 100))
        for value in (0, 1, 1.5, 10, 99, 100.5, 1e9):
            histogram.add(value)
        self.assertEqual(histogram.counts, [2, 2, 1, 2])
        self.assertEqual(histogram.sum, 0 + 1 + 1.5 + 10 + 99 + 100.5 + 1e9)
