"""
Tests for the daemon's log, built from twistd's options.
"""

import errno
import io
import json
import os
import re
import sys

from twisted.logger import ILogObserver, Logger, LogLevel, LogPublisher, globalLogPublisher
from twisted.python.failure import Failure
from twisted.scripts.twistd import ServerOptions
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from echod._util.stdio import is_journal
from echod._util.text import Described
from echod.logs import daemonlog, writer
from echod.logs.daemonlog import DaemonLog
from echod.logs.file import StreamDestination
from echod.logs.syslog import SyslogDestination
from tests.support import needs


class LogTestCase(SynchronousTestCase):
    """
    A log with the twistd options of a test.
    """

    def setUp(self):
        # A thread writes, for which each line waits.
        self.patch(writer, "MAX_BLOCKING_TIME", 60)
        self.stdout_path = os.path.abspath(self.file())
        stdout = open(self.stdout_path, "w")  # noqa: SIM115 - it is open until the test ends
        self.addCleanup(stdout.close)
        self.patch(sys, "stdout", stdout)

    def log(self, format=None, level=None, worker=None, publisher=globalLogPublisher, **twistd):
        options = ServerOptions()
        options.opts.update({"nodaemon": 1} | twistd)
        return DaemonLog(options, format, level, worker, publisher)

    def written(self):
        """
        The lines on standard output.
        """
        with open(self.stdout_path) as file:
            return file.read().splitlines()

    def file(self, content=b""):
        path = self.mktemp()
        with open(path, "wb") as file:
            file.write(content)
        return path

    def empty_folder(self):
        """
        Change to an empty directory until the test ends.
        """
        folder = self.mktemp()
        os.mkdir(folder)
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(folder)


class OpenTests(LogTestCase):
    """
    The observer, and the file that it writes to.
    """

    def say(self, observer):
        """
        Log at each of four levels.
        """
        verifyObject(ILogObserver, observer)
        log = Logger(namespace="echod.test", observer=LogPublisher(observer))
        log.debug("low")
        log.info("middle")
        log.warn("high")
        log.error("top")

    def said(self, **given):
        log = self.log(**given)
        self.say(log.open())
        self.assertIsNone(log.file)
        return self.written()

    def test_text(self):
        """
        By default the log is text, from info up.
        """
        lines = self.said()
        self.assertEqual([line.split()[-1] for line in lines], ["middle", "high", "top"])
        self.assertIn(" [echod.test#info] middle", lines[0])

    def test_json(self):
        """
        With another format and level, the log has that format, from that level up.
        """
        lines = self.said(format="json", level=LogLevel.warn)
        self.assertEqual([json.loads(line)["message"] for line in lines], ["high", "top"])

    def test_worker(self):
        """
        Each record of a worker names it, as text and as JSON.
        """
        for format, expected in (("text", "[worker 3 echod.test#info] middle"), ("json", "")):
            log = self.log(format=format, worker="3")
            self.say(log.open())
            line = self.written()[-3]
            self.assertIn(expected, line)
        self.assertEqual(json.loads(line)["worker"], "3")
        self.assertEqual(json.loads(line)["message"], "middle")

    def test_worker_of_old(self):
        """
        A record of Twisted's older logging names the worker, too.
        """
        log = self.log(worker="3")
        observer = log.open()
        observer(
            {
                "log_level": LogLevel.info, "log_namespace": "x", "log_time": 1.0,
                "log_format": "said", "log_system": "-",
            }
        )  # fmt: skip
        self.assertIn("[worker 3 -] said", self.written()[-1])

    def test_access(self):
        """
        When the log is open, an access record goes to it directly, unless another log observes
        the events of the process.
        """
        listener, reason = Described("tcp", "[::]:9"), Described("client", "closed by client")
        record = (False, 1, listener, "192.0.2.7:40000", 5, 0.1, reason, {})
        publisher = LogPublisher()
        log = self.log(worker="3", publisher=publisher)
        self.assertFalse(log.access.write(record))
        publisher.addObserver(log.open())
        self.assertTrue(log.access.write(record))
        (line,) = self.written()
        self.assertIn("[worker 3 echod.connections#info] connection 1 of 192.0.2.7:40000", line)
        publisher.addObserver(lambda event: None)
        self.assertFalse(log.access.write(record))
        self.assertEqual(self.written(), [line])

    def on_journal(self):
        """
        Let standard output be the journal.
        """
        status = os.fstat(sys.stdout.fileno())
        stream = {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
        self.patch(is_journal, "__defaults__", (stream,))

    def test_journal(self):
        """
        In the journal, lines have a priority and no time of their own, also access records and
        each line of a traceback.
        """
        self.on_journal()
        publisher = LogPublisher()
        log = self.log(publisher=publisher)
        publisher.addObserver(log.open())
        logger = Logger(namespace="echod.test", observer=publisher)
        logger.info("one")
        logger.warn("two")
        logger.error("three")
        logger.failure("four", Failure(RuntimeError("five")))
        listener, reason = Described("tcp", "[::]:9"), Described("client", "closed by client")
        log.access.write((False, 1, listener, "192.0.2.7:40000", 5, 0.1, reason, {}))
        lines = self.written()
        self.assertEqual(
            lines[:4],
            [
                "<6>[echod.test#info] one",
                "<4>[echod.test#warn] two",
                "<3>[echod.test#error] three",
                "<2>[echod.test#critical] four",
            ],
        )
        self.assertTrue(all(line.startswith("<2>    ") for line in lines[4:-1]), lines)
        self.assertTrue(lines[-1].startswith("<6>[echod.connections#info] connection 1 of "))
        self.assertFalse(log.announces)

    def test_journal_json(self):
        """
        JSON in the journal has its time, and a priority before each object.
        """
        self.on_journal()
        publisher = LogPublisher()
        log = self.log(format="json", publisher=publisher)
        publisher.addObserver(log.open())
        Logger(namespace="echod.test", observer=publisher).warn("two")
        (line,) = self.written()
        self.assertTrue(line.startswith('<4>{"timestamp": "'), line)

    def on_terminal(self, *others, **environ):
        """
        Let standard output be a terminal, and other descriptors.
        """
        self.patch(os, "isatty", {sys.stdout.fileno(), *others}.__contains__)
        self.patch(os, "environ", {"TERM": "xterm", **environ})

    def start(self, **options):
        """
        Start a log, as the daemon does.

        @return: the lines, without times.
        """
        publisher = LogPublisher()
        log = self.log(publisher=publisher, **options)
        publisher.addObserver(log.open())
        logger = Logger(namespace="echod", observer=publisher)
        logger.info("starting", event="starting")
        log.announce("echod listens\n")
        logger.warn("careful")
        return [re.sub(r"^\d\S+ ", "", line) for line in self.written()[-3:]]

    def test_terminal(self):
        """
        On a terminal, a person reads in the first line where the daemon listens, and the levels
        have colors.
        """
        self.on_terminal()
        self.assertEqual(self.start(), ["echod listens\\n", "[echod#\x1b[33mwarn\x1b[0m] careful"])

    def test_error_on_terminal(self):
        """
        What is written to standard error as well is on a terminal once; a log elsewhere has it.
        """
        line = "[echod#error] the port is in use"
        for others, format, expected in (
            ((2,), "text", []),
            ((), "text", [line]),
            ((2,), "json", ["the port is in use"]),
        ):
            self.on_terminal(*others, NO_COLOR="1")
            publisher = LogPublisher()
            before = len(self.written())
            publisher.addObserver(self.log(format=format, publisher=publisher).open())
            logger = Logger(namespace="echod", observer=publisher)
            logger.error("the port is in use", event="listen-failed")
            found = [
                json.loads(each)["message"] if format == "json" else each.partition(" ")[2]
                for each in self.written()[before:]
            ]
            self.assertEqual(found, expected)

    def test_terminal_without_colors(self):
        """
        C{NO_COLOR} is respected; JSON is not for people, and has neither.
        """
        self.on_terminal(NO_COLOR="1")
        self.assertEqual(self.start(), ["echod listens\\n", "[echod#warn] careful"])
        lines = self.start(format="json")[-2:]
        self.assertEqual([json.loads(line)["message"] for line in lines], ["starting", "careful"])

    def test_no_terminal(self):
        """
        A file has no line for a person, and neither has a log that is not open.
        """
        self.assertEqual(self.start(), ["[echod#info] starting", "[echod#warn] careful"])
        self.log().announce("nothing")

    def test_twisted(self):
        """
        What Twisted says of its own parts is for C{--log-level debug}, except for the signal
        that ends the daemon and the reason for which twistd gives up.
        """
        said = (
            ("twisted.scripts._twistd_unix.UnixAppLogger", "reactor class: x."),
            ("log_legacy", "(TCP Port 9000 Closed)"),
            ("twisted.internet.base", "Received SIGTERM, shutting down."),
            ("log_legacy", "failed to set uid/gid 1/1: x (are you root?) -- exiting."),
            ("another.library", "hello"),
        )
        for level, expected in ((None, [2, 3, 4]), (LogLevel.debug, [0, 1, 2, 3, 4])):
            publisher = LogPublisher()
            before = len(self.written())
            publisher.addObserver(self.log(level=level, publisher=publisher).open())
            for namespace, text in said:
                Logger(namespace=namespace, observer=publisher).info(text)
            found = [line.partition("] ")[2] for line in self.written()[before:]]
            self.assertEqual(found, [said[index][1] for index in expected])
        # An error of Twisted's stays one.
        Logger(namespace="twisted.x", observer=publisher).error("bad")
        self.assertIn("[twisted.x#error] bad", self.written()[-1])

    def test_lines_of_workers(self):
        """
        Lines of workers go to the log file, if there is one.
        """
        self.empty_folder()
        log = self.log(logfile="a.log")
        log.write(b"too early\n")
        log.open()
        log.write("line \u00e4\n".encode())
        with open("a.log", encoding="utf-8") as file:
            self.assertEqual(file.read(), "line \u00e4\n")

    def test_debug(self):
        """
        With level debug, all records are logged.
        """
        self.assertEqual(len(self.said(level=LogLevel.debug)), 4)

    def test_file(self):
        """
        A log file is written to, and can be rotated.
        """
        path = self.file(b"earlier\n")
        log = self.log(logfile=path)
        self.say(log.open())
        self.addCleanup(log.file.close)
        log.rotate()
        log.flush()
        with open(path + ".1", "rb") as file:
            lines = file.read().splitlines()
        self.assertEqual(
            [line.split()[-1] for line in lines], [b"earlier", b"middle", b"high", b"top"]
        )
        self.assertEqual(self.written(), [])

    def test_logger_of_the_user(self):
        """
        A logger that the user gives to twistd stays, and no file is opened.
        """
        path = self.mktemp()
        log = self.log(logger="some.logger", logfile=path)
        self.assertIsNone(log.open())
        self.assertEqual((log.file, os.path.exists(path)), (None, False))

    def test_without_twistd(self):
        """
        Under twist, which has its own log, there is nothing to open or check.
        """
        log = DaemonLog(None, "json", LogLevel.debug)
        self.assertIsNone(log.open())
        log.check_open()
        log.set_async()
        log.rotate()
        log.flush()
        self.assertEqual((log.file, log.dropped), (None, 0))

    def test_background(self):
        """
        In the background, the default log file is twistd.log; lines before the fork are in
        it at once.
        """
        self.empty_folder()
        log = self.log(nodaemon=0)
        observer = log.open()
        self.addCleanup(log.file.close)
        self.say(observer)
        with open("twistd.log") as file:
            self.assertEqual([line.split()[-1] for line in file], ["middle", "high", "top"])
        self.assertEqual((os.listdir("."), self.written()), (["twistd.log"], []))

    def test_running_in_the_background(self):
        """
        In the background, too, a thread writes the lines as soon as the reactor runs.
        """
        self.empty_folder()
        log = self.log(nodaemon=0)
        observer = log.open()
        self.addCleanup(log.file.close)
        threads = []
        log._writer._start_thread = threads.append
        log.set_async()
        self.say(observer)
        self.assertEqual((len(threads), os.stat("twistd.log").st_size), (1, 0))

    def test_no_stdout(self):
        """
        Without sys.stdout, lines go to descriptor 1, which is /dev/null by then.
        """
        descriptors = []
        self.patch(daemonlog, "StreamDestination", descriptors.append)
        self.patch(sys, "stdout", None)
        self.log().open()
        self.assertEqual(descriptors, [1])

    def test_syslog(self):
        """
        With C{--syslog}, lines go to syslog only, with or without a log file or standard
        output.
        """
        path = self.mktemp()
        for given in ({"logfile": path}, {"logfile": "-", "nodaemon": 0}):
            sent = []

            class FakeDestination(StreamDestination):
                def __init__(self, prefix, sent=sent):
                    self.sent = sent
                    sent.append(prefix)

                def connect(self):
                    pass

                def write(self, records):
                    self.sent.extend(records)

            self.patch(daemonlog, "SyslogDestination", FakeDestination)
            log = self.log(syslog=1, prefix="name", **given)
            self.say(log.open())
            self.assertEqual(sent[0], "name")
            self.assertEqual(
                [level for level, _ in sent[1:]], [LogLevel.info, LogLevel.warn, LogLevel.error]
            )
            self.assertIsNone(log.file)
        self.assertEqual((self.written(), os.path.exists(path)), ([], False))

    def test_no_syslogd(self):
        """
        Without a syslogd the start continues with a warning, which workers do not repeat.
        """

        class FailingDestination(SyslogDestination):
            def __init__(self, prefix):
                super().__init__(prefix, "/no/such/socket")

        self.patch(daemonlog, "SyslogDestination", FailingDestination)
        for worker in ("3", None):
            stderr = io.StringIO()
            self.patch(sys, "__stderr__", stderr)
            log = self.log(syslog=1, prefix="name", worker=worker)
            self.assertIsNotNone(log.open())
            said = stderr.getvalue()
            self.assertEqual(len(said.splitlines()), worker is None)
        self.assertIn("--syslog: no program listens on", said)
        self.assertIn(": No such file or directory; lines wait for it", said)

    def test_dropped(self):
        """
        When the log output is blocked, lines are dropped and counted.
        """
        needs.file("/dev/full")
        log = self.log(logfile="/dev/full", nodaemon=0)
        observer = log.open()
        self.addCleanup(log.file.close)
        self.assertEqual(log.dropped, 0)
        speaker = Logger(observer=LogPublisher(observer))
        for _ in range(200):
            speaker.info("{text}", text="x" * 8000)
        self.assertGreater(log.dropped, 50)
        log.flush()
        self.assertEqual(len(self.written()), 0)


class RefusedTests(LogTestCase):
    """
    A log that cannot be opened: one line with the file, the reason and the way out.
    """

    def refused(self, **twistd):
        lines = set()
        for attempt in ("open", "check_open"):
            error = self.assertRaises(SystemExit, getattr(self.log(**twistd), attempt))
            self.assertEqual(error.code.splitlines(), [error.code])
            lines.add(error.code)
        (line,) = lines
        return line

    def test_no_folder(self):
        """
        A file in a directory that does not exist is named, with control characters escaped.
        """
        path = os.path.abspath(os.path.join(self.mktemp(), "log"))
        self.assertEqual(
            self.refused(logfile=path),
            f"twistd: --logfile '{path}': No such file or directory; "
            "give a file that can be written",
        )
        self.assertIn(rf" '{path}\y\x1b/log': ", self.refused(logfile=path + "\\y\x1b/log"))

    def test_in_the_background(self):
        """
        In the background, the error names twistd.log.
        """
        self.empty_folder()
        os.mkdir("twistd.log")
        self.assertEqual(
            self.refused(logfile=None, nodaemon=0),
            "twistd: --logfile 'twistd.log': Is a directory; give a file that can be written",
        )

    def test_stdout_in_the_background(self):
        """
        Standard output as the log is refused in the background.
        """
        self.assertEqual(
            self.refused(logfile="-", nodaemon=0),
            "twistd: --logfile '-': a daemon in the background has no standard output; "
            "give a file that can be written",
        )

    def test_pipe(self):
        """
        A FIFO without a reader is named as well.
        """
        path = os.path.abspath(self.mktemp())
        os.mkfifo(path)
        line = self.refused(logfile=path)
        self.assertTrue(line.startswith(f"twistd: --logfile '{path}': "), line)
        self.assertIn(os.strerror(errno.ENXIO), line)


class TryTests(LogTestCase):
    """
    L{DaemonLog.check_open}.
    """

    def test_new_file(self):
        """
        The check leaves no file behind.
        """
        path = self.mktemp()
        log = self.log(logfile=path)
        log.check_open()
        self.assertIsNotNone(log.file)
        self.assertFalse(os.path.exists(path))

    def test_file_of_earlier(self):
        """
        An existing log file is not changed.
        """
        path = self.file(b"earlier\n")
        self.log(logfile=path).check_open()
        with open(path, "rb") as file:
            self.assertEqual(file.read(), b"earlier\n")

    def test_behind_a_link(self):
        """
        A symbolic link to a future log file stays, and its target is not created.
        """
        target, path = os.path.abspath(self.mktemp()), self.mktemp()
        os.symlink(target, path)
        self.log(logfile=path).check_open()
        self.assertEqual((os.path.islink(path), os.path.exists(target)), (True, False))

    def test_stdout(self):
        """
        In the foreground no file is needed, and a file named - is not touched.
        """
        self.empty_folder()
        for logfile in (None, "-"):
            self.log(logfile=logfile).check_open()
            self.assertEqual(os.listdir("."), [])
            with open("-", "wb"):
                pass
            self.log(logfile=logfile).check_open()
            self.assertEqual(os.listdir("."), ["-"])
            os.unlink("-")
