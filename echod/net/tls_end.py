"""
How a connection with TLS ends.

The rule of this room: our close_notify goes out behind the last byte that is owed and
before the FIN (RFC 8446 6.1), if there is anybody to send it to; and what comes behind the
client's is ignored, and not answered with a reset.
"""

import socket
from contextlib import suppress
from typing import Any, NoReturn

from OpenSSL import SSL
from twisted.internet.error import ConnectionDone
from twisted.internet.main import CONNECTION_DONE
from twisted.python.failure import Failure

from echod.tls._openssl import forget_errors

DISCARD_BYTES = 16 * 1024
"""How much is received and dropped in one turn."""


_DONE = Failure(ConnectionDone())


def _closed(_: object) -> NoReturn:
    raise SSL.Error("the connection is closed")


class SecureEnd:
    """
    What TLS changes in a transport's end.
    """

    _closeNotified = False
    _discarding = False

    def _notifyClose(self: Any) -> bool:
        """
        Send our close_notify.

        @return: whether it went, or cannot go; else it is to be tried again.
        """
        if not self._closeNotified and not self._handshaking:
            try:
                self._tls.shutdown()
            except (SSL.WantReadError, SSL.WantWriteError):
                self.startWriting()
                return False
            except SSL.Error:
                forget_errors()
        self._closeNotified = True
        return True

    def _postLoseConnection(self: Any) -> Any:
        if not self._notifyClose():
            return None
        if self._handshaking or not self._atEOF:
            return CONNECTION_DONE
        self._discard()
        return None

    def _discard(self: Any) -> None:
        """
        Close our side, then receive and drop what the client sends behind its close_notify,
        until it closes; closing at once would let the kernel answer that with a reset, which
        destroys what the client has not read yet (RFC 8446 6.1).  The protocol bounds how long
        that lasts, by C{abortConnection}.
        """
        if self._discarding:
            return
        self._discarding = True
        # It may have closed already.
        self._drop()
        if not self.connected:
            return
        if not self._writeDisconnected:
            self._writeDisconnected = True
            with suppress(OSError):
                # If the client has gone, receiving shows it.
                self.socket.shutdown(socket.SHUT_WR)
        self.doRead = self._drop
        # There is no startReading after the end of input.
        self.reactor.addReader(self)

    def _drop(self: Any) -> None:
        try:
            if self.socket.recv(DISCARD_BYTES):
                return
        except BlockingIOError:
            return
        except OSError:
            # It has been sent all that it was owed: its end is one like any other.
            pass
        self.connectionLost(_DONE)

    def _closeWriteConnection(self: Any) -> Any:
        if self._notifyClose():
            return super()._closeWriteConnection()  # type: ignore[misc]
        return None

    def loseConnection(self: Any) -> None:
        """
        Send what is queued and a close_notify, then close.  In the middle of a
        handshake, there is nobody to say goodbye to.
        """
        if self._handshaking and self._is_flushed():
            self.abortConnection()
        elif self._handshaking:
            self.disconnecting = 1
        elif self._writeDisconnected and not self._closeNotified:
            # Our close_notify still waits for room.
            self.disconnecting = 1
            self.stopReading()
            self.startWriting()
        elif self._writeDisconnected and self._atEOF and self.connected:
            self.disconnecting = 1
            self._discard()
        else:
            super().loseConnection()  # type: ignore[misc]

    def connectionLost(self: Any, reason: Any) -> None:
        """
        The connection is gone.  OpenSSL knows its descriptor by number, and the number
        may soon be another connection's, so nothing is written from here on.
        """
        if self.connected and self._is_flushed() and reason.check(ConnectionDone):
            self._notifyClose()
        self.__dict__.update(_send=_closed, _recv=_closed)
        self.__dict__.pop("doRead", None)
        super().connectionLost(reason)  # type: ignore[misc]
