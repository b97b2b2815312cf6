"""
Tests for L{spin_until}, which waits before the reactor runs.
"""

from signal import SIGINT
from types import SimpleNamespace

from twisted.trial.unittest import SynchronousTestCase

from echod.workers.supervisor import spin_until
from tests.support.fakeprocesses import ProcessReactor


class SpinUntilTests(SynchronousTestCase):
    """
    The wait, on a fake reactor.
    """

    def setUp(self):
        self.reactor = ProcessReactor()
        self.done = []

    def spin(self, seconds=5.0, signals=None):
        return spin_until(self.reactor, lambda: bool(self.done), seconds, signals)

    def test_done(self):
        """
        It ends when it is done, also if it is done at once.
        """
        self.reactor.balancer = [lambda: None, lambda: self.done.append(True)]
        self.assertEqual(self.spin(), "")
        self.assertEqual(self.reactor.balancer, [])
        before = self.reactor.seconds()
        self.assertEqual(self.spin(), "")
        self.assertEqual(self.reactor.seconds(), before)

    def test_late(self):
        """
        It ends when its time is over.
        """
        self.assertEqual(self.spin(5.0), "5 s passed")
        self.assertTrue(5 < self.reactor.seconds() < 5.3)

    def test_signals(self):
        """
        A stop signal ends it, also one that arrived before; but not if no signals are passed.
        """
        signals = SimpleNamespace(stop_signal=None)
        self.reactor.balancer = [lambda: setattr(signals, "stop_signal", SIGINT), None]
        self.assertEqual(self.spin(signals=signals), "SIGINT arrived")
        self.done.append(True)
        self.assertEqual(self.spin(signals=signals), "SIGINT arrived")
        self.assertEqual(self.reactor.balancer, [None])
        self.assertEqual(self.spin(), "")
