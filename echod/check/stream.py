"""
A connection as a program reads and writes it that wants to know exactly how it ends:
C{await read()}, C{await write()}, and an end of each direction for itself.

Invariant: both directions are bounded.  Who does not read makes the peer
wait, and who writes waits for the peer.
"""

from collections import deque
from typing import Any, Protocol as Interface

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IHalfCloseableProtocol, IPushProducer
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure
from zope.interface import implementer

from echod._util.text import format_address
from echod.check.results import CheckFailed, Outcome

MAX_UNREAD = 256 * 1024


class ByteStream(Interface):
    """
    Two directions of bytes, plain or secured.  At a time, one coroutine reads and one
    writes.
    """

    async def read(self) -> bytes:
        """
        What has come, as soon as there is something; empty at the end of the stream.

        @raise Failed: when the connection broke.
        """

    async def write(self, piece: bytes) -> None:
        """
        Send, and wait until there is room for more.

        @raise Failed: when the connection broke.
        """

    async def finish(self) -> None:
        """
        Send what is queued, then the end of our direction; the other stays open.

        @raise Failed: when the connection broke.
        """

    def pause(self) -> None:
        """
        Receive nothing more until the next L{read}: the peer is made to wait.
        """

    def abort(self) -> None:
        """
        Close at once, with a reset if anything is still under way.
        """

    async def lose(self) -> None:
        """
        Send what is queued, close, and wait until that is done.
        """


@implementer(IHalfCloseableProtocol, IPushProducer)
class Stream(Protocol):
    """
    A plain connection.

    @ivar peer: the address of the other side, in words.
    """

    def __init__(self) -> None:
        self.peer = ""
        self._pieces: deque[bytes] = deque()
        self._unread = 0
        self._ended = False
        self._broken: CheckFailed | None = None
        self._reader: Deferred[None] | None = None
        self._writer: Deferred[None] | None = None
        self._closing: Deferred[None] | None = None
        self._full = False

    def connectionMade(self) -> None:
        """
        Take over: small messages leave at once, and the transport says when it is full.
        """
        transport: Any = self.transport
        self.peer = format_address(transport.getPeer())
        if hasattr(transport, "setTcpNoDelay"):
            transport.setTcpNoDelay(True)
        transport.registerProducer(self, True)

    def dataReceived(self, data: bytes) -> None:
        """
        Keep it for whoever reads; with enough of it, let the peer wait.
        """
        self._pieces.append(data)
        self._unread += len(data)
        if self._unread >= MAX_UNREAD:
            self.pause()
        self._wake()

    def readConnectionLost(self) -> None:
        """
        The peer has sent all it will.
        """
        self._ended = True
        self._wake()

    def writeConnectionLost(self) -> None:
        """
        We have.
        """

    def connectionLost(self, reason: Failure = Failure(ConnectionDone())) -> None:  # noqa: B008
        """
        The connection is gone; whoever waits is told.
        """
        if reason.check(ConnectionDone):
            self._ended = True
            self._broken = CheckFailed(Outcome.CLOSED_EARLY, "the connection is closed")
        else:
            self._broken = CheckFailed(Outcome.RESET, "the connection was reset")
        self._wake()
        self.resumeProducing()
        if self._closing is not None:
            self._closing.callback(None)

    def pauseProducing(self) -> None:
        """
        The transport has enough to send.
        """
        self._full = True

    def resumeProducing(self) -> None:
        """
        The transport has room.
        """
        self._full = False
        if self._writer is not None:
            self._writer.callback(None)

    def stopProducing(self) -> None:
        """
        The transport will take no more; L{connectionLost} says why.
        """

    def _wake(self) -> None:
        if self._reader is not None:
            self._reader.callback(None)

    async def read(self) -> bytes:
        """
        See L{ByteStream}.
        """
        while not self._pieces:
            if self._ended:
                return b""
            if self._broken is not None:
                raise self._broken
            self._transport.resumeProducing()
            self._reader = Deferred()
            try:
                await self._reader
            finally:
                self._reader = None
        piece = self._pieces.popleft()
        self._unread -= len(piece)
        return piece

    async def write(self, piece: bytes) -> None:
        """
        See L{ByteStream}.
        """
        if self._broken is None:
            self._transport.write(piece)
        while self._full and self._broken is None:
            self._writer = Deferred()
            try:
                await self._writer
            finally:
                self._writer = None
        if self._broken is not None:
            raise self._broken

    async def finish(self) -> None:
        """
        See L{ByteStream}.
        """
        if self._broken is not None:
            raise self._broken
        self._transport.unregisterProducer()
        self._transport.loseWriteConnection()

    def pause(self) -> None:
        """
        See L{ByteStream}.
        """
        if not self._ended:
            self._transport.pauseProducing()

    def abort(self) -> None:
        """
        See L{ByteStream}.
        """
        self._transport.abortConnection()

    async def lose(self) -> None:
        """
        See L{ByteStream}.
        """
        if self._broken is None:
            self._transport.unregisterProducer()
            # Twisted may close at once.
            self._closing = Deferred()
            self._transport.loseConnection()
            try:
                await self._closing
            finally:
                self._closing = None

    @property
    def _transport(self) -> Any:
        # Each transport that Twisted has can do more than its interface promises.
        return self.transport
