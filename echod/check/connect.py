"""
The way to a server, from its name to a stream that is ready to be written to: connect,
say for whom (PROXY), shake hands (TLS).

The rule of this room: each stage is named before it begins, so that who runs out of time
can say where.
"""

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol as Interface, TypeVar

from twisted.internet.defer import Deferred, FirstError, TimeoutError, gatherResults

from echod.check.place import Connect
from echod.check.results import Answer, Failed, Session
from echod.check.stream import ByteStream, Stream
from echod.proxyprotocol.encoder import Place, place, proxy_header

T = TypeVar("T")

GOODBYE_SECONDS = 0.5
"""How long an alert may take to leave for a server that will not be talked to."""


class Secured(ByteStream, Interface):
    """
    A stream inside TLS.
    """

    def session(self) -> Session:
        """
        What was agreed on.
        """


Secure = Callable[[ByteStream], Awaitable[Secured]]
"""Shakes hands over a stream; C{ClientTLS.secure} is one."""

Dial = Callable[[Answer], Coroutine[Any, Any, ByteStream]]
"""Makes a new connection, and notes in an answer how that went."""


def within(clock: Any, seconds: float, work: Coroutine[Any, Any, T]) -> Deferred[T]:
    """
    Do something, but not for ever.

    @return: its result; it fails with Twisted's C{TimeoutError} when the time is over.
    """
    return Deferred.fromCoroutine(work).addTimeout(seconds, clock)


async def together(*works: Coroutine[Any, Any, None]) -> None:
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


class Dialler:
    """
    Makes connections to one server, each in the same way.
    """

    def __init__(
        self,
        reactor: Any,
        connect: Connect,
        secure: Secure | None = None,
        proxy_version: str | None = None,
        proxy_source: Place | None = None,
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

    async def dial(self, answer: Answer) -> ByteStream:
        """
        Make a connection.

        @raise Failed: when there is none to be had.
        """
        stream = await self._connect(self._reactor, answer)
        try:
            return await self._prepare(stream, answer)
        except Failed:
            try:
                await within(self._reactor, GOODBYE_SECONDS, stream.lose())
            except (TimeoutError, Failed):
                stream.abort()
            raise
        except BaseException:
            stream.abort()
            raise

    async def _prepare(self, stream: Stream, answer: Answer) -> ByteStream:
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
            destination = place(peer)
        except ValueError:
            # A socket in the file system has no address that the header could carry.
            destination = place("0.0.0.0:0")
        return proxy_header(version, self._proxy_source, destination)
