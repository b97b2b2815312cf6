"""
HTTP for the few who look: Twisted's own, with bounds on what a client can make it hold.

Invariant: so many connections, so many seconds, so many bytes; nothing that a
client sends is kept, and nothing of it is logged.  A client that waits for an answer gets it,
however many others connect.
"""

import re
from io import BytesIO
from typing import Any

from twisted.internet.interfaces import IOpenSSLContextFactory
from twisted.web.http import HTTPChannel, Request as HTTPRequest
from twisted.web.resource import IResource
from twisted.web.server import Request, Site

from echod._util.sockets import unread
from echod.proxyprotocol.protocol import ProxyPolicy

SOFT_LIMIT = 32
"""
How many clients there may be.  The descriptors for them are of those that are kept from the
echo's connections.  There are more while more than that wait for an answer.
"""

ACCEPTS = 8
"""How many clients the port accepts at once."""

HARD_LIMIT = SOFT_LIMIT + 2 * ACCEPTS
"""
How many clients may wait for an answer.  While so many do, the port accepts none, and the others
stay in the kernel's queue.  A port of another reactor goes on accepting; there, the clients that
connected first are cut off, unless their requests are being answered.
"""

IDLE_TIMEOUT = 30

MAX_BODY_BYTES = 64 * 1024
"""How much of a body, which nothing here asks for, is read before the client is cut off."""

MAX_LENGTH_DIGITS = 20
"""
How many digits a Content-Length may have.  Of 4300 and more, Python makes no number, but a
ValueError, and Twisted a traceback.
"""

_ABSOLUTE = re.compile(rb"http://([^/?#]*)(.*)", re.IGNORECASE | re.DOTALL)
"""A request target that names its server, as a client sends it to a proxy (RFC 9112 3.2.2)."""


class AdminRequest(Request):
    """
    A request whose body is dropped as it comes.

    @ivar gone: whether nobody waits for the answer any more.
    @ivar authority: the server that the request target names; C{None} when it is a path.
    """

    gone = False
    authority: bytes | None = None
    _body_bytes = 0

    def process(self) -> None:
        """
        Let the resource answer, whatever the path.
        """
        if match := _ABSOLUTE.fullmatch(self.path):
            self.authority, self.path = match[1], match[2] or b"/"
        if self.path == b"*":
            # Twisted has an answer of its own to that, with its own headers.
            self.path = b"/*"
        super().process()

    def gotLength(self, length: int | None) -> None:
        """
        Make no file for a body that is announced to be large.
        """
        self.content = BytesIO()

    def handleContentChunk(self, data: bytes) -> None:
        """
        Drop a part of the body.
        """
        self._body_bytes += len(data)
        if self._body_bytes > MAX_BODY_BYTES:
            self.channel.transport.abortConnection()  # type: ignore[union-attr]  # it has one

    def connectionLost(self, reason: Any) -> None:
        """
        The client has gone before it was answered.
        """
        self.gone = True
        super().connectionLost(reason)


class AdminChannel(HTTPChannel):
    """
    A client's connection.

    @ivar answering: whether a request is being answered.
    """

    factory: "AdminSite"
    transport: Any
    answering = False
    _leaving = False
    _blocked = False
    _excused = False
    _read = False

    def connectionMade(self) -> None:
        self.factory.channels[self] = None
        if readLast := getattr(self.transport, "readLast", None):
            # An answer is a hundred times an echo.
            readLast(always=True)
        super().connectionMade()
        self.factory.close_oldest()

    def waits(self) -> bool:
        """
        Whether the client waits for an answer: its request is being answered, or has come and
        is still to be read.  A client that has been read from, and has not asked, does not wait.
        """
        if self.answering:
            return True
        reads = not (self._read or self._blocked or self.transport.disconnecting)
        return reads and unread(self.transport.fileno()) > 0

    def dataReceived(self, data: bytes) -> None:
        """
        A request has come, or a part of one.
        """
        self._read = True
        super().dataReceived(data)

    def pauseProducing(self) -> None:
        """
        The client does not take its answers: nothing more is read from it.
        """
        self._blocked = True
        super().pauseProducing()

    def resumeProducing(self) -> None:
        """
        It takes them.
        """
        self._blocked = False
        super().resumeProducing()

    def headerReceived(self, line: bytes) -> Any:
        """
        A header has come.
        """
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length" and len(value.strip()) > MAX_LENGTH_DIGITS:
            # What is no number, Twisted answers with 400.
            line = b"Content-Length: too long"
        return super().headerReceived(line)

    def allContentReceived(self) -> None:
        """
        A request is complete.
        """
        self.answering = True
        super().allContentReceived()

    def requestDone(self, request: HTTPRequest) -> None:
        """
        A request is answered.  Of one who has sent more before that, it was the last:
        Twisted would make all those answers in one turn of the loop, and hold them.
        """
        self.answering = self._excused = self._read = False
        if self.clearLineBuffer() or any(self._dataBuffer):
            self.persistent = False
        super().requestDone(request)

    def timeoutConnection(self) -> None:
        """
        Let go of who asks for nothing, and cut off who then does not take the rest.
        (Twisted does the same, with a line in the log for each.)
        """
        if self._leaving:
            self.abortConnection()
            return
        if not self._excused and self.waits():
            # It is the loop that has not come round to it.
            self._excused = True
            self.setTimeout(self.timeOut)
            return
        self._leaving = True
        self.setTimeout(self.abortTimeout)
        self.loseConnection()

    def abortConnection(self) -> None:
        """
        Cut it off.
        """
        self.transport.abortConnection()

    def connectionLost(self, reason: Any) -> None:  # type: ignore[override]  # has a default
        self.factory.channels.pop(self, None)
        super().connectionLost(reason)


class AdminSite(Site):
    """
    The site, as a L{ListeningFactory<echod.net.listener.ListeningFactory>}.

    @ivar channels: the connections, in the order in which they were made.
    """

    listener = "admin"
    outermost = False
    proxies: ProxyPolicy | None = None
    tls: IOpenSSLContextFactory | None = None
    noisy = False
    protocol = AdminChannel  # type: ignore[assignment]  # HTTP/2, which the other knows, needs TLS
    _closing = False

    def __init__(self, root: IResource, reactor: Any):
        super().__init__(root, AdminRequest, timeout=IDLE_TIMEOUT, reactor=reactor)
        self.channels: dict[AdminChannel, None] = {}

    def startFactory(self) -> None:
        """
        Open no log, and keep no clock for one.
        """

    def stopFactory(self) -> None:
        """
        There is nothing to close.
        """

    def log(self, request: HTTPRequest) -> None:
        """
        A scrape every few seconds is no news.
        """

    @property
    def acceptsAtOnce(self) -> int:
        """
        How many clients the port may accept now; 0 while C{HARD_LIMIT} of them wait.  At the
        end, the port empties the kernel's queue at once.
        """
        if self._closing:
            return ACCEPTS
        waiting = sum(channel.waits() for channel in self.channels)
        return min(ACCEPTS, max(0, HARD_LIMIT - waiting))

    def close_oldest(self) -> None:
        """
        Cut off those who have been there longest and wait for nothing, when there are too many.
        """
        *others, _ = self.channels
        for longest in others:
            if len(self.channels) <= SOFT_LIMIT:
                return
            over = len(self.channels) > HARD_LIMIT and not longest.answering
            if over or not longest.waits():
                del self.channels[longest]
                longest.abortConnection()

    def close_all(self) -> None:
        """
        Close the connections, when they have been sent what they are owed.
        """
        self._closing = True
        for channel in list(self.channels):
            channel.loseConnection()
