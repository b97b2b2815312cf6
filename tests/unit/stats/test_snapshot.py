"""
Tests for snapshots: JSON, and readiness.
"""

import json

from twisted.trial.unittest import SynchronousTestCase

from echod.stats.snapshot import ListenerInfo, Snapshot
from tests.support.snapshots import make_snapshot


class JSONTests(SynchronousTestCase):
    """
    Tests for JSON.
    """

    def test_there_and_back(self):
        """
        A snapshot is one line, and is equal when it is read back.
        """
        snapshot = make_snapshot(worker="3")
        text = snapshot.to_json()
        self.assertNotIn("\n", text)
        self.assertEqual(Snapshot.from_json(text), snapshot)
        self.assertEqual(Snapshot.from_json(text.encode()), snapshot)

    def test_names(self):
        """
        Fields have their names in it.
        """
        read = json.loads(make_snapshot().to_json())
        self.assertEqual(read["traffic"][0]["closed"], {"client": 6, "reset": 1})
        self.assertEqual(read["newest"][0]["facts"], {"tls_version": "TLSv1.3"})
        self.assertEqual(read["history"][1], [4, 5000.0, 2.0, 0.125])

    def test_not_a_snapshot(self):
        """
        Any other text is a C{ValueError}.
        """
        good = json.loads(make_snapshot().to_json())
        for bad in (
            "",
            "{",
            "[]",
            "null",
            "{}",
            json.dumps(good | {"lag": None}),
            json.dumps(good | {"newest": [{}]}),
            json.dumps(good | {"more": 1}),
        ):
            self.assertRaises(ValueError, Snapshot.from_json, bad)


class ReadinessTests(SynchronousTestCase):
    """
    Whether it can serve.
    """

    def test_ready(self):
        """
        A process is ready when every listener is bound.
        """
        self.assertEqual(make_snapshot().not_ready(), "")

    def test_draining(self):
        """
        It is not ready from the beginning of the drain on.
        """
        self.assertEqual(make_snapshot(draining=True, listeners=[]).not_ready(), "draining")

    def test_not_bound(self):
        """
        It is not ready when a listener is not bound, and names its option.
        """
        unbound = [ListenerInfo("tcp", "--port 7", "x"), ListenerInfo("b", "--listen b", None)]
        self.assertEqual(make_snapshot(listeners=unbound).not_ready(), "not listening: --listen b")
