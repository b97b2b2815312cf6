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

from twisted.python.usage import UsageError

from echod import __version__
from echod._util.help import CommandOptions, Groups, completions
from echod._util.text import escape
from echod._util.values import one_of, parameter, path, protocols, seconds, server_name
from echod.check.results import Outcome
from echod.check.target import parse_target
from echod.proxyprotocol.encoder import parse_address

MAX_BYTES = 1 << 30
MAX_CONNECTIONS = 10_000
MAX_RATE = 100_000.0
DEFAULT_SIZE = 64

_UNITS = {
    "": 1,
    "B": 1,
    **{
        f"{unit}{rest}": 1 << 10 * power
        for power, unit in enumerate("KMG", 1)
        for rest in ("", "IB")
    },
    **{f"{unit}B": 1000**power for power, unit in enumerate("KMG", 1)},
}
"""The units of sizes, as dd(1) reads them, in capitals: C{K} and C{KIB} are 1024, C{KB} is 1000."""


def size(text: str) -> int:
    """
    @return: a number of bytes, from C{64}, C{64K}, C{64KiB}, C{1MB} or C{1MiB}.
    @raise ValueError: when it is not one, or is more than 1 GiB.
    """
    match = re.fullmatch("([0-9]{1,10})(B|[KMG](?:i?B)?|)", text, re.ASCII | re.IGNORECASE)
    value = int(match[1]) * _UNITS[match[2].upper()] if match else 0
    if not 1 <= value <= MAX_BYTES:
        raise ValueError("not a size; give bytes, or such as 64K, 64KiB or 1MB, up to 1GiB")
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


def fingerprint(text: str) -> bytes:
    """
    @return: the SHA-256 fingerprint of a certificate, from its 64 hexadecimal digits, with or
        without colons, and with C{sha256} before them or not, as C{openssl x509} prints it.
    @raise ValueError: when it is not one.
    """
    digits = re.sub("^sha-?256( fingerprint)?[:=]", "", text.strip(), flags=re.IGNORECASE)
    if not re.fullmatch("[0-9a-fA-F]{2}(:?[0-9a-fA-F]{2}){31}", digits):
        raise ValueError("not a SHA-256 fingerprint; give its 64 hexadecimal digits")
    return bytes.fromhex(digits.replace(":", ""))


def _positive_seconds(text: str) -> float:
    value = seconds(text)
    if not value:
        raise ValueError("too short; give more than 0")
    return value


GROUPS: Groups = {
    "What to do (without these, one check)": {
        "udp": "",
        "ping": "",
        "conformance": "",
        "count": "NUMBER",
        "interval": "SECONDS",
        "size": "BYTES",
        "timeout": "SECONDS",
        "rate": "NUMBER",
        "connections": "NUMBER",
    },
    "TLS": {
        "tls": "",
        "ca": "FILE",
        "fingerprint": "SHA256",
        "insecure": "",
        "servername": "NAME",
        "cert": "FILE",
        "key": "FILE",
        "alpn": "PROTOCOLS",
        "tls-version": "1.2|1.3",
    },
    "PROXY protocol": {"proxy-header": "v1|v2", "proxy-source": "IP:PORT"},
    "Output": {"quiet": "", "json": "", "version": "", "help": ""},
}
"""The options, as the help shows them."""


def _host_and_port(host: str, port: str) -> str:
    """
    The target of a host and a port that are given apart.
    """
    return f"[{host}]:{port}" if ":" in host and "[" not in host else f"{host}:{port}"


class CheckOptions(CommandOptions):
    """
    The command line.

    @ivar target: the target, as given.
    @ivar host: its host; C{None} when it has none.
    @ivar connect: connects to it.
    @ivar udp_target: host and port, with C{--udp}.
    """

    program = "echod-check"
    synopsis = "[options] SERVER"
    longdesc = (
        "Is this echo server alive, exact and fast?  Sends random bytes, compares what "
        "comes back, closes, and prints how long each stage took.  SERVER is HOST:PORT, HOST PORT, "
        "[IPv6]:PORT, unix:PATH, or a Twisted client endpoint such as "
        "tcp:host=localhost:port=9000.  SECONDS may have a unit: 500ms, 30s, 5m.  BYTES may, too: "
        "64K and 64KiB are 65536, 1MB is 1000000."
    )
    groups = GROUPS
    examples = (("echod-check localhost:9000", "Checks once and prints the time of each stage."),)
    compData = completions(GROUPS)
    output_error_status = Outcome.USAGE.status

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
            "interval", "i", None, "Time between two checks or two messages. [default: 1s]",
            _positive_seconds,
        ),
        parameter(
            "ca", None, None,
            "PEM file with the authorities to trust. [default: those of the system]", path,
        ),
        parameter(
            "fingerprint", None, None,
            "SHA-256 fingerprint of the only certificate to trust, whatever its name, issuer and "
            "dates.",
            fingerprint,
        ),
        parameter("cert", None, None, "PEM file with the client certificate and its chain.", path),
        parameter(
            "key", None, None,
            "PEM file with the key of the client certificate. [default: the file of --cert]", path,
        ),
        parameter(
            "servername", None, None,
            "Server name to ask for (SNI) and to verify in the certificate. [default: HOST]",
            server_name,
        ),
        parameter(
            "alpn", None, None,
            "ALPN protocols to offer, in order of preference, such as h2,http/1.1.", protocols,
        ),
        parameter(
            "tls-version", None, None,
            "TLS version to use, and no other. [default: 1.2 or 1.3]", one_of("1.2", "1.3"),
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
            "proxy-header", None, None,
            "Version of a PROXY header to send first, as a load balancer does. [default: none]",
            one_of("v1", "v2"),
        ),
        parameter(
            "proxy-source", None, None,
            "Client address in the PROXY header. [default: none]", parse_address,
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
        if len(args) == 2 and args[1].isdecimal():
            # As for telnet and nc.
            args = (_host_and_port(*args),)
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
        for name in ("ca", "insecure"):
            if self["fingerprint"] and self[name]:
                raise UsageError(f"--fingerprint and --{name} exclude each other; give one of them")
        verifies_name = self["tls"] and not (self["insecure"] or self["fingerprint"])
        if verifies_name and not (self["servername"] or self.host):
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
        self.print_and_exit(f"echod-check {__version__}")

    def epilog(self) -> Sequence[tuple[str, Sequence[str]]]:
        """
        The exit statuses.
        """
        lines = [f"{each.status:>3}  {each.word}: {each.meaning}" for each in Outcome]
        return (("Exit status", lines),)

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
    **dict.fromkeys(
        ("ca", "fingerprint", "cert", "servername", "alpn", "tls-version", "insecure"), "tls"
    ),
    "key": "cert",
    "rate": "ping",
    "connections": "ping",
    "proxy-source": "proxy-header",
}
