"""
Tests for the conformance suite, with servers in memory.
"""

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from echod.check import conformance
from echod.check.conformance import CASES
from echod.check.results import Outcome
from tests.support.memory import Dials, echo, fails, never, turn

NAMES = [name for name, _ in CASES]


async def deaf_to_the_end(end):
    """
    A server that drops its unsent bytes when the client half-closes.
    """
    kept = b""
    while piece := await end.read():
        await end.write(kept)
        kept = piece
    await end.finish()


async def hangs(end):
    """
    A server that receives and sends nothing.
    """
    await Deferred()


async def resets(end):
    """
    A server that aborts in the middle.
    """
    await end.write((await end.read())[:1])
    end.abort()


class SuiteTests(SynchronousTestCase):
    """
    Tests for L{conformance.conformance}.
    """

    def setUp(self):
        self.clock = Clock()
        self.results = []

    def run_suite(self, dial):
        suite = conformance.conformance(self.clock, dial, 10, self.results.append)
        passed = turn(self.clock, suite, 0.05)
        self.assertEqual([result.name for result in self.results], NAMES)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        return passed

    def outcomes(self):
        return {result.failure.outcome for result in self.results if result.failure}

    def test_right(self):
        """
        A correct server passes every case, and no connection stays open.
        """
        dials = Dials(echo)
        passed = self.run_suite(dials)
        self.assertEqual([result.failure for result in self.results], [None] * len(NAMES))
        self.assertTrue(passed)
        self.assertEqual(sum(result.lost for result in self.results), 0)
        sizes = {result.name: result.sent for result in self.results}
        self.assertEqual(sizes["64 MiB"], 64 << 20)
        self.assertEqual(sizes["100 clients at once"], 100 * 65536)
        for end in dials.ends:
            self.assertEqual(end.done[-1], "abort")

    def test_loses_at_the_end(self):
        """
        A server that loses bytes at the half-close fails these cases, and the bytes are
        counted.
        """
        self.assertFalse(self.run_suite(Dials(deaf_to_the_end)))
        [one, *_] = self.results
        self.assertEqual((one.failure.outcome, one.lost), (Outcome.LOST, 1))

    def test_hangs(self):
        """
        A server that hangs costs each case its timeout only.
        """
        self.assertFalse(self.run_suite(Dials(hangs)))
        self.assertEqual(self.outcomes(), {Outcome.TIMED_OUT})
        for result in self.results:
            self.assertLess(result.seconds, 10.2)
            self.assertFalse(result.passed)
            self.assertEqual(result.lost, result.sent)

    def test_resets(self):
        """
        A server that resets fails each case with that outcome.
        """
        self.assertFalse(self.run_suite(Dials(resets)))
        self.assertEqual(self.outcomes(), {Outcome.RESET})

    def test_nobody(self):
        """
        Without a server, each case fails with that outcome.
        """
        self.assertFalse(self.run_suite(fails(Outcome.REFUSED)))
        self.assertEqual(self.outcomes(), {Outcome.REFUSED})

    def test_connects(self):
        """
        Only what no case can survive counts as no server.
        """
        for dial, outcome in (
            (fails(Outcome.REFUSED), Outcome.REFUSED),
            (fails(Outcome.TLS_REFUSED), Outcome.TLS_REFUSED),
            (never, Outcome.TIMED_OUT),
            (fails(Outcome.RESET), None),
            (Dials(), None),
        ):
            failure = turn(self.clock, conformance.connects(self.clock, dial, 4))
            self.assertIs(failure and failure.outcome, outcome)
        self.assertEqual(dial.ends[0].done, ["abort"])
        failure = turn(self.clock, conformance.connects(self.clock, never, 4))
        self.assertEqual(failure.detail, "connecting, after 4 s")

    def test_starts(self):
        """
        Each case is announced.
        """
        started = []
        turn(
            self.clock,
            conformance.conformance(
                self.clock, fails(Outcome.RESET), 4, self.results.append,
                lambda *which: started.append(which),
            ),
        )  # fmt: skip
        names = [name for name, _ in conformance.CASES]
        self.assertEqual(started, list(enumerate(names, 1)))

    def test_interrupted(self):
        """
        A canceled case leaves no connection open.
        """
        dials = Dials(hangs)
        suite = Deferred.fromCoroutine(
            conformance.conformance(self.clock, dials, 4, self.results.append)
        )
        suite.cancel()
        self.failureResultOf(suite)
        self.assertEqual([end.done[-1] for end in dials.ends], ["abort"])
