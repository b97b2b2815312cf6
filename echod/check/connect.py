"""
From a target to a connection: resolve, connect, send the PROXY header, perform the TLS handshake.

A target, such as C{localhost:9000}, is parsed into a L{Connect} (L{parse_target}); the
L{Connector} uses it for each connection.

Invariant: the caller's deadline ends each step, and a connection on which a step fails is closed.
"""

import errno
import os
import re
import socket
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import Any, TypeVar

from twisted.internet.defer import (
    CancelledError,
    Deferred,
    FirstError,
    TimeoutError,
    fail,
    gatherResults,
    succeed,
)
from twisted.internet.error import (
    ConnectError,
    ConnectingCancelledError,
    ConnectionRefusedError,
    DNSLookupError,
    TimeoutError as ConnectTimeoutError,
)
from twisted.internet.protocol import ClientCreator, Factory
from twisted.python.failure import Failure

from echod._util.text import escape
from echod._util.values import endpoint_settings, port_number, server_name, unix_path
from echod.check.results import CheckError, CheckResult, Outcome
from echod.check.stream import IByteStream, ISecureStream, Stream
from echod.proxyprotocol.encoder import Address, encode_proxy_header, parse_address

T = TypeVar("T")

Addresses = Sequence[tuple[Any, ...]]
"""What C{getaddrinfo} returns."""

Connect = Callable[[Any, CheckResult], Awaitable[Stream]]
"""Connects to a server, and notes stages and times in the result; raises L{CheckError}."""

Secure = Callable[[IByteStream], Awaitable[ISecureStream]]
"""Performs the TLS handshake over a stream, as C{ClientTLS.secure} does."""

Dial = Callable[[CheckResult], Coroutine[Any, Any, IByteStream]]
"""Makes a new connection, as L{Connector.dial} does."""

ATTEMPT_DELAY = 0.25
"""Seconds between the attempts to connect to two addresses of a host (RFC 8305 8)."""

NO_TIMEOUT = 3600.0
"""A timeout for Twisted in seconds: longer than any check, which has its own deadline."""

CLOSE_TIMEOUT = 0.5
"""How many seconds a failed connection may take to send its TLS alert."""

_FORMS = "give HOST:PORT, [IPv6]:PORT, unix:PATH or a Twisted client endpoint"


def timeout_after(clock: Any, seconds: float, work: Coroutine[Any, Any, T]) -> Deferred[T]:
    """
    Run a coroutine with a deadline.

    @return: its result; fails with Twisted's C{TimeoutError} at the deadline.
    """
    return Deferred.fromCoroutine(work).addTimeout(seconds, clock)


async def gather(*works: Coroutine[Any, Any, None]) -> None:
    """
    Run coroutines at the same time.  When one fails, the others are canceled.
    """
    running = [Deferred.fromCoroutine(work) for work in works]
    try:
        await gatherResults(running, consumeErrors=True)
    except FirstError as error:
        error.subFailure.raiseException()
    finally:
        for each in running:
            each.cancel()


def start_thread(work: Callable[[], None]) -> None:
    """
    Run a function that may block in a daemon thread.  The process would wait at its exit for a
    thread of the reactor's pool, so a silent name server would delay a check after its timeout.
    """
    threading.Thread(target=work, name="resolver", daemon=True).start()


def resolve(
    reactor: Any,
    host: str,
    port: int,
    getaddrinfo: Callable[..., Addresses] = socket.getaddrinfo,
    start: Callable[[Callable[[], None]], None] = start_thread,
) -> Deferred[Addresses]:
    """
    Look up the addresses of a host, in the order that the system prefers (RFC 6724).

    @param start: starts a thread.
    @return: the addresses.  Fails with L{CheckError} when the system allows no more threads: in
        the thread of the reactor, a silent name server would block the timeout as well.
    """
    try:
        # An IP address needs no lookup and no thread.
        numeric = getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except (OSError, UnicodeError):
        pass
    else:
        return succeed(numeric)
    addresses: Deferred[Addresses] = Deferred()

    def fire(method: Callable[[Any], None], value: object) -> None:
        # It may have been canceled by the deadline.
        if not addresses.called:
            method(value)

    def look_up() -> None:
        try:
            found: Any = getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            reactor.callFromThread(fire, addresses.errback, Failure(error))
        else:
            reactor.callFromThread(fire, addresses.callback, found)

    try:
        start(look_up)
    except RuntimeError:
        text = "no thread for the lookup; raise the limit on processes, or give an IP address"
        return fail(CheckError(Outcome.UNRESOLVED, text))
    return addresses


def happy_eyeballs(clock: Any, attempts: Iterable[Callable[[], Deferred[T]]]) -> Deferred[T]:
    """
    Start attempts to connect, one after the other: the next one when an attempt fails or
    L{ATTEMPT_DELAY} has passed (RFC 8305 5).  The first to succeed wins, and the others are
    canceled.  Twisted's C{HostnameEndpoint} waits for the delay also after a failure.

    @return: the result of the winner, or the last failure.
    """
    remaining = list(attempts)
    running: list[Deferred[T]] = []
    timers: list[Any] = []
    has_won = False

    def stop(_: object = None) -> None:
        remaining.clear()
        for timer in timers:
            if timer.active():
                timer.cancel()
        for attempt in list(running):
            attempt.cancel()

    winner: Deferred[T] = Deferred(stop)

    def start_next() -> None:
        if remaining:
            attempt = remaining.pop(0)()
            running.append(attempt)
            timers.append(clock.callLater(ATTEMPT_DELAY, start_next))
            attempt.addCallbacks(won, failed, callbackArgs=(attempt,), errbackArgs=(attempt,))

    def won(result: T, attempt: Deferred[T]) -> None:
        nonlocal has_won
        has_won = True
        running.remove(attempt)
        stop()
        winner.callback(result)

    def failed(reason: Failure, attempt: Deferred[T]) -> None:
        running.remove(attempt)
        if remaining:
            start_next()
        elif not running and not has_won:
            stop()
            winner.errback(reason)

    start_next()
    return winner


def _tcp(
    host: str,
    port: int,
    look_up: Callable[..., Deferred[Addresses]],
    timeout: float = NO_TIMEOUT,
    bind_address: tuple[str, int] | None = None,
) -> Connect:
    async def connect(reactor: Any, result: CheckResult) -> Stream:
        result.stage = "resolving"
        start = reactor.seconds()
        try:
            addresses = await look_up(reactor, host, port)
        except OSError as error:
            raise CheckError(Outcome.UNRESOLVED, error.strerror or str(error)) from None
        except UnicodeError:
            raise CheckError(Outcome.UNRESOLVED, "not a host name") from None
        result.times.resolve = reactor.seconds() - start
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
        except (CheckError, CancelledError):
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
    start = reactor.seconds()
    try:
        stream = await connecting
    except DNSLookupError as error:
        raise CheckError(Outcome.UNRESOLVED, escape(str(error))) from None
    except ConnectError as error:
        raise _not_connected(error) from None
    result.times.connect = reactor.seconds() - start
    return stream


def _not_connected(error: ConnectError) -> CheckError:
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
    if text.startswith("unix:") and ":" not in text[5:]:
        return None, _unix(unix_path(text[5:]))
    if match := re.fullmatch(r"(?:\[([^\[\]]+)\]|([^:\[\]/=]+)):([0-9]+)", text):
        host, port = match[1] or match[2], port_number(match[3])
        if not port:
            raise ValueError("no server listens on port 0; give one from 1 to 65535")
        name = server_name(host)
        return name, _tcp(_lookup_name(host, name), port, look_up)
    if text.startswith(("tls:", "ssl:")):
        raise ValueError("Twisted's TLS has no half-close; give --tls and HOST:PORT")
    return None, _from_endpoint(text, look_up)


def _lookup_name(host: str, name: str) -> str:
    # With a trailing dot, the resolver does not add a search domain (resolv.conf(5)).
    return f"{name}." if host.endswith(".") else name


def _from_endpoint(description: str, look_up: Callable[..., Deferred[Addresses]]) -> Connect:
    from twisted.internet.endpoints import clientFromString

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
        host, port = given["host"], port_number(given["port"])
        timeout = float(given.get("timeout", NO_TIMEOUT))
        bind = (given["bindAddress"], 0) if given.get("bindAddress") else None
        return _tcp(_lookup_name(host, server_name(host)), port, look_up, timeout, bind)
    if kind == "unix":
        unix_path(endpoint_settings(description, "path")["path"])
    return _endpoint(description)


class Connector:
    """
    Makes connections to one server.
    """

    def __init__(
        self,
        reactor: Any,
        connect: Connect,
        secure: Secure | None = None,
        proxy_version: str | None = None,
        proxy_source: Address | None = None,
    ):
        """
        @param connect: how to connect.
        @param secure: performs the TLS handshake; C{None} for a plain connection.
        @param proxy_version: C{"v1"} or C{"v2"}; C{None} for no PROXY header.
        @param proxy_source: the client's address in the PROXY header; C{None} for none.
        """
        self._reactor = reactor
        self._connect = connect
        self._secure = secure
        self._proxy_version = proxy_version
        self._proxy_source = proxy_source

    async def dial(self, result: CheckResult) -> IByteStream:
        """
        Make a connection.

        @param result: gets the stages and their times, the peer and the TLS session.
        @raise CheckError: when that fails.
        """
        stream = await self._connect(self._reactor, result)
        try:
            return await self._prepare(stream, result)
        except CheckError:
            try:
                # Not an abort: the alert of a failed TLS handshake has to be sent.
                await timeout_after(self._reactor, CLOSE_TIMEOUT, stream.lose())
            except (TimeoutError, CheckError):
                stream.abort()
            raise
        except BaseException:
            stream.abort()
            raise

    async def _prepare(self, stream: Stream, result: CheckResult) -> IByteStream:
        result.peer = stream.peer
        if self._proxy_version is not None:
            await stream.write(self._header(self._proxy_version, stream.peer))
        if self._secure is None:
            return stream
        result.stage = "TLS handshake"
        start = self._reactor.seconds()
        secured = await self._secure(stream)
        result.times.handshake = self._reactor.seconds() - start
        result.session = secured.session()
        return secured

    def _header(self, version: str, peer: str) -> bytes:
        try:
            destination = parse_address(peer)
        except ValueError:
            # The path of a UNIX socket is not an address for the header.
            destination = parse_address("0.0.0.0:0")
        return encode_proxy_header(version, self._proxy_source, destination)
