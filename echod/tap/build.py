"""
Builds the daemon: as one process, as the master of several workers, or as one of those.

Invariant: each part gets all that it needs as constructor arguments; nothing is set on a part
from outside after it is made.
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from twisted.logger import Logger

from echod._util.signals import Signals
from echod._util.sockets import descriptor_limit
from echod._util.twistd import Pidfile
from echod.connections.access import IAccessLog
from echod.connections.admission import Admission
from echod.connections.timeouts import Timeouts
from echod.connections.tracker import Connections
from echod.logs.daemonlog import DaemonLog
from echod.net.balance import AcceptBalancer, SharedCounters
from echod.net.endpoints import InheritedEndpoint
from echod.net.listener import ListenerService
from echod.options import Options
from echod.protocol import EchoFactory
from echod.service import DaemonService, EchodService, ProcessContext, Serving
from echod.stats.collector import Collector
from echod.systemd import InheritedSocket, InheritedSockets, NotifyConfig
from echod.tap.listeners import ListenerSettings
from echod.tap.settings import Settings
from echod.tap.udp import worker_listener
from echod.tls.keylog import KeyLog
from echod.tls.reload import CertificateStore
from echod.tls.selfsigned import from_pem, to_pem
from echod.udp import UDPListener
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

log = Logger(namespace="echod")

RESERVED_DESCRIPTORS = 64
"""For listeners, files, the reactor and its pipe, and the clients of the status page."""


def connection_limit(reactor: Any, share: int, asked: int) -> int:
    """
    The limit of connections of one process: its share, or less, with a warning, if there are too
    few file descriptors.

    @param share: its share of what is asked for, which is all of it without workers.
    @param asked: C{--max-connections}.
    """
    # select(2) takes no descriptor above 1023.
    module = sys.modules.get("twisted.internet.selectreactor")
    selects = module is not None and isinstance(reactor, module.SelectReactor)
    available = min(descriptor_limit(), 1024 if selects else sys.maxsize) - RESERVED_DESCRIPTORS
    limit = max(1, min(share, available))
    if limit < share:
        subject = "" if share == asked else "a worker's share of {share} is "
        log.warn(
            "--max-connections {asked}: " + subject + "limited to {most}: too few file "
            "descriptors; raise the hard limit (ulimit -Hn, LimitNOFILE=)",
            event="descriptor-limit",
            asked=asked,
            share=share,
            most=limit,
        )
    return limit


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

    @param inherited: the sockets that the service manager has handed over.
    @param notify: how to notify the service manager.
    @param signals: keeps the signals that arrive before the reactor runs.
    @raise StartupError: if a file or an endpoint is wrong.
    """
    inherited = inherited or InheritedSockets()
    if workers > 1:
        return build_master(reactor, options, inherited, workers, notify, signals)
    return build_service(reactor, options, inherited, 1, notify, signals)


@dataclass(frozen=True)
class Base:
    """
    The parts that each process has.

    @ivar certificates: the certificates that TLS serves, C{None} without TLS.
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
        worker: WorkerConfig | None = None,
    ) -> "Base":
        """
        @param worker: the configuration of the worker, if the process is one.
        @raise StartupError: if a file is wrong.
        """
        settings = Settings.from_options(options)
        process = ProcessContext(
            reactor,
            DaemonLog(
                options.twistd,
                settings.log.format,
                settings.log.level,
                None if worker is None else worker.worker,
            ),
            Pidfile(options.twistd),
            signals or Signals(reactor),
            notify or NotifyConfig(),
            settings.proxies is not None and settings.proxies.required,
        )
        if settings.tls is None:
            return cls(settings, process, None, None)
        pem = None if worker is None else worker.key_pair()
        self_made = None if pem is None else from_pem(pem)
        return cls(settings, process, *settings.tls.load(reactor, self_made))

    def echo_factory(
        self, listener: ListenerSettings, admission: Admission, worker: str | None = None
    ) -> EchoFactory:
        """
        Build the factory of a listener.

        @param worker: the name of this worker, if the process is one.
        """
        tls, settings = self.certificates if listener.tls else None, self.settings
        if not (listener.faults or listener.greets):
            return EchoFactory(listener.name, admission, tls, settings.proxies)
        # Imported here: without --fault and --greet, no byte and no memory goes there.
        from echod.faults.factory import FaultFactory, Misbehavior

        behavior = Misbehavior(
            listener.faults, listener.greets, settings.fault_seed, listener.place, worker
        )
        return FaultFactory(
            listener.name, admission, tls, settings.proxies, behavior, self.process.reactor
        )

    def access_log(self) -> IAccessLog | None:
        """
        What writes the access records; C{None} for C{--access-log off}.
        """
        return self.process.log.access if self.settings.log.access else None

    def collector(
        self,
        connections: Connections,
        limit: int,
        listeners: Sequence[ListenerService],
        udp: Sequence[UDPListener],
    ) -> Collector:
        """
        Build the collector of this process's snapshots.

        @param limit: the limit of connections.
        """
        certificates = self.certificates
        return Collector(
            self.process.reactor,
            connections,
            limit,
            lambda: listeners,
            lambda: certificates.served if certificates else (),
            lambda: self.process.log.dropped,
            udp=udp,
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
    Build the daemon as one process; also for C{--check} with several workers.

    @raise StartupError: if a file or an endpoint is wrong.
    """
    base = Base.build(reactor, options, notify, signals)
    settings, certificates = base.settings, base.certificates
    asked = settings.admission.max_connections
    limit = sum(connection_limit(reactor, each, asked) for each in shares(asked, workers))
    connections = Connections(reactor, settings.timeouts, base.access_log())
    admission = settings.admission.build(reactor, connections, limit)
    listeners = [
        ListenerService(
            listener.option,
            endpoint,
            base.echo_factory(listener, admission),
            reactor,
            settings.timeouts.write,
        )
        for listener, endpoint in settings.endpoints(reactor, inherited, workers)
    ]
    udp = settings.udp.listeners(reactor, inherited)
    collector = base.collector(connections, limit, listeners, udp)
    admin = settings.admin_service(reactor, inherited, collector.snapshots)
    if admin is not None:
        # Its timers run only for the status page.
        collector.setServiceParent(admin)
    return EchodService(
        base.process,
        [*listeners, *udp],
        collector,
        settings.drain_timeout,
        Serving(admission, certificates, base.key_log),
        admin,
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

    @raise StartupError: if a file or an endpoint is wrong.
    """
    base = Base.build(reactor, options, notify, signals)
    settings, process = base.settings, base.process
    if base.key_log is not None:
        # Loading it has shown that it can be opened.  The workers open it again.
        base.key_log.undo()
    limits = shares(settings.admission.max_connections, count)
    connections = Connections(reactor, Timeouts(), access_log=None)
    admission = Admission(connections, settings.admission.max_connections)
    listeners = [
        HeldListener(
            listener.option,
            endpoint,
            EchoFactory(listener.name, admission),
            reactor,
            settings.timeouts.write,
            listener.tls,
            listener.place,
        )
        for listener, endpoint in settings.endpoints(reactor, inherited, count)
    ]
    udp = settings.udp.held_listeners(reactor, inherited)
    # Before the start: twistd then changes the working directory, which paths are relative to.
    argv = absolute_argv(options.given, options.shortOpt, options.longOpt)
    if options["fault"] and options["fault-seed"] is None:
        # All workers draw with the seed that the log names.
        argv.append(f"--fault-seed={settings.fault_seed}")
    self_made = None if base.certificates is None else base.certificates.self_made
    spawner = Spawner(
        process,
        [*listeners, *udp],
        limits,
        worker_command(options.twistd or {}, argv),
        worker_environment(os.environ, sys.path),
        None if self_made is None else to_pem(self_made),
    )
    names = [str(number) for number in range(count)]
    supervisor = Supervisor(
        reactor, names, spawner, process.log.write, settings.drain_timeout, process.signals
    )
    collector = base.collector(connections, settings.admission.max_connections, listeners, udp)
    snapshots = WorkerSnapshots(supervisor.live, collector, limits)
    admin = settings.admin_service(reactor, inherited, snapshots)
    if admin is not None:
        collector.setServiceParent(admin)
    return MasterService(
        process,
        [*listeners, *udp],
        collector,
        settings.drain_timeout,
        spawner,
        supervisor,
        admin,
    )


def build_worker(
    reactor: Any, options: Options, config: WorkerConfig, signals: Signals | None = None
) -> WorkerService:
    """
    Build a worker.

    @raise StartupError: if a file is wrong.
    """
    base = Base.build(reactor, options, None, signals, config)
    settings, certificates = base.settings, base.certificates
    limit = connection_limit(reactor, config.max_connections, settings.admission.max_connections)
    counters = SharedCounters(config.counters, len(config.shares))
    os.close(config.counters)
    balancer = AcceptBalancer(counters, config.index, limit, lambda: len(connections))
    # Publishing at each end lets the other workers know at once that this one can accept.
    connections = Connections(
        reactor, settings.timeouts, base.access_log(), on_removed=balancer.publish
    )
    admission = settings.admission.build(reactor, connections, limit)
    listeners = [
        ListenerService(
            each.option,
            InheritedEndpoint(reactor, InheritedSocket(each.name, descriptor)),
            base.echo_factory(
                replace(settings.listeners[each.place], name=each.name, tls=each.tls),
                admission,
                config.worker,
            ),
            reactor,
            settings.timeouts.write,
            balancer,
            # The accept queue of an inherited socket outlives this daemon.
            leaves_queue=each.borrowed,
        )
        for descriptor, each in enumerate(config.listeners, config.first)
        if not each.datagrams
    ]
    datagrams = settings.udp.admission(reactor)
    udp = [
        # What the kernel discards of a socket counts once, not for each worker.
        worker_listener(reactor, datagrams, each, descriptor, config.index == 0)
        for descriptor, each in enumerate(config.listeners, config.first)
        if each.datagrams
    ]
    collector = base.collector(connections, limit, listeners, udp)
    service = WorkerService(
        base.process,
        [*listeners, *udp],
        collector,
        settings.drain_timeout,
        Serving(admission, certificates, base.key_log),
        config,
        balancer,
    )
    if settings.admin is not None:
        # The master's status page shows what each worker measures.
        collector.setServiceParent(service)
    return service
