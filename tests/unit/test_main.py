"""
Tests for the command C{echod}.
"""

import io
import os
import signal
import sys

from twisted.plugins.echod_plugin import echod as maker
from twisted.scripts import twistd
from twisted.trial.unittest import SynchronousTestCase

from echod import __version__
from echod.__main__ import main


class MainTests(SynchronousTestCase):
    """
    Tests for L{main}.
    """

    def setUp(self):
        self.ran = []
        self.patch(twistd, "runApp", self.ran.append)
        self.stdout, self.stderr = io.StringIO(), io.StringIO()
        self.patch(sys, "stdout", self.stdout)
        self.patch(sys, "__stderr__", self.stderr)
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
            self.addCleanup(signal.signal, number, signal.getsignal(number))

    def test_same_as_twistd(self):
        """
        It is C{twistd --nodaemon --pidfile= echod} with the same options.
        """
        main(["--port", "7"])
        (config,) = self.ran
        expected = twistd.ServerOptions()
        expected.parseOptions(["--nodaemon", "--pidfile=", "echod", "--port", "7"])
        self.assertEqual(dict(config), dict(expected))
        self.assertEqual(config.subCommand, expected.subCommand)
        self.assertEqual(dict(config.subOptions), dict(expected.subOptions))
        self.assertIs(config.loadedPlugins["echod"], maker)
        self.assertIs(config.subOptions.twistd, config)

    def test_own_arguments(self):
        """
        Without arguments, they are those of the process.
        """
        self.patch(sys, "argv", ["echod", "--port", "7"])
        main()
        self.assertEqual(self.ran[0].subOptions["port"], 7)

    def test_information(self):
        """
        C{--help} and C{--version} have the program's name.
        """
        for option, begin in (
            ("--help", "Usage: echod [options]\n"),
            ("-h", "Usage: echod [options]\n"),
            ("--version", f"echod {__version__}\n"),
        ):
            self.stdout.truncate(0)
            self.stdout.seek(0)
            self.assertEqual(self.assertRaises(SystemExit, main, [option]).code, 0)
            self.assertTrue(self.stdout.getvalue().startswith(begin), self.stdout.getvalue())

    def test_wrong_option(self):
        """
        A wrong option is one line.
        """
        error = self.assertRaises(SystemExit, main, ["--nodaemon"])
        self.assertEqual(error.code, os.EX_CONFIG)
        self.assertEqual(
            self.stderr.getvalue(),
            "echod: option --nodaemon not recognized; it is an option of twistd: "
            "twistd --nodaemon ... echod ...\n",
        )
        self.assertEqual(self.ran, [])

    def test_interrupt(self):
        """
        Ctrl-C while the program is loaded ends it without a traceback; where SIGINT is ignored,
        it stays ignored.
        """
        for before, after in (
            (signal.default_int_handler, signal.SIG_DFL),
            (signal.SIG_IGN, signal.SIG_IGN),
        ):
            signal.signal(signal.SIGINT, before)
            main([])
            self.assertIs(signal.getsignal(signal.SIGINT), after)
