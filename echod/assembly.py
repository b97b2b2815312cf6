"""
The daemon, put together from what the options ask for: its listeners, what they serve
with, and what shows it.

Invariant: all that can be found wrong is found wrong here, in one line.  Nothing
here opens a socket, starts a timer or forks; that waits until the service is started.
"""

import socket
import sys
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from twisted.internet.interfaces import IStreamServerEndpoint
from twisted.logger import Logger

from echod._util.signals import Signals
from echod._util.sockets import descriptor_limit
from echod._util.text import escape
from echod.net.endpoints import (
    WRAPPING,
    InheritedEndpoint,
    TCPEndpoint,
    server_endpoint_from_string,
)
from echod.options import Options
from echod.service import EchodService
from echod.systemd import InheritedSockets, NotifyConfig
from echod.tls.context import TLSPolicy
from echod.tls.credentials import CredentialsError
from echod.tls.keylog import KeyLog
from echod.tls.reload import CertificateStore
from echod.workers.master import UNSHARED, MasterService
from echod.workers.spawn import WorkerConfig, shares
from echod.workers.worker import WorkerService

if TYPE_CHECKING:
    from echod.admin.resource import AdminService, Source

log = Logger(namespace="echod")

RESERVED_DESCRIPTORS = 64
"""What is kept for listeners, files, the reactor itself, and those that are let go."""


def connection_limit(reactor: Any, asked: int) -> int:
    """
    How many connections there may be: as many as are asked for, less what there are no
    descriptors for.
    """
    # One that waits with select(2) can wait for no others.
    waits = sys.modules.get("twisted.internet.selectreactor")
    selects = waits is not None and isinstance(reactor, waits.SelectReactor)
    room = min(descriptor_limit(), 1024 if selects else sys.maxsize) - RESERVED_DESCRIPTORS
    most = max(1, min(asked, room))
    if most < asked:
        log.warn(
            "--max-connections {asked}: {most} it is, for want of descriptors; raise the hard "
            "limit (ulimit -Hn, LimitNOFILE=)",
            event="descriptor-limit",
            asked=asked,
            most=most,
        )
    return most


def build(
    reactor: Any,
    options: Options,
    inherited: InheritedSockets | None = None,
    notify: NotifyConfig | None = None,
    workers: int = 1,
    signals: Signals | None = None,
) -> EchodService:
    """
    Build the daemon that the options ask for.

    @param inherited: the sockets that were handed over to this process.
    @param notify: how the service manager is told what the daemon does.
    @param workers: how many processes shall serve; with more than one, what is built is
        their parent, but for a check.
    @param signals: what holds the signals that come before the daemon runs.
    @raise SystemExit: with one line, when a file or an endpoint string is wrong.
    """
    most = options["max-connections"]
    if workers > 1 and not options["check"]:
        service: EchodService = MasterService(reactor, options, most, workers, notify, signals)
    else:
        most = sum(connection_limit(reactor, each) for each in shares(most, workers))
        service = EchodService(reactor, options, most, notify, signals)
    if options.serves_tls:
        _prepare_tls(reactor, options, service)
    _add_listeners(reactor, options, service, inherited or InheritedSockets(), workers)
    return service


def build_worker(
    reactor: Any, options: Options, config: WorkerConfig, signals: Signals | None = None
) -> WorkerService:
    """
    Build a worker.

    @raise SystemExit: with one line, when a file is wrong.
    """
    most = connection_limit(reactor, config.max_connections)
    service = WorkerService(reactor, options, most, config, signals)
    if options.serves_tls:
        _prepare_tls(reactor, options, service)
    service.add_inherited()
    return service


def _add_listeners(
    reactor: Any,
    options: Options,
    service: EchodService,
    inherited: InheritedSockets,
    workers: int,
) -> None:
    interface, backlog = options["interface"], options["backlog"]
    at = f" --interface {interface}" if interface else ""
    certificates = service.certificates
    for name, option, port, tls in (
        ("tcp", "--port", options["port"], None),
        ("tls", "--tls-port", options["tls-port"], certificates),
    ):
        if port is not None:
            endpoint = TCPEndpoint(reactor, port, interface, backlog)
            service.add_listener(name, f"{option} {port}{at}", endpoint, tls)
    for option, descriptions, tls in (
        ("--listen", options["listen"], None),
        ("--tls-listen", options["tls-listen"], certificates),
    ):
        for description in descriptions:
            asked = f"{option} {escape(description)}"
            wraps = description.partition(":")[0] in WRAPPING
            if wraps and workers > 1:
                raise SystemExit(f"echod: {asked}: {UNSHARED}; for TLS, use --tls-listen")
            try:
                found = _endpoints(reactor, description, backlog, inherited)
            except ValueError as error:
                raise SystemExit(f"echod: {asked}: {error}") from None
            for name, each in found:
                service.add_listener(name, asked, each, tls)
            if tls is None and wraps:
                log.warn(
                    "{option}: its layer around the connection loses what is owed to a client "
                    "that closes its sending side; for TLS, use --tls-port",
                    event="lossy-listener",
                    option=asked,
                )
    if options["admin"] is not None:
        service.add_admin(build_admin(reactor, options, service.snapshots, inherited))
    for left in inherited.left:
        log.warn(
            "a socket was handed over that no option listens on; add --listen systemd:name={name}",
            event="socket-unused",
            name=escape(left.name),
        )


def build_admin(
    reactor: Any, options: Options, source: "Source", inherited: InheritedSockets
) -> "AdminService":
    """
    Build what C{--admin} asks for.

    @raise SystemExit: with one line, when the endpoint string is wrong, or a part of what
        it takes is not installed.
    """
    try:
        # Here, since a daemon that does not serve HTTP can do without the memory for it.
        from echod.admin.prometheus import render_metrics
        from echod.admin.resource import AdminService, names_beside
    except ImportError:
        raise SystemExit(
            "echod: --admin: needs prometheus_client; pip install 'echod[metrics]'"
        ) from None
    names = set(options["admin-host"])
    with suppress(OSError), open("/etc/hosts", encoding="utf-8", errors="replace") as hosts:
        names |= names_beside(socket.gethostname(), hosts)
    admin = AdminService(reactor, source, render_metrics, names)
    asked = f"--admin {escape(options['admin'])}"
    try:
        found = _endpoints(reactor, options["admin"], options["backlog"], inherited, "660")
    except ValueError as error:
        raise SystemExit(f"echod: {asked}: {error}") from None
    for _, endpoint in found:
        admin.add_listener(asked, endpoint)
    return admin


def _endpoints(
    reactor: Any, description: str, backlog: int, inherited: InheritedSockets, mode: str = "666"
) -> list[tuple[str, IStreamServerEndpoint]]:
    """
    The endpoints that a string describes, each with the name of its listener.
    """
    if description.startswith("systemd:"):
        return [
            (each.name, InheritedEndpoint(reactor, each)) for each in inherited.take(description)
        ]
    try:
        return [(description, server_endpoint_from_string(reactor, description, backlog, mode))]
    except ValueError as error:
        raise ValueError(f"{error}; give one such as tcp:9000 or unix:/run/echod.sock") from None


def _prepare_tls(reactor: Any, options: Options, service: EchodService) -> None:
    policy = TLSPolicy(
        minimum=options["tls-min"] or "1.2",
        alpn=options["tls-alpn"] or (),
        client_auth=options["tls-client-auth"] or "off",
    )
    if (path := options["tls-keylog"]) is not None:
        service.key_log = KeyLog(path)
        policy = replace(policy, log_keys=service.key_log.write)
    service.certificates = CertificateStore(
        reactor, policy, options["tls-cert"], options["tls-client-ca"]
    )
    try:
        service.certificates.load()
        if service.key_log is not None:
            service.key_log.open()
            service.key_log.warn()
    except CredentialsError as error:
        raise SystemExit(f"echod: --tls-{error.kind}: {escape(str(error))}") from None
    except MemoryError:
        # cffi's ffi.callback(), which pyOpenSSL uses; not for want of memory.
        raise SystemExit(
            "echod: several --tls-cert, --tls-alpn and --tls-keylog take memory that is both "
            "written and executed; give the service MemoryDenyWriteExecute=no"
        ) from None
    except OSError as error:
        raise SystemExit(
            f"echod: --tls-keylog '{escape(path)}': {error.strerror}; "
            "give a file that can be written"
        ) from None
    if isinstance(service, MasterService):
        # Was all well?  The workers serve with it, and look for changes themselves.
        if service.key_log is not None:
            service.key_log.undo()
    else:
        service.certificates.setServiceParent(service)
