"""
L{EagerReactor<echod.net.reactor.EagerReactor>}, not installed, and turning only when a test says
so. Twisted's own reactor tests are in C{integration/test_reactor.py}.
"""

import errno
import os
import socket
import sys
import time
from select import EPOLLERR, EPOLLHUP

from twisted.internet.epollreactor import EPollReactor
from twisted.internet.error import (
    ConnectionDone,
    ConnectionLost,
    ReactorAlreadyInstalledError,
    UnsupportedAddressFamily,
)
from twisted.internet.interfaces import (
    IReactorCore,
    IReactorFDSet,
    IReactorSocket,
    IReactorTCP,
    IReactorTime,
    IReactorUNIX,
    IReadDescriptor,
)
from twisted.internet.protocol import Factory
from twisted.internet.test.modulehelpers import NoReactor
from twisted.logger import capturedLogs
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from echod.net import reactor as reactor_module
from echod.net.port import EagerPort
from echod.net.reactor import DIRECT, LATE_READS_LIMIT, MAX_EVENTS, EagerReactor, install
from echod.net.transport import EagerTransport
from echod.net.unix import EagerUNIXPort, EagerUNIXTransport
from tests.support import needs
from tests.support.pairs import BIG, HalfCloseable, Recorder, drained


@implementer(IReadDescriptor)
class Reader:
    """
    A reader that is not one of our classes.

    @ivar got: what it has read.
    """

    def __init__(self, sock=None, number=None):
        self.socket = sock
        self.number = number
        self.got = b""
        self.lost = []

    def fileno(self):
        return self.number or self.socket.fileno()

    def logPrefix(self):
        return "reader"

    def doRead(self):
        self.got += self.socket.recv(100)

    def connectionLost(self, reason):
        self.lost.append(reason)


class ScriptedPoller:
    """
    Stands in for C{select.epoll}.

    @ivar polled: the arguments of each poll: a time, and the number of events at most.
    @ivar events: what each poll returns.
    """

    def __init__(self, error=None):
        self.error = error
        self.polled = []
        self.events = []

    def poll(self, timeout, most):
        self.polled.append((timeout, most))
        if self.error is not None:
            raise self.error
        return self.events

    def register(self, descriptor, events):
        pass

    def unregister(self, descriptor):
        pass


class ReactorTestCase(SynchronousTestCase):
    """
    Makes a reactor, and closes all that is open in it.

    @ivar reactor: the reactor.
    """

    def setUp(self):
        self.reactor = EagerReactor()
        self.addCleanup(self.close, self.reactor)

    def close(self, reactor):
        """
        Close the reactor's own descriptors.
        """
        for each in list(reactor._internalReaders):
            each.connectionLost(None)
        reactor._poller.close()

    def connect(self, protocol):
        """
        Connect a protocol by one of our transports.

        @return: the transport, and the peer's socket.
        """
        ours, peer = socket.socketpair()
        self.addCleanup(ours.close)
        self.addCleanup(peer.close)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32768)
        peer.settimeout(60)
        transport = EagerTransport(ours, protocol, ("192.0.2.7", 40000), None, 0, self.reactor)
        protocol.makeConnection(transport)
        return transport, peer

    def until(self, condition):
        """
        Run turns until a condition holds.
        """
        deadline = time.monotonic() + 60
        while not condition():
            if time.monotonic() > deadline:
                raise AssertionError("what was waited for has not happened")
            self.reactor.iterate(0.001)


class LoopTests(ReactorTestCase):
    """
    The loop of a running reactor, on a poller that does what the test says.
    """

    def polls(self, *actions):
        """
        Run the reactor; each poll does one of these things, and the last one stops the reactor.

        @return: how many seconds each poll would have waited at most, -1 for no limit.
        """
        todo, waits = [*actions, self.reactor.stop], []

        def poll(timeout, _):
            waits.append(timeout)
            if todo:
                todo.pop(0)()
            return []

        poller, self.reactor._poller = self.reactor._poller, ScriptedPoller()
        self.addCleanup(setattr, self.reactor, "_poller", poller)
        self.reactor._poller.poll = poll
        self.reactor.run(installSignalHandlers=False)
        return waits

    def test_nothing_due(self):
        """
        Without timers, each poll waits until something happens; after the stop, none waits.
        """
        waits = self.polls(lambda: None, lambda: None)
        self.assertEqual(waits[:3], [-1, -1, -1])
        self.assertEqual(set(waits[3:]) - {0}, set())

    def test_timers(self):
        """
        No poll waits longer than until the next timer, however late that was set.
        """
        timers = []
        waits = self.polls(
            lambda: timers.append(self.reactor.callLater(3600, timers.clear)),
            lambda: None,
            lambda: timers[0].reset(60),
            lambda: timers[0].cancel(),
        )
        for wait, bound in zip(waits[1:4], (3600, 3600, 60), strict=True):
            self.assertTrue(bound - 30 < wait <= bound, wait)

    def test_far_timer(self):
        """
        For a timer in many years, a poll waits as long as epoll_wait(2) can.
        """
        timer = []
        waits = self.polls(
            lambda: timer.append(self.reactor.callLater(1e10, timer.clear)),
            lambda: None,
            lambda: timer[0].cancel(),
        )
        self.assertEqual(waits[1:3], [2147483, 2147483])

    def test_due(self):
        """
        What is due, and what another thread asks for, is called before the next poll.
        """
        called = []
        self.polls(
            lambda: self.reactor.callLater(0, called.append, "timer"),
            lambda: called.append("poll"),
            lambda: self.reactor.callFromThread(called.append, "thread"),
            lambda: called.append("poll"),
        )
        self.assertEqual(called, ["timer", "poll", "thread", "poll"])

    def test_stop(self):
        """
        A stop runs what was registered for the shutdown, and ends the loop.
        """
        ended = []
        self.reactor.addSystemEventTrigger("before", "shutdown", ended.append, True)
        self.polls()
        self.assertEqual((ended, self.reactor.running), ([True], False))

    def test_error(self):
        """
        An error is logged, and the loop goes on.
        """
        with capturedLogs() as events:
            waits = self.polls(lambda: 1 / 0, lambda: None)
        self.assertEqual(waits[:3], [-1, -1, -1])
        (event,) = [each for each in events if "log_failure" in each]
        self.assertEqual(event["log_failure"].type, ZeroDivisionError)
        self.flushLoggedErrors(ZeroDivisionError)


class ReactorTests(ReactorTestCase):
    """
    The reactor as a whole.
    """

    def test_interfaces(self):
        """
        It provides the interfaces of Twisted's epoll reactor.
        """
        for interface in (
            IReactorCore,
            IReactorTime,
            IReactorFDSet,
            IReactorTCP,
            IReactorUNIX,
            IReactorSocket,
        ):
            verifyObject(interface, self.reactor)
        self.assertIsInstance(self.reactor, EPollReactor)

    def test_splicer(self):
        """
        Its connections share a splicer, where there is splice(2).
        """
        self.assertEqual(self.reactor.splicer is not None, hasattr(os, "splice"))

    def test_monotonic(self):
        """
        Its clock is the monotonic one.
        """
        before = time.monotonic()
        now = self.reactor.seconds()
        self.assertTrue(before <= now <= time.monotonic())
        called = []
        self.reactor.callLater(0, called.append, None)
        self.until(lambda: called)

    def test_install(self):
        """
        It can be installed once.
        """
        with NoReactor():
            install()
            from twisted.internet import reactor

            self.addCleanup(self.close, reactor)
            self.assertIs(type(reactor), EagerReactor)
            self.assertIs(sys.modules["twisted.internet.reactor"], reactor)
            self.assertRaises(ReactorAlreadyInstalledError, install)

    def with_poller(self, poller):
        """
        Replace the reactor's C{epoll} until the end of the test.
        """
        self.patch(self.reactor, "_poller", poller)

    def test_interrupted(self):
        """
        A signal that interrupts the wait is not an error.
        """
        poller = ScriptedPoller(InterruptedError())
        self.with_poller(poller)
        self.reactor.doIteration(0)
        self.assertEqual(len(poller.polled), 1)

    def test_another_error(self):
        """
        Any other error of the wait is raised.
        """
        self.with_poller(ScriptedPoller(OSError(errno.EBADF, "bad")))
        self.assertRaises(OSError, self.reactor.doIteration, 0)

    def test_time_limit(self):
        """
        It waits for as long as it is told.
        """
        poller = ScriptedPoller()
        self.with_poller(poller)
        for limit in (0, 0.5, None):
            self.reactor.doPoll(limit)
        self.assertEqual([timeout for timeout, _ in poller.polled], [0, 0.5, -1])

    def test_max_events(self):
        """
        A turn asks for a bounded number of events, however many descriptors there are.
        """
        poller = ScriptedPoller()
        self.with_poller(poller)
        for number in range(3000):
            if number in (10, MAX_EVENTS + 10):
                self.reactor.doPoll(0)
            self.reactor.addReader(Reader(number=100000 + number))
        self.assertEqual([most for _, most in poller.polled], [MAX_EVENTS, MAX_EVENTS])

    def test_no_time_limit(self):
        """
        Without a time limit, it waits until there is an event.
        """
        protocol = Recorder()
        _, peer = self.connect(protocol)
        peer.send(b"hello")
        self.reactor.doIteration(None)
        self.assertEqual(protocol.received, [b"hello"])

    def test_wakes_up(self):
        """
        A call from another thread wakes it.
        """
        called = []
        self.reactor.callFromThread(called.append, 1)
        self.until(lambda: called)


class DispatchTests(ReactorTestCase):
    """
    Which object is called for which event.
    """

    def test_receive(self):
        """
        Input reaches its own protocol, and no other.
        """
        protocols = [Recorder() for _ in range(5)]
        peers = [self.connect(protocol)[1] for protocol in protocols]
        for number in (3, 1):
            peers[number].send(b"%d" % number)
        self.reactor.iterate(0)
        self.assertEqual([p.data for p in protocols], [b"", b"1", b"", b"3", b""])

    def test_no_log(self):
        """
        Nothing is logged for input.
        """
        protocol = Recorder()
        _, peer = self.connect(protocol)
        peer.send(b"hello")
        with capturedLogs() as events:
            self.reactor.iterate(0)
        self.assertEqual((protocol.received, events), ([b"hello"], []))

    def test_both_ways(self):
        """
        A connection may become readable and writable in the same turn.
        """
        protocol = Recorder()
        transport, peer = self.connect(protocol)
        transport.write(BIG)
        peer.send(b"hello")
        got = drained(peer)
        self.reactor.iterate(0)
        self.assertEqual(protocol.received, [b"hello"])
        more = drained(peer)
        self.assertTrue(more)
        self.assertTrue(BIG.startswith(got + more))

    def test_calls(self):
        """
        From its start to its end, a connection is added to epoll once and removed once.
        """
        made = []
        real = self.reactor._poller

        class Poller:
            poll, close = real.poll, real.close

            def register(self, *args):
                made.append("register")
                real.register(*args)

            def unregister(self, fileno):
                made.append("unregister")
                real.unregister(fileno)

        self.reactor._poller = Poller()
        protocol = HalfCloseable(lambda transport: transport.loseConnection())
        _, peer = self.connect(protocol)
        peer.send(b"hello")
        peer.close()
        self.until(lambda: protocol.lost)
        self.assertEqual((protocol.data, made), (b"hello", ["register", "unregister"]))

    def test_producer_that_fails(self):
        """
        A producer that raises when it is stopped is logged, and the connection ends all the same.
        """
        protocol = Recorder()
        transport, peer = self.connect(protocol)
        transport.registerProducer(object(), True)
        sock = transport.socket
        peer.close()
        self.until(lambda: protocol.lost)
        self.assertEqual(sock.fileno(), -1)
        self.assertNotIn(transport, self.reactor.getReaders())
        self.assertEqual(len(self.flushLoggedErrors(AttributeError)), 1)

    def test_end(self):
        """
        An end of input that a read finds reaches the protocol, half or whole.
        """
        for protocol, reasons in ((Recorder(), [ConnectionDone]), (HalfCloseable(), [])):
            _, peer = self.connect(protocol)
            peer.shutdown(socket.SHUT_WR)
            self.reactor.iterate(0)
            self.assertEqual([failure.type for failure in protocol.lost], reasons)
        self.assertEqual(protocol.ended, 1)

    def test_end_fails(self):
        """
        An error at the end of one connection is logged, and the others go on.
        """
        broken, other = Recorder(), Recorder()
        broken.connectionLost = lambda reason: 1 / 0
        _, peer = self.connect(broken)
        peer.shutdown(socket.SHUT_WR)
        self.reactor.iterate(0)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        _, peer = self.connect(other)
        peer.send(b"hello")
        self.reactor.iterate(0)
        self.assertEqual(other.data, b"hello")

    def test_gone(self):
        """
        A peer that vanishes while something is queued for it is noticed, also when nothing is read.
        """
        protocol = Recorder()
        transport, peer = self.connect(protocol)
        transport.pauseProducing()
        transport.write(BIG)
        peer.close()
        self.until(lambda: protocol.lost)
        self.assertEqual([failure.type for failure in protocol.lost], [ConnectionLost])

    def test_hangup_without_input(self):
        """
        A hang-up that comes without input is what the read finds: nothing yet, data, or a reset,
        and no clean end.
        """
        protocol = HalfCloseable()
        transport, peer = self.connect(protocol)
        poller = ScriptedPoller()
        poller.events = [(transport.fileno(), EPOLLHUP | EPOLLERR)]
        self.patch(self.reactor, "_poller", poller)
        self.reactor.iterate(0)
        self.assertEqual((protocol.received, protocol.lost), ([], []))
        peer.send(b"hello")
        self.reactor.iterate(0)
        self.assertEqual((protocol.received, protocol.lost), ([b"hello"], []))
        transport.write(b"unread")
        peer.close()
        self.reactor.iterate(0)
        self.assertEqual([failure.type for failure in protocol.lost], [ConnectionLost])
        self.assertEqual(protocol.ended, 0)

    def test_lost_in_the_same_turn(self):
        """
        Input for a connection that another protocol ends in the same turn is dropped.
        """
        protocols = []

        def end_the_other():
            for each in protocols:
                if not each.received:
                    each.transport.connectionLost(Failure(ConnectionDone()))

        protocols += [Recorder(end_the_other), Recorder(end_the_other)]
        for _, peer in [self.connect(protocol) for protocol in protocols]:
            peer.send(b"hello")
        self.reactor.iterate(0)
        self.assertEqual(sorted(p.data for p in protocols), [b"", b"hello"])
        self.assertEqual(sorted(len(p.lost) for p in protocols), [0, 1])

    def test_another_kind(self):
        """
        An object of any other class is called as Twisted calls it.
        """
        ours, peer = socket.socketpair()
        self.addCleanup(ours.close)
        self.addCleanup(peer.close)
        reader = Reader(ours)
        self.reactor.addReader(reader)
        peer.send(b"hello")
        self.reactor.iterate(0)
        self.assertEqual(reader.got, b"hello")


class SlowTransport(EagerTransport):
    """
    One of our transports whose reads take long, by a clock that it advances.

    @ivar takes: how long, in seconds.
    """

    takes = 0.0
    fails = None

    def isSlow(self):
        return self.takes > 0

    def doRead(self):
        SlowTransport.now += self.takes
        if self.fails:
            raise self.fails
        return super().doRead()

    now = 0.0


class LateReadTests(ReactorTestCase):
    """
    Transports whose reads are put off.
    """

    def setUp(self):
        super().setUp()
        self.patch(SlowTransport, "now", 0.0)
        self.patch(reactor_module, "DIRECT", DIRECT | {SlowTransport})
        # The reactor's clock, for this is about how it divides its time.
        self.patch(reactor_module, "time", self)
        self.order = []

    def monotonic(self):
        return SlowTransport.now

    def slow(self, number, takes=LATE_READS_LIMIT):
        """
        Connections whose reads take so long, and their peers, which have sent something.
        """
        found = []
        for _ in range(number):
            protocol = Recorder()
            protocol.on_data = lambda protocol=protocol: self.order.append(protocol)
            transport, peer = self.connect(protocol)
            transport.__class__ = SlowTransport
            transport.takes = takes
            transport.readLast()
            peer.send(b"hello")
            found.append((protocol, transport, peer))
        return found

    def quick(self):
        """
        An ordinary connection.
        """
        protocol = Recorder()
        protocol.on_data = lambda: self.order.append("quick")
        _, peer = self.connect(protocol)
        return peer

    def turn(self):
        """
        One turn of the loop.

        @return: what was served in it.
        """
        self.order.clear()
        self.reactor.doPoll(0)
        return list(self.order)

    def test_after_others(self):
        """
        They read after all others, as many as there is time for, one after the other.
        """
        (a, *_), (b, *_), (c, *_) = self.slow(3)
        peer = self.quick()
        balancer = []
        for _ in range(4):
            peer.send(b".")
            balancer.append(self.turn())
        self.assertEqual({len(each) for each in balancer[:3]}, {2})
        self.assertEqual([each[0] for each in balancer], ["quick"] * 4)
        self.assertEqual({each[1] for each in balancer[:3]}, {a, b, c})
        self.assertEqual(balancer[3], ["quick"])

    def test_place_in_the_queue(self):
        """
        One that has more input goes to the end of the queue.
        """
        found = self.slow(3)
        first = self.turn()
        ((_, _, peer),) = [each for each in found if each[0] in first]
        peer.send(b"more")
        served = first + self.turn() + self.turn() + self.turn()
        self.assertEqual(len(set(served[:3])), 3)
        self.assertEqual(served[3], served[0])

    def test_as_many_as_there_is_time_for(self):
        """
        Several read in one turn if the time allows.
        """
        self.slow(5, LATE_READS_LIMIT * 0.4)
        self.assertEqual([len(self.turn()) for _ in range(3)], [3, 2, 0])

    def test_more_than_a_poll_gives(self):
        """
        However many are readable, all other connections are served in every turn.
        """
        self.slow(3 * MAX_EVENTS)
        peer = self.quick()
        # In the first turns, it is not known yet how many they are.
        for _ in range(4):
            self.turn()
        for _ in range(10):
            peer.send(b".")
            self.assertIn("quick", self.turn())

    def test_many_others(self):
        """
        Polling for others is bounded, since timers and signals wait.
        """
        self.slow(1)
        self.turn()
        peers = [self.quick() for _ in range(2 * MAX_EVENTS)]
        for _, transport, _ in self.slow(2 * MAX_EVENTS):
            self.reactor.putOff(transport)
        for each in peers:
            each.send(b".")
        clock = iter(range(1000))
        self.monotonic = lambda: next(clock)
        self.assertLess(self.turn().count("quick"), MAX_EVENTS + 1)

    def test_quick_in_the_end(self):
        """
        One that is not slow any more is served with the others.
        """
        ((_, transport, peer),) = self.slow(1)
        self.turn()
        transport.takes = 0.0
        self.assertIn("doRead", vars(transport))
        peer.send(b".")
        self.turn()
        self.assertNotIn("doRead", vars(transport))

    def test_always(self):
        """
        A transport may be put off for good.
        """
        ((protocol, transport, peer),) = self.slow(1, 0.0)
        transport.readLast(always=True)
        self.patch(SlowTransport, "isSlow", EagerTransport.isSlow)
        for _ in range(3):
            peer.send(b".")
            self.assertEqual(self.turn(), [protocol])
            self.assertIn("doRead", vars(transport))

    def test_no_cycle(self):
        """
        One that ends while it is put off leaves no reference to itself.
        """
        ((_, transport, peer),) = self.slow(1)
        peer.close()
        for _ in range(3):
            self.turn()
        self.assertFalse(transport.connected)
        self.assertNotIn("doRead", vars(transport))

    def test_peeked(self):
        """
        A connection that is peeked at is put off until C{stopPeek}.
        """
        protocol = Recorder(lambda: self.order.append("protocol"))
        transport, peer = self.connect(protocol)

        def look(data):
            self.order.append(data)
            return len(data), transport.stopPeek if data == b"over" else None

        transport.startPeek(look, 100)
        other = self.quick()
        for sent, then in ((b"more", b"more"), (b"over", b"over"), (b"hello", "protocol")):
            peer.send(sent)
            other.send(b".")
            turn = self.turn()
            self.assertEqual(set(turn), {"quick", then})
            if then != "protocol":
                self.assertEqual(turn, ["quick", then])

    def test_paused_or_gone(self):
        """
        One that has paused or ended is not called, nor is the new owner of its descriptor.
        """
        found = self.slow(3)
        for _, transport, _ in found:
            self.reactor.putOff(transport)
        found[0][1].pauseProducing()
        found[1][1].abortConnection()
        found[2][1].connectionLost(Failure(ConnectionDone()))
        self.assertEqual((self.turn(), self.turn()), ([], []))
        found[0][1].resumeProducing()
        self.assertEqual(self.turn(), [found[0][0]])

    def test_aborts(self):
        """
        One that is aborted by what it reads does not read again.
        """
        ((protocol, transport, _),) = self.slow(1)

        def abort():
            transport.takes = 0.0
            transport.abortConnection()

        protocol.on_data = abort
        self.turn()
        self.assertIsNone(transport.doRead())
        self.assertEqual(protocol.received, [b"hello"])

    def test_ends(self):
        """
        An end of input, or a failure, in a late read ends the connection as in any other.
        """
        (ends, fails) = self.slow(2)
        ends[2].close()
        fails[1].fails = RuntimeError("no")
        for _ in range(5):
            self.turn()
        self.assertEqual([failure.type for failure in ends[0].lost], [ConnectionDone])
        self.assertEqual([failure.type for failure in fails[0].lost], [RuntimeError])
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)


class FaultTests(ReactorTestCase):
    """
    Protocols that fail.
    """

    def two(self, broken):
        """
        Send to a protocol that fails and to one that does not, in the same turn.

        @return: the one that does not.
        """
        sound = Recorder()
        peers = [self.connect(protocol)[1] for protocol in (broken, sound)]
        for peer in peers:
            peer.send(b"hello")
        self.reactor.doIteration(0)
        return sound

    def test_data_received(self):
        """
        A failure of C{dataReceived} is logged once, and ends only that connection.
        """
        broken = Recorder(lambda: 1 / 0)
        sound = self.two(broken)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual([failure.type for failure in broken.lost], [ZeroDivisionError])
        self.assertEqual((sound.received, sound.lost), ([b"hello"], []))

    def test_any_exception(self):
        """
        So does an exception that is not an C{Exception}.
        """

        def leave():
            raise SystemExit("not here")

        broken = Recorder(leave)
        sound = self.two(broken)
        self.assertEqual(len(self.flushLoggedErrors(SystemExit)), 1)
        self.assertEqual([failure.type for failure in broken.lost], [SystemExit])
        self.assertEqual(sound.received, [b"hello"])

    def test_connection_lost(self):
        """
        A failure of C{connectionLost} is logged once, and the other connections are served.
        """
        broken = Recorder()
        broken.connectionLost = lambda reason: 1 / 0
        sound = Recorder()
        peers = [self.connect(protocol)[1] for protocol in (broken, sound)]
        peers[0].close()
        peers[1].send(b"hello")
        self.reactor.doIteration(0)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual((sound.received, sound.lost), ([b"hello"], []))

    def test_producer(self):
        """
        A producer that fails when it is resumed ends only its own connection.
        """
        broken = Recorder()
        transport, peer = self.connect(broken)

        class BadProducer:
            def resumeProducing(self):
                raise ZeroDivisionError

            pauseProducing = stopProducing = lambda self: None

        transport.registerProducer(BadProducer(), True)
        transport.write(BIG)
        self.until(lambda: drained(peer) == b"" and broken.lost)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual([failure.type for failure in broken.lost], [ZeroDivisionError])


class ListeningTests(ReactorTestCase):
    """
    Ports.
    """

    def serve(self, port, port_class, transport_class, connect):
        """
        The port is one of ours, and so is the transport of its first client, which gets an answer.
        """
        self.addCleanup(port.connectionLost, None)
        self.assertIs(type(port), port_class)
        with connect(port) as client:
            client.settimeout(60)
            self.until(lambda: self.protocol.connected)
            self.assertIs(type(self.protocol.transport), transport_class)
            self.protocol.transport.write(b"hello")
            self.assertEqual(client.recv(100), b"hello")
        self.until(lambda: self.protocol.lost)

    def setUp(self):
        super().setUp()
        self.protocol = Recorder()
        self.factory = Factory.forProtocol(lambda: self.protocol)
        self.factory.noisy = False

    def connect_tcp(self, port):
        """
        Connect to a TCP port.
        """
        return socket.create_connection((port.getHost().host, port.getHost().port), timeout=60)

    def connect_unix(self, port):
        """
        Connect to a UNIX socket.
        """
        client = socket.socket(socket.AF_UNIX)
        client.connect(port.getHost().name)
        return client

    def test_tcp(self):
        """
        A TCP port is ours.
        """
        port = self.reactor.listenTCP(0, self.factory, interface="127.0.0.1", backlog=7)
        self.assertEqual(port.backlog, 7)
        self.serve(port, EagerPort, EagerTransport, self.connect_tcp)

    def test_tcp_ipv6(self):
        """
        A TCP port for IPv6 is ours.
        """
        needs.ipv6()
        port = self.reactor.listenTCP(0, self.factory, interface="::1")
        self.serve(port, EagerPort, EagerTransport, self.connect_tcp)

    def test_unix(self):
        """
        A UNIX port is ours, with the given mode and lock file.
        """
        name = self.mktemp()
        port = self.reactor.listenUNIX(name, self.factory, backlog=7, mode=0o600, wantPID=True)
        self.assertEqual((port.backlog, port.mode), (7, 0o600))
        self.assertTrue(port.lockFile.locked)
        self.serve(port, EagerUNIXPort, EagerUNIXTransport, self.connect_unix)

    def test_unix_lock(self):
        """
        A UNIX port that is closed leaves neither its file nor its lock file.
        """
        name = self.mktemp()
        port = self.reactor.listenUNIX(name, self.factory, wantPID=True)
        self.assertTrue(os.path.lexists(f"{name}.lock"))
        port.connectionLost(None)
        self.assertEqual([os.path.lexists(path) for path in (name, f"{name}.lock")], [False] * 2)

    def test_adopted_tcp(self):
        """
        A port on an inherited TCP socket is ours.
        """
        with socket.create_server(("127.0.0.1", 0)) as listening:
            listening.setblocking(False)
            port = self.reactor.adoptStreamPort(listening.fileno(), socket.AF_INET, self.factory)
            self.assertEqual(port.getHost().port, listening.getsockname()[1])
            self.serve(port, EagerPort, EagerTransport, self.connect_tcp)

    def test_adopted_unix(self):
        """
        A port on an inherited UNIX socket is ours.
        """
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(self.mktemp())
            listening.listen()
            listening.setblocking(False)
            port = self.reactor.adoptStreamPort(listening.fileno(), socket.AF_UNIX, self.factory)
            self.serve(port, EagerUNIXPort, EagerUNIXTransport, self.connect_unix)

    def test_unsupported(self):
        """
        A socket of another family is refused.
        """
        error = self.assertRaises(
            UnsupportedAddressFamily, self.reactor.adoptStreamPort, 0, -1, self.factory
        )
        self.assertEqual(error.args, (-1,))


class ExclusiveTests(ReactorTestCase):
    """
    A port that shares its socket with other processes (C{EPOLLEXCLUSIVE}).
    """

    def test_waits(self):
        """
        Such a port is called when a client comes, and can be removed and closed as any other.
        """
        factory = Factory.forProtocol(Recorder)
        factory.noisy = False
        port = self.reactor.listenTCP(0, factory, interface="127.0.0.1")
        self.reactor.rearmExclusive(port)
        self.assertIn(port, self.reactor.getReaders())
        with socket.create_connection(port.socket.getsockname()):
            self.until(lambda: port.sessionno)
        for transport in self.reactor.getReaders():
            if transport is not port and isinstance(transport, EagerTransport):
                transport.connectionLost(Failure(ConnectionDone()))
        self.reactor.removeReader(port)
        self.assertEqual(self.reactor.getReaders().count(port), 0)
        self.reactor.rearmExclusive(port)
        self.reactor.rearmExclusive(port)
        self.assertEqual(self.reactor.getReaders().count(port), 1)
        port.stopListening()
        self.until(lambda: not port.connected)
        self.assertNotIn(port, self.reactor.getReaders())

    def test_refused(self):
        """
        If the kernel refuses to add the port to the queue, it is as if the port had been removed,
        and it adds itself later.
        """

        class Balancer:
            def allowance(self):
                return 1

            should_yield = bool

        class Refusing:
            def register(self, *_):
                raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

            def __getattr__(self, name):
                return getattr(poller, name)

        factory = Factory.forProtocol(Recorder)
        factory.noisy = False
        port = self.reactor.listenTCP(0, factory, interface="127.0.0.1")
        port.balancer = Balancer()
        poller, self.reactor._poller = self.reactor._poller, Refusing()
        try:
            port.rearm()
        finally:
            self.reactor._poller = poller
        self.assertNotIn(port, self.reactor.getReaders())
        [again] = self.reactor.getDelayedCalls()
        resume = again.func
        again.cancel()
        resume()
        self.assertEqual(self.reactor.getReaders().count(port), 1)
        with socket.create_connection(port.socket.getsockname()):
            self.until(lambda: port.sessionno)
        for transport in self.reactor.getReaders():
            if isinstance(transport, EagerTransport):
                transport.connectionLost(Failure(ConnectionDone()))
        port.stopListening()
        self.until(lambda: not port.connected)
