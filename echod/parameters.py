"""
The options that take one value: name, default, help, and what a good value is.

The rule of this room: each option is here once, and a bad value is one line that names
the option and the way out.
"""

from collections.abc import Callable
from typing import TypeVar

from twisted.python.usage import UsageError

from echod._util.sockets import printable
from echod._util.values import (
    backlog,
    connect_rate,
    count,
    interface,
    log_level,
    one_of,
    path,
    port_number,
    positive,
    processes,
    protocols,
    seconds,
)

DEFAULT_PORT = 9000

T = TypeVar("T")


def parameter(
    long: str, short: str | None, default: object, help: str, coerce: Callable[[str], object]
) -> list[object]:
    """
    A line of C{optParameters}, as C{twisted.python.usage.Options} takes it.
    """
    return [long, short, default, help, lambda text: named(long, text, coerce)]


def named(option: str, text: str, coerce: Callable[[str], T]) -> T:
    """
    The value of an option.

    @raise UsageError: when it is a bad one, naming the option.
    """
    try:
        return coerce(text)
    except ValueError as error:
        raise UsageError(f"--{option} '{printable(text)}': {error}") from None


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
    parameter("backlog", None, 1024, "Clients that may wait to be accepted.", backlog),
    parameter("tls-port", None, None, "Port for TLS; 0 takes a free one.", port_number),
    parameter(
        "tls-client-auth", None, None,
        "off, request or require: whether clients show a certificate. [default: off]",
        one_of("off", "request", "require"),
    ),
    parameter(
        "tls-client-ca", None, None,
        "PEM file: the certificates of those who sign clients' certificates.",
        path,
    ),
    parameter(
        "tls-min", None, None, "The oldest TLS spoken: 1.2 or 1.3. [default: 1.2]",
        one_of("1.2", "1.3"),
    ),
    parameter(
        "tls-alpn", None, None, "Protocols for ALPN, the dearest first: h2,http/1.1.",
        protocols,
    ),
    parameter(
        "tls-keylog", None, None,
        "File that gets the secrets of every TLS connection, for Wireshark. For tests only!",
        path,
    ),
    parameter(
        "max-connections", None, 10000,
        "How many there may be at once, and never more than there are descriptors for.",
        positive,
    ),
    parameter(
        "max-per-client", None, 0,
        "How many one client may have, an IPv4 address or an IPv6 /64; 0 for any number.",
        count,
    ),
    parameter(
        "connect-rate", None, None,
        "How many a second one client may open, as in 10, or 10:50 for 50 at once; "
        "0 for any number. [default: 0]",
        connect_rate,
    ),
    parameter(
        "proxy-protocol", None, "off",
        "off, optional or require: the PROXY header, version 1 or 2, before all else.",
        one_of("off", "optional", "require"),
    ),
    parameter(
        "proxy-header-timeout", None, 5.0,
        "How long a proxy may take to send its PROXY header; 0 for ever.",
        seconds,
    ),
    parameter(
        "handshake-timeout", None, 10.0,
        "How long a client may take to finish its TLS handshake; 0 for ever.",
        seconds,
    ),
    parameter(
        "idle-timeout", None, 0.0,
        "How long nothing may go either way; 0 for ever, as RFC 862 has it.",
        seconds,
    ),
    parameter(
        "max-lifetime", None, 0.0, "How long a connection may live; 0 for ever.", seconds
    ),
    parameter(
        "write-timeout", None, 30.0,
        "How long a client may take nothing of what it is owed; 0 for ever.",
        seconds,
    ),
    parameter(
        "drain-timeout", None, 5.0, "How long a stop waits for busy connections.", seconds
    ),
    parameter(
        "workers", None, 1,
        "Processes that share the listening sockets; 0 for one a CPU.",
        processes,
    ),
    parameter(
        "log-level", None, None,
        "The least that is logged: debug, info, warn or error. [default: info]",
        log_level,
    ),
    parameter(
        "log-format", None, None, "text, or json: one object a line. [default: text]",
        one_of("text", "json"),
    ),
    parameter(
        "access-log", None, "on", "on or off: a record of each connection, at its end.",
        one_of("on", "off"),
    ),
]  # fmt: skip
"""
What C{optParameters} of L{Options<echod.options.Options>} holds.
"""
