"""
TLS on the socket itself, and how a connection with TLS ends.

Invariant: OpenSSL reads and writes the socket, no byte waits in a buffer of ours that the reactor
does not know of.  Our close_notify goes out behind the last byte of the echo and before the FIN
(RFC 8446 6.1).
"""

import socket
import sys
from contextlib import suppress
from typing import Any, NoReturn

from OpenSSL import SSL
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IHandshakeListener
from twisted.internet.main import CONNECTION_DONE, CONNECTION_LOST
from twisted.logger import Logger
from twisted.python.failure import Failure

from echod.net.handshake import ServerHandshake
from echod.tls._openssl import (
    RECORD_BYTES,
    forget_errors,
    is_lost,
    memory_of,
    read_and_write,
    stop_retrying,
)

log = Logger(namespace="echod.net")

MAX_RECORDS = 8
"""
How many records with data one connection may have handled before it is another's turn.  A
record without data ends the turn.
"""


def start_tls(transport: Any, context: SSL.Context, server: bool) -> None:
    """
    Make the connection's TLS state; the transport becomes a L{TLSMixin} after it.
    """
    tls = SSL.Connection(context, None if server else transport.socket)
    memory = memory_of(tls) if server else None
    if server and memory is None:
        tls = SSL.Connection(context, transport.socket)
    transport._proceed = (
        ServerHandshake(memory, transport.socket).proceed if memory else tls.do_handshake
    )
    if server:
        tls.set_accept_state()
    else:
        tls.set_connect_state()
        # The client speaks first.
        transport._readWantsWrite = True
        transport.startWriting()
    transport._tls = tls
    transport._recv, transport._send = read_and_write(tls)
    # Until the handshake is over, what is written waits.
    transport.write = transport._enqueue


class TLSMixin:
    """
    What TLS changes in a transport's reading and writing; with it and
    L{TLSCloseMixin<echod.net.tls.TLSCloseMixin>}, a transport provides C{ISSLTransport} and
    C{INegotiated}.
    """

    _handshaking = True
    _readWantsWrite = False
    _writeWantsRead = False
    _paused = False

    def doRead(self: Any) -> Any:
        """
        Receive a record, and hand it to the protocol.
        """
        if self._handshaking:
            why = self._handshake()
            if self._handshaking or not self._mayReadOn():
                return why
        if self._writeWantsRead:
            self._writeWantsRead = False
            self.startWriting()
        for _ in range(MAX_RECORDS):
            try:
                data = self._recv()
            except SSL.Error as error:
                return self._cannotRead(error)
            self.protocol.dataReceived(data)
            # After a full record there is probably another.
            if len(data) < RECORD_BYTES or not self._mayReadOn():
                return None
        return None

    def _cannotRead(self: Any, error: SSL.Error) -> Any:
        """
        What to tell the reactor: nothing when OpenSSL only has to wait for the
        descriptor, else why this is the end.
        """
        if isinstance(error, SSL.WantReadError):
            return None
        if isinstance(error, SSL.WantWriteError):
            self._readWantsWrite = True
            self.startWriting()
            return None
        if isinstance(error, SSL.ZeroReturnError):
            return CONNECTION_DONE
        forget_errors()
        # A FIN without a close_notify, or a reset, is a system call's error.
        return CONNECTION_LOST if is_lost(error) else error

    def _mayReadOn(self: Any) -> bool:
        return self.connected and not (self.disconnecting or self._aborting or self._paused)

    def pauseProducing(self: Any) -> None:
        """
        Stop reading.
        """
        self._paused = True
        super().pauseProducing()  # type: ignore[misc]

    def resumeProducing(self: Any) -> None:
        """
        Read again.
        """
        self._paused = False
        super().resumeProducing()  # type: ignore[misc]

    def _readAnyway(self: Any) -> None:
        """
        Read as if the descriptor had become readable.
        """
        if self._atEOF or self._aborting or not (self._handshaking or self._mayReadOn()):
            return
        try:
            why = self.doRead()
        except BaseException:
            why = sys.exc_info()[1]
            log.failure("while receiving", event="unhandled-error")
        if why is not None:
            self.reactor._disconnectSelectable(self, why, True)

    def _handshake(self: Any) -> Any:
        try:
            self._proceed()
        except SSL.Error as error:
            return self._cannotRead(error)
        self._handshaking = False
        del self._proceed
        stop_retrying(self._tls)
        if IHandshakeListener.providedBy(self.protocol):
            self.protocol.handshakeCompleted()
        if self._is_flushed():
            self.__dict__.pop("write", None)
        if self.disconnecting:
            self.stopReading()
        if self.disconnecting or self._writeDisconnecting or not self._is_flushed():
            self.startWriting()
        return None

    def doWrite(self: Any) -> Any:
        """
        Do what OpenSSL wanted to write for, then send from the queue.
        """
        if self._readWantsWrite:
            self._readWantsWrite = False
            self._readAnyway()
            if not self.connected:
                return None
        if (
            self._handshaking
            or self._writeWantsRead
            or (self._writeDisconnected and self._closeNotified)
        ):
            if not self._readWantsWrite:
                self.stopWriting()
            return None
        result = super().doWrite()  # type: ignore[misc]
        if self._readWantsWrite and self.connected and not result:
            self.startWriting()
        return result

    def writeSomeData(self: Any, data: bytes) -> Any:
        """
        Encrypt and send up to C{SEND_LIMIT} bytes, a record at a time.
        """
        view = memoryview(data)[: self.SEND_LIMIT]
        sent = 0
        while sent < len(view):
            try:
                sent += self._send(view[sent:])
            except SSL.WantWriteError:
                break
            except SSL.WantReadError:
                self._writeWantsRead = True
                self.stopWriting()
                break
            except SSL.Error:
                return CONNECTION_LOST
        return sent

    def getHandle(self: Any) -> SSL.Connection:
        """
        OpenSSL's connection.
        """
        tls: SSL.Connection = self._tls
        return tls

    def getPeerCertificate(self: Any) -> Any:
        """
        The client's certificate, C{None} if it has shown none.
        """
        return self._tls.get_peer_certificate()

    @property
    def negotiatedProtocol(self: Any) -> bytes | None:
        """
        What ALPN agreed on, C{None} if nothing.
        """
        return self._tls.get_alpn_proto_negotiated() or None


DISCARD_BYTES = 16 * 1024
"""How much is received and dropped in one turn."""


_DONE = Failure(ConnectionDone())


def _closed(_: object) -> NoReturn:
    raise SSL.Error("the connection is closed")


class TLSCloseMixin:
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
