"""
Bulk data over TLS, from a connection back to the same connection, several records at once.

Invariant: before and after a relay, OpenSSL reads and writes the socket, and what it has not read
is still in the kernel.  Encrypted bytes that the kernel does not take stand at the head of the
transport's queue; the data behind them is encrypted after they are sent.
"""

from collections.abc import Callable
from functools import partial
from socket import socket
from typing import TYPE_CHECKING, Any

from OpenSSL import SSL
from twisted.internet.main import CONNECTION_LOST

from echod.tls._openssl import RECORD_BYTES, record_relay

if TYPE_CHECKING:
    from echod.net.transport import EagerTransport as _Transport
else:
    _Transport = object

MAX_RECORDS = 8
"""
How many records with data one connection may read before the others have their turn.  A record
without data ends the turn.
"""

MIN_RELAY = 2 * RECORD_BYTES
"""
A turn that reads so many bytes is followed by a relay; a relay of fewer is followed by reads.
"""


class TLSRelayMixin(_Transport):
    """
    How a transport with TLS relays bulk.
    """

    _tls: SSL.Connection
    _encrypted = 0
    _readFailed: Callable[[Any], Any]

    def _relayNext(self) -> None:
        """
        Relay from the next read on, if the protocol does not need to see the bytes: as over plain
        TCP, it has a method C{bytes_relayed} then (L{echod.net.splice}).
        """
        if "doRead" in self.__dict__ or getattr(self.protocol, "bytes_relayed", None) is None:
            return
        relay = record_relay(self._tls, MAX_RECORDS)
        if relay is not None:
            self._hidesMethods = True
            self.doRead = partial(self._relayRecords, relay)  # type: ignore[method-assign]

    def _relayRecords(self, relay: Callable[[socket], tuple[Any, ...]]) -> Any:
        """
        Read, encrypt and send at once.  What the kernel does not take is queued.
        """
        bytes_relayed: Any = getattr(self.protocol, "bytes_relayed", None)
        # Nothing overtakes what is queued, and nothing is sent once our sending side is closed.
        # If OpenSSL has begun to send something, the rest of it is queued, or a read has raised
        # WantWriteError; no relay follows such a read.
        if (
            bytes_relayed is None
            or "write" in self.__dict__
            or self.disconnecting
            or self._writeDisconnecting
        ):
            del self.doRead
            return self.doRead()
        try:
            received, encrypted, unwritten, error = relay(self.socket)
        except OSError:
            return CONNECTION_LOST
        if received < MIN_RELAY:
            del self.doRead
        if encrypted:
            try:
                sent = self.socket.send(encrypted)
            except OSError:
                # If the connection is broken, doWrite meets the same error.
                sent = 0
            if sent < len(encrypted):
                self._encrypted = len(encrypted) - sent
                self._enqueue(bytes(encrypted[sent:]))
        if unwritten:
            self._enqueue(unwritten)
        bytes_relayed(received)
        return None if error is None else self._readFailed(error)

    def _sendEncrypted(self, queue: bytes) -> Any:
        """
        Send the encrypted bytes that stand at the head of the queue.

        @return: what C{writeSomeData} returns.
        """
        try:
            sent = self.socket.send(memoryview(queue)[: self._encrypted])
        except BlockingIOError:
            return 0
        except OSError:
            return CONNECTION_LOST
        self._encrypted -= sent
        return sent
