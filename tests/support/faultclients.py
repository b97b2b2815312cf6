"""
Clients of a listener that misbehaves on purpose (C{--fault}), and what they see.

Invariant: a client keeps every byte that it has received, also those before a reset; and it judges
nothing.
"""

import asyncio
import ssl
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

T = TypeVar("T")

Address = tuple[str, int]


@dataclass
class Seen(asyncio.Protocol):
    """
    What a client has received.

    @ivar data: all bytes.
    @ivar pieces: for each read, when it was, and how many bytes it had.
    @ivar sent_at: when the client began to send.
    @ivar ended: C{"eof"} or C{"reset"}; empty while the connection is open.
    @ivar ended_at: when that was.
    """

    data: bytearray = field(default_factory=bytearray)
    pieces: list[tuple[float, int]] = field(default_factory=list)
    sent_at: float = 0.0
    ended: str = ""
    ended_at: float = 0.0

    left = False

    def __post_init__(self) -> None:
        self.changed = asyncio.Event()

    def data_received(self, data: bytes) -> None:
        self.data += data
        self.pieces.append((time.monotonic(), len(data)))
        self.changed.set()

    def eof_received(self) -> None:
        self._end("eof")

    def connection_lost(self, error: Exception | None) -> None:
        self._end("reset" if error else "eof")

    def _end(self, how: str) -> None:
        if not self.ended and not self.left:
            self.ended, self.ended_at = how, time.monotonic()
        self.changed.set()

    async def until(self, condition: Callable[["Seen"], object], seconds: float) -> bool:
        """
        Wait for a condition.

        @return: whether it came true in time.
        """
        try:
            async with asyncio.timeout(seconds):
                while not condition(self):
                    self.changed.clear()
                    await self.changed.wait()
        except TimeoutError:
            return False
        return True


def trusting() -> ssl.SSLContext:
    """
    A context for TLS that verifies nothing.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


async def talk(
    address: Address,
    tls: bool,
    data: bytes,
    until: Callable[[Seen], object] = lambda seen: seen.ended,
    seconds: float = 120.0,
    half_close: bool = False,
) -> Seen:
    """
    Connect, send, and wait until a condition, by default the end of the connection.

    @param half_close: whether to close the sending side after the last byte; not with TLS.
    @return: what was received; C{ended} is C{"reset"} if the connection was reset before the end
        of the TLS handshake.
    """
    loop = asyncio.get_running_loop()
    context = trusting() if tls else None
    try:
        transport, seen = await loop.create_connection(Seen, *address, ssl=context)
    except (ConnectionError, ssl.SSLError):
        return Seen(ended="reset", ended_at=time.monotonic())
    seen.changed.clear()
    seen.sent_at = time.monotonic()
    try:
        transport.write(data)
        if half_close:
            transport.write_eof()
        await seen.until(until, seconds)
    finally:
        seen.left = True
        transport.abort()
    return seen


async def repeated(runs: int, at_once: int, run: Callable[[int], Awaitable[T]]) -> Sequence[T]:
    """
    Run something many times, some at once.

    @param run: gets the number of the run.
    @return: what each returned, in order.
    """
    some = asyncio.Semaphore(at_once)

    async def one(number: int) -> T:
        async with some:
            return await run(number)

    return await asyncio.gather(*map(one, range(runs)))


def flipped(data: bytes, back: bytes) -> list[int]:
    """
    The numbers of the bits that have changed, counted from the lowest of the first byte.
    """
    return [
        8 * at + bit
        for at, (one, other) in enumerate(zip(data, back, strict=True))
        if one != other
        for bit in range(8)
        if (one ^ other) >> bit & 1
    ]


def has_all(data: bytes) -> Callable[[Seen], object]:
    """
    A condition: as many bytes have come back, or the connection has ended.
    """
    return lambda seen: seen.ended or len(seen.data) >= len(data)
