"""
Tests for periodic calls.
"""

from twisted.application.service import IService
from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from echod._util.timers import one_step_a_turn, periodic, surviving


class TimerTests(SynchronousTestCase):
    """
    An action that sometimes fails.
    """

    def setUp(self):
        self.called = []
        self.bad = True

    def action(self, *args):
        self.called.append(args)
        if self.bad:
            raise LookupError("a bug")

    def test_goes_on(self):
        """
        A failing action does not stop its timer, and is logged once.
        """
        clock = Clock()
        timer = periodic(clock, 2, "looking", self.action)
        verifyObject(IService, timer)
        with capturedLogs() as events:
            timer.startService()
            clock.pump([1] * 10)
        self.assertEqual(len(self.called), 6)
        self.assertEqual([event["doing"] for event in events], ["looking"])
        self.assertEqual(len(self.flushLoggedErrors(LookupError)), 1)
        timer.stopService()
        self.assertEqual(clock.getDelayedCalls(), [])

    def test_again(self):
        """
        A failure after a success is logged again; arguments are passed on.
        """
        call = surviving("looking", self.action)
        for bad in (True, True, False, True):
            self.bad = bad
            call(1, 2)
        self.assertEqual(self.called, [(1, 2)] * 4)
        self.assertEqual(len(self.flushLoggedErrors(LookupError)), 2)


class StepTests(SynchronousTestCase):
    """
    Work that is spread over turns of the loop.
    """

    def test_steps(self):
        """
        Each turn takes one step, beginning with the next turn.
        """
        clock, done = Clock(), []
        finished = one_step_a_turn(clock, (done.append(n) for n in range(3)))
        for n in range(4):
            self.assertEqual(done, list(range(n)))
            self.assertNoResult(finished)
            [call] = clock.getDelayedCalls()
            step = call.func
            call.cancel()
            step()
        self.successResultOf(finished)

    def test_fails(self):
        """
        A step that raises is the last one.
        """
        clock = Clock()
        finished = one_step_a_turn(clock, (1 / n for n in (1, 0, 1)))
        clock.advance(0)
        self.failureResultOf(finished, ZeroDivisionError)
        self.assertEqual(clock.getDelayedCalls(), [])
