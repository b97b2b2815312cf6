"""
Pings of servers in memory, on a clock that the test advances.
"""

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from echod.check.ping import Ping
from echod.check.results import CheckError
from tests.support.memory import turn


class PingTestCase(SynchronousTestCase):
    """
    Messages at fixed times, to servers in memory.
    """

    def setUp(self):
        self.clock = Clock()
        self.told = []

    def ping(self, dial, rate=1.0, connections=1, count=3, size=64):
        self.made = Ping(
            self.clock,
            dial,
            lambda *what: self.told.append(what),
            size=size,
            rate=rate,
            connections=connections,
            count=count,
            timeout_seconds=2,
        )
        return self.made

    def run_ping(self, dial, **how):
        turn(self.clock, self.ping(dial, **how).run(), 0.125)
        # What the server still waits for.
        self.clock.advance(1)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        return self.made

    def outcomes(self):
        return [
            result.outcome if isinstance(result, CheckError) else result for *_, result in self.told
        ]
