"""
The key log's file.
"""

import os
import stat

from twisted.logger import LogLevel, capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from echod.tls.keylog import KeyLog
from tests.support import needs


class KeyLogTests(SynchronousTestCase):
    """
    The file with the secrets.
    """

    def setUp(self):
        self.path = self.mktemp()
        self.log = KeyLog(self.path)
        self.addCleanup(self.log.close)

    def content(self, path=None):
        with open(path or self.path, "rb") as file:
            return file.read()

    def said(self, call, *args):
        with capturedLogs() as events:
            call(*args)
        return [(event["log_level"], formatEvent(event)) for event in events]

    def test_new(self):
        """
        A new file is readable by its owner only, with any umask, and one warning is logged.
        """
        self.addCleanup(os.umask, os.umask(0))
        self.log.open()
        self.assertEqual(stat.S_IMODE(os.stat(self.path).st_mode), 0o600)
        self.assertTrue(self.log.created)
        ((level, text),) = self.said(self.log.warn)
        self.assertIs(level, LogLevel.warn)
        self.assertIn(f"the secrets of EVERY TLS connection go to {self.path}", text)

    def test_old(self):
        """
        An existing file keeps its content; a warning says if others can read it.
        """
        with open(self.path, "wb") as file:
            file.write(b"old\n")
        os.chmod(self.path, 0o640)
        self.log.open()
        self.log.write(b"one")
        self.log.write(b"two")
        self.assertEqual(self.content(), b"old\none\ntwo\n")
        self.assertFalse(self.log.created)
        _, (level, text) = self.said(self.log.warn)
        self.assertIs(level, LogLevel.warn)
        self.assertEqual(text, f"{self.path} is open to users other than its owner; chmod 600 it")

    def test_undo(self):
        """
        After C{undo} a new file is gone, and an existing one stays.
        """
        self.log.open()
        self.log.undo()
        self.assertFalse(os.path.exists(self.path))
        with open(self.path, "wb") as file:
            file.write(b"old\n")
        self.log = KeyLog(self.path)
        self.log.open()
        self.log.undo()
        self.assertEqual(self.content(), b"old\n")

    def test_cannot_be_opened(self):
        """
        A file that cannot be opened for writing raises; a pipe without a reader does not block.
        """
        os.mkfifo(self.path)
        self.assertRaises(OSError, self.log.open)
        self.assertRaises(OSError, KeyLog(os.path.join(self.mktemp(), "x")).open)
        self.assertRaises(OSError, KeyLog(os.curdir).open)

    def test_reopen(self):
        """
        After the file was renamed, a new one is made.
        """
        self.log.open()
        self.log.write(b"one")
        moved = self.mktemp()
        os.rename(self.path, moved)
        self.assertEqual(self.said(self.log.reopen), [])
        self.log.write(b"two")
        self.assertEqual((self.content(moved), self.content()), (b"one\n", b"two\n"))

    def test_cannot_be_reopened(self):
        """
        If there can be no new file, the old one is used on, and the log says so.
        """
        folder = self.mktemp()
        os.mkdir(folder)
        self.log = KeyLog(os.path.join(folder, "log"))
        self.addCleanup(self.log.close)
        self.log.open()
        moved = self.mktemp()
        os.rename(folder, moved)
        ((level, text),) = self.said(self.log.reopen)
        self.assertIs(level, LogLevel.error)
        self.assertEqual(
            text,
            f"cannot reopen --tls-keylog {folder}/log: No such file or directory; "
            "the old file stays in use",
        )
        self.log.write(b"one")
        self.assertEqual(self.content(os.path.join(moved, "log")), b"one\n")

    def test_full_disk(self):
        """
        A failed write is logged once, and again after a write has succeeded.
        """
        needs.file("/dev/full")
        self.log = KeyLog("/dev/full")
        self.addCleanup(self.log.close)
        self.log.open()
        ((level, text),) = self.said(lambda: [self.log.write(b"one") for _ in range(3)])
        self.assertIs(level, LogLevel.warn)
        self.assertEqual(text, "cannot write to --tls-keylog /dev/full: No space left on device")
        full, self.log.path = self.log.path, self.path
        self.log.open()
        self.assertEqual(self.said(self.log.write, b"two"), [])
        self.assertEqual(self.content(), b"two\n")
        self.log.path = full
        self.log.open()
        self.assertEqual(len(self.said(self.log.write, b"three")), 1)
