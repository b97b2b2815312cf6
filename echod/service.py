"""
The daemon as a service: its start, its reload, and its graceful stop.

Invariant: nothing happens before C{startService}, and the Deferred of C{stopService} does not fire
before the last connection has ended.
"""

import signal
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from twisted.application.service import IService, MultiService
from twisted.internet.defer import Deferred, gatherResults
from twisted.logger import ILogObserver, Logger
from twisted.python.components import Componentized

from echod import __version__
from echod._util.errors import exit_on_error
from echod._util.signals import Action, Signals, log_ignored
from echod._util.timers import periodic
from echod._util.twistd import Pidfile
from echod.connections.admission import Admission
from echod.connections.timeouts import CHECK_INTERVAL
from echod.logs.daemonlog import DaemonLog
from echod.net.announcement import Place, announcement
from echod.net.listener import ListenerService
from echod.stats.collector import Collector
from echod.systemd import Notifier, NotifyConfig, StatusLine
from echod.tls.keylog import KeyLog
from echod.tls.reload import CertificateStore

log = Logger(namespace="echod")

REFUSALS_INTERVAL = 1.0
"""How often, in seconds, the refused connections are logged."""


@dataclass(frozen=True)
class ProcessContext:
    """
    The things of which each process of the daemon has exactly one.

    @ivar signals: keeps the signals that arrive before the reactor runs.
    @ivar notify: how to notify the service manager.
    @ivar proxied: whether each connection has to begin with a PROXY header.
    """

    reactor: Any
    log: DaemonLog
    pidfile: Pidfile
    signals: Signals
    notify: NotifyConfig = field(default_factory=NotifyConfig)
    proxied: bool = False


@dataclass(frozen=True)
class Serving:
    """
    What a process serves its clients with.

    @ivar admission: decides which clients may connect.
    @ivar certificates: the certificates that TLS serves, C{None} without TLS.
    @ivar key_log: the file that gets the secrets of TLS, C{None} without C{--tls-keylog}.
    """

    admission: Admission
    certificates: CertificateStore | None = None
    key_log: KeyLog | None = None


class IListener(Protocol):
    """
    A listener, TCP, UNIX or UDP.

    @ivar option: the option that asks for it, with its value.
    """

    option: str

    @property
    def listener_name(self) -> str: ...
    def setServiceParent(self, parent: Any) -> None: ...
    def stopService(self) -> Deferred[None]: ...
    def when_bound(self) -> Deferred[None]: ...
    def rearm(self) -> None: ...
    def address(self) -> str: ...
    def place(self) -> Place: ...


class IAdminService(Protocol):
    """
    The status page, metrics and health: a service with listeners of its own.
    """

    listeners: list[ListenerService]

    def privilegedStartService(self) -> None: ...
    def startService(self) -> None: ...
    def stopService(self) -> Deferred[Any]: ...


class DaemonService(MultiService, ABC):
    """
    What all processes of the daemon have in common: listeners, log, signals, notification of the
    service manager and status page, and the order in which they start and stop.  A subclass adds
    what the process does with its connections.

    @ivar listeners: the listeners, in the order of the command line.
    @ivar collector: takes snapshots of this process.
    @ivar admin: status page, metrics and health over HTTP; C{None} without C{--admin}.
    @ivar notifier: notifies the service manager.
    @ivar drain_timeout: how long a drain may take, in seconds.
    """

    def __init__(
        self,
        process: ProcessContext,
        listeners: Sequence[IListener],
        collector: Collector,
        drain_timeout: float,
        admin: IAdminService | None = None,
        work: Sequence[IService] = (),
    ):
        """
        @param work: services that start and stop with the listeners.
        """
        super().__init__()
        self._reactor = process.reactor
        self._log = process.log
        self._pidfile = process.pidfile
        self._signals = process.signals
        self._proxied = process.proxied
        self.listeners = listeners
        self.collector = collector
        self.drain_timeout = drain_timeout
        # These two are no children: a MultiService stops all its children at once, and these
        # stop last.
        self.admin = admin
        self._status_line = StatusLine(process.reactor, self._totals)
        self.notifier = Notifier(process.reactor, process.notify, self._status)
        # Children start in this order.  The listeners are last: after a bind that fails, all other
        # services have started, and can be stopped.
        children: list[IService | IListener] = [*work, *listeners]
        for service in children:
            service.setServiceParent(self)

    def all_listeners(self) -> list[IListener]:
        """
        The listeners, including those of the status page.
        """
        return [*self.listeners, *(self.admin.listeners if self.admin else ())]

    def setServiceParent(self, parent: Any) -> None:
        """
        Join an application, and give it our log observer, which twistd then uses instead of its
        own.

        @raise SystemExit: after one line on standard error, if the log cannot be opened.
        """
        super().setServiceParent(parent)
        with exit_on_error():
            observer = self._log.open()
        if observer is not None and isinstance(parent, Componentized):
            parent.setComponent(ILogObserver, observer)

    def check_log(self) -> None:
        """
        Check that the log can be opened, and leave no file behind.

        @raise LogError: if it cannot.
        """
        self._log.check_open()

    def privilegedStartService(self) -> None:
        """
        Bind the listeners, and connect to the service manager, before the process gives up its
        privileges.

        @raise ListenError: if a listener cannot bind.
        """
        self._pidfile.written()
        with self._pidfile.removed_on_error():
            super().privilegedStartService()
            if self.admin is not None:
                self.admin.privilegedStartService()
        if self._log.announces:
            places = [listener.place() for listener in self.listeners]
            self._log.announce(announcement(__version__, places, self._proxied))
        self.notifier.privilegedStartService()

    def startService(self) -> None:
        """
        Start the listeners.  The signal handlers are set when the reactor runs, because it sets
        its own when it starts.
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
        # Not earlier: a service manager may send a signal as soon as it knows that we are ready.
        bound = gatherResults([listener.when_bound() for listener in self.listeners])
        bound.addCallback(self._ready)

    def _ready(self, _: object) -> None:
        if self.running:
            self.notifier.startService()

    def stopService(self) -> Deferred[None]:
        """
        Stop, one step after the other.  A step that returns a Deferred holds up the next one until
        it fires.

        @return: a Deferred that fires when the last step is done.  The reactor waits for it.
        """
        stopping = self._close_ports()
        stopping.addCallback(self._drain)
        stopping.addCallback(self._log_stopped)
        stopping.addCallback(self._close_status_page)
        stopping.addCallback(self._stop_notifier)
        return stopping

    def _close_ports(self) -> Deferred[Any]:
        self.collector.draining = True
        closing: Deferred[Any] = super().stopService()
        self.notifier.stopping(self.drain_timeout)
        return closing

    @abstractmethod
    def _drain(self, _: object) -> Deferred[None]:
        """
        Wait for the connections, and abort those that take too long.
        """

    @abstractmethod
    def _log_stopped(self, _: object) -> None:
        """
        Log that the daemon has stopped.
        """

    def _close_status_page(self, _: object) -> Deferred[Any] | None:
        return None if self.admin is None else self.admin.stopService()

    def _stop_notifier(self, _: object) -> Deferred[None]:
        return self.notifier.stopService()

    def _status(self) -> str:
        return self._status_line() if self.running else f"draining, {self._status_line()}"

    @property
    def _abort_by_signal(self) -> Action | None:
        """
        What a second stop signal does; C{None} for nothing.
        """
        return self.abort_all

    @abstractmethod
    def reload(self) -> None:
        """
        Read the files again that SIGHUP is for.
        """

    @abstractmethod
    def abort_all(self) -> None:
        """
        Abort all connections.
        """

    @abstractmethod
    def _totals(self) -> tuple[int, int, int]:
        """
        The live connections; and the bytes echoed and the connections refused since the start.
        """


class EchodService(DaemonService):
    """
    The daemon, in a process that serves clients.

    @ivar connections: the live connections of all listeners.
    @ivar admission: decides which clients may connect.
    @ivar certificates: the certificates that TLS serves, C{None} without TLS.
    @ivar key_log: the file that gets the secrets of TLS, C{None} without C{--tls-keylog}.
    """

    def __init__(
        self,
        process: ProcessContext,
        listeners: Sequence[IListener],
        collector: Collector,
        drain_timeout: float,
        serving: Serving,
        admin: IAdminService | None = None,
        work: Sequence[IService] = (),
    ):
        admission, certificates = serving.admission, serving.certificates
        connections = self.connections = admission.connections
        self.admission = admission
        self.certificates = certificates
        self.key_log = serving.key_log
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
        Read the certificates again, and open the key log again.
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

    def _ready(self, _: object) -> None:
        for each in self.listeners:
            self.connections.name_listener(each.listener_name, each.address())
        super()._ready(_)

    def _log_stopped(self, _: object) -> None:
        self.connections.refusals.log_summary()
        log.info(
            "echod stopped: {connections} connections, {bytes} bytes echoed",
            event="stopped",
            connections=self.connections.opened,
            bytes=self.connections.bytes_echoed,
        )
