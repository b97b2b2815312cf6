"""
A server's TLS handshake in bounded steps.

Invariant: until the handshake is over, OpenSSL reads from memory, and finds
there what it is given in this turn.  On the socket itself, one call goes on until the socket
is empty: a ClientHello of 64 KB in records of one byte each took 80 ms, before anything is
known of the client.  What no ordinary client sends is refused.
"""

import socket
from contextlib import suppress

from OpenSSL import SSL

from echod.tls._openssl import HandshakeMemory

HEADER_BYTES = 5

MAX_HELLO_BYTES, MAX_HELLO_RECORDS = 16 * 1024, 16
MAX_HANDSHAKE_BYTES, MAX_HANDSHAKE_RECORDS = 64 * 1024, 64
"""
How much may come up to our first answer, and in the whole handshake.  A ClientHello with a
post-quantum key share has 2 KiB, and comes in one record, or in four from a client that
makes none of more than 512 bytes (RFC 6066 4).  What comes later may be the client's
certificates: a chain of four with post-quantum signatures has 30 KiB.
"""


class ServerHandshake:
    """
    One connection's handshake, from its first byte to its last.

    What comes behind the hello is looked at first (C{MSG_PEEK}, recv(2)), and received when
    OpenSSL has taken it: so nothing behind the client's last message has been received when
    OpenSSL goes on with the socket.  What is left makes the descriptor readable again.
    """

    __slots__ = (
        *("_ahead", "_answered", "_bytes", "_complete", "_head", "_memory"),
        *("_records", "_socket", "_unsent"),
    )

    def __init__(self, memory: HandshakeMemory, sock: socket.socket):
        """
        @param sock: the connected socket, non-blocking.
        """
        self._memory = memory
        self._socket = sock
        self._bytes = self._records = self._ahead = 0
        self._head = self._unsent = b""
        self._answered = self._complete = False

    def proceed(self) -> None:
        """
        Go on with what has come; to be called until it returns, as is C{do_handshake} of a
        connection on a socket.

        @raise SSL.WantReadError: when more has to come, or it is another's turn.
        @raise SSL.WantWriteError: when the client has to take something first.
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
            # What is left to be said is an alert, to one who may be gone; and what has not
            # been received would turn it into a reset.
            with suppress(SSL.Error):
                self._send(memory.take())
                self._receive(size)
            raise
        answer, left = memory.take(), 0
        if self._complete:
            left = memory.attach(self._socket)
        else:
            self._count(memory.input[:size])
        if flags:
            self._receive(size - left)
        if answer:
            self._answered = True
            self._send(answer)
        if not self._complete:
            raise SSL.WantReadError

    def _receive(self, size: int, flags: int = 0) -> int:
        """
        @param size: how much at most; 0 for as much as there is a place for.
        """
        try:
            size = self._socket.recv_into(self._memory.input, size, flags)
        except BlockingIOError:
            raise SSL.WantReadError from None
        except OSError as error:
            raise SSL.SysCallError(error.errno, error.strerror) from None
        if not size:
            raise SSL.SysCallError(-1, "Unexpected EOF")
        return size

    def _count(self, data: bytes | bytearray) -> None:
        """
        @raise SSL.Error: when there is more than an ordinary handshake has.
        """
        self._bytes += len(data)
        if self._head:
            data = self._head + data
        place, end = self._ahead, len(data)
        while place + HEADER_BYTES <= end:
            place += HEADER_BYTES + (data[place + 3] << 8) + data[place + 4]
            self._records += 1
        self._head, self._ahead = bytes(data[place:]), max(0, place - end)
        if self._answered:
            what, size, records = "handshake", MAX_HANDSHAKE_BYTES, MAX_HANDSHAKE_RECORDS
        else:
            what, size, records = "ClientHello", MAX_HELLO_BYTES, MAX_HELLO_RECORDS
        if self._records > records:
            raise SSL.Error([("", "", f"a {what} in more than {records} records")])
        if self._bytes > size:
            raise SSL.Error([("", "", f"a {what} of more than {size // 1024} KiB")])

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
