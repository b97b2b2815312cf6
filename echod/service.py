"""
The daemon: its listeners, the looks at their connections, and a graceful stop.

Invariant: nothing happens before the service is started, and it is not stopped
before the last connection has ended.
"""

import signal
from functools import partial
from typing import TYPE_CHECKING, Any

from twisted.application.service import MultiService
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.interfaces import IStreamServerEndpoint
from twisted.logger import ILogObserver, Logger
from twisted.python.components import Componentized

from echod._util import signals
from echod._util.timers import periodic
from echod.connections.timeouts import CHECK_INTERVAL
from echod.connections.tracker import Connections
from echod.gate import admission, proxy_policy, time_limits
from echod.logs.daemonlog import DaemonLog
from echod.net.listener import ListenerService
from echod.options import Options
from echod.protocol import EchoFactory
from echod.stats.collector import Collector
from echod.stats.snapshot import Snapshot
from echod.systemd import Notifier, NotifyConfig, StatusLine
from echod.tls.context import ServerContext
from echod.tls.keylog import KeyLog
from echod.tls.reload import CertificateStore
from echod.whereabouts import Pidfile

if TYPE_CHECKING:
    from echod.admin.resource import AdminService

log = Logger(namespace="echod")

REFUSALS_SECONDS = 1.0
"""How often refusals are told in the log."""


class EchodService(MultiService):
    """
    The daemon: its listeners, the sweep over their connections, and a graceful stop.

    @ivar connections: the live set of all listeners.
    @ivar admission: who may come in, to any of them.
    @ivar max_connections: how many of them at once.
    @ivar drain_seconds: how long a stop may take.
    @ivar collector: what there is to see of it, and takes snapshots; its clocks run
        with C{--admin} only.
    @ivar certificates: what TLS is served with, C{None} without TLS.
    @ivar admin: what shows it to people and programs, C{None} without C{--admin}.
    @ivar key_log: where the secrets of TLS go, C{None} for nowhere.
    @ivar notifier: tells the service manager.
    """

    certificates: CertificateStore | None = None
    key_log: KeyLog | None = None
    admin: "AdminService | None" = None

    def __init__(
        self,
        reactor: Any,
        options: Options,
        max_connections: int,
        notify: NotifyConfig | None = None,
        process_signals: signals.Signals | None = None,
    ):
        """
        @param process_signals: what holds the signals that come before it runs.
        """
        super().__init__()
        self._reactor = reactor
        self._signals = process_signals or signals.Signals(reactor)
        self._options = options
        self.max_connections = max_connections
        self.drain_seconds = options["drain-timeout"]
        self._log = DaemonLog(options.twistd, options["log-format"], options["log-level"])
        self._pidfile = Pidfile(options.twistd)
        access_log = options["access-log"] == "on"
        self.connections = Connections(reactor, time_limits(options), access_log)
        self.admission = admission(reactor, options, self.connections, max_connections)
        self._proxies = proxy_policy(options)
        # No child: those are stopped at once, and the drain is told of to its end.
        self._figures = StatusLine(reactor, self._totals)
        self.notifier = Notifier(reactor, notify or NotifyConfig(), self._status)
        self.collector = Collector(
            reactor,
            self.connections,
            max_connections,
            self.listeners,
            lambda: self.certificates.served if self.certificates else (),
            lambda: self._log.dropped,
        )
        # What goes on until the last connection has ended.
        self._until_drained = MultiService()
        if options["admin"] is not None:
            self.collector.setServiceParent(self._until_drained)
        for interval, doing, action in (
            (CHECK_INTERVAL, "looking at the connections", self.connections.check_timeouts),
            (CHECK_INTERVAL, "forgetting clients", self.admission.expire),
            (REFUSALS_SECONDS, "telling of refusals", self.connections.refusals.log_summary),
        ):
            periodic(reactor, interval, doing, action).setServiceParent(self)

    def add_listener(
        self,
        name: str,
        option: str,
        endpoint: IStreamServerEndpoint,
        tls: ServerContext | None = None,
    ) -> None:
        """
        Add a listener.

        @param name: what logs and totals call it.
        @param option: the option that asks for it, for error messages.
        @param tls: the context for TLS, C{None} for plain.
        """
        factory = EchoFactory(name, self.admission, tls, self._proxies)
        ListenerService(
            option, endpoint, factory, self._reactor, self._options["write-timeout"]
        ).setServiceParent(self)

    def listeners(self) -> list[ListenerService]:
        """
        The listeners, in the order in which they were added.
        """
        return [service for service in self if isinstance(service, ListenerService)]

    def all_listeners(self) -> list[ListenerService]:
        """
        Also those that show it.
        """
        return [*self.listeners(), *(self.admin.listeners if self.admin else ())]

    def add_admin(self, admin: "AdminService") -> None:
        """
        Add what shows it to people and programs.
        """
        self.admin = admin
        admin.setServiceParent(self._until_drained)

    async def snapshots(self) -> list[Snapshot]:
        """
        A snapshot of each process there is: of this one.
        """
        return [self.collector.snapshot()]

    def setServiceParent(self, parent: Any) -> None:
        """
        Become part of an application, and bring it the log observer, where it looks for
        one before it makes its own.
        """
        super().setServiceParent(parent)
        observer = self._log.open()
        if observer is not None and isinstance(parent, Componentized):
            parent.setComponent(ILogObserver, observer)

    def check_log(self) -> None:
        """
        Find out whether the log can be opened, and leave no file behind.

        @raise SystemExit: when it cannot.
        """
        self._log.check_open()

    def _totals(self) -> tuple[int, int, int]:
        connections = self.connections
        refused = connections.refusals.counts.total()
        return len(connections), connections.bytes_echoed, refused

    def _status(self) -> str:
        return self._figures() if self.running else f"draining, {self._figures()}"

    def privilegedStartService(self) -> None:
        """
        Bind the listeners, and connect to the service manager.
        """
        self._pidfile.written()
        super().privilegedStartService()
        self._until_drained.privilegedStartService()
        self.notifier.privilegedStartService()

    def startService(self) -> None:
        """
        Start the listeners, and take over the signals as soon as the reactor has set
        its own handlers for them.
        """
        super().startService()
        self._until_drained.startService()
        self._reactor.callWhenRunning(self._handle_signals)
        self._reactor.callWhenRunning(self._log.set_async)
        after = partial(self._reactor.addSystemEventTrigger, "after", "shutdown")
        after(self._log.flush)
        after(self._pidfile.leave_another)

    def _handle_signals(self) -> None:
        rotates = self._log.file is not None
        actions: dict[signal.Signals, signals.Action] = {
            signal.SIGHUP: self.reload,
            signal.SIGUSR1: self._log.rotate
            if rotates
            else partial(signals.log_ignored, signal.SIGUSR1),
            signal.SIGUSR2: partial(signals.log_ignored, signal.SIGUSR2),
        }
        self._signals.run(actions, self._abort_by_signal)
        # Only now: who is told that we are ready may signal us at once.
        bound = gatherResults([listener.when_bound() for listener in self.listeners()])
        bound.addCallback(self._ready)

    def _ready(self, _: object) -> None:
        if self.running:
            self.notifier.startService()

    @property
    def _abort_by_signal(self) -> signals.Action | None:
        return self.abort_all

    def reload(self) -> None:
        """
        Serve the certificates that the files hold now, and open the key log anew.
        """
        with self.notifier.reloading():
            self._reload()

    def _reload(self) -> None:
        if self.key_log is not None:
            self.key_log.reopen()
        if self.certificates is not None:
            self.certificates.reload()
        else:
            signals.log_ignored(signal.SIGHUP)

    def stopService(self) -> Deferred[None]:
        """
        Close the doors, then wait for the guests: L{Connections.drain}; until then, what
        is to be seen of the daemon can be seen.

        @return: a Deferred that fires when the last connection has ended.
        """
        self.collector.draining = True
        closing: Deferred[Any] = super().stopService()
        self.notifier.stopping(self.drain_seconds)
        closing.addCallback(lambda _: self._drain())
        closing.addCallback(self._stopped)
        closing.addCallback(lambda _: self._until_drained.stopService())
        return closing.addCallback(lambda _: self.notifier.stopService())

    def _drain(self) -> Deferred[None]:
        return self.connections.drain(self.drain_seconds)

    def abort_all(self) -> None:
        """
        End every connection at once.
        """
        self.connections.abort_all()

    def _stopped(self, _: None) -> None:
        self.connections.refusals.log_summary()
        log.info(
            "echod stopped: {connections} connections, {bytes} bytes echoed",
            event="stopped",
            connections=self.connections.opened,
            bytes=self.connections.bytes_echoed,
        )
