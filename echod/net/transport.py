"""
A stream transport that sends before it buffers.

Invariant: when nothing is queued, C{write} is one C{send(2)} and nothing else.  What the kernel
does not take at once goes into Twisted's own buffer, and from there on everything is Twisted's:
high-water mark, producers, flush, close.

Twisted's private names are used in this package alone; a test holds the list of them.
"""

import socket
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from OpenSSL import SSL
from twisted.internet import tcp
from twisted.internet.abstract import FileDescriptor
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import (
    INegotiated,
    IOpenSSLContextFactory,
    IProducer,
    IProtocol,
    ISSLTransport,
)
from twisted.internet.main import CONNECTION_DONE, CONNECTION_LOST
from twisted.python.failure import Failure
from zope.interface import implementer

from echod.net.tls import TLSCloseMixin, TLSMixin, start_tls


def _address_type(transport: Any) -> type[IPv4Address] | type[IPv6Address]:
    """
    What the addresses of both ends are, by the form of the peer's.
    """
    return IPv4Address if len(transport.client) == 2 else IPv6Address


def _peer_host(transport: Any) -> Any:
    """
    The peer's _peer_host.
    """
    return transport.client[0]


def _log_prefix(transport: Any) -> str:
    """
    The prefix of what Twisted's older logging logs for this connection.
    """
    prefix = transport._getLogPrefix(getattr(transport, "protocol", None))
    return f"{prefix},{transport.sessionno},{transport.hostname}"


def _repr(transport: Any) -> str:
    """
    This connection in words.
    """
    name = type(getattr(transport, "protocol", None)).__name__
    port = getattr(transport.server, "_realPortNumber", None)
    return f"<{name} #{transport.sessionno} on {port}>"


def _keep_repr(transport: Any, words: str) -> None:
    """
    Twisted sets other words for its own transports; these stay.
    """


Look = Callable[[bytes], tuple[int, Callable[[], None] | None]]
"""
Is given what has come (C{MSG_PEEK}, recv(2)), and returns how many bytes of it are received
and dropped, which must not be 0 as long as it wants to see more, and what to call
afterwards.
"""


class PeekMixin:
    """
    What makes a transport one that can be looked into.
    """

    doRead: Callable[..., Any]
    _inspecting: Callable[[], Any] | None = None

    def startPeek(self: Any, look: Look, most: int) -> None:
        """
        Until L{stopPeek}, let C{look} see what has come, instead of the protocol, and
        say how many bytes of it are received and dropped.  What is left stays in the
        kernel, for whoever reads next.

        @param most: how many bytes it is shown at once.
        """
        self.doRead = self._inspecting = partial(self._peek, look, most)
        # What comes of it, such as the beginning of TLS, takes as long as many echoes.
        self.readLast()

    def _peek(self: Any, look: Look, most: int) -> Any:
        try:
            data = self.socket.recv(most, socket.MSG_PEEK)
        except BlockingIOError:
            return None
        except OSError:
            return CONNECTION_LOST
        if not data:
            return CONNECTION_DONE
        size, afterwards = look(data)
        if size:
            self.socket.recv(size)
        if afterwards is not None:
            afterwards()
        return None

    def stopPeek(self: Any) -> None:
        """
        From now on the protocol gets what comes.
        """
        self._inspecting = None
        self.__dict__.pop("doRead", None)


MIN_READ = 448
MAX_READ = 96 * 1024
"""
Bounds, in bytes, on what one read asks for.  CPython allocates what is asked for, and
what fits its allocator for small objects (512 bytes, header included) costs 0.14 us a
read less than anything larger.  So a connection starts small, asks for four times as
much after each full read, and for less again when its reads are small.  What is read in
one turn is what the others wait for: beside eight streams, the p99 of a small echo is 0.7
of that of Twisted's documentation echo with 64 KiB, 0.9 with 96, 1.15 with 128; while an
echo of 1 MiB with 64 connections costs 1.9, 1.0 and 1.0 times what it costs uvloop.
"""


def queued(transport: Any) -> int:
    """
    How many bytes a transport of Twisted's, or of ours, holds that the kernel has not taken
    yet.
    """
    held: int = len(transport.dataBuffer) - transport.offset + transport._tempDataLen
    return held


class EagerTransport(tcp.Server, PeekMixin):
    """
    A server's side of a TCP connection.

    While something is queued, C{write} is shadowed on the instance by C{_enqueue}; the
    common case then has no question to ask.
    """

    # close(2) is enough: no other process holds the descriptor.
    _shouldShutdown = False
    _atEOF = False
    _deciding = False
    _handshaking = False
    _readsLast = False
    _tlsClass: type["EagerTransport"]

    def __init__(
        self,
        sock: socket.socket,
        protocol: IProtocol,
        client: tuple[object, ...],
        server: Any,
        sessionno: int,
        reactor: Any,
    ):
        # All that Twisted's own constructors do, less the strings for logs, which are
        # made when they are asked for.
        sock.setblocking(False)
        self.reactor = reactor
        self.socket = sock
        self.fileno = sock.fileno
        self.protocol = protocol
        self.client = client
        self.server = server
        self.sessionno = sessionno
        self._tempDataBuffer = []
        self._tempDataLen = 0
        self._recv = sock.recv
        self._send = sock.send
        self._readSize = MIN_READ
        self.connected = 1
        reactor.addReader(self)

    # Properties, where Twisted's constructors store strings.
    _addressType: Any = property(_address_type)
    hostname: Any = property(_peer_host)
    logstr: Any = property(_log_prefix)
    repstr: Any = property(_repr, _keep_repr)

    def doRead(self) -> Any:
        """
        Receive once, and hand it to the protocol.
        """
        asked = self._readSize
        try:
            data = self._recv(asked)
        except BlockingIOError:
            return None
        except OSError:
            return CONNECTION_LOST
        got = len(data)
        if got == asked:
            self._readSize = min(asked * 4, MAX_READ)
        elif not got:
            return CONNECTION_DONE
        elif got * 8 < asked > MIN_READ:
            self._readSize = max(asked // 2, MIN_READ)
        self.protocol.dataReceived(data)
        return None

    def write(self, data: bytes) -> None:
        """
        Send at once what the kernel takes, and queue the rest.
        """
        try:
            sent = self._send(data)
        except (OSError, SSL.Error):
            # If the connection is broken, doWrite will see it too, and there the
            # reactor can end it; here, the protocol is in the middle of something.
            sent = 0
        if sent != len(data):
            self._enqueue(data[sent:])

    def writeSequence(self, iovec: Iterable[bytes]) -> None:
        """
        Send at once what the kernel takes of all the pieces, and queue the rest.
        """
        try:
            data = b"".join(iovec)
        except TypeError:
            raise TypeError("Data must be bytes") from None
        self.write(data)

    def _enqueue(self, data: bytes) -> None:
        if data and self.connected and not self._writeDisconnected:
            # First of all: a producer that is told to pause may write once more.
            self.write = self._enqueue  # type: ignore[method-assign]
        FileDescriptor.write(self, data)

    def doWrite(self) -> Any:
        """
        Send from the queue; when it is empty, C{write} sends at once again.
        """
        result = super().doWrite()
        if self._is_flushed():
            self.__dict__.pop("write", None)
        return result

    def _is_flushed(self) -> bool:
        """
        Whether nothing is queued, nor will be without a write.  A pull producer is
        asked for more by C{doWrite}, so with one everything goes through the queue.
        """
        pulled = self.producer is not None and not self.streamingProducer
        return not (self._tempDataLen or self.dataBuffer or pulled)

    def registerProducer(self, producer: IProducer, streaming: bool) -> None:
        """
        Register the one who writes, and can be told to pause.
        """
        if not streaming and self.connected:
            self.write = self._enqueue  # type: ignore[method-assign]
        super().registerProducer(producer, streaming)

    def startReading(self) -> None:
        """
        Ask the reactor to be told of input; after its end there is none.
        """
        if not self._atEOF:
            super().startReading()

    def startWriting(self) -> None:
        """
        Ask the reactor to be told when the kernel takes more.
        """
        if not self._deciding:
            super().startWriting()

    def readConnectionLost(self, reason: Failure) -> None:
        """
        The peer has sent all it will.  When the protocol answers by closing and nothing
        is owed, the end is now; Twisted's own comes a turn of the loop later, and two
        calls of epoll_ctl(2).
        """
        self._atEOF = self._deciding = True
        super().readConnectionLost(reason)
        self._deciding = False
        if not self.connected or self._aborting:
            return
        halfClosing = self._writeDisconnecting and not self._writeDisconnected
        if self.disconnecting and self._is_flushed() and self.producer is None:
            if self._postLoseConnection():
                self.connectionLost(reason)
        elif self.disconnecting or halfClosing or not self._is_flushed():
            self.startWriting()

    def loseConnection(self) -> None:
        """
        Send what is queued, then close.
        """
        if self._deciding and not self._writeDisconnected:
            # readConnectionLost, above us on the stack, does what there is to do.
            self.disconnecting = 1
        else:
            super().loseConnection()

    def connectionLost(self, reason: Failure) -> None:
        """
        The connection is gone.
        """
        # Both refer to this object, which would stay until a garbage collection.
        self.__dict__.pop("write", None)
        self.__dict__.pop("doRead", None)
        super().connectionLost(reason)

    def startTLS(self, ctx: IOpenSSLContextFactory, normal: bool = True) -> None:
        """
        From the next byte on, speak TLS, with OpenSSL working on the socket itself.

        @param ctx: what has C{getContext}.
        @param normal: whether we are TLS's server, as we are TCP's.
        @raise RuntimeError: when something written before is still to be sent.
        """
        if not self._is_flushed():
            raise RuntimeError("what was written before TLS has not been sent yet")
        start_tls(self, ctx.getContext(), normal)
        self.__class__ = self._tlsClass
        self.readLast()

    def readLast(self, always: bool = False) -> None:
        """
        Read when the reactor has served the others, if it is one that can do so: while
        it is inspected or in a handshake, or always.
        """
        self._readsLast = always
        if putOff := getattr(self.reactor, "putOff", None):
            self.doRead = partial(putOff, self)  # type: ignore[method-assign]

    def readLate(self) -> Any:
        """
        Read, now that it is our turn.
        """
        why = self._inspecting() if self._inspecting else type(self).doRead(self)
        if not (self.isSlow() or self._aborting):
            self.__dict__.pop("doRead", None)
        return why

    def isSlow(self) -> bool:
        """
        Whether what comes may take long: a handshake is a hundred times an echo.
        """
        return self._readsLast or self._handshaking or self._inspecting is not None


@implementer(ISSLTransport, INegotiated)
class EagerTLSTransport(TLSCloseMixin, TLSMixin, EagerTransport):  # type: ignore[misc]  # the socket's getHandle
    """
    The same after C{startTLS}.
    """


EagerTransport._tlsClass = EagerTLSTransport
