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
    A file for secrets.
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
        A new file is for its owner only, whatever the umask; nothing more is said of it
        than what it means.
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
        What is in the file stays; that others can read it is said.
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
        self.assertEqual(text, f"{self.path} is open to others than its owner; chmod 600 it")

    def test_undo(self):
        """
        Of a trial no file is left, and one that was there stays.
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
        What cannot be opened for writing raises; a pipe that nobody reads does not wait.
        """
        os.mkfifo(self.path)
        self.assertRaises(OSError, self.log.open)
        self.assertRaises(OSError, KeyLog(os.path.join(self.mktemp(), "x")).open)
        self.assertRaises(OSError, KeyLog(os.curdir).open)

    def test_reopen(self):
        """
        After a file has been moved away there is a new one.
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
        If there can be no new file, the old one goes on, and the log says so.
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
            "the old file goes on",
        )
        self.log.write(b"one")
        self.assertEqual(self.content(os.path.join(moved, "log")), b"one\n")

    def test_full_disk(self):
        """
        That nothing can be written is said once, and again after it has gone well.
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
