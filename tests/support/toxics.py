"""
Faults of a network, named as in Toxiproxy.

Invariant: a toxic may delay bytes, split them, or break the connection.  It changes no byte, and
drops bytes only at the end.
"""

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import ClassVar

Chunk = tuple[float, bytes]
"""The arrival time of some bytes, on the loop's clock, and the bytes."""

UP, DOWN = "upstream", "downstream"


class Broken(Exception):
    """
    A toxic has ended the connection.
    """

    def __init__(self, toxic: "Toxic", reset: bool):
        super().__init__(toxic.name)
        self.toxic = toxic
        self.reset = reset


@dataclass(frozen=True)
class Toxic:
    """
    One fault of the network.

    @ivar stream: C{UP} or C{DOWN}.
    @ivar toxicity: the share of connections that have it.
    """

    name: ClassVar[str]

    stream: str
    toxicity: float = 1.0

    def through(self, chunks: AsyncIterator[Chunk], rng: random.Random) -> AsyncIterator[Chunk]:
        """
        Apply it to the bytes of one direction.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Latency(Toxic):
    """
    Delay everything.
    """

    name = "latency"
    seconds: float = 0.02
    jitter: float = 0.0

    async def through(
        self, chunks: AsyncIterator[Chunk], rng: random.Random
    ) -> AsyncIterator[Chunk]:
        async for came, data in chunks:
            due = came + self.seconds + rng.uniform(-self.jitter, self.jitter)
            await asyncio.sleep(due - asyncio.get_running_loop().time())
            yield due, data


@dataclass(frozen=True)
class Bandwidth(Toxic):
    """
    Limit the bytes per second.
    """

    name = "bandwidth"
    rate: int = 1 << 20

    async def through(
        self, chunks: AsyncIterator[Chunk], rng: random.Random
    ) -> AsyncIterator[Chunk]:
        most = max(1, self.rate // 50)
        async for came, data in chunks:
            for start in range(0, len(data), most):
                piece = data[start : start + most]
                await asyncio.sleep(len(piece) / self.rate)
                yield came, piece


@dataclass(frozen=True)
class Slicer(Toxic):
    """
    Small pieces, each of them sent for itself.
    """

    name = "slicer"
    average: int = 64
    variation: int = 60
    delay: float = 0.0

    async def through(
        self, chunks: AsyncIterator[Chunk], rng: random.Random
    ) -> AsyncIterator[Chunk]:
        async for came, data in chunks:
            start = 0
            while start < len(data):
                end = start + self.average + rng.randint(-self.variation, self.variation)
                yield came, data[start:end]
                await asyncio.sleep(self.delay)
                start = end


@dataclass(frozen=True)
class Stall(Toxic):
    """
    Somewhere in the stream nothing comes through for a while.
    """

    name = "stall"
    seconds: float = 1.0
    within: int = 64 * 1024

    async def through(
        self, chunks: AsyncIterator[Chunk], rng: random.Random
    ) -> AsyncIterator[Chunk]:
        left = rng.randrange(self.within)
        async for came, data in chunks:
            if 0 <= left < len(data):
                yield came, data[:left]
                await asyncio.sleep(self.seconds)
                data = data[left:]
                left = -1
            elif left >= 0:
                left -= len(data)
            yield came, data


@dataclass(frozen=True)
class SlowClose(Toxic):
    """
    The end comes later than the last byte.
    """

    name = "slow_close"
    seconds: float = 0.2

    async def through(
        self, chunks: AsyncIterator[Chunk], rng: random.Random
    ) -> AsyncIterator[Chunk]:
        async for chunk in chunks:
            yield chunk
        await asyncio.sleep(self.seconds)


@dataclass(frozen=True)
class _Breaking(Toxic):
    """
    Lets some bytes through, and then breaks the connection.
    """

    within: int = 64 * 1024
    seconds: float = 0.0
    reset: ClassVar[bool] = False

    async def through(
        self, chunks: AsyncIterator[Chunk], rng: random.Random
    ) -> AsyncIterator[Chunk]:
        left = rng.randrange(self.within)
        async for came, data in chunks:
            if len(data) > left:
                if left:
                    yield came, data[:left]
                await asyncio.sleep(self.seconds)
                raise Broken(self, self.reset)
            left -= len(data)
            yield came, data


@dataclass(frozen=True)
class ResetPeer(_Breaking):
    """
    Both sides get a reset.
    """

    name = "reset_peer"
    reset = True


@dataclass(frozen=True)
class LimitData(_Breaking):
    """
    Behind so many bytes, both sides get the end of file.
    """

    name = "limit_data"


@dataclass(frozen=True)
class Timeout(_Breaking):
    """
    Nothing comes through any more, and after a while both sides get the end of file.
    """

    name = "timeout"
    seconds: float = 0.5
