"""
Tests for access records that are written without an event.
"""

import json

from hypothesis import example, given, settings, strategies as st
from twisted.logger import LogLevel, LogPublisher, capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from echod._util.text import Described
from echod.connections.access import emit_access
from echod.connections.connection import Reason
from echod.connections.timeouts import Timeouts
from echod.logs.access import AccessLog, is_only_observer
from echod.logs.formatters import LINES, MAX_CHARACTERS, of_worker
from echod.logs.style import COLORED, JOURNAL, PLAIN

NAMES = ("detail", "proxy", "proxy_alpn", "proxy_tls_cn", "tls_sni", "tls_subject")

# Halves of surrogate pairs too, which a name that is not UTF-8 could bring.
TEXT = st.text(st.characters(codec=None))

PEERS = st.sampled_from(("192.0.2.7:40000", "[2001:db8::1]:9000", "unix:", "unix:/run/a b")) | TEXT

NAMES_OF_LISTENERS = st.sampled_from(("tcp:9000", "tcp", "unix:/run/echo d"))

RECORDS = st.tuples(
    st.booleans(),
    st.integers(1, 1 << 62),
    st.builds(Described, NAMES_OF_LISTENERS | TEXT, NAMES_OF_LISTENERS | st.text()),
    PEERS,
    st.integers(0, 1 << 62),
    st.floats(0, 1e9) | st.integers(0, 1000),
    st.sampled_from(tuple(Timeouts(idle=300.0, lifetime=0.5).endings().values())),
    st.dictionaries(st.sampled_from(NAMES), TEXT),
)

ENDINGS = Timeouts().endings()
CLIENT = ENDINGS[Reason.CLIENT]
TCP = Described("tcp", "[::]:9000")

RECORD = (False, 1, TCP, "192.0.2.7:40000", 64, 0.25, CLIENT, {})


def nothing(event):
    """
    The observer of the daemon's log.
    """


def by_event(record, format, worker, nanoseconds, style=PLAIN):
    """
    The line of a record that is emitted as an event.
    """
    with capturedLogs() as events:
        emit_access(record)
    (event,) = events
    event["log_time"] = nanoseconds / 1e9
    if worker is not None:
        found = []
        of_worker(worker, found.append)(event)
        (event,) = found
    return LINES[format](event, style).encode()


class LineTests(SynchronousTestCase):
    """
    The lines.
    """

    @settings(deadline=None, database=None, derandomize=True, max_examples=300)
    @given(
        RECORDS,
        st.sampled_from(tuple(LINES)),
        st.sampled_from((None, "0", "17")),
        # Microseconds, which a float keeps.
        st.integers(0, 4_000_000_000_000_000).map(lambda moment: moment * 1000),
        st.sampled_from((PLAIN, COLORED, JOURNAL)),
    )
    @example(
        (*(False, 1, TCP, "x" * MAX_CHARACTERS, 5, 0.1, CLIENT), {}),
        "text",
        None,
        0,
        PLAIN,
    )
    @example(
        (*(False, 1, TCP, "x" * MAX_CHARACTERS, 5, 0.1, CLIENT), {}),
        "json",
        None,
        0,
        JOURNAL,
    )
    @example(
        (*(False, 1, TCP, "[::1]:9", 5, 0.1, CLIENT), {"tls_version": "TLSv1.3"}),
        *("json", None, 0, PLAIN),
    )
    @example(
        (
            *(False, 1, Described("a\nb", "c\nd"), "\udc80", 5, 1e-7, ENDINGS[Reason.ERROR]),
            {"detail": '\ue000" \\'},
        ),
        *("json", "1", 999_999_000, PLAIN),
    )
    def test_same(self, record, format, worker, nanoseconds, style):
        """
        A line is the same to the byte as that of the event.
        """
        put = []
        log = AccessLog(format, LogLevel.info, worker, LogPublisher(nothing), lambda: nanoseconds)
        log.open(nothing, lambda *line: put.append(line), style)
        self.assertTrue(log.write(record))
        level = LogLevel.debug if record[0] else LogLevel.info
        self.assertEqual(put, [(level, by_event(record, format, worker, nanoseconds, style))])

    def test_words(self):
        """
        People read the address of a listener, and a phrase for the reason; the fields of JSON have
        the name and the word.
        """
        text = by_event(RECORD, "text", None, 0).decode()
        self.assertIn(" to [::]:9000: 64 bytes echoed in 0.250 s, closed by client\n", text)
        record = json.loads(by_event(RECORD, "json", None, 0))
        self.assertEqual((record["listener"], record["reason"]), ("tcp", "client"))
        self.assertIn(" to [::]:9000: ", record["message"])

    def test_times(self):
        """
        Each record has its own time: the cached second is not kept too long.
        """
        start = 1_795_999_999_998_000_000
        for format in LINES:
            times = [start + step * 1_000_000 for step in (0, 1, 2, 1, 3000)]
            left = times.copy()
            put = []
            log = AccessLog(
                format, LogLevel.info, None, LogPublisher(nothing), lambda left=left: left.pop(0)
            )
            log.open(nothing, lambda level, line, put=put: put.append(line))
            for _ in times:
                log.write(RECORD)
            self.assertEqual(put, [by_event(RECORD, format, None, moment) for moment in times])


class ObserverTests(SynchronousTestCase):
    """
    Tests for what the events of the process have as observers.
    """

    def setUp(self):
        self.publisher = LogPublisher()
        self.put = []

    def log(self, level=LogLevel.info):
        log = AccessLog("text", level, None, self.publisher)
        log.open(nothing, lambda level, line: self.put.append(level))
        return log

    def test_only_observer(self):
        """
        The private name of Twisted that this needs is still there, and means the same.
        """
        self.assertFalse(is_only_observer(self.publisher, nothing))
        self.publisher.addObserver(nothing)
        self.assertTrue(is_only_observer(self.publisher, nothing))
        self.publisher.addObserver(repr)
        self.assertFalse(is_only_observer(self.publisher, nothing))
        self.publisher.removeObserver(nothing)
        self.assertFalse(is_only_observer(self.publisher, nothing))

    def test_without_private_name(self):
        """
        If the private name is gone, each record is emitted as an event.
        """
        self.assertFalse(is_only_observer(object(), nothing))

    def test_direct(self):
        """
        While our observer is the only one, records are written; those of a lower level are not
        wanted.
        """
        log = self.log()
        self.publisher.addObserver(nothing)
        self.assertEqual([log.wants(probe) for probe in (True, False)], [False, True])
        self.assertTrue(log.write(RECORD))
        self.assertEqual(self.put, [LogLevel.info])
        quiet = self.log(LogLevel.warn)
        self.assertEqual([quiet.wants(probe) for probe in (True, False)], [False, False])
        verbose = self.log(LogLevel.debug)
        self.assertEqual([verbose.wants(probe) for probe in (True, False)], [True, True])

    def test_another_observer(self):
        """
        Another observer wants every record, as an event.
        """
        log = self.log(LogLevel.error)
        self.publisher.addObserver(nothing)
        self.publisher.addObserver(repr)
        self.assertEqual([log.wants(probe) for probe in (True, False)], [True, True])
        self.assertFalse(log.write(RECORD))
        self.assertEqual(self.put, [])

    def test_not_open(self):
        """
        Before the log is open, and if it never is, every record is emitted as an event.
        """
        self.publisher.addObserver(nothing)
        log = AccessLog("json", LogLevel.warn, None, self.publisher)
        self.assertEqual([log.wants(probe) for probe in (True, False)], [True, True])
        self.assertFalse(log.write(RECORD))
