"""
Clients that send a fixed stream and compare every byte that comes back; many in one thread.

Invariant: a client notes what happens to it.  The test says what must happen.
"""

import random
import selectors
import socket
import time
from collections.abc import Callable, Iterable
from enum import Enum

PERIOD = 1_048_573
"""
The stream repeats after this many bytes.  The number is prime, so the loss of whole pieces,
pages or buffers cannot go unseen.
"""

PIECE = 64 * 1024

_BLOCK = memoryview(random.Random(862).randbytes(PERIOD) * 2)


def stream(start: int, size: int) -> memoryview:
    """
    A part of the endless stream that each client sends.

    @param size: at most C{PERIOD}.
    """
    start %= PERIOD
    return _BLOCK[start : start + size]


class End(Enum):
    """
    How a connection ended, as its client saw it.
    """

    EOF = "end of file"
    RESET = "reset"


class StreamClient:
    """
    One client.

    @ivar piece: most bytes of one C{send(2)}.
    @ivar sent: bytes that the kernel has taken.
    @ivar received: bytes that came back.
    @ivar exact: whether all of these are the bytes that were sent.
    @ivar end: how the connection ended; C{None} while it is open.
    @ivar progress: the monotonic time of the last C{send(2)} that took a byte.
    @ivar ended: the monotonic time of the end.
    """

    def __init__(
        self, client: socket.socket, start: int = 0, limit: int | None = None, reads: bool = True
    ):
        """
        @param start: where in the stream it begins; with another place for each client, an
            echo that goes to the wrong client is seen.
        @param limit: after this many bytes it closes its sending side; C{None} for never.
        @param reads: whether it reads.
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
        The events that it waits for.
        """
        return self.reads * selectors.EVENT_READ | self.sending * selectors.EVENT_WRITE

    def on(self, events: int) -> None:
        """
        Read and write what is possible without waiting.
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
        Close the sending side: the end of file follows what the kernel has taken.
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
        Whether it sent C{limit} bytes, all of them came back, and then the end of file.
        """
        return self.exact and self.end is End.EOF and self.received == self.sent == self.limit


class StreamClients:
    """
    Many clients, which work while L{run} runs.
    """

    def __init__(self, stream_clients: Iterable[StreamClient]):
        self.stream_clients = list(stream_clients)
        self._selector = selectors.DefaultSelector()
        self._registered: dict[StreamClient, int] = {}

    def __enter__(self) -> "StreamClients":
        return self

    def __exit__(self, *_: object) -> None:
        self._selector.close()
        for stream_client in self.stream_clients:
            stream_client.socket.close()

    def _update(self, stream_client: StreamClient) -> None:
        events = 0 if stream_client.end else stream_client.events()
        before = self._registered.get(stream_client, 0)
        if events == before:
            return
        if not before:
            self._selector.register(stream_client.socket, events, stream_client)
        elif not events:
            self._selector.unregister(stream_client.socket)
        else:
            self._selector.modify(stream_client.socket, events, stream_client)
        self._registered[stream_client] = events

    def run(self, until: Callable[[], bool], what: str, seconds: float = 60.0) -> None:
        """
        Let the clients send and receive.

        @param until: called after each turn; whether to return.
        @param what: what is waited for, for the error.
        @param seconds: the deadline.
        @raise AssertionError: the deadline has passed.
        """
        for stream_client in self.stream_clients:
            # The test may have changed whether it reads or sends.
            self._update(stream_client)
        deadline = time.monotonic() + seconds
        while not until():
            if time.monotonic() > deadline:
                raise AssertionError(f"waited {seconds} s in vain for {what}")
            for key, events in self._selector.select(0.02):
                stream_client: StreamClient = key.data
                stream_client.on(events)
                self._update(stream_client)
                if stream_client.end:
                    stream_client.socket.close()

    @property
    def over(self) -> bool:
        """
        Whether all connections have ended.
        """
        return all(stream_client.end for stream_client in self.stream_clients)
