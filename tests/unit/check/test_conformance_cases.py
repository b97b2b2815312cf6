"""
Tests for what the cases send.
"""

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from echod.check import conformance
from echod.check.conformance import run_case
from echod.check.results import CheckError
from tests.support.memory import Dials, turn


class CasesTests(SynchronousTestCase):
    """
    Tests for cases that could pass without a test of anything.
    """

    def test_all_pairs(self):
        """
        Every pair of byte values is sent.
        """
        pairs = {conformance.PAIRS[i : i + 2] for i in range(0, len(conformance.PAIRS), 2)}
        self.assertEqual(len(pairs), 65536)

    def test_crossed(self):
        """
        An echo to the wrong client is a difference.
        """
        clock, ends = Clock(), []

        async def crossed(end):
            ends.append(end)
            try:
                while piece := await end.read():
                    await ends[len(ends) // 2].write(piece)
                await end.finish()
            except CheckError:
                pass

        result = turn(
            clock,
            run_case("x", conformance.many_clients, clock, Dials(crossed), 4),
        )
        self.assertFalse(result.passed)
        self.assertGreater(result.lost, 0)
