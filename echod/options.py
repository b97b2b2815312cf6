"""
Every option of the command line, once: its name, its default, its help, and what a
good value is.

The rule of this room: a bad value is one line that names the option and the way out,
before anything is forked, bound or read.
"""

import re
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from typing import Any

from twisted.application.app import ServerOptions
from twisted.logger import LogLevel
from twisted.python.usage import Options as UsageOptions, UsageError

from echod import __version__
from echod.sockets import printable

DEFAULT_PORT = 9000
MOST_SECONDS = 7 * 24 * 3600
_UNITS = {"ms": 0.001, "": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}


def port_number(text: str) -> int:
    """
    @return: a TCP port, 0 to 65535.
    @raise ValueError: when it is not one.
    """
    if not re.fullmatch("[0-9]{1,5}", text) or int(text) > 65535:
        raise ValueError("not a port; give a number from 0 (any free port) to 65535")
    return int(text)


def backlog(text: str) -> int:
    """
    @return: the length of an accept queue, 1 to 65535 (listen(2)).
    @raise ValueError: when it is not one.
    """
    if not re.fullmatch("[0-9]{1,5}", text) or not 1 <= int(text) <= 65535:
        raise ValueError("not a queue length; give a number from 1 to 65535")
    return int(text)


def interface(text: str) -> str:
    """
    @return: an IP address of this machine, of either version.
    @raise ValueError: when it is not an address.
    """
    try:
        ip_address(text)
    except ValueError:
        raise ValueError("not an IP address; give one such as 127.0.0.1 or ::1") from None
    return text


def seconds(text: str) -> float:
    """
    @return: a time in seconds, from C{500ms}, C{30}, C{30s}, C{5m} or C{1h}.
    @raise ValueError: when it is not a time, or longer than a week.
    """
    match = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(ms|s|m|h|)", text)
    value = float(match[1]) * _UNITS[match[2]] if match else -1.0
    if not 0 <= value <= MOST_SECONDS:
        raise ValueError("not a time; give seconds, or such as 500ms, 30s, 5m, up to a week")
    return value


def log_level(text: str) -> Any:
    """
    @return: one of Twisted's C{LogLevel} constants.
    @raise ValueError: when it is none of the four.
    """
    if text not in ("debug", "info", "warn", "error"):
        raise ValueError("not a level; give debug, info, warn or error")
    return LogLevel.levelWithName(text)


def one_of(*words: str) -> Callable[[str], str]:
    """
    Make a coercion that takes one of a few words.
    """

    def choose(text: str) -> str:
        if text not in words:
            raise ValueError(f"not one of the choices; give {' or '.join(words)}")
        return text

    return choose


def path(text: str) -> str:
    """
    @return: the path of a file.
    @raise ValueError: when it is empty or holds a null byte.
    """
    if not text or "\0" in text:
        raise ValueError("not a path; give the name of a PEM file")
    return text


def _parameter(
    long: str, short: str | None, default: object, help: str, coerce: Callable[[str], object]
) -> list[object]:
    def named(text: str) -> object:
        try:
            return coerce(text)
        except ValueError as error:
            raise UsageError(f"--{long} '{printable(text)}': {error}") from None

    return [long, short, default, help, named]


class Options(UsageOptions):
    """
    The options of C{twistd echod} and C{twist echod}.
    """

    synopsis = "[options]"
    longdesc = (
        "A TCP echo daemon (RFC 862): every byte that a client sends comes back. "
        "Times are in seconds and take 500ms, 30s, 5m."
    )

    optParameters = [
        _parameter(
            "port", "p", None,
            f"Port for plain TCP; 0 takes a free one. [default: {DEFAULT_PORT}, "
            "when no other listener is given]",
            port_number,
        ),
        _parameter(
            "interface", "i", None,
            "Address for --port and --tls-port. [default: all, IPv4 and IPv6]",
            interface,
        ),
        _parameter("backlog", None, 1024, "Clients that may wait to be accepted.", backlog),
        _parameter("tls-port", None, None, "Port for TLS; 0 takes a free one.", port_number),
        _parameter(
            "tls-cert", None, None,
            "PEM file: the certificate, its chain, and the key if it is in the same file.",
            path,
        ),
        _parameter("tls-key", None, None, "PEM file: the key, when it has its own file.", path),
        _parameter(
            "write-timeout", None, 30.0,
            "How long a client may take nothing of what it is owed; 0 for ever.",
            seconds,
        ),
        _parameter(
            "drain-timeout", None, 5.0, "How long a stop waits for busy connections.", seconds
        ),
        _parameter(
            "log-level", None, None,
            "The least that is logged: debug, info, warn or error. [default: info]",
            log_level,
        ),
        _parameter(
            "log-format", None, None, "text, or json: one object a line. [default: text]",
            one_of("text", "json"),
        ),
        _parameter(
            "access-log", None, "on", "on or off: a record of each connection, at its end.",
            one_of("on", "off"),
        ),
    ]  # fmt: skip

    optFlags = [
        ["check", None, "Check everything, bind and let go, and exit with 0 or 1."],
    ]

    def __init__(self) -> None:
        super().__init__()
        self["listen"] = []

    def opt_listen(self, endpoint: str) -> None:
        """
        A Twisted server endpoint, such as tcp:9000:interface=127.0.0.1 or
        unix:/run/echod.sock; may be given several times.
        """
        kind, _, rest = endpoint.partition(":")
        if not kind or not rest:
            raise UsageError(
                f"--listen '{printable(endpoint)}': not an endpoint; "
                "give one such as tcp:9000 or unix:/run/echod.sock"
            )
        if kind in ("tcp", "tcp6", "ssl"):
            fields = rest.split(":")
            named = (field for field in fields if field.startswith("port="))
            try:
                port_number(next(named, fields[0]).removeprefix("port="))
            except ValueError as error:
                raise UsageError(f"--listen '{printable(endpoint)}': {error}") from None
        self["listen"].append(endpoint)

    def opt_version(self) -> None:
        """
        Show the version and exit.
        """
        print(f"echod {__version__}")
        raise SystemExit(0)

    def parseArgs(self, *args: str) -> None:
        """
        There are options only.
        """
        if args:
            raise UsageError(f"unexpected argument '{printable(args[0])}'; see --help")

    def postOptions(self) -> None:
        """
        What one option demands of another.
        """
        if self["tls-port"] is not None and self["tls-cert"] is None:
            raise UsageError("--tls-port: needs a certificate; add --tls-cert FILE")
        for name in ("tls-cert", "tls-key"):
            if self[name] is not None and self["tls-port"] is None:
                raise UsageError(f"--{name}: serves nothing without --tls-port; add one")
        if self["port"] is None and self["tls-port"] is None:
            if self["interface"] is not None and self["listen"]:
                raise UsageError(
                    "--interface: is for --port and --tls-port; "
                    "in --listen give tcp:PORT:interface=ADDRESS"
                )
            if not self["listen"]:
                self["port"] = DEFAULT_PORT
        for name in ("log-level", "log-format"):
            if self[name] is not None and self.parent is not None and self.twistd is None:
                raise UsageError(
                    f"--{name}: twist has its own, and logs for us; give it before echod"
                )

    @property
    def twistd(self) -> ServerOptions | None:
        """
        The options of C{twistd}, when it is the one that parses ours.
        """
        return self.parent if isinstance(self.parent, ServerOptions) else None

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """
        Parse the command line.

        @raise SystemExit: with one line for stderr, when it is wrong.  Left to
            themselves, twistd would print its whole help to stdout first, and twist
            would exit with 64.
        """
        try:
            super().parseOptions(options)
        except UsageError as error:
            line = printable(str(error))
            hint = "" if ";" in line else "; see --help"
            raise SystemExit(f"echod: {line}{hint}") from None
