"""
Clients of the tests: a connection, plain or with TLS, that never waits by itself, and one loop
that lets many clients work in one thread.

What plays a client here plays it on these.  Apart from them, by nature, stand
L{tests.support.tlswire}, which makes bytes for a test to change, L{tests.support.worst}, which
attacks, L{tests.bench.load}, which must cost as little as it can, and C{tests/system/client.py},
which runs where nothing but Python is installed.

Invariant: a client notes what happens to it.  The test says what must happen.
"""

import errno
import random
import select
import selectors
import socket
import struct
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from enum import Enum
from typing import Generic, Self, TypeVar

from OpenSSL import SSL
from service_identity.pyopenssl import verify_hostname

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE

DEADLINE_SECONDS = 60.0
"""How long a server may neither send nor receive, and a step of a test may take."""

STUCK_SECONDS = 0.3
"""After so long without a byte that the kernel takes, the buffers on the way count as full."""

PIECE = 64 * 1024

PERIOD = 1_048_573
"""
The stream repeats after this many bytes.  The number is prime, so the loss of whole pieces,
pages or buffers cannot go unseen.
"""

_BLOCK = random.Random(862).randbytes(PERIOD) * 2


def stream(start: int, size: int) -> memoryview:
    """
    A part of the endless stream that clients send.

    @param size: at most C{PERIOD}.
    """
    start %= PERIOD
    return memoryview(_BLOCK)[start : start + size]


def in_stream(start: int, data: bytes) -> bool:
    """
    Whether this is that part of the stream.

    @param data: at most C{PERIOD} bytes.
    """
    return _BLOCK.startswith(data, start % PERIOD)


def reset(sock: socket.socket) -> None:
    """
    Close with a reset (SO_LINGER with a time of 0, socket(7)).
    """
    with suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


class Connection:
    """
    A connected socket; no call waits, but for those that say so.

    @ivar closed: whether the server's end of the stream has come.
    """

    def __init__(self, sock: socket.socket):
        sock.setblocking(False)
        self.socket = sock
        self.closed = False

    def proceed(self) -> int:
        """
        Continue the handshake, if there is one.

        @return: the event that it waits for; 0 when it is complete.
        """
        return 0

    def send(self, data: bytes | memoryview) -> int:
        """
        @return: how many bytes were taken; 0 if none can be now.
        """
        try:
            return self.socket.send(data)
        except BlockingIOError:
            return 0

    def receive(self, most: int = PIECE) -> bytes | None:
        """
        What has arrived; C{None} if nothing has, empty at the end of the server's stream.
        """
        try:
            data = self.socket.recv(most)
        except BlockingIOError:
            return None
        self.closed = not data
        return data

    def finish(self) -> bool:
        """
        Close the sending side.

        @return: whether that is done; else it has to be called again.
        """
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError as error:
            # It was reset meanwhile, and the next call that receives tells so (shutdown(2)).
            if error.errno != errno.ENOTCONN:
                raise
        return True

    def close(self) -> None:
        """
        Close; with TLS, without a close_notify.
        """
        self.socket.close()

    def wait(self, events: int, seconds: float = DEADLINE_SECONDS) -> None:
        """
        Wait until the socket is ready.

        @raise TimeoutError: the time is over.
        """
        poller = select.poll()
        reads, writes = events & READ and select.POLLIN, events & WRITE and select.POLLOUT
        poller.register(self.socket, reads | writes)
        if not poller.poll(seconds * 1000):
            raise TimeoutError("the server neither sends nor receives")

    def handshake(self) -> Self:
        """
        Complete the handshake, and wait for it.
        """
        while events := self.proceed():
            self.wait(events)
        return self

    def fill(self, data: bytes, piece: int = 16384) -> int:
        """
        Send without reading, until the server takes no more; wait for that.

        @return: how much was taken.
        """
        sent, view = 0, memoryview(data)
        with suppress(TimeoutError):
            while sent < len(view):
                if not (size := self.send(view[sent : sent + piece])):
                    self.wait(WRITE, STUCK_SECONDS)
                sent += size
        return sent

    def exchange(
        self, data: bytes, piece: int = 16384, slow: bool = False, close: bool = True
    ) -> bytes:
        """
        Send C{data} and the end of the stream, and meanwhile receive until the server's.

        @param piece: most bytes of one call; with TLS, of one record.
        @param slow: whether to read a little at a time.
        @param close: whether to close the sending side; else receive as much as was sent.
        """
        view = memoryview(data)
        sent = 0
        finished = not close
        back = bytearray()
        while not self.closed and (close or len(back) < len(data)):
            if sent < len(view):
                sent += self.send(view[sent : sent + piece])
            elif not finished:
                finished = self.finish()
            came = self.receive(2000 if slow else PIECE)
            if came:
                back += came
            elif came is None:
                self.wait(READ if sent == len(view) and finished else READ | WRITE)
        return bytes(back)

    def rest(self) -> bytes:
        """
        Receive until the end of the server's stream, and wait for it; the sending side stays
        as it is.
        """
        back = bytearray()
        while not self.closed:
            if (came := self.receive()) is None:
                self.wait(READ)
            else:
                back += came
        return bytes(back)


VERSIONS = {"TLS 1.2": SSL.TLS1_2_VERSION, "TLS 1.3": SSL.TLS1_3_VERSION}


def context(version: str) -> SSL.Context:
    """
    A client's context for one version, which accepts any certificate.
    """
    made = SSL.Context(SSL.TLS_CLIENT_METHOD)
    made.set_min_proto_version(VERSIONS[version])
    made.set_max_proto_version(VERSIONS[version])
    return made


class TLSClient(Connection):
    """
    The same with TLS, in the middle of the handshake or after it.  It can do what Python's
    C{ssl} cannot: close its sending side with a close_notify and still read, send records of a
    chosen length, or end at any point.

    Invariant: OpenSSL works on the client's socket directly, so the test sees what the wire
    carried.  An end of file without a close_notify is an L{SSL.Error}.
    """

    def __init__(self, sock: socket.socket, context: SSL.Context):
        super().__init__(sock)
        self.tls = SSL.Connection(context, sock)
        self.tls.set_connect_state()

    def proceed(self) -> int:
        try:
            self.tls.do_handshake()
        except SSL.WantReadError:
            return READ
        except SSL.WantWriteError:
            return WRITE
        return 0

    def send(self, data: bytes | memoryview) -> int:
        try:
            return self.tls.send(data)
        except (SSL.WantReadError, SSL.WantWriteError):
            return 0

    def receive(self, most: int = PIECE) -> bytes | None:
        try:
            return self.tls.recv(most)
        except SSL.WantReadError:
            return None
        except SSL.ZeroReturnError:
            self.closed = True
            return b""

    def finish(self) -> bool:
        try:
            self.tls.shutdown()
        except (SSL.WantReadError, SSL.WantWriteError):
            return False
        return True

    def verify(self, name: str) -> None:
        """
        Check that the server's certificate is for this name (RFC 9525).  The handshake has
        verified its chain.

        @raise service_identity.VerificationError: it is not.
        """
        verify_hostname(self.tls, name)


class End(Enum):
    """
    How a connection ended, as its client saw it.
    """

    EOF = "end of file"
    RESET = "reset"
    """Or another error, such as an end of file without a close_notify."""


class Client:
    """
    A client of L{Clients}.

    @ivar end: how its connection ended; C{None} while it is open.
    @ivar closes: whether it closes when the server has.
    """

    end: End | None = None
    closes = True

    def __init__(self, connection: Connection | socket.socket):
        if isinstance(connection, socket.socket):
            connection = Connection(connection)
        self.connection = connection
        self.socket = connection.socket

    def events(self) -> int:
        """
        The events that it waits for; 0 to be left alone.
        """
        raise NotImplementedError

    def on(self, events: int) -> None:
        """
        Do what is possible without waiting.

        @raise ConnectionError: the server has reset the connection.
        """
        raise NotImplementedError

    def lost(self, end: End) -> None:
        """
        Its connection has ended.
        """
        self.end = end


C = TypeVar("C", bound=Client)


class Clients(Generic[C]):
    """
    Clients that work while L{run} runs.
    """

    def __init__(self, clients: Iterable[C] = ()):
        self.clients: list[C] = list(clients)
        self._selector = selectors.DefaultSelector()
        self._registered: dict[C, int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        for client in self.clients:
            client.socket.close()

    def close(self) -> None:
        """
        Leave the clients as they are.
        """
        self._selector.close()

    def add(self, client: C) -> None:
        """
        Let one more client work.
        """
        self.clients.append(client)
        self._update(client)

    @property
    def at_work(self) -> int:
        """
        How many wait for an event.
        """
        return len(self._registered)

    @property
    def over(self) -> bool:
        """
        Whether all connections have ended.
        """
        return all(client.end for client in self.clients)

    def _update(self, client: C) -> None:
        events = 0 if client.end else client.events()
        before = self._registered.get(client, 0)
        if events == before:
            return
        if not before:
            self._selector.register(client.socket, events, client)
        elif events:
            self._selector.modify(client.socket, events, client)
        else:
            self._selector.unregister(client.socket)
        self._registered[client] = events
        if not events:
            del self._registered[client]
        if client.end and client.closes:
            client.socket.close()

    def run(
        self, until: Callable[[], object], what: str, seconds: float = DEADLINE_SECONDS
    ) -> None:
        """
        Let the clients send and receive.

        @param until: called after each turn; whether to return.
        @param what: what is waited for, for the error.
        @param seconds: the deadline.
        @raise AssertionError: the deadline has passed.
        """
        for client in self.clients:
            # The test may have changed whether it reads or sends.
            self._update(client)
        deadline = time.monotonic() + seconds
        while not until():
            if time.monotonic() > deadline:
                raise AssertionError(f"waited {seconds} s in vain for {what}")
            for key, events in self._selector.select(0.02):
                client: C = key.data
                try:
                    client.on(events)
                except (ConnectionError, SSL.Error):
                    client.lost(End.RESET)
                self._update(client)


class StreamClient(Client):
    """
    A client that sends a part of the stream, and compares every byte that comes back.

    @ivar piece: most bytes of one call to send.
    @ivar sent: bytes that the kernel has taken.
    @ivar received: bytes that came back.
    @ivar exact: whether all of these are the bytes that were sent.
    @ivar progress: the monotonic time of the last call that took a byte.
    @ivar ended: the monotonic time of the end.
    """

    def __init__(
        self,
        connection: Connection | socket.socket,
        start: int = 0,
        limit: int | None = None,
        reads: bool = True,
    ):
        """
        @param start: where in the stream it begins; with another place for each client, an
            echo that goes to the wrong client is seen.
        @param limit: after this many bytes it closes its sending side; C{None} for never.
        @param reads: whether it reads.
        """
        super().__init__(connection)
        self.limit = limit
        self.reads = reads
        self.piece = self.read_piece = PIECE
        self._start = start
        self.sent = self.received = 0
        self.exact = self.sending = True
        self._broken = False
        self.progress = self.ended = time.monotonic()

    def events(self) -> int:
        return self.reads * READ | self.sending * WRITE

    def on(self, events: int) -> None:
        if events & READ and (data := self.connection.receive(self.read_piece)) is not None:
            if not data:
                # The system tells of a reset only once (socket(7), SO_ERROR).
                self.lost(End.RESET if self._broken else End.EOF)
                return
            self.exact = self.exact and in_stream(self._start + self.received, data)
            self.received += len(data)
        if events & WRITE and self.sending:
            try:
                self._send()
            except ConnectionError:
                if not self.reads:
                    raise
                # What came back before can still be read.
                self.sending, self._broken = False, True

    def _send(self) -> None:
        size = self.piece if self.limit is None else min(self.piece, self.limit - self.sent)
        if size > 0 and (taken := self.connection.send(stream(self._start + self.sent, size))):
            self.sent += taken
            self.progress = time.monotonic()
        if self.limit is not None and self.sent >= self.limit:
            self.close_sending()

    def close_sending(self) -> None:
        """
        Close the sending side: the end of file follows what the kernel has taken.
        """
        self.limit = self.sent
        self.sending = not self.connection.finish()

    def lost(self, end: End) -> None:
        super().lost(end)
        self.ended = time.monotonic()

    @property
    def stuck(self) -> bool:
        """
        Whether the buffers on its way are full, or have all that it sends: a while has passed
        since the kernel took a byte, and it takes none now.
        """
        if not self.sent or self.progress >= time.monotonic() - STUCK_SECONDS:
            return False
        # This process may have got no CPU for that while.
        writable = select.poll()
        writable.register(self.socket, select.POLLOUT)
        return not self.sending or not writable.poll(0)

    @property
    def whole(self) -> bool:
        """
        Whether it sent C{limit} bytes, all of them came back, and then the end of file.
        """
        return self.exact and self.end is End.EOF and self.received == self.sent == self.limit
