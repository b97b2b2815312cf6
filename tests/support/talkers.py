"""
Many clients in one thread, each of which sends a stream that it knows by heart and
checks, byte by byte, what comes back.

Invariant: a client only notes what happens to it.  What ought to have
happened is for the test to say.
"""

import random
import selectors
import socket
import time
from collections.abc import Callable, Iterable
from enum import Enum

PERIOD = 1_048_573
"""
The stream repeats after so many bytes.  The number is prime, so no lost run of whole
pieces, pages or buffers falls in step with it and goes unseen.
"""

PIECE = 64 * 1024

_BLOCK = memoryview(random.Random(862).randbytes(PERIOD) * 2)


def stream(start: int, size: int) -> memoryview:
    """
    A part of the endless stream that the talkers send.

    @param size: at most C{PERIOD}.
    """
    start %= PERIOD
    return _BLOCK[start : start + size]


class End(Enum):
    """
    How a talker's connection ended, as the talker saw it.
    """

    EOF = "end of file"
    RESET = "reset"


class Talker:
    """
    One client.

    @ivar piece: how much it sends at a time, at most.
    @ivar sent: bytes the kernel took.
    @ivar received: bytes that came back.
    @ivar exact: whether all of them were the ones that were due.
    @ivar end: how it ended; C{None} while it goes on.
    @ivar progress: the monotonic time at which the kernel last took a byte from it.
    @ivar ended: the monotonic time of the end.
    """

    def __init__(
        self, client: socket.socket, start: int = 0, limit: int | None = None, reads: bool = True
    ):
        """
        @param start: where in the stream it begins; give each talker a place of its own,
            and an echo that goes to the wrong client is seen.
        @param limit: after so many bytes it closes its sending side; C{None} for never.
        @param reads: whether it reads at all.
        """
        client.setblocking(False)
        self.socket = client
        self.limit = limit
        self.reads = reads
        self.piece = PIECE
        self._start = start
        self.sent = self.received = 0
        self.exact = True
        self.sending = True
        self.end: End | None = None
        self.progress = self.ended = time.monotonic()

    def events(self) -> int:
        """
        What it waits for.
        """
        return self.reads * selectors.EVENT_READ | self.sending * selectors.EVENT_WRITE

    def on(self, events: int) -> None:
        """
        Do what can be done without waiting.
        """
        try:
            if events & selectors.EVENT_READ:
                self._read()
            if self.end is None and self.sending and events & selectors.EVENT_WRITE:
                self._write()
        except BlockingIOError:
            pass
        except ConnectionError:
            self._ended(End.RESET)

    def _read(self) -> None:
        data = self.socket.recv(PIECE)
        if not data:
            self._ended(End.EOF)
            return
        self.exact = self.exact and data == stream(self._start + self.received, len(data))
        self.received += len(data)

    def _write(self) -> None:
        size = self.piece if self.limit is None else min(self.piece, self.limit - self.sent)
        if size > 0:
            self.sent += self.socket.send(stream(self._start + self.sent, size))
            self.progress = time.monotonic()
        if self.limit is not None and self.sent >= self.limit:
            self.close_sending()

    def close_sending(self) -> None:
        """
        Send no more, and say so: behind what the kernel has taken comes the end of file.
        """
        self.limit = self.sent
        self.sending = False
        self.socket.shutdown(socket.SHUT_WR)

    def _ended(self, how: End) -> None:
        self.end = how
        self.ended = time.monotonic()

    @property
    def whole(self) -> bool:
        """
        Whether it sent all that it was to send, and all of that came back, and then the
        end of file.
        """
        return self.exact and self.end is End.EOF and self.received == self.sent == self.limit


class Crowd:
    """
    Many talkers, served in turn by whoever calls L{run}.
    """

    def __init__(self, talkers: Iterable[Talker]):
        self.talkers = list(talkers)
        self._selector = selectors.DefaultSelector()
        self._registered: dict[Talker, int] = {}

    def __enter__(self) -> "Crowd":
        return self

    def __exit__(self, *_: object) -> None:
        self._selector.close()
        for talker in self.talkers:
            talker.socket.close()

    def _update(self, talker: Talker) -> None:
        events = 0 if talker.end else talker.events()
        before = self._registered.get(talker, 0)
        if events == before:
            return
        if not before:
            self._selector.register(talker.socket, events, talker)
        elif not events:
            self._selector.unregister(talker.socket)
        else:
            self._selector.modify(talker.socket, events, talker)
        self._registered[talker] = events

    def run(self, until: Callable[[], bool], what: str, seconds: float = 60.0) -> None:
        """
        Let them talk.

        @param until: asked after each turn, says whether that is enough.
        @raise AssertionError: naming C{what} was waited for, when the time is over.
        """
        for talker in self.talkers:
            # The test may have told it to read, or to fall silent.
            self._update(talker)
        deadline = time.monotonic() + seconds
        while not until():
            if time.monotonic() > deadline:
                raise AssertionError(f"waited {seconds} s in vain for {what}")
            for key, events in self._selector.select(0.02):
                talker: Talker = key.data
                talker.on(events)
                self._update(talker)
                if talker.end:
                    talker.socket.close()

    @property
    def over(self) -> bool:
        """
        Whether every talker has come to its end.
        """
        return all(talker.end for talker in self.talkers)
