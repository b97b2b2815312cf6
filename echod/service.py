"""
The daemon as a service: its start, its reload, and its graceful stop.

Invariant: nothing happens before the service is started, and it is not stopped before the last
connection has ended.
"""

import signal
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from twisted.application.service import IService, MultiService
from twisted.internet.defer import Deferred, gatherResults
from twisted.logger import ILogObserver, Logger
from twisted.python.components import Componentized

from echod._util.signals import Action, Signals, log_ignored
from echod._util.timers import periodic
from echod._util.twistd import Pidfile
from echod.connections.admission import Admission
from echod.connections.timeouts import CHECK_INTERVAL
from echod.logs.daemonlog import DaemonLog
from echod.net.listener import ListenerService
from echod.stats.collector import Collector
from echod.systemd import Notifier, NotifyConfig, StatusLine
from echod.tls.keylog import KeyLog
from echod.tls.reload import CertificateStore

if TYPE_CHECKING:
    from echod.admin.resource import AdminService

log = Logger(namespace="echod")

REFUSALS_INTERVAL = 1.0
"""How often, in seconds, refused clients are logged."""


@dataclass(frozen=True)
class ProcessContext:
    """
    What each process of the daemon has one of.

    @ivar signals: holds the signals that come before the reactor runs.
    @ivar notify: how the service manager is told what the daemon does.
    """

    reactor: Any
    log: DaemonLog
    pidfile: Pidfile
    signals: Signals
    notify: NotifyConfig = field(default_factory=NotifyConfig)


class DaemonService(MultiService, ABC):
    """
    What the daemon is in each of its processes: listeners, a log, signals, a service manager that
    is told, an admin page, and the order in which all of it starts and stops.  Subclasses say what
    it does with its clients.

    @ivar listeners: the listeners, in the order of the command line.
    @ivar collector: takes snapshots of this process.
    @ivar admin: the HTTP side, C{None} without C{--admin}.
    @ivar notifier: tells the service manager.
    @ivar drain_timeout: how long a stop may take, in seconds.
    """

    def __init__(
        self,
        process: ProcessContext,
        listeners: Sequence[ListenerService],
        collector: Collector,
        drain_timeout: float,
        admin: "AdminService | None" = None,
        work: Sequence[IService] = (),
    ):
        """
        @param work: services that run as long as the listeners.
        """
        super().__init__()
        self._reactor = process.reactor
        self._log = process.log
        self._pidfile = process.pidfile
        self._signals = process.signals
        self.listeners = listeners
        self.collector = collector
        self.drain_timeout = drain_timeout
        # Neither is a child: a MultiService stops its children at once, these come last.
        self.admin = admin
        self._status_line = StatusLine(process.reactor, self._totals)
        self.notifier = Notifier(process.reactor, process.notify, self._status)
        # The listeners start last: one that cannot bind leaves nothing half-started.
        for service in (*work, *listeners):
            service.setServiceParent(self)

    def all_listeners(self) -> list[ListenerService]:
        """
        The listeners, and those of the admin page.
        """
        return [*self.listeners, *(self.admin.listeners if self.admin else ())]

    def setServiceParent(self, parent: Any) -> None:
        """
        Become part of an application, and give it our log observer: twistd asks the application
        for one before it makes its own.
        """
        super().setServiceParent(parent)
        observer = self._log.open()
        if observer is not None and isinstance(parent, Componentized):
            parent.setComponent(ILogObserver, observer)

    def check_log(self) -> None:
        """
        Find out whether the log can be opened, and leave no file behind.

        @raise LogError: when it cannot.
        """
        self._log.check_open()

    def privilegedStartService(self) -> None:
        """
        Bind the listeners, and connect to the service manager, while the process may.

        @raise ListenError: when a listener cannot bind.
        """
        self._pidfile.written()
        super().privilegedStartService()
        if self.admin is not None:
            self.admin.privilegedStartService()
        self.notifier.privilegedStartService()

    def startService(self) -> None:
        """
        Start the listeners.  Take over the signals as soon as the reactor has set its own
        handlers for them.
        """
        super().startService()
        if self.admin is not None:
            self.admin.startService()
        self._reactor.callWhenRunning(self._handle_signals)
        self._reactor.callWhenRunning(self._log.set_async)
        for last in (self._log.flush, self._pidfile.keep_foreign):
            self._reactor.addSystemEventTrigger("after", "shutdown", last)

    def _handle_signals(self) -> None:
        rotate: Action = self._log.rotate
        if self._log.file is None:
            rotate = partial(log_ignored, signal.SIGUSR1)
        actions: dict[signal.Signals, Action] = {
            signal.SIGHUP: self.reload,
            signal.SIGUSR1: rotate,
            signal.SIGUSR2: partial(log_ignored, signal.SIGUSR2),
        }
        self._signals.run(actions, self._abort_by_signal)
        # Only now: a service manager that is told we are ready may send a signal at once.
        bound = gatherResults([listener.when_bound() for listener in self.listeners])
        bound.addCallback(self._ready)

    def _ready(self, _: object) -> None:
        if self.running:
            self.notifier.startService()

    def stopService(self) -> Deferred[None]:
        """
        Stop in this order: close the ports; drain the connections; log it; close the admin page,
        which shows the drain to its end; tell the service manager nothing more.

        @return: a Deferred that fires when all is over, and the last connection has ended.
        """
        stopping = self._close_ports()
        stopping.addCallback(self._drain)
        stopping.addCallback(self._log_stopped)
        stopping.addCallback(self._close_admin)
        stopping.addCallback(self._stop_notifier)
        return stopping

    def _close_ports(self) -> Deferred[Any]:
        self.collector.draining = True
        closing: Deferred[Any] = super().stopService()
        self.notifier.stopping(self.drain_timeout)
        return closing

    def _close_admin(self, _: object) -> Deferred[Any] | None:
        return None if self.admin is None else self.admin.stopService()

    def _stop_notifier(self, _: object) -> Deferred[None]:
        return self.notifier.stopService()

    def _status(self) -> str:
        return self._status_line() if self.running else f"draining, {self._status_line()}"

    @property
    def _abort_by_signal(self) -> Action | None:
        """
        What a second stop signal does.
        """
        return self.abort_all

    @abstractmethod
    def reload(self) -> None:
        """
        Do what SIGHUP asks for.
        """

    @abstractmethod
    def abort_all(self) -> None:
        """
        End every connection at once.
        """

    @abstractmethod
    def _totals(self) -> tuple[int, int, int]:
        """
        The live connections, and since the start the bytes echoed and the connections refused.
        """

    @abstractmethod
    def _drain(self, _: object) -> Deferred[None]:
        """
        Wait for the connections, and end those that take too long.
        """

    @abstractmethod
    def _log_stopped(self, _: object) -> None:
        """
        Log what there was.
        """


class EchodService(DaemonService):
    """
    The daemon as it serves: its connections, who may connect, and the certificates.

    @ivar connections: the open connections of all listeners.
    @ivar admission: who may connect to any of them.
    @ivar certificates: what TLS is served with, C{None} without TLS.
    @ivar key_log: where the secrets of TLS go, C{None} for nowhere.
    """

    def __init__(
        self,
        process: ProcessContext,
        listeners: Sequence[ListenerService],
        collector: Collector,
        drain_timeout: float,
        admission: Admission,
        admin: "AdminService | None" = None,
        certificates: CertificateStore | None = None,
        key_log: KeyLog | None = None,
        work: Sequence[IService] = (),
    ):
        connections = self.connections = admission.connections
        self.admission = admission
        self.certificates = certificates
        self.key_log = key_log
        timers = [
            periodic(process.reactor, interval, doing, action)
            for interval, doing, action in (
                (CHECK_INTERVAL, "checking timeouts", connections.check_timeouts),
                (CHECK_INTERVAL, "expiring clients", admission.expire),
                (REFUSALS_INTERVAL, "logging refusals", connections.refusals.log_summary),
            )
        ]
        stores = () if certificates is None else (certificates,)
        work = (*timers, *stores, *work)
        super().__init__(process, listeners, collector, drain_timeout, admin, work)

    def reload(self) -> None:
        """
        Serve the certificates that the files hold now, and open the key log anew.
        """
        with self.notifier.reloading():
            if self.key_log is not None:
                self.key_log.reopen()
            if self.certificates is not None:
                self.certificates.reload()
            else:
                log_ignored(signal.SIGHUP)

    def abort_all(self) -> None:
        self.connections.abort_all()

    def _totals(self) -> tuple[int, int, int]:
        connections = self.connections
        refused = connections.refusals.counts.total()
        return len(connections), connections.bytes_echoed, refused

    def _drain(self, _: object) -> Deferred[None]:
        return self.connections.drain(self.drain_timeout)

    def _log_stopped(self, _: object) -> None:
        self.connections.refusals.log_summary()
        log.info(
            "echod stopped: {connections} connections, {bytes} bytes echoed",
            event="stopped",
            connections=self.connections.opened,
            bytes=self.connections.bytes_echoed,
        )
