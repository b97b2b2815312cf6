"""
A probe: send random bytes, compare what comes back, and close.

L{Pattern} makes the bytes, L{Comparison} names the difference, L{Probe} exchanges them over a
connection, and L{check} is one run of C{echod-check}.

Invariant: each byte that comes back is compared.
"""

import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, TimeoutError

from echod.check.connect import Dial, timeout_after
from echod.check.results import CheckError, CheckResult, Outcome
from echod.check.stream import IByteStream

PERIOD = 1_048_573
"""
The length of the longest block.  It is prime, so a loss of whole buffers or pages is never a
multiple of it and never looks like an exact echo.
"""

WINDOW = 64
"""How many bytes from a difference on are kept to find out what it is."""

KEY_BYTES = 16
"""How many of these bytes are searched for in the stream; after them, another difference may be."""

MIN_KEY_BYTES = 8
"""A shorter key may be found in random bytes by accident."""

SEARCH_BYTES = 1_048_576
"""How far from the difference the key is searched for."""

PIECE_BYTES = 65536

HALF_CLOSE_SHARE = 0.5
"""
The share of the timeout after which the probe half-closes although bytes are missing: a server
that has lost them closes then, and a server that hangs does not.
"""

Pace = Callable[[], Awaitable[object]]
"""What to wait for between two pieces."""


@dataclass(frozen=True)
class Pattern:
    """
    An endless stream that repeats a block.

    @ivar start: the offset in the block at which the stream starts.  With different offsets, an
        echo that goes to the wrong client is a difference.
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
        The bytes of the stream at an offset.
        """
        block = self.block
        offset = (self.start + offset) % len(block)
        if offset + size > len(block):
            block *= (offset + size) // len(block) + 1
        return block[offset : offset + size]


class Comparison:
    """
    Compares what comes back with what was sent.

    @ivar size: how many bytes are sent.
    @ivar received: how many bytes came back.
    @ivar exact: how many of them, from the start, are equal.
    """

    def __init__(self, pattern: Pattern, size: int):
        self.size = size
        self.received = 0
        self.exact = 0
        self._pattern = pattern
        self._window = b""

    def feed(self, piece: bytes) -> None:
        """
        Compare the next bytes that came back.
        """
        self.received += len(piece)
        if not self._window:
            equal = min(len(piece), self.size - self.exact)
            expected = self._pattern.at(self.exact, equal)
            if piece[:equal] != expected:
                equal = _common_prefix(piece, expected)
            self.exact += equal
            piece = piece[equal:]
        self._window += piece[: WINDOW - len(self._window)]

    @property
    def complete(self) -> bool:
        """
        Whether all has come back as it was.
        """
        return self.exact == self.size

    @property
    def differs(self) -> bool:
        """
        Whether a byte came back that was not expected.
        """
        return bool(self._window)

    @property
    def decided(self) -> bool:
        """
        Whether there are enough bytes to name the difference.
        """
        return len(self._window) == WINDOW

    @property
    def lost(self) -> int:
        """
        How many bytes did not come back unchanged.  All bytes after a difference count as lost.
        """
        return self.size - (self.exact if self._window else min(self.received, self.size))

    def difference(self) -> CheckError:
        """
        Name the difference.  A lost or added byte shifts the rest of the stream, so this searches
        for the bytes after the difference elsewhere in the stream.
        """
        window, at, pattern = self._window, self.exact, self._pattern
        if at >= self.size:
            more = self.received - self.size
            return CheckError(Outcome.SURPLUS, f"{more} more than the {self.size} bytes sent")
        missing = self.size - self.received
        key = window[:KEY_BYTES]
        if len(key) >= MIN_KEY_BYTES:
            ahead = pattern.at(at + 1, min(SEARCH_BYTES + len(key), self.size - at - 1))
            before = min(at, SEARCH_BYTES)
            lost = ahead.find(key) + 1
            repeated = pattern.at(at - before, before + len(key) - 1).rfind(key)
        else:
            # The window is the end of the stream.
            is_end = missing > 0 and pattern.at(at + missing, len(window)) == window
            lost, repeated = missing if is_end else 0, -1
        if lost:
            return CheckError(Outcome.LOST, f"{_bytes(lost)} at offset {at} of {self.size}")
        if repeated >= 0:
            text = f"{_bytes(before - repeated)} came back twice, from offset {at}"
            return CheckError(Outcome.SURPLUS, text)
        for added in range(1, len(window)):
            rest = window[added : added + KEY_BYTES]
            is_enough = len(rest) >= MIN_KEY_BYTES or added == -missing
            if is_enough and rest == pattern.at(at, len(rest)):
                return CheckError(Outcome.SURPLUS, f"{_bytes(added)} at offset {at} never sent")
        sent, got = pattern.at(at, 1)[0], window[0]
        text = f"offset {at} of {self.size}: sent 0x{sent:02x}, got 0x{got:02x}"
        return CheckError(Outcome.CORRUPTED, text)

    def progress(self) -> str:
        """
        How much has come back, in words.
        """
        return f"{self.received} of {_bytes(self.size)} came back"


def _common_prefix(one: bytes, other: bytes) -> int:
    """
    The length of the common prefix.
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


class Probe:
    """
    Sends a pattern over a connection, and compares what comes back.

    @ivar comparison: what came back.
    @ivar sent: how many bytes were written to the connection.
    @ivar first_byte_seconds: the time until the first byte came back; C{None} until then.
    """

    def __init__(self, clock: Any, stream: IByteStream, pattern: Pattern, size: int):
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
        half_close_seconds: float,
        *,
        half_close: bool = False,
        piece_bytes: int = PIECE_BYTES,
        send_pace: Pace | None = None,
        read_pace: Pace | None = None,
        read_after: Awaitable[object] | None = None,
        on_stage: Callable[[str], None] = lambda stage: None,
    ) -> None:
        """
        Send the pattern, receive it, and close.

        @param half_close_seconds: how long to wait for missing bytes before half-closing, which
            shows whether they are lost.
        @param half_close: whether to half-close after the last byte is sent, and not when every
            byte is back.
        @param piece_bytes: how much to write at a time.
        @param send_pace: what to wait for after each write.
        @param read_pace: what to wait for after each read.
        @param read_after: what to wait for before the first read.
        @param on_stage: called with the name of each stage when it begins.
        @raise CheckError: when a byte is lost or wrong, or the connection ends wrongly.
        """
        on_stage("waiting for the echo")
        sending = Deferred.fromCoroutine(self._send(piece_bytes, half_close, send_pace))
        # The reader reports a lost connection.
        sending.addErrback(lambda failure: failure.trap(CheckError, CancelledError) and None)
        late = self._clock.callLater(half_close_seconds, self._half_close_late)
        try:
            if read_after is not None:
                await read_after
            await self._receive(read_pace, on_stage)
        finally:
            if late.active():
                late.cancel()
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

    def _half_close_late(self) -> None:
        if self.sent == self._size:
            finishing = Deferred.fromCoroutine(self._finish())
            finishing.addErrback(lambda failure: failure.trap(CheckError) and None)

    async def _receive(self, pace: Pace | None, on_stage: Callable[[str], None]) -> None:
        comparison = self.comparison
        start = self._clock.seconds()
        while True:
            try:
                if comparison.complete and not self._finished:
                    on_stage("waiting for the server to close")
                    await self._finish()
                piece = await self._stream.read()
            except CheckError as failure:
                if comparison.differs:
                    raise comparison.difference() from None
                text = f"{failure.detail}; {comparison.progress()}"
                raise CheckError(failure.outcome, text) from None
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
            # A server that closes before our half-close has not seen the end of the stream.
            outcome = Outcome.LOST if self._finished else Outcome.CLOSED_EARLY
            raise CheckError(outcome, comparison.progress())


async def check(clock: Any, dial: Dial, size: int, timeout_seconds: float) -> CheckResult:
    """
    Check a server once.

    @param size: how many random bytes to send.
    """
    result = CheckResult()
    start = clock.seconds()
    pattern = Pattern.random(size)
    probe: Probe | None = None

    def on_stage(stage: str) -> None:
        result.stage = stage

    async def connect_and_run() -> None:
        nonlocal probe
        stream = await dial(result)
        probe = Probe(clock, stream, pattern, size)
        left = timeout_seconds - (clock.seconds() - start)
        try:
            await probe.run(max(0.0, left) * HALF_CLOSE_SHARE, on_stage=on_stage)
            await stream.lose()
        finally:
            stream.abort()

    try:
        await timeout_after(clock, timeout_seconds, connect_and_run())
    except CheckError as failure:
        result.failure = failure
    except TimeoutError:
        result.failure = _timed_out(result.stage, probe, timeout_seconds)
    result.times.total = clock.seconds() - start
    if probe is not None:
        result.received = probe.comparison.received
        result.times.first_byte = probe.first_byte_seconds
    return result


def _timed_out(stage: str, probe: Probe | None, timeout_seconds: float) -> CheckError:
    text = f"{stage}, after {timeout_seconds:g} s"
    if probe is None:
        return CheckError(Outcome.TIMED_OUT, text)
    if probe.comparison.differs:
        return probe.comparison.difference()
    return CheckError(Outcome.TIMED_OUT, f"{text}; {probe.comparison.progress()}")
