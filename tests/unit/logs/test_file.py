"""
Tests for the log file and its rotation.
"""

import errno
import os
import socket
import stat

from twisted.logger import LogLevel
from twisted.trial.unittest import SynchronousTestCase

from echod.logs.file import LogFile
from tests.support import needs


class LogFileTestCase(SynchronousTestCase):
    """
    A log file in a directory of its own.
    """

    def setUp(self):
        self.folder = os.path.realpath(self.mktemp())
        os.mkdir(self.folder)
        self.path = os.path.join(self.folder, "log")

    def open(self, **given):
        file = LogFile(self.path, **given)
        self.addCleanup(file.close)
        return file

    def write(self, file, *lines):
        file.write([(LogLevel.info, line) for line in lines])

    def read(self, suffix=""):
        with open(self.path + suffix, "rb") as file:
            return file.read()

    def names(self):
        return sorted(os.listdir(self.folder))


class WriteTests(LogFileTestCase):
    """
    Tests for writing.
    """

    def test_added_to(self):
        """
        Lines are appended to what the file has, also after another process truncates it.
        """
        with open(self.path, "wb") as earlier:
            earlier.write(b"earlier\n")
        file = self.open()
        self.write(file, b"a\n", b"b\n")
        self.assertEqual(self.read(), b"earlier\na\nb\n")
        os.truncate(self.path, 0)
        self.write(file, b"c\n")
        self.assertEqual(self.read(), b"c\n")

    def full_after(self, size):
        """
        Simulate a full disk: a file takes some bytes, and then writing fails.
        """
        real = os.write

        def write(descriptor, data):
            space = size - os.fstat(descriptor).st_size
            if space <= 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(descriptor, data[:space])

        self.unpatch = self.patch(os, "write", write).restore

    def test_full_disk(self):
        """
        On a full disk no part of a line stays in the file.
        """
        file = self.open()
        self.write(file, b"first\n")
        self.full_after(10)
        error = self.assertRaises(OSError, self.write, file, b"second\n", b"third\n")
        self.assertEqual(error.errno, errno.ENOSPC)
        self.assertEqual(self.read(), b"first\n")
        self.unpatch()
        self.write(file, b"second\n", b"third\n")
        self.assertEqual(self.read(), b"first\nsecond\nthird\n")

    def test_no_regular_file(self):
        """
        A device is written to, and never truncated or renamed.
        """
        needs.file("/dev/full")
        file = LogFile("/dev/full", rotate_bytes=0)
        self.addCleanup(file.close)
        self.assertRaises(OSError, self.write, file, b"a\n")
        file.rotate()
        self.assertFalse(file.should_rotate())
        self.assertTrue(os.path.exists("/dev/full"))

    def test_own_descriptor(self):
        """
        The path of an open pipe or socket of this process, also through links, is written
        to; the original stays open.
        """
        reading, writing = os.pipe()
        ours, theirs = socket.socketpair()
        for near, far in ((writing, reading), (ours.detach(), theirs.detach())):
            os.symlink(f"/proc/self/fd/{near}", f"{self.path}{near}")
            for path in (f"/dev/fd/{near}", f"/proc/{os.getpid()}/fd/{near}", f"{self.path}{near}"):
                file = LogFile(path, rotate_bytes=0)
                self.write(file, b"a\n")
                file.rotate()
                self.write(file, b"b\n")
                self.assertEqual((os.read(far, 100), file.should_rotate()), (b"a\nb\n", False))
                self.assertTrue(file.is_writable(0))
                file.close()
            os.close(near)
            os.close(far)
        error = self.assertRaises(OSError, LogFile, f"/dev/fd/{near}")
        self.assertEqual(error.errno, errno.EBADF)

    def test_own_file(self):
        """
        The path of an open file's descriptor is rotated by the file's name, unless the file
        was deleted.
        """
        with open(self.path, "w") as opened:
            path = f"/dev/fd/{opened.fileno()}"
            file = LogFile(path, rotate_bytes=0)
            self.addCleanup(lambda: file.close())
            self.write(file, b"a\n")
            file.rotate()
            self.assertEqual(self.names(), ["log", "log.1"])
            os.unlink(self.path + ".1")
            os.unlink(self.path)
            nameless = LogFile(path, rotate_bytes=0)
            self.addCleanup(nameless.close)
            self.write(nameless, b"b\n")
            self.assertEqual((nameless.should_rotate(), self.names()), (False, []))

    def test_endless_link(self):
        """
        A symbolic link to itself is an error.
        """
        os.symlink(self.path, self.path)
        error = self.assertRaises(OSError, LogFile, self.path)
        self.assertEqual(error.errno, errno.ELOOP)

    def test_pipe_that_nobody_reads(self):
        """
        Opening a FIFO without a reader does not block.
        """
        os.mkfifo(self.path)
        error = self.assertRaises(OSError, LogFile, self.path)
        self.assertEqual(error.errno, errno.ENXIO)


class RotateTests(LogFileTestCase):
    """
    Tests for the rotation.
    """

    def test_rotate(self):
        """
        The rotated files are kept, the newest as C{.1}, and the new file has their mode.
        """
        file = self.open()
        os.chmod(self.path, 0o640)
        for line in (b"a\n", b"b\n", b"c\n"):
            self.write(file, line)
            file.rotate()
        self.write(file, b"d\n")
        self.assertEqual(self.names(), ["log", "log.1", "log.2", "log.3"])
        self.assertEqual(
            [self.read(suffix) for suffix in ("", ".1", ".2", ".3")],
            [b"d\n", b"c\n", b"b\n", b"a\n"],
        )
        self.assertEqual(stat.S_IMODE(os.stat(self.path).st_mode), 0o640)

    def test_link(self):
        """
        With a symbolic link, its target is renamed.
        """
        os.mkdir(os.path.join(self.folder, "real"))
        os.symlink("real/file", self.path)
        file = self.open()
        self.write(file, b"a\n")
        file.rotate()
        self.write(file, b"b\n")
        self.assertEqual(self.names(), ["log", "real"])
        self.assertTrue(os.path.islink(self.path))
        with open(os.path.join(self.folder, "real", "file.1"), "rb") as old:
            self.assertEqual((self.read(), old.read()), (b"b\n", b"a\n"))

    def test_size(self):
        """
        The file is rotated at a size that includes what it had at the start.
        """
        with open(self.path, "wb") as earlier:
            earlier.write(b"0123")
        file = self.open(rotate_bytes=10)
        self.write(file, b"56789")
        self.assertFalse(file.should_rotate())
        self.write(file, b"\n")
        self.assertTrue(file.should_rotate())
        file.rotate()
        self.assertFalse(file.should_rotate())
        self.write(file, b"123456789\n")
        self.assertTrue(file.should_rotate())

    def test_moved_away(self):
        """
        A file that another program has renamed or replaced is closed, and nothing is
        renamed.
        """
        file = self.open()
        self.write(file, b"a\n")
        os.rename(self.path, self.path + ".old")
        file.rotate()
        self.write(file, b"b\n")
        os.rename(self.path, self.path + ".older")
        with open(self.path, "wb") as created:
            created.write(b"by logrotate\n")
        file.rotate()
        self.write(file, b"c\n")
        self.assertEqual(self.names(), ["log", "log.old", "log.older"])
        self.assertEqual(self.read(".old") + self.read(".older"), b"a\nb\n")
        self.assertEqual(self.read(), b"by logrotate\nc\n")

    def refuse(self, name, number=errno.EACCES):
        """
        Let a system call fail.
        """

        def refusing(*args, **kwargs):
            raise OSError(number, os.strerror(number))

        self.patch(os, name, refusing)

    def test_failures(self):
        """
        After any failure the old file stays in use, and the next try comes much later.
        """
        file = self.open(rotate_bytes=4)
        self.write(file, b"123\n")
        for name in ("rename", "open", "fchmod"):
            self.assertTrue(file.should_rotate())
            patched = getattr(os, name)
            self.refuse(name)
            error = self.assertRaises(OSError, file.rotate)
            setattr(os, name, patched)
            self.assertEqual(error.errno, errno.EACCES)
            self.assertFalse(file.should_rotate())
            self.write(file, b"456\n")
        # The second had moved the file before it failed.
        self.assertEqual(self.read(".1"), b"123\n" + b"456\n" * 3)
        file.rotate()
        self.write(file, b"new\n")
        self.assertEqual((self.names(), self.read()), (["log", "log.1"], b"new\n"))
