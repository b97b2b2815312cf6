"""
Waiting before the reactor runs.
"""

import os
import signal

from twisted.trial.unittest import SynchronousTestCase

from echod.prelude import turn_until
from tests.processes import ProcessReactor

OTHERS = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


class TurnTests(SynchronousTestCase):
    """
    On a reactor whose time is the test's.
    """

    def setUp(self):
        self.reactor = ProcessReactor()
        self.done = []
        for number in (signal.SIGTERM, signal.SIGINT, *OTHERS):
            self.addCleanup(signal.signal, number, signal.getsignal(number))

    def turn(self, seconds=5.0):
        return turn_until(self.reactor, lambda: bool(self.done), seconds)

    def test_done(self):
        """
        It ends when what is waited for is done, also if that is so at once.
        """
        self.reactor.turns = [lambda: None, lambda: self.done.append(True)]
        self.assertEqual(self.turn(), "")
        self.assertEqual(self.reactor.turns, [])
        before = self.reactor.seconds()
        self.assertEqual(self.turn(), "")
        self.assertEqual(self.reactor.seconds(), before)

    def test_late(self):
        """
        It ends when the time is over.
        """
        self.assertEqual(self.turn(5.0), "5 s are over")
        self.assertTrue(5 < self.reactor.seconds() < 5.3)

    def test_signals(self):
        """
        A signal that would stop the daemon ends it, and changes nothing that is set.
        """
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        for number in (signal.SIGTERM, signal.SIGINT):
            self.reactor.turns = [lambda number=number: os.kill(os.getpid(), number)]
            self.assertEqual(self.turn(), f"{number.name} came")
        self.assertIs(signal.getsignal(signal.SIGINT), signal.SIG_IGN)
        self.assertIs(signal.getsignal(signal.SIGTERM), signal.SIG_DFL)

    def test_other_signals(self):
        """
        A signal that a running daemon survives is survived here, too, and changes nothing.
        """
        came = []
        for number in OTHERS:
            signal.signal(number, lambda *_: came.append(True))
        self.reactor.turns = [
            *(lambda number=number: os.kill(os.getpid(), number) for number in OTHERS),
            lambda: self.done.append(True),
        ]
        self.assertEqual((self.turn(), came), ("", []))
        os.kill(os.getpid(), signal.SIGHUP)
        self.assertEqual(came, [True])
