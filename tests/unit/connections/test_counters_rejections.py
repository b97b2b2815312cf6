"""
Refusals: all are counted, few are logged.
"""

from twisted.logger import LogLevel, capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from echod.connections.connection import REFUSED, Reason
from echod.connections.counters import Refusals


class RefusalsTests(SynchronousTestCase):
    """
    The refusals of all listeners.
    """

    def setUp(self):
        self.refusals = Refusals()

    def logged(self):
        with capturedLogs() as events:
            self.refusals.log_summary()
        return list(events)

    def test_counts(self):
        """
        Refusals are counted by listener and reason, and logging changes no count.
        """
        for listener, reason in (
            ("tcp", Reason.CONNECT_RATE),
            ("tls", Reason.CONNECT_RATE),
            ("tcp", Reason.DENIED),
            ("tcp", Reason.CONNECT_RATE),
        ):
            self.refusals.add(listener, reason, "192.0.2.7:1")
        self.logged()
        self.assertEqual(
            self.refusals.counts,
            {
                ("tcp", Reason.CONNECT_RATE): 2,
                ("tls", Reason.CONNECT_RATE): 1,
                ("tcp", Reason.DENIED): 1,
            },
        )

    def test_nothing(self):
        """
        Without refusals nothing is logged.
        """
        self.assertEqual(self.logged(), [])

    def test_not_at_once(self):
        """
        A refusal by itself logs nothing.
        """
        with capturedLogs() as events:
            self.refusals.add("tcp", Reason.CONNECT_RATE, "192.0.2.7:1")
        self.assertEqual(list(events), [])

    def test_a_line_for_each_reason(self):
        """
        However many there were, each reason has one line, with the detail of the last.
        """
        for port in range(1000):
            self.refusals.add("tls", Reason.CONNECT_RATE, f"192.0.2.7:{port}", "not logged")
        self.refusals.add("tcp", Reason.CONNECT_RATE, "192.0.2.8:1")
        self.refusals.add("tcp", Reason.PROXY_HEADER, "[2001:db8::1]:2", "late")
        first, second = self.logged()
        self.assertEqual(
            formatEvent(first), "refused 1001: connect-rate, the last from 192.0.2.8:1 to tcp"
        )
        self.assertEqual(
            formatEvent(second),
            "refused 1: proxy-header, the last from [2001:db8::1]:2 to tcp, late",
        )
        expected = {
            "event": "refused",
            "reason": "proxy-header",
            "count": 1,
            "peer": "[2001:db8::1]:2",
            "listener": "tcp",
            "detail": "late",
        }
        self.assertEqual({name: second[name] for name in expected}, expected)

    def test_logged_once(self):
        """
        What was logged is not logged again; later refusals are counted anew.
        """
        self.refusals.add("tcp", Reason.CONNECT_RATE, "192.0.2.7:1")
        self.refusals.add("tcp", Reason.CONNECT_RATE, "192.0.2.7:2")
        self.assertEqual([event["count"] for event in self.logged()], [2])
        self.assertEqual(self.logged(), [])
        self.refusals.add("tcp", Reason.CONNECT_RATE, "192.0.2.7:3")
        self.assertEqual([event["count"] for event in self.logged()], [1])

    def test_levels(self):
        """
        A daemon at its limit is a warning; all other refusals are logged as info.
        """
        for reason in REFUSED:
            self.refusals.add("tcp", reason, "192.0.2.7:1")
        levels = {event["reason"]: event["log_level"] for event in self.logged()}
        self.assertIs(levels.pop("max-connections"), LogLevel.warn)
        self.assertEqual(set(levels.values()), {LogLevel.info})
        self.assertEqual(len(levels), 5)

    def test_braces(self):
        """
        What a peer sent is logged as it is, and never used as a format.
        """
        self.refusals.add("{reason}", Reason.CONNECT_RATE, "unix:/{count}", "{peer!r}")
        self.assertEqual(
            formatEvent(self.logged()[0]),
            "refused 1: connect-rate, the last from unix:/{count} to {reason}, {peer!r}",
        )
