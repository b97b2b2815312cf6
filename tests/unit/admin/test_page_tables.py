"""
Tests for the tables of the page.
"""

import re
from dataclasses import replace

from twisted.trial.unittest import SynchronousTestCase

from echod.admin import page
from echod.connections.connection import Reason
from echod.stats.process import ProcessStats
from echod.stats.snapshot import CertificateInfo, ConnectionInfo, ListenerInfo, ListenerStats
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
            self.read(page.listeners(make_snapshot())),
            [
                ["Listener", "Address", "Open", "Accepted", "Echoed", "Refused"],
                ["tcp", "127.0.0.1:9000", "3", "10", "121 KiB", "2"],
                ["tls", "127.0.0.1:9443", "1", "2", "789 B", "0"],
            ],
        )

    def test_not_bound(self):
        """
        A listener that is not bound is marked.
        """
        made = page.listeners(make_snapshot(listeners=[ListenerInfo("tcp", "--port 7", None)]))
        self.assertIn('<td class="warning">not bound</td>', made)

    def test_unknown_traffic(self):
        """
        Without an answer of any worker, the counters are 0.
        """
        rows = self.read(page.listeners(make_snapshot(traffic=[])))
        self.assertEqual(rows[1], ["tcp", "127.0.0.1:9000", "0", "0", "0 B", "0"])

    def test_reasons(self):
        """
        Connections are listed by reason, with its meaning, and by listener.
        """
        counts = [("tcp", {"client": 6, "reset": 1}), ("tls", {"client": 1, "new": 2})]
        self.assertEqual(
            self.read(page.reasons("Closed", counts)),
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
            rows = self.read(page.reasons("Closed", [("tcp", {"connect-rate": 2})] * number))
            self.assertEqual(rows[0], ["Reason", "Meaning", "Total"])
            self.assertEqual(rows[1][-1], str(2 * number))

    def test_every_reason(self):
        """
        Each reason has a meaning.
        """
        self.assertEqual(set(page.MEANINGS), {each.value for each in Reason})

    def test_handshakes(self):
        """
        Handshakes are listed by result and version.
        """
        self.assertEqual(
            self.read(page.handshakes(make_snapshot()))[1:],
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
            made = page.certificates(make_snapshot(certificates=[served]))
            row = self.read(made)[1]
            self.assertEqual(
                (row[0], row[1], row[3]), ("a.example, b.example", shown, "/etc/a.pem")
            )
            self.assertEqual(made.count("warning"), warned)
        self.assertEqual(page.days_left(served, now), -1)
        nameless = CertificateInfo([], now, "0A", "/etc/a.pem", 0.0)
        made = page.certificates(make_snapshot(certificates=[nameless]))
        self.assertEqual(self.read(made)[1][0], "no name")

    def test_processes(self):
        """
        Processes have their figures, and C{?} for a figure that is not known.
        """
        one = make_snapshot()
        rows = self.read(page.processes([one]))
        self.assertEqual(rows[1], ["77", "4", "0.5 ms", "12 s", "30 MiB", "20/1,024"])
        unknown = replace(one, process=ProcessStats(78, None, 1.0, None, None, None, None))
        made = page.processes([replace(one, worker="0"), replace(unknown, worker="1")])
        self.assertEqual(
            [(row[0], row[-1]) for row in self.read(made)[1:]],
            [("0 (77)", "20/1,024"), ("1 (78)", "?/?")],
        )
        self.assertIn("<caption>Processes</caption>", made)

    def test_newest(self):
        """
        The newest connections have a column for each fact that one of them has.
        """
        self.assertEqual(
            self.read(page.newest(make_snapshot())),
            [
                ["Connection", "Peer", "Listener", "State", "Age", "Echoed", "TLS"],
                ["12", "[2001:db8::1]:7", "tls", "open", "2.5 s", "789 B", "TLSv1.3"],
                ["11", "192.0.2.1:5", "tcp", "paused", "1 min 10 s", "10 B", ""],
            ],
        )
        self.assertIn("<caption>Newest connections, 2 of 4</caption>", page.newest(make_snapshot()))

    def test_newest_of_workers(self):
        """
        With workers, a connection has the name of its worker.
        """
        connection = ConnectionInfo(12, "tcp", "192.0.2.1:5", "open", 2.5, 1, {}, worker="3")
        now = make_snapshot(newest=[connection], traffic=[ListenerStats("tcp", 1, 1, 1, {}, {})])
        self.assertEqual(self.read(page.newest(now))[1][0], "3/12")

    def test_facts(self):
        """
        Each fact of TLS and of a proxy has a column.
        """
        facts = {name: f"the {name}" for _, name in page.FACTS}
        now = make_snapshot(newest=[ConnectionInfo(1, "tls", "192.0.2.1:5", "open", 1, 1, facts)])
        heads, row = self.read(page.newest(now))
        self.assertEqual(
            heads[6:],
            [
                "Fault",
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
