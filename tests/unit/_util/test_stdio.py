"""
Tests for the standard streams, closed or ASCII only.
"""

import errno
import io
import os
import sys

from twisted.trial.unittest import SynchronousTestCase

from echod._util.stdio import prepare_standard_streams, report_output_error


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
