"""
The open connections: totals, checks, and the drain.
"""

import re
import sys
from collections import Counter

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.task import Clock
from twisted.logger import LogLevel, capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from echod.connections.connection import REFUSED, Reason
from echod.connections.timeouts import CHECK_INTERVAL, LINGER_TIMEOUT, Timeouts
from echod.connections.tracker import QUIET_INTERVAL, SLICE, Connections
from tests.support.fakes import EventAccessLog, FakeConnection


class BrokenConnection(FakeConnection):
    """
    A connection whose kernel buffers cannot be queried.
    """

    def unread(self):
        raise RuntimeError("no descriptor")


class UnendingConnection(FakeConnection):
    """
    A connection that cannot be aborted.
    """

    def abort(self, reason=None):
        raise RuntimeError("no socket")


class CountingConnection(FakeConnection):
    """
    A connection that counts how often its kernel buffers are queried.
    """

    queries = 0

    def unread(self):
        self.queries += 1
        return super().unread()

    def pending(self):
        self.queries += 1
        return super().pending()


class NamelessConnection(FakeConnection):
    """
    A connection whose address is invalid.
    """

    def peer(self):
        raise RuntimeError("no address")


class ConnectionsTestCase(SynchronousTestCase):
    """
    Connections on a clock that the test moves.
    """

    def setUp(self):
        self.clock = Clock()
        self.connections = self.make()

    def make(self, access_log=False, **limits):
        log = EventAccessLog() if access_log else None
        return Connections(self.clock, Timeouts(**limits), log)

    def sweep_for(self, seconds):
        """
        Let time pass, with checks as often as the daemon makes them.
        """
        for _ in range(round(seconds / CHECK_INTERVAL)):
            self.clock.advance(CHECK_INTERVAL)
            self.connections.check_timeouts()


class TotalsTests(ConnectionsTestCase):
    """
    How many there were, how much they echoed, how each ended.
    """

    def test_totals(self):
        """
        Bytes of open and of ended connections both count, and each end counts by its reason.
        """
        one, two, three = (FakeConnection(self.connections) for _ in range(3))
        one.bytes_echoed, two.bytes_echoed = 100, 20
        self.connections.remove(one, Reason.CLIENT)
        self.connections.remove(three, Reason.RESET)
        two.bytes_echoed += 3
        self.assertEqual(len(self.connections), 1)
        self.assertEqual(self.connections.opened, 3)
        self.assertEqual(self.connections.bytes_echoed, 123)
        self.assertEqual(self.connections.ended, {Reason.CLIENT: 1, Reason.RESET: 1})

    def test_by_listener(self):
        """
        The open connections, and the bytes that they have echoed, are counted by listener.
        """
        for listener, echoed in (("tcp", 1), ("tls", 2), ("tcp", 3)):
            connection = FakeConnection(self.connections)
            connection.listener, connection.bytes_echoed = listener, echoed
        numbers, echoed = self.connections.live()
        self.assertEqual((numbers, echoed), ({"tcp": 2, "tls": 1}, {"tcp": 4, "tls": 2}))
        self.assertEqual((numbers["none"], echoed["none"]), (0, 0))

    def test_busiest_clients(self):
        """
        The clients with the most open connections come first, then those that echo most.
        """
        addresses = (
            *[IPv6Address("TCP", "::ffff:192.0.2.1", port) for port in (1, 2, 3)],
            *[UNIXAddress(None)] * 2,
            *[IPv6Address("TCP", "2001:db8::1", port) for port in (1, 2)],
            IPv4Address("TCP", "192.0.2.2", 1),
        )
        for number, address in enumerate(addresses):
            connection = FakeConnection(self.connections)
            connection.client, connection.bytes_echoed = address, number
        self.assertEqual(
            self.connections.busiest_clients(3),
            [("192.0.2.1", 3, 3), ("2001:db8::1", 2, 11), ("unix", 2, 7)],
        )

    def test_remove_twice(self):
        """
        A connection whose end is reported twice is counted and logged once.
        """
        connections = self.make(access_log=True)
        connection = FakeConnection(connections)
        connection.bytes_echoed = 5
        with capturedLogs() as events:
            self.assertTrue(connections.remove(connection, Reason.CLIENT))
            self.assertFalse(connections.remove(connection, Reason.ERROR))
        self.assertEqual(len(events), 1)
        self.assertEqual(connections.ended, {Reason.CLIENT: 1})
        self.assertEqual(connections.bytes_echoed, 5)

    def test_access_record(self):
        """
        The end of a connection is one record: who, where, how much, how long and why.
        """
        connections = self.make(access_log=True)
        FakeConnection(connections)
        self.clock.advance(100)
        connection = FakeConnection(connections)
        connection.bytes_echoed = 4096
        self.clock.advance(1.5)
        with capturedLogs() as events:
            connections.remove(connection, Reason.WRITE_TIMEOUT)
        (event,) = events
        expected = {
            "event": "access",
            "connection": 2,
            "listener": "tcp",
            "peer": "192.0.2.7:40000",
            "bytes": 4096,
            "seconds": 1.5,
            "reason": "write-timeout",
        }
        self.assertEqual({name: event[name] for name in expected}, expected)
        self.assertIs(event["log_level"], LogLevel.info)
        self.assertEqual(
            formatEvent(event),
            "connection 2 of 192.0.2.7:40000 to tcp: 4096 bytes echoed in 1.500 s, "
            "read nothing for 30 s",
        )

    def test_fields(self):
        """
        Other fields of a connection are at the end of its record, by name.
        """
        connections = self.make(access_log=True)
        connection = FakeConnection(connections)
        connection.known = {"proxy": "198.51.100.9:1", "proxy_alpn": "{h2}"}
        with capturedLogs() as events:
            connections.remove(connection, Reason.CLIENT)
        (event,) = events
        self.assertEqual((event["proxy"], event["proxy_alpn"]), ("198.51.100.9:1", "{h2}"))
        self.assertTrue(
            formatEvent(event).endswith(", closed by client; proxy 198.51.100.9:1; proxy_alpn {h2}")
        )

    def test_listener(self):
        """
        People read the address of a listener that has no name of its own, in refusals too; its
        name stays in the fields.
        """
        connections = self.make(access_log=True)
        for name, shown in (("tcp", "[::]:9"), ("tls", "[::]:9"), ("echo", "echo")):
            connections.name_listener(name, "[::]:9")
            connection = FakeConnection(connections)
            connection.listener = name
            with capturedLogs() as events:
                connections.remove(connection, Reason.CLIENT)
                connections.refusals.add(name, Reason.DENIED, "192.0.2.7:1")
                connections.refusals.log_summary()
            for event in events:
                self.assertRegex(formatEvent(event), rf" to {re.escape(shown)}(:|$)")
                self.assertEqual(str(event["listener"]), name)

    def test_error(self):
        """
        The record of a connection that ended with an error has the detail.
        """
        connections = self.make(access_log=True)
        connection = FakeConnection(connections)
        connection.known = {"tls_version": "TLSv1.3"}
        with capturedLogs() as events:
            connections.remove(connection, Reason.ERROR, "bad record {mac}")
        (event,) = events
        self.assertEqual(event["detail"], "bad record {mac}")
        self.assertTrue(
            formatEvent(event).endswith(', failed; detail "bad record {mac}"; tls_version TLSv1.3')
        )

    def test_health_check(self):
        """
        A client that comes and goes without a byte is counted, and logged at debug level only.
        """
        for size, reason, level in (
            (0, Reason.CLIENT, LogLevel.debug),
            (0, Reason.RESET, LogLevel.debug),
            (1, Reason.CLIENT, LogLevel.info),
            (1, Reason.RESET, LogLevel.info),
            (0, Reason.IDLE_TIMEOUT, LogLevel.info),
            (0, Reason.DRAIN, LogLevel.info),
        ):
            connections = self.make(access_log=True)
            connection = FakeConnection(connections)
            connection.bytes_echoed = size
            with capturedLogs() as events:
                connections.remove(connection, reason)
            self.assertEqual([event["log_level"] for event in events], [level], (size, reason))
            self.assertEqual(connections.ended, {reason: 1})

    def test_no_header(self):
        """
        So is one that waited for a PROXY header and on which nothing came.
        """
        for waiting_for, level in (
            (Reason.PROXY_HEADER, LogLevel.debug),
            (Reason.HANDSHAKE, LogLevel.info),
        ):
            connections = self.make(access_log=True)
            connection = FakeConnection(connections)
            connection.waiting_for = waiting_for
            with capturedLogs() as events:
                connections.remove(connection, Reason.IDLE_TIMEOUT)
            self.assertEqual([event["log_level"] for event in events], [level])

    def test_access_log_off(self):
        """
        Without an access log the end of a connection is counted and not logged.
        """
        connection = FakeConnection(self.connections)
        with capturedLogs() as events:
            self.connections.remove(connection, Reason.CLIENT)
        self.assertEqual((list(events), self.connections.ended[Reason.CLIENT]), ([], 1))


class FakeAccessLog:
    """
    An access log that writes the records it wants.

    @ivar wanted: whether it wants each.
    @ivar written: what it has written.
    """

    def __init__(self, wanted=True):
        self.wanted = wanted
        self.written = []

    def wants(self, probe):
        return self.wanted

    def write(self, record):
        self.written.append(record)
        return True


class AccessLogTests(ConnectionsTestCase):
    """
    An access log that writes records itself.
    """

    def end(self, log, kind, reason):
        """
        The events of a connection that ends.
        """
        connections = Connections(self.clock, Timeouts(), log)
        connection = kind(connections)
        connection.known = {"tls_sni": "a.example"}
        connection.bytes_echoed = 3
        self.clock.advance(0.5)
        with capturedLogs() as events:
            connections.remove(connection, reason, "bad")
        return list(events)

    def test_written(self):
        """
        A record that is written is not emitted as an event.
        """
        log = FakeAccessLog()
        self.assertEqual(self.end(log, FakeConnection, Reason.ERROR), [])
        ((*values, fields),) = log.written
        self.assertEqual(values, [False, 1, "tcp", "192.0.2.7:40000", 3, 0.5, Reason.ERROR])
        self.assertEqual(list(fields.items()), [("detail", "bad"), ("tls_sni", "a.example")])

    def test_not_wanted(self):
        """
        For a record that is not wanted, nothing is looked up.
        """
        log = FakeAccessLog(wanted=False)
        self.assertEqual(self.end(log, NamelessConnection, Reason.CLIENT), [])
        self.assertEqual(log.written, [])


class RefusedTests(ConnectionsTestCase):
    """
    Connections that are refused after they were accepted.
    """

    def test_refused(self):
        """
        It is counted as an end and as a refusal, with the detail, and has no access record.
        """
        for reason in REFUSED:
            connections = self.make(access_log=True)
            connection = FakeConnection(connections)
            with capturedLogs() as events:
                self.assertTrue(connections.remove(connection, reason, "why not"))
                self.assertEqual(list(events), [])
                connections.refusals.log_summary()
            self.assertEqual(connections.ended, {reason: 1})
            self.assertEqual(connections.refusals.counts, {("tcp", reason): 1})
            (event,) = events
            self.assertEqual(
                formatEvent(event),
                f"refused 1: {reason.value}, the last from 192.0.2.7:40000 to tcp, why not",
            )

    def test_which_are_refusals(self):
        """
        Every other end is no refusal, and has its access record.
        """
        words = {reason.value for reason in REFUSED}
        admission = {"denied", "max-connections", "max-per-client", "connect-rate"}
        self.assertEqual(words, admission | {"proxy-header", "handshake"})
        connections = self.make(access_log=True)
        for reason in set(Reason) - REFUSED:
            with capturedLogs() as events:
                connections.remove(FakeConnection(connections), reason, "why")
            self.assertEqual([event["reason"] for event in events], [reason.value])
            shown = "why" in formatEvent(events[0])
            self.assertIs(shown, reason is Reason.ERROR)
        self.assertEqual(connections.refusals.counts, {})

    def test_the_last_one(self):
        """
        A drain also ends when the last connection is refused.
        """
        connection = FakeConnection(self.connections)
        drained = self.connections.drain(5)
        self.connections.remove(connection, Reason.PROXY_HEADER)
        self.successResultOf(drained)


class ReplaceTests(ConnectionsTestCase):
    """
    A connection that another protocol takes over.
    """

    def test_replaced(self):
        """
        It stays one connection, with its age and number, and ends once.
        """
        connections = self.make(access_log=True, lifetime=10.0)
        FakeConnection(connections)
        first = FakeConnection(connections)
        self.clock.advance(6)
        second = FakeConnection()
        connections.replace(first, second)
        self.assertEqual((len(connections), connections.opened), (2, 2))
        self.clock.advance(4)
        connections.check_timeouts()
        self.assertEqual((first.asked, second.asked), ([], [("finish", Reason.MAX_LIFETIME)]))
        with capturedLogs() as events:
            self.assertFalse(connections.remove(first, Reason.ERROR))
            self.assertTrue(connections.remove(second, Reason.MAX_LIFETIME))
        self.assertEqual([(e["connection"], e["seconds"]) for e in events], [(2, 10.0)])
        self.assertEqual(connections.ended, {Reason.MAX_LIFETIME: 1})


class SweepTests(ConnectionsTestCase):
    """
    The checks of all connections, twice a second.
    """

    def test_all_are_checked(self):
        """
        Each connection is checked by its own age, whenever it came.
        """
        self.connections = self.make(lifetime=10.0)
        early = FakeConnection(self.connections)
        self.sweep_for(5)
        late = FakeConnection(self.connections)
        self.sweep_for(4.5)
        self.assertEqual((early.asked, late.asked), ([], []))
        self.sweep_for(0.5)
        self.assertEqual((early.asked, late.asked), ([("finish", Reason.MAX_LIFETIME)], []))
        self.sweep_for(5)
        self.assertEqual(late.asked, [("finish", Reason.MAX_LIFETIME)])

    def test_cost(self):
        """
        A connection within its limits costs a check one call, and no system call.
        """
        self.connections = self.make(idle=3600.0, lifetime=3600.0)
        connections = [CountingConnection(self.connections) for _ in range(1000)]
        self.clock.advance(CHECK_INTERVAL)
        calls = Counter()
        sys.setprofile(lambda frame, event, _: calls.update([event]))
        try:
            self.connections.check_timeouts()
        finally:
            sys.setprofile(None)
        self.assertLess(calls["call"], len(connections) + 10)
        self.assertEqual(sum(connection.queries for connection in connections), 0)

    def test_ends_within_a_sweep(self):
        """
        A connection that ends as soon as it is aborted does not hide the next one.
        """
        connections = [FakeConnection(self.connections, dies_at_once=True) for _ in range(2)]
        for connection in connections:
            connection.paused, connection.not_taken = True, (1, 1, 1)
        self.sweep_for(31)
        self.assertEqual(self.connections.ended, {Reason.WRITE_TIMEOUT: 2})


class SliceTests(ConnectionsTestCase):
    """
    Many connections, of which a slice is checked or ended in one turn of the loop.
    """

    def many(self, more=0):
        """
        So many that it takes three turns.
        """
        return [FakeConnection(self.connections, True) for _ in range(2 * SLICE + 1 + more)]

    def now(self):
        return self.clock.seconds()

    def turns(self, each=lambda: None):
        """
        How many connections are open after each turn, until nothing changes.
        """
        left = [len(self.connections)]
        while len(left) < 2 or left[-1] != left[-2]:
            each()
            # Twisted's Clock would make the calls that these calls ask for as well.
            for call in [c for c in self.clock.getDelayedCalls() if c.getTime() <= self.now()]:
                act, args = call.func, call.args
                call.cancel()
                act(*args)
            left.append(len(self.connections))
        return left[:-1]

    def test_sweep(self):
        """
        A sweep checks a slice in each turn; a second sweep that starts before it is done does
        nothing.
        """
        self.connections = self.make(lifetime=10.0)
        self.many()
        self.clock.advance(10)
        self.connections.check_timeouts()
        self.assertEqual(self.turns(self.connections.check_timeouts), [SLICE + 1, 1, 0])
        self.assertEqual(self.connections.ended, {Reason.MAX_LIFETIME: 2 * SLICE + 1})

    def test_sweep_again(self):
        """
        After one sweep the next can start.
        """
        self.connections = self.make(lifetime=10.0)
        connections = self.many(more=-1)
        self.connections.check_timeouts()
        self.assertEqual(len(self.turns()), 1)
        self.assertEqual(len(connections), len(self.connections))
        self.clock.advance(10)
        self.connections.check_timeouts()
        self.assertEqual(self.turns()[-1], 0)

    def test_gone_meanwhile(self):
        """
        A connection that ends between two turns is not checked.
        """
        self.connections = self.make(lifetime=10.0)
        *_, last = self.many()
        self.clock.advance(10)
        self.connections.check_timeouts()
        self.connections.remove(last, Reason.CLIENT)
        self.turns()
        self.assertEqual(last.asked, [])

    def test_broken(self):
        """
        A failure in checking one is logged, and the others are checked.
        """
        self.connections = self.make(idle=10.0)
        BrokenConnection(self.connections)
        sound = [FakeConnection(self.connections) for _ in range(SLICE)]
        self.clock.advance(10)
        self.connections.check_timeouts()
        self.clock.advance(0)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        for each in sound:
            self.assertEqual(each.asked, [("finish", Reason.IDLE_TIMEOUT)])

    def test_drain(self):
        """
        A drain ends a slice in each turn.
        """
        self.many()
        self.sweep_for(1)
        self.clock.advance(0)
        drained = self.connections.drain(5.0)
        self.assertEqual(self.turns(), [SLICE + 1, 1, 0])
        self.successResultOf(drained)

    def test_abort(self):
        """
        An abort ends a slice in each turn, also a connection that has replaced another in between.
        """
        connections = self.many()
        self.connections.abort_all()
        successor = FakeConnection(dies_at_once=True)
        successor._connections = self.connections
        self.connections.replace(connections[-1], successor)
        self.assertEqual(self.turns(), [SLICE + 1, 1, 0])
        self.assertEqual(successor.asked, [("abort", Reason.ABORTED)])
        self.assertEqual(connections[-1].asked, [])

    def test_broken_abort(self):
        """
        A failure in aborting one is logged, and the others are aborted.
        """
        broken, sound = UnendingConnection(self.connections), FakeConnection(self.connections)
        self.connections.abort_all()
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        self.assertEqual((broken.asked, sound.asked), ([], [("abort", Reason.ABORTED)]))

    def test_abort_once(self):
        """
        A connection that stays is not aborted again because another was replaced.
        """
        stays = FakeConnection(self.connections)
        connections = self.many()
        self.connections.abort_all()
        successor = FakeConnection()
        self.connections.replace(connections[-1], successor)
        self.turns()
        self.assertEqual(stays.asked, [("abort", Reason.ABORTED)])
        self.assertEqual(successor.asked, [("abort", Reason.ABORTED)])

    def test_drain_during_a_sweep(self):
        """
        A drain that begins during a sweep waits for the next tick.
        """
        connections = self.many()
        self.sweep_for(1)
        self.connections.drain(5.0)
        self.assertEqual(len(self.connections), len(connections))
        # The rest of that sweep, and then the tick.
        self.clock.advance(0)
        self.assertEqual(len(self.connections), len(connections))
        self.clock.advance(QUIET_INTERVAL / 2)
        self.assertEqual(len(self.connections), 0)


class DrainTests(ConnectionsTestCase):
    """
    How all connections are drained.
    """

    def settle(self):
        """
        Check often enough that silent connections count as quiet.
        """
        self.sweep_for(1)

    def drain(self, seconds=5.0):
        with capturedLogs() as events:
            drained = self.connections.drain(seconds)
        self.records = events
        return drained

    def advance(self, seconds):
        with capturedLogs() as events:
            self.clock.pump([0.25] * round(seconds / 0.25))
        self.records = [*self.records, *events]

    def assert_drained(self, drained, finished, aborted):
        self.successResultOf(drained)
        ends = [event for event in self.records if event.get("event") == "drained"]
        self.assertEqual([(e["finished"], e["aborted"]) for e in ends], [(finished, aborted)])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_empty(self):
        """
        A daemon without connections stops at once.
        """
        self.assert_drained(self.drain(), 0, 0)

    def test_quiet(self):
        """
        Quiet connections are closed at once, and the drain waits until they have ended.
        """
        quiet = [FakeConnection(self.connections) for _ in range(2)]
        self.settle()
        drained = self.drain()
        for connection in quiet:
            self.assertEqual(connection.asked, [("finish", Reason.DRAIN)])
        self.connections.remove(quiet[0], Reason.DRAIN)
        self.assertNoResult(drained)
        with capturedLogs() as self.records:
            self.connections.remove(quiet[1], Reason.DRAIN)
        self.assert_drained(drained, 2, 0)

    def test_gone_at_once(self):
        """
        When all are quiet and end as soon as they are closed, the drain takes no time.
        """
        for _ in range(2):
            FakeConnection(self.connections, dies_at_once=True)
        self.settle()
        self.assert_drained(self.drain(), 2, 0)
        self.assertEqual(self.connections.ended, {Reason.DRAIN: 2})

    def test_new(self):
        """
        A new client has a moment to send before it counts as quiet.
        """
        connection = FakeConnection(self.connections)
        self.drain()
        self.advance(QUIET_INTERVAL - 0.25)
        self.assertEqual(connection.asked, [])
        self.advance(0.25)
        self.assertEqual(connection.asked, [("finish", Reason.DRAIN)])

    def test_new_and_swept(self):
        """
        A new client has that moment even if the last sweep has already checked it.
        """
        connection = FakeConnection(self.connections)
        self.connections.check_timeouts()
        self.drain()
        self.assertEqual(connection.asked, [])
        self.advance(QUIET_INTERVAL)
        self.assertEqual(connection.asked, [("finish", Reason.DRAIN)])

    def test_busy(self):
        """
        A busy connection goes on until it has been quiet for a moment.
        """
        busy, late = (FakeConnection(self.connections) for _ in range(2))
        self.settle()
        busy.bytes_echoed += 1
        late.bytes_echoed += 1
        self.drain()
        for _ in range(3):
            busy.bytes_echoed += 1
            self.advance(QUIET_INTERVAL)
        self.assertEqual(busy.asked, [])
        self.assertEqual(late.asked, [("finish", Reason.DRAIN)])
        # One check finds it quiet, and the next finds it still quiet.
        self.advance(QUIET_INTERVAL * 2)
        self.assertEqual(busy.asked, [("finish", Reason.DRAIN)])

    def test_silent_for_a_tick(self):
        """
        A connection that becomes silent is closed once it has been silent for a whole tick.
        """
        connection = FakeConnection(self.connections)
        self.settle()
        connection.bytes_echoed += 1
        self.drain(QUIET_INTERVAL * 2)
        self.advance(QUIET_INTERVAL - 0.25)
        self.assertEqual(connection.asked, [])
        self.advance(0.25)
        self.assertEqual(connection.asked, [("finish", Reason.DRAIN)])

    def test_busy_a_moment_ago(self):
        """
        A connection that was silent at the last check and has echoed since is not quiet.
        """
        connection = FakeConnection(self.connections)
        self.settle()
        connection.bytes_echoed = 1
        self.drain()
        self.assertEqual(connection.asked, [])

    def test_unread(self):
        """
        What a client has sent is echoed first, even if the daemon has not read it yet.
        """
        connection = FakeConnection(self.connections)
        connection.in_kernel = 1
        self.settle()
        self.drain()
        self.advance(QUIET_INTERVAL)
        self.assertEqual(connection.asked, [])
        connection.in_kernel = 0
        self.advance(QUIET_INTERVAL)
        self.assertEqual(connection.asked, [("finish", Reason.DRAIN)])

    def test_paused(self):
        """
        A client that does not read its echo has until the deadline to read it.
        """
        connection = FakeConnection(self.connections)
        connection.paused, connection.not_taken = True, (1, 2, 3)
        self.settle()
        self.drain()
        self.advance(4)
        self.assertEqual(connection.asked, [])
        connection.paused = False
        self.advance(QUIET_INTERVAL)
        self.assertEqual(connection.asked, [("finish", Reason.DRAIN)])

    def test_already_ending(self):
        """
        A connection that is being closed when the drain begins is not closed again.
        """
        connection = FakeConnection(self.connections)
        connection.ending, connection.not_taken = True, (1, 0, 0)
        self.settle()
        self.drain()
        self.advance(1)
        self.assertEqual(connection.asked, [])

    def test_linger(self):
        """
        A client that never closes its own side is aborted after a short time, with the drain's
        reason.
        """
        connection = FakeConnection(self.connections)
        self.settle()
        self.drain(60.0)
        self.advance(LINGER_TIMEOUT - 0.25)
        self.assertEqual(connection.asked, [("finish", Reason.DRAIN)])
        # The check after the one that closed it is the first to find nothing pending.
        self.advance(0.5)
        self.assertEqual(connection.asked, [("finish", Reason.DRAIN), ("abort", None)])

    def test_deadline(self):
        """
        A connection that is busy at the deadline is aborted, and the log says how many were.
        """
        connections = [FakeConnection(self.connections, dies_at_once=True) for _ in range(3)]
        for connection in connections:
            connection.in_kernel = 1
        connections[0].in_kernel = 0
        self.settle()
        drained = self.drain()
        self.assertEqual(len(self.connections), 2)
        self.advance(4.75)
        self.assertEqual(len(self.connections), 2)
        self.assertNoResult(drained)
        self.advance(0.25)
        self.assertEqual(self.connections.ended, {Reason.DRAIN: 1, Reason.ABORTED: 2})
        self.assert_drained(drained, 1, 2)

    def test_earlier_aborts_do_not_count(self):
        """
        The drain's figures are about the connections that were open when it began.
        """
        for reason in (Reason.ABORTED, Reason.WRITE_TIMEOUT):
            self.connections.remove(FakeConnection(self.connections), reason)
        stalls, ends = (FakeConnection(self.connections) for _ in range(2))
        stalls.paused = ends.paused = True
        drained = self.drain()
        self.connections.remove(ends, Reason.CLIENT)
        with capturedLogs() as self.records:
            self.connections.remove(stalls, Reason.WRITE_TIMEOUT)
        self.assert_drained(drained, 1, 1)

    def test_abort_all(self):
        """
        A second signal ends every connection at once, also those that are being closed.
        """
        connections = [FakeConnection(self.connections, dies_at_once=True) for _ in range(3)]
        connections[0].ending = True
        for connection in connections:
            connection.paused, connection.not_taken = True, (1, 0, 0)
        drained = self.drain()
        with capturedLogs() as self.records:
            self.connections.abort_all()
        self.assert_drained(drained, 0, 3)

    def test_broken_check(self):
        """
        A failure in checking a connection is logged, and the deadline still ends the drain.
        """
        BrokenConnection(self.connections, dies_at_once=True)
        drained = self.drain()
        self.advance(5)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        self.assertEqual(self.connections.ended, {Reason.ABORTED: 1})
        self.assert_drained(drained, 0, 1)

    def test_broken_first_check(self):
        """
        A failure in the first check does not spoil the drain either.
        """
        BrokenConnection(self.connections, dies_at_once=True)
        self.settle()
        drained = self.drain()
        self.advance(5)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        self.assert_drained(drained, 0, 1)

    def test_end_that_cannot_be_logged(self):
        """
        A connection whose address has no text does not hold up the drain.
        """
        self.connections = self.make(access_log=True)
        connection = NamelessConnection(self.connections)
        drained = self.drain()
        with capturedLogs() as self.records:
            self.connections.remove(connection, Reason.CLIENT)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        self.assert_drained(drained, 1, 0)

    def test_comes_after_the_drain(self):
        """
        A connection that comes and goes after the drain is counted without an error.
        """
        self.drain()
        late = FakeConnection(self.connections)
        self.connections.remove(late, Reason.CLIENT)
        self.assertEqual(self.connections.ended, {Reason.CLIENT: 1})
