"""
Tests for the figures of the process.
"""

import os
import resource
import time
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from echod.stats.process import descriptors, started, this_process


class ProcessTests(SynchronousTestCase):
    """
    This process.
    """

    def setUp(self):
        self.proc = Path(self.mktemp())
        (self.proc / "self").mkdir(parents=True)

    def test_this_process(self):
        """
        The figures are those of the process that asks.
        """
        now = this_process()
        self.assertEqual(now.pid, os.getpid())
        self.assertGreater(now.virtual_bytes, now.resident_bytes)
        self.assertGreater(now.resident_bytes, 1 << 20)
        self.assertGreater(now.cpu_seconds, 0.0)
        self.assertLess(0, time.time() - now.started)
        with open(os.devnull):
            self.assertEqual(this_process().descriptors, now.descriptors + 1)

    def test_nothing_told(self):
        """
        Without /proc its figures are C{None}, and the others are there.
        """
        now = this_process(self.proc)
        told = (now.started, now.resident_bytes, now.virtual_bytes, now.descriptors)
        self.assertEqual(told, (None, None, None, None))
        self.assertGreater(now.cpu_seconds, 0.0)

    def test_pages(self):
        """
        Memory is read in pages.
        """
        (self.proc / "self/statm").write_text("70 30 5 1 0 20 0\n")
        now, page = this_process(self.proc), resource.getpagesize()
        self.assertEqual((now.virtual_bytes, now.resident_bytes), (70 * page, 30 * page))

    def test_name_with_parentheses(self):
        """
        Any program name is skipped before the start time.
        """
        ticks = os.sysconf("SC_CLK_TCK")
        booted = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
        fields = " ".join(["S", *["1"] * 18, str(30 * ticks), "0"])
        (self.proc / "self/stat").write_text(f"77 (a) 1 (b) {fields}\n")
        self.assertLess(abs(started(self.proc) - (booted + 30)), 2)

    def test_older_linux(self):
        """
        Before Linux 6.2 descriptors are counted, without the one that counts.
        """

        class Directory:
            def __truediv__(self, name):
                return self

            def stat(self):
                return os.stat_result([0] * 10)

            def __fspath__(self):
                return "/proc/self/fd"

        self.assertEqual(descriptors(Directory()), descriptors())

    def test_any_number(self):
        """
        Without a limit on descriptors there is no figure.
        """
        self.patch(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY,) * 2)
        self.assertIsNone(this_process(self.proc).max_descriptors)
