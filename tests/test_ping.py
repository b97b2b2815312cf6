"""
The open loop.
"""

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from echod.outcome import Failed, Outcome
from echod.ping import Ping
from tests.memory import Dials, echo, fails, never, sleep, turn


class PingTests(SynchronousTestCase):
    """
    Tests for L{Ping}.
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
            result.outcome if isinstance(result, Failed) else result for *_, result in self.told
        ]

    def test_echoes(self):
        """
        Each message is told when it is back, with its time.
        """

        async def slow(end):
            while piece := await end.read():
                await sleep(self.clock, 0.5)
                await end.write(piece)

        ping = self.run_ping(Dials(slow))
        peer = "192.0.2.1:9000"
        self.assertEqual(self.told, [(1, peer, 0.5), (2, peer, 0.5), (3, peer, 0.5)])
        self.assertEqual((ping.sent, ping.lost, ping.failure), (3, 0, None))
        self.assertEqual(ping.elapsed, 3.5)

    def test_stalled(self):
        """
        The time counts from when a message was due, so each that a stalled server keeps
        waiting is charged to it.
        """

        async def stalls(end):
            await sleep(self.clock, 1)
            await echo(end)

        self.run_ping(Dials(stalls), rate=4.0, count=6)
        self.assertEqual(self.outcomes(), [1.0, 0.75, 0.5, 0.25, 0.0, 0.0])

    def test_not_taken(self):
        """
        A message that could not even be written is charged from when it was due.
        """

        async def stalls(end):
            await sleep(self.clock, 1)
            await echo(end)

        self.run_ping(Dials(stalls), rate=4.0, count=4, size=2 << 20)
        self.assertEqual(self.outcomes(), [1.0, 0.75, 0.5, 0.25])

    def test_own_timer(self):
        """
        What our own timer was late is not charged to the server.
        """
        ping = self.ping(Dials(echo), count=2)
        running = Deferred.fromCoroutine(ping.run())
        self.clock.advance(1.5)
        self.successResultOf(running)
        self.assertEqual(self.outcomes(), [0.0, 0.0])

    def test_connections(self):
        """
        The connections have their turns.
        """
        dials = Dials(echo)
        self.run_ping(dials, connections=3, count=7)
        self.assertEqual(len(dials.ends), 3)
        self.assertEqual([number for number, *_ in self.told], [1, 2, 3, 4, 5, 6, 7])

    def test_late(self):
        """
        A message that is not back in time is lost, and so are those behind it; then there
        is a new connection.
        """
        served = []

        async def hangs(end):
            served.append(end)
            if len(served) == 1:
                await Deferred()
            await echo(end)

        ping = self.run_ping(Dials(hangs), count=4)
        late = Outcome.TIMED_OUT
        self.assertEqual(self.outcomes(), [late, late, 0.0, 0.0])
        self.assertEqual(self.told[0][2].detail, "no echo after 2 s")
        self.assertEqual((ping.sent, ping.lost, len(served)), (4, 2, 2))

    def test_broken(self):
        """
        A connection that breaks or ends loses what was under way, and is made anew.
        """

        async def resets(end):
            await end.read()
            end.abort()

        async def closes(end):
            await end.read()
            await end.finish()

        for server, outcome in ((resets, Outcome.RESET), (closes, Outcome.CLOSED_EARLY)):
            self.told = []
            dials = Dials(server)
            self.run_ping(dials)
            self.assertEqual(self.outcomes(), [outcome] * 3)
            self.assertEqual(len(dials.ends), 3)

    def test_broken_while_sending(self):
        """
        A connection that breaks in the middle of a message that is too long for it loses
        that message.
        """

        async def resets(end):
            await sleep(self.clock, 0.5)
            end.abort()

        self.run_ping(Dials(resets), count=1, size=2 << 20)
        self.assertEqual(self.outcomes(), [Outcome.RESET])

    def test_corrupted(self):
        """
        What comes back wrong is lost, and named.
        """

        async def wrong(end):
            while piece := await end.read():
                await end.write(piece[1:] if len(piece) > 1 else b"")

        self.run_ping(Dials(wrong), count=2, rate=2.0)
        self.assertEqual(self.outcomes(), [Outcome.LOST, Outcome.LOST])

    def test_wrong_and_reset(self):
        """
        What came back wrong says more than the reset behind it.
        """

        async def wrong(end):
            await end.write((await end.read())[1:])
            end.abort()

        self.run_ping(Dials(wrong), count=1)
        self.assertEqual(self.outcomes(), [Outcome.LOST])

    def test_twice(self):
        """
        What comes although nothing is under way is noted, and costs the connection.
        """

        async def twice(end):
            while piece := await end.read():
                await end.write(piece)
                await sleep(self.clock, 0.5)
                await end.write(piece)

        dials = Dials(twice)
        ping = self.run_ping(dials, count=2)
        self.assertEqual(self.outcomes(), [0.0, Outcome.SURPLUS, 0.0])
        self.assertEqual((ping.lost, len(dials.ends)), (0, 2))
        self.assertIs(ping.failure.outcome, Outcome.SURPLUS)

    def test_closed_between(self):
        """
        A server may close a connection that says nothing; that loses nothing.
        """

        async def impatient(end):
            await end.write(await end.read())
            await sleep(self.clock, 0.5)
            await end.finish()

        dials = Dials(impatient)
        ping = self.run_ping(dials, count=2)
        self.assertEqual((ping.lost, ping.failure, len(dials.ends)), (0, None, 2))

    def test_speaks_first(self):
        """
        A server that speaks before it is asked loses each message, and is not asked more
        often for it.
        """

        async def speaks(end):
            await end.write(b"hello")
            await echo(end)

        dials = Dials(speaks)
        self.run_ping(dials, count=2)
        self.assertEqual(len(dials.ends), 2)
        self.assertEqual(self.outcomes(), [Outcome.SURPLUS] * 2)

    def test_refused(self):
        """
        A server that is not there loses each message in its turn.
        """
        ping = self.run_ping(fails(Outcome.REFUSED))
        self.assertEqual(self.outcomes(), [Outcome.REFUSED] * 3)
        self.assertIs(ping.failure.outcome, Outcome.REFUSED)
        self.assertEqual(ping.elapsed, 3.0)

    def test_no_connection_in_time(self):
        """
        A connection that is not made in time loses the message, with the stage.
        """
        self.run_ping(never, count=1)
        self.assertEqual(self.outcomes(), [Outcome.TIMED_OUT])
        self.assertEqual(self.told[0][2].detail, "connecting, after 2 s")

    def test_stopped(self):
        """
        What is under way when it is stopped is not counted, and nothing is left behind.
        """

        async def slow(end):
            await end.write(await end.read())
            await Deferred()

        dials = Dials(slow)
        ping = self.ping(dials, count=None, connections=2)
        running = Deferred.fromCoroutine(ping.run())
        self.clock.advance(1)
        self.clock.advance(1)
        running.cancel()
        self.failureResultOf(running)
        self.assertEqual((ping.sent, ping.lost), (2, 0))
        self.assertEqual(self.clock.getDelayedCalls(), [])
        for end in dials.ends:
            self.assertIn("abort", end.done)
