"""
The worker processes: started, watched, restarted when they die, and drained at the end.

Invariant: the master holds the sockets and serves nobody.  If a worker dies, only its own
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
from echod._util.text import escape
from echod._util.timers import surviving
from echod.net.listener import ListenError
from echod.workers.channel import Message
from echod.workers.process import WorkerProcess, how_ended

log = Logger(namespace="echod.workers")

SPIN_SECONDS = 0.1
"""The longest turn of the loop."""


def spin_until(
    reactor: Any, done: Callable[[], bool], seconds: float, signals: Signals | None = None
) -> str:
    """
    Turn the loop until something is done.

    @param seconds: how long that may take.
    @param signals: what knows whether this process is to stop, which ends the wait.
    @return: why it was in vain, in words; nothing when it is done.
    """
    deadline = reactor.seconds() + seconds
    while True:
        if signals is not None and signals.stop_signal is not None:
            return f"{signals.stop_signal.name} came"
        if done() or reactor.seconds() > deadline:
            break
        reactor.iterate(SPIN_SECONDS)
        # Once the reactor runs, it hears of the ends of its children itself.
        reapAllProcesses()
    return "" if done() else f"{seconds:.0f} s are over"


HEARTBEAT_INTERVAL = 2.0
"""How often each worker is asked whether it is alive."""

MAX_MISSED_HEARTBEATS = 5
"""It is stuck when it has said nothing since so many questions."""


class WorkerSet:
    """
    The workers of one daemon that live, one for a name.
    """

    def __init__(self, clock: IReactorTime, names: Sequence[str]):
        self._clock = clock
        self._names = names
        self._children: dict[str, WorkerProcess] = {}
        self._past = (0, 0, 0)

    def __iter__(self) -> Iterator[WorkerProcess]:
        return iter(self._children.values())

    def __len__(self) -> int:
        return len(self._children)

    def get(self, name: str) -> WorkerProcess | None:
        """
        The one of that name, if it lives.
        """
        return self._children.get(name)

    def add(self, child: WorkerProcess) -> None:
        """
        One more has been started.
        """
        self._children[child.name] = child

    def remove(self, child: WorkerProcess) -> None:
        """
        One has ended.
        """
        del self._children[child.name]
        _, echoed, refused = child.totals
        self._past = (0, self._past[1] + echoed, self._past[2] + refused)

    def send_all(self, **message: Any) -> None:
        """
        Tell each what to do.
        """
        for child in self:
            child.send(**message)

    def ask_all(self, seconds: float, **question: Any) -> Deferred[dict[str, Message | None]]:
        """
        Ask each something.

        @param seconds: how long they have.
        @return: their answers by name, C{None} for one that gives none in time.
        """
        asked = [
            (name, self._children[name].ask(**question).addTimeout(seconds, self._clock))
            for name in self._names
            if name in self._children
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
        Ask each whether it is alive, and kill who has been asked too often.
        """
        for child in self:
            if child.silent < MAX_MISSED_HEARTBEATS:
                child.silent += 1
                child.ask().addErrback(lambda failure: failure.trap(CancelledError))
            else:
                log.error(
                    "worker {worker} has not answered for {seconds:.0f} s; it is killed",
                    event="worker-stuck",
                    worker=child.name,
                    seconds=child.silent * HEARTBEAT_INTERVAL,
                )
                child.kill()

    def totals(self) -> tuple[int, int, int]:
        """
        How many connections they have, and how many bytes they and those before them have
        echoed and clients refused, as they have said last.
        """
        totals = [child.totals for child in self]
        connections, echoed, refused = map(sum, zip(self._past, *totals, strict=True))
        return connections, echoed, refused


START_TIMEOUT = 60.0
"""How long the workers may take until all are up, at the start."""

STEADY_TIME = 10.0
"""A worker that has lived for so long is restarted at once when it dies."""

MIN_RESTART_DELAY = 0.25
MAX_RESTART_DELAY = 8.0
"""
The pauses before a worker is restarted that keeps dying: none the first time, then this,
doubled each time up to the other.
"""

DRAINED = how_ended(ProcessTerminated(signal=SIGTERM))
"""How one ends that has drained, by the signal that told it to, as twistd has it."""

KILL_TIMEOUT = 5.0
"""How long a worker may take to end after its drain's time is over, or it is killed."""


class ISpawner(Protocol):
    """
    Who knows how a worker is started.
    """

    def spawn(self, child: WorkerProcess) -> None: ...
    def worker_exited(self, child: WorkerProcess) -> None: ...


class Supervisor(Service):
    """
    The workers of one daemon.

    @ivar live: those that live.
    """

    _failure = ""

    def __init__(
        self,
        reactor: Any,
        names: Sequence[str],
        spawner: ISpawner,
        write_log: Callable[[bytes], bool],
        drain_seconds: float,
        signals: Signals,
    ):
        """
        @param spawner: starts the processes.
        @param write_log: is given the lines of their logs, when those go through us, and
            says whether it took them.
        @param drain_seconds: how long a drain may take.
        @param signals: what knows whether the start is to end.
        """
        self._signals = signals
        self._reactor = reactor
        self._names = names
        self._spawner = spawner
        self._write_log = write_log
        self._drain_seconds = drain_seconds
        self.live = WorkerSet(reactor, names)
        self._delays = dict.fromkeys(names, 0.0)
        self._restarts: dict[str, Any] = {}
        self._gone: Deferred[None] | None = None
        self._asking = LoopingCall(surviving("asking the workers", self.live.heartbeat))
        self._asking.clock = reactor

    def startService(self) -> None:
        """
        Start them, and wait until all are up.

        @raise ListenFailed: when one of them cannot start.
        """
        super().startService()
        for name in self._names:
            self._start(name)
        self._wait_until_up()
        log.info("{count} workers up", event="workers-up", count=len(self._names))
        self._asking.start(HEARTBEAT_INTERVAL, now=False)

    def _wait_until_up(self) -> None:
        def known() -> bool:
            return bool(self._failure) or all(child.up for child in self.live)

        late = spin_until(self._reactor, known, START_TIMEOUT, self._signals)
        # A stop signal, which may have ended a worker as well, says more than such an end.
        failure = (late and f"{late} before all workers were up") or self._failure
        if failure:
            super().stopService()
            for child in self.live:
                child.kill()
            spin_until(self._reactor, lambda: not len(self.live), KILL_TIMEOUT)
            log.error("{reason}", event="workers-failed", reason=failure)
            # Once twistd logs, sys.stderr is the log.
            print(f"echod: {failure}", file=sys.__stderr__)
            raise ListenError(failure)

    def _start(self, name: str) -> None:
        self._restarts.pop(name, None)
        child = WorkerProcess(name, self._reactor.seconds(), self, self._write_log)
        try:
            self._spawner.spawn(child)
        except OSError as error:
            why = f"cannot start {escape(sys.executable)}: {error.strerror}"
            self._cannot_start(name, f"worker {name}: {why}")
        else:
            self.live.add(child)

    def _cannot_start(self, name: str, failure: str) -> None:
        if self._asking.running:
            log.error("{reason}", event="worker-failed", reason=failure, worker=name)
            self._restart_later(name, 0.0)
        else:
            self._failure = self._failure or failure

    def _restart_later(self, name: str, lived: float) -> None:
        delay = 0.0 if lived >= STEADY_TIME else self._delays[name]
        self._delays[name] = min(max(delay * 2, MIN_RESTART_DELAY), MAX_RESTART_DELAY)
        self._restarts[name] = self._reactor.callLater(delay, self._start, name)

    def worker_up(self, child: WorkerProcess) -> None:
        """
        A worker accepts.
        """
        log.info(
            "worker {worker} is up, process {pid}",
            event="worker-up",
            worker=child.name,
            pid=child.pid,
        )

    def worker_ended(self, child: WorkerProcess, how: str) -> None:
        """
        A worker is gone.
        """
        self.live.remove(child)
        self._spawner.worker_exited(child)
        if not self.running:
            if not len(self.live) and self._gone is not None:
                self._gone.callback(None)
            return
        why = child.complaint or how
        if not self._asking.running:
            self._cannot_start(child.name, f"worker {child.name}: {why.removeprefix('echod: ')}")
            return
        said = f" ({child.complaint})" if child.complaint else ""
        if child.up and how == DRAINED:
            log.info(
                "worker {worker}, process {pid}, was told to end, and has; another takes its place",
                event="worker-replaced",
                worker=child.name,
                pid=child.pid,
            )
            self._restart_later(child.name, self._reactor.seconds() - child.born)
            return
        log.error(
            "worker {worker}, process {pid}, {how}; it is started again",
            event="worker-died",
            worker=child.name,
            pid=child.pid,
            how=how if child.up else f"{how} before it was up{said}",
        )
        self._restart_later(child.name, self._reactor.seconds() - child.born)

    def stopService(self) -> Deferred[None]:
        """
        Let each worker drain and end.

        @return: a Deferred that fires when all have gone.
        """
        super().stopService()
        for restart in self._restarts.values():
            restart.cancel()
        gone = self._gone = Deferred()
        late = self._reactor.callLater(self._drain_seconds + KILL_TIMEOUT, self._kill_late)

        def all_gone(_: None) -> None:
            # Until now, what they have still to do is asked for, and shown.
            if self._asking.running:
                self._asking.stop()
            if late.active():
                late.cancel()

        gone.addCallback(all_gone)
        self.live.send_all(do="stop")
        if not len(self.live):
            gone.callback(None)
        return gone

    def _kill_late(self) -> None:
        for child in self.live:
            log.error(
                "worker {worker} has not ended within {seconds:.0f} s; it is killed",
                event="worker-stuck",
                worker=child.name,
                seconds=self._drain_seconds + KILL_TIMEOUT,
            )
            child.kill()
