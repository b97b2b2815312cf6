"""
Many clients from many addresses, each of which wants to learn one thing: whether it is
let in.

Invariant: a visitor is in from the moment its echo has come to the moment it
begins to go.  The daemon counts it for longer than that, so as many visitors as are in at
once, the daemon has let in at once.
"""

import errno
import random
import selectors
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field

QUESTION = b"?"

IP_BIND_ADDRESS_NO_PORT = 24
"""ip(7): a port is chosen at connect(2), so that only pairs of addresses have to differ."""

Place = tuple[str, int]


def connect_from(source: str, place: Place, wait: bool = True) -> socket.socket:
    """
    Connect.

    @param source: the client's own address; empty for the one that the system takes.
    @param wait: whether to do so until it is connected.
    """
    client = socket.socket(socket.AF_INET6 if ":" in place[0] else socket.AF_INET)
    try:
        if source:
            client.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
            client.bind((source, 0))
        if wait:
            client.settimeout(60)
            # Who is turned away that soon finds out about it when it speaks or listens.
            with suppress(ConnectionResetError):
                client.connect(place)
        else:
            client.setblocking(False)
            failed = client.connect_ex(place)
            if failed not in (0, errno.EINPROGRESS):
                raise OSError(failed, "connect")
    except BaseException:
        client.close()
        raise
    return client


def is_served(client: socket.socket) -> bool:
    """
    Whether a client that has come is let in.  Only one that is never hears a byte.
    """
    try:
        client.sendall(QUESTION)
        answer = client.recv(100)
    except ConnectionError:
        return False
    if answer not in (b"", QUESTION):
        raise AssertionError(f"neither echo nor end: {answer!r}")
    return bool(answer)


def reset(client: socket.socket) -> None:
    """
    Close with a reset (SO_LINGER with a time of 0, socket(7)).
    """
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def half_close(client: socket.socket) -> None:
    """
    Close the sending side, read to the end, and close.
    """
    client.settimeout(60)
    client.shutdown(socket.SHUT_WR)
    rest = client.recv(1)
    client.close()
    if rest:
        raise AssertionError("more came back than had been sent")


WAYS_OUT: tuple[Callable[[socket.socket], None], ...] = (socket.socket.close, reset, half_close)


@dataclass(eq=False)
class Attempt:
    """
    One of them, on its way in.

    @ivar who: what the daemon is to count it as.
    """

    socket: socket.socket
    who: str
    asked: bool = False


class Visitors:
    """
    Visitors that come and go, many on their way at any time.

    @ivar served: how many have been let in.
    @ivar refused: how many were not.
    @ivar most: how many were in at once.
    @ivar most_of_one: how many of one client were in at once.
    """

    def __init__(self, rng: random.Random):
        self._rng = rng
        self._selector = selectors.DefaultSelector()
        self._inside: list[Attempt] = []
        self._of: Counter[str] = Counter()
        self.served = self.refused = self.most = self.most_of_one = 0

    def __enter__(self) -> "Visitors":
        return self

    def __exit__(self, *_: object) -> None:
        for key in list(self._selector.get_map().values()):
            key.data.socket.close()
        self._selector.close()
        while self._inside:
            self._inside.pop().socket.close()

    def run(
        self,
        number: int,
        at_once: int,
        come: Callable[[], tuple[socket.socket, str]],
        goes: bool = True,
        seconds: float = 300.0,
    ) -> None:
        """
        Have so many come, and those who are in go again, in any order and in any way.

        @param at_once: how many are on their way at a time.
        @param come: begins to connect with one, and says what it is to be counted as.
        @param goes: whether any go at all.
        """
        deadline = time.monotonic() + seconds
        waiting = self._selector.get_map()
        while number or waiting:
            if time.monotonic() > deadline:
                raise AssertionError(f"{len(waiting)} were neither let in nor refused")
            while number and len(waiting) < at_once:
                number -= 1
                visitor = Attempt(*come())
                self._selector.register(visitor.socket, selectors.EVENT_WRITE, visitor)
            for key, _ in self._selector.select(1):
                self._on(key.data)
            for _ in range(self._rng.randrange(len(self._inside) // 4 + 1) if goes else 0):
                self._one_goes()

    def _on(self, visitor: Attempt) -> None:
        answer = b""
        try:
            if not visitor.asked:
                visitor.socket.send(QUESTION)
                visitor.asked = True
                self._selector.modify(visitor.socket, selectors.EVENT_READ, visitor)
                return
            answer = visitor.socket.recv(100)
        except ConnectionError:
            pass
        self._selector.unregister(visitor.socket)
        if not answer:
            self.refused += 1
            visitor.socket.close()
            return
        if answer != QUESTION:
            raise AssertionError(f"not the echo: {answer!r}")
        self.served += 1
        self._inside.append(visitor)
        self._of[visitor.who] += 1
        self.most = max(self.most, len(self._inside))
        self.most_of_one = max(self.most_of_one, self._of[visitor.who])

    @property
    def inside(self) -> int:
        """
        How many are in now.
        """
        return len(self._inside)

    def _one_goes(self) -> None:
        place = self._rng.randrange(len(self._inside))
        self._inside[place], self._inside[-1] = self._inside[-1], self._inside[place]
        visitor = self._inside.pop()
        self._of[visitor.who] -= 1
        self._rng.choice(WAYS_OUT)(visitor.socket)

    def all_go(self) -> None:
        """
        Have those who are in go, too.
        """
        while self._inside:
            self._one_goes()


@dataclass(eq=False)
class IdleClient:
    """
    A client that has come to stay, and says little or nothing.

    @ivar drip: what it says, a piece each second.
    @ivar closes: whether it closes when the daemon has.
    @ivar came: the monotonic time at which it came, or one before that: what is judged by
        it may have lasted longer than the limit, and never less.
    @ivar heard: what it has heard.
    @ivar heard_after: how many seconds after it came it heard the first byte.
    @ivar gone_after: how many seconds after it came the daemon's side was closed.
    @ivar was_reset: whether that was by a reset.
    """

    socket: socket.socket
    drip: Iterator[bytes] = field(default_factory=lambda: iter(()))
    closes: bool = True
    came: float = field(default_factory=time.monotonic)
    heard: bytes = b""
    heard_after: float | None = None
    gone_after: float | None = None
    was_reset: bool = False

    def say(self) -> None:
        """
        Say the next piece, if there is one.
        """
        if piece := next(self.drip, b""):
            try:
                self.socket.send(piece)
            except ConnectionResetError:
                # It is told once, here or at the next recv(2).
                self.was_reset = True
            except OSError:
                pass

    def on(self) -> None:
        """
        Hear what there is.
        """
        after = time.monotonic() - self.came
        piece = b""
        try:
            piece = self.socket.recv(4096)
        except ConnectionError:
            self.was_reset = True
        if piece and not self.heard:
            self.heard_after = after
        self.heard += piece
        if not piece:
            self.gone_after = after


def idle_client(
    come: Callable[[], socket.socket], drip: Iterator[bytes] | None = None, closes: bool = True
) -> IdleClient:
    """
    Come to stay.

    @param come: connects.
    """
    came = time.monotonic()
    return IdleClient(come(), drip or iter(()), closes, came)


def wait_for_all(
    idle_clients: Iterable[IdleClient],
    until: Callable[[IdleClient], bool],
    what: str,
    seconds: float = 60.0,
) -> None:
    """
    Let them wait.

    @param until: asked of each when it has heard something, says whether it is done.
    @param what: what that is.
    @param seconds: how long all may take together.
    """
    deadline = time.monotonic() + seconds
    with selectors.DefaultSelector() as selector:
        for idle_client in idle_clients:
            idle_client.socket.setblocking(False)
            selector.register(idle_client.socket, selectors.EVENT_READ, idle_client)
        waiting = selector.get_map()
        next_drop = time.monotonic()
        while waiting:
            now = time.monotonic()
            if now > deadline:
                raise AssertionError(f"waited {seconds} s in vain for {len(waiting)} {what}")
            if now >= next_drop:
                next_drop += 1
                for key in waiting.values():
                    key.data.say()
            for key, _ in selector.select(max(0, next_drop - time.monotonic())):
                key.data.on()
                if key.data.gone_after is not None or until(key.data):
                    selector.unregister(key.data.socket)
                if key.data.gone_after is not None and key.data.closes:
                    key.data.socket.close()


def loopback_addresses() -> Iterator[str]:
    """
    Addresses that are this machine's own, one after the other.
    """
    for number in range(256, 1 << 24):
        low = number & 255
        if 0 < low < 255:
            yield f"127.{number >> 16}.{number >> 8 & 255}.{low}"
