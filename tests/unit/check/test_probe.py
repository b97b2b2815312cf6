"""
Tests for the probe, with correct and wrong servers.
"""

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from echod.check.probe import Pattern, Probe, check
from echod.check.results import CheckError, Outcome
from tests.support.memory import Dials, echo, fails, never, pair, sleep, turn


def changed(change):
    """
    A server that receives all, changes it, and sends it.
    """

    async def serve(end):
        came = b""
        while len(came) < 64:
            came += await end.read()
        await end.write(change(came))
        while await end.read():
            pass
        await end.finish()

    return serve


class CheckTests(SynchronousTestCase):
    """
    Tests for L{check}.
    """

    def setUp(self):
        self.clock = Clock()

    def check(self, server=echo, size=64, dial=None):
        self.dials = Dials(server)
        self.answer = turn(self.clock, check(self.clock, dial or self.dials, size, 4), 0.25)
        return self.answer.outcome, self.answer.failure and self.answer.failure.detail

    def test_right(self):
        """
        A correct echo passes, and the connection is closed.
        """
        self.assertEqual(self.check(), (Outcome.OK, None))
        self.assertEqual(self.answer.received, 64)
        self.assertEqual(self.answer.times.first_byte, 0)
        self.assertEqual(self.dials.ends[0].done, ["lose", "abort"])

    def test_large(self):
        """
        More than the buffers hold is sent and received at the same time.
        """
        self.assertEqual(self.check(size=20 << 20), (Outcome.OK, None))
        self.assertEqual(self.answer.received, 20 << 20)

    def test_times(self):
        """
        The first byte and the total are timed.
        """

        async def slow(end):
            piece = await end.read()
            await sleep(self.clock, 0.5)
            await end.write(piece)
            await end.read()
            await sleep(self.clock, 0.5)
            await end.finish()

        self.assertEqual(self.check(slow), (Outcome.OK, None))
        self.assertAlmostEqual(self.answer.times.first_byte, 0.5)
        self.assertAlmostEqual(self.answer.times.total, 1.0)

    def test_no_way(self):
        """
        A failure to connect is the result.
        """
        self.assertEqual(self.check(dial=fails(Outcome.REFUSED)), (Outcome.REFUSED, "of course"))

    def test_late_on_the_way(self):
        """
        A timeout while connecting names the stage.
        """
        self.assertEqual(self.check(dial=never), (Outcome.TIMED_OUT, "connecting, after 4 s"))

    def test_wrong(self):
        """
        Each kind of difference is named.
        """
        for change, outcome in (
            (lambda came: came[1:], Outcome.LOST),
            (lambda came: came[:30] + came[31:], Outcome.LOST),
            (lambda came: came[:-1], Outcome.LOST),
            (lambda came: b"", Outcome.LOST),
            (lambda came: came + came, Outcome.SURPLUS),
            (lambda came: came + b"x", Outcome.SURPLUS),
            (lambda came: b"x" * 70 + came, Outcome.CORRUPTED),
            (lambda came: came[::-1], Outcome.CORRUPTED),
        ):
            self.assertIs(self.check(changed(change))[0], outcome)

    def test_stall(self):
        """
        A server that hangs times out.
        """

        async def stall(end):
            await end.write((await end.read())[:10])
            await Deferred()

        text = "waiting for the echo, after 4 s; 10 of 64 bytes came back"
        self.assertEqual(self.check(stall), (Outcome.TIMED_OUT, text))
        self.assertTrue(self.dials.ends[0].finished)

    def test_stall_behind_a_wrong_byte(self):
        """
        A server that hangs after a difference fails with the difference.
        """

        async def stall(end):
            await end.write((await end.read())[1:30])
            await Deferred()

        self.assertIs(self.check(stall)[0], Outcome.LOST)

    def test_does_not_take(self):
        """
        A server that does not receive all times out, without a half-close.
        """

        async def stall(end):
            await Deferred()

        self.assertIs(self.check(stall, 20 << 20)[0], Outcome.TIMED_OUT)
        self.assertFalse(self.dials.ends[0].finished)

    def test_does_not_close(self):
        """
        A server that does not close has a stage of its own.
        """

        async def stay(end):
            await end.write(await end.read())
            await Deferred()

        text = "waiting for the server to close, after 4 s; 64 of 64 bytes came back"
        self.assertEqual(self.check(stay), (Outcome.TIMED_OUT, text))

    def test_closes_early(self):
        """
        A server that closes before the half-close has closed early; it has not lost bytes.
        """

        async def close(end):
            await end.write((await end.read())[:10])
            await end.finish()

        text = "10 of 64 bytes came back"
        self.assertEqual(self.check(close), (Outcome.CLOSED_EARLY, text))

    def test_reset(self):
        """
        A reset has the progress, unless there was a difference before.
        """

        def resets(start):
            async def serve(end):
                await end.write((await end.read())[start:])
                end.abort()

            return serve

        text = "the connection was reset; 64 of 64 bytes came back"
        self.assertEqual(self.check(resets(0)), (Outcome.RESET, text))
        self.assertIs(self.check(resets(1))[0], Outcome.LOST)

    def test_reset_while_sending(self):
        """
        A reset in the middle of a large message ends the sending.
        """

        async def reset(end):
            await end.read()
            await sleep(self.clock, 1)
            end.abort()

        self.assertIs(self.check(reset, 20 << 20)[0], Outcome.RESET)


class ExchangeTests(SynchronousTestCase):
    """
    Tests for the parameters of L{Probe.run}.
    """

    def setUp(self):
        self.clock = Clock()
        self.client, self.server = pair()
        self.probe = Probe(self.clock, self.client, Pattern.random(100), 100)

    def test_half_close(self):
        """
        The half-close may follow the last byte.
        """
        running = Deferred.fromCoroutine(self.probe.run(1, half_close=True))
        self.assertTrue(self.client.finished)
        Deferred.fromCoroutine(echo(self.server))
        self.successResultOf(running)
        self.assertEqual(self.probe.sent, 100)

    def test_pieces(self):
        """
        Bytes may be sent in pieces, with a wait after each.
        """
        running = Deferred.fromCoroutine(
            self.probe.run(
                99, piece_bytes=50, send_pace=lambda: sleep(self.clock, 1), half_close=True
            )
        )
        self.assertEqual(self.probe.sent, 50)
        self.clock.advance(1)
        self.assertEqual(self.probe.sent, 100)
        self.assertFalse(self.client.finished)
        self.clock.advance(1)
        self.assertTrue(self.client.finished)
        running.cancel()
        self.failureResultOf(running)

    def test_reluctant_reader(self):
        """
        Reading may start late, and be slow.
        """
        Deferred.fromCoroutine(echo(self.server))
        running = Deferred.fromCoroutine(
            self.probe.run(
                99,
                half_close=True,
                read_after=sleep(self.clock, 1),
                read_pace=lambda: sleep(self.clock, 1),
            )
        )
        self.assertEqual(self.probe.comparison.received, 0)
        self.clock.advance(1)
        self.assertEqual(self.probe.comparison.received, 100)
        self.assertNoResult(running)
        self.clock.advance(1)
        self.successResultOf(running)

    def test_broken_while_impatient(self):
        """
        A connection that is lost at the late half-close is reported by the reader.
        """

        async def finish():
            raise CheckError(Outcome.RESET, "the connection was reset")

        self.client.finish = finish
        running = Deferred.fromCoroutine(self.probe.run(1))
        self.clock.advance(1)
        self.assertNoResult(running)
        self.server.abort()
        self.failureResultOf(running, CheckError)
