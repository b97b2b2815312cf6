"""
Tests for the tables of the tables.
"""

import re
from dataclasses import replace

from twisted.trial.unittest import SynchronousTestCase

from echod.admin import tables
from echod.admin.reasons import MEANINGS
from echod.connections.connection import Reason
from echod.stats.process import ProcessStats
from echod.stats.snapshot import (
    CertificateInfo,
    ClientInfo,
    ConnectionInfo,
    ListenerInfo,
    ListenerStats,
    OptionInfo,
)
from tests.support.snapshots import make_snapshot


class TablesTests(SynchronousTestCase):
    """
    Tests for each table.
    """

    def read(self, made):
        """
        @return: the headers and the rows, as text.
        """
        return [
            [re.sub("<[^>]*>", "", cell) for cell in re.findall("<t[hd][ >].*?</t[hd]>", row)]
            for row in re.findall("<tr>.*?</tr>", made)
        ]

    def test_listeners(self):
        """
        Listeners have an address and counters.
        """
        self.assertEqual(
            self.read(tables.listeners(make_snapshot())),
            [
                [
                    *("Listener", "Address", "Open", "Max open"),
                    *("Accepted", "Accepted/s", "Max accepted/s"),
                    *("Echoed", "Echoed/s", "Max echoed/s", "Refused"),
                ],
                [
                    *("tcp", "127.0.0.1:9000", "3", "5", "10", "2", "4"),
                    *("121 KiB", "2 KiB/s", "4 KiB/s", "2"),
                ],
                [
                    *("tls", "127.0.0.1:9443", "1", "0", "2", "0", "0"),
                    *("789 B", "0 B/s", "0 B/s", "0"),
                ],
            ],
        )

    def test_maxima_of_workers(self):
        """
        With workers, the table says what its maxima are.
        """
        self.assertIn("<caption>Listeners</caption>", tables.listeners(make_snapshot()))
        made = tables.listeners(make_snapshot(), 2)
        self.assertIn("<caption>Listeners (max: sum of the workers)</caption>", made)

    def test_not_bound(self):
        """
        A listener that is not bound is marked.
        """
        made = tables.listeners(make_snapshot(listeners=[ListenerInfo("tcp", "--port 7", None)]))
        self.assertIn('<td class="warning">not bound</td>', made)

    def test_unknown_traffic(self):
        """
        Without an answer of any worker, the counters are 0.
        """
        rows = self.read(tables.listeners(make_snapshot(traffic=[])))
        self.assertEqual(rows[1][:6], ["tcp", "127.0.0.1:9000", "0", "0", "0", "0"])

    def test_reasons(self):
        """
        Connections are listed by reason, with its meaning, and by listener.
        """
        counts = [("tcp", {"client": 6, "reset": 1}), ("tls", {"client": 1, "new": 2})]
        self.assertEqual(
            self.read(tables.reasons("Closed", counts)),
            [
                ["Reason", "Meaning", "tcp", "tls", "Total"],
                ["client", "the client closed the connection", "6", "1", "7"],
                ["reset", "the client or the network reset the connection", "1", "0", "1"],
                ["new", "", "0", "2", "2"],
            ],
        )

    def test_one_listener_and_many(self):
        """
        One listener, or more than four, have no columns of their own.
        """
        for number in (1, 5):
            rows = self.read(tables.reasons("Closed", [("tcp", {"connect-rate": 2})] * number))
            self.assertEqual(rows[0], ["Reason", "Meaning", "Total"])
            self.assertEqual(rows[1][-1], str(2 * number))

    def test_every_reason(self):
        """
        Each reason has a meaning.
        """
        self.assertEqual(set(MEANINGS), {each.value for each in Reason})

    def test_handshakes(self):
        """
        Handshakes are listed by result and version.
        """
        self.assertEqual(
            self.read(tables.handshakes(make_snapshot()))[1:],
            [["ok", "TLSv1.3", "2"], ["failed", "-", "1"]],
        )

    def test_certificates(self):
        """
        Certificates have their days left; one that expires soon, or has expired, is marked.
        """
        now = 1_800_000_000.0
        for days, life, shown, warned in (
            (40, 90, "40", 0),
            (13.9, 90, "13", 1),
            (2.1, 6, "2", 0),
            (1.9, 6, "1", 1),
            (0.5, 1, "0", 0),
            (0.5, 90, "0", 1),
            (-1, 90, "expired", 1),
        ):
            end = now + days * 86400
            begin = end - life * 86400
            served = CertificateInfo(["a.example", "b.example"], end, "0A", "/etc/a.pem", begin)
            made = tables.certificates(make_snapshot(certificates=[served]))
            row = self.read(made)[1]
            self.assertEqual(
                (row[0], row[1], row[3]), ("a.example, b.example", shown, "/etc/a.pem")
            )
            self.assertEqual(made.count("warning"), warned)
        self.assertEqual(tables.days_left(served, now), -1)
        nameless = CertificateInfo([], now, "0A", "/etc/a.pem", 0.0)
        made = tables.certificates(make_snapshot(certificates=[nameless]))
        self.assertEqual(self.read(made)[1][0], "no name")

    def test_processes(self):
        """
        Processes have their figures, and C{?} for a figure that is not known.
        """
        one = make_snapshot()
        rows = self.read(tables.processes([one]))
        self.assertEqual(rows[1], ["77", "4", "0.5 ms", "12 s", "30 MiB", "20/1,024"])
        unknown = replace(one, process=ProcessStats(78, None, 1.0, None, None, None, None))
        made = tables.processes([replace(one, worker="0"), replace(unknown, worker="1")])
        self.assertEqual(
            [(row[0], row[-1]) for row in self.read(made)[1:]],
            [("0 (77)", "20/1,024"), ("1 (78)", "?/?")],
        )
        self.assertIn("<caption>Processes</caption>", made)

    def test_late_process(self):
        """
        A lag that the page warns of is marked.
        """
        made = tables.processes([make_snapshot(), make_snapshot(lag_last=0.406)])
        self.assertEqual(made.count("warning"), 1)
        self.assertIn('<td class="number warning">406 ms</td>', made)

    def test_clients(self):
        """
        The clients with the most connections are shown, ten at most.
        """
        self.assertEqual(
            self.read(tables.clients(make_snapshot())),
            [
                ["Client", "Open", "Echoed by them"],
                ["192.0.2.1", "3", "110 B"],
                ["2001:db8::1", "1", "789 B"],
            ],
        )
        many = [ClientInfo(f"192.0.2.{number}", 1, 1) for number in range(50)]
        self.assertEqual(len(self.read(tables.clients(make_snapshot(clients=many)))), 11)

    def test_options(self):
        """
        The options that are given come first.
        """
        options = [OptionInfo("--backlog", "1024", False), OptionInfo("--port", "9000", True)]
        self.assertEqual(
            self.read(tables.options_in_force(options)),
            [
                ["Option", "Value", "From"],
                ["--port", "9000", "given"],
                ["--backlog", "1024", "default"],
            ],
        )

    def test_newest(self):
        """
        The newest connections have a column for each fact that one of them has.
        """
        self.assertEqual(
            self.read(tables.newest(make_snapshot())),
            [
                ["Connection", "Peer", "Listener", "State", "Age", "Echoed", "TLS"],
                ["12", "[2001:db8::1]:7", "tls", "open", "2.5 s", "789 B", "TLSv1.3"],
                ["11", "192.0.2.1:5", "tcp", "paused", "1 min 10 s", "10 B", ""],
            ],
        )
        self.assertIn(
            "<caption>Newest connections, 2 of 4</caption>", tables.newest(make_snapshot())
        )

    def test_newest_of_workers(self):
        """
        With workers, a connection has the name of its worker.
        """
        connection = ConnectionInfo(12, "tcp", "192.0.2.1:5", "open", 2.5, 1, {}, worker="3")
        now = make_snapshot(newest=[connection], traffic=[ListenerStats("tcp", 1, 1, 1, {}, {})])
        self.assertEqual(self.read(tables.newest(now))[1][0], "3/12")

    def test_facts(self):
        """
        Each fact of TLS and of a proxy has a column.
        """
        facts = {name: f"the {name}" for _, name in tables.FACTS}
        now = make_snapshot(newest=[ConnectionInfo(1, "tls", "192.0.2.1:5", "open", 1, 1, facts)])
        heads, row = self.read(tables.newest(now))
        self.assertEqual(
            heads[6:],
            [
                "Proxy",
                "Proxy authority",
                "Client CN (proxy)",
                "TLS",
                "Cipher",
                "ALPN",
                "SNI",
                "Client certificate",
            ],
        )
        self.assertEqual(row[6:], list(facts.values()))
