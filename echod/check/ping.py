"""
The ping: messages at a fixed rate, and how long each one takes to come back.

L{Ping} knows when each message is due and counts the results; a L{PingConnection} sends its share
of the messages on one connection after another.

Invariant: the time of a message counts from when it was due, not from when it was sent, so that a
server that stalls is charged for the messages that wait (the opposite is known as coordinated
omission).
"""

import math
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.internet.task import deferLater

from echod.check.connect import Dial, gather, timeout_after
from echod.check.probe import Comparison, Pattern
from echod.check.results import CheckError, CheckResult, Outcome
from echod.check.stream import IByteStream

Report = Callable[[int, str, float | CheckError], None]
"""
Called for each message with its number, from 1 on; the peer; and its time in seconds, or why it
is lost.
"""


_LOG_WIDTH = math.log(1.01)
"""The logarithm of the width of a bin."""

_CLOSES = (Outcome.CLOSED_EARLY, Outcome.RESET)
"""How a server may end a connection between two messages; the next message makes a new one."""


class LatencyHistogram:
    """
    Times in seconds, in bins that are each 1 % wide.

    @ivar count: how many times were added.
    @ivar min: the shortest.
    @ivar max: the longest.
    """

    def __init__(self) -> None:
        self.count = 0
        self.min = math.inf
        self.max = 0.0
        self._bins: dict[int, int] = {}

    def add(self, seconds: float) -> None:
        """
        Add a time.
        """
        self.count += 1
        self.min = min(self.min, seconds)
        self.max = max(self.max, seconds)
        # A coarse clock may measure 0, which has no logarithm.
        index = math.ceil(math.log(max(seconds, 1e-9)) / _LOG_WIDTH)
        self._bins[index] = self._bins.get(index, 0) + 1

    def percentile(self, percent: float) -> float:
        """
        The time in seconds that this percentage of the times does not exceed.  It is never
        rounded down.
        """
        left = max(1, math.ceil(self.count * percent / 100))
        for index in sorted(self._bins):
            left -= self._bins[index]
            if left <= 0:
                return min(max(math.exp(index * _LOG_WIDTH), self.min), self.max)
        return 0.0

    def histogram(self) -> list[tuple[float, int]]:
        """
        A histogram whose bounds are 1, 2, 4 ... microseconds, from the bin of the shortest time
        to that of the longest.

        @return: pairs of an upper bound in seconds and a number.
        """
        octaves: dict[int, int] = {}
        for index, number in self._bins.items():
            octave = max(0, math.ceil(index * _LOG_WIDTH / math.log(2) + math.log2(1e6)))
            octaves[octave] = octaves.get(octave, 0) + number
        if not octaves:
            return []
        return [(2**o / 1e6, octaves.get(o, 0)) for o in range(min(octaves), max(octaves) + 1)]


class Ping:
    """
    One run of C{--ping}.

    @ivar latencies: the times of the messages that came back.
    @ivar lost: how many messages are lost.
    @ivar failure: why the last lost message was lost; C{None} when none is.
    """

    def __init__(
        self,
        clock: Any,
        dial: Dial,
        report: Report,
        *,
        size: int,
        rate: float,
        connections: int,
        count: int | None,
        timeout_seconds: float,
    ):
        """
        @param dial: makes a connection.
        @param size: bytes in a message.
        @param rate: messages a second, on all connections together.
        @param count: how many messages to send; C{None} for no limit.
        @param timeout_seconds: how long after it was due a message may come back.
        """
        self.latencies = LatencyHistogram()
        self.failure: CheckError | None = None
        self.lost = 0
        self.clock = clock
        self.dial = dial
        self.size = size
        self.timeout_seconds = timeout_seconds
        self._report = report
        self._rate = rate
        self._connections = connections
        self._count = count
        self._start = 0.0

    @property
    def sent(self) -> int:
        """
        How many messages were sent and have come back or are lost.
        """
        return self.latencies.count + self.lost

    @property
    def elapsed(self) -> float:
        """
        How long the run takes so far, in seconds.
        """
        return float(self.clock.seconds()) - self._start

    async def run(self) -> None:
        """
        Send C{count} messages, or until this is canceled.  Messages in flight at that moment are
        not counted.
        """
        self._start = self.clock.seconds()
        connections = [PingConnection(self, number) for number in range(self._connections)]
        for connection in connections:
            # After a failure, run() connects again when the first message is due, and reports.
            with suppress(CheckError):
                await connection.connect()
        self._start = self.clock.seconds()
        await gather(*(connection.run() for connection in connections))

    def has_message(self, number: int) -> bool:
        """
        Whether there is a message with this number, from 0 on.
        """
        return self._count is None or number < self._count

    def due(self, number: int) -> float:
        """
        When a message is due, by the clock.
        """
        return self._start + number / self._rate

    def next(self, number: int) -> int:
        """
        The number of the next message on the same connection.
        """
        return number + self._connections

    def message_received(self, number: int, peer: str, start: float) -> None:
        """
        A message came back.

        @param start: when its time started.
        """
        seconds = self.clock.seconds() - start
        self.latencies.add(seconds)
        self._report(number + 1, peer, seconds)

    def message_lost(self, number: int, peer: str, failure: CheckError) -> None:
        """
        A message did not come back, or not unchanged.
        """
        self.lost += 1
        self.failure = failure
        self._report(number + 1, peer, failure)

    def connection_failed(self, number: int, peer: str, failure: CheckError) -> None:
        """
        The server sent bytes that were not due, between two messages.

        @param number: the next message.
        """
        self.failure = failure
        self._report(number, peer, failure)


class PingConnection:
    """
    One of the connections of a L{Ping}; when it is lost, it is replaced.
    """

    def __init__(self, ping: Ping, number: int):
        """
        @param number: the first message to send.
        """
        self._ping = ping
        self._number = number
        self._peer = ""
        self._stream: IByteStream | None = None
        self._timed_out = False
        self._in_flight: deque[tuple[int, float]] = deque()

    async def connect(self) -> IByteStream:
        """
        The connection; a new one if there is none.

        @raise CheckError: when it cannot be made.
        """
        if self._stream is None:
            result = CheckResult()
            seconds = self._ping.timeout_seconds
            try:
                self._stream = await timeout_after(
                    self._ping.clock, seconds, self._ping.dial(result)
                )
            except TimeoutError:
                text = f"{result.stage}, after {seconds:g} s"
                raise CheckError(Outcome.TIMED_OUT, text) from None
            self._peer = result.peer
        return self._stream

    async def run(self) -> None:
        """
        Send the messages of this connection.
        """
        while self._ping.has_message(self._number):
            if self._stream is None:
                await self._until_due()
            try:
                stream = await self.connect()
            except CheckError as failure:
                self._ping.message_lost(self._number, self._peer, failure)
                self._number = self._ping.next(self._number)
            else:
                await self._exchange(stream)

    async def _until_due(self) -> float:
        """
        Wait until the next message is due.

        @return: when its time starts.
        """
        clock, due = self._ping.clock, self._ping.due(self._number)
        wait = due - clock.seconds()
        if wait <= 0:
            return due
        await deferLater(clock, wait, lambda: None)
        # Not when it was due: epoll_wait(2) wakes up to a millisecond late, and that delay is
        # not the server's.
        return float(clock.seconds())

    async def _exchange(self, stream: IByteStream) -> None:
        """
        Send and receive until the last message is back, or the connection is lost.
        """
        pattern = Pattern.random(self._ping.size * 64)
        comparison = Comparison(pattern, 0)
        sending = Deferred.fromCoroutine(self._send(stream, pattern, comparison))
        sending.addErrback(lambda failure: failure.trap(CheckError, CancelledError) and None)
        self._timed_out = False
        self._timer = self._ping.clock.callLater(
            self._ping.timeout_seconds, self._check_timeout, stream
        )
        try:
            await self._receive(stream, comparison)
        except CheckError as failure:
            for number, _ in self._in_flight:
                self._ping.message_lost(number, self._peer, failure)
            if not self._in_flight and failure.outcome not in _CLOSES:
                self._ping.connection_failed(self._number, self._peer, failure)
        finally:
            self._in_flight.clear()
            sending.cancel()
            if self._timer.active():
                self._timer.cancel()
            stream.abort()
            self._stream = None

    async def _send(self, stream: IByteStream, pattern: Pattern, comparison: Comparison) -> None:
        ping = self._ping
        while ping.has_message(self._number):
            start = await self._until_due()
            self._in_flight.append((self._number, start))
            self._number = ping.next(self._number)
            message = pattern.at(comparison.size, ping.size)
            comparison.size += ping.size
            await stream.write(message)

    def _check_timeout(self, stream: IByteStream) -> None:
        """
        Abort the connection if the oldest message in flight has timed out; otherwise check again
        when it may have.
        """
        ping, now = self._ping, self._ping.clock.seconds()
        wait = ping.timeout_seconds
        if self._in_flight:
            wait += self._in_flight[0][1] - now
        if wait <= 0:
            self._timed_out = True
            stream.abort()
        else:
            self._timer = ping.clock.callLater(wait, self._check_timeout, stream)

    async def _receive(self, stream: IByteStream, comparison: Comparison) -> None:
        ping, complete = self._ping, 0
        while self._in_flight or ping.has_message(self._number):
            try:
                piece = await stream.read()
            except CheckError as failure:
                if comparison.differs:
                    raise comparison.difference() from None
                if self._timed_out:
                    text = f"no echo after {ping.timeout_seconds:g} s"
                    raise CheckError(Outcome.TIMED_OUT, text) from None
                raise failure
            if not piece:
                raise CheckError(Outcome.CLOSED_EARLY, "the server closed the connection")
            comparison.feed(piece)
            if comparison.decided or (comparison.differs and not self._in_flight):
                raise comparison.difference()
            while complete < comparison.exact // ping.size and self._in_flight:
                complete += 1
                number, start = self._in_flight.popleft()
                ping.message_received(number, self._peer, start)
