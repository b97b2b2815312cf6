"""
Waiting before the reactor runs.
"""

from signal import SIGINT
from types import SimpleNamespace

from twisted.trial.unittest import SynchronousTestCase

from echod.workers.supervisor import spin_until
from tests.support.fakeprocesses import ProcessReactor


class TurnTests(SynchronousTestCase):
    """
    On a reactor whose time is the test's.
    """

    def setUp(self):
        self.reactor = ProcessReactor()
        self.done = []

    def turn(self, seconds=5.0, signals=None):
        return spin_until(self.reactor, lambda: bool(self.done), seconds, signals)

    def test_done(self):
        """
        It ends when what is waited for is done, also if that is so at once.
        """
        self.reactor.balancer = [lambda: None, lambda: self.done.append(True)]
        self.assertEqual(self.turn(), "")
        self.assertEqual(self.reactor.balancer, [])
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
        A signal that would stop the daemon ends it, also one that has come before; for those
        who do not ask for that, nothing does.
        """
        signals = SimpleNamespace(stop_signal=None)
        self.reactor.balancer = [lambda: setattr(signals, "stop_signal", SIGINT), None]
        self.assertEqual(self.turn(signals=signals), "SIGINT came")
        self.done.append(True)
        self.assertEqual(self.turn(signals=signals), "SIGINT came")
        self.assertEqual(self.reactor.balancer, [None])
        self.assertEqual(self.turn(), "")
