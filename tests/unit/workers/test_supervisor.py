"""
The workers: how they are started, watched, restarted and drained.
"""

import io
import os
import signal
import sys
from types import SimpleNamespace

from twisted.internet.defer import Deferred
from twisted.internet.testing import StringTransport
from twisted.logger import LogLevel, capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from echod.net.listener import ListenError
from echod.workers.channel import Channel
from echod.workers.supervisor import (
    HEARTBEAT_INTERVAL,
    KILL_TIMEOUT,
    MAX_MISSED_HEARTBEATS,
    MAX_RESTART_DELAY,
    MIN_RESTART_DELAY,
    START_TIMEOUT,
    STEADY_TIME,
    Supervisor,
)
from tests.support.fakeprocesses import FakeProcess, FarEnd, ProcessReactor


class WorkerSet:
    """
    The processes that were started, by the order in which they were.

    @ivar broken: why none can be started, if so.
    """

    broken = None

    def __init__(self, reactor):
        self.reactor = reactor
        self.workers = []
        self.buried = []

    def spawn(self, child):
        if self.broken is not None:
            raise self.broken
        child.channel = Channel(child.messageReceived, child.lost)
        child.channel.makeConnection(StringTransport())
        process = FakeProcess(1000 + len(self.workers), child, [], {}, {})
        process.far = FarEnd(child.channel)
        self.workers.append(process)

    def worker_exited(self, child):
        self.buried.append(child.name)


class WorkersTestCase(SynchronousTestCase):
    """
    Two workers, whose drain may take 3 seconds.
    """

    drain_seconds = 3.0

    def setUp(self):
        self.reactor = ProcessReactor()
        self.stderr = io.StringIO()
        self.patch(sys, "__stderr__", self.stderr)
        self.live = WorkerSet(self.reactor)
        self.log = []
        self.signals = SimpleNamespace(stop_signal=None)
        self.workers = Supervisor(
            *(self.reactor, ["0", "1"], self.live),
            *(self.log.append, self.drain_seconds, self.signals),
        )

    def up(self, *processes):
        for process in processes:
            process.far.send(up=True)

    def start(self):
        """
        Start both.
        """
        self.reactor.balancer = [lambda: self.up(*self.live.workers)]
        with capturedLogs() as events:
            self.workers.startService()
        return [formatEvent(event) for event in events]

    def refused(self):
        """
        Start, in vain.

        @return: the line for it.
        """
        with capturedLogs() as events:
            error = self.assertRaises(ListenError, self.workers.startService)
        self.assertIs(events[-1]["log_level"], LogLevel.error)
        self.assertEqual(formatEvent(events[-1]), str(error))
        self.assertEqual(self.stderr.getvalue(), f"echod: {error}\n")
        self.assertFalse(self.workers.running)
        return str(error)


class StartTests(WorkersTestCase):
    """
    From the start until all are up.
    """

    def test_up(self):
        """
        The start waits until both are up, and says so.
        """
        self.assertEqual(
            self.start(),
            [
                "worker 0 is up, process 1000",
                "worker 1 is up, process 1001",
                "2 workers up",
            ],
        )

    def test_one_after_the_other(self):
        """
        One that is up does not stand for both.
        """
        self.reactor.balancer = [
            lambda: self.up(self.live.workers[1]),
            lambda: None,
            lambda: self.up(self.live.workers[0]),
        ]
        self.workers.startService()
        self.assertEqual(self.reactor.balancer, [])

    def test_one_cannot_start(self):
        """
        When one ends before it is up, the others are killed, and the start fails with its line.
        """

        def end():
            one, other = self.live.workers
            other.protocol.childDataReceived(2, b"warning\nechod: --port 7: no\n")
            other.end(status=1)
            self.reactor.balancer.append(lambda: one.end(signal=9))

        self.reactor.balancer = [end]
        self.assertEqual(self.refused(), "worker 1: --port 7: no")
        self.assertEqual(self.live.workers[0].signals, ["KILL"])
        self.assertEqual(self.reactor.balancer, [])

    def test_all_cannot_start(self):
        """
        When all end, the first one's line is told, or how it ended if it has none.
        """
        self.reactor.balancer = [lambda: [each.end(signal=11) for each in self.live.workers]]
        self.assertEqual(self.refused(), "worker 0: was ended by SIGSEGV")

    def test_no_process(self):
        """
        When the system starts no process, the line says why.
        """
        self.live.broken = OSError(13, os.strerror(13))
        why = f"cannot start {sys.executable}: Permission denied"
        self.assertEqual(self.refused(), f"worker 0: {why}")

    def test_late(self):
        """
        The start does not wait for ever.
        """
        # Not even for those who cannot be killed.
        self.assertEqual(self.refused(), "60 s are over before all workers were up")
        waited = START_TIMEOUT + KILL_TIMEOUT
        self.assertTrue(waited < self.reactor.seconds() < waited + 1)

    def test_signal(self):
        """
        TERM while they start ends it, also when it has ended some of them, and waits until
        all have gone.
        """

        def came():
            self.signals.stop_signal = signal.SIGTERM
            self.live.workers[0].end(signal=15)

        self.reactor.balancer = [came, lambda: self.live.workers[1].end(signal=9)]
        self.assertEqual(self.refused(), "SIGTERM came before all workers were up")
        self.assertEqual([each.signals for each in self.live.workers], [[], ["KILL"]])
        self.assertEqual(self.reactor.balancer, [])

    def test_signal_before(self):
        """
        So does one that came before they were started.
        """
        self.signals.stop_signal = signal.SIGINT
        self.reactor.balancer = [lambda: [each.end(signal=9) for each in self.live.workers]]
        self.assertEqual(self.refused(), "SIGINT came before all workers were up")


class RestartTests(WorkersTestCase):
    """
    A worker that dies.
    """

    def setUp(self):
        super().setUp()
        self.start()
        # From now on there is no hand that turns.
        self.reactor.balancer = None

    def die(self, process, *after, **end):
        """
        @return: after how many seconds another is started in its place.
        """
        started = len(self.live.workers)
        now = self.reactor.seconds()
        process.end(**end)
        self.reactor.advance(0)
        while len(self.live.workers) == started:
            self.reactor.advance(0.125)
        return round(self.reactor.seconds() - now, 3)

    def test_at_once(self):
        """
        One that is killed is logged as an error, and another is started at once.
        """
        with capturedLogs() as events:
            self.assertEqual(self.die(self.live.workers[1], signal=9), 0)
            self.up(self.live.workers[2])
        self.assertEqual(
            [formatEvent(event) for event in events],
            [
                "worker 1, process 1001, was ended by SIGKILL; it is started again",
                "worker 1 is up, process 1002",
            ],
        )
        self.assertIs(events[0]["log_level"], LogLevel.error)
        self.assertEqual((events[0]["event"], events[0]["worker"]), ("worker-died", "1"))
        self.assertEqual(self.live.buried, ["1"])

    def test_replaced(self):
        """
        One that ends by TERM has drained, as it was told: no error, and another is started.
        """
        with capturedLogs() as events:
            self.assertEqual(self.die(self.live.workers[0], signal=15), 0)
        (event,) = events
        self.assertEqual(
            formatEvent(event),
            "worker 0, process 1000, was told to end, and has; another takes its place",
        )
        self.assertIs(event["log_level"], LogLevel.info)
        self.assertEqual(self.live.buried, ["0"])

    def test_pauses(self):
        """
        One that keeps dying is waited for longer each time; the other is not concerned.
        """
        pauses = [self.die(self.live.workers[0], signal=9)]
        pauses += [self.die(self.live.workers[-1], status=1) for _ in range(8)]
        first, most = MIN_RESTART_DELAY, MAX_RESTART_DELAY
        doubled = [first * 2**power for power in range(6)]
        self.assertEqual(pauses, [0, *doubled, most, most])
        self.assertEqual(self.die(self.live.workers[1], signal=9), 0)

    def test_steady(self):
        """
        One that has lived for a while is started at once again.
        """
        self.die(self.live.workers[0], signal=9)
        self.die(self.live.workers[-1], signal=9)
        for _ in range(2):
            self.answer_for(STEADY_TIME)
            self.assertEqual(self.die(self.live.workers[-1], signal=9), 0)
        self.assertEqual(self.die(self.live.workers[-1], signal=9), MIN_RESTART_DELAY)

    def answer_for(self, seconds):
        """
        Let time pass, with workers that answer.
        """
        end = self.reactor.seconds() + seconds
        while self.reactor.seconds() < end:
            self.reactor.advance(0.5)
            for process in self.live.workers:
                if process.pid:
                    process.far.send()

    def test_without_a_word(self):
        """
        One that dies before it is up and has said nothing is logged without a reason.
        """
        self.die(self.live.workers[0], signal=9)
        with capturedLogs() as events:
            self.die(self.live.workers[2], signal=1)
        self.assertEqual(
            formatEvent(events[0]),
            "worker 0, process 1002, was ended by SIGHUP before it was up; it is started again",
        )

    def test_why(self):
        """
        One that dies before it is up is logged with what it said.
        """
        self.die(self.live.workers[0], signal=9)
        self.live.workers[2].protocol.childDataReceived(2, b"echod: no such file\n")
        with capturedLogs() as events:
            self.die(self.live.workers[2], status=1)
        self.assertEqual(
            formatEvent(events[0]),
            "worker 0, process 1002, ended with status 1 before it was up "
            "(echod: no such file); it is started again",
        )

    def test_no_process(self):
        """
        While the system starts no process, it is tried again and again.
        """
        self.live.broken = OSError(11, os.strerror(11))
        self.live.workers[0].end(signal=9)
        with capturedLogs() as events:
            self.reactor.pump([0, 0.25, 0.5])
        lines = [formatEvent(event) for event in events]
        why = os.strerror(11)
        self.assertEqual(lines, [f"worker 0: cannot start {sys.executable}: {why}"] * 3)
        self.live.broken = None
        self.reactor.advance(1)
        self.assertEqual(len(self.live.workers), 3)


class AskTests(WorkersTestCase):
    """
    Questions, and who does not answer.
    """

    def setUp(self):
        super().setUp()
        self.start()
        self.one, self.other = self.live.workers

    def test_stuck(self):
        """
        One that says nothing for ten seconds is killed; one that answers is not.
        """
        with capturedLogs() as events:
            for _ in range(MAX_MISSED_HEARTBEATS):
                self.reactor.advance(HEARTBEAT_INTERVAL)
                (question,) = self.one.far.messageReceived()
                self.one.far.send(answer=question["ask"])
            self.assertEqual(self.other.signals, [])
            self.reactor.advance(HEARTBEAT_INTERVAL)
        self.assertEqual((self.one.signals, self.other.signals), ([], ["KILL"]))
        self.assertEqual(
            [formatEvent(event) for event in events],
            ["worker 1 has not answered for 10 s; it is killed"],
        )

    def test_gone(self):
        """
        One whose lifeline is lost is asked in vain, and nothing is made of it.
        """
        self.other.far.near.connectionLost()
        self.reactor.advance(HEARTBEAT_INTERVAL)
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_no_longer(self):
        """
        A bug while asking is logged.
        """
        self.patch(self.one.protocol, "ask", lambda: 1 / 0)
        self.reactor.advance(HEARTBEAT_INTERVAL)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_ask_all(self):
        """
        The answers of all come together; one that is late has none.
        """
        asked = self.workers.live.ask_all(1.0, snapshot=True)
        self.other.far.send(answer=1, snapshot="x")
        self.assertNoResult(asked)
        self.reactor.advance(1)
        self.assertEqual(
            self.successResultOf(asked), {"0": None, "1": {"answer": 1, "snapshot": "x"}}
        )

    def test_ask_all_at_once(self):
        """
        When all have answered, nobody is waited for.
        """
        asked = self.workers.live.ask_all(1.0)
        for process in self.live.workers:
            process.far.send(answer=1)
        self.assertEqual(list(self.successResultOf(asked)), ["0", "1"])

    def test_ask_who_is_not_there(self):
        """
        One that has just died has no answer.
        """
        self.one.end(signal=9)
        asked = self.workers.live.ask_all(1.0)
        self.other.far.send(answer=1)
        self.assertEqual(self.successResultOf(asked), {"0": None, "1": {"answer": 1}})

    def test_often(self):
        """
        However often it is asked for answers in vain, one that answers every other time is
        not killed.
        """
        for _ in range(3 * MAX_MISSED_HEARTBEATS):
            for _ in range(10):
                self.workers.live.ask_all(1.0)
            self.reactor.advance(HEARTBEAT_INTERVAL)
            for process in self.live.workers:
                process.far.send(answer=0)
        self.assertEqual(self.other.signals, [])

    def test_orders(self):
        """
        A reload and an abort go to all.
        """
        reloading = self.workers.live.ask_all(10.0, do="reload")
        self.workers.live.send_all(do="abort")
        for process in self.live.workers:
            self.assertNoResult(reloading)
            order, abort = process.far.messageReceived()
            self.assertEqual(order, {"do": "reload", "ask": order["ask"]})
            self.assertEqual(abort, {"do": "abort"})
            process.far.send(answer=order["ask"])
        self.successResultOf(reloading)

    def test_log(self):
        """
        What they log comes out line by line.
        """
        self.one.protocol.childDataReceived(1, b"one\nhal")
        self.other.protocol.childDataReceived(1, b"two\n")
        self.one.protocol.childDataReceived(1, b"f\n")
        self.assertEqual(self.log, [b"one\n", b"two\n", b"half\n"])


class StopTests(WorkersTestCase):
    """
    The end of all.
    """

    def setUp(self):
        super().setUp()
        self.start()

    def stop(self):
        stopping = self.workers.stopService()
        self.assertIsInstance(stopping, Deferred)
        return stopping

    def test_drain(self):
        """
        Each is told to stop, and the stop waits until all have gone; nobody is restarted.
        """
        stopping = self.stop()
        one, other = self.live.workers
        for process in (one, other):
            self.assertEqual(process.far.messageReceived(), [{"do": "stop"}])
            self.assertNoResult(stopping)
            with capturedLogs() as events:
                process.end()
            self.assertEqual(list(events), [])
        self.assertIsNone(self.successResultOf(stopping))
        self.assertEqual(self.reactor.getDelayedCalls(), [])
        self.assertEqual((one.signals, len(self.live.workers)), ([], 2))

    def test_figures(self):
        """
        They are asked what they have still to do, until the last has gone.
        """
        stopping = self.stop()
        one, other = self.live.workers
        other.end()
        self.reactor.advance(HEARTBEAT_INTERVAL)
        stop, question = one.far.messageReceived()
        self.assertEqual(stop, {"do": "stop"})
        one.far.send(answer=question["ask"], totals=[3, 40, 1])
        self.assertEqual(self.workers.live.totals(), (3, 40, 1))
        one.end()
        self.successResultOf(stopping)
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_late(self):
        """
        One that takes longer than the drain may, and some grace, is killed.
        """
        stopping = self.stop()
        one, other = self.live.workers
        one.end()
        self.reactor.advance(self.drain_seconds + KILL_TIMEOUT - 0.1)
        self.assertEqual(other.signals, [])
        with capturedLogs() as events:
            self.reactor.advance(0.1)
        self.assertEqual((one.signals, other.signals), ([], ["KILL"]))
        (event,) = events
        self.assertEqual(formatEvent(event), "worker 1 has not ended within 8 s; it is killed")
        other.end(signal=9)
        self.successResultOf(stopping)

    def test_while_one_is_missing(self):
        """
        One that was to be started again is not.
        """
        for _ in range(2):
            self.live.workers[-1].end(signal=9)
            self.reactor.advance(0)
        self.assertEqual(len(self.live.workers), 3)
        stopping = self.stop()
        self.live.workers[0].end()
        self.successResultOf(stopping)
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_nobody(self):
        """
        Without workers it ends at once; so it does if it has never begun.
        """
        for process in self.live.workers:
            process.end(signal=9)
        self.successResultOf(self.stop())
        self.assertEqual(self.reactor.getDelayedCalls(), [])
        workers = Supervisor(self.reactor, ["0"], self.live, self.log.append, 1.0, self.signals)
        self.successResultOf(workers.stopService())
