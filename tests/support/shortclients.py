"""
Short and idle clients from many addresses, for limits of connections and limits in time.

Invariant: a client counts as served from the moment it has received its echo to the moment it
begins to close.  The daemon counts it for longer than that.  So the clients that are served at
once are at most the connections that the daemon has admitted at once.
"""

import errno
import random
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, suppress

from tests.support.clients import READ, WRITE, Client, Clients, End, reset

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


def many(address: str, number: int) -> list[socket.socket]:
    """
    Begin to connect clients, and wait for none.

    @param address: as echod logs it.
    """
    host, _, port = address.rpartition(":")
    return [connect_from("", (host, int(port)), wait=False) for _ in range(number)]


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


class ShortClient(Client):
    """
    A client that connects and waits for its echo.

    @ivar who: the client that the daemon counts it for.
    @ivar served: whether it has got its echo; if it has come to its end before, it is refused.
    """

    def __init__(
        self, sock: socket.socket, who: str, answered: "Callable[[ShortClient], None]"
    ) -> None:
        """
        @param answered: called when it is served or refused.
        """
        super().__init__(sock)
        self.who = who
        self.served = False
        self._asked = False
        self._answered = answered

    def events(self) -> int:
        if self.served:
            return 0
        return READ if self._asked else WRITE

    def on(self, events: int) -> None:
        if not self._asked:
            self.connection.send(MESSAGE)
            self._asked = True
        elif answer := self.connection.receive(100):
            if answer != MESSAGE:
                raise AssertionError(f"not the echo: {answer!r}")
            self.served = True
            self._answered(self)
        elif self.connection.closed:
            self.over(End.EOF)

    def over(self, end: End) -> None:
        super().over(end)
        self._answered(self)


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
        self._clients: Clients[ShortClient] = Clients()
        self._inside: list[ShortClient] = []
        self._of: Counter[str] = Counter()
        self.served = self.refused = self.most = self.most_of_one = 0

    def __enter__(self) -> "ShortClients":
        return self

    def __exit__(self, *_: object) -> None:
        self._clients.__exit__()

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
        came = 0

        def all_answered() -> bool:
            nonlocal came
            while came < number and self._clients.at_work < at_once:
                came += 1
                self._clients.add(ShortClient(*come(), self._count))
            for _ in range(self._rng.randrange(len(self._inside) // 4 + 1) if goes else 0):
                self._one_goes()
            return not self._clients.at_work

        self._clients.run(all_answered, "all to be served or refused", seconds)

    def _count(self, client: ShortClient) -> None:
        if not client.served:
            self.refused += 1
            return
        self.served += 1
        self._inside.append(client)
        self._of[client.who] += 1
        self.most = max(self.most, len(self._inside))
        self.most_of_one = max(self.most_of_one, self._of[client.who])

    @property
    def inside(self) -> int:
        """
        How many are served now.
        """
        return len(self._inside)

    def _one_goes(self) -> None:
        place = self._rng.randrange(len(self._inside))
        self._inside[place], self._inside[-1] = self._inside[-1], self._inside[place]
        client = self._inside.pop()
        self._of[client.who] -= 1
        self._rng.choice(CLOSES)(client.socket)

    def all_go(self) -> None:
        """
        Close all that are served.
        """
        while self._inside:
            self._one_goes()


class IdleClient(Client):
    """
    A client that sends little or nothing.

    @ivar drip: what it sends, a piece each second.
    @ivar heard: what it has received.
    @ivar heard_after: seconds until the first byte.
    @ivar gone_after: seconds until the daemon closed its side.
    @ivar was_reset: whether that was a reset.
    """

    def __init__(
        self,
        come: Callable[[], socket.socket],
        drip: Iterator[bytes] | None = None,
        closes: bool = True,
    ):
        """
        @param come: connects.  Its time counts, so measured times are never too short.
        """
        self._came = time.monotonic()
        super().__init__(come())
        self.drip = drip or iter(())
        self.closes = closes
        self.heard = b""
        self.heard_after: float | None = None
        self.gone_after: float | None = None
        self.was_reset = False
        self.done: Callable[[IdleClient], bool] = lambda _: False

    def events(self) -> int:
        return 0 if self.heard and self.done(self) else READ

    def drop(self) -> None:
        """
        Send the next piece, if there is one.
        """
        if piece := next(self.drip, b""):
            try:
                self.connection.send(piece)
            except ConnectionResetError:
                # The error is reported once, here or at the next recv(2).
                self.was_reset = True
            except OSError:
                pass

    def on(self, events: int) -> None:
        if piece := self.connection.receive(4096):
            self.heard_after = self.heard_after or time.monotonic() - self._came
            self.heard += piece
        elif self.connection.closed:
            self.over(End.EOF)

    def over(self, end: End) -> None:
        super().over(end)
        self.was_reset = self.was_reset or end is End.RESET
        self.gone_after = time.monotonic() - self._came


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
    clients = list(idle_clients)
    for client in clients:
        client.done = until
    next_drop = time.monotonic()
    with closing(Clients(clients)) as loop:

        def none_waits() -> bool:
            nonlocal next_drop
            if time.monotonic() >= next_drop:
                next_drop += 1
                for client in clients:
                    if not client.end and client.events():
                        client.drop()
            return not loop.at_work

        loop.run(none_waits, what, seconds)


def loopback_addresses() -> Iterator[str]:
    """
    Loopback addresses of this machine, one after the other.
    """
    for number in range(256, 1 << 24):
        low = number & 255
        if 0 < low < 255:
            yield f"127.{number >> 16}.{number >> 8 & 255}.{low}"
