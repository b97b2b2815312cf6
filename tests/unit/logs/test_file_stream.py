"""
Tests for the stream destination.
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
    Tests for L{StreamDestination} on a pipe.
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
        All bytes in the pipe.
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
        Lines are written in order, and rotation does nothing.
        """
        self.stream.write(records(b"a\n", b"b\n"))
        self.stream.rotate()
        self.stream.write(records(b"c\n"))
        self.assertEqual(self.read(), b"a\nb\nc\n")
        self.assertFalse(self.stream.should_rotate())

    def test_non_blocking(self):
        """
        On a non-blocking descriptor that is full, a line continues when it is writable
        again.
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
        A write waits a short time for a full descriptor.
        """
        os.set_blocking(self.writing, False)
        data = []
        self.patch(file, "wait_writable", lambda _: data.append(self.read()) or True)
        self.stream.write(records(b"x" * 99_999 + b"\n"))
        self.assertEqual(b"".join(data) + self.read(), b"x" * 99_999 + b"\n")

    def test_nobody_reads(self):
        """
        A pipe without a reader raises C{OSError}.
        """
        reading, writing = os.pipe()
        os.close(reading)
        self.addCleanup(os.close, writing)
        error = self.assertRaises(OSError, StreamDestination(writing).write, records(b"a\n"))
        self.assertEqual(error.errno, errno.EPIPE)

    def test_wait_writable(self):
        """
        A full pipe is not writable.
        """
        os.set_blocking(self.writing, False)
        self.assertTrue(wait_writable(self.writing))
        with self.assertRaises(BlockingIOError):
            while True:
                os.write(self.writing, bytes(4096))
        self.assertFalse(wait_writable(self.writing))
