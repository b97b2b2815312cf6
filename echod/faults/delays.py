"""
The stages that delay bytes: latency, bandwidth and slices.

Invariant: what is delayed is counted (C{ILink.hold}), and passed on in its order.
"""

import random
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence

from echod.faults.base import DelayingStage, End, ILink, IStage
from echod.faults.spec import Bandwidth, Latency, Slicer

CHUNK_BYTES = 128
"""
How much a delayed chunk counts besides its bytes: about what CPython needs for a short C{bytes} and
its place in the queue.
"""


BANDWIDTH_INTERVAL = 0.05
"""Seconds between two pieces of an echo with a bandwidth."""


MAX_CATCH_UP = 1.0
"""For how many seconds a bandwidth makes up, if the process could not send in time."""


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
