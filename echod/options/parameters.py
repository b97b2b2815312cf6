"""
What the command line consists of: the options that take one value, the groups of all options, and
their types.

Invariant: each text is whole by itself, and each example in it works and is safe.
"""

from typing import TypedDict

from constantly import NamedConstant

from echod._util.values import (
    Network,
    backlog,
    connect_rate,
    count,
    datagram_rate,
    interface,
    log_level,
    one_of,
    parameter,
    path,
    port_number,
    positive,
    processes,
    protocols,
    seconds,
    seed,
)
from echod.options.listeners import ListenerOption

DEFAULT_PORT = 9000

DEFAULT_UDP_RATE = (100.0, 100)
"""Datagrams a second, and burst."""

PARAMETERS = [
    parameter(
        "port", "p", None,
        "Port for plain TCP, or 0 for a free one. "
        f"[default: {DEFAULT_PORT}, if there is no other listener]",
        port_number,
    ),
    parameter(
        "interface", "i", None,
        "IP address for --port, --tls-port and --udp-port. [default: all, IPv4 and IPv6]",
        interface,
    ),
    parameter("backlog", None, 1024, "Length of the accept queue, as in listen(2).", backlog),
    parameter("tls-port", None, None, "Port for TLS, or 0 for a free one.", port_number),
    parameter("udp-port", None, None, "Port for UDP, or 0 for a free one.", port_number),
    parameter(
        "tls-client-auth", None, None,
        "Whether clients show a certificate; with request, they may show none. [default: off]",
        one_of("off", "request", "require"),
    ),
    parameter(
        "tls-client-ca", None, None,
        "PEM file with the authorities that sign client certificates.",
        path,
    ),
    parameter("tls-min", None, None, "Lowest TLS version. [default: 1.2]", one_of("1.2", "1.3")),
    parameter(
        "tls-alpn", None, None,
        "ALPN protocols in order of preference, such as h2,http/1.1.",
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
        "Limit of connections for one client, an IPv4 address or an IPv6 /64; 0 for no limit.",
        count,
    ),
    parameter(
        "connect-rate", None, None,
        "Limit of new connections a second for one client: 10, or 10:50 for a burst of 50; "
        "0 for no limit. [default: 0]",
        connect_rate,
    ),
    parameter(
        "udp-rate", None, None,
        "Limit of UDP datagrams a second that one client gets back: 100, or 100:500 for a burst "
        f"of 500; 0 for no limit. [default: {DEFAULT_UDP_RATE[1]}]",
        datagram_rate,
    ),
    parameter(
        "proxy-protocol", None, "off",
        "Whether a connection begins with a PROXY header, version 1 or 2.",
        one_of("off", "optional", "require"),
    ),
    parameter(
        "proxy-header-timeout", None, 5.0,
        "Limit of the time from accept to the end of the PROXY header; 0 for no limit.",
        seconds,
    ),
    parameter(
        "handshake-timeout", None, 10.0,
        "Limit of the time from accept to the end of the TLS handshake; 0 for no limit.",
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
        "Abort a client that reads nothing of its echo for this long; 0 for no limit.",
        seconds,
    ),
    parameter(
        "drain-timeout", None, 5.0,
        "How long a stop waits for busy connections; 0 aborts them at once.",
        seconds,
    ),
    parameter(
        "fault-seed", None, None,
        "Number that repeats what --fault draws. [default: a random one, which the log names]",
        seed,
    ),
    parameter(
        "workers", None, 1,
        "Number of processes that share the ports; 0 for one for each CPU.",
        processes,
    ),
    parameter("log-level", None, None, "Lowest level to log. [default: info]", log_level),
    parameter(
        "log-format", None, None,
        "Log lines of text, or one JSON object a line. [default: text]",
        one_of("text", "json"),
    ),
    parameter(
        "access-log", None, "on",
        "Whether to log a record of each connection at its end.",
        one_of("on", "off"),
    ),
]  # fmt: skip
"""
The options that take one value: name, letter, default, text and coercion.
"""

FLAGS = [
    [
        "tls-self-signed",
        None,
        "Make a certificate at the start, for localhost, the host name and its addresses; "
        "it is kept in memory only. For tests.",
    ],
    [
        "check",
        None,
        "Check options, files and ports, print the result and each warning, and exit: "
        "with 0, with 78 if an option or a file is wrong, with 1 if a port cannot be bound.",
    ],
]
"""
The options without a value: name, letter and text.
"""

REPEATABLE = frozenset(
    (
        *("listen", "tls-listen", "udp-listen", "tls-cert", "tls-key"),
        *("allow", "deny", "proxy-trust", "admin-host", "fault", "greet"),
    )
)
"""
The options that may be given several times.
"""

GROUPS = {
    "Listeners": {
        "port": "PORT",
        "interface": "ADDRESS",
        "listen": "ENDPOINT",
        "udp-port": "PORT",
        "udp-listen": "SOCKET",
        "backlog": "NUMBER",
        "fault": "FAULT",
        "fault-seed": "NUMBER",
        "greet": "",
    },
    "TLS": {
        "tls-port": "PORT",
        "tls-listen": "ENDPOINT",
        "tls-cert": "FILE",
        "tls-key": "FILE",
        "tls-self-signed": "",
        "tls-client-auth": "off|request|require",
        "tls-client-ca": "FILE",
        "tls-min": "1.2|1.3",
        "tls-alpn": "NAMES",
        "tls-keylog": "FILE",
    },
    "Who may connect": {
        "allow": "CIDR",
        "deny": "CIDR",
        "max-connections": "NUMBER",
        "max-per-client": "NUMBER",
        "connect-rate": "RATE",
        "udp-rate": "RATE",
        "proxy-protocol": "off|optional|require",
        "proxy-trust": "CIDR",
    },
    "Limits in time": {
        "handshake-timeout": "SECONDS",
        "proxy-header-timeout": "SECONDS",
        "idle-timeout": "SECONDS",
        "max-lifetime": "SECONDS",
        "write-timeout": "SECONDS",
        "drain-timeout": "SECONDS",
    },
    "Logs": {
        "log-level": "debug|info|warn|error",
        "log-format": "text|json",
        "access-log": "on|off",
    },
    "Operations": {
        "workers": "NUMBER",
        "admin": "ENDPOINT",
        "admin-host": "NAME",
        "check": "",
        "version": "",
        "help": "",
    },
}
"""
All options, as the help and the README group them, with the names of their values.
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
        "udp-port": int | None,
        "udp-listen": list[str],
        "tls-cert": list[tuple[str, str | None]],
        "tls-self-signed": int,
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
        "udp-rate": tuple[float, int] | None,
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
        "fault": list[tuple[ListenerOption, str]],
        "fault-seed": int | None,
        "greet": list[ListenerOption],
        "check": int,
    },
)
"""
The type of each option's value.
"""
