"""
Twisted's HTTP server with limits.

Invariant: connections, seconds and bytes are limited; nothing that a client sends is kept or
logged.  A client that waits for a response gets it, however many others connect.
"""

import re
from io import BytesIO
from typing import Any

from twisted.web.http import HTTPChannel, Request as HTTPRequest
from twisted.web.resource import IResource
from twisted.web.server import Request, Site

from echod._util.sockets import unread

SOFT_LIMIT = 32
"""
How many connections there may be.  Their descriptors are reserved: the echo's connections do not
use them.  There are more while more than this wait for a response.
"""

MAX_ACCEPTS = 8
"""How many connections are accepted in one turn of the loop."""

HARD_LIMIT = SOFT_LIMIT + 2 * MAX_ACCEPTS
"""
How many clients may wait for a response.  At this number the port accepts none, and the others
stay in the accept queue.  A port of another reactor accepts anyway; then the oldest connections
are aborted, unless their requests are being answered.
"""

IDLE_TIMEOUT = 30
"""Seconds."""

MAX_BODY_BYTES = 64 * 1024
"""How many bytes of a request's body are read and discarded before the connection is aborted."""

MAX_LENGTH_DIGITS = 20
"""
How many digits a Content-Length may have.  From 4300 digits on, C{int} raises C{ValueError}, and
Twisted logs a traceback.
"""

_ABSOLUTE = re.compile(rb"http://([^/?#]*)(.*)", re.IGNORECASE | re.DOTALL)
"""A request target in absolute form (RFC 9112 3.2.2)."""


class AdminRequest(Request):
    """
    A request whose body is discarded as it arrives.

    @ivar disconnected: whether the connection is lost.
    @ivar authority: the host of a request target in absolute form; C{None} in origin form.
    """

    disconnected = False
    authority: bytes | None = None
    _body_bytes = 0

    def process(self) -> None:
        """
        Pass the request to the resource, whatever its target.
        """
        if match := _ABSOLUTE.fullmatch(self.path):
            self.authority, self.path = match[1], match[2] or b"/"
        if self.path == b"*":
            # Twisted would answer this itself, without our headers.
            self.path = b"/*"
        super().process()

    def gotLength(self, length: int | None) -> None:
        """
        Create no temporary file for a large body.
        """
        self.content = BytesIO()

    def handleContentChunk(self, data: bytes) -> None:
        """
        Discard a part of the body.
        """
        self._body_bytes += len(data)
        if self._body_bytes > MAX_BODY_BYTES:
            self.channel.transport.abortConnection()  # type: ignore[union-attr]  # it has one

    def connectionLost(self, reason: Any) -> None:
        """
        The connection was lost before the response was complete.
        """
        self.disconnected = True
        super().connectionLost(reason)


class AdminChannel(HTTPChannel):
    """
    A connection.

    @ivar responding: whether the response to a request is being made.
    """

    factory: "AdminSite"
    transport: Any
    responding = False
    _closing = False
    _paused = False
    _timeout_extended = False
    _read = False

    def connectionMade(self) -> None:
        self.factory.channels[self] = None
        if readLast := getattr(self.transport, "readLast", None):
            # A response takes a hundred times as long as an echo.
            readLast(always=True)
        super().connectionMade()
        self.factory.close_oldest()

    def has_request(self) -> bool:
        """
        Whether the client waits for a response: its request is being answered, or has arrived and
        is not read yet.  A client that was read from and has not completed a request does not.
        """
        if self.responding:
            return True
        reads = not (self._read or self._paused or self.transport.disconnecting)
        return reads and unread(self.transport.fileno()) > 0

    def dataReceived(self, data: bytes) -> None:
        """
        Receive a request, or a part of one.
        """
        self._read = True
        super().dataReceived(data)

    def pauseProducing(self) -> None:
        """
        The client does not read its responses: stop reading its requests.
        """
        self._paused = True
        super().pauseProducing()

    def resumeProducing(self) -> None:
        """
        The client reads its responses.
        """
        self._paused = False
        super().resumeProducing()

    def headerReceived(self, line: bytes) -> Any:
        """
        Replace a Content-Length that is too long.
        """
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length" and len(value.strip()) > MAX_LENGTH_DIGITS:
            # Twisted answers a Content-Length that is not a number with 400.
            line = b"Content-Length: too long"
        return super().headerReceived(line)

    def allContentReceived(self) -> None:
        """
        A request is complete.
        """
        self.responding = True
        super().allContentReceived()

    def requestDone(self, request: HTTPRequest) -> None:
        """
        A response is complete.  Close the connection if the client has sent further requests
        before that (pipelining): Twisted would answer all of them in one turn of the loop, and
        buffer the responses.
        """
        self.responding = self._timeout_extended = self._read = False
        if self.clearLineBuffer() or any(self._dataBuffer):
            self.persistent = False
        super().requestDone(request)

    def timeoutConnection(self) -> None:
        """
        Close a connection that sends no request; abort it if the client then does not read the
        rest of its response.  (Twisted does the same, and logs a line for each.)
        """
        if self._closing:
            self.abortConnection()
            return
        if not self._timeout_extended and self.has_request():
            # The request is there; the loop has not read it yet.
            self._timeout_extended = True
            self.setTimeout(self.timeOut)
            return
        self._closing = True
        self.setTimeout(self.abortTimeout)
        self.loseConnection()

    def abortConnection(self) -> None:
        """
        Abort the connection.
        """
        self.transport.abortConnection()

    def connectionLost(self, reason: Any) -> None:  # type: ignore[override]  # has a default
        self.factory.channels.pop(self, None)
        super().connectionLost(reason)


class AdminSite(Site):
    """
    The site, as an L{IListeningFactory<echod.net.listener.IListeningFactory>}.

    @ivar channels: the connections, the oldest first.
    """

    listener = "admin"
    noisy = False
    protocol = AdminChannel  # type: ignore[assignment]  # Site's own also speaks HTTP/2, over TLS
    _closing = False

    def __init__(self, root: IResource, reactor: Any):
        super().__init__(root, AdminRequest, timeout=IDLE_TIMEOUT, reactor=reactor)
        self.channels: dict[AdminChannel, None] = {}

    def listening(self, bare: bool) -> None:
        """
        Accept any endpoint, such as C{ssl:}.
        """

    def startFactory(self) -> None:
        """
        Open no access log, and start no timer for its timestamps.
        """

    def stopFactory(self) -> None:
        """
        Do nothing: there is no access log to close.
        """

    def log(self, request: HTTPRequest) -> None:
        """
        Do nothing: Prometheus sends a request every few seconds.
        """

    @property
    def acceptsAtOnce(self) -> int:
        """
        How many connections the port may accept now; 0 while L{HARD_LIMIT} clients wait.  At a
        stop, the port empties the accept queue at once.
        """
        if self._closing:
            return MAX_ACCEPTS
        waiting = sum(channel.has_request() for channel in self.channels)
        return min(MAX_ACCEPTS, max(0, HARD_LIMIT - waiting))

    def close_oldest(self) -> None:
        """
        When there are too many connections, abort the oldest that wait for no response.
        """
        *others, _ = self.channels
        for channel in others:
            if len(self.channels) <= SOFT_LIMIT:
                return
            over = len(self.channels) > HARD_LIMIT and not channel.responding
            if over or not channel.has_request():
                del self.channels[channel]
                channel.abortConnection()

    def close_all(self) -> None:
        """
        Close all connections, each after the rest of its response.
        """
        self._closing = True
        for channel in list(self.channels):
            channel.loseConnection()
