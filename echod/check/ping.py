"""
C{--ping}: messages at fixed times, and how long each took to come back.

The rule of this room: an open loop.  A message is due when it is due, whatever became of
those before it, and its time counts from then; so a server that stalls is charged for
every message that it kept waiting.  What our own timer was late is not charged to it.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from echod.check.connect import Dial, together
from echod.check.lane import Lane
from echod.check.latency import Latencies
from echod.check.results import Failed

Told = Callable[[int, str, float | Failed], None]
"""Told of each message: its number from 1 on, the peer, and its time in seconds or what
became of it."""


class Ping:
    """
    One run.

    @ivar sent: messages that were due and are no longer under way.
    @ivar latencies: the times of those that came back.
    @ivar failure: why the last of the lost was lost; C{None} while none is.
    """

    def __init__(
        self,
        clock: Any,
        dial: Dial,
        told: Told,
        *,
        size: int,
        rate: float,
        connections: int,
        count: int | None,
        timeout_seconds: float,
    ):
        """
        @param size: bytes in a message.
        @param rate: messages a second, over all connections.
        @param count: how many messages to send; C{None} for no end.
        @param timeout_seconds: how long after it was due a message may come back.
        """
        self.latencies = Latencies()
        self.failure: Failed | None = None
        self.lost = 0
        self.clock = clock
        self.dial = dial
        self.size = size
        self.timeout_seconds = timeout_seconds
        self._told = told
        self._rate = rate
        self._connections = connections
        self._count = count
        self._start = 0.0

    @property
    def sent(self) -> int:
        """
        How many messages have come back or are lost.
        """
        return self.latencies.count + self.lost

    @property
    def elapsed(self) -> float:
        """
        How long it has been running, in seconds.
        """
        return float(self.clock.seconds()) - self._start

    async def run(self) -> None:
        """
        Send until C{count} messages are sent, or for ever.  Cancelled, it stops at once;
        what is under way then is not counted.
        """
        self._start = self.clock.seconds()
        lanes = [Lane(self, number) for number in range(self._connections)]
        for lane in lanes:
            # What fails here is tried again, and told, when the first message is due.
            with suppress(Failed):
                await lane.connect()
        self._start = self.clock.seconds()
        await together(*(lane.run() for lane in lanes))

    def goes_on(self, number: int) -> bool:
        """
        Whether the message of this number, from 0 on, is to be sent.
        """
        return self._count is None or number < self._count

    def due(self, number: int) -> float:
        """
        When it is.
        """
        return self._start + number / self._rate

    def next(self, number: int) -> int:
        """
        The next message on the same connection.
        """
        return number + self._connections

    def came_back(self, number: int, peer: str, start: float) -> None:
        """
        A message is back.

        @param start: when its time began.
        """
        seconds = self.clock.seconds() - start
        self.latencies.add(seconds)
        self._told(number + 1, peer, seconds)

    def is_lost(self, number: int, peer: str, failure: Failed) -> None:
        """
        A message will not come back.
        """
        self.lost += 1
        self.failure = failure
        self._told(number + 1, peer, failure)

    def is_wrong(self, number: int, peer: str, failure: Failed) -> None:
        """
        Something came before this message that nobody had asked for.
        """
        self.failure = failure
        self._told(number, peer, failure)
