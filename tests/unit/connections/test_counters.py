"""
Counters of connections that have ended.
"""

from twisted.trial.unittest import SynchronousTestCase

from echod.connections.connection import Reason
from echod.connections.counters import LIFETIME_BUCKETS, ConnectionStats


class ConnectionStatsTests(SynchronousTestCase):
    """
    Counts by listener and reason.
    """

    def test_add(self):
        """
        Each end counts for its listener, and in the total of its reason.
        """
        totals = ConnectionStats()
        totals.add("tcp", Reason.CLIENT, 10, 0.2)
        totals.add("tls", Reason.CLIENT, 5, 7)
        totals.add("tcp", Reason.RESET, 1, 1e6)
        self.assertEqual(
            totals.ended,
            {("tcp", Reason.CLIENT): 1, ("tls", Reason.CLIENT): 1, ("tcp", Reason.RESET): 1},
        )
        self.assertEqual(totals.by_reason(), {Reason.CLIENT: 2, Reason.RESET: 1})
        self.assertEqual(totals.bytes_echoed, {"tcp": 11, "tls": 5})

    def test_lifetimes(self):
        """
        Lifetimes are counted in a histogram.
        """
        totals = ConnectionStats()
        for seconds in (0.2, 7, 1e6):
            totals.add("tcp", Reason.CLIENT, 0, seconds)
        counts = dict(zip((*LIFETIME_BUCKETS, "more"), totals.seconds.counts, strict=True))
        self.assertEqual({bound for bound, n in counts.items() if n}, {0.5, 15, "more"})
        self.assertEqual(totals.seconds.sum, 1000007.2)
