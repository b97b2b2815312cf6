"""
Ports that accept cheaply, and whose connections are L{EagerTransport}s.

Invariant: however many knock, and whatever goes wrong with one of them, the
port goes on, and the log gets a line a second at most.
"""

import errno
import os
import socket
import sys
from contextlib import suppress
from typing import Any

from twisted.internet import tcp
from twisted.logger import Logger

from echod._util.sockets import keep_urgent
from echod.net.balance import YIELD_DELAY, AcceptBalancer
from echod.net.transport import EagerTransport

log = Logger(namespace="echod.net")

MAX_ACCEPTS = 32
"""
How many clients a port may accept in one turn of the loop.  Twisted begins with a hundred
and has no bound as long as more come, and all others wait, for as long as ten or more of
their echoes take for each.
"""

ACCEPT_RETRY_DELAY = 0.1
"""
How long a port that can neither accept nor turn away leaves those who wait alone.  Asked
again at once, it would be asked without end, for as long as the shortage lasts.
"""


class _EagerAccepting:
    """
    The accepting half of a port, mixed into Twisted's own.
    """

    balancer: AcceptBalancer | None = None
    _acceptingPaused = False
    _adopted = False
    _shed = 0
    _shedLogged = float("-inf")

    def doRead(self: Any) -> None:
        """
        Accept the clients that wait, up to C{numberAccepts} of them, and up to C{acceptsAtOnce},
        if the factory has that; if it is 0, look again a moment later.
        """
        balancer = self.balancer
        if balancer is None:
            self._accept()
            return
        allowance = balancer.allowance()
        if allowance:
            self.numberAccepts = min(self.numberAccepts, allowance)
            self._accept()
        if self._acceptingPaused or not self._isOpen():
            return
        if balancer.should_yield():
            self._pauseAccepting(YIELD_DELAY)
        else:
            self.reactor.rearm_exclusive(self)

    def rearm(self: Any) -> None:
        """
        Accept whom another process was woken for, and then did not accept.
        """
        if self._isOpen() and not self._acceptingPaused:
            # Who joins the queue is woken if somebody waits.
            self.reactor.rearm_exclusive(self)

    def _isOpen(self: Any) -> bool:
        return self.connected and not self.disconnecting

    def _pauseAccepting(self: Any, seconds: float) -> None:
        self._acceptingPaused = True
        self.stopReading()
        self.reactor.callLater(seconds, self._resumeAccepting)

    def _resumeAccepting(self: Any) -> None:
        if not self._isOpen():
            return
        if self.balancer is None:
            self._acceptingPaused = False
            self.startReading()
        elif not self.balancer.allowance():
            self.reactor.callLater(YIELD_DELAY, self._resumeAccepting)
        else:
            self._acceptingPaused = False
            self.reactor.rearm_exclusive(self)

    def _accept(self: Any) -> None:
        accept = self.socket.accept
        most = min(self.numberAccepts, getattr(self.factory, "acceptsAtOnce", sys.maxsize))
        if not most:
            # The socket stays readable: reading on would turn the loop without end.
            self._pauseAccepting(YIELD_DELAY)
            return
        for accepted in range(most):
            try:
                sock, peer = accept()
            except BlockingIOError:
                # As Twisted does: next time, try for as many as came this time.
                self.numberAccepts = max(1, accepted)
                return
            except OSError as error:
                if not self._accept_failed(error):
                    return
            else:
                self._accepted(sock, peer)
        self.numberAccepts = min(most + 20, MAX_ACCEPTS)

    def _accepted(self: Any, sock: socket.socket, peer: Any) -> None:
        transport = None
        try:
            if isinstance(peer, tuple) and len(peer) == 4 and peer[3]:
                # A link-local address, which means nothing without its interface.
                peer = tcp._getrealname(peer)
            protocol = self.factory.buildProtocol(self._buildAddr(peer))
            if protocol is None:
                sock.close()
                return
            if self._adopted:
                # It may have been connected before the listening socket had the option.
                keep_urgent(sock)
            number = self.sessionno
            self.sessionno = number + 1
            transport = self.transport(sock, protocol, peer, self, number, self.reactor)
            protocol.makeConnection(transport)
        except BaseException:
            log.failure("while making a connection", event="unhandled-error")
            if transport is None:
                sock.close()
            else:
                transport.abortConnection()

    def _accept_failed(self: Any, error: OSError) -> bool:
        """
        @return: whether to try the next one.
        """
        if error.errno in (errno.EPERM, errno.ECONNABORTED):
            return True
        shed = error.errno == errno.EMFILE and self._shed_one()
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
        if not shed:
            self._pauseAccepting(ACCEPT_RETRY_DELAY)
        return bool(shed)

    def _shed_one(self: Any) -> bool:
        """
        Use the descriptor that Twisted holds in reserve to let one client in and out
        again; left in the queue, it would keep the port readable for ever.
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

    # close(2) is enough, and leaves the socket to other processes that have it.
    _shouldShutdown = False
    transport = EagerTransport
    numberAccepts = MAX_ACCEPTS

    @classmethod
    def _fromListeningDescriptor(cls: Any, *args: Any) -> Any:
        port = super()._fromListeningDescriptor(*args)
        port._adopted = True
        return port
