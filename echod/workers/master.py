"""
The master of several workers: it binds the ports, passes the sockets on to the workers, and serves
no client itself.

Invariant: a worker inherits all that it needs; it binds no port, and never has more privileges than
the master has at that time.
"""

import os
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Protocol

from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IListeningPort, IStreamServerEndpoint
from twisted.logger import Logger

from echod.net.balance import ABSENT, SharedCounters, make_counters
from echod.net.endpoints import InheritedEndpoint
from echod.net.listener import IListeningFactory, ListenError, ListenerService
from echod.service import DaemonService, IAdminService, ProcessContext
from echod.stats.collector import Collector
from echod.stats.process import ProcessStats
from echod.stats.snapshot import HistogramData, Snapshot
from echod.udp import DatagramAdmission, UDPListener
from echod.workers.channel import Message, adopt
from echod.workers.process import WorkerProcess
from echod.workers.spawn import FIRST_DESCRIPTOR, VARIABLE, InheritedListener, WorkerConfig
from echod.workers.supervisor import KILL_TIMEOUT, Supervisor, WorkerSet, spin_until

log = Logger(namespace="echod")

UNSHARED = "workers cannot share its layer around the connection"
"""Why an endpoint with a layer of its own is refused."""

ANSWER_TIMEOUT = 1.0
"""How many seconds to wait for the snapshot of a worker."""

RELOAD_TIMEOUT = 10.0
"""How many seconds to wait for the workers' reload, before the reload counts as done."""


class HeldListener(ListenerService):
    """
    A listener that binds for the workers and accepts no client itself.

    @ivar inherited: what a worker is told about its socket.
    """

    def __init__(
        self,
        option: str,
        endpoint: IStreamServerEndpoint,
        factory: IListeningFactory,
        reactor: Any,
        write_timeout: float,
        tls: bool,
        place: int,
    ):
        """
        @param place: the place of its settings among those of all listeners, from 0.
        """
        super().__init__(option, endpoint, factory, reactor, write_timeout)
        borrowed = isinstance(endpoint, InheritedEndpoint)
        self.inherited = InheritedListener(factory.listener, option, tls, borrowed, place=place)

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


class HeldUDPListener(UDPListener):
    """
    A UDP listener that binds for the workers and answers nothing itself.

    @ivar inherited: what a worker is told about its socket.
    """

    def __init__(
        self,
        option: str,
        name: str,
        open_socket: Callable[[], socket.socket],
        admission: DatagramAdmission,
        reactor: Any,
        borrowed: bool,
    ):
        """
        @param borrowed: whether the master itself inherited the socket.
        """
        super().__init__(option, name, open_socket, admission, reactor, counts_kernel_drops=False)
        self.inherited = InheritedListener(name, option, False, borrowed, datagrams=True)

    def start_reading(self) -> None:
        """
        Do nothing: the workers read.
        """


class IHeldListener(Protocol):
    """
    What the L{Spawner} needs of a listener.
    """

    inherited: InheritedListener

    def fileno(self) -> int: ...


class Spawner:
    """
    Starts the processes of workers.
    """

    def __init__(
        self,
        process: ProcessContext,
        listeners: Sequence[IHeldListener],
        limits: Sequence[int],
        command: Sequence[str],
        environment: Mapping[str, str],
        self_made: bytes | None = None,
    ):
        """
        @param limits: the limit of connections of each worker.
        @param command: the program of a worker, and its arguments.
        @param self_made: the key pair that this process has made, as PEM; C{None} if the workers
            read theirs.
        """
        self._reactor = process.reactor
        self._log = process.log
        self._listeners = listeners
        self._limits = limits
        self._command = command
        self._environment = environment
        self._self_made = self_made
        self._passed_on: list[int] = []

    def open(self) -> None:
        """
        Make the memory of what the workers share: the counters, and the key pair.
        """
        if self._self_made is not None:
            memory = os.memfd_create("echod-tls-self-signed")
            os.write(memory, self._self_made)
            self._passed_on = [memory]
        self._memory = make_counters(len(self._limits))
        self._counters = SharedCounters(self._memory, len(self._limits))

    def spawn(self, worker: WorkerProcess) -> None:
        """
        Start the process of a worker.

        @raise OSError: if it cannot be started.
        """
        inherited = [each.inherited for each in self._listeners]
        config = WorkerConfig(
            worker.name, self._limits, inherited, self_signed=bool(self._passed_on)
        )
        ours, theirs = socket.socketpair()
        with ours, theirs, open(os.devnull, "rb+", buffering=0) as null:
            output: int | str = "r" if self._log.file is not None else null.fileno()
            if self._log.file is None and sys.__stdout__ is not None:
                with suppress(OSError, ValueError):
                    output = sys.__stdout__.fileno()
            descriptors: dict[int, int | str] = {0: null.fileno(), 1: output, 2: "r"}
            sockets = [*(each.fileno() for each in self._listeners), theirs.fileno()]
            shared = [*sockets, self._memory, *self._passed_on]
            descriptors |= dict(enumerate(shared, FIRST_DESCRIPTOR))
            # After the start of the process, nothing that can fail may follow: the supervisor
            # would not know of the process.  If it does not start, the end of file of the other
            # end closes the channel.
            worker.channel = adopt(
                self._reactor, ours.detach(), worker.message_received, worker.channel_closed
            )
            self._reactor.spawnProcess(
                worker,
                self._command[0],
                self._command,
                {**self._environment, VARIABLE: config.to_text()},
                childFDs=descriptors,
            )

    def worker_exited(self, worker: WorkerProcess) -> None:
        """
        A worker has ended: the other workers no longer compare their connections with its.
        """
        self._counters[int(worker.name)] = ABSENT


class WorkerSnapshots:
    """
    Takes a snapshot of each worker.
    """

    def __init__(self, workers: WorkerSet, collector: Collector, limits: Sequence[int]):
        """
        @param collector: the collector of the master.
        @param limits: the limit of connections of each worker.
        """
        self._workers = workers
        self._collector = collector
        self._limits = limits
        self._last: dict[str, tuple[WorkerProcess, Snapshot]] = {}

    async def __call__(self) -> list[Snapshot]:
        """
        Take one snapshot of each worker.  A worker that does not answer in time has its last one,
        and does not count as listening.  As soon as the master drains, all count as draining.
        """
        asked = {worker.name: worker for worker in self._workers}
        answers = await self._workers.ask_all(ANSWER_TIMEOUT, snapshot=True)
        snapshots = [
            self._received(asked[name], answer) if answer else self._silent(name)
            for name, answer in answers.items()
        ]
        stopping = self._collector.draining
        return [replace(each, draining=each.draining or stopping) for each in snapshots]

    def _received(self, worker: WorkerProcess, answer: Message) -> Snapshot:
        snapshot = Snapshot.from_json(answer["snapshot"])
        # The lines that the worker has dropped, and those that the master has dropped for it.
        snapshot = replace(snapshot, log_dropped=snapshot.log_dropped + worker.dropped)
        self._last[worker.name] = worker, snapshot
        return snapshot

    def _silent(self, name: str) -> Snapshot:
        worker, last = self._last.get(name, (None, None))
        if last is None or worker is not self._workers.get(name):
            # A new worker starts its counters at 0.
            last = self._unknown(name)
        listeners = [replace(each, address=None) for each in last.listeners]
        datagrams = [replace(each, address=None) for each in last.datagrams]
        return replace(last, listeners=listeners, datagrams=datagrams, silent=True)

    def _unknown(self, name: str) -> Snapshot:
        ours = self._collector.snapshot(name)
        no_lag = HistogramData(ours.lag.bounds, [0] * len(ours.lag.counts), 0.0)
        return replace(
            ours,
            uptime=0.0,
            max_connections=self._limits[int(name)],
            traffic=[],
            datagrams=[],
            certificates=[],
            lag=no_lag,
            lag_last=0.0,
            log_dropped=0,
            process=ProcessStats(0, None, 0.0, None, None, None, None),
            history=[],
        )


class MasterService(DaemonService):
    """
    The daemon, in the master process of C{--workers}.

    @ivar workers: the supervisor of the workers.
    """

    def __init__(
        self,
        process: ProcessContext,
        listeners: Sequence[HeldListener | HeldUDPListener],
        collector: Collector,
        drain_timeout: float,
        spawner: Spawner,
        workers: Supervisor,
        admin: IAdminService | None = None,
    ):
        self.workers = workers
        super().__init__(process, listeners, collector, drain_timeout + KILL_TIMEOUT, admin)
        self._spawner = spawner

    def startService(self) -> None:
        """
        Bind the listeners, and start the workers.

        @raise ListenError: if a listener cannot bind or a worker cannot start.
        """
        super().startService()
        self._spawner.open()
        try:
            with self._pidfile.removed_on_error():
                self.workers.startService()
        except ListenError:
            self._unbind()
            raise

    def _unbind(self) -> None:
        """
        Close the listeners again, which also removes the files of UNIX sockets.
        """
        closing = DeferredList([each.stopService() for each in self.all_listeners()])
        spin_until(self._reactor, lambda: closing.called, KILL_TIMEOUT)

    def reload(self) -> None:
        """
        Let the workers read their files again.  The service manager is notified when all are done.
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
        log.info("echod stopped: all workers have ended", event="stopped")
