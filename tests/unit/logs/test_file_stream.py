"""
Places for the lines of a log.
"""

import errno
import os

from twisted.logger import LogLevel
from twisted.trial.unittest import SynchronousTestCase

from echod.logs import file
from echod.logs.file import StreamDestination, wait_writable


def records(*lines):
    return [(LogLevel.info, line) for line in lines]


class StreamTests(SynchronousTestCase):
    """
    A descriptor that lines go to.
    """

    def setUp(self):
        self.reading, self.writing = os.pipe()
        self.addCleanup(os.close, self.reading)
        self.addCleanup(os.close, self.writing)
        os.set_blocking(self.reading, False)
        self.patch(file, "WRITE_TIMEOUT", 0)
        self.stream = StreamDestination(self.writing)

    def read(self):
        """
        All that there is to read.
        """
        data = b""
        try:
            while piece := os.read(self.reading, 65536):
                data += piece
        except BlockingIOError:
            pass
        return data

    def test_lines(self):
        """
        Lines go out one after the other, and rotation means nothing here.
        """
        self.stream.write(records(b"a\n", b"b\n"))
        self.stream.rotate()
        self.stream.write(records(b"c\n"))
        self.assertEqual(self.read(), b"a\nb\nc\n")
        self.assertFalse(self.stream.should_rotate())

    def test_non_blocking(self):
        """
        Where somebody has made it non-blocking, what it has begun is ended when it takes
        again, and no line is torn.
        """
        os.set_blocking(self.writing, False)
        lines = records(b"x" * 99_999 + b"\n", b"y\n")
        self.assertRaises(BlockingIOError, self.stream.write, lines)
        data = self.read()
        self.assertTrue(0 < len(data) < 100_000)
        self.stream.write(lines)
        self.stream.write(records(b"z\n"))
        self.assertEqual(data + self.read(), b"x" * 99_999 + b"\ny\nz\n")

    def test_room_in_time(self):
        """
        Where it takes again soon, it is only waited for.
        """
        os.set_blocking(self.writing, False)
        data = []
        self.patch(file, "wait_writable", lambda _: data.append(self.read()) or True)
        self.stream.write(records(b"x" * 99_999 + b"\n"))
        self.assertEqual(b"".join(data) + self.read(), b"x" * 99_999 + b"\n")

    def test_nobody_reads(self):
        """
        A pipe whose reader has gone is a failure like any other.
        """
        reading, writing = os.pipe()
        os.close(reading)
        self.addCleanup(os.close, writing)
        error = self.assertRaises(OSError, StreamDestination(writing).write, records(b"a\n"))
        self.assertEqual(error.errno, errno.EPIPE)

    def test_wait_writable(self):
        """
        Whether there is room is asked of the system.
        """
        os.set_blocking(self.writing, False)
        self.assertTrue(wait_writable(self.writing))
        with self.assertRaises(BlockingIOError):
            while True:
                os.write(self.writing, bytes(4096))
        self.assertFalse(wait_writable(self.writing))
