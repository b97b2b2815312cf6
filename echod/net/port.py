"""
Ports that accept at low cost, and whose connections are L{EagerTransport}s.

Invariant: however many clients connect, and whatever the kernel refuses for one of them or for the
port itself, the port goes on, or tries again a moment later; and for all of that it logs one line a
second at most.
"""

import errno
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from twisted.internet import tcp
from twisted.logger import Logger

from echod._util.sockets import keep_urgent
from echod.net.balance import YIELD_DELAY, AcceptBalancer
from echod.net.transport import EagerTransport

log = Logger(namespace="echod.net")

MAX_ACCEPTS = 32
"""
How many clients a port may accept in one turn of the loop.  To accept one takes as long as ten
or more echoes, and the open connections wait for that.  Twisted starts with a hundred and raises
the number as long as more clients come.
"""

MAX_SINGLES = 4
"""
How many turns in a row accept one client each before a turn tries more.  If clients come one by
one, each such try is a system call and an exception for nothing.
"""

ACCEPT_RETRY_DELAY = 0.1
"""
Seconds for which a port stops accepting when it can neither accept a client nor turn it away, or
when the kernel cannot report its clients (C{ENOMEM} and C{ENOSPC}, epoll_ctl(2)).  The clients keep
the port readable for as long as the shortage lasts, so without a pause the loop would do nothing
else.
"""

if TYPE_CHECKING:
    _Port = tcp.Port
else:
    _Port = object


class _EagerAccepting(_Port):
    """
    How a port accepts; a mixin for Twisted's TCP and UNIX ports.

    @ivar acceptingPaused: whether the port does not accept for a moment.
    """

    balancer: AcceptBalancer | None = None
    # What Twisted declares without a type, or with one that is too narrow.
    factory: Any
    numberAccepts: int
    reactor: Any
    sessionno: int
    socket: Any
    transport: Any
    acceptingPaused = False
    _mayLackOptions = False
    # Sets on a connection what it inherits otherwise; the listener knows more options than this.
    setOptions: Callable[[Any], object] = staticmethod(keep_urgent)
    _shed = 0
    _singles = 0
    _shedLogged = float("-inf")

    def doRead(self) -> None:
        """
        Accept up to C{numberAccepts} clients, and up to the factory's C{acceptsAtOnce}, if it
        has that attribute; if that is 0, look again a moment later.
        """
        balancer = self.balancer
        if balancer is None:
            self._accept()
            return
        allowance = balancer.allowance()
        if allowance:
            self.numberAccepts = min(self.numberAccepts, allowance)
            self._accept()
        if self.acceptingPaused or not self._isOpen():
            return
        if balancer.should_yield():
            self._pauseAccepting(YIELD_DELAY)
        else:
            self._startAccepting()

    def rearm(self) -> None:
        """
        Accept clients for which the kernel woke another process that then did not accept them.
        Without a balancer, the kernel wakes all of them.
        """
        if self.balancer is not None and self._isOpen() and not self.acceptingPaused:
            # A descriptor that is added while clients wait is reported as readable at once.
            self._startAccepting()

    def stopWaiting(self) -> None:
        """
        Accept only in calls of C{doRead} from now on, until C{stopListening}.
        """
        self.disconnecting = True
        self.acceptingPaused = False
        self.stopReading()

    def _isOpen(self) -> bool:
        return bool(self.connected and not self.disconnecting)

    def _pauseAccepting(self, seconds: float) -> None:
        self.acceptingPaused = True
        self.stopReading()
        if self._isOpen():
            self.reactor.callLater(seconds, self._resumeAccepting)

    def _resumeAccepting(self) -> None:
        if not self._isOpen():
            return
        if self.balancer is not None and not self.balancer.allowance():
            self.reactor.callLater(YIELD_DELAY, self._resumeAccepting)
            return
        self.acceptingPaused = False
        self._startAccepting()

    def _startAccepting(self) -> None:
        """
        Have the reactor report clients.  If the kernel refuses that, try again later: until then
        nothing else would call this port.
        """
        try:
            if self.balancer is None:
                self.startReading()
            else:
                self.reactor.rearmExclusive(self)
        except OSError as error:
            self._logShortage(error)
            self._pauseAccepting(ACCEPT_RETRY_DELAY)

    def _accept(self) -> None:
        # What socket.accept() calls, before it looks up its family and type as enums.
        accept = self.socket._accept
        # Twisted's startListening sets numberAccepts to 100.
        limit = min(self.numberAccepts, MAX_ACCEPTS)
        if (most := getattr(self.factory, "acceptsAtOnce", limit)) < limit:
            limit = most
        if not limit:
            # The socket stays readable: reading on would turn the loop without end.
            self._pauseAccepting(YIELD_DELAY)
            return
        accepted = 0
        while accepted < limit:
            try:
                descriptor, peer = accept()
            except BlockingIOError:
                # As Twisted does: next time, try as many as came this time.
                self.numberAccepts = accepted or 1
                self._singles = 0
                self._mayLackOptions = False
                return
            except OSError as error:
                if not self._acceptFailed(error):
                    return
            else:
                self._accepted(descriptor, peer)
            accepted += 1
        if limit == 1 and self._singles < MAX_SINGLES:
            self._singles += 1
        else:
            self.numberAccepts = min(limit + 20, MAX_ACCEPTS)

    def _accepted(self, descriptor: int, peer: Any) -> None:
        sock = socket.socket(self.addressFamily, self.socketType, 0, descriptor)
        transport = None
        try:
            if isinstance(peer, tuple) and len(peer) == 4 and peer[3]:
                # A link-local address means nothing without its interface.
                peer = tcp._getrealname(peer)
            if build := getattr(self.factory, "build_lazily", None):
                protocol = build(partial(self._buildAddr, peer))
            else:
                protocol = self.factory.buildProtocol(self._buildAddr(peer))
            if protocol is None:
                sock.close()
                return
            if self._mayLackOptions:
                # The client may have connected before the listening socket had the option.
                self.setOptions(sock)
            number = self.sessionno
            self.sessionno = number + 1
            try:
                transport = self.transport(sock, protocol, peer, self, number, self.reactor)
            except OSError as error:
                # Most likely the kernel cannot report what this client sends.
                sock.close()
                self._shed += 1
                self._logShortage(error)
                return
            protocol.makeConnection(transport)
        except BaseException:
            log.failure("while making a connection", event="unhandled-error")
            if transport is None:
                sock.close()
            else:
                transport.abortConnection()

    def _acceptFailed(self, error: OSError) -> bool:
        """
        @return: whether to try the next client.
        """
        if error.errno in (errno.EPERM, errno.ECONNABORTED):
            return True
        shed = error.errno == errno.EMFILE and self._shedOne()
        self._logShortage(error)
        if not shed:
            self._pauseAccepting(ACCEPT_RETRY_DELAY)
        return shed

    def _logShortage(self, error: OSError) -> None:
        """
        Log that a client cannot be accepted, once a second at most.
        """
        now = self.reactor.seconds()
        if now - self._shedLogged >= 1:
            self._shedLogged = now
            log.warn(
                "cannot accept: {reason}; {shed} clients turned away",
                event="accept-failed",
                reason=error.strerror,
                shed=self._shed,
            )
            self._shed = 0

    def _shedOne(self) -> bool:
        """
        Accept one client on the descriptor that Twisted holds in reserve, and close it.  If it
        stayed in the queue, the port would be readable without end.

        @return: whether that was possible.
        """
        reserved = tcp._reservedFD
        if not reserved.available():
            with suppress(OSError):
                open(os.devnull).close()
                reserved.reserve()
            if not reserved.available():
                return False
        with reserved:
            try:
                sock, _ = self.socket.accept()
            except OSError:
                return False
            sock.close()
        self._shed += 1
        return True


class EagerPort(_EagerAccepting, tcp.Port):
    """
    A listening TCP port.
    """

    # close(2) is enough, and does not shut the socket down for other processes that have it.
    _shouldShutdown = False
    transport = EagerTransport

    @classmethod
    def _fromListeningDescriptor(cls, *args: Any) -> Any:
        port = super()._fromListeningDescriptor(*args)
        port._mayLackOptions = True
        return port
