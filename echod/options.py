"""
The command line.

Invariant: a wrong option ends the start with one line, which names the option and says what to
give, before any part of the daemon is made.
"""

import os
from collections.abc import Sequence
from typing import TypedDict, cast

from constantly import NamedConstant
from twisted.application.app import ServerOptions
from twisted.python.usage import Options as UsageOptions, UsageError

from echod import __version__
from echod._util.text import escape
from echod._util.values import (
    Network,
    backlog,
    connect_rate,
    count,
    endpoint,
    host,
    interface,
    log_level,
    named,
    network,
    one_of,
    parameter,
    path,
    port_number,
    positive,
    processes,
    protocols,
    seconds,
)

DEFAULT_PORT = 9000

PARAMETERS = [
    parameter(
        "port", "p", None,
        f"Port for plain TCP; 0 takes a free one. [default: {DEFAULT_PORT}, "
        "when no other listener is given]",
        port_number,
    ),
    parameter(
        "interface", "i", None,
        "Address for --port and --tls-port. [default: all, IPv4 and IPv6]",
        interface,
    ),
    parameter("backlog", None, 1024, "Length of the accept queue.", backlog),
    parameter("tls-port", None, None, "Port for TLS; 0 takes a free one.", port_number),
    parameter(
        "tls-client-auth", None, None,
        "off, request or require: client certificates. [default: off]",
        one_of("off", "request", "require"),
    ),
    parameter(
        "tls-client-ca", None, None,
        "PEM file: the authorities that sign client certificates.",
        path,
    ),
    parameter(
        "tls-min", None, None, "Lowest TLS version: 1.2 or 1.3. [default: 1.2]",
        one_of("1.2", "1.3"),
    ),
    parameter(
        "tls-alpn", None, None, "ALPN protocols in order of preference: h2,http/1.1.",
        protocols,
    ),
    parameter(
        "tls-keylog", None, None,
        "File that gets the secrets of each TLS session, for Wireshark; for tests only.",
        path,
    ),
    parameter(
        "max-connections", None, 10000,
        "Limit of connections in all; lower if there are too few file descriptors.",
        positive,
    ),
    parameter(
        "max-per-client", None, 0,
        "Limit of connections for an IPv4 address or an IPv6 /64; 0 for no limit.",
        count,
    ),
    parameter(
        "connect-rate", None, None,
        "New connections a second for one client: 10, or 10:50 for a burst of 50; "
        "0 for no limit. [default: 0]",
        connect_rate,
    ),
    parameter(
        "proxy-protocol", None, "off",
        "off, optional or require: the PROXY header, version 1 or 2.",
        one_of("off", "optional", "require"),
    ),
    parameter(
        "proxy-header-timeout", None, 5.0,
        "Time from accept to the end of the PROXY header; 0 for no limit.",
        seconds,
    ),
    parameter(
        "handshake-timeout", None, 10.0,
        "Time from accept to the end of the TLS handshake; 0 for no limit.",
        seconds,
    ),
    parameter(
        "idle-timeout", None, 0.0,
        "Close a connection without data for this long; 0 for no limit.",
        seconds,
    ),
    parameter(
        "max-lifetime", None, 0.0, "Close a connection older than this; 0 for no limit.", seconds
    ),
    parameter(
        "write-timeout", None, 30.0,
        "Abort a client that reads nothing for this long; 0 for no limit.",
        seconds,
    ),
    parameter(
        "drain-timeout", None, 5.0, "How long a stop waits for busy connections.", seconds
    ),
    parameter(
        "workers", None, 1,
        "Processes that share the ports; 0 for one for each CPU.",
        processes,
    ),
    parameter(
        "log-level", None, None,
        "Lowest level to log: debug, info, warn or error. [default: info]",
        log_level,
    ),
    parameter(
        "log-format", None, None, "text, or json for one object a line. [default: text]",
        one_of("text", "json"),
    ),
    parameter(
        "access-log", None, "on", "on or off: a record of each connection at its end.",
        one_of("on", "off"),
    ),
]  # fmt: skip
"""
The C{optParameters} of L{Options}.
"""


OptionValues = TypedDict(
    "OptionValues",
    {
        "port": int | None,
        "interface": str | None,
        "listen": list[str],
        "backlog": int,
        "tls-port": int | None,
        "tls-listen": list[str],
        "tls-cert": list[tuple[str, str | None]],
        "tls-client-auth": str | None,
        "tls-client-ca": str | None,
        "tls-min": str | None,
        "tls-alpn": tuple[bytes, ...] | None,
        "tls-keylog": str | None,
        "allow": list[Network],
        "deny": list[Network],
        "max-connections": int,
        "max-per-client": int,
        "connect-rate": tuple[float, int] | None,
        "proxy-protocol": str,
        "proxy-trust": list[Network | str],
        "proxy-header-timeout": float,
        "handshake-timeout": float,
        "idle-timeout": float,
        "max-lifetime": float,
        "write-timeout": float,
        "drain-timeout": float,
        "log-level": NamedConstant | None,
        "log-format": str | None,
        "access-log": str,
        "workers": int,
        "admin": str | None,
        "admin-host": list[str],
        "check": int,
    },
)
"""
The type of each option's value.
"""


class Options(UsageOptions):
    """
    The options of C{twistd echod} and C{twist echod}.
    """

    synopsis = "[options]"
    longdesc = (
        "A TCP echo daemon (RFC 862): every byte that a client sends comes back. "
        "Times are in seconds; 500ms, 30s and 5m work, too."
    )

    optParameters = PARAMETERS

    given: Sequence[str] = ()
    """The arguments, as they stand on the command line."""

    optFlags = [
        ["check", None, "Check options, files and ports; exit with 0 or 1."],
    ]

    def __init__(self) -> None:
        super().__init__()
        # Join the lines of each docstring: Twisted's help keeps their breaks.
        # Under python -OO there are no docstrings.
        self.docs = {name: " ".join((text or "").split()) for name, text in self.docs.items()}
        lists = ("listen", "tls-listen", "tls-cert", "allow", "deny", "proxy-trust", "admin-host")
        for name in lists:
            self[name] = []
        self["admin"] = None

    def opt_listen(self, description: str) -> None:
        """
        Twisted server endpoint, such as tcp:9000:interface=127.0.0.1,
        unix:/run/echod.sock, or systemd:name=echod for all sockets of that name that a
        socket unit hands over; repeatable.
        """
        self["listen"].append(named("listen", description, endpoint))

    def opt_tls_listen(self, description: str) -> None:
        """
        Endpoint for TLS, as in --listen; repeatable.
        """
        self["tls-listen"].append(named("tls-listen", description, endpoint))

    def opt_admin(self, description: str) -> None:
        """
        Server endpoint for the status page, metrics and health over HTTP, such as
        tcp:9001:interface=127.0.0.1 or unix:/run/echod-admin.sock. [default: none]
        """
        if self["admin"] is not None:
            raise UsageError("--admin: one is enough; give it once")
        self["admin"] = named("admin", description, endpoint)

    def opt_admin_host(self, name: str) -> None:
        """
        Further host name or address that --admin answers to, besides localhost, the host
        name, and the address that the client connects to; repeatable.
        """
        self["admin-host"].append(named("admin-host", name, host))

    def opt_allow(self, cidr: str) -> None:
        """
        Network whose clients are admitted, such as 192.0.2.0/24; all other clients are then
        refused. Repeatable.
        """
        self["allow"].append(named("allow", cidr, network))

    def opt_deny(self, cidr: str) -> None:
        """
        Network whose clients are refused, even if --allow admits them; repeatable.
        """
        self["deny"].append(named("deny", cidr, network))

    def opt_proxy_trust(self, cidr: str) -> None:
        """
        Network whose PROXY headers are trusted, or the word unix for UNIX sockets;
        repeatable.
        """
        trusted = cidr if cidr == "unix" else named("proxy-trust", cidr, network)
        self["proxy-trust"].append(trusted)

    def opt_tls_cert(self, file: str) -> None:
        """
        PEM file: a certificate, its chain, and its key if --tls-key does not follow;
        repeatable; the first certificate is the default.
        """
        self["tls-cert"].append((named("tls-cert", file, path), None))

    def opt_tls_key(self, file: str) -> None:
        """
        PEM file: the key of the --tls-cert before it.
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
        Show the version and exit.
        """
        print(f"echod {__version__}")
        raise SystemExit(0)

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
        if self["port"] is None and self["tls-port"] is None:
            if self["interface"] is not None and (self["listen"] or self["tls-listen"]):
                raise UsageError(
                    "--interface: is for --port and --tls-port; "
                    "in --listen give tcp:PORT:interface=ADDRESS"
                )
            if not (self["listen"] or self["tls-listen"]):
                self["port"] = DEFAULT_PORT
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
        elif not self["tls-cert"]:
            option = "tls-listen" if self["tls-port"] is None else "tls-port"
            raise UsageError(f"--{option}: needs a certificate; add --tls-cert FILE")
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

        @raise SystemExit: with one line for standard error, if an option is wrong.  With a
            C{UsageError}, twistd would print its whole help to standard output first, and twist
            would exit with 64.
        """
        self.given = list(options or ())
        try:
            super().parseOptions(options)
        except UsageError as error:
            line = escape(str(error))
            hint = "" if ";" in line else "; see --help"
            raise SystemExit(f"echod: {line}{hint}") from None
