"""
From a target to a connection: resolve, connect, send the PROXY header, perform the TLS handshake.

A target, such as C{localhost:9000}, is parsed into a L{Connect} (L{parse_target}); the
L{Connector} uses it for each connection.

Invariant: the caller's deadline ends each step, and a connection on which a step fails is closed.
"""

import socket
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import Any, TypeVar

from twisted.internet.defer import (
    Deferred,
    FirstError,
    TimeoutError,
    fail,
    gatherResults,
    succeed,
)
from twisted.python.failure import Failure

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

CLOSE_TIMEOUT = 0.5
"""How many seconds a failed connection may take to send its TLS alert."""


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
        secured = await self._secure(stream)
        result.times.complete("handshake", self._reactor.seconds())
        result.session = secured.session()
        return secured

    def _header(self, version: str, peer: str) -> bytes:
        try:
            destination = parse_address(peer)
        except ValueError:
            # The path of a UNIX socket is not an address for the header.
            destination = parse_address("0.0.0.0:0")
        return encode_proxy_header(version, self._proxy_source, destination)
