"""
Clients of different habits, each of which knows its stream by heart and checks what comes
back as it comes.

Invariant: whatever happens, what has come back is compared with what was sent,
and a client says how it ended; whether it may have ended so is for others to judge.
"""

import asyncio
import random
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field

from tests.support.talkers import PERIOD, stream
from tests.support.wires import Wire

KIB = 1024

PIECE = 16 * KIB
"""How much is sent at a time, at most; one record of TLS."""


@dataclass
class Visit:
    """
    One client's connection.

    @ivar habit: what sort of client it is.
    @ivar listener: where it went.
    @ivar sent: bytes that were sent, or may have been.
    @ivar received: bytes that came back.
    @ivar exact: whether all of them were the ones that were due.
    @ivar whole: whether it got all that it had sent, and then the end, where there was to
        be one.
    @ivar left: whether it broke off on its own account.
    @ivar error: what ended it before its time.
    """

    number: int
    habit: str
    listener: str
    sent: int = 0
    received: int = 0
    exact: bool = True
    whole: bool = False
    left: bool = False
    error: BaseException | None = None


@dataclass
class Client:
    """
    One client at work.
    """

    wire: Wire
    rng: random.Random
    visit: Visit
    start: int = field(init=False)

    def __post_init__(self) -> None:
        # A place of its own in the stream: an echo that goes astray is seen.
        self.start = self.rng.randrange(PERIOD)

    def next(self, size: int) -> memoryview:
        """
        The next bytes of its stream.
        """
        piece = stream(self.start + self.visit.sent, size)
        self.visit.sent += size
        return piece

    async def say(self, size: int, last: bool = False) -> None:
        """
        Send so many bytes, in pieces, and close the sending side if they are the last.
        """
        while size > PIECE:
            await self.wire.send(self.next(PIECE))
            size -= PIECE
        await (self.wire.send_last if last else self.wire.send)(self.next(size))

    async def hear(self, most: int = 64 * KIB) -> int:
        """
        Receive, and compare.

        @return: how many bytes; 0 at the end.
        """
        visit = self.visit
        data = await self.wire.receive(most)
        if data != stream(self.start + visit.received, len(data)):
            visit.exact = False
        visit.received += len(data)
        return len(data)

    async def hear_all(self, most: int = 64 * KIB, pause: float = 0.0) -> None:
        """
        Receive to the end.
        """
        while await self.hear(most):
            if pause:
                await asyncio.sleep(pause)
        self.visit.whole = self.visit.received == self.visit.sent

    async def hear_back(self) -> None:
        """
        Receive until all has come back that was sent.
        """
        while self.visit.received < self.visit.sent and await self.hear():
            pass

    async def both(self, *work: Awaitable[None]) -> None:
        """
        Send and receive at the same time.
        """
        async with asyncio.TaskGroup() as group:
            for each in work:
                group.create_task(each)  # type: ignore[arg-type]  # coroutines all

    def leave(self, rudely: bool) -> None:
        """
        Break off.
        """
        self.visit.left = True
        (self.wire.reset if rudely else self.wire.close)()


async def half_closer(client: Client) -> None:
    """
    Sends, closes its sending side, and reads all the while.
    """
    size = client.rng.choice((1, 100, 8 * KIB, 64 * KIB, 300 * KIB))
    await client.both(client.say(size, last=True), client.hear_all())


async def burst(client: Client) -> None:
    """
    Sends data and the end in one burst, and reads then.
    """
    await client.say(client.rng.choice((1, 500, PIECE)), last=True)
    await client.hear_all()


async def slow_reader(client: Client) -> None:
    """
    Reads nothing for a while, and then slowly.
    """

    async def hear() -> None:
        await asyncio.sleep(client.rng.uniform(0.1, 1.0))
        await client.hear_all(8 * KIB, 0.005)

    await client.both(client.say(client.rng.randrange(KIB, 512 * KIB), last=True), hear())


async def chatter(client: Client) -> None:
    """
    Asks, waits for the answer, and asks again.
    """
    for _ in range(client.rng.randrange(1, 60)):
        await client.say(client.rng.randrange(1, 2 * KIB))
        await client.hear_back()
    await client.say(1, last=True)
    await client.hear_all()


async def sitter(client: Client) -> None:
    """
    Says nothing for most of the time.
    """
    for _ in range(3):
        await asyncio.sleep(client.rng.uniform(0.2, 3.0))
        await client.say(client.rng.randrange(1, 100))
        await client.hear_back()
    await client.say(1, last=True)
    await client.hear_all()


async def stayer(client: Client) -> None:
    """
    Has all that it sent, and closes without having closed its sending side before.
    """
    await client.say(client.rng.randrange(1, 64 * KIB))
    await client.hear_back()
    client.visit.whole = client.visit.received == client.visit.sent
    client.wire.close()


async def byte_dropper(client: Client) -> None:
    """
    Reads some of what it is owed, and closes.
    """
    size = client.rng.randrange(KIB, 128 * KIB)
    await client.say(size)
    while client.visit.received < size // 3 and await client.hear(4 * KIB):
        pass
    client.leave(rudely=False)


async def resetter(client: Client) -> None:
    """
    Breaks off with a reset in the middle of its sending.
    """
    with suppress(TimeoutError):
        async with asyncio.timeout(client.rng.uniform(0, 0.05)):
            await client.say(client.rng.randrange(1, 256 * KIB))
    client.leave(rudely=True)


async def truncator(client: Client) -> None:
    """
    Ends with a FIN in the middle of everything; with TLS, no close_notify goes before it.
    """
    await client.say(client.rng.randrange(1, 8 * KIB))
    await client.hear()
    client.visit.left = True
    client.wire.sock.shutdown(socket.SHUT_WR)
    while await client.hear():
        pass


Habit = Callable[[Client], Awaitable[None]]

HABITS: dict[Habit, int] = {
    half_closer: 6,
    burst: 6,
    slow_reader: 2,
    chatter: 4,
    sitter: 2,
    stayer: 3,
    byte_dropper: 2,
    resetter: 2,
    truncator: 1,
}
"""Each habit, and how many of all these clients have it."""
