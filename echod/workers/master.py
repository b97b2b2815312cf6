"""
The parent of workers: it binds, hands on what it has bound, and serves nobody itself.

Invariant: what a worker is handed is all that it needs; it binds nothing,
and never has more rights than the parent has left.
"""

import os
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IListeningPort, IStreamServerEndpoint

from echod._util.signals import Signals
from echod.net.balance import ABSENT, SharedCounters, make_counters
from echod.net.endpoints import InheritedEndpoint
from echod.net.listener import ListenError, ListenerService
from echod.options import Options
from echod.protocol import EchoFactory
from echod.service import EchodService, log
from echod.stats.process import ProcessStats
from echod.stats.snapshot import HistogramData, Snapshot
from echod.systemd import NotifyConfig
from echod.tls.context import ServerContext
from echod.workers.channel import Message, adopt
from echod.workers.process import WorkerProcess
from echod.workers.spawn import (
    FIRST_DESCRIPTOR,
    VARIABLE,
    InheritedListener,
    WorkerConfig,
    absolute_argv,
    shares,
    worker_command,
    worker_environment,
)
from echod.workers.supervisor import KILL_TIMEOUT, Supervisor, spin_until

UNSHARED = "workers cannot share its layer around the connection"
"""Why an endpoint is refused."""

ANSWER_SECONDS = 1.0
"""How long a worker may take for its snapshot."""


RELOAD_SECONDS = 10.0
"""How long a reload may take before it counts as over."""


class HeldListener(ListenerService):
    """
    A listening socket that is held for the workers, and not accepted from.

    @ivar handed: what the workers are told of it.
    """

    handed: InheritedListener

    def _listening(self, port: IListeningPort) -> None:
        super()._listening(port)
        port.stopReading()  # type: ignore[attr-defined]  # it has a socket
        self.leaves_queue = True
        if not self._factory.outermost:
            raise ValueError(UNSHARED)

    def fileno(self) -> int:
        """
        The descriptor of the socket.
        """
        return self._port.fileno()  # type: ignore[no-any-return, union-attr]  # it has a socket


class MasterService(EchodService):
    """
    The daemon, when it is made of several processes.

    @ivar workers: these.
    """

    def __init__(
        self,
        reactor: Any,
        options: Options,
        max_connections: int,
        count: int,
        notify: NotifyConfig | None = None,
        process_signals: Signals | None = None,
    ):
        """
        @param max_connections: of all workers together.
        @param count: how many workers there shall be.
        """
        super().__init__(reactor, options, max_connections, notify, process_signals)
        self._shares = shares(max_connections, count)
        self._born: dict[str, WorkerProcess] = {}
        self._last: dict[str, Snapshot] = {}
        names = [str(number) for number in range(count)]
        # Here and now: twistd will change the directory that paths are relative to.
        given = absolute_argv(options.given, options.shortOpt, options.longOpt)
        self._command = worker_command(options.twistd or {}, given)
        self._environment = worker_environment(os.environ, sys.path)
        self.workers = Supervisor(
            reactor, names, self, self._log.write, self.drain_seconds, self._signals
        )
        self.drain_seconds += KILL_TIMEOUT

    def add_listener(
        self,
        name: str,
        option: str,
        endpoint: IStreamServerEndpoint,
        tls: ServerContext | None = None,
    ) -> None:
        factory = EchoFactory(name, self.admission, tls)
        held = HeldListener(
            option, endpoint, factory, self._reactor, self._options["write-timeout"]
        )
        borrowed = isinstance(endpoint, InheritedEndpoint)
        held.handed = InheritedListener(name, option, tls is not None, borrowed)
        held.setServiceParent(self)

    def startService(self) -> None:
        """
        Bind, and start the workers.

        @raise ListenFailed: when one of the two cannot be done.
        """
        super().startService()
        self._memory = make_counters(len(self._shares))
        self._table = SharedCounters(self._memory, len(self._shares))
        try:
            self.workers.startService()
        except ListenError:
            self._let_go()
            raise

    def _let_go(self) -> None:
        """
        Close what was bound for nothing; the file of a UNIX socket goes with it.
        """
        closing = DeferredList([each.stopService() for each in self.all_listeners()])
        spin_until(self._reactor, lambda: closing.called, KILL_TIMEOUT)

    def _held(self) -> Sequence[HeldListener]:
        return [service for service in self if isinstance(service, HeldListener)]

    def worker_exited(self, child: WorkerProcess) -> None:
        """
        A worker is gone: nobody waits for it to accept, and the next counts from nothing.
        """
        self._last.pop(child.name, None)
        self._born.pop(child.name, None)
        self._table[int(child.name)] = ABSENT

    def spawn(self, child: WorkerProcess) -> None:
        """
        Start the process of a worker.

        @raise OSError: when that cannot be done.
        """
        held = self._held()
        handed = [each.handed for each in held]
        told = WorkerConfig(child.name, self._shares, handed)
        ours, theirs = socket.socketpair()
        with theirs, open(os.devnull, "rb+", buffering=0) as null:
            output: int | str = "r" if self._log.file is not None else null.fileno()
            if self._log.file is None and sys.__stdout__ is not None:
                with suppress(OSError, ValueError):
                    output = sys.__stdout__.fileno()
            descriptors: dict[int, int | str] = {0: null.fileno(), 1: output, 2: "r"}
            sockets = [*(each.fileno() for each in held), theirs.fileno(), self._memory]
            descriptors |= dict(enumerate(sockets, FIRST_DESCRIPTOR))
            try:
                self._reactor.spawnProcess(
                    child,
                    self._command[0],
                    self._command,
                    self._environment | {VARIABLE: told.to_text()},
                    childFDs=descriptors,
                )
            except BaseException:
                ours.close()
                raise
        self._born[child.name] = child
        child.channel = adopt(self._reactor, ours.detach(), child.messageReceived, child.lost)

    async def snapshots(self) -> list[Snapshot]:
        """
        A snapshot of each worker.  One that gives none in time has what it had last, and
        does not listen; and all drain from the moment that we do.
        """
        answers = await self.workers.live.ask_all(ANSWER_SECONDS, snapshot=True)
        snapshots = [
            self._heard(worker, answer) if answer else self._silent(worker)
            for worker, answer in answers.items()
        ]
        stopping = self.collector.draining
        return [replace(each, draining=each.draining or stopping) for each in snapshots]

    def _heard(self, worker: str, answer: Message) -> Snapshot:
        told = Snapshot.from_json(answer["snapshot"])
        # What it could not write, and what we could not write for it, if it still lives.
        dropped = told.log_dropped + getattr(self._born.get(worker), "dropped", 0)
        self._last[worker] = replace(told, log_dropped=dropped)
        return self._last[worker]

    def _silent(self, worker: str) -> Snapshot:
        last = self._last.get(worker) or self._unknown(worker)
        listeners = [replace(each, address=None) for each in last.listeners]
        return replace(last, listeners=listeners, silent=True)

    def _unknown(self, worker: str) -> Snapshot:
        ours = self.collector.snapshot(worker)
        nothing = HistogramData(ours.lag.bounds, [0] * len(ours.lag.counts), 0.0)
        return replace(
            ours,
            uptime=0.0,
            max_connections=self._shares[int(worker)],
            traffic=[],
            certificates=[],
            lag=nothing,
            lag_last=0.0,
            log_dropped=0,
            process=ProcessStats(0, None, 0.0, None, None, None, None),
            history=[],
        )

    def abort_all(self) -> None:
        self.workers.live.send_all(do="abort")

    def reload(self) -> None:
        """
        Let the workers read their files again.  For the service manager, that is over when
        all have.
        """
        Deferred.fromCoroutine(self._reload_all()).addErrback(
            lambda failure: log.failure("while reloading", failure, event="unhandled-error")
        )

    async def _reload_all(self) -> None:
        with self.notifier.reloading():
            await self.workers.live.ask_all(RELOAD_SECONDS, do="reload")

    def _totals(self) -> tuple[int, int, int]:
        return self.workers.live.totals()

    def _drain(self) -> Deferred[None]:
        return self.workers.stopService()

    def _stopped(self, _: None) -> None:
        log.info("echod stopped: all workers have gone", event="stopped")
