"""
Tests for L{echod.workers.supervisor}: how workers are started, watched, restarted and drained.
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


class FakeSpawner:
    """
    Remembers the processes that it has started, in their order.

    @ivar broken: the error that L{spawn} raises, C{None} for no error.
    @ivar exited: the names of the workers that have ended.
    """

    broken = None

    def __init__(self):
        self.workers = []
        self.exited = []

    def spawn(self, worker):
        if self.broken is not None:
            raise self.broken
        worker.channel = Channel(worker.message_received, worker.channel_closed)
        worker.channel.makeConnection(StringTransport())
        process = FakeProcess(1000 + len(self.workers), worker, [], {}, {})
        process.far = FarEnd(worker.channel)
        self.workers.append(process)

    def worker_exited(self, worker):
        self.exited.append(worker.name)


class SupervisorTestCase(SynchronousTestCase):
    """
    A supervisor of two workers, with a drain timeout of 3 seconds.
    """

    drain_timeout = 3.0

    def setUp(self):
        self.reactor = ProcessReactor()
        self.stderr = io.StringIO()
        self.patch(sys, "__stderr__", self.stderr)
        self.spawner = FakeSpawner()
        self.log = []
        self.signals = SimpleNamespace(stop_signal=None)
        self.supervisor = Supervisor(
            *(self.reactor, ["0", "1"], self.spawner),
            *(self.log.append, self.drain_timeout, self.signals),
        )

    def up(self, *processes):
        for process in processes:
            process.far.send(up=True)

    def start(self):
        """
        Start both workers.

        @return: the lines of the log.
        """
        self.reactor.balancer = [lambda: self.up(*self.spawner.workers)]
        with capturedLogs() as events:
            self.supervisor.startService()
        return [formatEvent(event) for event in events]

    def refused(self):
        """
        Start workers of which one cannot start.

        @return: the line that ends the start.
        """
        with capturedLogs() as events:
            error = self.assertRaises(ListenError, self.supervisor.startService)
        self.assertIs(events[-1]["log_level"], LogLevel.error)
        self.assertEqual(formatEvent(events[-1]), str(error))
        self.assertEqual(self.stderr.getvalue(), f"echod: {error}\n")
        self.assertFalse(self.supervisor.running)
        return str(error)


class StartTests(SupervisorTestCase):
    """
    From the start until all workers are up.
    """

    def test_up(self):
        """
        The start waits until both workers are up, and logs that.
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
        The start waits for the second worker, too.
        """
        self.reactor.balancer = [
            lambda: self.up(self.spawner.workers[1]),
            lambda: None,
            lambda: self.up(self.spawner.workers[0]),
        ]
        self.supervisor.startService()
        self.assertEqual(self.reactor.balancer, [])

    def test_one_cannot_start(self):
        """
        If a worker ends before it is up, the others are killed, and the start fails with its line.
        """

        def end():
            one, other = self.spawner.workers
            other.protocol.childDataReceived(2, b"warning\nechod: --port 7: no\n")
            other.end(status=1)
            self.reactor.balancer.append(lambda: one.end(signal=9))

        self.reactor.balancer = [end]
        self.assertEqual(self.refused(), "worker 1: --port 7: no")
        self.assertEqual(self.spawner.workers[0].signals, ["KILL"])
        self.assertEqual(self.reactor.balancer, [])

    def test_all_cannot_start(self):
        """
        If all workers end, the line is that of the first; without a line, it says how it ended.
        """
        self.reactor.balancer = [lambda: [each.end(signal=11) for each in self.spawner.workers]]
        self.assertEqual(self.refused(), "worker 0: was ended by SIGSEGV")

    def test_no_process(self):
        """
        If no process can be started, the line says why.
        """
        self.spawner.broken = OSError(13, os.strerror(13))
        why = f"cannot start {sys.executable}: Permission denied"
        self.assertEqual(self.refused(), f"worker 0: {why}")

    def test_late(self):
        """
        The start fails if the workers are not up in time.
        """
        # These workers cannot be killed either.
        self.assertEqual(self.refused(), "60 s passed before all workers were up")
        waited = START_TIMEOUT + KILL_TIMEOUT
        self.assertTrue(waited < self.reactor.seconds() < waited + 1)

    def test_signal(self):
        """
        TERM ends the start, even if it has already ended a worker; the start waits until all have
        ended.
        """

        def came():
            self.signals.stop_signal = signal.SIGTERM
            self.spawner.workers[0].end(signal=15)

        self.reactor.balancer = [came, lambda: self.spawner.workers[1].end(signal=9)]
        self.assertEqual(self.refused(), "SIGTERM arrived before all workers were up")
        self.assertEqual([each.signals for each in self.spawner.workers], [[], ["KILL"]])
        self.assertEqual(self.reactor.balancer, [])

    def test_signal_before(self):
        """
        A signal that arrives before the workers are started ends the start, too.
        """
        self.signals.stop_signal = signal.SIGINT
        self.reactor.balancer = [lambda: [each.end(signal=9) for each in self.spawner.workers]]
        self.assertEqual(self.refused(), "SIGINT arrived before all workers were up")


class RestartTests(SupervisorTestCase):
    """
    A worker that dies is restarted.
    """

    def setUp(self):
        super().setUp()
        self.start()
        # From now on the reactor is not iterated by spin_until.
        self.reactor.balancer = None

    def die(self, process, *after, **end):
        """
        End a process.

        @return: after how many seconds another process is started in its place.
        """
        started = len(self.spawner.workers)
        now = self.reactor.seconds()
        process.end(**end)
        self.reactor.advance(0)
        while len(self.spawner.workers) == started:
            self.reactor.advance(0.125)
        return round(self.reactor.seconds() - now, 3)

    def test_at_once(self):
        """
        A worker that is killed is logged as an error, and restarted at once.
        """
        with capturedLogs() as events:
            self.assertEqual(self.die(self.spawner.workers[1], signal=9), 0)
            self.up(self.spawner.workers[2])
        self.assertEqual(
            [formatEvent(event) for event in events],
            [
                "worker 1, process 1001, was ended by SIGKILL; restarting it",
                "worker 1 is up, process 1002",
            ],
        )
        self.assertIs(events[0]["log_level"], LogLevel.error)
        self.assertEqual((events[0]["event"], events[0]["worker"]), ("worker-died", "1"))
        self.assertEqual(self.spawner.exited, ["1"])

    def test_replaced(self):
        """
        A worker that ends by TERM has drained: that is no error, and it is restarted.
        """
        with capturedLogs() as events:
            self.assertEqual(self.die(self.spawner.workers[0], signal=15), 0)
        (event,) = events
        self.assertEqual(
            formatEvent(event),
            "worker 0, process 1000, ended after SIGTERM; a new process replaces it",
        )
        self.assertIs(event["log_level"], LogLevel.info)
        self.assertEqual(self.spawner.exited, ["0"])

    def test_pauses(self):
        """
        The restart delay of a worker that keeps dying doubles; that of the other worker does not.
        """
        pauses = [self.die(self.spawner.workers[0], signal=9)]
        pauses += [self.die(self.spawner.workers[-1], status=1) for _ in range(8)]
        first, most = MIN_RESTART_DELAY, MAX_RESTART_DELAY
        doubled = [first * 2**power for power in range(6)]
        self.assertEqual(pauses, [0, *doubled, most, most])
        self.assertEqual(self.die(self.spawner.workers[1], signal=9), 0)

    def test_long_start(self):
        """
        The time of a start does not count: if a worker ends late in it, or soon after it, its
        restart delay doubles.
        """
        self.die(self.spawner.workers[0], signal=9)
        for delay in (MIN_RESTART_DELAY, 2 * MIN_RESTART_DELAY):
            self.let_time_pass(STEADY_TIME)
            self.assertEqual(self.die(self.spawner.workers[-1], status=3), delay)
        self.let_time_pass(STEADY_TIME)
        self.up(self.spawner.workers[-1])
        self.let_time_pass(STEADY_TIME - 1)
        self.assertEqual(self.die(self.spawner.workers[-1], signal=9), 4 * MIN_RESTART_DELAY)

    def test_steady(self):
        """
        A worker that has been up for some time is restarted at once.
        """
        self.die(self.spawner.workers[0], signal=9)
        self.die(self.spawner.workers[-1], signal=9)
        for _ in range(2):
            self.up(self.spawner.workers[-1])
            self.let_time_pass(STEADY_TIME)
            self.assertEqual(self.die(self.spawner.workers[-1], signal=9), 0)
        self.assertEqual(self.die(self.spawner.workers[-1], signal=9), MIN_RESTART_DELAY)

    def let_time_pass(self, seconds):
        """
        Let time pass while the workers answer.
        """
        end = self.reactor.seconds() + seconds
        while self.reactor.seconds() < end:
            self.reactor.advance(0.5)
            for process in self.spawner.workers:
                if process.pid:
                    process.far.send()

    def test_totals(self):
        """
        The bytes and refusals of all workers that have died are kept; their connections are not.
        """
        for totals in ([5, 100, 2], [7, 1000, 30]):
            process = self.spawner.workers[-1]
            process.far.send(answer=0, totals=totals)
            self.die(process, signal=9)
        self.spawner.workers[-1].far.send(answer=0, totals=[1, 20000, 400])
        self.assertEqual(self.supervisor.live.totals(), (1, 21100, 432))

    def test_without_a_word(self):
        """
        A worker that dies before it is up, without a line of its own, is logged without a reason.
        """
        self.die(self.spawner.workers[0], signal=9)
        with capturedLogs() as events:
            self.die(self.spawner.workers[2], signal=1)
        self.assertEqual(
            formatEvent(events[0]),
            "worker 0, process 1002, was ended by SIGHUP before it was up; restarting it",
        )

    def test_why(self):
        """
        A worker that dies before it is up is logged with its last line.
        """
        self.die(self.spawner.workers[0], signal=9)
        self.spawner.workers[2].protocol.childDataReceived(2, b"echod: no such file\n")
        with capturedLogs() as events:
            self.die(self.spawner.workers[2], status=1)
        self.assertEqual(
            formatEvent(events[0]),
            "worker 0, process 1002, ended with status 1 before it was up "
            "(echod: no such file); restarting it",
        )

    def test_no_process(self):
        """
        If no process can be started, the supervisor tries again and again.
        """
        self.spawner.broken = OSError(11, os.strerror(11))
        self.spawner.workers[0].end(signal=9)
        with capturedLogs() as events:
            self.reactor.pump([0, 0.25, 0.5])
        lines = [formatEvent(event) for event in events]
        why = os.strerror(11)
        self.assertEqual(lines, [f"worker 0: cannot start {sys.executable}: {why}"] * 3)
        self.spawner.broken = None
        self.reactor.advance(1)
        self.assertEqual(len(self.spawner.workers), 3)


class AskTests(SupervisorTestCase):
    """
    Messages to the workers, and their answers.
    """

    def setUp(self):
        super().setUp()
        self.start()
        self.one, self.other = self.spawner.workers

    def test_stuck(self):
        """
        A worker that does not answer for ten seconds is killed; one that answers is not.
        """
        with capturedLogs() as events:
            for _ in range(MAX_MISSED_HEARTBEATS):
                self.reactor.advance(HEARTBEAT_INTERVAL)
                (question,) = self.one.far.received()
                self.one.far.send(answer=question["ask"])
            self.assertEqual(self.other.signals, [])
            self.reactor.advance(HEARTBEAT_INTERVAL)
        self.assertEqual((self.one.signals, self.other.signals), ([], ["KILL"]))
        self.assertEqual(
            [formatEvent(event) for event in events],
            ["worker 1 has not answered for 10 s; it is killed"],
        )

    def test_slow_start(self):
        """
        A worker that is not up yet is killed after the time of a start.
        """
        self.one.end()
        self.reactor.advance(0)
        restarted = self.spawner.workers[-1]
        self.assertIsNot(restarted, self.other)
        while self.reactor.seconds() < START_TIMEOUT:
            self.assertEqual(restarted.signals, [])
            self.reactor.advance(HEARTBEAT_INTERVAL)
            self.other.far.send(answer=0)
        with capturedLogs() as events:
            self.reactor.advance(HEARTBEAT_INTERVAL)
        self.assertEqual((restarted.signals, self.other.signals), (["KILL"], []))
        self.assertEqual(
            [formatEvent(event) for event in events],
            ["worker 0 has not answered for 60 s; it is killed"],
        )

    def test_gone(self):
        """
        A heartbeat to a worker whose channel is closed is no error.
        """
        self.other.far.near.connectionLost()
        self.reactor.advance(HEARTBEAT_INTERVAL)
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_bug_in_heartbeat(self):
        """
        A bug in a heartbeat is logged.
        """
        self.patch(self.one.protocol, "ask", lambda: 1 / 0)
        self.reactor.advance(HEARTBEAT_INTERVAL)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_ask_all(self):
        """
        The answers of all workers are collected; a late worker has none.
        """
        asked = self.supervisor.live.ask_all(1.0, snapshot=True)
        self.other.far.send(answer=1, snapshot="x")
        self.assertNoResult(asked)
        self.reactor.advance(1)
        self.assertEqual(
            self.successResultOf(asked), {"0": None, "1": {"answer": 1, "snapshot": "x"}}
        )

    def test_ask_all_at_once(self):
        """
        When all workers have answered, the wait is over.
        """
        asked = self.supervisor.live.ask_all(1.0)
        for process in self.spawner.workers:
            process.far.send(answer=1)
        self.assertEqual(list(self.successResultOf(asked)), ["0", "1"])

    def test_ask_all_without_one(self):
        """
        A worker that has just died has no answer.
        """
        self.one.end(signal=9)
        asked = self.supervisor.live.ask_all(1.0)
        self.other.far.send(answer=1)
        self.assertEqual(self.successResultOf(asked), {"0": None, "1": {"answer": 1}})

    def test_often(self):
        """
        Only missed heartbeats count: unanswered messages do not kill a worker that answers
        heartbeats.
        """
        for _ in range(3 * MAX_MISSED_HEARTBEATS):
            for _ in range(10):
                self.supervisor.live.ask_all(1.0)
            self.reactor.advance(HEARTBEAT_INTERVAL)
            for process in self.spawner.workers:
                process.far.send(answer=0)
        self.assertEqual(self.other.signals, [])

    def test_orders(self):
        """
        A reload and an abort go to all workers.
        """
        reloading = self.supervisor.live.ask_all(10.0, do="reload")
        self.supervisor.live.send_all(do="abort")
        for process in self.spawner.workers:
            self.assertNoResult(reloading)
            order, abort = process.far.received()
            self.assertEqual(order, {"do": "reload", "ask": order["ask"]})
            self.assertEqual(abort, {"do": "abort"})
            process.far.send(answer=order["ask"])
        self.successResultOf(reloading)

    def test_log(self):
        """
        The output of the workers is written line by line.
        """
        self.one.protocol.childDataReceived(1, b"one\nhal")
        self.other.protocol.childDataReceived(1, b"two\n")
        self.one.protocol.childDataReceived(1, b"f\n")
        self.assertEqual(self.log, [b"one\n", b"two\n", b"half\n"])


class StopTests(SupervisorTestCase):
    """
    The stop.
    """

    def setUp(self):
        super().setUp()
        self.start()

    def stop(self):
        stopping = self.supervisor.stopService()
        self.assertIsInstance(stopping, Deferred)
        return stopping

    def test_drain(self):
        """
        Each worker is told to stop; the stop waits until all have ended; none is restarted.
        """
        stopping = self.stop()
        one, other = self.spawner.workers
        for process in (one, other):
            self.assertEqual(process.far.received(), [{"do": "stop"}])
            self.assertNoResult(stopping)
            with capturedLogs() as events:
                process.end()
            self.assertEqual(list(events), [])
        self.assertIsNone(self.successResultOf(stopping))
        self.assertEqual(self.reactor.getDelayedCalls(), [])
        self.assertEqual((one.signals, len(self.spawner.workers)), ([], 2))

    def test_heartbeats_go_on(self):
        """
        Heartbeats go on until the last worker has ended, so the totals stay current.
        """
        stopping = self.stop()
        one, other = self.spawner.workers
        other.end()
        self.reactor.advance(HEARTBEAT_INTERVAL)
        stop, question = one.far.received()
        self.assertEqual(stop, {"do": "stop"})
        one.far.send(answer=question["ask"], totals=[3, 40, 1])
        self.assertEqual(self.supervisor.live.totals(), (3, 40, 1))
        one.end()
        self.successResultOf(stopping)
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_late(self):
        """
        A worker that runs longer than the drain timeout and the kill timeout is killed.
        """
        stopping = self.stop()
        one, other = self.spawner.workers
        one.end()
        self.reactor.advance(self.drain_timeout + KILL_TIMEOUT - 0.1)
        self.assertEqual(other.signals, [])
        with capturedLogs() as events:
            self.reactor.advance(0.1)
        self.assertEqual((one.signals, other.signals), ([], ["KILL"]))
        (event,) = events
        self.assertEqual(formatEvent(event), "worker 1 has not ended within 8 s; it is killed")
        other.end(signal=9)
        self.successResultOf(stopping)

    def test_cancels_restarts(self):
        """
        A stop cancels restarts.
        """
        for _ in range(2):
            self.spawner.workers[-1].end(signal=9)
            self.reactor.advance(0)
        self.assertEqual(len(self.spawner.workers), 3)
        stopping = self.stop()
        self.spawner.workers[0].end()
        self.successResultOf(stopping)
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_after_a_restart(self):
        """
        A stop waits for a worker that has been restarted, too: its restart is over, and there is
        nothing to cancel.
        """
        self.spawner.workers[0].end(signal=9)
        self.reactor.advance(0)
        self.assertEqual(len(self.spawner.workers), 3)
        stopping = self.stop()
        for process, signals in zip(self.spawner.workers[1:], ([], ["TERM"]), strict=True):
            self.assertEqual(process.far.received(), [{"do": "stop"}])
            # The new one is not up yet, and may not read the message.
            self.assertEqual(process.signals, signals)
            self.assertNoResult(stopping)
            process.end()
        self.assertIsNone(self.successResultOf(stopping))

    def test_no_workers(self):
        """
        Without workers, and before a start, the stop ends at once.
        """
        for process in self.spawner.workers:
            process.end(signal=9)
        self.successResultOf(self.stop())
        self.assertEqual(self.reactor.getDelayedCalls(), [])
        other = Supervisor(self.reactor, ["0"], self.spawner, self.log.append, 1.0, self.signals)
        self.successResultOf(other.stopService())
