"""
Bulk data from a socket back to the same socket by C{splice(2)}: no byte enters the process.

Invariant: the pipe between the two is empty whenever L{Splicer.relay} returns.  So no byte waits
where the reactor does not know of it, and none gets into another connection.  After an exception,
the pipe is not used again.
"""

import errno
import fcntl
import os
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from twisted.internet.main import CONNECTION_LOST

if TYPE_CHECKING:
    from twisted.internet.tcp import Server as _Transport
else:
    _Transport = object

MAX_SPLICE = 128 * 1024
"""
The most bytes that are moved in one turn of the loop.

The other connections wait for it: as long as for the largest read, of 96 KiB, which is received and
sent.  Beside eight streams, the p99 of a small echo is 0.66 of that of the echo server in Twisted's
documentation with 128 KiB, 0.83 with 96, and 0.87 without splice.  An echo of 1 MiB costs 0.74 of
what it costs without splice with 96 KiB, 0.70 with 128, and 0.69 with 192.
"""

MIN_SPLICE = 32 * 1024
"""
A read of so many bytes is followed by a splice; a splice of fewer is followed by a read.

An echo of 16 KiB costs the same either way, one of 32 KiB 0.7 if it is spliced.

The kernel sends the pages that it has received, and counts only the bytes in them against the
send buffer.  The pipe has a slot for each of 64 pages, so a page holds 512 bytes on average, or
more.  Hence a client that reads nothing occupies at most eight times its send buffer.
"""

PIPE_BYTES = 256 * 1024
"""
The capacity of the pipe (C{F_SETPIPE_SZ}, fcntl(2)), a slot for each page.  A segment that came
over a network takes a slot, however small it is: 64 segments of 1448 bytes are 90 KiB.
"""

MIN_PIPE_BYTES = 64 * 1024
"""
The capacity that a pipe has by default.  It is less for a user who has many pipes (pipe(7)), and
then it is too small for C{MIN_SPLICE}.
"""

UNSUPPORTED = frozenset((errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.EACCES))
"""The errors with which the kernel, or a filter of system calls, refuses each splice."""

SpliceCall = Callable[[int, int, int], int]
"""
Moves bytes from one descriptor to another, at most as many as the third argument says, and
returns how many.
"""

SPLICE: SpliceCall | None = getattr(os, "splice", None)
"""
The system call; C{None} where there is none.  It takes no flags: neither the sockets nor the pipe
block.
"""


class Pipe:
    """
    A pipe that closes itself when nothing refers to it.

    @ivar reader: the descriptor of the end that is read.
    @ivar writer: the descriptor of the end that is written.
    """

    def __init__(self, reader: int, writer: int):
        self.reader = reader
        self.writer = writer

    @classmethod
    def make(cls) -> "Pipe":
        """
        Make a pipe of C{PIPE_BYTES}, or of what the kernel gives to this user.

        @raise OSError: if there is no descriptor or no memory left.
        """
        pipe = cls(*os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK))
        with suppress(OSError):
            fcntl.fcntl(pipe.writer, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        return pipe

    def capacity(self) -> int:
        """
        How many bytes it can hold.
        """
        return fcntl.fcntl(self.writer, fcntl.F_GETPIPE_SZ)

    def read(self, size: int) -> bytes:
        """
        Take so many bytes out of it.

        @raise OSError: if it has fewer.
        """
        data = os.read(self.reader, size)
        while len(data) < size:
            data += os.read(self.reader, size - len(data))
        return data

    def __del__(self) -> None:
        os.close(self.reader)
        os.close(self.writer)


class Splicer:
    """
    Relays what comes on a socket to the same socket.  A reactor has one, for all its connections,
    with one pipe.

    @ivar usable: whether the kernel splices; once it has refused, this is C{False} for good.
    """

    usable = True

    def __init__(self, splice: SpliceCall, make_pipe: Callable[[], Pipe] = Pipe.make):
        self._splice = splice
        self._make_pipe = make_pipe
        self._pipe: Pipe | None = None

    def relay(self, descriptor: int) -> tuple[int, bytes]:
        """
        Receive up to C{MAX_SPLICE} bytes, and send them.

        @return: how many bytes were received, and those of them that the socket did not take.
            If none was received, C{recv} tells whether that is the end of the input: a splice
            never goes past an urgent byte (C{tcp_read_sock} in net/ipv4/tcp.c).
        @raise OSError: if the connection is broken.
        """
        pipe = self._pipe or self._open()
        if pipe is None:
            return 0, b""
        splice = self._splice
        try:
            received = splice(descriptor, pipe.writer, MAX_SPLICE)
        except BlockingIOError:
            received = 0
        except OSError as error:
            if error.errno not in UNSUPPORTED:
                raise
            self._refuse()
            received = 0
        if not received:
            return 0, b""
        # It is put back when it is empty.
        self._pipe = None
        try:
            sent = splice(pipe.reader, descriptor, received)
        except OSError as error:
            # Of a broken connection, the transport learns when it sends the rest.
            if error.errno in UNSUPPORTED:
                self._refuse()
            sent = 0
        rest = pipe.read(received - sent) if sent < received else b""
        if self.usable:
            self._pipe = pipe
        return received, rest

    def _refuse(self) -> None:
        """
        Splice no more, and close the pipe.
        """
        self.usable = False
        self._pipe = None

    def _open(self) -> Pipe | None:
        if not self.usable:
            return None
        try:
            pipe = self._make_pipe()
            self.usable = pipe.capacity() >= MIN_PIPE_BYTES
        except OSError:
            # Perhaps there is a descriptor for it the next time.
            return None
        self._pipe = pipe if self.usable else None
        return self._pipe


class RelayMixin(_Transport):
    """
    How a transport relays bulk, with the splicer of its reactor.
    """

    reactor: Any
    _enqueue: Callable[[bytes], None]
    _hidesMethods: bool

    def _relayNext(self) -> None:
        """
        Relay from the next read on, if the reactor can do that (C{splicer}), and if the protocol
        does not need to see the bytes: then it has a method C{bytes_relayed}, which gets the
        number of bytes that have come and are sent back.
        """
        splicer = getattr(self.reactor, "splicer", None)
        if (
            splicer is not None
            and splicer.usable
            and "doRead" not in self.__dict__
            and getattr(self.protocol, "bytes_relayed", None) is not None
        ):
            self._hidesMethods = True
            self.doRead = self._relay  # type: ignore[method-assign]

    def _relay(self) -> Any:
        """
        Receive and send at once, within the kernel.  What the kernel does not take is queued.
        """
        received, rest = 0, b""
        bytes_relayed: Any = getattr(self.protocol, "bytes_relayed", None)
        # Nothing overtakes what is queued (also during a TLS handshake), and nothing is sent once
        # our sending side is closed.
        if not (
            bytes_relayed is None
            or "write" in self.__dict__
            or self.disconnecting
            or self._writeDisconnecting
        ):
            try:
                received, rest = self.reactor.splicer.relay(self.fileno())
            except OSError:
                return CONNECTION_LOST
        if received < MIN_SPLICE:
            del self.doRead
        if not received:
            return self.doRead()
        if rest:
            self._enqueue(rest)
        bytes_relayed(received)
        return None
