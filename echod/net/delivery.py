"""
How a TCP connection ends after the client's FIN: when the client has acknowledged the last byte.

Invariant: between the two, the descriptor stays open and the protocol's C{connectionLost} is not
called, so the connection counts, is drained, and may be aborted.  What the kernel has taken is not
delivered: after close(2) the kernel goes on sending, but nothing tells whether it succeeds, and
what is left is lost with the network namespace, as when a container stops.
"""

import socket
from typing import TYPE_CHECKING, Any

from twisted.internet.main import CONNECTION_DONE, CONNECTION_LOST
from twisted.python.failure import Failure

from echod._util.sockets import is_acknowledged

if TYPE_CHECKING:
    from twisted.internet.tcp import Server as _Transport
else:
    _Transport = object


class DeliveryMixin(_Transport):
    """
    How a transport waits for the client's acknowledgments.

    The protocol limits how long that lasts, by C{abortConnection}.
    """

    reactor: Any
    _atEOF: bool
    _delivering = False
    _hidesMethods: bool
    # The end of a connection that is broken while it waits.
    _undelivered: Exception = CONNECTION_LOST

    def _postLoseConnection(self) -> Any:
        """
        Nothing is queued any more.

        @return: why the connection ends now; C{None} if it does not yet.
        """
        # Before the client's FIN, as in Twisted: to wait for it is the protocol's choice.
        if not self._atEOF or self._isDelivered():
            return CONNECTION_DONE
        return self._awaitDelivery()

    def _awaitDelivery(self) -> Any:
        if not self._writeDisconnected:
            self._writeDisconnected = True
            try:
                self.socket.shutdown(socket.SHUT_WR)
            except OSError:
                # A reset has come before (ENOTCONN, shutdown(2)).
                return self._undelivered
        why = self._endOfDelivery()
        if why is None:
            self._delivering = self._hidesMethods = True
            self.doRead = self._look  # type: ignore[method-assign]
            # Both directions are closed, and so poll(2) reports a hang-up at each call.
            self.stopReading()
            self.stopWriting()
            if watch := getattr(self.reactor, "watchEnd", None):
                watch(self)
        return why

    def _isDelivered(self) -> bool:
        """
        Whether the client has acknowledged all that was sent, and our FIN.
        """
        try:
            return is_acknowledged(self.fileno())
        except OSError:
            # Other systems do not tell.
            return True

    def _endOfDelivery(self) -> Any:
        # After the client's FIN, a read returns the end of the input even if a reset has come
        # since (C{tcp_recvmsg_locked} in net/ipv4/tcp.c).
        if self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            return self._undelivered
        return CONNECTION_DONE if self._isDelivered() else None

    def _look(self) -> None:
        why = self._endOfDelivery()
        if why is not None:
            self.connectionLost(Failure(why))

    def endIfDelivered(self) -> bool:
        """
        End the connection if it has only waited for the client's acknowledgments, and they have
        come or the connection is broken.  A reactor with C{watchEnd} notices that by itself; on
        another one, the protocol calls this from time to time.

        @return: whether the connection has ended.
        """
        if self._delivering and self.connected and not self._aborting:
            self._look()
        return self._delivering and not self.connected
