"""
Clients that behave in different ways.  Each compares every byte that it receives with what it
sent.

Invariant: a client notes how its connection ended.  L{tests.soak.run} judges whether it may
have ended so.
"""

import asyncio
import random
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field

from tests.support.clients import PERIOD, READ, WRITE, Connection, in_stream, reset, stream

KIB = 1024

PIECE = 16 * KIB
"""Most bytes of one send; one TLS record."""

MOST_BULK = 400 * KIB
"""
The most that a client sends in bulk.  In slices of 20 bytes, the proxy needs a minute for it beside
its other clients.
"""

HUNG_SECONDS = 120.0
"""
How long no byte of a connection may move before it counts as hung.  A connection may take longer in
all: slices of 20 bytes, each delayed by 2 ms, are 10 KB a second at most.
"""


@dataclass
class Visit:
    """
    One client's connection.

    @ivar behavior: the name of its behavior.
    @ivar listener: the name of the listener that it connected to.
    @ivar sent: bytes that were sent, or may have been.
    @ivar received: bytes that came back.
    @ivar exact: whether all of these are the bytes that were sent.
    @ivar whole: whether all came back, and then the end of file if the client waits for it.
    @ivar left: whether the client ended the connection early.
    @ivar error: the error that ended it early.
    """

    number: int
    behavior: str
    listener: str
    sent: int = 0
    received: int = 0
    exact: bool = True
    whole: bool = False
    left: bool = False
    error: BaseException | None = None


async def ready(sock: socket.socket, events: int) -> None:
    """
    Wait until a socket is ready, beside the other tasks.
    """
    loop = asyncio.get_running_loop()
    come = asyncio.Event()
    add, remove = loop.add_reader, loop.remove_reader
    if events == WRITE:
        add, remove = loop.add_writer, loop.remove_writer
    add(sock, come.set)
    try:
        await come.wait()
    finally:
        remove(sock)


@dataclass
class Client:
    """
    One connected client.

    @ivar deadline: what ends it, unless bytes move: then it is put off.
    """

    connection: Connection
    rng: random.Random
    visit: Visit
    start: int = field(init=False)
    deadline: asyncio.Timeout | None = None

    def __post_init__(self) -> None:
        # Each begins at another place in the stream, so an echo to the wrong client is seen.
        self.start = self.rng.randrange(PERIOD)

    async def begin(self) -> None:
        """
        Prepare for the first byte; with TLS, the handshake.
        """
        while events := self.connection.proceed():
            await ready(self.connection.socket, events)

    async def _send(self, size: int) -> None:
        piece = stream(self.start + self.visit.sent, size)
        self.visit.sent += size
        while piece := piece[self.connection.send(piece) :]:
            self._put_off()
            await ready(self.connection.socket, WRITE)

    def _put_off(self) -> None:
        if self.deadline is not None and not self.deadline.expired():
            self.deadline.reschedule(asyncio.get_running_loop().time() + HUNG_SECONDS)

    async def say(self, size: int, last: bool = False, piece: int = PIECE) -> None:
        """
        Send this many bytes, in pieces; close the sending side if they are the last.
        """
        while size > piece:
            await self._send(piece)
            size -= piece
        # The end goes out in one segment with the last piece (tcp(7)).
        sock = self.connection.socket
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, last)
        await self._send(size)
        if last:
            while not self.connection.finish():
                await ready(sock, WRITE)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 0)

    async def hear(self, most: int = 64 * KIB) -> int:
        """
        Receive, and compare.

        @return: how many bytes; 0 at the end.
        """
        visit = self.visit
        while (data := self.connection.receive(most)) is None:
            await ready(self.connection.socket, READ)
        visit.exact = visit.exact and in_stream(self.start + visit.received, data)
        visit.received += len(data)
        self._put_off()
        return len(data)

    async def hear_all(self, most: int = 64 * KIB, pause: float = 0.0) -> None:
        """
        Receive until the end of file.
        """
        while await self.hear(most):
            if pause:
                await asyncio.sleep(pause)
        self.visit.whole = self.visit.received == self.visit.sent

    async def hear_back(self) -> None:
        """
        Receive until everything that was sent has come back.
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
        End the connection early.
        """
        self.visit.left = True
        (reset if rudely else socket.socket.close)(self.connection.socket)


async def half_closer(client: Client) -> None:
    """
    Reads while it sends, and closes its sending side at the end.
    """
    size = client.rng.choice((1, 100, 8 * KIB, 64 * KIB, 300 * KIB))
    await client.both(client.say(size, last=True), client.hear_all())


async def burst(client: Client) -> None:
    """
    Sends its data and closes its sending side at once, and reads then.
    """
    await client.say(client.rng.choice((1, 500, PIECE)), last=True)
    await client.hear_all()


async def slow_reader(client: Client) -> None:
    """
    Reads nothing at first, then slowly.
    """

    async def hear() -> None:
        await asyncio.sleep(client.rng.uniform(0.1, 1.0))
        await client.hear_all(8 * KIB, 0.005)

    await client.both(client.say(client.rng.randrange(KIB, 512 * KIB), last=True), hear())


async def bulk_sender(client: Client) -> None:
    """
    Sends much in large pieces, and stalls while it reads.
    """

    async def hear() -> None:
        stall = 0
        while await client.hear(256 * KIB):
            if client.visit.received >= stall:
                stall = client.visit.received + client.rng.randrange(MOST_BULK // 4)
                await asyncio.sleep(client.rng.uniform(0, 0.2))
        client.visit.whole = client.visit.received == client.visit.sent

    size = client.rng.randrange(100 * KIB, MOST_BULK)
    await client.both(client.say(size, last=True, piece=100 * KIB), hear())


async def chatter(client: Client) -> None:
    """
    Sends a message, waits for its echo, and sends the next.
    """
    for _ in range(client.rng.randrange(1, 60)):
        await client.say(client.rng.randrange(1, 2 * KIB))
        await client.hear_back()
    await client.say(1, last=True)
    await client.hear_all()


async def idle_client(client: Client) -> None:
    """
    Is idle most of the time.
    """
    for _ in range(3):
        await asyncio.sleep(client.rng.uniform(0.2, 3.0))
        await client.say(client.rng.randrange(1, 100))
        await client.hear_back()
    await client.say(1, last=True)
    await client.hear_all()


async def stayer(client: Client) -> None:
    """
    Receives everything that it sent, and closes without a half-close.
    """
    await client.say(client.rng.randrange(1, 64 * KIB))
    await client.hear_back()
    client.visit.whole = client.visit.received == client.visit.sent
    client.connection.close()


async def byte_dropper(client: Client) -> None:
    """
    Reads a part of its echo, and closes.
    """
    size = client.rng.randrange(KIB, 128 * KIB)
    await client.say(size)
    while client.visit.received < size // 3 and await client.hear(4 * KIB):
        pass
    client.leave(rudely=False)


async def resetter(client: Client) -> None:
    """
    Resets the connection while it sends.
    """
    with suppress(TimeoutError):
        async with asyncio.timeout(client.rng.uniform(0, 0.05)):
            await client.say(client.rng.randrange(1, 256 * KIB))
    client.leave(rudely=True)


async def truncator(client: Client) -> None:
    """
    Sends a FIN in the middle of its stream; with TLS, without a close_notify.
    """
    await client.say(client.rng.randrange(1, 8 * KIB))
    await client.hear()
    client.visit.left = True
    client.connection.socket.shutdown(socket.SHUT_WR)
    while await client.hear():
        pass


Behavior = Callable[[Client], Awaitable[None]]

BEHAVIORS: dict[Behavior, int] = {
    half_closer: 6,
    burst: 6,
    slow_reader: 2,
    bulk_sender: 3,
    chatter: 4,
    idle_client: 2,
    stayer: 3,
    byte_dropper: 2,
    resetter: 2,
    truncator: 1,
}
"""Each behavior with its weight."""
