"""
Tests for the plugin.
"""

import signal

from twisted.application.reactors import IReactorInstaller
from twisted.application.service import IServiceMaker
from twisted.plugin import IPlugin
from twisted.plugins.echod_plugin import eager, echod as plugin
from twisted.python.reflect import namedAny
from twisted.scripts.twistd import ServerOptions
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from echod import tap


class PluginTests(SynchronousTestCase):
    """
    What twistd and twist find.
    """

    def setUp(self):
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
            self.addCleanup(signal.signal, number, signal.getsignal(number))

    def test_interfaces(self):
        """
        The plugin is a service maker for twistd and twist, and names C{echod.tap}.
        """
        verifyObject(IPlugin, plugin)
        verifyObject(IServiceMaker, plugin)
        self.assertEqual(plugin.tapname, "echod")
        self.assertIs(plugin.options, tap.Options)
        self.assertIs(plugin.makeService, tap.makeService)

    def test_other_signals(self):
        """
        When the options are read, HUP, USR1 and USR2 become ignored, unless they have a handler.
        """
        for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
            for before, after in (
                (signal.SIG_DFL, signal.SIG_IGN),
                (signal.default_int_handler, signal.default_int_handler),
            ):
                signal.signal(number, before)
                self.assertIs(plugin.options, tap.Options)
                self.assertIs(signal.getsignal(number), after)

    def test_interrupt(self):
        """
        When the options are read, SIGINT no longer raises KeyboardInterrupt; an ignored SIGINT
        stays ignored.
        """
        for before, after in (
            (signal.default_int_handler, signal.SIG_DFL),
            (signal.SIG_IGN, signal.SIG_IGN),
        ):
            signal.signal(signal.SIGINT, before)
            self.assertIs(plugin.options, tap.Options)
            self.assertIs(signal.getsignal(signal.SIGINT), after)

    def test_reactor(self):
        """
        echod's reactor is one that C{--reactor} can choose.
        """
        verifyObject(IPlugin, eager)
        verifyObject(IReactorInstaller, eager)
        self.assertEqual(eager.shortName, "echod")
        self.assertTrue(callable(namedAny(eager.moduleName).install))

    def test_under_twistd(self):
        """
        C{twistd -n echod} finds the plugin and parses its options.
        """
        twistd = ServerOptions()
        twistd.parseOptions(["-n", "--logfile", "-", "echod", "--port", "7"])
        self.assertEqual(twistd.subCommand, "echod")
        self.assertIsInstance(twistd.subOptions, tap.Options)
        self.assertEqual(twistd.subOptions["port"], 7)
        self.assertIs(twistd.subOptions.twistd, twistd)
