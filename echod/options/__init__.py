"""
The command line.

Invariant: a wrong option ends the start with one line, which names the option and says what to
give, before any part of the daemon is made.
"""

import os
import re
from collections.abc import Sequence
from typing import cast

from twisted.application.app import ServerOptions
from twisted.python.usage import UsageError

from echod import __version__
from echod._util.endpoints import admin_endpoint, datagram_endpoint, endpoint
from echod._util.errors import StartupError, exit_on_error
from echod._util.help import CommandOptions
from echod._util.text import escape
from echod._util.twistd import check_old_pidfile
from echod._util.values import (
    host,
    named,
    network,
    path,
)
from echod.options.listeners import listener_options
from echod.options.parameters import (
    DEFAULT_PORT,
    FLAGS,
    GROUPS,
    PARAMETERS,
    REPEATABLE,
    OptionValues,
)

__all__ = ["Options"]

PLAIN_ENDPOINTS = ("tcp:", "tcp6:", "unix:", "systemd:")
"""How the endpoint strings begin that have no TLS of their own, as C{ssl:} has."""


class Options(CommandOptions):
    """
    The options of C{echod}, C{twistd echod} and C{twist echod}.
    """

    program = "echod"
    longdesc = (
        "A TCP and UDP echo daemon (RFC 862): every byte that a TCP client sends comes back. "
        "SECONDS may have a unit: 500ms, 30s, 5m, 1h, 1d. "
        "The command echod runs it in the foreground. For a log file, syslog, another user or the "
        "background, run: twistd [options of twistd] echod [options]"
    )
    groups = GROUPS
    examples = (
        (
            "echod --port 9000 --tls-port 9443 --tls-self-signed",
            "Serves plain TCP on port 9000 and TLS on port 9443, on IPv4 and IPv6.",
        ),
    )
    repeatable = REPEATABLE

    optParameters = PARAMETERS
    optFlags = FLAGS

    given: Sequence[str] = ()
    """The arguments, as they stand on the command line."""

    def __init__(self) -> None:
        super().__init__()
        for name in REPEATABLE - {"tls-key"}:
            self[name] = []
        self["admin"] = None

    def opt_listen(self, description: str) -> None:
        """
        Twisted server endpoint for plain TCP, such as tcp:9000:interface=127.0.0.1,
        unix:/run/echod.sock, or systemd:name=echo for all sockets of that name that a
        socket unit hands over; repeatable.
        """
        self["listen"].append(named("listen", description, endpoint))

    def opt_tls_listen(self, description: str) -> None:
        """
        Twisted server endpoint for TLS, such as tcp:9443:interface=127.0.0.1; repeatable.
        """
        self["tls-listen"].append(named("tls-listen", description, endpoint))

    def opt_udp_listen(self, description: str) -> None:
        """
        UDP socket: udp:9000, udp:9000:interface=127.0.0.1, or systemd:name=echo for all
        datagram sockets of that name that a socket unit hands over; repeatable.
        """
        self["udp-listen"].append(named("udp-listen", description, datagram_endpoint))

    def opt_fault(self, fault: str) -> None:
        """
        For tests: let the listener before it misbehave, such as latency=200ms,jitter=50ms or
        reset=1MiB,chance=10%; kinds: latency, bandwidth, slicer, limit, reset, timeout,
        slow-close, corrupt, refuse; repeatable.
        """

    def opt_greet(self) -> None:
        """
        For tests: the listener before it first sends a line of JSON with what it knows of the
        connection; repeatable.
        """

    def opt_admin(self, description: str) -> None:
        """
        Twisted server endpoint for the status page, metrics and health over HTTP, such as
        tcp:9001:interface=127.0.0.1 or unix:/run/echod-admin.sock.
        """
        self["admin"] = named("admin", description, admin_endpoint)

    def opt_admin_host(self, name: str) -> None:
        """
        Further host name or address that --admin answers to, besides localhost, the host
        name, and the address that the client connects to; repeatable.
        """
        self["admin-host"].append(named("admin-host", name, host))

    def opt_allow(self, cidr: str) -> None:
        """
        Network whose clients are admitted, such as 192.0.2.0/24; with it, all other clients
        are refused. Repeatable.
        """
        self["allow"].append(named("allow", cidr, network))

    def opt_deny(self, cidr: str) -> None:
        """
        Network whose clients are refused, such as 192.0.2.0/24, even if --allow admits them;
        repeatable.
        """
        self["deny"].append(named("deny", cidr, network))

    def opt_proxy_trust(self, cidr: str) -> None:
        """
        Network whose PROXY headers are trusted, such as 192.0.2.0/24, or the word unix for
        UNIX sockets; repeatable.
        """
        trusted = cidr if cidr == "unix" else named("proxy-trust", cidr, network)
        self["proxy-trust"].append(trusted)

    def opt_tls_cert(self, file: str) -> None:
        """
        PEM file with a certificate, its chain, and its key if --tls-key does not follow;
        repeatable; the first certificate is the default.
        """
        self["tls-cert"].append((named("tls-cert", file, path), None))

    def opt_tls_key(self, file: str) -> None:
        """
        PEM file with the key of the --tls-cert before it; repeatable.
        """
        key = named("tls-key", file, path)
        if not self["tls-cert"]:
            raise UsageError("--tls-key: belongs to the --tls-cert before it; give that first")
        cert, other_key = self["tls-cert"].pop()
        if other_key is not None:
            raise UsageError("--tls-key: one for each --tls-cert; give the second after its own")
        self["tls-cert"].append((cert, key))

    def opt_version(self) -> None:
        """
        Print the version and exit.
        """
        self.print_and_exit(f"echod {__version__}")

    def parseArgs(self, *args: str) -> None:
        """
        Refuse arguments: there are only options.
        """
        if args:
            raise UsageError(f"unexpected argument '{escape(args[0])}'; see --help")

    def postOptions(self) -> None:
        """
        Check the options that depend on each other.
        """
        self._check_tls()
        if all(self[name] is None for name in ("port", "tls-port", "udp-port")):
            others = self["listen"] or self["tls-listen"] or self["udp-listen"]
            if self["interface"] is not None and others:
                raise UsageError(
                    "--interface: is for --port, --tls-port and --udp-port; "
                    "in --listen give tcp:PORT:interface=ADDRESS"
                )
            if not others:
                self["port"] = DEFAULT_PORT
        if self["udp-rate"] is not None and self["udp-port"] is None and not self["udp-listen"]:
            raise UsageError("--udp-rate: limits nothing without --udp-port; add one")
        after = listener_options(
            self.given, self.shortOpt, self.longOpt, self.synonyms, ("fault", "greet")
        )
        for name, text, listener in after:
            self[name].append((listener, text) if name == "fault" else listener)
        if self["fault-seed"] is not None and not self["fault"]:
            raise UsageError("--fault-seed: draws nothing without --fault; add one")
        if self["workers"] != 1:
            self._check_workers()
        if self["proxy-protocol"] != "off" and not self["proxy-trust"]:
            raise UsageError(
                "--proxy-protocol: no proxy is trusted; add --proxy-trust with the proxy's address"
            )
        if self["proxy-trust"] and self["proxy-protocol"] == "off":
            raise UsageError(
                "--proxy-trust: reads no header; add --proxy-protocol require or optional"
            )
        if "proxy-header-timeout" in self.given_names and self["proxy-protocol"] == "off":
            raise UsageError(
                "--proxy-header-timeout: reads no header; add --proxy-protocol require or optional"
            )
        if self["admin-host"] and self["admin"] is None:
            raise UsageError("--admin-host: names nothing without --admin; add one")
        for name in ("log-level", "log-format"):
            if self[name] is not None and self.parent is not None and self.twistd is None:
                raise UsageError(
                    f"--{name}: twist has its own, and logs for us; give it before echod"
                )

    @property
    def typed(self) -> OptionValues:
        """
        The same values, with their types.
        """
        return cast(OptionValues, self)

    @property
    def serves_tls(self) -> bool:
        """
        Whether any listener is for TLS.
        """
        return self["tls-port"] is not None or bool(self["tls-listen"])

    def _check_workers(self) -> None:
        if self.parent is not None and self.twistd is None:
            raise UsageError("--workers: twist runs one process; give it to twistd -n echod")
        if not hasattr(os, "memfd_create"):
            raise UsageError("--workers: needs Linux; start several daemons instead")
        if self["workers"] > self["max-connections"]:
            raise UsageError("--workers: more than --max-connections; give fewer")

    def _check_tls(self) -> None:
        if not self.serves_tls:
            for name in (name for name in self if name.startswith("tls-") and self[name]):
                raise UsageError(f"--{name}: serves nothing without --tls-port; add one")
            plain = all(each.startswith(PLAIN_ENDPOINTS) for each in self["listen"])
            if plain and "handshake-timeout" in self.given_names:
                raise UsageError("--handshake-timeout: limits nothing without --tls-port; add one")
        elif self["tls-self-signed"] and self["tls-cert"]:
            raise UsageError("--tls-self-signed: excludes --tls-cert; give one of them")
        elif not (self["tls-self-signed"] or self["tls-cert"]):
            option = "tls-listen" if self["tls-port"] is None else "tls-port"
            raise UsageError(
                f"--{option}: needs a certificate; add --tls-cert FILE, "
                "or --tls-self-signed for a test"
            )
        if self["tls-client-auth"] in ("request", "require"):
            if self["tls-client-ca"] is None:
                raise UsageError(
                    f"--tls-client-auth {self['tls-client-auth']}: needs the authority "
                    "of the clients' certificates; add --tls-client-ca FILE"
                )
        elif self["tls-client-ca"] is not None:
            raise UsageError(
                "--tls-client-ca: is for --tls-client-auth, which is off; "
                "add --tls-client-auth require, or request"
            )

    @property
    def twistd(self) -> ServerOptions | None:
        """
        The options of C{twistd}; C{None} if C{twist}, or a test, parses ours.
        """
        return self.parent if isinstance(self.parent, ServerOptions) else None

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """
        Parse the command line.

        @raise SystemExit: after one line on standard error, if an option is wrong.  With a
            C{UsageError}, twistd would print its whole help to standard output first, and twist
            would exit with 64.
        """
        self.given = list(options or ())
        with exit_on_error():
            try:
                super().parseOptions(options)
            except UsageError as error:
                line = escape(str(error))
                hint = "" if ";" in line else self._hint(line)
                raise StartupError(f"{line}{hint}") from None
            check_old_pidfile(self.twistd)

    def _hint(self, line: str) -> str:
        """
        What to do about an error that Twisted's parser has found.
        """
        unknown = re.fullmatch("option (--?)(.+) not recognized", line)
        if unknown is not None and self.twistd is not None:
            dashes, name = unknown.groups()
            known = self.twistd.shortOpt if dashes == "-" else self.twistd.longOpt
            if name in known or f"{name}=" in known:
                return f"; it is an option of twistd: twistd {dashes}{name} ... echod ..."
        return "; see --help"
