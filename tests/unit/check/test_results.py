"""
Tests for the outcomes and results.
"""

from twisted.trial.unittest import SynchronousTestCase

from echod.check.results import CaseResult, CheckError, CheckResult, Outcome, Times


class OutcomeTests(SynchronousTestCase):
    """
    Tests for L{Outcome} and the records.
    """

    def test_statuses(self):
        """
        Each outcome has a status and a word of its own; only success is 0.
        """
        self.assertEqual(len({each.status for each in Outcome}), len(Outcome))
        self.assertEqual(len({each.word for each in Outcome}), len(Outcome))
        self.assertEqual([each for each in Outcome if each.status == 0], [Outcome.OK])

    def test_answer(self):
        """
        The outcome of a result is that of its failure.
        """
        answer = CheckResult()
        self.assertIs(answer.outcome, Outcome.OK)
        answer.failure = CheckError(Outcome.LOST, "1 byte")
        self.assertIs(answer.outcome, Outcome.LOST)
        self.assertEqual(str(answer.failure), "lost: 1 byte")

    def test_times(self):
        """
        The completed stages are listed in order.
        """
        self.assertEqual(
            Times(connect=1.0, first_byte=2.0).stages(), [("connect", 1.0), ("first byte", 2.0)]
        )

    def test_case(self):
        """
        A case without a failure has passed.
        """
        self.assertTrue(CaseResult("a", 1, 0, 0.1, None).passed)
        self.assertFalse(CaseResult("a", 1, 1, 0.1, CheckError(Outcome.LOST, "")).passed)
