"""
Tests for the standard streams, closed or ASCII only.
"""

import errno
import io
import os
import sys
from types import SimpleNamespace

from twisted.trial.unittest import SynchronousTestCase

from echod._util.stdio import (
    is_journal,
    prepare_standard_streams,
    print_error,
    report_output_error,
)
from tests.support import needs


class StreamsTests(SynchronousTestCase):
    """
    Tests for L{prepare_standard_streams}.
    """

    def test_closed_descriptors(self):
        """
        A closed standard stream becomes C{/dev/null}.
        """
        found, opened = os.fstat, []

        def fstat(descriptor):
            if descriptor in (0, 2):
                raise OSError
            return found(descriptor)

        self.patch(os, "fstat", fstat)
        self.patch(os, "open", lambda *args: opened.append(args))
        prepare_standard_streams()
        self.assertEqual(opened, [(os.devnull, os.O_RDWR)] * 2)

    def test_no_streams(self):
        """
        Where C{sys.stdout} is C{None}, printing has no effect.
        """
        out, err = io.StringIO(), io.StringIO()
        for name, other in (("stdout", err), ("stderr", out)):
            self.patch(sys, "stdout", out)
            self.patch(sys, "stderr", err)
            for full in (name, f"__{name}__"):
                self.patch(sys, full, None)
            prepare_standard_streams()
            stream = getattr(sys, name)
            self.addCleanup(stream.close)
            print("words", file=getattr(sys, f"__{name}__"), flush=True)
            self.assertEqual((stream.name, other.getvalue()), (os.devnull, ""))

    def test_ascii(self):
        """
        Characters that a stream cannot encode become escapes, also half of a surrogate
        pair.
        """
        written = io.BytesIO()
        for encoding, expected in (("ascii", b"\\xfc\\udcff"), ("utf-8", b"\xc3\xbc\\udcff")):
            written = io.BytesIO()
            self.patch(sys, "stdout", io.TextIOWrapper(written, encoding))
            prepare_standard_streams()
            print("\u00fc\udcff", end="", flush=True)
            self.assertEqual(written.getvalue(), expected)

    def test_output_error(self):
        """
        A failure of standard output is reported once, and not again at exit; if standard
        error fails too, nothing happens.
        """
        needs.file("/dev/full")
        error = OSError(errno.ENOSPC, "No space left on device")
        for path, told in (
            (None, "x: standard output: No space left on device\n"),
            ("/dev/full", ""),
        ):
            full = open("/dev/full", "w")  # noqa: SIM115 - closed below
            full.write("words")
            err = io.StringIO() if path is None else open(path, "w", buffering=1)  # noqa: SIM115
            report_output_error("x", error, full, err)
            full.close()
            if path is None:
                self.assertEqual(err.getvalue(), told)
            else:
                self.assertRaises(OSError, err.close)


class JournalTests(SynchronousTestCase):
    """
    Tests for L{is_journal} and L{print_error}.
    """

    def setUp(self):
        self.patch(os, "fstat", self.status)

    def status(self, descriptor):
        """
        The standard streams are on device 8, each with an inode of its own.
        """
        if descriptor > 2:
            raise OSError(errno.EBADF, "Bad file descriptor")
        return SimpleNamespace(st_dev=8, st_ino=70 + descriptor)

    def test_same_file(self):
        """
        A descriptor is the journal if its device and its inode are those of the variable.
        """
        for value, journal in (("8:71", True), ("8:72", False), ("9:71", False), ("", False)):
            self.assertIs(is_journal(1, {"JOURNAL_STREAM": value}), journal)
        self.assertFalse(is_journal(1, {}))
        self.assertFalse(is_journal(3, {"JOURNAL_STREAM": "8:73"}))

    def printed(self, **options):
        """
        @return: what is printed to standard error, which is descriptor 2.
        """
        stream = io.StringIO()
        stream.fileno = lambda: 2
        self.patch(sys, "__stderr__", stream)
        print_error("words", **options)
        return stream.getvalue()

    def test_error(self):
        """
        On the journal, a line begins with its priority, and elsewhere not.
        """
        self.assertEqual(self.printed(), "words\n")
        self.patch(is_journal, "__defaults__", ({"JOURNAL_STREAM": "8:72"},))
        self.assertEqual(self.printed(), "<3>words\n")
        self.assertEqual(self.printed(priority=4), "<4>words\n")

    def test_no_stream(self):
        """
        Without standard error, or a descriptor of it, nothing fails.
        """
        self.patch(sys, "stdout", io.StringIO())
        self.patch(sys, "__stderr__", None)
        print_error("words")
        self.assertEqual(sys.stdout.getvalue(), "")
        self.patch(sys, "__stderr__", io.StringIO())
        print_error("words")
        self.assertEqual(sys.__stderr__.getvalue(), "words\n")
