"""
One connection of the open loop, to a server that breaks it, or breaks off.
"""

from twisted.internet.defer import Deferred

from echod.check.results import Outcome
from tests.support.memory import Dials, echo, fails, never, sleep
from tests.support.pinging import PingTestCase


class LaneTests(PingTestCase):
    """
    Tests for L{PingConnection<echod.check.ping.PingConnection>}, as
    L{Ping<echod.check.ping.Ping>} uses it.
    """

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
