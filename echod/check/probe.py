"""
One probe: send, compare what comes back, and see how the connection ends.

Invariant: each byte that comes back is compared.
"""

import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, TimeoutError

from echod.check.connect import Dial, timeout_after
from echod.check.results import CheckFailed, CheckResult, Outcome
from echod.check.stream import ByteStream

PERIOD = 1_048_573
"""
The longest block.  The number is prime, so no lost run of whole pieces, pages or buffers
falls in step with the repetition and goes unseen.
"""

WINDOW = 64
"""How many bytes behind a difference are looked at to tell what it is."""

HEAD = 16
"""How many bytes are looked for elsewhere.  Behind them there may be the next difference."""

SURE = 8
"""So many random bytes stand in one place only; fewer may be there by accident."""

SEARCH = 1_048_576
"""How far away the place is looked for at which the stream goes on."""


@dataclass(frozen=True)
class Pattern:
    """
    An endless stream: a block, over and over.

    @ivar start: where in the block this stream begins.  Streams with a place of their own
        show an echo that went to the wrong client.
    """

    block: bytes
    start: int = 0

    @classmethod
    def random(cls, size: int) -> "Pattern":
        """
        A stream of random bytes, for messages of this size.
        """
        return cls(os.urandom(max(1, min(size, PERIOD))))

    def at(self, offset: int, size: int) -> bytes:
        """
        A part of the stream.
        """
        block = self.block
        offset = (self.start + offset) % len(block)
        if offset + size > len(block):
            block *= (offset + size) // len(block) + 1
        return block[offset : offset + size]


class Comparison:
    """
    A stream as it was to come back, and as it did.

    @ivar size: how long the stream is.
    @ivar received: how many bytes have come.
    @ivar exact: how many of them, from the start on, were the right ones.
    """

    def __init__(self, pattern: Pattern, size: int):
        self.size = size
        self.received = 0
        self.exact = 0
        self._pattern = pattern
        self._differs = b""

    def feed(self, piece: bytes) -> None:
        """
        Compare what has come next.
        """
        self.received += len(piece)
        if not self._differs:
            due = min(len(piece), self.size - self.exact)
            expected = self._pattern.at(self.exact, due)
            if piece[:due] == expected:
                self.exact += due
            else:
                due = _common(piece, expected)
                self.exact += due
            piece = piece[due:]
        self._differs += piece[: WINDOW - len(self._differs)]

    @property
    def complete(self) -> bool:
        """
        Whether all has come back as it was.
        """
        return self.exact == self.size

    @property
    def differs(self) -> bool:
        """
        Whether something came that was not due.
        """
        return bool(self._differs)

    @property
    def decided(self) -> bool:
        """
        Whether enough is known of a difference to name it.
        """
        return len(self._differs) == WINDOW

    @property
    def lost(self) -> int:
        """
        How many bytes have not come back as they were.  Behind a difference nothing
        counts that merely has the right length.
        """
        return self.size - (self.exact if self._differs else min(self.received, self.size))

    def difference(self) -> CheckFailed:
        """
        What the difference is.  One byte less shifts all that follows: so the place is
        looked for at which the stream goes on.
        """
        window, at, pattern = self._differs, self.exact, self._pattern
        if at >= self.size:
            more = self.received - self.size
            return CheckFailed(Outcome.SURPLUS, f"{more} more than the {self.size} bytes sent")
        missing = self.size - self.received
        head = window[:HEAD]
        sure = len(head) >= SURE
        if sure:
            ahead = pattern.at(at + 1, min(SEARCH + len(head), self.size - at - 1))
            behind = min(at, SEARCH)
            shift = ahead.find(head) + 1
            again = pattern.at(at - behind, behind + len(head) - 1).rfind(head)
        else:
            to_the_end = missing > 0 and pattern.at(at + missing, len(window)) == window
            shift, again = missing if to_the_end else 0, -1
        if shift:
            return CheckFailed(Outcome.LOST, f"{_bytes(shift)} at offset {at} of {self.size}")
        if again >= 0:
            text = f"{_bytes(behind - again)} came back twice, from offset {at}"
            return CheckFailed(Outcome.SURPLUS, text)
        for more in range(1, len(window)):
            goes_on = window[more : more + HEAD]
            enough = len(goes_on) >= SURE or more == -missing
            if enough and goes_on == pattern.at(at, len(goes_on)):
                return CheckFailed(Outcome.SURPLUS, f"{_bytes(more)} at offset {at} never sent")
        sent, got = pattern.at(at, 1)[0], window[0]
        text = f"offset {at} of {self.size}: sent 0x{sent:02x}, got 0x{got:02x}"
        return CheckFailed(Outcome.CORRUPTED, text)

    def progress(self) -> str:
        """
        How far it has come, in words.
        """
        return f"{self.received} of {_bytes(self.size)} came back"


def _common(one: bytes, other: bytes) -> int:
    """
    How long the two are the same, from their start on.
    """
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[:middle] == other[:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _bytes(number: int) -> str:
    return f"{number} byte{'s' * (number != 1)}"


PIECE_BYTES = 65536

Pace = Callable[[], Awaitable[object]]
"""What to wait for between one piece and the next."""

IMPATIENCE = 0.5
"""
The share of the time after which the sending side is closed although something is still
missing: a server that has lost it closes, and one that hangs does not.
"""


class Probe:
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
        sending.addErrback(lambda failure: failure.trap(CheckFailed, CancelledError) and None)
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
            finishing.addErrback(lambda failure: failure.trap(CheckFailed) and None)

    async def _receive(self, pace: Pace | None, noted: Callable[[str], None]) -> None:
        comparison = self.comparison
        start = self._clock.seconds()
        while True:
            try:
                if comparison.complete and not self._finished:
                    noted("waiting for the server to close")
                    await self._finish()
                piece = await self._stream.read()
            except CheckFailed as failure:
                if comparison.differs:
                    raise comparison.difference() from None
                text = f"{failure.detail}; {comparison.progress()}"
                raise CheckFailed(failure.outcome, text) from None
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
            raise CheckFailed(outcome, comparison.progress())


async def check(clock: Any, dial: Dial, size: int, timeout_seconds: float) -> CheckResult:
    """
    Ask a server once whether it is alive and exact.

    @param size: how many random bytes to send.
    """
    answer = CheckResult()
    start = clock.seconds()
    pattern = Pattern.random(size)
    exchanges: list[Probe] = []

    def note(stage: str) -> None:
        answer.stage = stage

    async def ask() -> None:
        stream = await dial(answer)
        probe = Probe(clock, stream, pattern, size)
        exchanges.append(probe)
        left = timeout_seconds - (clock.seconds() - start)
        try:
            await probe.run(max(0.0, left) * IMPATIENCE, noted=note)
            await stream.lose()
        finally:
            stream.abort()

    try:
        await timeout_after(clock, timeout_seconds, ask())
    except CheckFailed as failure:
        answer.failure = failure
    except TimeoutError:
        answer.failure = _late(answer, exchanges, timeout_seconds)
    answer.times.total = clock.seconds() - start
    for probe in exchanges:
        answer.received = probe.comparison.received
        answer.times.first_byte = probe.first_byte_seconds
    return answer


def _late(answer: CheckResult, exchanges: list[Probe], timeout_seconds: float) -> CheckFailed:
    text = f"{answer.stage}, after {timeout_seconds:g} s"
    for probe in exchanges:
        if probe.comparison.differs:
            return probe.comparison.difference()
        text += f"; {probe.comparison.progress()}"
    return CheckFailed(Outcome.TIMED_OUT, text)
