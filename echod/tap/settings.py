"""
The typed settings: C{Settings.from_options} makes them of the command line, and their methods build
parts of the daemon.

Invariant: the settings are made once and never change.  Each part of the daemon gets what concerns
it as constructor arguments; no part sees the options.
"""

import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from random import SystemRandom
from typing import TYPE_CHECKING, Any

from constantly import NamedConstant
from twisted.internet.interfaces import IStreamServerEndpoint
from twisted.logger import Logger

from echod._util.endpoints import hide_secrets
from echod._util.errors import StartupError
from echod._util.text import escape
from echod.connections.admission import AccessRules, Admission, RateLimiter
from echod.connections.timeouts import Timeouts
from echod.connections.tracker import Connections
from echod.net.endpoints import (
    WRAPPING,
    InheritedEndpoint,
    TCPEndpoint,
    server_endpoint_from_string,
)
from echod.options import Options
from echod.options.parameters import OptionValues
from echod.proxyprotocol.protocol import ProxyPolicy
from echod.stats.snapshot import OptionInfo
from echod.systemd import InheritedSockets
from echod.tap.in_force import options_in_force
from echod.tap.listeners import ListenerSettings, listener_settings
from echod.tap.udp import UDPSettings
from echod.tls.context import TLSPolicy
from echod.tls.credentials import CredentialsError, KeyPair
from echod.tls.keylog import KeyLog
from echod.tls.reload import CertificateStore
from echod.tls.selfsigned import make_for_host
from echod.workers.master import UNSHARED

if TYPE_CHECKING:
    from echod.admin.resource import AdminService, Source

log = Logger(namespace="echod")

_TLS_ADVICE = "TLS, use --tls-listen"

Endpoints = Callable[[str, str, str], list[tuple[str, IStreamServerEndpoint]]]
"""Makes endpoints, each with its listener's name, of an option, an endpoint string and a mode."""


@dataclass(frozen=True)
class TLSSettings:
    """
    Settings of TLS.

    @ivar pairs: the files of each certificate and of its key, C{None} for the same file.
    @ivar self_signed: whether to make a certificate.
    @ivar interface: the address of all ports; C{None} for all addresses.
    @ivar client_ca: the file with the authorities that sign client certificates.
    @ivar key_log: the file that gets the secrets of all sessions.
    """

    policy: TLSPolicy
    pairs: Sequence[tuple[str, str | None]]
    self_signed: bool
    interface: str | None
    client_ca: str | None
    key_log: str | None

    def load(
        self, reactor: Any, self_made: KeyPair | None = None
    ) -> tuple[CertificateStore, KeyLog | None]:
        """
        Read the certificates, or make one, and open the key log.

        @param self_made: the key pair that the master has made, in a worker.
        @raise StartupError: if a file cannot be used.
        """
        policy, key_log = self.policy, None
        if self.key_log is not None:
            key_log = KeyLog(self.key_log)
            policy = replace(policy, log_keys=key_log.write)
        if self.self_signed and self_made is None:
            self_made = make_for_host(self.interface, datetime.now(UTC))
        certificates = CertificateStore(
            reactor, policy, self.pairs, self.client_ca, self_made=self_made
        )
        try:
            certificates.load()
            if key_log is not None:
                key_log.open()
                key_log.warn()
        except CredentialsError as error:
            raise StartupError(f"--tls-{error.kind}: {escape(str(error))}") from None
        except MemoryError:
            # pyOpenSSL calls cffi's ffi.callback(), which raises this error if the memory that it
            # needs may not be executable.
            raise StartupError(
                "several --tls-cert, --tls-alpn and --tls-keylog take memory that is both "
                "written and executed; give the service MemoryDenyWriteExecute=no"
            ) from None
        except OSError as error:
            raise StartupError(
                f"--tls-keylog '{escape(self.key_log or '')}': {error.strerror}; "
                "give a file that can be written"
            ) from None
        return certificates, key_log


@dataclass(frozen=True)
class AdmissionSettings:
    """
    Settings of who may connect.

    @ivar max_connections: the limit of connections, of all processes together.
    @ivar max_per_client: the limit of connections of one client; 0 for no limit.
    @ivar rate: new connections a second, and burst, of one client; C{None} for no limit.
    """

    max_connections: int
    max_per_client: int
    rules: AccessRules
    rate: tuple[float, int] | None

    def build(self, clock: Any, connections: Connections, limit: int) -> Admission:
        """
        Build the admission of this process.

        @param limit: the limit of connections of this process.
        """
        limiter = RateLimiter(clock, *self.rate) if self.rate else None
        return Admission(connections, limit, self.rules, self.max_per_client, limiter)


@dataclass(frozen=True)
class LogSettings:
    """
    Settings of the log.

    @ivar format: C{None} for the default.
    @ivar level: C{None} for the default.
    @ivar access: whether to log the access records.
    """

    format: str | None
    level: NamedConstant | None
    access: bool


@dataclass(frozen=True)
class AdminSettings:
    """
    Settings of status page, metrics and health.

    @ivar endpoint: the endpoint string of C{--admin}.
    @ivar hosts: the names of C{--admin-host}.
    @ivar options: the options in force, which the page shows.
    """

    endpoint: str
    hosts: Sequence[str]
    options: Sequence[OptionInfo]

    def build(self, reactor: Any, source: "Source", endpoints: Endpoints) -> "AdminService":
        """
        Build the service that answers HTTP.

        @param source: takes the snapshots that it shows.
        @param endpoints: makes the endpoints of an endpoint string.
        @raise StartupError: if the endpoint string is wrong, or prometheus_client is not installed.
        """
        try:
            # Imported here, because these modules take memory, and only --admin needs them.
            from echod.admin.prometheus import render_metrics
            from echod.admin.resource import AdminService, names_beside
        except ImportError:
            raise StartupError(
                "--admin: needs prometheus_client; pip install 'echod[metrics]'"
            ) from None
        names = set(self.hosts)
        with suppress(OSError), open("/etc/hosts", encoding="utf-8", errors="replace") as hosts:
            names |= names_beside(socket.gethostname(), hosts)
        admin = AdminService(reactor, source, render_metrics, names, self.options)
        option = f"--admin {escape(hide_secrets(self.endpoint))}"
        for _, endpoint in endpoints(option, self.endpoint, "660"):
            admin.add_listener(option, endpoint)
        return admin


@dataclass(frozen=True)
class Settings:
    """
    All settings of the daemon.

    @ivar udp: the UDP sockets.
    @ivar interface: the address for all ports; C{None} for all addresses, IPv4 and IPv6.
    @ivar backlog: the length of each accept queue (listen(2)).
    @ivar proxies: which peers may send a PROXY header; C{None} to read no header.
    @ivar tls: C{None} without TLS.
    @ivar admin: C{None} without C{--admin}.
    @ivar workers: the number of processes; 0 for one for each CPU.
    @ivar drain_timeout: how many seconds a stop waits for busy connections.
    @ivar fault_seed: what the faults of connections are drawn from; random by default.
    """

    listeners: Sequence[ListenerSettings]
    udp: UDPSettings
    interface: str | None
    backlog: int
    admission: AdmissionSettings
    timeouts: Timeouts
    proxies: ProxyPolicy | None
    tls: TLSSettings | None
    log: LogSettings
    admin: AdminSettings | None
    workers: int
    drain_timeout: float
    fault_seed: int

    @classmethod
    def from_options(cls, parsed: Options) -> "Settings":
        """
        Make the settings of the options, which are correct since they have been parsed.
        """
        options = parsed.typed
        return cls(
            listeners=listener_settings(options),
            udp=UDPSettings.from_options(options),
            interface=options["interface"],
            backlog=options["backlog"],
            admission=AdmissionSettings(
                max_connections=options["max-connections"],
                max_per_client=options["max-per-client"],
                rules=AccessRules(options["allow"], options["deny"]),
                rate=options["connect-rate"],
            ),
            timeouts=Timeouts(
                handshake=options["handshake-timeout"],
                idle=options["idle-timeout"],
                lifetime=options["max-lifetime"],
                write=options["write-timeout"],
                proxy_header=options["proxy-header-timeout"],
            ),
            proxies=_proxies(options),
            tls=_tls(options) if parsed.serves_tls else None,
            log=LogSettings(
                options["log-format"], options["log-level"], options["access-log"] == "on"
            ),
            admin=_admin(parsed),
            workers=options["workers"],
            drain_timeout=options["drain-timeout"],
            fault_seed=_fault_seed(options),
        )

    def endpoints(
        self, reactor: Any, inherited: InheritedSockets, workers: int
    ) -> list[tuple[ListenerSettings, IStreamServerEndpoint]]:
        """
        Build the endpoints of all listeners.

        @param workers: the number of processes that share them.
        @raise StartupError: if an endpoint string is wrong, or workers cannot share the endpoint.
        """
        from_string = partial(build_endpoints, reactor, self.backlog, inherited)
        built: list[tuple[ListenerSettings, IStreamServerEndpoint]] = []
        for each in self.listeners:
            each.warn(self.fault_seed)
            if each.port is not None:
                endpoint = TCPEndpoint(reactor, each.port, self.interface, self.backlog)
                built.append((each, endpoint))
                continue
            kind = each.endpoint.partition(":")[0]
            wraps = kind in WRAPPING
            advice = "PROXY headers, use --proxy-protocol" if kind == "haproxy" else _TLS_ADVICE
            if wraps and workers > 1:
                raise StartupError(f"{each.option}: {UNSHARED}; for {advice}")
            for name, found in from_string(each.option, each.endpoint):
                built.append((replace(each, name=name), found))
            if wraps and not each.tls:
                log.warn(
                    "{option}: its layer around the connection loses data when a client closes "
                    "its sending side; for {advice}",
                    event="lossy-listener",
                    option=each.option,
                    advice=advice,
                )
        return built

    def admin_service(
        self, reactor: Any, inherited: InheritedSockets, source: "Source"
    ) -> "AdminService | None":
        """
        Build the service of C{--admin}, and warn of each inherited socket that no option uses.

        @raise StartupError: if the endpoint string is wrong, or prometheus_client is not installed.
        """
        admin = None
        if self.admin is not None:
            from_string = partial(build_endpoints, reactor, self.backlog, inherited)
            admin = self.admin.build(reactor, source, from_string)
        for each in inherited.left:
            log.warn(
                "no option listens on the inherited socket; add {option} systemd:name={name}",
                event="socket-unused",
                option="--udp-listen" if each.is_datagram() else "--listen",
                name=escape(each.name),
            )
        return admin


def build_endpoints(
    reactor: Any,
    backlog: int,
    inherited: InheritedSockets,
    option: str,
    description: str,
    mode: str = "666",
) -> list[tuple[str, IStreamServerEndpoint]]:
    """
    Build the endpoints of an endpoint string, each with the name of its listener.

    @param option: the option with its value, for errors.
    @param mode: the permissions of a UNIX socket's file, in octal.
    @raise StartupError: if the string is wrong.
    """
    inherits = description.startswith("systemd:")
    try:
        if inherits:
            return [
                (each.name, InheritedEndpoint(reactor, each))
                for each in inherited.take(description)
            ]
        endpoint = server_endpoint_from_string(reactor, description, backlog, mode)
        return [(hide_secrets(description), endpoint)]
    except ValueError as error:
        # The status page has no password.
        port = "9001:interface=127.0.0.1" if option.startswith("--admin") else "9000"
        example = "" if inherits else f"; give one such as tcp:{port} or unix:/run/echod.sock"
        raise StartupError(f"{option}: {error}{example}") from None


def _fault_seed(options: OptionValues) -> int:
    given = options["fault-seed"]
    return SystemRandom().randrange(1 << 32) if given is None else given


def _proxies(options: OptionValues) -> ProxyPolicy | None:
    if options["proxy-protocol"] == "off":
        return None
    networks = [each for each in options["proxy-trust"] if not isinstance(each, str)]
    required = options["proxy-protocol"] == "require"
    return ProxyPolicy(required, networks, "unix" in options["proxy-trust"])


def _tls(options: OptionValues) -> TLSSettings:
    policy = TLSPolicy(
        minimum=options["tls-min"] or "1.2",
        alpn=options["tls-alpn"] or (),
        client_auth=options["tls-client-auth"] or "off",
    )
    return TLSSettings(
        policy,
        options["tls-cert"],
        bool(options["tls-self-signed"]),
        options["interface"],
        options["tls-client-ca"],
        options["tls-keylog"],
    )


def _admin(parsed: Options) -> AdminSettings | None:
    options = parsed.typed
    if options["admin"] is None:
        return None
    return AdminSettings(options["admin"], options["admin-host"], options_in_force(parsed))
