"""
Messages at a steady rate, and how long each one takes.

Invariant: time is measured from when a message was due, not from when it was sent.
"""

import math
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol as Interface

from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.internet.task import deferLater

from echod.check.connect import Dial, gather, timeout_after
from echod.check.probe import Comparison, Pattern
from echod.check.results import CheckFailed, CheckResult, Outcome
from echod.check.stream import ByteStream

_STEP = math.log(1.01)


class LatencyHistogram:
    """
    Times in seconds, counted in classes that are each 1 % wide.
    """

    def __init__(self) -> None:
        self.count = 0
        self.least = math.inf
        self.most = 0.0
        self._classes: dict[int, int] = {}

    def add(self, seconds: float) -> None:
        """
        Count one.
        """
        self.count += 1
        self.least = min(self.least, seconds)
        self.most = max(self.most, seconds)
        # A clock may be too coarse to see any time pass.
        index = math.ceil(math.log(max(seconds, 1e-9)) / _STEP)
        self._classes[index] = self._classes.get(index, 0) + 1

    def percentile(self, percent: float) -> float:
        """
        The time in seconds that so many percent of them do not exceed; it is never told
        as shorter than it was.
        """
        left = max(1, math.ceil(self.count * percent / 100))
        for index in sorted(self._classes):
            left -= self._classes[index]
            if left <= 0:
                return min(max(math.exp(index * _STEP), self.least), self.most)
        return 0.0

    def histogram(self) -> list[tuple[float, int]]:
        """
        For each power of two of a microsecond, how many were no longer than it and longer
        than the one before; from the shortest to the longest, gaps included.

        @return: pairs of a limit in seconds and a number.
        """
        octaves: dict[int, int] = {}
        for index, number in self._classes.items():
            octave = max(0, math.ceil(index * _STEP / math.log(2) + math.log2(1e6)))
            octaves[octave] = octaves.get(octave, 0) + number
        if not octaves:
            return []
        return [(2**o / 1e6, octaves.get(o, 0)) for o in range(min(octaves), max(octaves) + 1)]


_ENDS = (Outcome.CLOSED_EARLY, Outcome.RESET)
"""Between two messages a server may end a connection; the next one makes another."""


class Schedule(Interface):
    """
    What all lanes of a run share: when each message is due, and whom to tell of it; see
    L{Ping<echod.check.ping.Ping>}.
    """

    clock: Any
    dial: Dial
    size: int
    timeout_seconds: float

    def goes_on(self, number: int) -> bool: ...
    def due(self, number: int) -> float: ...
    def next(self, number: int) -> int: ...
    def came_back(self, number: int, peer: str, start: float) -> None: ...
    def is_lost(self, number: int, peer: str, failure: CheckFailed) -> None: ...
    def is_wrong(self, number: int, peer: str, failure: CheckFailed) -> None: ...


class PingConnection:
    """
    One of the connections, and the next when it is broken.
    """

    def __init__(self, ping: Schedule, number: int):
        self._ping = ping
        self._number = number
        self._peer = ""
        self._stream: ByteStream | None = None
        self._late = False
        self._under_way: deque[tuple[int, float]] = deque()

    async def connect(self) -> ByteStream:
        """
        Have a connection.

        @raise Failed: when there is none to be had.
        """
        if self._stream is None:
            answer = CheckResult()
            seconds = self._ping.timeout_seconds
            try:
                self._stream = await timeout_after(
                    self._ping.clock, seconds, self._ping.dial(answer)
                )
            except TimeoutError:
                text = f"{answer.stage}, after {seconds:g} s"
                raise CheckFailed(Outcome.TIMED_OUT, text) from None
            self._peer = answer.peer
        return self._stream

    async def run(self) -> None:
        """
        Send the messages of this lane.
        """
        while self._ping.goes_on(self._number):
            if self._stream is None:
                await self._until_due()
            try:
                stream = await self.connect()
            except CheckFailed as failure:
                self._ping.is_lost(self._number, self._peer, failure)
                self._number = self._ping.next(self._number)
            else:
                await self._talk(stream)

    async def _until_due(self) -> float:
        """
        Wait until the next message is due.

        @return: when its time begins.
        """
        clock, due = self._ping.clock, self._ping.due(self._number)
        wait = due - clock.seconds()
        if wait <= 0:
            return due
        await deferLater(clock, wait, lambda: None)
        # Who waited is woken up to a millisecond late (epoll_wait(2)).
        return float(clock.seconds())

    async def _talk(self, stream: ByteStream) -> None:
        """
        Send and receive until the last message is back, or the connection is broken.
        """
        pattern = Pattern.random(self._ping.size * 64)
        comparison = Comparison(pattern, 0)
        sending = Deferred.fromCoroutine(self._send(stream, pattern, comparison))
        sending.addErrback(lambda failure: failure.trap(CheckFailed, CancelledError) and None)
        self._late = False
        self._watch = self._ping.clock.callLater(self._ping.timeout_seconds, self._look, stream)
        try:
            await self._receive(stream, comparison)
        except CheckFailed as failure:
            for number, _ in self._under_way:
                self._ping.is_lost(number, self._peer, failure)
            if not self._under_way and failure.outcome not in _ENDS:
                self._ping.is_wrong(self._number, self._peer, failure)
        finally:
            self._under_way.clear()
            sending.cancel()
            if self._watch.active():
                self._watch.cancel()
            stream.abort()
            self._stream = None

    async def _send(self, stream: ByteStream, pattern: Pattern, comparison: Comparison) -> None:
        ping = self._ping
        while ping.goes_on(self._number):
            start = await self._until_due()
            self._under_way.append((self._number, start))
            self._number = ping.next(self._number)
            message = pattern.at(comparison.size, ping.size)
            comparison.size += ping.size
            await stream.write(message)

    def _look(self, stream: ByteStream) -> None:
        """
        Break the connection when a message is late; else look again when one could be.
        """
        ping, now = self._ping, self._ping.clock.seconds()
        wait = ping.timeout_seconds
        if self._under_way:
            wait += self._under_way[0][1] - now
        if wait <= 0:
            self._late = True
            stream.abort()
        else:
            self._watch = ping.clock.callLater(wait, self._look, stream)

    async def _receive(self, stream: ByteStream, comparison: Comparison) -> None:
        ping, whole = self._ping, 0
        while self._under_way or ping.goes_on(self._number):
            try:
                piece = await stream.read()
            except CheckFailed as failure:
                if comparison.differs:
                    raise comparison.difference() from None
                if self._late:
                    text = f"no echo after {ping.timeout_seconds:g} s"
                    raise CheckFailed(Outcome.TIMED_OUT, text) from None
                raise failure
            if not piece:
                raise CheckFailed(Outcome.CLOSED_EARLY, "the server closed the connection")
            comparison.feed(piece)
            if comparison.decided or (comparison.differs and not self._under_way):
                raise comparison.difference()
            while whole < comparison.exact // ping.size and self._under_way:
                whole += 1
                number, start = self._under_way.popleft()
                ping.came_back(number, self._peer, start)


Told = Callable[[int, str, float | CheckFailed], None]
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
        self.latencies = LatencyHistogram()
        self.failure: CheckFailed | None = None
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
        connections = [PingConnection(self, number) for number in range(self._connections)]
        for connection in connections:
            # What fails here is tried again, and told, when the first message is due.
            with suppress(CheckFailed):
                await connection.connect()
        self._start = self.clock.seconds()
        await gather(*(connection.run() for connection in connections))

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

    def is_lost(self, number: int, peer: str, failure: CheckFailed) -> None:
        """
        A message will not come back.
        """
        self.lost += 1
        self.failure = failure
        self._told(number + 1, peer, failure)

    def is_wrong(self, number: int, peer: str, failure: CheckFailed) -> None:
        """
        Something came before this message that nobody had asked for.
        """
        self.failure = failure
        self._told(number, peer, failure)
