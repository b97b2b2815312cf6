"""
TLS on the socket itself: reading, writing, and how a connection with TLS ends.

Invariant: between two turns, OpenSSL reads and writes the socket, so no byte waits in a buffer
that the reactor does not know of.  Our close_notify is sent after the last byte of the echo and
before the FIN (RFC 8446 6.1).
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
from echod.net.tlsrelay import MAX_RECORDS, TLSRelayMixin
from echod.tls._openssl import (
    RECORD_BYTES,
    forget_errors,
    is_lost,
    memory_of,
    read_and_write,
    stop_retrying,
)

log = Logger(namespace="echod.net")

DISCARD_BYTES = 16 * 1024
"""How many bytes are received and dropped in one turn after the end of the input."""

_DONE = Failure(ConnectionDone())


def start_tls(transport: "TLSMixin", context: SSL.Context, server: bool) -> None:
    """
    Make the TLS state of a connection; its transport becomes a L{TLSMixin} after this.
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
    # Until the end of the handshake, all that is written is queued.
    transport._hidesMethods = True
    transport.write = transport._enqueue  # type: ignore[method-assign]


def _closed(_: object) -> NoReturn:
    raise SSL.Error("the connection is closed")


class TLSMixin(TLSRelayMixin):
    """
    What TLS changes in a transport; with it, the transport provides C{ISSLTransport} and
    C{INegotiated}.
    """

    _tls: SSL.Connection
    _proceed: Any
    _handshaking = True
    _readWantsWrite = False
    _writeWantsRead = False
    _paused = False
    _closeNotified = False
    _discarding = False
    # Of a client that closes after its close_notify, a reset answers ours.
    _undelivered = CONNECTION_DONE

    @property
    def handshakeBegun(self) -> bool:
        """
        Whether the client has sent a part of a handshake that is not complete.
        """
        handshake = getattr(self._proceed, "__self__", None) if self._handshaking else None
        return isinstance(handshake, ServerHandshake) and handshake.begun

    def doRead(self) -> Any:
        """
        Receive records, and hand their data to the protocol.
        """
        if self._handshaking:
            why = self._handshake()
            if self._handshaking or not self._mayRead():
                return why
        if self._writeWantsRead:
            self._writeWantsRead = False
            self.startWriting()
        for full in range(MAX_RECORDS):  # noqa: B007  # it is used after the loop
            try:
                data = self._recv()
            except SSL.WantReadError:
                break
            except SSL.Error as error:
                return self._readFailed(error)
            self.protocol.dataReceived(data)
            # After a full record there is probably another.
            if len(data) < RECORD_BYTES or not self._mayRead():
                break
        if full > 1 and self._mayRead():
            self._relayNext()
        return None

    def _readFailed(self, error: SSL.Error) -> Any:
        """
        @return: what C{doRead} returns: C{None} if OpenSSL only waits for the descriptor, else
            why the connection ends.
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
        # OpenSSL reports a FIN without a close_notify, or a reset, as a system call's error.
        return CONNECTION_LOST if is_lost(error) else error

    def _mayRead(self) -> bool:
        return self.connected and not (self.disconnecting or self._aborting or self._paused)  # type: ignore[return-value]  # 0 or 1

    def pauseProducing(self) -> None:
        """
        Stop reading.
        """
        self._paused = True
        super().pauseProducing()

    def resumeProducing(self) -> None:
        """
        Read again.
        """
        self._paused = False
        super().resumeProducing()

    def readConnectionLost(self, reason: Failure) -> None:
        """
        The peer has sent its close_notify.  If that, or its FIN, comes before the end of the
        handshake, as from a health check that only connects, nothing can be sent any more: the
        connection ends at once, and not by a reset.
        """
        if self._handshaking:
            self.connectionLost(reason)
            return
        self.stopReading()
        super().readConnectionLost(reason)

    def _readNow(self) -> None:
        """
        Read as if the descriptor had become readable.
        """
        if self._atEOF or self._aborting or not (self._handshaking or self._mayRead()):
            return
        try:
            why = self.doRead()
        except BaseException:
            why = sys.exc_info()[1]
            log.failure("while receiving", event="unhandled-error")
        if why is not None:
            self.reactor._disconnectSelectable(self, why, True)

    def _handshake(self) -> Any:
        try:
            self._proceed()
        except SSL.Error as error:
            return self._readFailed(error)
        self._handshaking = False
        del self._proceed
        stop_retrying(self._tls)
        if IHandshakeListener.providedBy(self.protocol):
            self.protocol.handshakeCompleted()
        if self._isFlushed():
            self.__dict__.pop("write", None)
        if self.disconnecting:
            self.stopReading()
        if self.disconnecting or self._writeDisconnecting or not self._isFlushed():
            self.startWriting()
        return None

    def doWrite(self) -> Any:
        """
        Read, if OpenSSL waited to write before it could; then send from the queue.
        """
        if self._readWantsWrite:
            self._readWantsWrite = False
            self._readNow()
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
        result = super().doWrite()
        if self._readWantsWrite and self.connected and not result:
            self.startWriting()
        return result

    def writeSomeData(self, data: bytes) -> Any:
        """
        Encrypt and send up to C{SEND_LIMIT} bytes, one record after the other.
        """
        if self._encrypted:
            return self._sendEncrypted(data)
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

    def getHandle(self) -> SSL.Connection:  # type: ignore[override]  # Twisted's is the socket
        """
        OpenSSL's connection.
        """
        return self._tls

    def getPeerCertificate(self) -> Any:
        """
        The peer's certificate; C{None} if it has sent none.
        """
        return self._tls.get_peer_certificate()

    @property
    def negotiatedProtocol(self) -> bytes | None:
        """
        The protocol that ALPN chose; C{None} if it chose none.
        """
        return self._tls.get_alpn_proto_negotiated() or None

    def loseConnection(self) -> None:
        """
        Send what is queued and a close_notify, then close.  During the handshake there is
        nothing to send: the connection is aborted.
        """
        if self._handshaking and self._isFlushed():
            self.abortConnection()
        elif self._handshaking:
            self.disconnecting = 1
        elif self._writeDisconnected and not self._closeNotified:
            # Our close_notify is not sent yet: the kernel's send buffer is full.
            self.disconnecting = 1
            self.stopReading()
            self.startWriting()
        elif self._writeDisconnected and self._atEOF and self.connected:
            self.disconnecting = 1
            self._discard()
        else:
            super().loseConnection()

    def _closeWriteConnection(self) -> Any:
        if self._notifyClose():
            return super()._closeWriteConnection()
        return None

    def _postLoseConnection(self) -> Any:
        if not self._notifyClose():
            return None
        if self._handshaking or not self._atEOF:
            return CONNECTION_DONE
        self._discard()
        return None

    def _notifyClose(self) -> bool:
        """
        Send our close_notify.

        @return: whether it has been sent, or cannot be sent at all; else try again.
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

    def _discard(self) -> None:
        """
        Close our side, then receive and drop what the client sends after its close_notify, until
        the client closes.  If we closed at once, the kernel would answer those bytes with a
        reset, and a reset destroys what the client has not read yet (RFC 8446 6.1).  The protocol
        limits how long this lasts, by C{abortConnection}.
        """
        if self._discarding:
            return
        self._discarding = True
        # The client may have closed already.
        self._drop()
        if self._delivering or not self.connected:
            return
        if not self._writeDisconnected:
            self._writeDisconnected = True
            with suppress(OSError):
                # If the connection is gone, receiving shows it.
                self.socket.shutdown(socket.SHUT_WR)
        self._hidesMethods = True
        self.doRead = self._drop  # type: ignore[method-assign]
        # startReading does nothing after the end of the input.
        self.reactor.addReader(self)

    def _drop(self) -> None:
        try:
            if self.socket.recv(DISCARD_BYTES):
                return
        except BlockingIOError:
            return
        except OSError:
            # Everything has been sent to the client, so this is an ordinary end.
            self.connectionLost(_DONE)
            return
        if self._isDelivered() or self._awaitDelivery() is not None:
            self.connectionLost(_DONE)

    def connectionLost(self, reason: Failure) -> None:
        """
        The connection is gone.  OpenSSL knows the descriptor by its number, which may soon be
        that of another connection, so nothing is read or written from here on.
        """
        if self.connected and self._isFlushed() and reason.check(ConnectionDone):
            self._notifyClose()
        self.__dict__.update(_send=_closed, _recv=_closed)
        super().connectionLost(reason)
