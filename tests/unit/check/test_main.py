"""
Tests for the entry point of C{echod-check}.
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
        It sets the signal handlers, and passes the arguments on.
        """
        signals = (signal.SIGINT, signal.SIGTERM)
        for number in signals:
            self.addCleanup(signal.signal, number, signal.getsignal(number))
        self.patch(sys, "stderr", io.StringIO())
        end = self.assertRaises(SystemExit, check.main, ["--nope"])
        self.assertEqual(end.code, Outcome.USAGE.status)
        self.assertIn("--nope", sys.stderr.getvalue())
        for number in signals:
            self.assertIs(signal.getsignal(number), check.exit_interrupted)

    def test_interrupted(self):
        """
        Before the command runs, a signal ends the process with its status.
        """
        self.assertEqual(check.INTERRUPTED, Outcome.INTERRUPTED.status)
        ends = []
        self.patch(os, "_exit", ends.append)
        check.exit_interrupted(signal.SIGINT, None)
        self.assertEqual(ends, [130])

    def test_light(self):
        """
        Importing it imports nothing of Twisted, and nothing else of echod.
        """
        loaded = run("import sys, echod.check; print(*sys.modules)")
        self.assertEqual([each for each in loaded if each.startswith("echod.")], ["echod.check"])
        self.assertEqual([each for each in loaded if each.startswith("twisted")], [])
