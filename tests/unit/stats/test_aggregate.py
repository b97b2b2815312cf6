"""
Tests for the aggregate of several processes.
"""

from dataclasses import replace

from twisted.trial.unittest import SynchronousTestCase

from echod.stats.aggregate import aggregate
from echod.stats.snapshot import (
    CertificateInfo,
    ClientInfo,
    Handshakes,
    ListenerInfo,
    ListenerStats,
    Sample,
    not_ready,
)
from tests.support.snapshots import make_snapshot


class NotReadyTests(SynchronousTestCase):
    """
    Whether all can serve.
    """

    def test_ready(self):
        """
        Workers are ready when each is.
        """
        self.assertEqual(not_ready([make_snapshot()]), "")
        self.assertEqual(not_ready([make_snapshot(worker="0"), make_snapshot(worker="1")]), "")

    def test_not_ready(self):
        """
        A worker that is not ready is named.
        """
        self.assertEqual(not_ready([make_snapshot(draining=True)]), "draining")
        workers = [make_snapshot(worker="0"), make_snapshot(worker="1", draining=True)]
        self.assertEqual(not_ready(workers), "worker 1: draining")

    def test_nobody(self):
        """
        Without workers the daemon is not ready.
        """
        self.assertEqual(not_ready([]), "no worker answers")


class TogetherTests(SynchronousTestCase):
    """
    Tests for L{aggregate}.
    """

    def test_one(self):
        """
        The aggregate of one snapshot is that snapshot.
        """
        self.assertEqual(aggregate([make_snapshot()]), make_snapshot())

    def test_counts(self):
        """
        Counts are added, by listener and reason.
        """
        other = make_snapshot(
            traffic=[
                ListenerStats("tls", 1, 1, 1, {"client": 1, "idle-timeout": 2}, {}),
                ListenerStats("more", 1, 1, 1, {}, {}),
            ],
            handshakes=[Handshakes("ok", "TLSv1.3", 1), Handshakes("ok", "TLSv1.2", 5)],
            log_dropped=1,
            max_connections=5,
        )
        now = aggregate([make_snapshot(), other])
        self.assertEqual(
            now.traffic,
            [
                ListenerStats(
                    *("tcp", 3, 10, 123_456),
                    {"client": 6, "reset": 1},
                    {"connect-rate": 2},
                    *(2.0, 2048.0, 5, 4.0, 4096.0),
                    {"reset": 2},
                ),
                ListenerStats(
                    "tls",
                    2,
                    3,
                    790,
                    {"client": 2, "reset": 0, "idle-timeout": 2},
                    {"connect-rate": 0},
                ),
                ListenerStats("more", 1, 1, 1, {}, {}),
            ],
        )
        self.assertEqual(
            now.handshakes,
            [
                Handshakes("ok", "TLSv1.3", 3),
                Handshakes("failed", "", 1),
                Handshakes("ok", "TLSv1.2", 5),
            ],
        )
        self.assertEqual((now.log_dropped, now.max_connections), (5, 10_005))
        self.assertEqual(now.seconds.counts, [2, 4, 6, 8])
        self.assertEqual((now.seconds.sum, now.lag.sum), (200.5, 0.014))

    def test_rates(self):
        """
        Rates and peaks are added.
        """
        traffic = [ListenerStats("tcp", 1, 1, 1, {}, {}, 1.0, 2.0, 3, 4.0, 5.0)]
        both = aggregate([make_snapshot(), make_snapshot(traffic=traffic)]).traffic[0]
        self.assertEqual((both.opened_rate, both.bytes_rate), (3.0, 2050.0))
        self.assertEqual(
            (both.connections_peak, both.opened_rate_peak, both.bytes_rate_peak), (8, 8.0, 4101.0)
        )

    def test_clients(self):
        """
        The connections of a client are added; the clients with the most come first.
        """
        other = [ClientInfo("2001:db8::1", 5, 1), ClientInfo("192.0.2.9", 3, 1)]
        both = aggregate([make_snapshot(), make_snapshot(clients=other)])
        self.assertEqual(
            both.clients,
            [
                ClientInfo("2001:db8::1", 6, 790),
                ClientInfo("192.0.2.1", 3, 110),
                ClientInfo("192.0.2.9", 3, 1),
            ],
        )

    def test_states(self):
        """
        The maximum lag counts.
        """
        other = make_snapshot(draining=True, lag_last=2.0, uptime=1.0, taken=1.0)
        now = aggregate([make_snapshot(), other])
        self.assertEqual((now.draining, now.lag_last), (True, 2.0))
        self.assertEqual((now.uptime, now.taken), (3723.5, 1_800_000_000.0))

    def test_shared(self):
        """
        Listeners and certificates that workers share are listed once.
        """
        more = ListenerInfo("echo", "--listen systemd:name=echo", None)
        renewed = CertificateInfo(["a.example"], 1.0, "0B", "/etc/a.pem", 0.0)
        first = make_snapshot()
        other = make_snapshot(
            listeners=[*first.listeners, more], certificates=[*first.certificates, renewed]
        )
        now = aggregate([first, other])
        self.assertEqual(now.listeners, [*first.listeners, more])
        self.assertEqual(now.certificates, [*first.certificates, renewed])

    def test_silent(self):
        """
        A listener is listed once, as bound if it is bound in one worker.
        """
        first = make_snapshot()
        nowhere = [replace(each, address=None) for each in first.listeners]
        silent = make_snapshot(listeners=nowhere)
        self.assertEqual(aggregate([silent, first]).listeners, first.listeners)
        self.assertEqual(aggregate([silent, silent]).listeners, nowhere)

    def test_history(self):
        """
        Samples are added by second, aligned at the end; the maximum lag counts.
        """
        other = make_snapshot(
            history=[Sample(1, 1, 1, 9), Sample(2, 2, 2, 0.5), Sample(3, 3, 3, 0)]
        )
        now = aggregate([make_snapshot(), other])
        self.assertEqual(
            now.history, [Sample(1, 1, 1, 9), Sample(4, 102, 2, 0.5), Sample(7, 5003, 5, 0.125)]
        )

    def test_newest(self):
        """
        The newest connections of all come first, each with its worker.
        """
        workers = [make_snapshot(worker="0"), make_snapshot(worker="1")]
        now = aggregate(workers)
        self.assertEqual(
            [(each.worker, each.connection) for each in now.newest], [("0", 12), ("1", 12)]
        )
        self.assertIsNone(now.worker)
