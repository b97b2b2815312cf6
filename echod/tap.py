"""
The composition root: C{makeService} prepares the process, makes typed settings of the options,
builds the parts of the daemon, and hands them to each other's constructors.

Invariant: all that can be found wrong is found wrong here, in one line.  Nothing here opens a
socket, starts a timer or forks; that waits until the service is started.
"""

import os
import select
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred
from twisted.internet.task import react
from twisted.logger import (
    Logger,
)
from twisted.python import runtime

from echod import __version__
from echod._util.signals import Signals, restore_interrupt
from echod._util.stdio import prepare_standard_streams, report_output_error
from echod._util.text import escape
from echod._util.twistd import Pidfile, preflight
from echod.connections.admission import Admission
from echod.connections.timeouts import Timeouts
from echod.connections.tracker import Connections
from echod.logs.capture import captured_warnings
from echod.logs.daemonlog import DaemonLog
from echod.net.balance import AcceptBalancer, SharedCounters
from echod.net.endpoints import (
    InheritedEndpoint,
)
from echod.net.listener import ListenError, ListenerService
from echod.options import Options
from echod.protocol import EchoFactory
from echod.service import DaemonService, EchodService, ProcessContext
from echod.settings import Settings, connection_limit
from echod.stats.collector import Collector
from echod.systemd import InheritedSocket, InheritedSockets, NotifyConfig
from echod.tls.keylog import KeyLog
from echod.tls.reload import CertificateStore, format_duration, names_text
from echod.workers.master import HeldListener, MasterService, Spawner, WorkerSnapshots
from echod.workers.spawn import (
    WorkerConfig,
    absolute_argv,
    shares,
    worker_command,
    worker_environment,
)
from echod.workers.supervisor import Supervisor
from echod.workers.worker import WorkerService

if TYPE_CHECKING:
    pass

__all__ = ["Options", "makeService"]

log = Logger(namespace="echod")


def makeService(options: Options) -> DaemonService:
    """
    Build the daemon: the entry point of twistd and twist.

    @raise SystemExit: with one line, when an option, a file or an endpoint is wrong.
    """
    prepare_standard_streams()
    if "twisted.internet.reactor" not in sys.modules and hasattr(select, "epoll"):
        # The user has chosen none.
        from echod.net.reactor import install

        install()
    # The one place where the reactor is imported; all else gets it as an argument.
    from twisted.internet import reactor

    use_monotonic_clock(reactor)
    signals = Signals(reactor)
    if options["check"]:
        # As Python has it, so that the reactor takes it, and a check ends as a whole.
        restore_interrupt()
    else:
        signals.take_over(forks=options.twistd is not None and not options.twistd["nodaemon"])
    preflight(options.twistd)
    config = WorkerConfig.take_from(os.environ)
    if config is not None:
        return build_worker(reactor, options, config, signals)
    workers = worker_count(options["workers"], options["max-connections"])
    inherited = InheritedSockets.from_process(os.getpid())
    notify = NotifyConfig.from_environment(os.environ, os.getpid())
    if options["check"]:
        # It is not the daemon, and tells the service manager nothing.
        check_config(reactor, lambda: build_service(reactor, options, inherited, workers), workers)
    service = build(reactor, options, inherited, notify, workers, signals)
    log.info("echod {version} starting", event="starting", version=__version__)
    return service


def use_monotonic_clock(reactor: Any) -> None:
    """
    Let one of Twisted's reactors run its timers by a clock that cannot step.  By the wall clock, a
    step of an hour fires every timeout at once, or none for an hour.
    """
    if getattr(reactor, "seconds", None) is runtime.seconds and not reactor.getDelayedCalls():
        reactor.seconds = time.monotonic


def worker_count(asked: int, limit: int) -> int:
    """
    How many workers are meant: for 0, one for each CPU that this process may use.
    """
    return asked or min(len(os.sched_getaffinity(0)), limit)


def build(
    reactor: Any,
    options: Options,
    inherited: InheritedSockets | None = None,
    notify: NotifyConfig | None = None,
    workers: int = 1,
    signals: Signals | None = None,
) -> DaemonService:
    """
    Build the daemon, or the master of several workers.

    @param inherited: the sockets that were handed to this process.
    @param notify: how the service manager is told what the daemon does.
    @param signals: holds the signals that come before the reactor runs.
    @raise StartupError: when a file or an endpoint is wrong.
    """
    inherited = inherited or InheritedSockets()
    if workers > 1:
        return build_master(reactor, options, inherited, workers, notify, signals)
    return build_service(reactor, options, inherited, 1, notify, signals)


@dataclass(frozen=True)
class Base:
    """
    What every process is built on.

    @ivar certificates: what TLS is served with, C{None} without TLS.
    """

    settings: Settings
    process: ProcessContext
    certificates: CertificateStore | None
    key_log: KeyLog | None

    @classmethod
    def build(
        cls,
        reactor: Any,
        options: Options,
        notify: NotifyConfig | None,
        signals: Signals | None,
        worker: str | None = None,
    ) -> "Base":
        """
        @param worker: which worker the process is, if it is one.
        @raise StartupError: when a file is wrong.
        """
        settings = Settings.from_options(options)
        process = ProcessContext(
            reactor,
            DaemonLog(options.twistd, settings.log.format, settings.log.level, worker),
            Pidfile(options.twistd),
            signals or Signals(reactor),
            notify or NotifyConfig(),
        )
        tls = settings.tls.load(reactor) if settings.tls is not None else (None, None)
        return cls(settings, process, *tls)

    def collector(
        self, connections: Connections, limit: int, listeners: Sequence[ListenerService]
    ) -> Collector:
        """
        Build what takes the snapshots of the process.

        @param limit: how many connections there may be.
        """
        certificates = self.certificates
        return Collector(
            self.process.reactor,
            connections,
            limit,
            lambda: listeners,
            lambda: certificates.served if certificates else (),
            lambda: self.process.log.dropped,
        )


def build_service(
    reactor: Any,
    options: Options,
    inherited: InheritedSockets,
    workers: int = 1,
    notify: NotifyConfig | None = None,
    signals: Signals | None = None,
) -> EchodService:
    """
    Build the daemon as one process; for a check of several workers, too.

    @raise StartupError: when a file or an endpoint is wrong.
    """
    base = Base.build(reactor, options, notify, signals)
    settings, certificates = base.settings, base.certificates
    asked = settings.admission.max_connections
    limit = sum(connection_limit(reactor, each) for each in shares(asked, workers))
    connections = Connections(reactor, settings.timeouts, settings.log.access)
    admission = settings.admission.build(reactor, connections, limit)
    listeners = [
        ListenerService(
            listener.option,
            endpoint,
            EchoFactory(
                listener.name,
                admission,
                certificates if listener.tls else None,
                settings.proxies,
            ),
            reactor,
            settings.timeouts.write,
        )
        for listener, endpoint in settings.endpoints(reactor, inherited, workers)
    ]
    collector = base.collector(connections, limit, listeners)
    admin = settings.admin_service(reactor, inherited, collector.snapshots)
    if admin is not None:
        # Its clocks run for the page alone.
        collector.setServiceParent(admin)
    return EchodService(
        base.process,
        listeners,
        collector,
        settings.drain_timeout,
        admission,
        admin,
        certificates,
        base.key_log,
    )


def build_master(
    reactor: Any,
    options: Options,
    inherited: InheritedSockets,
    count: int,
    notify: NotifyConfig | None = None,
    signals: Signals | None = None,
) -> MasterService:
    """
    Build the master of several workers.

    @raise StartupError: when a file or an endpoint is wrong.
    """
    base = Base.build(reactor, options, notify, signals)
    settings, process = base.settings, base.process
    if base.key_log is not None:
        # It could be opened; the workers do so themselves.
        base.key_log.undo()
    limits = shares(settings.admission.max_connections, count)
    connections = Connections(reactor, Timeouts(), access_log=False)
    admission = Admission(connections, settings.admission.max_connections)
    listeners = [
        HeldListener(
            listener.option,
            endpoint,
            EchoFactory(listener.name, admission),
            reactor,
            settings.timeouts.write,
            listener.tls,
        )
        for listener, endpoint in settings.endpoints(reactor, inherited, count)
    ]
    # Here and now: twistd changes the directory that paths are relative to.
    argv = absolute_argv(options.given, options.shortOpt, options.longOpt)
    spawner = Spawner(
        reactor,
        process.log,
        listeners,
        limits,
        worker_command(options.twistd or {}, argv),
        worker_environment(os.environ, sys.path),
    )
    names = [str(number) for number in range(count)]
    supervisor = Supervisor(
        reactor, names, spawner, process.log.write, settings.drain_timeout, process.signals
    )
    collector = base.collector(connections, settings.admission.max_connections, listeners)
    snapshots = WorkerSnapshots(supervisor.live, collector, limits)
    admin = settings.admin_service(reactor, inherited, snapshots)
    if admin is not None:
        collector.setServiceParent(admin)
    return MasterService(
        process, listeners, collector, settings.drain_timeout, spawner, supervisor, admin
    )


def build_worker(
    reactor: Any, options: Options, config: WorkerConfig, signals: Signals | None = None
) -> WorkerService:
    """
    Build a worker.

    @raise StartupError: when a file is wrong.
    """
    base = Base.build(reactor, options, None, signals, config.worker)
    settings, certificates = base.settings, base.certificates
    limit = connection_limit(reactor, config.max_connections)
    counters = SharedCounters(config.table, len(config.shares))
    os.close(config.table)
    balancer = AcceptBalancer(counters, config.place, limit, lambda: len(connections))
    # At once, so that the others know which process can accept.
    connections = Connections(
        reactor, settings.timeouts, settings.log.access, on_removed=balancer.publish
    )
    admission = settings.admission.build(reactor, connections, limit)
    listeners = [
        ListenerService(
            each.option,
            InheritedEndpoint(reactor, InheritedSocket(each.name, descriptor)),
            EchoFactory(each.name, admission, certificates if each.tls else None, settings.proxies),
            reactor,
            settings.timeouts.write,
            balancer,
            # The queue of a socket that the master was lent does not end with this process.
            leaves_queue=each.borrowed,
        )
        for descriptor, each in enumerate(config.listeners, config.first)
    ]
    return WorkerService(
        base.process,
        listeners,
        base.collector(connections, limit, listeners),
        settings.drain_timeout,
        admission,
        config,
        balancer,
        certificates,
        base.key_log,
    )


def _print_check(service: EchodService, warnings: list[str], workers: int) -> None:
    for text in warnings:
        print(f"echod: warning: {text}", file=sys.__stderr__)
    judgment = "all is well"
    if warnings:
        judgment = "1 warning" if len(warnings) == 1 else f"{len(warnings)} warnings"
    print(f"echod {__version__}: {judgment}; this would listen on")
    for listener in service.all_listeners():
        print(f"  {listener.address()}, {listener.option}")
    print(f"for at most {service.collector.max_connections} connections at once")
    if workers > 1:
        print(f"with {workers} workers")
    if service.certificates is not None:
        print("with")
        for each in service.certificates.served:
            until, path = format_duration(each.not_after), escape(each.path)
            print(f"  {names_text(each)}, until {until}, {path}")


def check_config(reactor: Any, build: Callable[[], EchodService], workers: int = 1) -> None:
    """
    C{--check}: build and start a service, stop it again, and print what would run.  What a start
    would log as a warning goes to standard error, and is no failure.  Nothing is left behind.

    @raise SystemExit: always; with 0 when it could run, else with the line that says why not.
    """
    with captured_warnings() as warnings:
        service = build()
        service.check_log()
        if service.key_log is not None:
            service.key_log.undo()

        async def start_and_stop(_: Any) -> None:
            failed = False
            try:
                service.startService()
                _print_check(service, warnings, workers)
                sys.stdout.flush()
            except OSError as error:
                report_output_error("echod: --check", error, sys.stdout, sys.stderr)
                failed = True
            except ListenError:
                # It has said why; and react() takes a status from a plain SystemExit only.
                failed = True
            await service.stopService()
            if failed:
                raise SystemExit(1)

        react(lambda r: Deferred.fromCoroutine(start_and_stop(r)), _reactor=reactor)
