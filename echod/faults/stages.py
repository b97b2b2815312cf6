"""
What each fault does to the bytes of one connection: a chain of stages, from the client's bytes to
the echo.

Invariant: a stage passes bytes on in their order, then the end, once.  What it delays is counted
(L{ILink.hold}), so that the connection stops reading before it is too much.
"""

import random
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from enum import Enum
from typing import Any, Protocol

from twisted.internet.interfaces import IDelayedCall

from echod.faults.spec import (
    Bandwidth,
    Corrupt,
    Fault,
    Latency,
    Limit,
    Reset,
    Slicer,
    SlowClose,
    Timeout,
)

CHUNK_BYTES = 128
"""
How much a delayed chunk counts besides its bytes: about what CPython needs for a short C{bytes} and
its place in the queue.
"""

BANDWIDTH_INTERVAL = 0.05
"""Seconds between two pieces of an echo with a bandwidth."""

MAX_CATCH_UP = 1.0
"""For how many seconds a bandwidth makes up, if the process could not send in time."""

TIMEOUT_CLOSE = 60.0
"""
Seconds from a client's half-close until a C{timeout} closes, too.  As long as Linux remembers a
closed socket whose peer does not close (C{tcp_fin_timeout}, tcp(7)).
"""


class End(Enum):
    """
    How the bytes end.
    """

    INPUT = "input"
    """The client has closed its sending side."""
    CLOSE = "close"
    """A fault closes the connection politely."""
    RESET = "reset"
    """A fault resets the connection, when the client has received the bytes before."""


class IStage(Protocol):
    """
    What bytes are passed on to.
    """

    def receive(self, data: bytes) -> None:
        """
        The next bytes.
        """

    def end(self, how: End) -> None:
        """
        No more bytes will come.
        """


class ILink(Protocol):
    """
    What a stage needs of its connection.

    @ivar clock: C{IReactorTime}.
    """

    clock: Any

    def hold(self, size: int) -> None:
        """
        So many bytes more are delayed; if negative, less.
        """

    def reset(self) -> None:
        """
        Reset the connection at once.
        """


class Stage:
    """
    A stage that passes all on.
    """

    def __init__(self, link: ILink, then: IStage):
        """
        @param then: the next stage.
        """
        self._link = link
        self._then = then

    def begin(self) -> None:
        """
        The echo begins: TLS is ready, if there is any.
        """

    def receive(self, data: bytes) -> None:
        self._then.receive(data)

    def end(self, how: End) -> None:
        self._then.end(how)

    def hurry(self) -> None:
        """
        Pass on at once what is delayed, and delay nothing from now on.
        """

    def stop(self) -> None:
        """
        The connection is lost: forget what is delayed.
        """


class DelayingStage(Stage):
    """
    A stage with a timer.
    """

    _timer: IDelayedCall | None = None
    _ended: End | None = None
    _hurried = False

    def _wait(self, seconds: float) -> None:
        if self._timer is None:
            self._timer = self._link.clock.callLater(max(0.0, seconds), self._fire)

    def _fire(self) -> None:
        self._timer = None
        self._run()

    def _run(self) -> None:
        """
        Pass on what is due, and wait for the rest.
        """
        self._pass_end()

    def _pass_end(self) -> None:
        ended, self._ended = self._ended, None
        if ended is not None:
            self._then.end(ended)

    def hurry(self) -> None:
        self._hurried = True
        self._cancel()
        self._pass_rest()
        self._pass_end()

    def _pass_rest(self) -> None:
        """
        Pass on all bytes that are delayed.
        """

    def stop(self) -> None:
        self._cancel()
        self._ended = None

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class LatencyStage(DelayingStage):
    """
    Delays each chunk, and the end; with a jitter, but never before an earlier one.
    """

    def __init__(self, link: ILink, then: IStage, fault: Latency, source: random.Random):
        super().__init__(link, then)
        self._fault = fault
        self._source = source
        self._chunks: deque[tuple[float, bytes]] = deque()
        self._due = 0.0

    def _next_due(self) -> float:
        fault = self._fault
        delay = fault.seconds + fault.jitter * (2 * self._source.random() - 1)
        now: float = self._link.clock.seconds()
        self._due = max(self._due, now + max(0.0, delay))
        self._wait(self._due - now)
        return self._due

    def receive(self, data: bytes) -> None:
        if self._hurried:
            self._then.receive(data)
            return
        self._chunks.append((self._next_due(), data))
        self._link.hold(len(data) + CHUNK_BYTES)

    def end(self, how: End) -> None:
        if self._hurried:
            self._then.end(how)
            return
        self._ended = how
        self._next_due()

    def _run(self) -> None:
        now, chunks = self._link.clock.seconds(), self._chunks
        due = []
        while chunks and chunks[0][0] <= now:
            due.append(chunks.popleft()[1])
        self._pass(due)
        if chunks:
            self._wait(chunks[0][0] - now)
        elif self._ended is not None and self._due > now:
            self._wait(self._due - now)
        else:
            self._pass_end()

    def _pass(self, due: Sequence[bytes]) -> None:
        data = b"".join(due)
        if data:
            self._then.receive(data)
            self._link.hold(-len(data) - CHUNK_BYTES * len(due))

    def _pass_rest(self) -> None:
        due = [data for _, data in self._chunks]
        self._chunks.clear()
        self._pass(due)

    def stop(self) -> None:
        super().stop()
        self._chunks.clear()


class PacedStage(DelayingStage, ABC):
    """
    Passes on one piece after the other.
    """

    def __init__(self, link: ILink, then: IStage, size: int):
        """
        @param size: the bytes of a piece.
        """
        super().__init__(link, then)
        self._size = size
        self._rest = bytearray()
        self._free = 0.0

    @abstractmethod
    def _next(self, now: float, size: int) -> float:
        """
        When the next piece may go.

        @param size: the bytes of the piece that goes now.
        """

    def receive(self, data: bytes) -> None:
        if self._hurried:
            self._then.receive(data)
            return
        if not self._rest:
            self._free = max(self._free, self._link.clock.seconds())
        self._rest += data
        self._link.hold(len(data))
        if self._timer is None:
            self._run()

    def end(self, how: End) -> None:
        self._ended = how
        if not self._rest:
            self._pass_end()

    def _run(self) -> None:
        now = self._link.clock.seconds()
        if self._rest and self._free <= now:
            piece = bytes(self._rest[: self._size])
            del self._rest[: self._size]
            self._free = self._next(now, len(piece))
            self._then.receive(piece)
            self._link.hold(-len(piece))
        if self._rest:
            self._wait(self._free - now)
        else:
            self._pass_end()

    def _pass_rest(self) -> None:
        rest = bytes(self._rest)
        self._rest.clear()
        if rest:
            self._then.receive(rest)
            self._link.hold(-len(rest))

    def stop(self) -> None:
        super().stop()
        self._rest.clear()


class BandwidthStage(PacedStage):
    """
    Passes on so many bytes a second.
    """

    def __init__(self, link: ILink, then: IStage, fault: Bandwidth):
        super().__init__(link, then, max(1, int(fault.rate * BANDWIDTH_INTERVAL)))
        self._rate = fault.rate

    def _next(self, now: float, size: int) -> float:
        # From when the piece was due, so that a timer that is late costs no bandwidth.
        return max(self._free, now - MAX_CATCH_UP) + size / self._rate


class SlicerStage(PacedStage):
    """
    Passes on slices, with a delay between them.
    """

    def __init__(self, link: ILink, then: IStage, fault: Slicer):
        super().__init__(link, then, fault.size)
        self._delay = fault.delay

    def _next(self, now: float, size: int) -> float:
        return now + self._delay


class CutStage(Stage):
    """
    Passes on exactly so many bytes, and then an end of its own.
    """

    _cut = False

    def __init__(self, link: ILink, then: IStage, size: int, how: End):
        super().__init__(link, then)
        self._left = size
        self._how = how

    def receive(self, data: bytes) -> None:
        if self._cut:
            return
        self._cut = len(data) >= self._left
        passed = data[: self._left]
        self._left -= len(passed)
        self._then.receive(passed)
        if self._cut:
            self._then.end(self._how)

    def end(self, how: End) -> None:
        if not self._cut:
            self._then.end(how)


class ResetTimerStage(DelayingStage):
    """
    Resets the connection after some time.
    """

    def __init__(self, link: ILink, then: IStage, fault: Reset):
        super().__init__(link, then)
        self._seconds = fault.seconds

    def begin(self) -> None:
        self._wait(self._seconds)

    def _run(self) -> None:
        self._link.reset()

    def hurry(self) -> None:
        """
        Do nothing: no byte is delayed.
        """


class TimeoutStage(DelayingStage):
    """
    Takes everything and passes on nothing, until L{TIMEOUT_CLOSE} after the end.
    """

    def receive(self, data: bytes) -> None:
        pass

    def end(self, how: End) -> None:
        # Not the client's own end: it does not get its echo.
        self._ended = End.CLOSE if how is End.INPUT else how
        if self._hurried:
            self._pass_end()
        else:
            self._wait(TIMEOUT_CLOSE)


class SlowCloseStage(DelayingStage):
    """
    Delays the end.
    """

    def __init__(self, link: ILink, then: IStage, fault: SlowClose):
        super().__init__(link, then)
        self._seconds = fault.seconds

    def end(self, how: End) -> None:
        self._ended = how
        if self._hurried:
            self._pass_end()
        else:
            self._wait(self._seconds)


class CorruptStage(Stage):
    """
    Flips one bit in each block of so many bytes: in block C{n}, counted from 0, the bit
    C{n * bits + int(random() * bits)}, where C{bits} is the number of bits of a block.
    """

    def __init__(self, link: ILink, then: IStage, fault: Corrupt, source: random.Random):
        super().__init__(link, then)
        self._bits = fault.size * 8
        self._source = source
        self._block = 0
        self._passed = 0
        self._draw()

    def _draw(self) -> None:
        self._bit = self._block * self._bits + int(self._source.random() * self._bits)
        self._block += 1

    def receive(self, data: bytes) -> None:
        start = self._passed
        self._passed += len(data)
        if self._bit < self._passed * 8:
            changed = bytearray(data)
            while self._bit < self._passed * 8:
                changed[self._bit // 8 - start] ^= 1 << self._bit % 8
                self._draw()
            data = bytes(changed)
        self._then.receive(data)


def make_stage(fault: Fault, source: random.Random, link: ILink, then: IStage) -> Stage:
    """
    Make the stage of a fault.

    @param source: draws what the fault leaves to chance.
    @param then: the next stage.
    """
    match fault:
        case Latency():
            return LatencyStage(link, then, fault, source)
        case Bandwidth():
            return BandwidthStage(link, then, fault)
        case Slicer():
            return SlicerStage(link, then, fault)
        case Limit():
            return CutStage(link, then, fault.size, End.CLOSE)
        case Reset(size=0):
            return ResetTimerStage(link, then, fault)
        case Reset():
            return CutStage(link, then, fault.size, End.RESET)
        case Timeout():
            return TimeoutStage(link, then)
        case SlowClose():
            return SlowCloseStage(link, then, fault)
        case Corrupt():
            return CorruptStage(link, then, fault, source)
    # What is left needs no stage, such as a refusal.
    return Stage(link, then)
