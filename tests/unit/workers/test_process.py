"""
One worker, as its parent sees it.
"""

from twisted.internet.defer import CancelledError
from twisted.internet.interfaces import IProcessTransport
from twisted.internet.testing import StringTransport
from twisted.logger import LogLevel, capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from echod.workers.channel import Channel
from echod.workers.process import MAX_LINE_BYTES, LineBuffer, WorkerProcess
from tests.support.fakeprocesses import FakeProcess, FarEnd


class LineBufferTests(SynchronousTestCase):
    """
    LineBuffer that come in pieces.
    """

    def setUp(self):
        self.lines = []
        self.taken = LineBuffer(self.lines.append)

    def test_pieces(self):
        """
        A line is given when it is whole, and the last one also without its end.
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
    A worker whose process and lifeline are the test's.
    """

    def setUp(self):
        self.told = []
        self.log = []
        self.room = True
        self.child = WorkerProcess("1", 5.0, self, self.write_log)
        self.process = FakeProcess(77, self.child, [], {}, {})
        verifyObject(IProcessTransport, self.process)
        self.child.channel = Channel(self.child.messageReceived, self.child.lost)
        self.child.channel.makeConnection(StringTransport())
        self.far = FarEnd(self.child.channel)

    def write_log(self, line):
        if self.room:
            self.log.append(line)
        return self.room

    def worker_up(self, child):
        self.told.append((child.name, "up"))

    def worker_ended(self, child, how):
        self.told.append((child.name, child.pid, how))

    def test_up(self):
        """
        It is up when it says so.
        """
        self.assertFalse(self.child.up)
        self.far.send(up=True)
        self.assertTrue(self.child.up)
        self.assertEqual(self.told, [("1", "up")])

    def test_end(self):
        """
        How it ended is told in words, with the process that it was.
        """
        for end, how in (
            ({"signal": 9}, "was ended by SIGKILL"),
            ({"status": 3}, "ended with status 3"),
            ({}, "ended with status 0"),
        ):
            self.setUp()
            self.process.end(**end)
            self.assertEqual(self.told, [("1", 77, how)])

    def test_log(self):
        """
        What it logs is handed on by lines, the last one at its end.
        """
        self.child.childDataReceived(1, b"a line\nand")
        self.assertEqual(self.log, [b"a line\n"])
        self.process.end()
        self.assertEqual(self.log, [b"a line\n", b"and\n"])

    def test_log_dropped(self):
        """
        What of it is not taken is counted.
        """
        self.child.childDataReceived(1, b"one\n")
        self.room = False
        self.child.childDataReceived(1, b"two\nthree\n")
        self.assertEqual((self.log, self.child.dropped), ([b"one\n"], 2))

    def test_complaint(self):
        """
        The last that it says before it is up is why it is not.
        """
        self.child.childDataReceived(2, b"Traceback\n  x\nechod: b\xffd\x1b[2J\n\n")
        self.assertEqual(self.child.complaint, "echod: b\\xffd\\x1b[2J")
        self.child.childDataReceived(2, b"more")
        self.process.end()
        self.assertEqual(self.child.complaint, "more")

    def test_later_complaints(self):
        """
        What it writes to its standard error later is logged.
        """
        self.far.send(up=True)
        with capturedLogs() as events:
            self.child.childDataReceived(2, b"fatal\x1b\n")
        (event,) = events
        self.assertIs(event["log_level"], LogLevel.error)
        self.assertEqual(formatEvent(event), "worker 1 says: fatal\\x1b")
        self.assertEqual(self.child.complaint, "")

    def test_ask(self):
        """
        Answers go to whoever asked; what nobody asked for changes nothing.
        """
        one, other = self.child.ask(snapshot=True), self.child.ask()
        self.assertEqual(self.far.messageReceived(), [{"ask": 1, "snapshot": True}, {"ask": 2}])
        self.far.send(answer=2)
        self.assertEqual(self.successResultOf(other), {"answer": 2})
        self.far.send(answer=2)
        self.far.send()
        self.assertNoResult(one)
        self.far.send(answer=1, snapshot="x")
        self.assertEqual(self.successResultOf(one)["snapshot"], "x")

    def test_any_message_counts(self):
        """
        Whatever it says, it is not silent.
        """
        for message in ({"up": True}, {"answer": 5}, {}):
            self.child.silent = 3
            self.far.send(**message)
            self.assertEqual(self.child.silent, 0)

    def test_late_answer(self):
        """
        An answer that is not waited for any more changes nothing.
        """
        asked = self.child.ask()
        asked.cancel()
        self.failureResultOf(asked, CancelledError)
        self.far.send(answer=1)

    def test_lost(self):
        """
        One that is gone answers nothing, and hears nothing.
        """
        asked = self.child.ask()
        self.far.messageReceived()
        self.far.near.connectionLost()
        self.failureResultOf(asked, CancelledError)
        self.failureResultOf(self.child.ask(), CancelledError)
        self.child.send(do="stop")
        self.assertEqual(self.far.messageReceived(), [])

    def test_send(self):
        """
        It hears what it is told.
        """
        self.child.send(do="stop")
        self.assertEqual(self.far.messageReceived(), [{"do": "stop"}])

    def test_kill(self):
        """
        It can be killed, also when it has just ended.
        """
        self.child.kill()
        self.assertEqual(self.process.signals, ["KILL"])
        self.process.end(signal=9)
        self.child.kill()
        self.assertEqual(self.process.signals, ["KILL"])
