"""
Every option of the command line, once: its name, its default, its help, and what it
demands of others.

The rule of this room: a bad value is one line that names the option and the way out,
before anything is forked, bound or read.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

from twisted.application.app import ServerOptions
from twisted.python.usage import Options as UsageOptions, UsageError

from echod import __version__
from echod.sockets import printable
from echod.values import (
    backlog,
    connect_rate,
    count,
    interface,
    log_level,
    network,
    one_of,
    path,
    port_number,
    positive,
    protocols,
    seconds,
)

DEFAULT_PORT = 9000

T = TypeVar("T")


def _parameter(
    long: str, short: str | None, default: object, help: str, coerce: Callable[[str], object]
) -> list[object]:
    return [long, short, default, help, lambda text: _named(long, text, coerce)]


def _named(option: str, text: str, coerce: Callable[[str], T]) -> T:
    try:
        return coerce(text)
    except ValueError as error:
        raise UsageError(f"--{option} '{printable(text)}': {error}") from None


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
            "tls-client-auth", None, None,
            "off, request or require: whether clients show a certificate. [default: off]",
            one_of("off", "request", "require"),
        ),
        _parameter(
            "tls-client-ca", None, None,
            "PEM file: the certificates of those who sign clients' certificates.",
            path,
        ),
        _parameter(
            "tls-min", None, None, "The oldest TLS spoken: 1.2 or 1.3. [default: 1.2]",
            one_of("1.2", "1.3"),
        ),
        _parameter(
            "tls-alpn", None, None, "Protocols for ALPN, the dearest first: h2,http/1.1.",
            protocols,
        ),
        _parameter(
            "tls-keylog", None, None,
            "File that gets the secrets of every TLS connection, for Wireshark. For tests only!",
            path,
        ),
        _parameter(
            "max-connections", None, 10000,
            "How many there may be at once, and never more than there are descriptors for.",
            positive,
        ),
        _parameter(
            "max-per-client", None, 0,
            "How many one client may have, an IPv4 address or an IPv6 /64; 0 for any number.",
            count,
        ),
        _parameter(
            "connect-rate", None, None,
            "How many a second one client may open, as in 10, or 10:50 for 50 at once; "
            "0 for any number. [default: 0]",
            connect_rate,
        ),
        _parameter(
            "proxy-protocol", None, "off",
            "off, optional or require: the PROXY header, version 1 or 2, before all else.",
            one_of("off", "optional", "require"),
        ),
        _parameter(
            "handshake-timeout", None, 10.0,
            "How long a client may take to finish its TLS handshake; 0 for ever.",
            seconds,
        ),
        _parameter(
            "idle-timeout", None, 0.0,
            "How long nothing may go either way; 0 for ever, as RFC 862 has it.",
            seconds,
        ),
        _parameter(
            "max-lifetime", None, 0.0, "How long a connection may live; 0 for ever.", seconds
        ),
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
        # Where a docstring breaks its lines is not for the help to show.
        self.docs = {name: " ".join(text.split()) for name, text in self.docs.items()}
        for name in ("listen", "tls-cert", "allow", "deny", "proxy-trust"):
            self[name] = []

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

    def opt_allow(self, cidr: str) -> None:
        """
        A network whose clients may come in, such as 192.0.2.0/24; with any, no others
        may. May be given several times.
        """
        self["allow"].append(_named("allow", cidr, network))

    def opt_deny(self, cidr: str) -> None:
        """
        A network whose clients may not come in, whatever --allow says; may be given
        several times.
        """
        self["deny"].append(_named("deny", cidr, network))

    def opt_proxy_trust(self, cidr: str) -> None:
        """
        A network whose PROXY headers are believed, or the word unix for those that come
        over UNIX sockets; may be given several times.
        """
        trusted = cidr if cidr == "unix" else _named("proxy-trust", cidr, network)
        self["proxy-trust"].append(trusted)

    def opt_tls_cert(self, file: str) -> None:
        """
        PEM file: a certificate, its chain, and the key if it is in the same file; may be
        given several times, the first being for clients that ask for none of the names.
        """
        self["tls-cert"].append((_named("tls-cert", file, path), None))

    def opt_tls_key(self, file: str) -> None:
        """
        PEM file: the key of the certificate before it, when it has its own file.
        """
        key = _named("tls-key", file, path)
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
        There are options only.
        """
        if args:
            raise UsageError(f"unexpected argument '{printable(args[0])}'; see --help")

    def postOptions(self) -> None:
        """
        What one option demands of another.
        """
        self._check_tls()
        if self["port"] is None and self["tls-port"] is None:
            if self["interface"] is not None and self["listen"]:
                raise UsageError(
                    "--interface: is for --port and --tls-port; "
                    "in --listen give tcp:PORT:interface=ADDRESS"
                )
            if not self["listen"]:
                self["port"] = DEFAULT_PORT
        if self["proxy-protocol"] != "off" and not self["proxy-trust"]:
            raise UsageError(
                "--proxy-protocol: believes nobody; add --proxy-trust with the proxy's address"
            )
        if self["proxy-trust"] and self["proxy-protocol"] == "off":
            raise UsageError(
                "--proxy-trust: reads no header; add --proxy-protocol require or optional"
            )
        for name in ("log-level", "log-format"):
            if self[name] is not None and self.parent is not None and self.twistd is None:
                raise UsageError(
                    f"--{name}: twist has its own, and logs for us; give it before echod"
                )

    def _check_tls(self) -> None:
        if self["tls-port"] is None:
            for name in (name for name in self if name.startswith("tls-") and self[name]):
                raise UsageError(f"--{name}: serves nothing without --tls-port; add one")
        elif not self["tls-cert"]:
            raise UsageError("--tls-port: needs a certificate; add --tls-cert FILE")
        if self["tls-client-auth"] in ("request", "require"):
            if self["tls-client-ca"] is None:
                raise UsageError(
                    f"--tls-client-auth {self['tls-client-auth']}: needs to know who signs "
                    "clients' certificates; add --tls-client-ca FILE"
                )
        elif self["tls-client-ca"] is not None:
            raise UsageError(
                "--tls-client-ca: verifies nobody without --tls-client-auth; "
                "add --tls-client-auth require, or request"
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
