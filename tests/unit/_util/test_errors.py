"""
Tests for the errors that stop the start.
"""

import io
import os
import sys

from twisted.trial.unittest import SynchronousTestCase

from echod._util.errors import BIND_STATUS, StartupError, exit_on_error


class ExitOnErrorTests(SynchronousTestCase):
    """
    Tests for L{exit_on_error}.
    """

    def setUp(self):
        self.stderr = io.StringIO()
        self.patch(sys, "__stderr__", self.stderr)

    def failed(self, error):
        """
        Let a block raise an error.

        @return: what is raised in its place.
        """

        def block():
            with exit_on_error():
                raise error

        return self.assertRaises(SystemExit, block)

    def test_configuration(self):
        """
        What the operator has to correct is one line, and a status with which a service manager
        does not try again.
        """
        error = self.failed(StartupError("--port 'x': not a port"))
        self.assertEqual((type(error), error.code), (SystemExit, os.EX_CONFIG))
        self.assertEqual(self.stderr.getvalue(), "echod: --port 'x': not a port\n")

    def test_bind(self):
        """
        A port that cannot be bound has its line already, and another status.
        """
        error = StartupError("in use")
        error.code = BIND_STATUS
        self.assertIs(self.failed(error), error)
        self.assertEqual(self.stderr.getvalue(), "")

    def test_other_exits(self):
        """
        What is no such error stays as it is, and so does success.
        """
        self.assertEqual(self.failed(SystemExit(0)).code, 0)
        with exit_on_error():
            pass
        self.assertEqual(self.stderr.getvalue(), "")
