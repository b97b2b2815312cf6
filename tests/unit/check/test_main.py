"""
The way into C{echod-check}.
"""

import io
import os
import signal
import sys

from twisted.trial.unittest import SynchronousTestCase

from echod import check
from echod.check.results import Outcome
from tests.support.python import run


class MainTests(SynchronousTestCase):
    """
    Tests for L{check.main}.
    """

    def test_main(self):
        """
        It takes care of interrupts, and hands the arguments on.
        """
        signals = (signal.SIGINT, signal.SIGTERM)
        for number in signals:
            self.addCleanup(signal.signal, number, signal.getsignal(number))
        self.patch(sys, "stderr", io.StringIO())
        end = self.assertRaises(SystemExit, check.main, ["--nope"])
        self.assertEqual(end.code, Outcome.USAGE.status)
        self.assertIn("--nope", sys.stderr.getvalue())
        for number in signals:
            self.assertIs(signal.getsignal(number), check.leave_at_once)

    def test_interrupted(self):
        """
        Before anything has begun, an interrupt ends the process with its status.
        """
        self.assertEqual(check.INTERRUPTED, Outcome.INTERRUPTED.status)
        ends = []
        self.patch(os, "_exit", ends.append)
        check.leave_at_once(signal.SIGINT, None)
        self.assertEqual(ends, [130])

    def test_light(self):
        """
        To get there, nothing of Twisted is imported, and nothing else of echod.
        """
        loaded = run("import sys, echod.check; print(*sys.modules)")
        self.assertEqual([each for each in loaded if each.startswith("echod.")], ["echod.check"])
        self.assertEqual([each for each in loaded if each.startswith("twisted")], [])
