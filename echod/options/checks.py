"""
The checks of options that depend on each other, and which listener an option belongs to.

Invariant: a check takes the values of the options and raises C{UsageError} with one line, which
names the option and the way out.
"""

import getopt
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from twisted.python.usage import UsageError

LISTENERS = ("port", "tls-port", "listen", "tls-listen")
"""The options that a C{--fault} or C{--greet} may follow."""


class ListenerOption(NamedTuple):
    """
    A listener, as the command line names it.

    @ivar option: the name of its option.
    @ivar number: which one of the option's, from 0; always 0 for a port.
    """

    option: str
    number: int


def listener_options(
    given: Sequence[str], short: str, long: Sequence[str], names: Sequence[str]
) -> Iterator[tuple[str, str, ListenerOption]]:
    """
    The options that belong to the listener before them.

    @param given: the command line, which has been parsed without an error.
    @param short: the short options, as C{getopt} takes them.
    @param long: the long options, as C{getopt} takes them.
    @param names: the names of these options.
    @return: the name of each, its value, and its listener: the default port if the command line has
        no listener.
    @raise UsageError: if it stands before the first listener.
    """
    found = [
        ("port" if name == "-p" else name.lstrip("-"), value)
        for name, value in getopt.getopt(list(given), short, list(long))[0]
    ]
    numbers = dict.fromkeys(LISTENERS, -1)
    listener = None
    if not any(name in LISTENERS for name, _ in found):
        listener = ListenerOption("port", 0)
    for name, value in found:
        if name in LISTENERS:
            numbers[name] = 0 if name.endswith("port") else numbers[name] + 1
            listener = ListenerOption(name, numbers[name])
        elif name in names:
            if listener is None:
                raise UsageError(
                    f"--{name}: belongs to the listener option before it; give it after "
                    "--port, --tls-port, --listen or --tls-listen"
                )
            yield name, value, listener


def check_tls(options: Mapping[str, Any], serves_tls: bool) -> None:
    """
    Check the options of TLS.

    @param serves_tls: whether any listener is for TLS.
    """
    if not serves_tls:
        for name in (name for name in options if name.startswith("tls-") and options[name]):
            raise UsageError(f"--{name}: serves nothing without --tls-port; add one")
    elif not options["tls-cert"]:
        option = "tls-listen" if options["tls-port"] is None else "tls-port"
        raise UsageError(f"--{option}: needs a certificate; add --tls-cert FILE")
    if options["tls-client-auth"] in ("request", "require"):
        if options["tls-client-ca"] is None:
            raise UsageError(
                f"--tls-client-auth {options['tls-client-auth']}: needs the authority "
                "of the clients' certificates; add --tls-client-ca FILE"
            )
    elif options["tls-client-ca"] is not None:
        raise UsageError(
            "--tls-client-ca: is for --tls-client-auth, which is off; "
            "add --tls-client-auth require, or request"
        )


def check_proxies(options: Mapping[str, Any]) -> None:
    """
    Check the options of the PROXY header.
    """
    if options["proxy-protocol"] != "off" and not options["proxy-trust"]:
        raise UsageError(
            "--proxy-protocol: no proxy is trusted; add --proxy-trust with the proxy's address"
        )
    if options["proxy-trust"] and options["proxy-protocol"] == "off":
        raise UsageError("--proxy-trust: reads no header; add --proxy-protocol require or optional")


def check_workers(options: Mapping[str, Any]) -> None:
    """
    Check whether there may be several workers.
    """
    if not hasattr(os, "memfd_create"):
        raise UsageError("--workers: needs Linux; start several daemons instead")
    if options["workers"] > options["max-connections"]:
        raise UsageError("--workers: more than --max-connections; give fewer")
