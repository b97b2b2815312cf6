"""
The stages that change the bytes of a connection or its end, and L{make_stage}, which makes the
stage of each fault.

Invariant: a byte before the point of a fault is right and in its place.
"""

import random

from echod.faults.base import DelayingStage, End, ILink, IStage, Stage
from echod.faults.delays import BandwidthStage, LatencyStage, SlicerStage
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

TIMEOUT_CLOSE = 60.0
"""
Seconds from a client's half-close until a C{timeout} closes, too.  As long as Linux remembers a
closed socket whose peer does not close (C{tcp_fin_timeout}, tcp(7)).
"""


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
