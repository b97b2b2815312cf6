"""
One client that does what a script says, and holds its stream to the promise.

Invariant: each byte that comes back is the next one of those that were sent.
"""

import socket
from contextlib import nullcontext, suppress

from tests.support.clients import (
    PERIOD,
    READ,
    WRITE,
    Connection,
    TLSClient,
    context,
    in_stream,
    reset,
    stream,
)
from tests.support.daemons import connect

MOST_SENT = 3 << 20
"""Bytes that one client sends at most; more than the kernel and the daemon keep for it."""


class Player:
    """
    One client.  A method that reads waits for the daemon, and one that sends does not.

    @ivar peer: its address, as the log has it; empty on a UNIX socket.
    @ivar sent: how many bytes the kernel has taken, and C{received}: how many have come back.
    @ivar half_closed: whether the sending side is closed.
    @ivar ended: whether the stream has ended, and C{left}: whether the client ended it early.
    @ivar talked: whether it has sent something after its close_notify.
    """

    def __init__(
        self,
        address: str,
        start: int,
        receive_buffer: int = 0,
        version: str = "",
    ):
        """
        @param start: where in the stream of all clients this one begins.
        @param version: the version of TLS; empty for none.
        """
        self.start = start
        self.sent = self.received = 0
        self.half_closed = self.ended = self.left = self.talked = False
        self.socket = connect(address, receive_buffer)
        self.peer = ""
        if self.socket.family == socket.AF_INET:
            self.peer = f"127.0.0.1:{self.socket.getsockname()[1]}"
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._version = version
        # The rest of a record that OpenSSL has begun to send: to be sent before any other.
        self._unsent = memoryview(b"")

    def begin(self, header: bytes = b"", cut: int = 0) -> None:
        """
        Send the PROXY header, and complete the handshake.

        @param cut: where the header is cut in two.
        """
        cut %= len(header) + 1
        self.socket.sendall(header[:cut])
        self.socket.sendall(header[cut:])
        self._connection = (
            TLSClient(self.socket, context(self._version))
            if self._version
            else Connection(self.socket)
        )
        self._connection.handshake()

    def __repr__(self) -> str:
        return (
            f"client {self.peer} {self._version}: sent {self.sent}, received {self.received}, "
            f"half-closed {self.half_closed}, ended {self.ended}"
        )

    def send(self, size: int, most: int) -> None:
        """
        Send as much as the daemon takes now.

        @param most: most bytes of one call; with TLS, of one record.
        """
        size = min(size, MOST_SENT - self.sent)
        while size > 0 and not self.half_closed:
            piece = self._unsent or stream(self.start + self.sent, min(size, most, PERIOD))
            taken = self._connection.send(piece)
            self._unsent = memoryview(b"") if taken or not self._version else piece
            if not taken:
                return
            self.sent += taken
            size -= taken

    def settle(self) -> None:
        """
        Send the rest of a record, and read meanwhile, so that the daemon can read it.
        """
        while self._unsent:
            taken = self._connection.send(self._unsent)
            self.sent += taken
            if taken:
                self._unsent = memoryview(b"")
            else:
                self._read_to_send()

    def _read_to_send(self) -> None:
        self._connection.wait(READ | WRITE)
        if data := self._connection.receive():
            self._received(data)

    def urgent(self) -> None:
        """
        Send an urgent byte, which is echoed as any other; TLS has none, and UNIX sockets neither.
        """
        if self.peer and not self._version and not self.half_closed:
            with suppress(BlockingIOError):
                byte = stream(self.start + self.sent, 1)
                self.sent += self.socket.send(byte, socket.MSG_OOB)

    def read(self, size: int, most: int = 65536) -> None:
        """
        Read this many bytes of what is still to come.
        """
        size = min(size, self.sent - self.received)
        while size > 0:
            data = self._connection.receive(min(size, most))
            if data is None:
                self._connection.wait(READ)
                continue
            assert data, f"the stream has ended early: {self}"
            self._received(data)
            size -= len(data)

    def _received(self, data: bytes) -> None:
        assert self.received + len(data) <= self.sent, f"more than was sent: {self}"
        right = in_stream(self.start + self.received, data)
        assert right, f"other bytes than were sent, after {self.received}: {self}"
        self.received += len(data)

    def half_close(self) -> None:
        """
        Close the sending side; with TLS, by a close_notify.
        """
        if not self.half_closed:
            self.settle()
            self.half_closed = True
            while not self._connection.finish():
                self._read_to_send()

    def talk_on(self, size: int) -> None:
        """
        Send bytes after the close_notify, which the daemon discards (RFC 8446 6.1).
        """
        if self._version and self.half_closed:
            self.talked = True
            # One that has done so for too long may have got its reset.
            with suppress(BlockingIOError, BrokenPipeError, ConnectionResetError):
                self.socket.send(bytes(size))

    def read_end(self) -> None:
        """
        Read what is still to come, and then the end of the stream.
        """
        self.read(MOST_SENT)
        while (data := self._connection.receive()) is None:
            self._connection.wait(READ)
        self._received(data)
        self.ended = True

    def finish(self) -> None:
        """
        Close the sending side, read the rest and the end of the stream, and close.
        """
        self.half_close()
        if not self.ended:
            self.read_end()
        self.close()

    def close(self) -> None:
        """
        Close a client whose stream has ended, without another byte: a daemon that closed first
        resets the connection of a client that does not close in time.
        """
        # With TLS, a FIN follows the close_notify, and nothing else; but for a client that talks
        # on for too long, which gets a reset after that.
        with suppress(ConnectionResetError) if self.talked else nullcontext():
            rest = Connection(self.socket).rest()
            assert not rest, f"{len(rest)} bytes after the end: {self}"
        self.socket.close()

    def truncate(self) -> None:
        """
        Close the sending side of the socket.  With TLS and without a close_notify, that is an
        attack (RFC 8446 6.1), and ends the stream early.
        """
        if self._version:
            self.socket.shutdown(socket.SHUT_WR)
            self.leave(False)
        else:
            self.half_close()

    def leave(self, resets: bool) -> None:
        """
        End the connection at once.
        """
        self.left = self.ended = True
        if resets:
            reset(self.socket)
        else:
            self.socket.close()
