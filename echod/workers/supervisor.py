"""
The worker processes: L{Supervisor} starts them, watches them, restarts those that die, and drains
all of them at the end.

Invariant: the master holds the sockets and serves no client.  If a worker dies, only its own
connections are lost, and clients in the accept queue keep waiting.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from signal import SIGTERM
from typing import Any, Protocol

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.internet.error import ProcessTerminated
from twisted.internet.interfaces import IReactorTime
from twisted.internet.process import reapAllProcesses
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from echod._util.signals import Signals
from echod._util.stdio import print_error
from echod._util.text import escape
from echod._util.timers import surviving
from echod.net.listener import ListenError
from echod.workers.channel import Message
from echod.workers.process import WorkerProcess, how_ended

log = Logger(namespace="echod.workers")

START_TIMEOUT = 60.0
"""
How long, in seconds, the start of the daemon waits until all workers are up; and how long one that
is restarted may take.
"""

HEARTBEAT_INTERVAL = 2.0
"""How often, in seconds, each worker is asked whether it is alive."""

MAX_MISSED_HEARTBEATS = 5
"""
A worker that is up and leaves so many heartbeats in a row without an answer is killed.  One that
is not up yet has the time of a start: on a busy machine its imports alone can take that long.
"""

STEADY_TIME = 10.0
"""
A worker that has been up for this many seconds is restarted without a delay when it dies.  The time
of its start does not count: a start can fail late.
"""

MIN_RESTART_DELAY = 0.25
MAX_RESTART_DELAY = 8.0
"""
Seconds before the restart of a worker that keeps dying.  The first restart has no delay, the second
has C{MIN_RESTART_DELAY}, and each further one twice the delay before, up to C{MAX_RESTART_DELAY}.
"""

KILL_TIMEOUT = 5.0
"""How many seconds after the drain timeout a worker that still runs is killed."""

SPIN_INTERVAL = 0.1
"""How long, in seconds, one iteration of the reactor in L{spin_until} waits at most."""

DRAINED = how_ended(ProcessTerminated(signal=SIGTERM))
"""How a worker ends after a SIGTERM and its drain: as twistd does, by that signal."""


class ISpawner(Protocol):
    """
    Starts the processes of workers.
    """

    def spawn(self, worker: WorkerProcess) -> None: ...
    def worker_exited(self, worker: WorkerProcess) -> None: ...


class Supervisor(Service):
    """
    Keeps the workers of one daemon running.

    @ivar live: the workers that run now.
    """

    _failure = ""

    def __init__(
        self,
        reactor: Any,
        names: Sequence[str],
        spawner: ISpawner,
        write_log: Callable[[bytes], bool],
        drain_timeout: float,
        signals: Signals,
    ):
        """
        @param names: one name for each worker.
        @param spawner: starts the processes.
        @param write_log: takes a line of a worker's log, if the workers log through the master,
            and returns whether it was written.
        @param drain_timeout: how long a drain may take.
        @param signals: a stop signal ends the start.
        """
        self._reactor = reactor
        self._names = names
        self._spawner = spawner
        self._write_log = write_log
        self._drain_timeout = drain_timeout
        self._signals = signals
        self.live = WorkerSet(reactor, names)
        self._delays = dict.fromkeys(names, 0.0)
        self._restarts: dict[str, Any] = {}
        self._all_ended: Deferred[None] | None = None
        self._heartbeats = LoopingCall(surviving("asking the workers", self.live.heartbeat))
        self._heartbeats.clock = reactor

    def startService(self) -> None:
        """
        Start the workers, and wait until all are up.

        @raise ListenError: if one of them cannot start.
        """
        super().startService()
        for name in self._names:
            self._start(name)
        self._wait_until_up()
        log.info("{count} workers up", event="workers-up", count=len(self._names))
        self._heartbeats.start(HEARTBEAT_INTERVAL, now=False)

    def _wait_until_up(self) -> None:
        def is_decided() -> bool:
            return bool(self._failure) or all(worker.up for worker in self.live)

        given_up = spin_until(self._reactor, is_decided, START_TIMEOUT, self._signals)
        # A stop signal can also end a worker; then the signal is the reason, not that worker.
        failure = (given_up and f"{given_up} before all workers were up") or self._failure
        if failure:
            super().stopService()
            for worker in self.live:
                worker.kill()
            spin_until(self._reactor, lambda: not len(self.live), KILL_TIMEOUT)
            log.error("{reason}", event="workers-failed", reason=failure)
            print_error(f"echod: {failure}")
            raise ListenError(failure)

    def _start(self, name: str) -> None:
        self._restarts.pop(name, None)
        worker = WorkerProcess(name, self._reactor, self, self._write_log)
        try:
            self._spawner.spawn(worker)
        except OSError as error:
            why = f"cannot start {escape(sys.executable)}: {error.strerror}"
            self._cannot_start(name, f"worker {name}: {why}")
        else:
            self.live.add(worker)

    def _cannot_start(self, name: str, failure: str) -> None:
        if self._heartbeats.running:
            log.error("{reason}", event="worker-failed", reason=failure, worker=name)
            self._restart_later(name, 0.0)
        else:
            self._failure = self._failure or failure

    def _restart_later(self, name: str, was_up: float) -> None:
        delay = 0.0 if was_up >= STEADY_TIME else self._delays[name]
        self._delays[name] = min(max(delay * 2, MIN_RESTART_DELAY), MAX_RESTART_DELAY)
        self._restarts[name] = self._reactor.callLater(delay, self._start, name)

    def worker_up(self, worker: WorkerProcess) -> None:
        """
        A worker listens with all its listeners.
        """
        log.info(
            "worker {worker} is up, process {pid}",
            event="worker-up",
            worker=worker.name,
            pid=worker.pid,
        )

    def worker_ended(self, worker: WorkerProcess, how: str) -> None:
        """
        A worker process has ended: restart it, unless the daemon stops or has not started yet.

        @param how: how the process ended, for the log.
        """
        self.live.remove(worker)
        self._spawner.worker_exited(worker)
        if not self.running:
            if not len(self.live) and self._all_ended is not None:
                self._all_ended.callback(None)
            return
        if not self._heartbeats.running:
            why = (worker.startup_error or how).removeprefix("echod: ")
            self._cannot_start(worker.name, f"worker {worker.name}: {why}")
            return
        if worker.up and how == DRAINED:
            log.info(
                "worker {worker}, process {pid}, ended after SIGTERM; a new process replaces it",
                event="worker-replaced",
                worker=worker.name,
                pid=worker.pid,
            )
        else:
            said = f" ({worker.startup_error})" if worker.startup_error else ""
            log.error(
                "worker {worker}, process {pid}, {how}; restarting it",
                event="worker-died",
                worker=worker.name,
                pid=worker.pid,
                how=how if worker.up else f"{how} before it was up{said}",
            )
        now = self._reactor.seconds()
        since = now if worker.up_since is None else worker.up_since
        self._restart_later(worker.name, now - since)

    def stopService(self) -> Deferred[None]:
        """
        Tell each worker to drain.

        @return: a Deferred that fires when all of them have ended.
        """
        super().stopService()
        for restart in self._restarts.values():
            restart.cancel()
        all_ended = self._all_ended = Deferred()
        deadline = self._reactor.callLater(self._drain_timeout + KILL_TIMEOUT, self._kill_late)

        def cancel_timers(_: None) -> None:
            # The heartbeats go on until now: their answers are the figures of the drain.
            if self._heartbeats.running:
                self._heartbeats.stop()
            if deadline.active():
                deadline.cancel()

        all_ended.addCallback(cancel_timers)
        for worker in self.live:
            worker.stop()
        if not len(self.live):
            all_ended.callback(None)
        return all_ended

    def _kill_late(self) -> None:
        for worker in self.live:
            log.error(
                "worker {worker} has not ended within {seconds:.0f} s; it is killed",
                event="worker-stuck",
                worker=worker.name,
                seconds=self._drain_timeout + KILL_TIMEOUT,
            )
            worker.kill()


class WorkerSet:
    """
    The worker processes that run now, by name, and the totals of those that have ended.
    """

    def __init__(self, clock: IReactorTime, names: Sequence[str]):
        self._clock = clock
        self._names = names
        self._workers: dict[str, WorkerProcess] = {}
        self._past = (0, 0, 0)

    def __iter__(self) -> Iterator[WorkerProcess]:
        return iter(self._workers.values())

    def __len__(self) -> int:
        return len(self._workers)

    def get(self, name: str) -> WorkerProcess | None:
        """
        The worker with this name, C{None} if it does not run.
        """
        return self._workers.get(name)

    def add(self, worker: WorkerProcess) -> None:
        """
        A worker has been started.
        """
        self._workers[worker.name] = worker

    def remove(self, worker: WorkerProcess) -> None:
        """
        A worker has ended.
        """
        del self._workers[worker.name]
        _, echoed, refused = worker.totals
        self._past = (0, self._past[1] + echoed, self._past[2] + refused)

    def send_all(self, **message: Any) -> None:
        """
        Send a message to each worker.
        """
        for worker in self:
            worker.send(**message)

    def ask_all(self, seconds: float, **question: Any) -> Deferred[dict[str, Message | None]]:
        """
        Send a message to each worker, and collect the answers.

        @param seconds: how long to wait for an answer.
        @return: the answers by name, C{None} for a worker that does not answer in time.
        """
        asked = [
            (name, self._workers[name].ask(**question).addTimeout(seconds, self._clock))
            for name in self._names
            if name in self._workers
        ]

        def collect(results: list[tuple[bool, Any]]) -> dict[str, Message | None]:
            answers: dict[str, Message | None] = dict.fromkeys(self._names)
            for (name, _), (answered, answer) in zip(asked, results, strict=True):
                if answered:
                    answers[name] = answer
            return answers

        waiting: Deferred[Any] = DeferredList([each for _, each in asked], consumeErrors=True)
        return waiting.addCallback(collect)

    def heartbeat(self) -> None:
        """
        Ask each worker whether it is alive, and kill each that has not answered for too long.
        """
        for worker in self:
            seconds = MAX_MISSED_HEARTBEATS * HEARTBEAT_INTERVAL if worker.up else START_TIMEOUT
            if worker.silent * HEARTBEAT_INTERVAL < seconds:
                worker.silent += 1
                worker.ask().addErrback(lambda failure: failure.trap(CancelledError))
            else:
                log.error(
                    "worker {worker} has not answered for {seconds:.0f} s; it is killed",
                    event="worker-stuck",
                    worker=worker.name,
                    seconds=worker.silent * HEARTBEAT_INTERVAL,
                )
                worker.kill()

    def totals(self) -> tuple[int, int, int]:
        """
        The live connections; and the bytes echoed and the connections refused since the start,
        including those of workers that have ended.  Each worker counts with its last answer.
        """
        totals = [worker.totals for worker in self]
        connections, echoed, refused = map(sum, zip(self._past, *totals, strict=True))
        return connections, echoed, refused


def spin_until(
    reactor: Any, done: Callable[[], bool], seconds: float, signals: Signals | None = None
) -> str:
    """
    Run the reactor, which has not started yet, until something is done.

    @param done: whether it is done.
    @param seconds: how long that may take.
    @param signals: if given, a stop signal ends the wait.
    @return: why the wait ended before it was done, as text; empty if it is done.
    """
    deadline = reactor.seconds() + seconds
    while True:
        if signals is not None and signals.stop_signal is not None:
            return f"{signals.stop_signal.name} arrived"
        if done() or reactor.seconds() > deadline:
            break
        reactor.iterate(SPIN_INTERVAL)
        # A running reactor does this when SIGCHLD arrives; this one does not run yet.
        reapAllProcesses()
    return "" if done() else f"{seconds:.0f} s passed"
