"""
A server's TLS handshake in bounded steps.

Invariant: until the end of the handshake, OpenSSL reads from memory, and only what it is given in
this turn of the loop.  On the socket itself, one call would go on until the socket is empty: a
ClientHello of 64 KB in records of one byte each takes 80 ms, before anything is known of the
client.  A handshake that is longer than any ordinary client's is refused.
"""

import socket
from contextlib import suppress

from OpenSSL import SSL

from echod.tls._openssl import HandshakeMemory

HEADER_BYTES = 5
"""The header of a TLS record: type, version, and the length of the rest (RFC 8446 5.1)."""

MAX_HELLO_BYTES, MAX_HELLO_RECORDS = 16 * 1024, 16
MAX_HANDSHAKE_BYTES, MAX_HANDSHAKE_RECORDS = 64 * 1024, 64
"""
How much a client may send before our first answer, and in the whole handshake.

A ClientHello with a post-quantum key share has 2 KiB, in one record, or in four if the client
limits its records to 512 bytes (RFC 6066 4).  Later the client may send its certificates: a chain
of four with post-quantum signatures has 30 KiB.
"""


class ServerHandshake:
    """
    One connection's handshake, from its first byte to its last.

    What comes after the ClientHello is first peeked at (C{MSG_PEEK}, recv(2)), and received
    once OpenSSL has read it.  So when OpenSSL goes on with the socket, nothing after the client's
    last message has been received; such bytes make the descriptor readable again.
    """

    __slots__ = (
        *("_answered", "_body_left", "_bytes", "_complete", "_header", "_memory"),
        *("_records", "_socket", "_unsent"),
    )

    def __init__(self, memory: HandshakeMemory, sock: socket.socket):
        """
        @param sock: the connected socket, non-blocking.
        """
        self._memory = memory
        self._socket = sock
        self._bytes = self._records = self._body_left = 0
        self._header = self._unsent = b""
        self._answered = self._complete = False

    @property
    def begun(self) -> bool:
        """
        Whether the client has sent anything, be it only the first byte of a message.
        """
        return self._bytes > 0

    def proceed(self) -> None:
        """
        Go on with what has come.  Call it until it returns, like C{do_handshake} of a
        connection on a socket.

        @raise SSL.WantReadError: when more bytes are needed, or other connections have their turn.
        @raise SSL.WantWriteError: when the socket has to be writable first.
        @raise SSL.ZeroReturnError: when the client has closed its sending side without a byte.
        @raise SSL.Error: when the handshake has failed, or is refused.
        """
        if self._unsent:
            self._send(self._unsent)
        if self._complete:
            return
        memory = self._memory
        # The client's last message never comes before our first answer.
        flags = socket.MSG_PEEK if self._answered else 0
        size = self._receive(0, flags)
        try:
            self._complete = memory.proceed(size)
        except SSL.Error:
            # Send the alert, if the client is still there.  Bytes that have not been received
            # would turn our FIN into a reset.
            with suppress(SSL.Error):
                self._send(memory.take())
                self._receive(size)
            raise
        answer, unread = memory.take(), 0
        if self._complete:
            unread = memory.attach(self._socket)
        else:
            self._count(memory.input[:size])
        if flags:
            self._receive(size - unread)
        if answer:
            self._answered = True
            self._send(answer)
        if not self._complete:
            raise SSL.WantReadError

    def _receive(self, size: int, flags: int = 0) -> int:
        """
        @param size: how many bytes at most; 0 for the size of the input buffer.
        """
        try:
            size = self._socket.recv_into(self._memory.input, size, flags)
        except BlockingIOError:
            raise SSL.WantReadError from None
        except OSError as error:
            raise SSL.SysCallError(error.errno, error.strerror) from None
        if not size:
            if not self.begun:
                raise SSL.ZeroReturnError
            raise SSL.SysCallError(-1, "Unexpected EOF")
        return size

    def _count(self, data: bytes | bytearray) -> None:
        """
        Count the bytes and the records of the handshake.

        @raise SSL.Error: when there are more than an ordinary handshake has.
        """
        self._bytes += len(data)
        if self._header:
            data = self._header + data
        offset, end = self._body_left, len(data)
        while offset + HEADER_BYTES <= end:
            offset += HEADER_BYTES + (data[offset + 3] << 8) + data[offset + 4]
            self._records += 1
        self._header, self._body_left = bytes(data[offset:]), max(0, offset - end)
        if self._answered:
            name, size, records = "handshake", MAX_HANDSHAKE_BYTES, MAX_HANDSHAKE_RECORDS
        else:
            name, size, records = "ClientHello", MAX_HELLO_BYTES, MAX_HELLO_RECORDS
        if self._records > records:
            raise SSL.Error([("", "", f"a {name} in more than {records} records")])
        if self._bytes > size:
            raise SSL.Error([("", "", f"a {name} of more than {size // 1024} KiB")])

    def _send(self, data: bytes) -> None:
        try:
            sent = self._socket.send(data)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            raise SSL.SysCallError(error.errno, error.strerror) from None
        self._unsent = data[sent:]
        if self._unsent:
            raise SSL.WantWriteError
