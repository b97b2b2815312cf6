"""
Streams: C{await read()}, C{await write()}, and a close of each direction on its own, so that a
check sees exactly how a connection ends.

Invariant: the buffers of both directions are bounded.  A check that does not read makes the peer
wait, and a check that writes waits for the peer.
"""

import typing
from collections import deque
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IHalfCloseableProtocol, IPushProducer
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure
from zope.interface import implementer

from echod._util.text import format_address
from echod.check.results import CheckError, Outcome, TLSSession

MAX_UNREAD_BYTES = 256 * 1024
"""How many received bytes are buffered before the stream stops receiving."""


class IByteStream(typing.Protocol):
    """
    A connection, plain or with TLS.  Only one coroutine may read at a time, and only one write.
    """

    async def read(self) -> bytes:
        """
        Wait for bytes and return them; empty at the end of the stream.

        @raise CheckError: when the connection is lost.
        """

    async def write(self, piece: bytes) -> None:
        """
        Send bytes, and wait until the transport takes more.

        @raise CheckError: when the connection is lost.
        """

    async def finish(self) -> None:
        """
        Half-close: send the queued bytes, then the end of this direction; the other stays open.

        @raise CheckError: when the connection is lost.
        """

    def pause(self) -> None:
        """
        Stop receiving until the next L{read}.
        """

    def abort(self) -> None:
        """
        Close at once, with a reset if bytes are still queued.
        """

    async def lose(self) -> None:
        """
        Send the queued bytes, close, and wait until the connection is closed.
        """


class ISecureStream(IByteStream, typing.Protocol):
    """
    A connection with TLS.
    """

    def session(self) -> TLSSession:
        """
        What the TLS handshake negotiated.
        """


@implementer(IHalfCloseableProtocol, IPushProducer)
class Stream(Protocol):
    """
    A plain connection: an L{IByteStream}.

    @ivar peer: the address of the peer.
    """

    def __init__(self) -> None:
        self.peer = ""
        self._pieces: deque[bytes] = deque()
        self._unread = 0
        self._ended = False
        self._failure: CheckError | None = None
        self._reader: Deferred[None] | None = None
        self._writer: Deferred[None] | None = None
        self._closing: Deferred[None] | None = None
        self._full = False

    def connectionMade(self) -> None:
        """
        Disable Nagle's algorithm, and let the transport pause the writer.
        """
        transport: Any = self.transport
        self.peer = format_address(transport.getPeer())
        if hasattr(transport, "setTcpNoDelay"):
            transport.setTcpNoDelay(True)
        transport.registerProducer(self, True)

    def dataReceived(self, data: bytes) -> None:
        """
        Buffer the bytes for L{read}; stop receiving when the buffer is full.
        """
        self._pieces.append(data)
        self._unread += len(data)
        if self._unread >= MAX_UNREAD_BYTES:
            self.pause()
        self._wake_reader()

    def readConnectionLost(self) -> None:
        """
        The peer has half-closed.
        """
        self._ended = True
        self._wake_reader()

    def writeConnectionLost(self) -> None:
        """
        This side has half-closed.
        """

    def connectionLost(self, reason: Failure = Failure(ConnectionDone())) -> None:  # noqa: B008
        """
        The connection is lost: wake the reader, the writer and L{lose}.
        """
        if reason.check(ConnectionDone):
            self._ended = True
            self._failure = CheckError(Outcome.CLOSED_EARLY, "the connection is closed")
        else:
            self._failure = CheckError(Outcome.RESET, "the connection was reset")
        self._wake_reader()
        self.resumeProducing()
        if self._closing is not None:
            self._closing.callback(None)

    def pauseProducing(self) -> None:
        """
        The transport's buffer is full.
        """
        self._full = True

    def resumeProducing(self) -> None:
        """
        The transport takes more.
        """
        self._full = False
        if self._writer is not None:
            self._writer.callback(None)

    def stopProducing(self) -> None:
        """
        Do nothing: L{connectionLost} follows.
        """

    def _wake_reader(self) -> None:
        if self._reader is not None:
            self._reader.callback(None)

    async def read(self) -> bytes:
        """
        See L{IByteStream}.
        """
        while not self._pieces:
            if self._ended:
                return b""
            if self._failure is not None:
                raise self._failure
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
        See L{IByteStream}.
        """
        if self._failure is None:
            self._transport.write(piece)
        while self._full and self._failure is None:
            self._writer = Deferred()
            try:
                await self._writer
            finally:
                self._writer = None
        if self._failure is not None:
            raise self._failure

    async def finish(self) -> None:
        """
        See L{IByteStream}.
        """
        if self._failure is not None:
            raise self._failure
        self._transport.unregisterProducer()
        self._transport.loseWriteConnection()

    def pause(self) -> None:
        """
        See L{IByteStream}.
        """
        if not self._ended:
            self._transport.pauseProducing()

    def abort(self) -> None:
        """
        See L{IByteStream}.
        """
        self._transport.abortConnection()

    async def lose(self) -> None:
        """
        See L{IByteStream}.
        """
        if self._failure is None:
            self._transport.unregisterProducer()
            # Before loseConnection(), which may close at once.
            self._closing = Deferred()
            self._transport.loseConnection()
            try:
                await self._closing
            finally:
                self._closing = None

    @property
    def _transport(self) -> Any:
        # ITransport lacks methods that all of Twisted's stream transports have.
        return self.transport
