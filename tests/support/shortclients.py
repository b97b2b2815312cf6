"""
Short and idle clients from many addresses, for limits of connections and limits in time.

Invariant: a client counts as served from the moment it has received its echo to the moment it
begins to close.  The daemon counts it for longer than that.  So the clients that are served at
once are at most the connections that the daemon has admitted at once.
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

MESSAGE = b"?"

IP_BIND_ADDRESS_NO_PORT = 24
"""ip(7): connect(2) chooses the port, so one port serves for several destinations."""

Place = tuple[str, int]


def connect_from(source: str, place: Place, wait: bool = True) -> socket.socket:
    """
    Connect.

    @param source: the client's address; empty for the system's choice.
    @param wait: whether to wait until it is connected.
    """
    client = socket.socket(socket.AF_INET6 if ":" in place[0] else socket.AF_INET)
    try:
        if source:
            client.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
            client.bind((source, 0))
        if wait:
            client.settimeout(60)
            # A client that is refused at once gets the same error at its next system call.
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
    Whether a connected client gets an echo.  A refused client never receives a byte.
    """
    try:
        client.sendall(MESSAGE)
        answer = client.recv(100)
    except ConnectionError:
        return False
    if answer not in (b"", MESSAGE):
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
    Close the sending side, read until the end of file, and close.
    """
    client.settimeout(60)
    client.shutdown(socket.SHUT_WR)
    rest = client.recv(1)
    client.close()
    if rest:
        raise AssertionError("more came back than was sent")


CLOSES: tuple[Callable[[socket.socket], None], ...] = (socket.socket.close, reset, half_close)


@dataclass(eq=False)
class Attempt:
    """
    A client that waits for its echo.

    @ivar who: the client that the daemon counts it for.
    """

    socket: socket.socket
    who: str
    asked: bool = False


class ShortClients:
    """
    Clients that connect, get an echo or are refused, and close; many at a time.

    @ivar served: how many got an echo.
    @ivar refused: how many did not.
    @ivar most: how many were served at once.
    @ivar most_of_one: how many of one client were served at once.
    """

    def __init__(self, rng: random.Random):
        self._rng = rng
        self._selector = selectors.DefaultSelector()
        self._inside: list[Attempt] = []
        self._of: Counter[str] = Counter()
        self.served = self.refused = self.most = self.most_of_one = 0

    def __enter__(self) -> "ShortClients":
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
        Connect this many clients; meanwhile, close served ones in random order, with and without
        a reset or a half-close.

        @param at_once: how many connect at a time.
        @param come: starts to connect a client; returns its socket, and the client that the
            daemon counts it for.
        @param goes: whether to close any.
        @param seconds: the deadline.
        """
        deadline = time.monotonic() + seconds
        waiting = self._selector.get_map()
        while number or waiting:
            if time.monotonic() > deadline:
                raise AssertionError(f"{len(waiting)} were neither served nor refused")
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
                visitor.socket.send(MESSAGE)
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
        if answer != MESSAGE:
            raise AssertionError(f"not the echo: {answer!r}")
        self.served += 1
        self._inside.append(visitor)
        self._of[visitor.who] += 1
        self.most = max(self.most, len(self._inside))
        self.most_of_one = max(self.most_of_one, self._of[visitor.who])

    @property
    def inside(self) -> int:
        """
        How many are served now.
        """
        return len(self._inside)

    def _one_goes(self) -> None:
        place = self._rng.randrange(len(self._inside))
        self._inside[place], self._inside[-1] = self._inside[-1], self._inside[place]
        visitor = self._inside.pop()
        self._of[visitor.who] -= 1
        self._rng.choice(CLOSES)(visitor.socket)

    def all_go(self) -> None:
        """
        Close all that are served.
        """
        while self._inside:
            self._one_goes()


@dataclass(eq=False)
class IdleClient:
    """
    A client that sends little or nothing.

    @ivar drip: what it sends, a piece each second.
    @ivar closes: whether it closes after the daemon has.
    @ivar came: the monotonic time just before it connected, so measured times are never too
        short.
    @ivar heard: what it has received.
    @ivar heard_after: seconds until the first byte.
    @ivar gone_after: seconds until the daemon closed its side.
    @ivar was_reset: whether that was a reset.
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
        Send the next piece, if there is one.
        """
        if piece := next(self.drip, b""):
            try:
                self.socket.send(piece)
            except ConnectionResetError:
                # The error is reported once, here or at the next recv(2).
                self.was_reset = True
            except OSError:
                pass

    def on(self) -> None:
        """
        Receive what has arrived.
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
    Connect an idle client.

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
    Let the clients wait, until each is closed by the daemon or done.

    @param until: called with a client that has received something; whether it is done.
    @param what: what is waited for, for the error.
    @param seconds: the deadline for all of them.
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
    Loopback addresses of this machine, one after the other.
    """
    for number in range(256, 1 << 24):
        low = number & 255
        if 0 < low < 255:
            yield f"127.{number >> 16}.{number >> 8 & 255}.{low}"
