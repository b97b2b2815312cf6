"""
How log events become lines, and where the lines go.
"""

import io
import json
import os
import sys
import syslog

from twisted.logger import ILogObserver, Logger, LogLevel, LogPublisher
from twisted.python.failure import Failure
from twisted.python.logfile import LogFile
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from echod.observers import SyslogObserver, json_line, make_observer, text_line


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
    Lines for people.
    """

    def test_line(self):
        """
        A line has the time, the room that speaks, the level and what it says.
        """
        logged = event(lambda log: log.info("{n} bytes", n=5))
        line = text_line(logged)
        self.assertRegex(line, r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\S* \[echod.test#info\] 5 bytes\n$")

    def test_nothing_to_say(self):
        """
        An event without words writes no line, not an empty one.
        """
        self.assertIsNone(text_line(event(lambda log: log.info(""))))

    def test_control_characters(self):
        """
        A peer cannot move the cursor, nor begin a line that looks like another event.
        """
        logged = event(lambda log: log.info("{peer}", peer="a\x1b[2J\r\n2026 [x] \x9b\x7f\0\tb"))
        line = text_line(logged)
        self.assertTrue(line.endswith("a\\x1b[2J\\x0d\n\t2026 [x] \\x9b\\x7f\\x00\tb\n"), line)

    def test_traceback(self):
        """
        A failure comes with its traceback, every line but the first indented.
        """
        line = text_line(event(lambda log: log.failure("bug", a_failure())))
        first, *rest = line.splitlines()
        self.assertTrue(first.endswith(" bug"), first)
        self.assertTrue(rest)
        self.assertEqual([each for each in rest if not each.startswith("\t")], [])
        self.assertIn("RuntimeError: went wrong", line)


class JSONLineTests(SynchronousTestCase):
    """
    Lines for programs.
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
        A line is one object with the event's words and its own values.
        """
        record = self.record(
            lambda log: log.warn("{peer} has {n}", peer="\x1e\n\u20ac", n=5, s=0.5, b=True, o=[])
        )
        self.assertEqual(
            record,
            {
                "time": "2023-11-14T22:13:20.250Z",
                "level": "warn",
                "logger": "echod.test",
                "message": "\x1e\n\u20ac has 5",
                "peer": "\x1e\n\u20ac",
                "n": 5,
                "s": 0.5,
                "b": True,
            },
        )

    def test_names_of_ours(self):
        """
        An event's own values do not displace the line's, and older logging adds none.
        """
        logged = event(lambda log: log.info("words", logger="x"))
        # What a call of twisted.python.log leaves in an event.
        logged.update(message="m", time=1.0, system="-", format="f", isError=0, why="w")
        logged.update(failure="f")
        record = json.loads(json_line(logged))
        self.assertEqual((record["logger"], record["message"]), ("echod.test", "words"))
        self.assertEqual(set(record), {"time", "level", "logger", "message"})

    def test_traceback(self):
        """
        A failure's traceback is one value of the object, even without words.
        """
        for words in ("bug", ""):
            record = self.record(lambda log, words=words: log.failure(words, a_failure()))
            self.assertEqual(record["message"], words)
            self.assertIn("RuntimeError: went wrong", record["traceback"])

    def test_nothing_to_say(self):
        """
        An event without words writes no line.
        """
        self.assertIsNone(json_line(event(lambda log: log.info(""))))


class SyslogTests(SynchronousTestCase):
    """
    Lines that go to syslog(3).
    """

    def setUp(self):
        self.opened, self.sent = [], []
        self.patch(syslog, "openlog", lambda *args: self.opened.append(args))
        self.patch(syslog, "syslog", lambda *args: self.sent.append(args))

    def test_priorities(self):
        """
        Each line has the prefix of twistd and the priority of its event.
        """
        observer = SyslogObserver("prefix", lambda event: event["log_format"] + "\n")
        verifyObject(ILogObserver, observer)
        for name in ("debug", "info", "warn", "error", "critical"):
            observer(event(lambda log, name=name: log.emit(LogLevel.levelWithName(name), name)))
        self.assertEqual(self.opened, [("prefix", syslog.LOG_PID, syslog.LOG_DAEMON)])
        self.assertEqual(
            self.sent,
            [
                (syslog.LOG_DEBUG, "debug"),
                (syslog.LOG_INFO, "info"),
                (syslog.LOG_WARNING, "warn"),
                (syslog.LOG_ERR, "error"),
                (syslog.LOG_CRIT, "critical"),
            ],
        )

    def test_lines(self):
        """
        A traceback is sent line by line, and an event without words not at all.
        """
        observer = SyslogObserver("prefix", text_line)
        observer(event(lambda log: log.info("")))
        self.assertEqual(self.sent, [])
        observer(event(lambda log: log.failure("bug", a_failure())))
        self.assertGreater(len(self.sent), 2)
        self.assertEqual([line for _, line in self.sent if "\n" in line], [])


class MakeObserverTests(SynchronousTestCase):
    """
    The destinations that twistd's options name.
    """

    def setUp(self):
        self.stdout = io.StringIO()
        self.patch(sys, "stdout", self.stdout)

    def make(self, format="text", level=LogLevel.info, **twistd):
        options = {"logfile": None, "nodaemon": True, "syslog": False, "prefix": "echod"}
        observer, file = make_observer(options | twistd, format, level)
        verifyObject(ILogObserver, observer)
        if file is not None:
            self.addCleanup(file.close)
        return observer, file

    def say(self, observer):
        for each in events(lambda log: [log.debug("d"), log.info("i"), log.warn("w")]):
            observer(each)

    def test_stdout(self):
        """
        In the foreground, with C{--logfile -} too, lines go to standard output.
        """
        for twistd in ({}, {"logfile": "-"}):
            observer, file = self.make(**twistd)
            self.assertIsNone(file)
            self.say(observer)
        words = [line.split()[-1] for line in self.stdout.getvalue().splitlines()]
        self.assertEqual(words, ["i", "w", "i", "w"])

    def test_level(self):
        """
        What is below the level is not written.
        """
        for level, expected in ((LogLevel.debug, "diw"), (LogLevel.warn, "w")):
            observer, _ = self.make("json", level)
            self.stdout.truncate(0)
            self.stdout.seek(0)
            self.say(observer)
            said = [json.loads(line)["message"] for line in self.stdout.getvalue().splitlines()]
            self.assertEqual("".join(said), expected)

    def test_file(self):
        """
        A log file gets every line as soon as it is logged, is added to, and can be rotated.
        """
        path = self.mktemp()
        with open(path, "w") as earlier:
            earlier.write("earlier\n")
        observer, file = self.make(logfile=path)
        self.assertIsInstance(file, LogFile)
        self.say(observer)
        file.rotate()
        self.say(observer)
        with open(path + ".1") as old, open(path) as new:
            self.assertEqual([line.split()[-1] for line in old], ["earlier", "i", "w"])
            self.assertEqual([line.split()[-1] for line in new], ["i", "w"])
        self.assertEqual(self.stdout.getvalue(), "")

    def test_background(self):
        """
        In the background, without a name, the log file is twistd.log.
        """
        folder = self.mktemp()
        os.mkdir(folder)
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(folder)
        self.make(nodaemon=False)
        self.assertEqual(os.listdir("."), ["twistd.log"])

    def test_stdout_in_the_background(self):
        """
        In the background C{--logfile -} is refused: the lines would go nowhere.
        """
        error = self.assertRaises(OSError, self.make, logfile="-", nodaemon=False)
        self.assertEqual(error.strerror, "a daemon in the background has no standard output")

    def test_syslog(self):
        """
        With C{--syslog} lines go there and nowhere else, a log file or not.
        """
        opened, sent = [], []
        self.patch(syslog, "openlog", lambda *args: opened.append(args))
        self.patch(syslog, "syslog", lambda *args: sent.append(args))
        path = self.mktemp()
        observer, file = self.make(syslog=True, logfile=path)
        self.say(observer)
        self.assertEqual(opened[0][0], "echod")
        self.assertEqual([line[-1] for _, line in sent], ["i", "w"])
        self.assertIsNone(file)
        self.assertEqual((self.stdout.getvalue(), os.path.exists(path)), ("", False))
        # Nor does it matter then that the background has no standard output.
        observer, file = self.make(syslog=True, logfile="-", nodaemon=False)
        self.say(observer)
        self.assertEqual([line[-1] for _, line in sent], ["i", "w"] * 2)
        self.assertIsNone(file)
        self.assertEqual(self.stdout.getvalue(), "")

    def test_cannot_open(self):
        """
        A log file in a folder that is not there is the caller's to report.
        """
        self.assertRaises(OSError, self.make, logfile=os.path.join(self.mktemp(), "log"))
