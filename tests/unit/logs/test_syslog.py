"""
Tests for the syslog destination.
"""

import contextlib
import errno
import os
import socket

from twisted.logger import LogLevel
from twisted.trial.unittest import SynchronousTestCase

from echod.logs import file, syslog
from echod.logs.syslog import SyslogDestination, datagrams


class DatagramTests(SynchronousTestCase):
    """
    Tests for L{datagrams}.
    """

    def test_priorities(self):
        """
        Each message has the facility of daemons and the severity of its level.
        """
        levels = (
            (LogLevel.debug, 31),
            (LogLevel.info, 30),
            (LogLevel.warn, 28),
            (LogLevel.error, 27),
            (LogLevel.critical, 26),
        )
        sent = datagrams(
            [(level, b"words\n") for level, _ in levels], "echod", 5, "Nov 22 21:00:00"
        )
        self.assertEqual(
            list(sent),
            [f"<{number}>Nov 22 21:00:00 echod[5]: words".encode() for _, number in levels],
        )

    def test_lines(self):
        """
        A traceback is sent line by line.
        """
        sent = datagrams([(LogLevel.info, b"a\n    b\n"), (LogLevel.info, b"c\n")], "p", 5, "now")
        self.assertEqual(
            list(sent), [b"<30>now p[5]: a", b"<30>now p[5]:     b", b"<30>now p[5]: c"]
        )


class SyslogDestinationTests(SynchronousTestCase):
    """
    Tests for L{SyslogDestination}, with a fake syslogd.
    """

    def setUp(self):
        # The path of a socket holds about a hundred characters.
        self.folder = os.path.relpath(self.mktemp())
        os.makedirs(self.folder)
        self.path = os.path.relpath(os.path.join(self.folder, "s"))
        self.patch(file, "WRITE_TIMEOUT", 0)
        self.destination = SyslogDestination("ec\nhod", self.path, lambda: "now")
        self.addCleanup(self.destination.close)

    def syslogd(self):
        daemon = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.addCleanup(daemon.close)
        daemon.setblocking(False)
        daemon.bind(self.path)
        return daemon

    def write(self, *lines):
        self.destination.write([(LogLevel.info, line) for line in lines])

    def received(self, daemon):
        """
        The last words of the messages that arrived.
        """
        words = []
        try:
            while True:
                words.append(daemon.recv(65536).rpartition(b": ")[2])
        except BlockingIOError:
            return words

    def test_write(self):
        """
        Messages have the tag, escaped, and the process id.
        """
        daemon = self.syslogd()
        self.write(b"a\n")
        self.assertEqual(daemon.recv(100), rf"<30>now ec\nhod[{os.getpid()}]: a".encode())
        self.destination.rotate()
        self.assertFalse(self.destination.should_rotate())

    def test_time(self):
        """
        The timestamp has the format of RFC 3164.
        """
        daemon = self.syslogd()
        another = SyslogDestination("echod", self.path)
        self.addCleanup(another.close)
        another.write([(LogLevel.info, b"a\n")])
        self.assertRegex(
            daemon.recv(100).decode(), r"^<30>[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d echod\["
        )

    def test_nobody_there(self):
        """
        Without a syslogd writing fails; when syslogd starts, the rest is sent.
        """
        error = self.assertRaises(OSError, self.write, b"a\n")
        self.assertEqual(error.errno, errno.ENOENT)
        daemon = self.syslogd()
        self.write(b"a\n")
        self.assertEqual(self.received(daemon), [b"a"])

    def test_started_anew(self):
        """
        A restarted syslogd gets the next line.
        """
        daemon = self.syslogd()
        self.write(b"a\n")
        daemon.close()
        error = self.assertRaises(OSError, self.write, b"b\n")
        self.assertEqual(error.errno, errno.ECONNREFUSED)
        os.unlink(self.path)
        daemon = self.syslogd()
        self.write(b"b\n")
        self.assertEqual(self.received(daemon), [b"b"])
        daemon.close()
        os.unlink(self.path)
        daemon = self.syslogd()
        self.write(b"c\n")
        self.assertEqual(self.received(daemon), [b"c"])

    def test_stopped(self):
        """
        A syslogd that hangs does not block the writer; the rest is sent later, and nothing
        twice.
        """
        daemon = self.syslogd()
        lines = [b"%d\n" % number for number in range(1000)]
        self.assertRaises(BlockingIOError, self.write, *lines)
        words = self.received(daemon)
        while len(words) < len(lines):
            with contextlib.suppress(BlockingIOError):
                self.write(*lines)
            words += self.received(daemon)
        self.assertEqual(words, [line.strip() for line in lines])

    def stream(self):
        """
        A syslogd with a stream socket and small buffers.

        @return: what takes the next connection, a socket that does not block.
        """
        daemon = socket.socket(socket.AF_UNIX)
        self.addCleanup(daemon.close)
        daemon.bind(self.path)
        daemon.listen()

        def accept():
            connection = daemon.accept()[0]
            self.addCleanup(connection.close)
            connection.setblocking(False)
            return connection

        return accept

    def test_stream(self):
        """
        On a stream socket, a null byte ends each message.
        """
        accept = self.stream()
        self.write(b"a\n", b"b\n")
        words = accept().recv(1000).split(b"\0")
        self.assertEqual([each.rpartition(b": ")[2] for each in words], [b"a", b"b", b""])

    def test_stopped_stream(self):
        """
        The rest of a message on a full stream is sent later, and nothing twice.
        """
        accept = self.stream()
        lines = [b"%d " % number * 3000 + b"\n" for number in range(100)]
        self.assertRaises(BlockingIOError, self.write, *lines)
        connection = accept()
        received = b""
        while received.count(b"\0") < len(lines):
            with contextlib.suppress(BlockingIOError):
                self.write(*lines)
            with contextlib.suppress(BlockingIOError):
                while piece := connection.recv(1 << 20):
                    received += piece
        words = [each.rpartition(b": ")[2] for each in received.split(b"\0")]
        self.assertEqual(words, [*(line[:-1] for line in lines), b""])

    def test_stream_started_anew(self):
        """
        After a reconnect, a partly sent message is sent whole.
        """
        accept = self.stream()
        line = b"x" * 400_000 + b"\n"
        self.assertRaises(BlockingIOError, self.write, line)
        accept().close()
        self.assertRaises(BlockingIOError, self.write, line)
        self.assertTrue(accept().recv(100).startswith(b"<30>now "))

    def test_room(self):
        """
        A full socket is not writable; without a connection it always is.
        """
        self.assertTrue(self.destination.is_writable(0))
        self.syslogd()
        self.write(b"a\n")
        self.assertTrue(self.destination.is_writable(0))
        self.assertRaises(BlockingIOError, self.write, *[b"b\n"] * 5000)
        self.assertFalse(self.destination.is_writable(0))

    def test_room_in_time(self):
        """
        A write waits a short time for a full socket.
        """
        daemon = self.syslogd()
        words = []

        def wait(_):
            words.extend(self.received(daemon))
            return True

        self.patch(syslog, "wait_writable", wait)
        lines = [b"%d\n" % number for number in range(1000)]
        self.write(*lines)
        self.assertEqual(words + self.received(daemon), [line.strip() for line in lines])
