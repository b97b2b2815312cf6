"""
Tests for the page and its JSON.
"""

import json
import re
from dataclasses import replace

from twisted.trial.unittest import SynchronousTestCase

from echod.admin.page import STATIC, page, page_json, warnings
from echod.stats.snapshot import (
    CertificateInfo,
    ClientInfo,
    ConnectionInfo,
    ListenerInfo,
    ListenerStats,
    OptionInfo,
    Sample,
    Snapshot,
)
from tests.support.markup import HOSTILE, Seen
from tests.support.snapshots import make_snapshot

EVERYWHERE = Snapshot.from_json(
    make_snapshot(
        worker=HOSTILE,
        versions={"version": HOSTILE, HOSTILE: HOSTILE},
        host=HOSTILE,
        clients=[ClientInfo(HOSTILE, 1, 1)],
        listeners=[ListenerInfo(HOSTILE, HOSTILE, HOSTILE), ListenerInfo(HOSTILE, HOSTILE, None)],
        traffic=[ListenerStats(HOSTILE, 1, 1, 1, {HOSTILE: 1}, {HOSTILE: 1})],
        certificates=[CertificateInfo([HOSTILE, HOSTILE], 0.0, HOSTILE, HOSTILE, 0.0)],
        newest=[
            ConnectionInfo(
                1,
                HOSTILE,
                HOSTILE,
                HOSTILE,
                1.0,
                1,
                dict.fromkeys(
                    ("proxy", "tls_version", "tls_cipher", "tls_alpn", "tls_sni", "tls_subject"),
                    HOSTILE,
                ),
            )
        ],
    ).to_json()
)
"""A snapshot that says the same hostile thing wherever it can."""


class PageTests(SynchronousTestCase):
    """
    Tests for L{page}.
    """

    def test_under_a_path(self):
        """
        No URL in the page or its script is absolute: a proxy may serve it below a path.
        """
        made = page([make_snapshot()])
        found = re.findall(r' (?:href|src|action)="([^"]*)"', made)
        self.assertEqual(
            found,
            [
                *("icon.svg", "page.css", "page.js"),
                *("metrics", "connections", "reasons", "readyz", "livez"),
                *("reasons#client", "reasons#reset", "reasons#connect-rate"),
            ],
        )
        script, _ = STATIC[b"/page.js"]
        self.assertEqual(re.findall(rb"""fetch\("([^"]*)""", script), [b"./"])
        sheet, _ = STATIC[b"/page.css"]
        self.assertNotIn(b"url(", sheet)

    def test_whole(self):
        """
        Without a script, the page has all figures.
        """
        made = page([make_snapshot()], [OptionInfo("--port", "9000", True)])
        self.assertTrue(made.startswith('<!doctype html>\n<html lang="en">'))
        seen = Seen(made)
        for text in (
            "echod echo1.example:9000",
            "ready",
            "up 1 h 2 min at 2027-01-15T08:00:00Z; version 0.1.0, python 3.11.7",
            "0 % of 10,000",
            "Options in force: 1 given, all others by default",
            "--port9000given",
            "127.0.0.1:9443",
            "192.0.2.1:5",
            "[2001:db8::1]:7",
            "a.example",
            "TLSv1.3",
            "handshakes",
            "the client closed the connection",
        ):
            self.assertIn(text, seen.text)

    def test_plots(self):
        """
        Each plot has a label with its present value.
        """
        labels = re.findall(
            'aria-label="([^"]*, the last 5 minutes: [^"]*)"', page([make_snapshot()])
        )
        self.assertEqual(
            labels,
            [
                "Connections, the last 5 minutes: now 4, at most 4",
                "Echoed, the last 5 minutes: now 4.9 KiB/s, at most 4.9 KiB/s",
                "Refused, the last 5 minutes: now 2/s, at most 2/s",
                "Event-loop lag, the last 5 minutes: now 0.5 ms, at most 125 ms",
            ],
        )
        # Before the first second, too.
        self.assertIn("now 0 B/s", page([make_snapshot(history=[])]))

    def test_nothing_inline(self):
        """
        The page has no inline script, style or handler, and no URL of another server.
        """
        for name, attributes in Seen(page([make_snapshot()])).tags:
            self.assertNotIn(name, ("style", "iframe", "object", "form", "base"))
            for key, value in attributes.items():
                self.assertFalse(key.startswith("on") or key == "style", (name, key))
                if key in ("href", "src"):
                    self.assertRegex(value, "^[a-z.]+(#[a-z-]+)?$")
        scripts = re.findall("<script[^>]*>(.*?)</script>", page([make_snapshot()]), re.DOTALL)
        self.assertEqual(scripts, [""])

    def test_static(self):
        """
        All files that the page refers to exist.
        """
        references = set(re.findall('(?:href|src)="([^"#]*)', page([make_snapshot()])))
        mine = {"connections", "metrics", "readyz", "livez"}
        self.assertEqual({f"/{each}".encode() for each in references - mine}, set(STATIC))

    def test_hostile(self):
        """
        Any text is escaped, and changes nothing else in the page.
        """
        made = page([EVERYWHERE], [OptionInfo(HOSTILE, HOSTILE, True)])
        seen = Seen(made)
        self.assertGreater(seen.text.count(HOSTILE), 25)
        harmless = replace(EVERYWHERE, worker="x")
        harmless = Snapshot.from_json(
            json.dumps(json.loads(harmless.to_json())).replace(json.dumps(HOSTILE)[1:-1], "x")
        )
        expected = Seen(page([harmless], [OptionInfo("x", "x", True)]))
        self.assertEqual([name for name, _ in seen.tags], [name for name, _ in expected.tags])
        self.assertEqual(
            [list(attributes) for _, attributes in seen.tags],
            [list(attributes) for _, attributes in expected.tags],
        )

    def test_not_ready(self):
        """
        A daemon that is not ready says why at the top.
        """
        made = page([make_snapshot(draining=True)])
        self.assertIn('<p class="state warning" role="status">draining</p>', made)

    def test_title(self):
        """
        The title says which daemon it is, by its host and the port of its first listener, and
        what is wrong with it.
        """
        unix = ListenerInfo("unix", "--listen unix:/x", "unix:/x")
        unbound = ListenerInfo("tcp", "--port 7", None)
        for listeners, title in (
            ([ListenerInfo("tcp", "--port 7", "[::]:7"), unix], "echo1.example:7"),
            ([unix], "echo1.example unix:/x"),
            ([unbound, unix], "not listening: --port 7 - echo1.example unix:/x"),
            ([unbound], "not listening: --port 7 - echo1.example"),
        ):
            made = page([make_snapshot(listeners=listeners)])
            self.assertIn(f"<title>{title} - echod</title>", made)

    def test_warned_plots(self):
        """
        The plot of a figure that the page warns of is marked.
        """
        calm = [Sample(1, 1, 1, 0.01)]
        for fields, marked in (
            ({}, []),
            ({"max_connections": 4}, ["Connections"]),
            ({"lag_last": 0.406}, ["Event-loop lag"]),
        ):
            made = page([make_snapshot(**{"history": calm, **fields})])
            found = re.findall('<figure class="warning"><figcaption>([^<]*)', made)
            self.assertEqual(found, marked)

    def test_plain(self):
        """
        Without TLS there are no tables about it.
        """
        made = page([make_snapshot(certificates=[], handshakes=[])])
        self.assertNotIn("Certificates", made)
        self.assertNotIn("TLS handshakes", made)

    def test_without_script(self):
        """
        Without scripts, the browser reloads the page.
        """
        self.assertIn(
            '<noscript><meta http-equiv="refresh" content="10"></noscript>', page([make_snapshot()])
        )


class WarningsTests(SynchronousTestCase):
    """
    Tests for L{warnings}.
    """

    def warnings(self, **fields):
        calm = {
            "certificates": [CertificateInfo(["a.example"], 1_900_000_000.0, "1", "/a", 0.0)],
            "log_dropped": 0,
            "history": [Sample(1, 1, 1, 0.01)],
        }
        return list(warnings(make_snapshot(**{**calm, **fields})))

    def test_nothing(self):
        """
        Without a problem there are no warnings.
        """
        self.assertEqual(self.warnings(), [])
        self.assertIn('class="warnings"', page([make_snapshot()]))
        self.assertNotIn(
            'class="warnings"',
            page([make_snapshot(certificates=[], log_dropped=0, history=[])]),
        )

    def test_each(self):
        """
        Each problem has a warning.
        """
        taken = 1_800_000_000.0
        for fields, text in (
            (
                {"max_connections": 4},
                "4 connections: the limit is reached, further clients are refused",
            ),
            (
                {
                    "max_connections": 44,
                    "traffic": [ListenerStats("tcp", 40, 40, 0, {}, {})],
                },
                "40 connections: 90 % of the limit, 44",
            ),
            ({"lag_last": 0.406}, "the event-loop lag was 406 ms in the last minute"),
            ({"log_dropped": 1234}, "1,234 log records were dropped"),
            (
                {"certificates": [CertificateInfo(["a"], taken + 3.5 * 86400, "1", "/a", 0.0)]},
                "the certificate for a expires in 3 days: /a",
            ),
            (
                {"certificates": [CertificateInfo(["a"], taken + 3600, "1", "/a", 0.0)]},
                "the certificate for a expires today: /a",
            ),
            (
                {"certificates": [CertificateInfo([], 1_900_000_000.0, "1", "/a", taken + 1)]},
                "the certificate for no name is not valid before 2027-01-15T08:00:01Z: /a",
            ),
            (
                {"certificates": [CertificateInfo([], taken - 1, "1", "/a", 0.0)]},
                "the certificate for no name has expired: /a",
            ),
            (
                {"history": [Sample(1, 1, 1, 0.25)] + [Sample(1, 1, 1, 0)] * 59},
                "the event-loop lag was 250 ms in the last minute",
            ),
        ):
            self.assertEqual(self.warnings(**fields), [text])
        old = [Sample(1, 1, 1, 0.25)] + [Sample(1, 1, 1, 0)] * 60
        self.assertEqual(self.warnings(history=old), [])


class JSONTests(SynchronousTestCase):
    """
    Tests for L{page_json}.
    """

    def test_fields(self):
        """
        The JSON has the figures of all processes, and of each.
        """
        shown = json.loads(page_json([make_snapshot(worker="0"), make_snapshot(worker="1")]))
        self.assertEqual(shown["not_ready"], "")
        self.assertEqual(shown["traffic"][0]["connections"], 6)
        self.assertEqual(shown["newest"][0]["worker"], "0")
        self.assertEqual(
            shown["history"][-1], {"connections": 8, "bytes": 10000, "refused": 4, "lag": 0.125}
        )
        self.assertEqual(
            [(each["worker"], each["pid"], each["connections"]) for each in shown["processes"]],
            [("0", 77, 4), ("1", 77, 4)],
        )
        self.assertEqual(set(shown) & {"worker", "process"}, set())

    def test_hostile(self):
        """
        Any text is valid JSON.
        """
        shown = json.loads(page_json([EVERYWHERE]))
        self.assertEqual(shown["newest"][0]["facts"]["tls_sni"], HOSTILE)
