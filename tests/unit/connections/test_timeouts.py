"""
Limits in time, by a clock that is a number.
"""

from dataclasses import fields

from twisted.trial.unittest import SynchronousTestCase

from echod.connections.connection import Reason
from echod.connections.timeouts import (
    CHECK_INTERVAL,
    CLOSE_TIMEOUT,
    LINGER_TIMEOUT,
    PROXY_HEADER_TIMEOUT,
    Activity,
    Timeouts,
)
from tests.support.fakes import FakeConnection

BIRTH = 1000.0
"""When the connection was accepted."""


class LimitsTestCase(SynchronousTestCase):
    """
    A connection that is looked at.

    @ivar ends: how it was asked to end, with the seconds since its birth.
    """

    def watch(self, handshake=0.0, idle=0.0, lifetime=0.0, write=0.0, proxy_header=0.0):
        """
        Begin anew, with these limits and no others.
        """
        self.limits = Timeouts(handshake, idle, lifetime, write, proxy_header)
        self.seen = Activity(1, BIRTH, BIRTH)
        self.connection = FakeConnection()
        self.ends = []
        self.gone = False
        return self.connection

    def check(self, at):
        """
        Look once, so many seconds after the birth, unless the connection is gone.
        """
        if self.gone:
            return
        before = len(self.connection.asked)
        self.limits.check(self.connection, self.seen, BIRTH + at)
        for how, reason in self.connection.asked[before:]:
            self.ends.append((at, how, reason))
            self.gone = how != "finish"

    def look_on(self, begin, end, each=lambda at: None):
        """
        Look as often as the daemon does, from one time to another.

        @param each: what happens before each look.
        """
        for step in range(round((end - begin) / CHECK_INTERVAL) + 1):
            at = begin + step * CHECK_INTERVAL
            each(at)
            self.check(at)

    def echo(self, at):
        """
        The client sends a byte.
        """
        self.connection.bytes_echoed += 1

    def take(self, at):
        """
        The client takes a byte of what it is owed.
        """
        first, *rest = self.connection.not_taken
        self.connection.not_taken = (first - 1, *rest)


class DefaultTests(SynchronousTestCase):
    """
    What holds when nothing else is asked for.
    """

    def test_defaults(self):
        """
        A client that does not get to the point, or takes nothing, ends; an idle one does not.
        """
        self.assertEqual(
            Timeouts(),
            Timeouts(handshake=10.0, idle=0.0, lifetime=0.0, write=30.0, proxy_header=5.0),
        )
        self.assertEqual(
            (CHECK_INTERVAL, LINGER_TIMEOUT, CLOSE_TIMEOUT, PROXY_HEADER_TIMEOUT),
            (0.5, 2.0, 30.0, 5.0),
        )


class NoLimitTests(LimitsTestCase):
    """
    Limits of 0.
    """

    def test_never(self):
        """
        Without limits a connection may be silent, stalled or waited for as long as it likes.
        """
        for waiting_for in (None, Reason.HANDSHAKE, Reason.PROXY_HEADER):
            for paused in (False, True):
                connection = self.watch()
                self.assertEqual({getattr(self.limits, f.name) for f in fields(Timeouts)}, {0.0})
                connection.waiting_for, connection.paused = waiting_for, paused
                connection.not_taken = (1, 2, 3)
                for at in (0.5, 1.0, 60.0, 1e6, 1e9):
                    self.check(at)
                self.assertEqual(self.ends, [])

    def test_ending(self):
        """
        An end that has begun may take its time, as long as the client is owed something.
        """
        connection = self.watch()
        connection.ending, connection.not_taken = True, (1, 0, 0)
        for at in (0.5, 1.0, 60.0, 1e9):
            self.check(at)
        self.assertEqual(self.ends, [])


class IdleTests(LimitsTestCase):
    """
    Without a byte in either direction.
    """

    def test_silent(self):
        """
        A silent client is asked to leave at the limit, and not before.
        """
        self.watch(idle=10.0)
        self.look_on(0.5, 9.5)
        self.check(9.999)
        self.assertEqual(self.ends, [])
        self.check(10.0)
        self.assertEqual(self.ends, [(10.0, "finish", Reason.IDLE_TIMEOUT)])

    def test_once(self):
        """
        It is asked once.
        """
        self.watch(idle=10.0)
        self.look_on(0.5, 11.0)
        self.assertEqual(self.ends, [(10.0, "finish", Reason.IDLE_TIMEOUT)])

    def test_talks(self):
        """
        A client that sends a byte now and then has the whole limit after each.
        """
        self.watch(idle=10.0)
        for byte in range(1, 4):
            self.look_on(byte * 9.0 - 8.5, byte * 9.0 - 0.5)
            self.echo(0)
            self.check(byte * 9.0)
        self.check(36.999)
        self.assertEqual(self.ends, [])
        self.check(37.0)
        self.assertEqual(self.ends, [(37.0, "finish", Reason.IDLE_TIMEOUT)])

    def test_unread(self):
        """
        A client that has sent something is not idle because the daemon has not read it.
        """
        connection = self.watch(idle=10.0)
        self.look_on(0.5, 9.5)
        connection.in_kernel = 1
        # The loop stood still.
        self.check(60.0)
        self.assertEqual(self.ends, [])
        connection.in_kernel = 0
        self.look_on(60.5, 69.5)
        self.assertEqual(self.ends, [])
        self.check(70.0)
        self.assertEqual(self.ends, [(70.0, "finish", Reason.IDLE_TIMEOUT)])

    def test_paused_and_unread(self):
        """
        What a client sends that does not take its echo is not read because of that, and does
        not help it.
        """
        connection = self.watch(idle=10.0)
        connection.paused, connection.in_kernel, connection.not_taken = True, 1, (1, 1)
        self.look_on(0.5, 25.0)
        self.assertEqual([end[1:] for end in self.ends], [("finish", Reason.IDLE_TIMEOUT)])

    def test_slow_reader(self):
        """
        A client that sends nothing, and takes a little of what is in the kernel, is not idle.
        """
        connection = self.watch(idle=2.0)
        connection.bytes_echoed, connection.not_taken = 5000, (5000, 0, 0)
        self.look_on(0.5, 200.0, self.take)
        self.assertEqual(self.ends, [])
        # It takes no more.
        self.look_on(200.5, 206.0)
        ((at, how, reason),) = self.ends
        self.assertEqual((how, reason), ("finish", Reason.IDLE_TIMEOUT))
        # Nobody counts what is in the kernel while nothing seems to be wrong.
        self.assertTrue(202.0 <= at <= 204.5, at)

    def test_takes_nothing(self):
        """
        A client that takes nothing of what is in the kernel is idle.
        """
        connection = self.watch(idle=10.0)
        connection.bytes_echoed, connection.not_taken = 5000, (5000, 0, 0)
        self.look_on(0.5, 25.0)
        ((at, how, reason),) = self.ends
        self.assertEqual((how, reason), ("finish", Reason.IDLE_TIMEOUT))
        self.assertTrue(10.5 <= at <= 21.0, at)

    def test_has_taken_all(self):
        """
        That a client took all it was owed, some time ago, does not make it idle later.
        """
        connection = self.watch(idle=10.0)
        connection.bytes_echoed, connection.not_taken = 5000, (5000, 0, 0)
        self.check(0.5)
        connection.not_taken = (0, 0, 0)
        self.check(10.499)
        self.assertEqual(self.ends, [])
        self.check(10.5)
        self.assertEqual(self.ends, [(10.5, "finish", Reason.IDLE_TIMEOUT)])

    def test_slow_reader_of_much(self):
        """
        A client that reading has paused for, and that takes a little, is not idle then or after.
        """
        connection = self.watch(idle=10.0)
        connection.bytes_echoed, connection.paused = 5000, True
        connection.not_taken = (5000, 60000, 0)
        self.look_on(0.5, 50.0, self.take)
        connection.paused, connection.not_taken = False, (0, 0, 0)
        self.check(59.999)
        self.assertEqual(self.ends, [])
        self.check(60.0)
        self.assertEqual(self.ends, [(60.0, "finish", Reason.IDLE_TIMEOUT)])

    def test_paused_and_takes_nothing(self):
        """
        A client that reading has paused for, and that takes nothing, is idle as well.
        """
        connection = self.watch(idle=10.0)
        connection.bytes_echoed, connection.paused = 5000, True
        connection.not_taken = (5000, 60000, 0)
        self.look_on(0.5, 25.0)
        self.assertEqual([end[1:] for end in self.ends], [("finish", Reason.IDLE_TIMEOUT)])

    def test_farewell(self):
        """
        A client that was idle may take what it is owed, if it does so before long.
        """
        connection = self.watch(idle=10.0)
        connection.not_taken = (5000, 0, 0)
        self.look_on(0.5, 20.0)
        self.assertEqual(self.ends, [(20.0, "finish", Reason.IDLE_TIMEOUT)])
        self.look_on(20.5, 49.5, self.take)
        self.check(49.999)
        self.assertEqual(len(self.ends), 1)
        self.take(0)
        self.check(50.0)
        self.assertEqual(self.ends[1:], [(50.0, "abort", Reason.IDLE_TIMEOUT)])

    def test_farewell_of_the_idle_and_stalled(self):
        """
        A client that was idle has the write timeout, too, to begin to take what it is owed.
        """
        connection = self.watch(idle=5.0, write=30.0)
        connection.not_taken = (5000, 0, 0)
        self.look_on(0.5, 10.0)
        self.assertEqual(self.ends, [(10.0, "finish", Reason.IDLE_TIMEOUT)])
        self.look_on(10.5, 20.0)
        self.assertEqual(len(self.ends), 1)

    def test_end_soon_after(self):
        """
        When a client ends, whose idleness was in question a moment ago, its stall begins no
        sooner than then.
        """
        connection = self.watch(idle=5.0, write=30.0)
        connection.not_taken = (5000, 1000, 0)
        self.look_on(0.5, 6.0)
        connection.ending = True
        self.look_on(6.5, 30.0)
        self.assertEqual(self.ends, [])


class LifetimeTests(LimitsTestCase):
    """
    From accept, whatever happens.
    """

    def test_busy(self):
        """
        A client that sends and takes without a pause ends at the limit, and not before.
        """
        self.watch(lifetime=100.0)
        self.look_on(0.5, 99.5, self.echo)
        self.check(99.999)
        self.assertEqual(self.ends, [])
        self.echo(0)
        self.check(100.0)
        self.assertEqual(self.ends, [(100.0, "finish", Reason.MAX_LIFETIME)])

    def test_once(self):
        """
        It is asked once.
        """
        connection = self.watch(lifetime=100.0)
        connection.not_taken = (1, 0, 0)
        self.look_on(99.5, 120.0)
        self.assertEqual(self.ends, [(100.0, "finish", Reason.MAX_LIFETIME)])

    def test_paused(self):
        """
        A client that reading has paused for ends as well.
        """
        connection = self.watch(lifetime=100.0, write=30.0)
        connection.paused, connection.not_taken = True, (5000, 0, 0)
        self.look_on(0.5, 100.0, self.take)
        self.assertEqual(self.ends, [(100.0, "finish", Reason.MAX_LIFETIME)])

    def test_awaited(self):
        """
        A connection that is waited for ends as well.
        """
        connection = self.watch(lifetime=5.0, handshake=10.0)
        connection.waiting_for = Reason.HANDSHAKE
        self.look_on(0.5, 5.0)
        self.assertEqual(self.ends, [(5.0, "finish", Reason.MAX_LIFETIME)])

    def test_idle_at_the_same_time(self):
        """
        When two limits are reached at once, there is one end.
        """
        self.watch(lifetime=10.0, idle=10.0)
        self.check(10.0)
        self.assertEqual(self.ends, [(10.0, "finish", Reason.IDLE_TIMEOUT)])

    def test_farewell(self):
        """
        What it is owed then, it may take for a while, and is cut after that.
        """
        connection = self.watch(lifetime=100.0, write=30.0)
        connection.not_taken = (5000, 60000, 0)
        self.check(100.0)
        self.look_on(100.5, 129.5, self.take)
        self.take(0)
        self.check(129.999)
        self.assertEqual(len(self.ends), 1)
        self.take(0)
        self.check(130.0)
        self.assertEqual(
            self.ends,
            [(100.0, "finish", Reason.MAX_LIFETIME), (130.0, "abort", Reason.MAX_LIFETIME)],
        )

    def test_has_closed_its_side(self):
        """
        A client that has closed its own side, and takes a byte now and then, ends as well.
        """
        connection = self.watch(lifetime=100.0, write=30.0)
        connection.ending, connection.not_taken = True, (5000, 60000, 0)
        self.look_on(0.5, 100.0 + CLOSE_TIMEOUT + CHECK_INTERVAL, self.take)
        self.assertTrue(self.gone)


class AwaitedTests(LimitsTestCase):
    """
    What has to come in time: a PROXY header, a TLS handshake.
    """

    def test_handshake(self):
        """
        A handshake that is not over at its limit is overdue, and not before.
        """
        connection = self.watch(handshake=10.0, proxy_header=1.0)
        connection.waiting_for = Reason.HANDSHAKE
        self.look_on(0.5, 9.5)
        self.check(9.999)
        self.assertEqual(self.ends, [])
        self.check(10.0)
        self.assertEqual(self.ends, [(10.0, "overdue", Reason.HANDSHAKE)])

    def test_proxy_header(self):
        """
        So is a PROXY header, at a limit of its own.
        """
        connection = self.watch(handshake=1.0, proxy_header=5.0)
        connection.waiting_for = Reason.PROXY_HEADER
        self.look_on(0.5, 4.5)
        self.check(4.999)
        self.assertEqual(self.ends, [])
        self.check(5.0)
        self.assertEqual(self.ends, [(5.0, "overdue", Reason.PROXY_HEADER)])

    def test_short(self):
        """
        A limit may be as short as a look.
        """
        for waiting_for in (Reason.HANDSHAKE, Reason.PROXY_HEADER):
            connection = self.watch(handshake=0.5, proxy_header=0.5)
            connection.waiting_for = waiting_for
            self.check(0.499)
            self.assertEqual(self.ends, [])
            self.check(0.5)
            self.assertEqual(self.ends, [(0.5, "overdue", waiting_for)])

    def test_unread(self):
        """
        What has come in time and has not been read is not late; when it has been read, there
        is a moment for the rest, and no more.
        """
        for waiting_for in (Reason.HANDSHAKE, Reason.PROXY_HEADER):
            connection = self.watch(handshake=5.0, proxy_header=5.0)
            connection.waiting_for, connection.in_kernel = waiting_for, 1
            self.look_on(0.5, 60.0)
            self.assertEqual(self.ends, [])
            connection.in_kernel = 0
            self.check(60.5)
            self.assertEqual(self.ends, [])
            self.look_on(61.0, 63.0)
            self.assertEqual(self.ends, [(61.0, "overdue", waiting_for)])

    def test_one_after_the_other(self):
        """
        The limit of the handshake counts from accept, however long the header took.
        """
        connection = self.watch(handshake=10.0, proxy_header=5.0)
        connection.waiting_for = Reason.PROXY_HEADER
        self.look_on(0.5, 4.5)
        connection.waiting_for = Reason.HANDSHAKE
        self.look_on(5.0, 9.5)
        self.assertEqual(self.ends, [])
        self.check(10.0)
        self.assertEqual(self.ends, [(10.0, "overdue", Reason.HANDSHAKE)])

    def test_no_limit_on_one(self):
        """
        That one of them may take for ever does not free the other.
        """
        for handshake, proxy_header, slow, free in (
            (10.0, 0.0, Reason.HANDSHAKE, Reason.PROXY_HEADER),
            (0.0, 10.0, Reason.PROXY_HEADER, Reason.HANDSHAKE),
        ):
            connection = self.watch(handshake=handshake, proxy_header=proxy_header)
            connection.waiting_for = free
            self.check(1000.0)
            self.assertEqual(self.ends, [])
            connection.waiting_for = slow
            self.check(1000.0)
            self.assertEqual(self.ends, [(1000.0, "overdue", slow)])

    def test_overdue_is_the_last_word(self):
        """
        Another limit that is reached at the same time changes nothing.
        """
        for limits in ({"lifetime": 5.0}, {"idle": 5.0}):
            connection = self.watch(proxy_header=5.0, **limits)
            connection.waiting_for = Reason.PROXY_HEADER
            self.check(5.0)
            self.assertEqual(self.ends, [(5.0, "overdue", Reason.PROXY_HEADER)])

    def test_came(self):
        """
        What has come in time is not waited for any more.
        """
        connection = self.watch(handshake=10.0, proxy_header=5.0)
        connection.waiting_for = Reason.HANDSHAKE
        self.check(9.5)
        connection.waiting_for = None
        self.look_on(10.0, 100.0)
        self.assertEqual(self.ends, [])

    def test_not_idle(self):
        """
        A client in the middle of its handshake is not idle, but late.
        """
        connection = self.watch(handshake=10.0, idle=1.0)
        connection.waiting_for = Reason.HANDSHAKE
        self.look_on(0.5, 10.0)
        self.assertEqual(self.ends, [(10.0, "overdue", Reason.HANDSHAKE)])

    def test_ending(self):
        """
        What is ending is not waited for.
        """
        connection = self.watch(handshake=10.0)
        connection.waiting_for, connection.ending = Reason.HANDSHAKE, True
        connection.not_taken = (1, 0, 0)
        self.look_on(0.5, 20.0)
        self.assertEqual(self.ends, [])


class WriteTests(LimitsTestCase):
    """
    Without taking anything of what is owed.
    """

    def stalled(self, **limits):
        connection = self.watch(**limits)
        connection.bytes_echoed, connection.paused = 5000, True
        connection.not_taken = (1000, 5000, 0)
        return connection

    def test_stall(self):
        """
        A client that takes nothing is aborted at the limit, less what a look may be late.
        """
        self.stalled(write=30.0)
        self.look_on(0.5, 30.0)
        self.check(30.249)
        self.assertEqual(self.ends, [])
        self.check(30.25)
        self.assertEqual(self.ends, [(30.25, "abort", Reason.WRITE_TIMEOUT)])

    def test_within_a_look(self):
        """
        Looked at as often as the daemon does, it is gone within one look of the limit.
        """
        self.stalled(write=30.0)
        self.look_on(0.5, 40.0)
        self.assertEqual(self.ends, [(30.5, "abort", Reason.WRITE_TIMEOUT)])

    def test_any_change_counts(self):
        """
        A client that takes a little, wherever it shows, has the whole limit again.
        """
        for changed in ((999, 5000, 0), (1000, 4000, 0), (1000, 5000, 1)):
            connection = self.stalled(write=30.0)
            self.look_on(0.5, 29.5)
            connection.not_taken = changed
            self.look_on(30.0, 59.5)
            self.assertEqual(self.ends, [])
            self.check(60.0)
            self.assertEqual(self.ends, [(60.0, "abort", Reason.WRITE_TIMEOUT)])

    def test_caught_up(self):
        """
        A client that caught up and falls behind again, by as much, has the whole limit again.
        """
        connection = self.stalled(write=30.0)
        self.look_on(0.5, 29.5)
        connection.paused = False
        self.check(30.0)
        connection.paused = True
        self.echo(0)
        self.look_on(30.5, 60.0)
        self.assertEqual(self.ends, [])
        self.check(60.5)
        self.assertEqual(self.ends, [(60.5, "abort", Reason.WRITE_TIMEOUT)])

    def open(self, **limits):
        """
        A client that is read from, and owed what fits into the kernel.
        """
        connection = self.watch(**limits)
        connection.bytes_echoed, connection.not_taken = 5000, (5000, 0)
        return connection

    def test_not_paused(self):
        """
        A client that is read from, and takes nothing of what the kernel has for it, is
        aborted at the limit as well.
        """
        self.open(write=30.0)
        self.look_on(0.5, 40.0)
        ((at, *end),) = self.ends
        self.assertEqual(end, ["abort", Reason.WRITE_TIMEOUT])
        self.assertTrue(30.0 <= at <= 33.0, at)

    def test_sends_on(self):
        """
        So is one that sends a byte now and then, wherever the echo of it waits.
        """
        for place in (0, 1):
            connection = self.open(write=30.0)

            def send(at, place=place, connection=connection):
                connection.bytes_echoed += 1
                pending = list(connection.not_taken)
                pending[place] += 1
                connection.not_taken = tuple(pending)

            self.look_on(0.5, 40.0, send)
            ((at, *end),) = self.ends
            self.assertEqual(end, ["abort", Reason.WRITE_TIMEOUT])
            self.assertTrue(30.0 <= at <= 33.0, at)

    def test_sends_and_takes(self):
        """
        One that sends as much as it takes, or takes more slowly than it sends, or more in
        the kernel than it was sent, is not stalled.
        """
        for sends, more in ((5, 0), (5, 4), (5, -1)):
            connection = self.open(write=30.0)

            def go_on(at, sends=sends, more=more, connection=connection):
                connection.bytes_echoed += sends
                connection.not_taken = (connection.not_taken[0] + more, 0)

            self.look_on(0.5, 200.0, go_on)
            self.assertEqual(self.ends, [])

    def test_takes_slowly(self):
        """
        One that sends nothing, and takes a byte now and then, is not stalled.
        """
        self.open(write=30.0)
        self.look_on(0.5, 200.0, lambda at: self.take(at) if at % 20 == 0 else None)
        self.assertEqual(self.ends, [])

    def test_took_all(self):
        """
        One that has taken all is asked no more, until something is echoed again, and has the
        whole limit then.
        """
        connection = self.open(write=30.0)
        connection.not_taken = (0, 0)
        self.look_on(0.5, 60.0)
        # Nobody looks at this.
        connection.not_taken = (7, 0)
        self.look_on(60.5, 100.0)
        self.assertEqual(self.ends, [])
        self.echo(0)
        self.look_on(100.5, 129.5)
        self.assertEqual(self.ends, [])
        self.look_on(130.0, 133.0)
        self.assertEqual([end[1:] for end in self.ends], [("abort", Reason.WRITE_TIMEOUT)])

    def test_calls(self):
        """
        What a busy client is owed is asked for every two seconds at most, and that of a
        silent one once.
        """
        connection = self.open(write=30.0)
        connection.not_taken = (0, 0)
        asked = []
        connection.pending = lambda: asked.append(None) or (0, 0)
        self.look_on(0.5, 20.0, self.echo)
        self.assertTrue(5 <= len(asked) <= 12, len(asked))
        self.look_on(20.5, 40.0)
        before = len(asked)
        self.look_on(40.5, 90.0)
        self.assertEqual(len(asked), before)

    def test_stalled_before_it_was_paused(self):
        """
        That reading pauses gives a client that takes nothing no more time.
        """
        connection = self.open(write=30.0)
        self.look_on(0.5, 20.0)
        connection.paused = True
        self.look_on(20.5, 40.0)
        ((at, *_),) = self.ends
        self.assertTrue(30.0 <= at <= 33.0, at)

    def test_nothing_owed(self):
        """
        A client that is owed nothing does not stall, even when reading has paused.
        """
        connection = self.watch(write=30.0)
        connection.paused = True
        self.look_on(0.5, 100.0)
        self.assertEqual(self.ends, [])

    def test_ending(self):
        """
        A polite end waits no longer than the limit for a client that takes nothing.
        """
        connection = self.stalled(write=30.0)
        connection.paused, connection.ending = False, True
        self.look_on(0.5, 40.0)
        self.assertEqual(self.ends, [(30.5, "abort", Reason.WRITE_TIMEOUT)])

    def test_short_limit(self):
        """
        With a limit as short as a look, the second look that finds the stall ends it.
        """
        self.stalled(write=0.5)
        self.check(0.5)
        self.assertEqual(self.ends, [])
        self.check(1.0)
        self.assertEqual(self.ends, [(1.0, "abort", Reason.WRITE_TIMEOUT)])


class LingerTests(LimitsTestCase):
    """
    The client's own close, which is all that is missing.
    """

    def test_linger(self):
        """
        A client that was sent all, our end too, has a short while to close before it is cut.
        """
        connection = self.watch()
        connection.ending, connection.not_taken = True, (10, 0, 0)
        self.look_on(0.5, 10.0)
        connection.not_taken = (0, 0, 0)
        self.look_on(10.5, 12.0)
        self.check(12.499)
        self.assertEqual(self.ends, [])
        self.check(12.5)
        self.assertEqual(self.ends, [(12.5, "abort", None)])

    def test_sends_on(self):
        """
        A client that goes on sending is cut as well: what it sends now is discarded.
        """
        connection = self.watch(idle=60.0)
        connection.ending = True
        self.look_on(0.5, 5.0)
        self.assertEqual(self.ends, [(2.5, "abort", None)])

    def test_unread(self):
        """
        A client whose end may be among what has not been read has as much time again, and no
        more.
        """
        connection = self.watch()
        connection.ending, connection.in_kernel = True, 1
        self.look_on(0.5, 4.0)
        self.assertEqual(self.ends, [])
        self.look_on(4.5, 10.0)
        self.assertEqual(self.ends, [(4.5, "abort", None)])

    def test_before_the_farewell_is_over(self):
        """
        A client that was idle and owed nothing is not given the time that others may need.
        """
        self.watch(idle=10.0)
        self.look_on(0.5, 60.0)
        self.assertEqual(self.ends, [(10.0, "finish", Reason.IDLE_TIMEOUT), (12.5, "abort", None)])
