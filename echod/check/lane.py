"""
One connection of C{--ping}, and the next one when it is broken.

The rule of this room: a message is either back or lost, once, and a lane never waits for
one in order to send the next.
"""

from collections import deque
from typing import Any, Protocol as Interface

from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.internet.task import deferLater

from echod.check.connect import Dial, within
from echod.check.pattern import Comparison, Pattern
from echod.check.results import Answer, Failed, Outcome
from echod.check.stream import ByteStream

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
    def is_lost(self, number: int, peer: str, failure: Failed) -> None: ...
    def is_wrong(self, number: int, peer: str, failure: Failed) -> None: ...


class Lane:
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
            answer = Answer()
            seconds = self._ping.timeout_seconds
            try:
                self._stream = await within(self._ping.clock, seconds, self._ping.dial(answer))
            except TimeoutError:
                text = f"{answer.stage}, after {seconds:g} s"
                raise Failed(Outcome.TIMED_OUT, text) from None
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
            except Failed as failure:
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
        sending.addErrback(lambda failure: failure.trap(Failed, CancelledError) and None)
        self._late = False
        self._watch = self._ping.clock.callLater(self._ping.timeout_seconds, self._look, stream)
        try:
            await self._receive(stream, comparison)
        except Failed as failure:
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
            except Failed as failure:
                if comparison.differs:
                    raise comparison.difference() from None
                if self._late:
                    text = f"no echo after {ping.timeout_seconds:g} s"
                    raise Failed(Outcome.TIMED_OUT, text) from None
                raise failure
            if not piece:
                raise Failed(Outcome.CLOSED_EARLY, "the server closed the connection")
            comparison.feed(piece)
            if comparison.decided or (comparison.differs and not self._under_way):
                raise comparison.difference()
            while whole < comparison.exact // ping.size and self._under_way:
                whole += 1
                number, start = self._under_way.popleft()
                ping.came_back(number, self._peer, start)
