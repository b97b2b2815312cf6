"""
From a target's name to a connection that is ready: look-up, connect, PROXY header, TLS.

Invariant: each step has a deadline, and what it leaves behind when it fails is closed.
"""

import errno
import os
import re
import socket
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import Any, Protocol as Interface, TypeVar

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
from echod.check.results import CheckFailed, CheckResult, Outcome, TLSSession
from echod.check.stream import ByteStream, Stream
from echod.proxyprotocol.encoder import Address, encode_proxy_header, parse_address

T = TypeVar("T")

Addresses = Sequence[tuple[Any, ...]]
"""What C{getaddrinfo} answers."""

Connect = Callable[[Any, CheckResult], Awaitable[Stream]]
"""
The way to a server: given the reactor, and where to note the stages and their times.

It raises L{CheckFailed} when there is none.
"""

ATTEMPT_DELAY_SECONDS = 0.25
"""How long one address of a host is tried alone, before the next is too (RFC 8305 8)."""

PATIENCE_SECONDS = 3600.0
"""Longer than any check: the deadline is kept by whoever asked."""

_FORMS = "give HOST:PORT, [IPv6]:PORT, unix:PATH or a Twisted client endpoint"


def in_thread(work: Callable[[], None]) -> None:
    """
    Do something that may block for long.  Nobody waits for it at the end of the process,
    as would be done for a thread of the reactor's pool: a name server that is silent does
    not hold up a check whose time is over.
    """
    threading.Thread(target=work, name="resolver", daemon=True).start()


def resolve(
    reactor: Any,
    host: str,
    port: int,
    getaddrinfo: Callable[..., Addresses] = socket.getaddrinfo,
    start: Callable[[Callable[[], None]], None] = in_thread,
) -> Deferred[Addresses]:
    """
    Look up the addresses of a host, in the order that the system prefers (RFC 6724).

    @return: those; it fails with L{CheckFailed} when there can be no more threads, since in this
        one a name server that is silent would hold up C{--timeout}, too.
    """
    try:
        # One that is an address already is not looked up, and needs no thread.
        numeric = getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except (OSError, UnicodeError):
        pass
    else:
        return succeed(numeric)
    answer: Deferred[Addresses] = Deferred()

    def settle(fire: Callable[[Any], None], result: object) -> None:
        if not answer.called:
            fire(result)

    def look_up() -> None:
        try:
            found: Any = getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            reactor.callFromThread(settle, answer.errback, Failure(error))
        else:
            reactor.callFromThread(settle, answer.callback, found)

    try:
        start(look_up)
    except RuntimeError:
        return fail(_no_thread())
    return answer


def _no_thread() -> CheckFailed:
    return CheckFailed(
        Outcome.UNRESOLVED,
        "no thread can be started to look it up; raise the limit on processes, or give an address",
    )


def happy_eyeballs(clock: Any, attempts: Iterable[Callable[[], Deferred[T]]]) -> Deferred[T]:
    """
    Start one attempt after the other, the next one when one has failed or has had its
    time alone (RFC 8305 5).  The first to succeed wins, and the others are given up.
    Twisted's own C{HostnameEndpoint} waits even when an address has refused.

    @return: what the winner gave, or the last failure.
    """
    waiting = list(attempts)
    running: list[Deferred[T]] = []
    timers: list[Any] = []
    won_already = False

    def stop(_: object = None) -> None:
        waiting.clear()
        for timer in timers:
            if timer.active():
                timer.cancel()
        for attempt in list(running):
            attempt.cancel()

    winner: Deferred[T] = Deferred(stop)

    def start_next() -> None:
        if waiting:
            attempt = waiting.pop(0)()
            running.append(attempt)
            timers.append(clock.callLater(ATTEMPT_DELAY_SECONDS, start_next))
            attempt.addCallbacks(won, failed, callbackArgs=(attempt,), errbackArgs=(attempt,))

    def won(result: T, attempt: Deferred[T]) -> None:
        nonlocal won_already
        won_already = True
        running.remove(attempt)
        stop()
        winner.callback(result)

    def failed(reason: Failure, attempt: Deferred[T]) -> None:
        running.remove(attempt)
        if waiting:
            start_next()
        elif not running and not won_already:
            stop()
            winner.errback(reason)

    start_next()
    return winner


def _tcp(
    host: str,
    port: int,
    look_up: Callable[..., Deferred[Addresses]],
    timeout: float = PATIENCE_SECONDS,
    bind_address: tuple[str, int] | None = None,
) -> Connect:
    async def connect(reactor: Any, answer: CheckResult) -> Stream:
        answer.stage = "resolving"
        start = reactor.seconds()
        try:
            addresses = await look_up(reactor, host, port)
        except OSError as error:
            raise CheckFailed(Outcome.UNRESOLVED, error.strerror or str(error)) from None
        except UnicodeError:
            raise CheckFailed(Outcome.UNRESOLVED, "not a name") from None
        answer.times.resolve = reactor.seconds() - start
        attempts = []
        for family, *_, address in addresses:
            # An address of IPv6 that is local to a link has its interface in a field of
            # its own (sin6_scope_id), and Twisted wants it in the address's text.
            text = address[0]
            if family == socket.AF_INET6 and address[3] and "%" not in text:
                text = f"{text}%{address[3]}"
            creator = ClientCreator(reactor, Stream)
            attempts.append(
                lambda c=creator, t=text, a=address: c.connectTCP(t, a[1], timeout, bind_address)
            )
        return await _connected(happy_eyeballs(reactor, attempts), reactor, answer)

    return connect


def _unix(path: str) -> Connect:
    async def connect(reactor: Any, answer: CheckResult) -> Stream:
        creator = ClientCreator(reactor, Stream)
        connecting: Deferred[Stream] = creator.connectUNIX(path, PATIENCE_SECONDS)
        return await _connected(connecting, reactor, answer)

    return connect


def _endpoint(description: str) -> Connect:
    async def connect(reactor: Any, answer: CheckResult) -> Stream:
        from twisted.internet.endpoints import clientFromString

        endpoint = clientFromString(reactor, description)
        try:
            connecting: Deferred[Any] = endpoint.connect(Factory.forProtocol(Stream))
            return await _connected(connecting, reactor, answer)
        except (CheckFailed, CancelledError):
            raise
        except ConnectingCancelledError:
            # Twisted's word for the end of the time, while an endpoint connects.
            raise CancelledError from None
        except Exception as error:
            # What an endpoint finds out only now, it may tell in any way.
            raise CheckFailed(Outcome.UNREACHABLE, escape(str(error))) from None

    return connect


async def _connected(connecting: Deferred[Stream], reactor: Any, answer: CheckResult) -> Stream:
    answer.stage = "connecting"
    start = reactor.seconds()
    try:
        stream = await connecting
    except DNSLookupError as error:
        raise CheckFailed(Outcome.UNRESOLVED, escape(str(error))) from None
    except ConnectError as error:
        raise _not_connected(error) from None
    answer.times.connect = reactor.seconds() - start
    return stream


def _not_connected(error: ConnectError) -> CheckFailed:
    if isinstance(error, ConnectionRefusedError):
        return CheckFailed(Outcome.REFUSED, os.strerror(errno.ECONNREFUSED))
    if isinstance(error, ConnectTimeoutError):
        return CheckFailed(Outcome.TIMED_OUT, f"connecting: {os.strerror(errno.ETIMEDOUT)}")
    if error.osError == errno.ECONNRESET:
        # Somebody was there, and let go before we could say that we are connected.
        return CheckFailed(Outcome.RESET, "as soon as it was connected")
    # Twisted gives the number of the system's error, or says why in words.
    known = isinstance(error.osError, int)
    reason = os.strerror(error.osError) if known else escape(str(error))
    return CheckFailed(Outcome.UNREACHABLE, reason)


def parse_target(
    text: str, look_up: Callable[..., Deferred[Addresses]] = resolve
) -> tuple[str | None, Connect]:
    """
    Read where the server is.

    @return: the name of the host, as L{server_name} has it, C{None} where there is none, and
        the way to it.
    @raise ValueError: when it is no place.
    """
    if text.startswith("unix:") and ":" not in text[5:]:
        return None, _unix(unix_path(text[5:]))
    if match := re.fullmatch(r"(?:\[([^\[\]]+)\]|([^:\[\]/=]+)):([0-9]+)", text):
        host, port = match[1] or match[2], port_number(match[3])
        if not port:
            raise ValueError("nobody listens on port 0; give one from 1 to 65535")
        name = server_name(host)
        return name, _tcp(_whole(host, name), port, look_up)
    if text.startswith(("tls:", "ssl:")):
        raise ValueError("Twisted's TLS knows no half-close; give --tls and HOST:PORT")
    return None, _from_endpoint(text, look_up)


def _whole(host: str, name: str) -> str:
    # To the resolver, the dot says that the name is whole (resolv.conf(5)).
    return f"{name}." if host.endswith(".") else name


def _from_endpoint(description: str, look_up: Callable[..., Deferred[Addresses]]) -> Connect:
    from twisted.internet.endpoints import clientFromString

    try:
        if ":" not in description:
            raise ValueError("no port")
        clientFromString(None, description)
    except Exception as error:
        # The parsers, and those of plugins, raise whatever their arguments make them.
        raise ValueError(f"not a place ({escape(str(error))}); {_FORMS}") from None
    kind = description.partition(":")[0]
    if kind == "tcp":
        # As HOST:PORT is: Twisted's own looks names up in threads that a name server can stop.
        given = endpoint_settings(description, "host", "port")
        host, port = given["host"], port_number(given["port"])
        timeout = float(given.get("timeout", PATIENCE_SECONDS))
        bind = (given["bindAddress"], 0) if given.get("bindAddress") else None
        return _tcp(_whole(host, server_name(host)), port, look_up, timeout, bind)
    if kind == "unix":
        unix_path(endpoint_settings(description, "path")["path"])
    return _endpoint(description)


GOODBYE_SECONDS = 0.5
"""How long an alert may take to leave for a server that will not be talked to."""


class Secured(ByteStream, Interface):
    """
    A stream inside TLS.
    """

    def session(self) -> TLSSession:
        """
        What was agreed on.
        """


Secure = Callable[[ByteStream], Awaitable[Secured]]
"""Shakes hands over a stream; C{ClientTLS.secure} is one."""

Dial = Callable[[CheckResult], Coroutine[Any, Any, ByteStream]]
"""Makes a new connection, and notes in an answer how that went."""


def timeout_after(clock: Any, seconds: float, work: Coroutine[Any, Any, T]) -> Deferred[T]:
    """
    Do something, but not for ever.

    @return: its result; it fails with Twisted's C{TimeoutError} when the time is over.
    """
    return Deferred.fromCoroutine(work).addTimeout(seconds, clock)


async def gather(*works: Coroutine[Any, Any, None]) -> None:
    """
    Do all of it at the same time.  When one fails, the others are given up.
    """
    running = [Deferred.fromCoroutine(work) for work in works]
    try:
        await gatherResults(running, consumeErrors=True)
    except FirstError as error:
        error.subFailure.raiseException()
    finally:
        for each in running:
            each.cancel()


class Connector:
    """
    Makes connections to one server, each in the same way.
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
        @param secure: for TLS; C{None} for plain.
        @param proxy_version: C{"v1"} or C{"v2"}; C{None} for no PROXY header.
        """
        self._reactor = reactor
        self._connect = connect
        self._secure = secure
        self._proxy_version = proxy_version
        self._proxy_source = proxy_source

    async def dial(self, answer: CheckResult) -> ByteStream:
        """
        Make a connection.

        @raise Failed: when there is none to be had.
        """
        stream = await self._connect(self._reactor, answer)
        try:
            return await self._prepare(stream, answer)
        except CheckFailed:
            try:
                await timeout_after(self._reactor, GOODBYE_SECONDS, stream.lose())
            except (TimeoutError, CheckFailed):
                stream.abort()
            raise
        except BaseException:
            stream.abort()
            raise

    async def _prepare(self, stream: Stream, answer: CheckResult) -> ByteStream:
        answer.peer = stream.peer
        if self._proxy_version is not None:
            await stream.write(self._header(self._proxy_version, stream.peer))
        if self._secure is None:
            return stream
        answer.stage = "TLS handshake"
        start = self._reactor.seconds()
        secured = await self._secure(stream)
        answer.times.handshake = self._reactor.seconds() - start
        answer.session = secured.session()
        return secured

    def _header(self, version: str, peer: str) -> bytes:
        try:
            destination = parse_address(peer)
        except ValueError:
            # A socket in the file system has no address that the header could carry.
            destination = parse_address("0.0.0.0:0")
        return encode_proxy_header(version, self._proxy_source, destination)
