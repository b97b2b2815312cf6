"""
Tests for the formatters.
"""

import ast
import json
import re

from hypothesis import example, given, settings, strategies as st
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, Logger, LogLevel, LogPublisher, capturedLogs
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from echod.connections.connection import Reason
from echod.connections.timeouts import Timeouts
from echod.connections.tracker import Connections
from echod.logs.formatters import MAX_CHARACTERS, LineObserver, json_line, text_line
from tests.support.fakes import EventAccessLog, FakeConnection

TOKEN = r"""(?:[^\s"\\;=,]+|"(?:[^"\\]|\\.)*")"""
"""A value that a peer chose, in text."""

NAMES = ("proxy", "proxy_alpn", "proxy_tls_cn", "tls_sni", "tls_subject")
FORGED = "x to tcp:9: 999 bytes echoed in 1.000 s, closed by client; tls_subject CN=root"


def value_of(token):
    """
    The value that a token stands for.
    """
    return ast.literal_eval(token) if token.startswith('"') else token


def events(emit):
    """
    The events that a function logs with the logger it is given.
    """
    publisher = LogPublisher()
    logged = []
    publisher.addObserver(logged.append)
    emit(Logger(namespace="echod.test", observer=publisher))
    return logged


def event(emit):
    """
    The one event that a function logs.
    """
    (only,) = events(emit)
    return only


def a_failure(text="went wrong"):
    try:
        raise RuntimeError(text)
    except RuntimeError:
        return Failure()


class TextLineTests(SynchronousTestCase):
    """
    Tests for L{text_line}.
    """

    def test_line(self):
        """
        A line has the time, the namespace, the level and the text.
        """
        logged = event(lambda log: log.info("{n} bytes", n=5))
        line = text_line(logged)
        self.assertRegex(line, r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\S* \[echod.test#info\] 5 bytes\n$")

    def test_nothing_to_say(self):
        """
        An event without text gives no line.
        """
        self.assertIsNone(text_line(event(lambda log: log.info(""))))

    def test_control_characters(self):
        """
        Control characters are escaped: a peer cannot move the cursor or forge a line.
        """
        logged = event(lambda log: log.info("{peer}", peer="a\x1b[2J\r\n2026 [x] \x9b\x7f\0\tb"))
        line = text_line(logged)
        self.assertTrue(
            line.endswith(r"a\x1b[2J\r" + "\n" + r"    2026 [x] \x9b\x7f\x00\tb" + "\n"), line
        )

    def test_what_is_not_seen(self):
        """
        So are characters that change the direction of text, end a line otherwise, or are
        invisible.
        """
        hidden = "\u2028\u2029\x85\u202a\u202e\u2066\u2069\u200b\ufeff\ud800"
        line = text_line(event(lambda log: log.info("{peer}", peer=f"\u20ac{hidden}")))
        self.assertTrue(line.strip().endswith("\u20ac" + ascii(hidden)[1:-1]), line)
        line.encode()

    def test_length(self):
        """
        The middle of a long text is left out.
        """
        line = text_line(event(lambda log: log.info("{s}", s="a" * 50_000 + "b" * 50_000)))
        self.assertTrue(line.startswith("20") and line.endswith("b\n"))
        prefix = line.index("] ") + 2
        self.assertEqual(len(line) - prefix, MAX_CHARACTERS + len(" ... \n"))

    def test_traceback(self):
        """
        A failure has its traceback, each line but the first indented.
        """
        line = text_line(event(lambda log: log.failure("bug", a_failure())))
        first, *rest = line.splitlines()
        self.assertTrue(first.endswith(" bug"), first)
        self.assertTrue(rest)
        self.assertEqual([each for each in rest if not each.startswith("    ")], [])
        self.assertIn("RuntimeError: went wrong", line)


class FactsConnection(FakeConnection):
    """
    A connection with any peer and facts.
    """

    def __init__(self, connections, peer, facts):
        super().__init__(connections)
        self._peer = peer
        self.known = facts

    def peer(self):
        return self._peer


class PeerTests(SynchronousTestCase):
    """
    Tests for values that peers choose, in records of their connections.
    """

    def logged(self, peer, facts, reason=Reason.CLIENT):
        with capturedLogs() as logged:
            connections = Connections(Clock(), Timeouts(), EventAccessLog())
            connection = FactsConnection(connections, peer, facts)
            connection.bytes_echoed = 5
            connections.remove(connection, reason, "late")
            connections.refusals.log_summary()
        (only,) = logged
        return only

    @settings(deadline=None, database=None, derandomize=True)
    @given(st.text(), st.dictionaries(st.sampled_from(NAMES), st.text()))
    @example(FORGED, {"proxy_alpn": FORGED, "tls_sni": f'"{FORGED}'})
    @example('" ', {"proxy_alpn": "\\", "tls_sni": '\\"; tls_subject "', "proxy": ""})
    def test_access(self, peer, facts):
        """
        A line can be parsed back into its fields, whatever is in them; JSON has them
        unchanged.
        """
        event = self.logged(peer, facts)
        match = re.fullmatch(
            rf"\S+ \[\S+\] connection 1 of ({TOKEN}) to tcp: 5 bytes echoed in 0\.000 s, "
            rf"closed by client((?:; \w+ {TOKEN})*)\n",
            text_line(event),
        )
        self.assertIsNotNone(match, text_line(event))
        told = re.findall(rf"; (\w+) ({TOKEN})", match[2])
        self.assertEqual(value_of(match[1]), peer)
        self.assertEqual([(name, value_of(token)) for name, token in told], list(facts.items()))
        record = json.loads(json_line(event))
        self.assertEqual({name: record[name] for name in facts}, facts)
        self.assertEqual(record["peer"], peer)
        self.assertEqual(
            record["message"],
            f"connection 1 of {peer} to tcp: 5 bytes echoed in 0.000 s, closed by client"
            + "".join(f"; {name} {value}" for name, value in facts.items()),
        )

    @settings(deadline=None, database=None, derandomize=True)
    @given(st.text())
    @example(f"x to tcp, there is none{FORGED}")
    def test_refused(self, peer):
        """
        The same holds for a refusal.
        """
        line = text_line(self.logged(peer, {}, Reason.PROXY_HEADER))
        match = re.fullmatch(
            rf"\S+ \[\S+\] refused 1: proxy-header, the last from ({TOKEN}) to tcp, late\n", line
        )
        self.assertIsNotNone(match, line)
        self.assertEqual(value_of(match[1]), peer)

    def test_longest(self):
        """
        The longest values that a peer can choose are not cut: the name of a UNIX socket, of 108
        bytes, all escaped; 6 values of a PROXY header, and 4 of TLS.
        """
        longest = "\\" * 512
        facts = {f"proxy_{number}": longest for number in range(6)}
        facts |= {f"tls_{number}": longest[:256] for number in range(4)}
        name = "unix:" + r"\xff" * 108
        line = text_line(self.logged(name, {"proxy": name, **facts}))
        self.assertNotIn(" ... ", line)
        self.assertLess(len(line), MAX_CHARACTERS)


class JSONLineTests(SynchronousTestCase):
    """
    Tests for L{json_line}.
    """

    def record(self, emit):
        logged = event(emit)
        logged["log_time"] = 1_700_000_000.25
        line = json_line(logged)
        self.assertEqual(line.count("\n"), 1)
        self.assertTrue(line.endswith("}\n"))
        return json.loads(line)

    def test_line(self):
        """
        A line is one object with the event's text and values.
        """
        record = self.record(
            lambda log: log.warn("{peer} has {n}", peer="\x1e\n\u20ac", n=5, s=0.5, b=True, o=[])
        )
        self.assertEqual(
            record,
            {
                "timestamp": "2023-11-14T22:13:20.250Z",
                "level": "warn",
                "logger": "echod.test",
                "message": "\x1e\n\u20ac has 5",
                "peer": "\x1e\n\u20ac",
                "n": 5,
                "s": 0.5,
                "b": True,
            },
        )

    def test_values(self):
        """
        Any value gives a line in ASCII that a strict parser accepts.
        """
        values = {
            "nan": float("nan"),
            "infinite": float("-inf"),
            "large": 2**63 - 1,
            "larger": -(2**63),
            "huge": 1 << 40_000,
            "raw": b"\xff\x00a",
            "nothing": None,
            "half": "\ud800",
            "line": "\u2028",
            "long": "a" * 50_000 + "b" * 50_000,
        }
        logged = event(lambda log: log.info("words", **values))
        line = json_line(logged)
        self.assertTrue(line.isascii())
        self.assertLess(len(line), 4 * MAX_CHARACTERS)

        def refuse(constant):
            raise AssertionError(constant)

        record = json.loads(line, parse_constant=refuse)
        self.assertEqual(
            {name: record[name] for name in list(values)[:4]},
            {"nan": None, "infinite": None, "large": 2**63 - 1, "larger": "-0x8000000000000000"},
        )
        self.assertEqual(record["huge"][:6], "0x1000")
        self.assertEqual(
            {name: record[name] for name in ("raw", "nothing", "half", "line")},
            {"raw": "\\xff\0a", "nothing": None, "half": "\\ud800", "line": "\u2028"},
        )
        self.assertRegex(record["long"], r"^a+ \.\.\. b+$")

    def test_names_of_ours(self):
        """
        An event's values do not replace the fields of the line; older logging adds none.
        """
        logged = event(lambda log: log.info("words", logger="x"))
        # What a call of twisted.python.log leaves in an event.
        logged.update(message="m", time=1.0, system="-", format="f", isError=0, why="w")
        logged.update(failure="f")
        record = json.loads(json_line(logged))
        self.assertEqual((record["logger"], record["message"]), ("echod.test", "words"))
        self.assertEqual(set(record), {"timestamp", "level", "logger", "message"})

    def test_traceback(self):
        """
        The traceback is a field, also without a text.
        """
        for words in ("bug", ""):
            record = self.record(lambda log, words=words: log.failure(words, a_failure()))
            self.assertEqual(record["message"], words)
            self.assertIn("RuntimeError: went wrong", record["traceback"])

    def test_nothing_to_say(self):
        """
        An event without text gives no line.
        """
        self.assertIsNone(json_line(event(lambda log: log.info(""))))


class LineObserverTests(SynchronousTestCase):
    """
    Tests for L{LineObserver}.
    """

    def test_lines(self):
        """
        The line of each event is passed to the writer with its level; no line for an event
        without text.
        """
        put = []

        class FakeWriter:
            def put(self, level, line):
                put.append((level, line))

        observer = LineObserver(FakeWriter(), lambda event, style: event["log_format"] or None)
        verifyObject(ILogObserver, observer)
        for name in ("debug", "critical"):
            observer(event(lambda log, name=name: log.emit(LogLevel.levelWithName(name), name)))
        observer(event(lambda log: log.info("")))
        observer({"log_format": "by hand \u20ac"})
        self.assertEqual(
            put,
            [
                (LogLevel.debug, b"debug"),
                (LogLevel.critical, b"critical"),
                (LogLevel.info, b"by hand \xe2\x82\xac"),
            ],
        )
