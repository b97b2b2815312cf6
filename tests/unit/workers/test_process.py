"""
Tests for the process of a worker.
"""

import signal

from twisted.internet.defer import CancelledError
from twisted.internet.interfaces import IProcessTransport
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.logger import LogLevel, capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from echod.workers.channel import Channel
from echod.workers.process import MAX_LINE_BYTES, LineBuffer, WorkerProcess
from tests.support.fakeprocesses import FakeProcess, FarEnd


class LineBufferTests(SynchronousTestCase):
    """
    Tests for L{LineBuffer}.
    """

    def setUp(self):
        self.lines = []
        self.taken = LineBuffer(self.lines.append)

    def test_pieces(self):
        """
        A line is passed when it is complete, and the last one without a newline.
        """
        for piece in (b"on", b"e\ntw", b"o\n\nthr", b"", b"ee"):
            self.taken.add(piece)
        self.assertEqual(self.lines, [b"one\n", b"two\n", b"\n"])
        self.taken.end()
        self.taken.end()
        self.assertEqual(self.lines[3:], [b"three\n"])

    def test_bounded(self):
        """
        A line that does not end is cut.
        """
        self.taken.add(b"x" * MAX_LINE_BYTES)
        self.assertEqual(self.lines, [])
        self.taken.add(b"x")
        self.assertEqual(self.lines, [b"x" * (MAX_LINE_BYTES + 1) + b"\n"])


class WorkerProcessTests(SynchronousTestCase):
    """
    A worker with a fake process and channel.
    """

    def setUp(self):
        self.told = []
        self.log = []
        self.log_accepts = True
        self.clock = Clock()
        self.clock.advance(5)
        self.child = WorkerProcess("1", self.clock, self, self.write_log)
        self.process = FakeProcess(77, self.child, [], {}, {})
        verifyObject(IProcessTransport, self.process)
        self.child.channel = Channel(self.child.message_received, self.child.channel_closed)
        self.child.channel.makeConnection(StringTransport())
        self.far = FarEnd(self.child.channel)

    def write_log(self, line):
        if self.log_accepts:
            self.log.append(line)
        return self.log_accepts

    def worker_up(self, child):
        self.told.append((child.name, "up"))

    def worker_ended(self, child, how):
        self.told.append((child.name, child.pid, how))

    def test_up(self):
        """
        A worker is up when it says so.
        """
        self.assertFalse(self.child.up)
        self.far.send(up=True)
        self.assertTrue(self.child.up)
        self.assertEqual(self.child.up_since, 5)
        self.assertEqual(self.told, [("1", "up")])

    def test_end(self):
        """
        The exit is reported in words.
        """
        for end, how in (
            ({"signal": 9}, "was ended by SIGKILL"),
            ({"signal": signal.SIGRTMIN}, "was ended by SIGRTMIN"),
            ({"signal": signal.SIGRTMIN + 1}, "was ended by SIGRTMIN+1"),
            ({"signal": signal.SIGRTMAX}, "was ended by SIGRTMAX"),
            # The C library keeps this one for itself, but a process can be sent it.
            ({"signal": signal.SIGRTMIN - 1}, f"was ended by signal {signal.SIGRTMIN - 1}"),
            ({"status": 3}, "ended with status 3"),
            ({}, "ended with status 0"),
        ):
            self.setUp()
            self.process.end(**end)
            self.assertEqual(self.told, [("1", 77, how)])

    def test_log(self):
        """
        Its log is passed on by lines, the last one at the exit.
        """
        self.child.childDataReceived(1, b"a line\nand")
        self.assertEqual(self.log, [b"a line\n"])
        self.process.end()
        self.assertEqual(self.log, [b"a line\n", b"and\n"])

    def test_log_fails(self):
        """
        The exit is reported even if its last output cannot be logged; both errors are logged.
        """

        def fail(line):
            raise OSError(28, "no space")

        child = WorkerProcess("1", self.clock, self, fail)
        self.patch(child, "_stderr", LineBuffer(fail))
        process = FakeProcess(78, child, [], {}, {})
        child.childDataReceived(1, b"half a line")
        child.childDataReceived(2, b"half a line")
        process.end(signal=9)
        self.assertEqual(self.told, [("1", 78, "was ended by SIGKILL")])
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 2)

    def test_log_dropped(self):
        """
        Lines that are not written are counted.
        """
        self.child.childDataReceived(1, b"one\n")
        self.log_accepts = False
        self.child.childDataReceived(1, b"two\nthree\n")
        self.assertEqual((self.log, self.child.dropped), ([b"one\n"], 2))

    def test_startup_error(self):
        """
        The last line before it is up is kept.
        """
        self.child.childDataReceived(2, b"Traceback\n  x\nechod: b\xffd\x1b[2J\n\n")
        self.assertEqual(self.child.startup_error, "echod: b\\xffd\\x1b[2J")
        self.child.childDataReceived(2, b"more")
        self.process.end()
        self.assertEqual(self.child.startup_error, "more")

    def test_later_errors(self):
        """
        Later lines of its standard error are logged.
        """
        self.far.send(up=True)
        with capturedLogs() as events:
            self.child.childDataReceived(2, b"fatal\x1b\n")
        (event,) = events
        self.assertIs(event["log_level"], LogLevel.error)
        self.assertEqual(formatEvent(event), "worker 1 says: fatal\\x1b")
        self.assertEqual(self.child.startup_error, "")

    def test_ask(self):
        """
        An answer goes to its question; other answers do nothing.
        """
        one, other = self.child.ask(snapshot=True), self.child.ask()
        self.assertEqual(self.far.received(), [{"ask": 1, "snapshot": True}, {"ask": 2}])
        self.far.send(answer=2)
        self.assertEqual(self.successResultOf(other), {"answer": 2})
        self.far.send(answer=2)
        self.far.send()
        self.assertNoResult(one)
        self.far.send(answer=1, snapshot="x")
        self.assertEqual(self.successResultOf(one)["snapshot"], "x")

    def test_any_message_counts(self):
        """
        Any message resets the count of heartbeats.
        """
        for message in ({"up": True}, {"answer": 5}, {}):
            self.child.silent = 3
            self.far.send(**message)
            self.assertEqual(self.child.silent, 0)

    def test_late_answer(self):
        """
        A late answer to a canceled question does nothing.
        """
        asked = self.child.ask()
        asked.cancel()
        self.failureResultOf(asked, CancelledError)
        self.far.send(answer=1)

    def test_channel_closed(self):
        """
        After the channel is closed, questions are canceled, and messages are not sent.
        """
        asked = self.child.ask()
        self.far.received()
        self.far.near.connectionLost()
        self.failureResultOf(asked, CancelledError)
        self.failureResultOf(self.child.ask(), CancelledError)
        self.child.send(do="stop")
        self.assertEqual(self.far.received(), [])

    def test_send(self):
        """
        A message is sent to the worker.
        """
        self.child.send(do="stop")
        self.assertEqual(self.far.received(), [{"do": "stop"}])

    def test_stop(self):
        """
        A worker that is up is told to stop by a message alone.
        """
        self.far.send(up=True)
        self.child.stop()
        self.assertEqual((self.far.received(), self.process.signals), ([{"do": "stop"}], []))

    def test_stop_before_it_is_up(self):
        """
        One that is not up yet gets TERM as well, unless it has just exited.
        """
        self.child.stop()
        self.assertEqual((self.far.received(), self.process.signals), ([{"do": "stop"}], ["TERM"]))
        self.process.end(signal=15)
        self.child.stop()
        self.assertEqual(self.process.signals, ["TERM"])

    def test_kill(self):
        """
        It can be killed, also just after its exit.
        """
        self.child.kill()
        self.assertEqual(self.process.signals, ["KILL"])
        self.process.end(signal=9)
        self.child.kill()
        self.assertEqual(self.process.signals, ["KILL"])
