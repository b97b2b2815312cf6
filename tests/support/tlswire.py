"""
A TLS client on memory BIOs: OpenSSL never touches the socket, so a test can change each flight
and each record before it is sent.

Invariant: all random choices come from the generator that is passed in, so a case can be
repeated from its seed and number.
"""

import random
import socket
from contextlib import suppress

from OpenSSL import SSL


class WireClient:
    """
    A TLS client that returns the bytes to send.

    @ivar socket: connected, and blocking.
    @ivar end: why L{decrypt} stopped: a close_notify, an alert, or more bytes are needed.
    """

    end: SSL.Error | None = None

    def __init__(self, sock: socket.socket, context: SSL.Context):
        self.socket = sock
        self.tls = SSL.Connection(context, None)
        self.tls.set_connect_state()

    def flight(self) -> bytes:
        """
        Continue the handshake.

        @return: the bytes to send; empty while the server has to send.
        """
        with suppress(SSL.WantReadError):
            self.tls.do_handshake()
        return self._outgoing()

    def _outgoing(self) -> bytes:
        out = b""
        try:
            while True:
                out += self.tls.bio_read(65536)
        except SSL.WantReadError:
            return out

    def last_flight(self) -> bytes:
        """
        Do the handshake up to our last flight.

        @return: that flight.
        """
        self.socket.sendall(self.flight())
        while not (flight := self.flight()):
            self.tls.bio_write(self.socket.recv(65536))
        return flight

    def record(self, piece: bytes) -> bytes:
        """
        Encrypt data into one record, or more if it is too long; after the handshake only.
        """
        self.tls.sendall(piece)
        return self._outgoing()

    def records(self, *pieces: bytes) -> bytes:
        """
        A record for each piece, and a close_notify.
        """
        out = b"".join(map(self.record, pieces))
        self.tls.shutdown()
        return out + self._outgoing()

    def handshake(self) -> "WireClient":
        """
        Complete the handshake; with TLS 1.2, up to the server's last flight.
        """
        self.socket.sendall(self.last_flight())
        while self.tls.get_state_string() != b"SSL negotiation finished successfully":
            self.tls.bio_write(self.socket.recv(65536))
            self.flight()
        return self

    def decrypt(self, data: bytes) -> bytes:
        """
        Decrypt bytes from the server, up to an alert.
        """
        out = b""
        try:
            if data:
                self.tls.bio_write(data)
            while piece := self.tls.recv(65536):
                out += piece
        except SSL.Error as error:
            self.end = error
        return out


def spoil(rng: random.Random, data: bytes) -> bytes:
    """
    Change the bytes in one place or a few.
    """
    spoiled = bytearray(data)
    while spoiled == data:
        for _ in range(rng.choice((1, 1, 1, 2, 5))):
            # One more than there are bytes: a change may also follow the last.
            place = rng.randrange(len(spoiled) + 1)
            size = min(rng.choice((1, 1, 2, 3, 16, 100)), len(spoiled) - place)
            match rng.randrange(6):
                case 0 if size:
                    spoiled[place] ^= 1 << rng.randrange(8)
                case 1:
                    spoiled[place : place + size] = rng.randbytes(size)
                case 2:
                    spoiled[place:place] = rng.randbytes(rng.choice((1, 2, 5, 300)))
                case 3:
                    del spoiled[place : place + size]
                case 4:
                    del spoiled[place:]
                case 5:
                    spoiled[place:place] = spoiled[place : place + size]
    return bytes(spoiled)
