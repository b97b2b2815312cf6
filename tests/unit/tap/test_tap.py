"""
Tests for L{makeService}: how it prepares the process, and which service it builds.
"""

import gc
import io
import os
import re
import select
import sys
import time

import twisted.internet.reactor  # the tests put a fake in its place
from twisted.internet.pollreactor import PollReactor
from twisted.logger import capturedLogs, formatEvent
from twisted.python import runtime
from twisted.python.usage import Options as UsageOptions

import echod
from echod import tap
from echod._util.stdio import print_error
from echod.net.balance import make_counters
from echod.net.reactor import EagerReactor
from echod.service import EchodService
from echod.tap import makeService, use_monotonic_clock, worker_count
from echod.workers.master import MasterService
from echod.workers.spawn import VARIABLE, WorkerConfig
from echod.workers.worker import WorkerService
from tests.support.services import ServiceTestCase


class MakeServiceTests(ServiceTestCase):
    """
    The entry point of twistd and twist.
    """

    def setUp(self):
        super().setUp()
        self.patch(twisted.internet, "reactor", self.reactor)

    def test_make(self):
        """
        The daemon is built on the installed reactor, and nothing is opened yet.
        """
        with capturedLogs() as events:
            service = makeService(self.options(*self.local))
        (event,) = events
        self.assertRegex(
            formatEvent(event),
            rf"\Aechod {re.escape(echod.__version__)} starting, on tests\.support\.\S+, "
            r"Twisted [\d.]+, Python [\d.]+\Z",
        )
        self.assertEqual((event["event"], event["version"]), ("starting", echod.__version__))
        self.assertEqual(self.reactor.adoptedPorts, [])
        service.startService()
        self.assertEqual(len(self.reactor.adoptedPorts), 1)

    def test_garbage(self):
        """
        When the reactor runs, what the start has made is no longer visited by the garbage
        collector.
        """
        self.addCleanup(gc.unfreeze)
        # What was frozen before may end meanwhile.
        gc.unfreeze()
        makeService(self.options(*self.local)).startService()
        self.assertEqual(gc.get_freeze_count(), 0)
        self.reactor.run()
        self.assertGreater(gc.get_freeze_count(), 0)

    def test_workers(self):
        """
        With C{--workers} it is a master; 0 is one worker for each CPU that the process may use, but
        not more than there may be connections.
        """
        self.patch(tap, "usable_cpus", lambda: 3)
        for args, kind in (
            (("--workers", "2"), MasterService),
            (("--workers", "1"), EchodService),
            (("--workers", "0"), MasterService),
            (("--workers", "0", "--max-connections", "1"), EchodService),
        ):
            self.assertIs(type(makeService(self.options(*self.local, *args))), kind)
        self.assertEqual(worker_count(0, 10), 3)
        self.assertEqual(worker_count(0, 2), 2)
        self.assertEqual(worker_count(5, 10), 5)

    def test_worker(self):
        """
        In a process that a master has started, it is a worker.
        """
        config = WorkerConfig("0", [1], [], 900)
        memory = make_counters(1)
        os.dup2(memory, config.counters)
        os.close(memory)
        self.patch(os, "environ", {VARIABLE: config.to_text()})
        self.assertIsInstance(makeService(self.options("--workers", "2")), WorkerService)
        self.assertEqual(os.environ, {})

    def test_json_of_twist(self):
        """
        Under twist, whose output is no terminal, one line says how to get lines of text, unless
        JSON was asked for.
        """
        options = self.options(*self.local)
        options.parent = UsageOptions()
        stderr = io.StringIO()
        self.patch(sys, "__stderr__", stderr)
        for format, argv, lines in (
            ("text", ["twist", "echod"], 0),
            ("json", ["twist", "--log-format=json", "echod"], 0),
            ("json", ["twist", "echod"], 1),
        ):
            self.patch(sys, "argv", argv)
            options.parent["logFormat"] = format
            makeService(options)
            self.assertEqual(stderr.getvalue(), "")
            for hook, args, kwargs in self.reactor.whenRunningHooks:
                if hook is print_error:
                    hook(*args, **kwargs)
            self.assertEqual(stderr.getvalue().count("\n"), lines)
        self.assertIn("twist --log-format text echod", stderr.getvalue())

    def test_wrong_endpoint(self):
        """
        What the options cannot know is one line, too, with the status of a wrong option.
        """
        stderr = io.StringIO()
        self.patch(sys, "__stderr__", stderr)
        error = self.assertRaises(SystemExit, makeService, self.options("--listen", "nosuch:1"))
        self.assertEqual(error.code, os.EX_CONFIG)
        self.assertRegex(stderr.getvalue(), r"\Aechod: --listen nosuch:1: [^\n]+\n\Z")

    def no_reactor(self):
        """
        Do as if no reactor were installed.
        """
        name = "twisted.internet.reactor"
        self.addCleanup(sys.modules.__setitem__, name, sys.modules[name])
        del sys.modules[name]

    def test_own_reactor(self):
        """
        If no reactor is installed, echod's own is, once.
        """
        self.no_reactor()
        makeService(self.options(*self.local))
        installed = twisted.internet.reactor
        self.assertIsInstance(installed, EagerReactor)
        self.assertIs(sys.modules["twisted.internet.reactor"], installed)
        makeService(self.options(*self.local))
        self.assertIs(twisted.internet.reactor, installed)

    def test_no_epoll(self):
        """
        Without epoll, the reactor is Twisted's default for the platform.
        """
        self.no_reactor()
        epoll = select.epoll
        self.addCleanup(setattr, select, "epoll", epoll)
        del select.epoll
        makeService(self.options(*self.local)).startService()
        self.assertEqual(len(self.reactor.adoptedPorts), 1)

    def test_monotonic_clock(self):
        """
        A reactor with timers by the wall clock gets the monotonic clock, unless it already has
        timers.
        """
        reactor = PollReactor()
        self.addCleanup(reactor.disconnectAll)
        timer = reactor.callLater(60, self.fail)
        use_monotonic_clock(reactor)
        self.assertIs(reactor.seconds, runtime.seconds)
        timer.cancel()
        reactor.runUntilCurrent()
        use_monotonic_clock(reactor)
        self.assertIs(reactor.seconds, time.monotonic)

    def test_check(self):
        """
        With C{--check} no service is returned, and the process ends.
        """
        error = self.assertRaises(SystemExit, makeService, self.options(*self.local, "--check"))
        self.assertEqual(error.code, 0)
        self.assertIn("all is well", self.stdout.getvalue())
