"""
The master of several workers: it binds, hands what it has bound to the workers, and serves nobody
itself.

Invariant: what a worker inherits is all that it needs; it binds nothing, and never has more
rights than the master has left.
"""

import os
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IListeningPort, IStreamServerEndpoint
from twisted.logger import Logger

from echod.logs.daemonlog import DaemonLog
from echod.net.balance import ABSENT, SharedCounters, make_counters
from echod.net.endpoints import InheritedEndpoint
from echod.net.listener import IListeningFactory, ListenError, ListenerService
from echod.service import DaemonService, ProcessContext
from echod.stats.collector import Collector
from echod.stats.process import ProcessStats
from echod.stats.snapshot import HistogramData, Snapshot
from echod.workers.channel import Message, adopt
from echod.workers.process import WorkerProcess
from echod.workers.spawn import FIRST_DESCRIPTOR, VARIABLE, InheritedListener, WorkerConfig
from echod.workers.supervisor import KILL_TIMEOUT, Supervisor, WorkerSet, spin_until

log = Logger(namespace="echod")

UNSHARED = "workers cannot share its layer around the connection"
"""Why an endpoint is refused."""

ANSWER_TIMEOUT = 1.0
"""How long, in seconds, a worker may take for its snapshot."""

RELOAD_TIMEOUT = 10.0
"""How long, in seconds, a reload may take before it counts as over."""


class HeldListener(ListenerService):
    """
    A listening socket that is held for the workers, and not accepted from.

    @ivar inherited: what the workers are told of it.
    """

    def __init__(
        self,
        option: str,
        endpoint: IStreamServerEndpoint,
        factory: IListeningFactory,
        reactor: Any,
        write_timeout: float,
        tls: bool,
    ):
        super().__init__(option, endpoint, factory, reactor, write_timeout)
        borrowed = isinstance(endpoint, InheritedEndpoint)
        self.inherited = InheritedListener(factory.listener, option, tls, borrowed)

    def _listening(self, port: IListeningPort) -> None:
        super()._listening(port)
        port.stopReading()  # type: ignore[attr-defined]  # it has a socket
        self.leaves_queue = True
        if not self.bare:
            raise ValueError(UNSHARED)

    def fileno(self) -> int:
        """
        The descriptor of the socket.
        """
        return self._port.fileno()  # type: ignore[no-any-return, union-attr]  # it has a socket


class Spawner:
    """
    Starts the processes of workers.
    """

    def __init__(
        self,
        reactor: Any,
        daemon_log: DaemonLog,
        listeners: Sequence[HeldListener],
        limits: Sequence[int],
        command: Sequence[str],
        environment: Mapping[str, str],
    ):
        """
        @param limits: how many connections each worker may have.
        @param command: the program of a worker and its arguments.
        """
        self._reactor = reactor
        self._log = daemon_log
        self._listeners = listeners
        self._limits = limits
        self._command = command
        self._environment = environment

    def open(self) -> None:
        """
        Make the memory that the workers share.
        """
        self._memory = make_counters(len(self._limits))
        self._counters = SharedCounters(self._memory, len(self._limits))

    def spawn(self, worker: WorkerProcess) -> None:
        """
        Start the process of a worker.

        @raise OSError: when that cannot be done.
        """
        inherited = [each.inherited for each in self._listeners]
        config = WorkerConfig(worker.name, self._limits, inherited)
        ours, theirs = socket.socketpair()
        with theirs, open(os.devnull, "rb+", buffering=0) as null:
            output: int | str = "r" if self._log.file is not None else null.fileno()
            if self._log.file is None and sys.__stdout__ is not None:
                with suppress(OSError, ValueError):
                    output = sys.__stdout__.fileno()
            descriptors: dict[int, int | str] = {0: null.fileno(), 1: output, 2: "r"}
            sockets = [*(each.fileno() for each in self._listeners), theirs.fileno(), self._memory]
            descriptors |= dict(enumerate(sockets, FIRST_DESCRIPTOR))
            try:
                self._reactor.spawnProcess(
                    worker,
                    self._command[0],
                    self._command,
                    {**self._environment, VARIABLE: config.to_text()},
                    childFDs=descriptors,
                )
            except BaseException:
                ours.close()
                raise
        worker.channel = adopt(self._reactor, ours.detach(), worker.messageReceived, worker.lost)

    def worker_exited(self, worker: WorkerProcess) -> None:
        """
        A worker is gone: no other waits for it to accept.
        """
        self._counters[int(worker.name)] = ABSENT


class WorkerSnapshots:
    """
    Takes a snapshot of each worker.
    """

    def __init__(self, workers: WorkerSet, collector: Collector, limits: Sequence[int]):
        """
        @param collector: that of this process.
        @param limits: how many connections each worker may have.
        """
        self._workers = workers
        self._collector = collector
        self._limits = limits
        self._last: dict[str, tuple[WorkerProcess, Snapshot]] = {}

    async def __call__(self) -> list[Snapshot]:
        """
        A worker that sends none in time has what it sent last, and does not listen.  All drain
        from the moment that the master does.
        """
        answers = await self._workers.ask_all(ANSWER_TIMEOUT, snapshot=True)
        snapshots = [
            self._received(name, answer) if answer else self._silent(name)
            for name, answer in answers.items()
        ]
        stopping = self._collector.draining
        return [replace(each, draining=each.draining or stopping) for each in snapshots]

    def _received(self, name: str, answer: Message) -> Snapshot:
        snapshot = Snapshot.from_json(answer["snapshot"])
        worker = self._workers.get(name)
        if worker is not None:
            # What it could not write, and what we could not write for it.
            snapshot = replace(snapshot, log_dropped=snapshot.log_dropped + worker.dropped)
            self._last[name] = worker, snapshot
        return snapshot

    def _silent(self, name: str) -> Snapshot:
        worker, last = self._last.get(name, (None, None))
        if last is None or worker is not self._workers.get(name):
            # The next one counts from nothing.
            last = self._unknown(name)
        listeners = [replace(each, address=None) for each in last.listeners]
        return replace(last, listeners=listeners, silent=True)

    def _unknown(self, name: str) -> Snapshot:
        ours = self._collector.snapshot(name)
        nothing = HistogramData(ours.lag.bounds, [0] * len(ours.lag.counts), 0.0)
        return replace(
            ours,
            uptime=0.0,
            max_connections=self._limits[int(name)],
            traffic=[],
            certificates=[],
            lag=nothing,
            lag_last=0.0,
            log_dropped=0,
            process=ProcessStats(0, None, 0.0, None, None, None, None),
            history=[],
        )


class MasterService(DaemonService):
    """
    The daemon, when it is made of several processes.

    @ivar workers: their supervisor.
    """

    def __init__(
        self,
        process: ProcessContext,
        listeners: Sequence[HeldListener],
        collector: Collector,
        drain_timeout: float,
        spawner: Spawner,
        workers: Supervisor,
        admin: Any = None,
    ):
        self.workers = workers
        super().__init__(process, listeners, collector, drain_timeout + KILL_TIMEOUT, admin)
        self._spawner = spawner

    def startService(self) -> None:
        """
        Bind, and start the workers.

        @raise ListenError: when one of the two cannot be done.
        """
        super().startService()
        self._spawner.open()
        try:
            self.workers.startService()
        except ListenError:
            self._unbind()
            raise

    def _unbind(self) -> None:
        """
        Close what was bound in vain; the file of a UNIX socket goes with it.
        """
        closing = DeferredList([each.stopService() for each in self.all_listeners()])
        spin_until(self._reactor, lambda: closing.called, KILL_TIMEOUT)

    def reload(self) -> None:
        """
        Let the workers read their files again.  For the service manager, the reload is over when
        all have.
        """
        Deferred.fromCoroutine(self._reload_all()).addErrback(
            lambda failure: log.failure("while reloading", failure, event="unhandled-error")
        )

    async def _reload_all(self) -> None:
        with self.notifier.reloading():
            await self.workers.live.ask_all(RELOAD_TIMEOUT, do="reload")

    def abort_all(self) -> None:
        self.workers.live.send_all(do="abort")

    def _totals(self) -> tuple[int, int, int]:
        return self.workers.live.totals()

    def _drain(self, _: object) -> Deferred[None]:
        return self.workers.stopService()

    def _log_stopped(self, _: object) -> None:
        log.info("echod stopped: all workers have gone", event="stopped")
