"""
Targets, such as C{localhost:9000}: what each means, and how to connect to it.

Invariant: a target that is wrong is one line, before anything is connected.
"""

import errno
import os
import re
import socket
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any

from twisted.internet.defer import (
    CancelledError,
    Deferred,
)
from twisted.internet.error import (
    ConnectError,
    ConnectingCancelledError,
    ConnectionRefusedError,
    DNSLookupError,
    TimeoutError as ConnectTimeoutError,
)
from twisted.internet.protocol import ClientCreator, Factory

from echod._util.endpoints import check_colons, endpoint_settings, timeout as endpoint_timeout
from echod._util.text import escape
from echod._util.values import interface, port_number, server_name, unix_path
from echod.check.connect import Addresses, Connect, happy_eyeballs, resolve
from echod.check.results import CheckError, CheckResult, DescriptorError, Outcome
from echod.check.stream import Stream

NO_TIMEOUT = 3600.0
"""A timeout for Twisted in seconds: longer than any check, which has its own deadline."""

HOST_PORT = re.compile(r"(?:\[([^\[\]]+)\]|([^:\[\]/=]+)):([0-9]+)")
"""A target with a host and a port."""


_FORMS = "give HOST:PORT, [IPv6]:PORT, unix:PATH or a Twisted client endpoint"


def _tcp(
    host: str,
    port: int,
    look_up: Callable[..., Deferred[Addresses]],
    timeout: float = NO_TIMEOUT,
    bind_address: tuple[str, int] | None = None,
) -> Connect:
    async def connect(reactor: Any, result: CheckResult) -> Stream:
        result.stage = "resolving"
        result.times.begin(reactor.seconds())
        try:
            addresses = await look_up(reactor, host, port)
        except OSError as error:
            DescriptorError.raise_for(error.errno)
            raise CheckError(Outcome.UNRESOLVED, error.strerror or str(error)) from None
        except UnicodeError:
            raise CheckError(Outcome.UNRESOLVED, "not a host name") from None
        result.times.complete("resolve", reactor.seconds())
        if bind_address is not None:
            # A socket has one family, for both of its addresses.
            family = _family(bind_address[0])
            addresses = [each for each in addresses if each[0] == family]
            if not addresses:
                text = "the server has no address of the same version as bindAddress"
                raise CheckError(Outcome.UNREACHABLE, text)
        attempts = []
        for family, *_, address in addresses:
            # getaddrinfo has the zone of a link-local IPv6 address in a field of its own
            # (sin6_scope_id); Twisted needs it in the text of the address.
            text = address[0]
            if family == socket.AF_INET6 and address[3] and "%" not in text:
                text = f"{text}%{address[3]}"
            creator = ClientCreator(reactor, Stream)
            attempts.append(
                lambda c=creator, t=text, a=address: c.connectTCP(t, a[1], timeout, bind_address)
            )
        return await _connected(happy_eyeballs(reactor, attempts), reactor, result)

    return connect


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ip_address(address).version == 6 else socket.AF_INET


def _unix(path: str) -> Connect:
    async def connect(reactor: Any, result: CheckResult) -> Stream:
        creator = ClientCreator(reactor, Stream)
        connecting: Deferred[Stream] = creator.connectUNIX(path, NO_TIMEOUT)
        return await _connected(connecting, reactor, result)

    return connect


def _endpoint(description: str) -> Connect:
    async def connect(reactor: Any, result: CheckResult) -> Stream:
        from twisted.internet.endpoints import clientFromString

        endpoint = clientFromString(reactor, description)
        try:
            connecting: Deferred[Any] = endpoint.connect(Factory.forProtocol(Stream))
            return await _connected(connecting, reactor, result)
        except (CheckError, DescriptorError, CancelledError):
            raise
        except ConnectingCancelledError:
            # What an endpoint makes of the cancellation at the deadline.
            raise CancelledError from None
        except Exception as error:
            # Endpoints, also those of plugins, may fail with any exception.
            raise CheckError(Outcome.UNREACHABLE, escape(str(error))) from None

    return connect


async def _connected(connecting: Deferred[Stream], reactor: Any, result: CheckResult) -> Stream:
    result.stage = "connecting"
    result.times.begin(reactor.seconds())
    try:
        stream = await connecting
    except DNSLookupError as error:
        raise CheckError(Outcome.UNRESOLVED, escape(str(error))) from None
    except ConnectError as error:
        raise _not_connected(error) from None
    result.times.complete("connect", reactor.seconds())
    return stream


def _not_connected(error: ConnectError) -> CheckError:
    DescriptorError.raise_for(error.osError)
    if isinstance(error, ConnectionRefusedError):
        return CheckError(Outcome.REFUSED, os.strerror(errno.ECONNREFUSED))
    if isinstance(error, ConnectTimeoutError):
        return CheckError(Outcome.TIMED_OUT, f"connecting: {os.strerror(errno.ETIMEDOUT)}")
    if error.osError == errno.ECONNRESET:
        # A server accepted the connection, and reset it before Twisted reported it.
        return CheckError(Outcome.RESET, "as soon as it was connected")
    has_errno = isinstance(error.osError, int)
    reason = os.strerror(error.osError) if has_errno else escape(str(error))
    return CheckError(Outcome.UNREACHABLE, reason)


def parse_target(
    text: str, look_up: Callable[..., Deferred[Addresses]] = resolve
) -> tuple[str | None, Connect]:
    """
    Parse a target.

    @return: the name of the host, as L{server_name} returns it, or C{None} when the target has
        none; and how to connect.
    @raise ValueError: when it is not a target.
    """
    if text.startswith("tcp://"):  # as the URLs of other programs
        text = text[6:].removesuffix("/")
    if text.startswith("unix:") and ":" not in text[5:]:
        return None, _unix(unix_path(text[5:]))
    if match := HOST_PORT.fullmatch(text):
        host, port = match[1] or match[2], _server_port(match[3])
        name = server_name(host)
        return name, _tcp(_lookup_name(host, name), port, look_up)
    if text.startswith(("tls:", "ssl:")):
        raise ValueError("Twisted's TLS has no half-close; give --tls and HOST:PORT")
    if "://" in text:
        raise ValueError(f"not the URL of an echo server; {_FORMS}")
    return None, _from_endpoint(text, look_up)


def _server_port(text: str) -> int:
    port = port_number(text)
    if not port:
        raise ValueError("no server listens on port 0; give one from 1 to 65535")
    return port


def _lookup_name(host: str, name: str) -> str:
    # With a trailing dot, the resolver does not add a search domain (resolv.conf(5)).
    return f"{name}." if host.endswith(".") else name


def _from_endpoint(description: str, look_up: Callable[..., Deferred[Addresses]]) -> Connect:
    from twisted.internet.endpoints import clientFromString

    check_colons(description)
    try:
        if ":" not in description:
            raise ValueError("no port")
        clientFromString(None, description)
    except Exception as error:
        # The parsers of endpoints, also of plugins, may raise any exception.
        raise ValueError(f"not a server ({escape(str(error))}); {_FORMS}") from None
    kind = description.partition(":")[0]
    if kind == "tcp":
        # With the resolver of HOST:PORT: Twisted's delays the exit for a silent name server.
        given = endpoint_settings(description, "host", "port")
        host, port = given["host"], _server_port(given["port"])
        timeout = endpoint_timeout(given["timeout"]) if "timeout" in given else NO_TIMEOUT
        bind = (interface(given["bindAddress"]), 0) if given.get("bindAddress") else None
        return _tcp(_lookup_name(host, server_name(host)), port, look_up, timeout, bind)
    if kind == "unix":
        given = endpoint_settings(description, "path")
        unix_path(given["path"])
        if "timeout" in given:
            endpoint_timeout(given["timeout"])
    return _endpoint(description)
