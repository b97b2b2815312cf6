"""
The command line of C{echod-check}.

Invariant: a bad value is reported in one line that names the option and what to give, before a
file is read or a connection made.
"""

import re
import sys
from collections.abc import Callable, Sequence
from getopt import GetoptError, gnu_getopt
from typing import Any

from twisted.python.usage import Options as UsageOptions, UsageError

from echod import __version__
from echod._util.text import escape
from echod._util.values import one_of, parameter, path, protocols, seconds, server_name
from echod.check.connect import parse_target
from echod.check.results import Outcome
from echod.proxyprotocol.encoder import parse_address

MAX_BYTES = 1 << 30
MAX_CONNECTIONS = 10_000
MAX_RATE = 100_000.0
DEFAULT_SIZE = 64

_UNITS = {"": 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


def size(text: str) -> int:
    """
    @return: a number of bytes, from C{64}, C{64KiB} or C{1MiB}.
    @raise ValueError: when it is not one, or is more than 1 GiB.
    """
    match = re.fullmatch("([0-9]{1,10})(B|KiB|MiB|GiB|)", text)
    value = int(match[1]) * _UNITS[match[2]] if match else 0
    if not 1 <= value <= MAX_BYTES:
        raise ValueError("not a size; give bytes, or such as 64KiB or 1MiB, up to 1GiB")
    return value


def integer(maximum: int) -> Callable[[str], int]:
    """
    Make a coercion for an integer from 1 to a maximum.
    """

    def coerce(text: str) -> int:
        if not re.fullmatch("[0-9]{1,10}", text) or not 1 <= int(text) <= maximum:
            raise ValueError(f"not a number from 1 to {maximum}; give one")
        return int(text)

    return coerce


def rate(text: str) -> float:
    """
    @return: a number of messages a second.
    @raise ValueError: when it is not a rate.
    """
    if not re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,6})?", text) or not 0 < float(text) <= MAX_RATE:
        raise ValueError(f"not a rate; give messages a second, up to {MAX_RATE:.0f}")
    return float(text)


def _positive_seconds(text: str) -> float:
    value = seconds(text)
    if not value:
        raise ValueError("too short; give more than 0")
    return value


class CheckOptions(UsageOptions):
    """
    The command line.

    @ivar target: the target, as given.
    @ivar host: its host; C{None} when it has none.
    @ivar connect: connects to it.
    @ivar udp_target: host and port, with C{--udp}.
    """

    synopsis = "[options] HOST:PORT | [IPv6]:PORT | unix:PATH | ENDPOINT"
    longdesc = (
        "Is this echo server alive, exact and fast?  Sends random bytes, compares what "
        "comes back, closes, and prints how long each stage took.  ENDPOINT is a Twisted "
        "client endpoint, such as tcp:host=localhost:port=9000.  A time is in seconds, or "
        "such as 500ms, 30s, 5m; a size is in bytes, or such as 64KiB, 1MiB."
    )

    optParameters = [
        parameter(
            "timeout", "t", None,
            "Time limit for a check, a message of --ping or a case of --conformance. "
            "[default: 5s; for a case 30s]",
            _positive_seconds,
        ),
        parameter("size", "s", DEFAULT_SIZE, "Bytes in a check, or in a message of --ping.", size),
        parameter(
            "count", "c", None,
            "Number of checks or messages. [default: 1 check; messages without end]",
            integer(10**9),
        ),
        parameter(
            "interval", "i", None, "Time between checks or messages. [default: 1s]",
            _positive_seconds,
        ),
        parameter("ca", None, None, "PEM file: authorities to trust. [default: the system's]",
                   path),
        parameter("cert", None, None, "PEM file: client certificate and its chain.", path),
        parameter("key", None, None, "PEM file: key of --cert. [default: in the same file]", path),
        parameter(
            "servername", None, None,
            "Server name for SNI and for the verification of the certificate. [default: HOST]",
            server_name,
        ),
        parameter("alpn", None, None, "ALPN protocols to offer: A,B", protocols),
        parameter(
            "tls-version", None, None, "1.2 or 1.3: this version only. [default: 1.2 or 1.3]",
            one_of("1.2", "1.3"),
        ),
        parameter(
            "rate", None, None, "With --ping: messages a second, without a line for each.", rate
        ),
        parameter(
            "connections", None, None, "With --ping: number of connections to send on, in turn. "
            "[default: 1]",
            integer(MAX_CONNECTIONS),
        ),
        parameter(
            "proxy-header", None, None, "v1 or v2: send a PROXY header first, as a load balancer.",
            one_of("v1", "v2"),
        ),
        parameter(
            "proxy-source", None, None,
            "Client address in the PROXY header: IP:PORT. [default: none]",
            parse_address,
        ),
    ]  # fmt: skip

    optFlags = [
        ["quiet", "q", "Print nothing; only set the exit status."],
        ["json", "j", "Print JSON: an object for each check, or one for the whole run."],
        ["tls", None, "Use TLS."],
        ["insecure", "k", "Do not verify the certificate; the output says so."],
        ["udp", None, "Use UDP: one datagram for a check or a message, 65507 bytes at most."],
        ["ping", None, "Send messages; print each, and a summary at Ctrl-C or after --count."],
        ["conformance", None, "Run the conformance suite and print a table."],
    ]

    target = ""

    def parseArgs(self, *args: str) -> None:
        """
        Parse the target.
        """
        if not args:
            raise UsageError("no server; give HOST:PORT")
        if len(args) > 1:
            raise UsageError(f"unexpected argument '{escape(args[1])}'; give one server")
        self.target = args[0]
        try:
            self.host, self.connect = parse_target(self.target)
        except ValueError as error:
            raise UsageError(f"'{escape(self.target)}': {error}") from None

    def postOptions(self) -> None:
        """
        Check the options that depend on others, and set their defaults.
        """
        if self["ping"] and self["conformance"]:
            raise UsageError("--ping and --conformance exclude each other; give one of them")
        for name, needed in _NEEDS.items():
            if self[name] and not self[needed]:
                raise UsageError(f"--{name}: has no effect without --{needed}; add it")
        if self["conformance"]:
            for name in ("count", "interval"):
                if self[name]:
                    raise UsageError(f"--{name}: has no effect with --conformance; leave it out")
        if self["rate"] and self["interval"]:
            raise UsageError("--rate and --interval exclude each other; give one of them")
        if self["tls"] and not self["insecure"] and not (self["servername"] or self.host):
            raise UsageError("--tls: no name to verify in the certificate; add --servername NAME")
        if self["udp"]:
            self._check_udp()
        self["timeout"] = self["timeout"] or (30.0 if self["conformance"] else 5.0)
        self["interval"] = self["interval"] or 1.0
        self["connections"] = self["connections"] or 1

    def _check_udp(self) -> None:
        from echod.check.udp import MAX_DATAGRAM_BYTES, MIN_PING_BYTES, udp_target

        for name in ("tls", "conformance", "connections", "proxy-header"):
            if self[name]:
                raise UsageError(f"--{name}: has no effect with --udp; leave it out")
        least = MIN_PING_BYTES if self["ping"] else 1
        if not least <= self["size"] <= MAX_DATAGRAM_BYTES:
            raise UsageError(
                f"--size: does not fit a datagram; give {least} to {MAX_DATAGRAM_BYTES} with --udp"
            )
        try:
            self.udp_target = udp_target(self.target)
        except ValueError as error:
            raise UsageError(f"'{escape(self.target)}': {error}") from None

    def opt_version(self) -> None:
        """
        Print the version and exit.
        """
        print(f"echod-check {__version__}")
        raise SystemExit(0)

    def getUsage(self, width: int | None = None) -> str:
        """
        The help, with the exit statuses at its end.
        """
        lines = [f"  {each.status:>3}  {each.word}: {each.meaning}" for each in Outcome]
        return super().getUsage(width) + "\nExit status:\n" + "\n".join(lines) + "\n"

    def _options_first(self, given: list[str]) -> list[str]:
        """
        Move the options before the target: Twisted's parser stops at the first argument.
        """
        try:
            pairs, arguments = gnu_getopt(given, self.shortOpt, self.longOpt)
        except GetoptError as error:
            raise UsageError(str(error)) from None
        ordered = []
        for name, value in pairs:
            has_value = f"{name[2:]}=" in self.longOpt or f"{name[1:]}:" in self.shortOpt
            ordered += [name, value] if has_value else [name]
        return [*ordered, "--", *arguments]

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """
        Parse the command line.

        @raise UsageError: with one line that names the error.
        """
        given = sys.argv[1:] if options is None else list(options)
        try:
            super().parseOptions(self._options_first(given))
        except UsageError as error:
            line = escape(str(error))
            raise UsageError(line if ";" in line else f"{line}; see --help") from None


_NEEDS: dict[str, Any] = {
    **dict.fromkeys(("ca", "cert", "servername", "alpn", "tls-version", "insecure"), "tls"),
    "key": "cert",
    "rate": "ping",
    "connections": "ping",
    "proxy-source": "proxy-header",
}
