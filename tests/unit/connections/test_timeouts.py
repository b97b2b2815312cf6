"""
Timeouts, by a clock that is a number.
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


class TimeoutsTestCase(SynchronousTestCase):
    """
    A connection that is checked.

    @ivar ends: how it was told to end, with the seconds since it opened.
    """

    def begin(self, handshake=0.0, idle=0.0, lifetime=0.0, write=0.0, proxy_header=0.0):
        """
        Begin anew, with these timeouts and no others.
        """
        self.limits = Timeouts(handshake, idle, lifetime, write, proxy_header)
        self.seen = Activity(1, BIRTH, BIRTH)
        self.connection = FakeConnection()
        self.ends = []
        self.gone = False
        return self.connection

    def check(self, at):
        """
        Check once, so many seconds after the connection opened, unless it has ended.
        """
        if self.gone:
            return
        before = len(self.connection.asked)
        self.limits.check(self.connection, self.seen, BIRTH + at)
        for how, reason in self.connection.asked[before:]:
            self.ends.append((at, how, reason))
            self.gone = how != "finish"

    def check_until(self, begin, end, each=lambda at: None):
        """
        Check as often as the daemon does, from one time to another.

        @param each: called before each check.
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

    def read(self, at):
        """
        The client reads a byte of its echo.
        """
        first, *rest = self.connection.not_taken
        self.connection.not_taken = (first - 1, *rest)


class DefaultTests(SynchronousTestCase):
    """
    The default timeouts.
    """

    def test_defaults(self):
        """
        A client that does not finish its handshake, or reads nothing, is ended; an idle one is not.
        """
        self.assertEqual(
            Timeouts(),
            Timeouts(handshake=10.0, idle=0.0, lifetime=0.0, write=30.0, proxy_header=5.0),
        )
        self.assertEqual(
            (CHECK_INTERVAL, LINGER_TIMEOUT, CLOSE_TIMEOUT, PROXY_HEADER_TIMEOUT),
            (0.5, 2.0, 30.0, 5.0),
        )


class NoTimeoutTests(TimeoutsTestCase):
    """
    Timeouts of 0.
    """

    def test_never(self):
        """
        Without timeouts a connection may be idle, stalled or unfinished without end.
        """
        for waiting_for in (None, Reason.HANDSHAKE, Reason.PROXY_HEADER):
            for paused in (False, True):
                connection = self.begin()
                self.assertEqual({getattr(self.limits, f.name) for f in fields(Timeouts)}, {0.0})
                connection.waiting_for, connection.paused = waiting_for, paused
                connection.not_taken = (1, 2, 3)
                for at in (0.5, 1.0, 60.0, 1e6, 1e9):
                    self.check(at)
                self.assertEqual(self.ends, [])

    def test_ending(self):
        """
        A connection that is being closed may take any time, as long as something is pending.
        """
        connection = self.begin()
        connection.ending, connection.not_taken = True, (1, 0, 0)
        for at in (0.5, 1.0, 60.0, 1e9):
            self.check(at)
        self.assertEqual(self.ends, [])


class IdleTests(TimeoutsTestCase):
    """
    Without a byte in either direction.
    """

    def test_silent(self):
        """
        A silent client is closed at the timeout, and not before.
        """
        self.begin(idle=10.0)
        self.check_until(0.5, 9.5)
        self.check(9.999)
        self.assertEqual(self.ends, [])
        self.check(10.0)
        self.assertEqual(self.ends, [(10.0, "finish", Reason.IDLE_TIMEOUT)])

    def test_once(self):
        """
        It is closed once.
        """
        self.begin(idle=10.0)
        self.check_until(0.5, 11.0)
        self.assertEqual(self.ends, [(10.0, "finish", Reason.IDLE_TIMEOUT)])

    def test_active(self):
        """
        A client that sends a byte from time to time has the whole timeout after each.
        """
        self.begin(idle=10.0)
        for byte in range(1, 4):
            self.check_until(byte * 9.0 - 8.5, byte * 9.0 - 0.5)
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
        connection = self.begin(idle=10.0)
        self.check_until(0.5, 9.5)
        connection.in_kernel = 1
        # The loop stood still.
        self.check(60.0)
        self.assertEqual(self.ends, [])
        connection.in_kernel = 0
        self.check_until(60.5, 69.5)
        self.assertEqual(self.ends, [])
        self.check(70.0)
        self.assertEqual(self.ends, [(70.0, "finish", Reason.IDLE_TIMEOUT)])

    def test_paused_and_unread(self):
        """
        While reading is paused, what a client sends does not keep it from being idle.
        """
        connection = self.begin(idle=10.0)
        connection.paused, connection.in_kernel, connection.not_taken = True, 1, (1, 1)
        self.check_until(0.5, 25.0)
        self.assertEqual([end[1:] for end in self.ends], [("finish", Reason.IDLE_TIMEOUT)])

    def test_slow_reader(self):
        """
        A client that sends nothing, and reads a little of what the kernel holds, is not idle.
        """
        connection = self.begin(idle=2.0)
        connection.bytes_echoed, connection.not_taken = 5000, (5000, 0, 0)
        self.check_until(0.5, 200.0, self.read)
        self.assertEqual(self.ends, [])
        # It reads no more.
        self.check_until(200.5, 206.0)
        ((at, how, reason),) = self.ends
        self.assertEqual((how, reason), ("finish", Reason.IDLE_TIMEOUT))
        # What the kernel holds is not checked as long as nothing seems wrong.
        self.assertTrue(202.0 <= at <= 204.5, at)

    def test_reads_nothing(self):
        """
        A client that reads nothing of what the kernel holds is idle.
        """
        connection = self.begin(idle=10.0)
        connection.bytes_echoed, connection.not_taken = 5000, (5000, 0, 0)
        self.check_until(0.5, 25.0)
        ((at, how, reason),) = self.ends
        self.assertEqual((how, reason), ("finish", Reason.IDLE_TIMEOUT))
        self.assertTrue(10.5 <= at <= 21.0, at)

    def test_has_read_all(self):
        """
        That a client read all its echo some time ago does not make it idle later.
        """
        connection = self.begin(idle=10.0)
        connection.bytes_echoed, connection.not_taken = 5000, (5000, 0, 0)
        self.check(0.5)
        connection.not_taken = (0, 0, 0)
        self.check(10.499)
        self.assertEqual(self.ends, [])
        self.check(10.5)
        self.assertEqual(self.ends, [(10.5, "finish", Reason.IDLE_TIMEOUT)])

    def test_slow_reader_of_much(self):
        """
        A client that reads a little while reading is paused is not idle, then or later.
        """
        connection = self.begin(idle=10.0)
        connection.bytes_echoed, connection.paused = 5000, True
        connection.not_taken = (5000, 60000, 0)
        self.check_until(0.5, 50.0, self.read)
        connection.paused, connection.not_taken = False, (0, 0, 0)
        self.check(59.999)
        self.assertEqual(self.ends, [])
        self.check(60.0)
        self.assertEqual(self.ends, [(60.0, "finish", Reason.IDLE_TIMEOUT)])

    def test_paused_and_reads_nothing(self):
        """
        A client that reads nothing while reading is paused is idle too.
        """
        connection = self.begin(idle=10.0)
        connection.bytes_echoed, connection.paused = 5000, True
        connection.not_taken = (5000, 60000, 0)
        self.check_until(0.5, 25.0)
        self.assertEqual([end[1:] for end in self.ends], [("finish", Reason.IDLE_TIMEOUT)])

    def test_close_timeout(self):
        """
        A client that is closed as idle may read what is pending until the close timeout.
        """
        connection = self.begin(idle=10.0)
        connection.not_taken = (5000, 0, 0)
        self.check_until(0.5, 20.0)
        self.assertEqual(self.ends, [(20.0, "finish", Reason.IDLE_TIMEOUT)])
        self.check_until(20.5, 49.5, self.read)
        self.check(49.999)
        self.assertEqual(len(self.ends), 1)
        self.read(0)
        self.check(50.0)
        self.assertEqual(self.ends[1:], [(50.0, "abort", Reason.IDLE_TIMEOUT)])

    def test_close_of_the_idle_and_stalled(self):
        """
        A client that is closed as idle also has the write timeout to begin to read what is pending.
        """
        connection = self.begin(idle=5.0, write=30.0)
        connection.not_taken = (5000, 0, 0)
        self.check_until(0.5, 10.0)
        self.assertEqual(self.ends, [(10.0, "finish", Reason.IDLE_TIMEOUT)])
        self.check_until(10.5, 20.0)
        self.assertEqual(len(self.ends), 1)

    def test_end_soon_after(self):
        """
        When a client ends just after it was checked for idleness, its stall begins no sooner than
        then.
        """
        connection = self.begin(idle=5.0, write=30.0)
        connection.not_taken = (5000, 1000, 0)
        self.check_until(0.5, 6.0)
        connection.ending = True
        self.check_until(6.5, 30.0)
        self.assertEqual(self.ends, [])


class LifetimeTests(TimeoutsTestCase):
    """
    From accept, in any case.
    """

    def test_busy(self):
        """
        A client that sends and reads all the time is closed at the limit, and not before.
        """
        self.begin(lifetime=100.0)
        self.check_until(0.5, 99.5, self.echo)
        self.check(99.999)
        self.assertEqual(self.ends, [])
        self.echo(0)
        self.check(100.0)
        self.assertEqual(self.ends, [(100.0, "finish", Reason.MAX_LIFETIME)])

    def test_once(self):
        """
        It is closed once.
        """
        connection = self.begin(lifetime=100.0)
        connection.not_taken = (1, 0, 0)
        self.check_until(99.5, 120.0)
        self.assertEqual(self.ends, [(100.0, "finish", Reason.MAX_LIFETIME)])

    def test_paused(self):
        """
        A client is closed also while reading is paused.
        """
        connection = self.begin(lifetime=100.0, write=30.0)
        connection.paused, connection.not_taken = True, (5000, 0, 0)
        self.check_until(0.5, 100.0, self.read)
        self.assertEqual(self.ends, [(100.0, "finish", Reason.MAX_LIFETIME)])

    def test_waiting_for(self):
        """
        A connection is closed also while it waits for its handshake.
        """
        connection = self.begin(lifetime=5.0, handshake=10.0)
        connection.waiting_for = Reason.HANDSHAKE
        self.check_until(0.5, 5.0)
        self.assertEqual(self.ends, [(5.0, "finish", Reason.MAX_LIFETIME)])

    def test_idle_at_the_same_time(self):
        """
        When two limits are reached at once, there is one end.
        """
        self.begin(lifetime=10.0, idle=10.0)
        self.check(10.0)
        self.assertEqual(self.ends, [(10.0, "finish", Reason.IDLE_TIMEOUT)])

    def test_close_timeout(self):
        """
        The client may read what is pending until the close timeout, and is then aborted.
        """
        connection = self.begin(lifetime=100.0, write=30.0)
        connection.not_taken = (5000, 60000, 0)
        self.check(100.0)
        self.check_until(100.5, 129.5, self.read)
        self.read(0)
        self.check(129.999)
        self.assertEqual(len(self.ends), 1)
        self.read(0)
        self.check(130.0)
        self.assertEqual(
            self.ends,
            [(100.0, "finish", Reason.MAX_LIFETIME), (130.0, "abort", Reason.MAX_LIFETIME)],
        )

    def test_has_closed_its_side(self):
        """
        A client that has closed its own side, and reads a byte from time to time, is ended too.
        """
        connection = self.begin(lifetime=100.0, write=30.0)
        connection.ending, connection.not_taken = True, (5000, 60000, 0)
        self.check_until(0.5, 100.0 + CLOSE_TIMEOUT + CHECK_INTERVAL, self.read)
        self.assertTrue(self.gone)


class WaitingForTests(TimeoutsTestCase):
    """
    What has to come in time: a PROXY header, a TLS handshake.
    """

    def test_handshake(self):
        """
        A handshake that is not complete at its timeout is late, and not before.
        """
        connection = self.begin(handshake=10.0, proxy_header=1.0)
        connection.waiting_for = Reason.HANDSHAKE
        self.check_until(0.5, 9.5)
        self.check(9.999)
        self.assertEqual(self.ends, [])
        self.check(10.0)
        self.assertEqual(self.ends, [(10.0, "overdue", Reason.HANDSHAKE)])

    def test_proxy_header(self):
        """
        A PROXY header has a timeout of its own.
        """
        connection = self.begin(handshake=1.0, proxy_header=5.0)
        connection.waiting_for = Reason.PROXY_HEADER
        self.check_until(0.5, 4.5)
        self.check(4.999)
        self.assertEqual(self.ends, [])
        self.check(5.0)
        self.assertEqual(self.ends, [(5.0, "overdue", Reason.PROXY_HEADER)])

    def test_short(self):
        """
        A timeout may be as short as the interval of the checks.
        """
        for waiting_for in (Reason.HANDSHAKE, Reason.PROXY_HEADER):
            connection = self.begin(handshake=0.5, proxy_header=0.5)
            connection.waiting_for = waiting_for
            self.check(0.499)
            self.assertEqual(self.ends, [])
            self.check(0.5)
            self.assertEqual(self.ends, [(0.5, "overdue", waiting_for)])

    def test_unread(self):
        """
        Input that came in time and was not read is not late; once it is read, the rest has a
        moment, and no more.
        """
        for waiting_for in (Reason.HANDSHAKE, Reason.PROXY_HEADER):
            connection = self.begin(handshake=5.0, proxy_header=5.0)
            connection.waiting_for, connection.in_kernel = waiting_for, 1
            self.check_until(0.5, 60.0)
            self.assertEqual(self.ends, [])
            connection.in_kernel = 0
            self.check(60.5)
            self.assertEqual(self.ends, [])
            self.check_until(61.0, 63.0)
            self.assertEqual(self.ends, [(61.0, "overdue", waiting_for)])

    def test_one_after_the_other(self):
        """
        The timeout of the handshake starts at accept, however long the header took.
        """
        connection = self.begin(handshake=10.0, proxy_header=5.0)
        connection.waiting_for = Reason.PROXY_HEADER
        self.check_until(0.5, 4.5)
        connection.waiting_for = Reason.HANDSHAKE
        self.check_until(5.0, 9.5)
        self.assertEqual(self.ends, [])
        self.check(10.0)
        self.assertEqual(self.ends, [(10.0, "overdue", Reason.HANDSHAKE)])

    def test_no_limit_on_one(self):
        """
        If one of them has no timeout, the other still has its own.
        """
        for handshake, proxy_header, slow, free in (
            (10.0, 0.0, Reason.HANDSHAKE, Reason.PROXY_HEADER),
            (0.0, 10.0, Reason.PROXY_HEADER, Reason.HANDSHAKE),
        ):
            connection = self.begin(handshake=handshake, proxy_header=proxy_header)
            connection.waiting_for = free
            self.check(1000.0)
            self.assertEqual(self.ends, [])
            connection.waiting_for = slow
            self.check(1000.0)
            self.assertEqual(self.ends, [(1000.0, "overdue", slow)])

    def test_timed_out_first(self):
        """
        Another limit that is reached at the same time changes nothing.
        """
        for limits in ({"lifetime": 5.0}, {"idle": 5.0}):
            connection = self.begin(proxy_header=5.0, **limits)
            connection.waiting_for = Reason.PROXY_HEADER
            self.check(5.0)
            self.assertEqual(self.ends, [(5.0, "overdue", Reason.PROXY_HEADER)])

    def test_came(self):
        """
        After it has come in time, nothing is late any more.
        """
        connection = self.begin(handshake=10.0, proxy_header=5.0)
        connection.waiting_for = Reason.HANDSHAKE
        self.check(9.5)
        connection.waiting_for = None
        self.check_until(10.0, 100.0)
        self.assertEqual(self.ends, [])

    def test_not_idle(self):
        """
        A client in its handshake is not idle, but late.
        """
        connection = self.begin(handshake=10.0, idle=1.0)
        connection.waiting_for = Reason.HANDSHAKE
        self.check_until(0.5, 10.0)
        self.assertEqual(self.ends, [(10.0, "overdue", Reason.HANDSHAKE)])

    def test_ending(self):
        """
        A connection that is being closed is not late.
        """
        connection = self.begin(handshake=10.0)
        connection.waiting_for, connection.ending = Reason.HANDSHAKE, True
        connection.not_taken = (1, 0, 0)
        self.check_until(0.5, 20.0)
        self.assertEqual(self.ends, [])


class WriteTests(TimeoutsTestCase):
    """
    While something is pending and the client reads nothing.
    """

    def stalled(self, **limits):
        connection = self.begin(**limits)
        connection.bytes_echoed, connection.paused = 5000, True
        connection.not_taken = (1000, 5000, 0)
        return connection

    def test_stall(self):
        """
        A client that reads nothing is aborted at the timeout, less what a check may be late.
        """
        self.stalled(write=30.0)
        self.check_until(0.5, 30.0)
        self.check(30.249)
        self.assertEqual(self.ends, [])
        self.check(30.25)
        self.assertEqual(self.ends, [(30.25, "abort", Reason.WRITE_TIMEOUT)])

    def test_within_a_check(self):
        """
        Checked as often as the daemon does, it is gone within one check of the timeout.
        """
        self.stalled(write=30.0)
        self.check_until(0.5, 40.0)
        self.assertEqual(self.ends, [(30.5, "abort", Reason.WRITE_TIMEOUT)])

    def test_any_change_counts(self):
        """
        A client that reads a little, in whichever buffer that shows, has the whole timeout again.
        """
        for changed in ((999, 5000, 0), (1000, 4000, 0), (1000, 5000, 1)):
            connection = self.stalled(write=30.0)
            self.check_until(0.5, 29.5)
            connection.not_taken = changed
            self.check_until(30.0, 59.5)
            self.assertEqual(self.ends, [])
            self.check(60.0)
            self.assertEqual(self.ends, [(60.0, "abort", Reason.WRITE_TIMEOUT)])

    def test_caught_up(self):
        """
        A client that read everything and falls behind again, by as much, has the whole timeout
        again.
        """
        connection = self.stalled(write=30.0)
        self.check_until(0.5, 29.5)
        connection.paused = False
        self.check(30.0)
        connection.paused = True
        self.echo(0)
        self.check_until(30.5, 60.0)
        self.assertEqual(self.ends, [])
        self.check(60.5)
        self.assertEqual(self.ends, [(60.5, "abort", Reason.WRITE_TIMEOUT)])

    def open(self, **limits):
        """
        A client whose input is read, with pending bytes that fit into the kernel.
        """
        connection = self.begin(**limits)
        connection.bytes_echoed, connection.not_taken = 5000, (5000, 0)
        return connection

    def test_not_paused(self):
        """
        A client whose input is read, and that reads nothing of what the kernel holds, is aborted at
        the timeout too.
        """
        self.open(write=30.0)
        self.check_until(0.5, 40.0)
        ((at, *end),) = self.ends
        self.assertEqual(end, ["abort", Reason.WRITE_TIMEOUT])
        self.assertTrue(30.0 <= at <= 33.0, at)

    def test_sends_on(self):
        """
        So is one that sends a byte from time to time, if what is acknowledged tells so; if not, as
        on a UNIX socket, then when the kernel's buffer is full.
        """
        for place, acked, queue in ((0, 7, 0), (1, 7, 0), (1, None, 1)):
            connection = self.open(write=30.0)
            connection.acked, connection.not_taken = acked, (5000, queue)

            def send(at, place=place, connection=connection):
                connection.bytes_echoed += 1
                pending = list(connection.not_taken)
                pending[place] += 1
                connection.not_taken = tuple(pending)

            self.check_until(0.5, 40.0, send)
            ((at, *end),) = self.ends
            self.assertEqual(end, ["abort", Reason.WRITE_TIMEOUT])
            self.assertTrue(30.0 <= at <= 33.0, at)

    def test_sends_and_reads(self):
        """
        A client that reads as much as it sends, or less than it sends, or more than it was sent
        since, is not stalled.
        """
        for acked in (7, None):
            for sends, more in ((5, 0), (5, 4), (5, -1)):
                connection = self.open(write=30.0)
                connection.acked = acked

                def go_on(at, sends=sends, more=more, connection=connection):
                    connection.bytes_echoed += sends
                    connection.not_taken = (connection.not_taken[0] + more, 0)
                    if connection.acked:
                        connection.acked += sends - more

                self.check_until(0.5, 200.0, go_on)
                self.assertEqual(self.ends, [])

    def test_other_units(self):
        """
        The same holds where the kernel counts more than the bytes of the echo: the records of TLS,
        or the memory of each message on a UNIX socket.
        """
        for acked in (7, None):
            connection = self.open(write=30.0)
            connection.acked = acked

            def go_on(at, connection=connection):
                connection.bytes_echoed += 64 * 50
                connection.not_taken = (connection.not_taken[0] + 768 * 15, 0)
                if connection.acked:
                    connection.acked += 86 * 35

            self.check_until(0.5, 200.0, go_on)
            self.assertEqual(self.ends, [])

    def test_reads_while_full(self):
        """
        A client that reads a little while the kernel's buffer is full is not stalled.
        """
        for taken in ((768, 0), (0, 64)):
            connection = self.open(write=30.0)
            connection.not_taken = (400_000, 20_000)

            def go_on(at, taken=taken, connection=connection):
                connection.bytes_echoed += 64
                in_kernel, queue = connection.not_taken
                connection.not_taken = (in_kernel - taken[0], queue + 64 - taken[1])

            self.check_until(0.5, 200.0, go_on)
            self.assertEqual(self.ends, [])

    def test_acknowledged(self):
        """
        If what is acknowledged is known, it decides alone.
        """
        connection = self.open(write=30.0)

        def acknowledge(at):
            connection.acked = round(at)

        self.check_until(0.5, 100.0, acknowledge)
        self.assertEqual(self.ends, [])
        self.check_until(100.5, 140.0, lambda at: setattr(connection, "not_taken", (at, 0)))
        ((at, *end),) = self.ends
        self.assertEqual(end, ["abort", Reason.WRITE_TIMEOUT])
        self.assertTrue(129.5 <= at <= 133.0, at)

    def test_reads_slowly(self):
        """
        A client that sends nothing, and reads a byte from time to time, is not stalled.
        """
        self.open(write=30.0)
        self.check_until(0.5, 200.0, lambda at: self.read(at) if at % 20 == 0 else None)
        self.assertEqual(self.ends, [])

    def test_read_all(self):
        """
        One that has read everything is not checked until something is echoed again, and then has
        the whole timeout.
        """
        connection = self.open(write=30.0)
        connection.not_taken = (0, 0)
        self.check_until(0.5, 60.0)
        # This is not checked.
        connection.not_taken = (7, 0)
        self.check_until(60.5, 100.0)
        self.assertEqual(self.ends, [])
        self.echo(0)
        self.check_until(100.5, 129.5)
        self.assertEqual(self.ends, [])
        self.check_until(130.0, 133.0)
        self.assertEqual([end[1:] for end in self.ends], [("abort", Reason.WRITE_TIMEOUT)])

    def test_calls(self):
        """
        What is pending is checked every two seconds at most for a busy client, and once for a
        silent one.
        """
        connection = self.open(write=30.0)
        connection.not_taken = (0, 0)
        asked = []
        connection.pending = lambda: asked.append(None) or (0, 0)
        self.check_until(0.5, 20.0, self.echo)
        self.assertTrue(5 <= len(asked) <= 12, len(asked))
        self.check_until(20.5, 40.0)
        before = len(asked)
        self.check_until(40.5, 90.0)
        self.assertEqual(len(asked), before)

    def test_stalled_before_it_was_paused(self):
        """
        A pause in reading gives a client that reads nothing no more time.
        """
        connection = self.open(write=30.0)
        self.check_until(0.5, 20.0)
        connection.paused = True
        self.check_until(20.5, 40.0)
        ((at, *_),) = self.ends
        self.assertTrue(30.0 <= at <= 33.0, at)

    def test_nothing_pending(self):
        """
        Without pending bytes a client does not stall, even when reading is paused.
        """
        connection = self.begin(write=30.0)
        connection.paused = True
        self.check_until(0.5, 100.0)
        self.assertEqual(self.ends, [])

    def test_ending(self):
        """
        A close waits no longer than the timeout for a client that reads nothing.
        """
        connection = self.stalled(write=30.0)
        connection.paused, connection.ending = False, True
        self.check_until(0.5, 40.0)
        self.assertEqual(self.ends, [(30.5, "abort", Reason.WRITE_TIMEOUT)])

    def test_short(self):
        """
        With a timeout as short as the interval, the second check that finds the stall ends it.
        """
        self.stalled(write=0.5)
        self.check(0.5)
        self.assertEqual(self.ends, [])
        self.check(1.0)
        self.assertEqual(self.ends, [(1.0, "abort", Reason.WRITE_TIMEOUT)])


class LingerTests(TimeoutsTestCase):
    """
    Waiting for the client's FIN.
    """

    def test_linger(self):
        """
        A client that was sent everything and our FIN has a short time to close, and is then
        aborted.
        """
        connection = self.begin()
        connection.ending, connection.not_taken = True, (10, 0, 0)
        self.check_until(0.5, 10.0)
        connection.not_taken = (0, 0, 0)
        self.check_until(10.5, 12.0)
        self.check(12.499)
        self.assertEqual(self.ends, [])
        self.check(12.5)
        self.assertEqual(self.ends, [(12.5, "abort", None)])

    def test_sends_on(self):
        """
        A client that goes on sending is aborted too: what it sends now is discarded.
        """
        connection = self.begin(idle=60.0)
        connection.ending = True
        self.check_until(0.5, 5.0)
        self.assertEqual(self.ends, [(2.5, "abort", None)])

    def test_unread(self):
        """
        A client whose FIN may be among the unread input has as much time again, and no more.
        """
        connection = self.begin()
        connection.ending, connection.in_kernel = True, 1
        self.check_until(0.5, 4.0)
        self.assertEqual(self.ends, [])
        self.check_until(4.5, 10.0)
        self.assertEqual(self.ends, [(4.5, "abort", None)])

    def test_before_the_close_timeout(self):
        """
        A client that was closed as idle with nothing pending does not get the close timeout.
        """
        self.begin(idle=10.0)
        self.check_until(0.5, 60.0)
        self.assertEqual(self.ends, [(10.0, "finish", Reason.IDLE_TIMEOUT), (12.5, "abort", None)])

    def test_delivered(self):
        """
        A connection that ends by itself in a check is not checked any further.
        """
        connection = self.begin(lifetime=1.0, idle=1.0, write=1.0)
        connection.ending, connection.delivered, connection.not_taken = True, True, (1, 0)
        self.check_until(0.5, 100.0)
        self.assertEqual(self.ends, [])

    def test_awaits_delivery(self):
        """
        A client that has closed its sending side, and reads a little now and then, may take as
        long as it likes; one that reads nothing has the write timeout, and not the idle timeout.
        """
        connection = self.begin(idle=1.0, write=10.0)
        connection.ending, connection.not_taken = True, (1000, 0)
        self.check_until(0.5, 100.0, self.read)
        self.assertEqual(self.ends, [])
        self.check_until(100.5, 120.0)
        self.assertEqual(self.ends, [(110.0, "abort", Reason.WRITE_TIMEOUT)])
