"""
How a connection with TLS ends.

The rule of this room: our close_notify goes out behind the last byte that is owed and
before the FIN (RFC 8446 6.1), if there is anybody to send it to.
"""

from typing import Any, NoReturn

from OpenSSL import SSL
from twisted.internet.error import ConnectionDone
from twisted.internet.main import CONNECTION_DONE

from echod.openssl import forget_errors


def _closed(_: object) -> NoReturn:
    raise SSL.Error("the connection is closed")


class SecureEnd:
    """
    What TLS changes in a transport's end.
    """

    _closeNotified = False

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
        return CONNECTION_DONE if self._notifyClose() else None

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
        super().connectionLost(reason)  # type: ignore[misc]
