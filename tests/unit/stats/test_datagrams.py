"""
The figures of UDP, and their sum.
"""

from twisted.trial.unittest import SynchronousTestCase

from echod.stats.aggregate import aggregate
from echod.stats.datagrams import DatagramStats, sum_of_names
from echod.stats.snapshot import Snapshot
from tests.support.snapshots import make_snapshot


class DatagramTests(SynchronousTestCase):
    """
    Sums of several listeners and processes.
    """

    def test_datagrams(self):
        """
        UDP listeners are added; one that any worker has bound is bound.  Two of the same name stay
        apart.
        """
        one = DatagramStats("udp", "--udp-port 9000", None, 3, 2, 20, {"udp-rate": 1, "denied": 1})
        other = DatagramStats("x", "--udp-listen udp:7", None, 1, 1, 1, {})
        now = aggregate([make_snapshot(datagrams=[one, other, other]), make_snapshot()])
        self.assertEqual(
            now.datagrams,
            [
                DatagramStats(
                    *("udp", "--udp-port 9000", "127.0.0.1:9000"),
                    *(23, 19, 1254),
                    {"udp-rate": 3, "denied": 1, "own-port": 1},
                ),
                other,
                other,
            ],
        )
        unbound = ", ".join(["--udp-listen udp:7"] * 2)
        self.assertEqual(now.not_ready(), f"not listening: {unbound}")

    def test_names(self):
        """
        The listeners of each name together.
        """
        [udp] = make_snapshot().datagrams
        other = DatagramStats("x", "--udp-listen udp:7", None, 1, 1, 1, {})
        both, alone = sum_of_names([udp, other, udp])
        self.assertEqual((both.received, both.dropped["udp-rate"], alone), (40, 4, other))

    def test_json(self):
        """
        They go through JSON and come back equal.
        """
        snapshot = make_snapshot()
        self.assertEqual(Snapshot.from_json(snapshot.to_json()).datagrams, snapshot.datagrams)
