"""
One exchange with a server: bytes there, bytes back, and the close.  It knows how each of
them can go wrong, and names it.

The rule of this room: what has come back is judged before how the connection ended, for
that says more.
"""

from collections.abc import Awaitable, Callable
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, TimeoutError

from echod.check.connect import Dial, within
from echod.check.pattern import Comparison, Pattern
from echod.check.results import Answer, Failed, Outcome
from echod.check.stream import ByteStream

PIECE_BYTES = 65536

Pace = Callable[[], Awaitable[object]]
"""What to wait for between one piece and the next."""

IMPATIENCE = 0.5
"""
The share of the time after which the sending side is closed although something is still
missing: a server that has lost it closes, and one that hangs does not.
"""


class Exchange:
    """
    One stream sent over a connection, and what comes back of it.

    @ivar comparison: what has come back.
    @ivar sent: how many bytes have been given to the connection.
    @ivar first_byte_seconds: how long after the first byte was sent one came back; C{None}
        while none has.
    """

    def __init__(self, clock: Any, stream: ByteStream, pattern: Pattern, size: int):
        self.comparison = Comparison(pattern, size)
        self.sent = 0
        self.first_byte_seconds: float | None = None
        self._clock = clock
        self._stream = stream
        self._pattern = pattern
        self._size = size
        self._finished = False

    async def run(
        self,
        patience_seconds: float,
        *,
        half_close: bool = False,
        piece_bytes: int = PIECE_BYTES,
        send_pace: Pace | None = None,
        read_pace: Pace | None = None,
        read_after: Awaitable[object] | None = None,
        noted: Callable[[str], None] = lambda stage: None,
    ) -> None:
        """
        Send all, receive all, close.

        @param patience_seconds: how long to wait for what is missing before closing the
            sending side, which shows whether it is lost.
        @param half_close: whether to close the sending side behind the last byte, and not
            when all has come back.
        @param piece_bytes: how much to write at a time.
        @param read_after: what to wait for before anything is read.
        @param noted: told each stage as it begins.
        @raise Failed: when anything is not as it should be.
        """
        noted("waiting for the echo")
        sending = Deferred.fromCoroutine(self._send(piece_bytes, half_close, send_pace))
        # That the connection broke is seen, and named, by the reader.
        sending.addErrback(lambda failure: failure.trap(Failed, CancelledError) and None)
        impatience = self._clock.callLater(patience_seconds, self._lose_patience)
        try:
            if read_after is not None:
                await read_after
            await self._receive(read_pace, noted)
        finally:
            if impatience.active():
                impatience.cancel()
            sending.cancel()

    async def _send(self, piece_bytes: int, half_close: bool, pace: Pace | None) -> None:
        while self.sent < self._size:
            piece = self._pattern.at(self.sent, min(piece_bytes, self._size - self.sent))
            self.sent += len(piece)
            await self._stream.write(piece)
            if pace is not None:
                await pace()
        if half_close:
            await self._finish()

    async def _finish(self) -> None:
        if not self._finished:
            self._finished = True
            await self._stream.finish()

    def _lose_patience(self) -> None:
        if self.sent == self._size:
            finishing = Deferred.fromCoroutine(self._finish())
            finishing.addErrback(lambda failure: failure.trap(Failed) and None)

    async def _receive(self, pace: Pace | None, noted: Callable[[str], None]) -> None:
        comparison = self.comparison
        start = self._clock.seconds()
        while True:
            try:
                if comparison.complete and not self._finished:
                    noted("waiting for the server to close")
                    await self._finish()
                piece = await self._stream.read()
            except Failed as failure:
                if comparison.differs:
                    raise comparison.difference() from None
                text = f"{failure.detail}; {comparison.progress()}"
                raise Failed(failure.outcome, text) from None
            if not piece:
                break
            if not comparison.received:
                self.first_byte_seconds = self._clock.seconds() - start
            comparison.feed(piece)
            if comparison.decided:
                raise comparison.difference()
            if pace is not None:
                await pace()
        if comparison.differs:
            raise comparison.difference()
        if not comparison.complete:
            # Without an end of ours, the server had none to answer.
            outcome = Outcome.LOST if self._finished else Outcome.CLOSED_EARLY
            raise Failed(outcome, comparison.progress())


async def check(clock: Any, dial: Dial, size: int, timeout_seconds: float) -> Answer:
    """
    Ask a server once whether it is alive and exact.

    @param size: how many random bytes to send.
    """
    answer = Answer()
    start = clock.seconds()
    pattern = Pattern.random(size)
    exchanges: list[Exchange] = []

    def note(stage: str) -> None:
        answer.stage = stage

    async def ask() -> None:
        stream = await dial(answer)
        exchange = Exchange(clock, stream, pattern, size)
        exchanges.append(exchange)
        left = timeout_seconds - (clock.seconds() - start)
        try:
            await exchange.run(max(0.0, left) * IMPATIENCE, noted=note)
            await stream.lose()
        finally:
            stream.abort()

    try:
        await within(clock, timeout_seconds, ask())
    except Failed as failure:
        answer.failure = failure
    except TimeoutError:
        answer.failure = _late(answer, exchanges, timeout_seconds)
    answer.times.total = clock.seconds() - start
    for exchange in exchanges:
        answer.received = exchange.comparison.received
        answer.times.first_byte = exchange.first_byte_seconds
    return answer


def _late(answer: Answer, exchanges: list[Exchange], timeout_seconds: float) -> Failed:
    text = f"{answer.stage}, after {timeout_seconds:g} s"
    for exchange in exchanges:
        if exchange.comparison.differs:
            return exchange.comparison.difference()
        text += f"; {exchange.comparison.progress()}"
    return Failed(Outcome.TIMED_OUT, text)
