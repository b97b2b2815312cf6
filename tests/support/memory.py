"""
A connection in memory, servers for one of its ends, and work on a clock that the test advances.

Invariant: nothing is asynchronous: an effect happens inside of the call that causes it.
"""

from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock, deferLater

from echod.check.results import CheckError, CheckResult, Outcome

MAX_UNREAD = 1 << 20


class End:
    """
    One end; a C{ByteStream}.

    @ivar done: the other calls that were made on it.
    """

    other: "End"
    peer = "192.0.2.1:9000"

    def __init__(self) -> None:
        self.done: list[str] = []
        self.broken: CheckError | None = None
        self.finished = False
        self._pieces: deque[bytes] = deque()
        self._unread = 0
        self._wait: Deferred[None] | None = None
        self._writable: Deferred[None] | None = None

    async def read(self) -> bytes:
        while not self._pieces:
            if self.other.finished:
                return b""
            if self.broken:
                raise self.broken
            self._wait = Deferred()
            await self._wait
        piece = self._pieces.popleft()
        self._unread -= len(piece)
        writable, self.other._writable = self.other._writable, None
        if writable:
            writable.callback(None)
        return piece

    async def write(self, piece: bytes) -> None:
        if self.broken:
            raise self.broken
        other = self.other
        if not piece:
            return
        other._pieces.append(piece)
        other._unread += len(piece)
        other.wake()
        while other._unread > MAX_UNREAD and not self.broken:
            self._writable = Deferred()
            await self._writable

    def wake(self) -> None:
        waiting, self._wait = self._wait, None
        if waiting and not waiting.called:
            waiting.callback(None)

    async def finish(self) -> None:
        if self.broken:
            raise self.broken
        self.finished = True
        self.other.wake()

    def pause(self) -> None:
        self.done.append("pause")

    def abort(self) -> None:
        self.done.append("abort")
        for end in (self, self.other):
            if not end.broken:
                end.broken = CheckError(Outcome.RESET, "the connection was reset")
                end.wake()

    async def lose(self) -> None:
        self.done.append("lose")
        self.finished = True
        self.other.wake()


def pair() -> tuple[End, End]:
    """
    The two ends of a new connection.
    """
    one, other = End(), End()
    one.other, other.other = other, one
    return one, other


Server = Callable[[End], Coroutine[Any, Any, None]]


async def echo(end: End) -> None:
    """
    A correct echo server.
    """
    while piece := await end.read():
        await end.write(piece)
    await end.finish()


class Dials:
    """
    Connections to a server in memory.

    @ivar ends: the client's ends, in the order in which they were made.
    """

    def __init__(self, server: Server = echo):
        self.server = server
        self.ends: list[End] = []

    async def __call__(self, answer: CheckResult) -> Any:
        client, server = pair()
        self.ends.append(client)
        serving = Deferred.fromCoroutine(self.server(server))
        serving.addErrback(lambda failure: failure.trap(CheckError) and None)
        answer.peer = client.peer
        answer.stage = "connected"
        return client


def fails(outcome: Outcome) -> Callable[[CheckResult], Any]:
    """
    A connect that fails.
    """

    async def dial(answer: CheckResult) -> Any:
        answer.stage = "connecting"
        raise CheckError(outcome, "of course")

    return dial


async def never(answer: CheckResult) -> Any:
    """
    A connect that does not end.
    """
    answer.stage = "connecting"
    await Deferred()


def turn(clock: Clock, work: Awaitable[Any], step: float = 0.1, most: int = 5000) -> Any:
    """
    Advance the clock until the work is done.

    @return: its result.
    """
    outcome: list[Any] = []
    waiting: Any = work if isinstance(work, Deferred) else Deferred.fromCoroutine(work)  # type: ignore[arg-type]
    waiting.addBoth(outcome.append)
    for _ in range(most):
        if outcome:
            break
        clock.advance(step)
    if not outcome:
        raise AssertionError("the work has not ended")
    if hasattr(outcome[0], "raiseException"):
        outcome[0].raiseException()
    return outcome[0]


def sleep(clock: Clock, seconds: float) -> Deferred[None]:
    """
    Wait.
    """
    return deferLater(clock, seconds, lambda: None)
