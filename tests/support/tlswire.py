"""
The bytes of TLS in the client's hands: OpenSSL here never touches the socket, so each
flight and each record can be spoiled before it is sent.

Invariant: all chance comes from the generator that is passed in, so a seed
and a number are a case.
"""

import random
import socket
from contextlib import suppress

from OpenSSL import SSL


class WireClient:
    """
    A TLS client that hands out what it would send.

    @ivar socket: connected, and blocking.
    @ivar end: what L{decrypt} stopped at: a close_notify, an alert, or the need for more.
    """

    end: SSL.Error | None = None

    def __init__(self, sock: socket.socket, context: SSL.Context):
        self.socket = sock
        self.tls = SSL.Connection(context, None)
        self.tls.set_connect_state()

    def flight(self) -> bytes:
        """
        Go on with the handshake.

        @return: what is to be sent for it; empty while it is the server's turn.
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
        Do the handshake but for our last flight.

        @return: that flight.
        """
        self.socket.sendall(self.flight())
        while not (flight := self.flight()):
            self.tls.bio_write(self.socket.recv(65536))
        return flight

    def record(self, piece: bytes) -> bytes:
        """
        The record for a piece of data, or as many as it takes; the handshake must be over.
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
        Do the whole of it, with TLS 1.2 up to the server's last flight.
        """
        self.socket.sendall(self.last_flight())
        while self.tls.get_state_string() != b"SSL negotiation finished successfully":
            self.tls.bio_write(self.socket.recv(65536))
            self.flight()
        return self

    def decrypt(self, data: bytes) -> bytes:
        """
        What the server said in these bytes of its stream, up to an alert.
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
    The same bytes, but for one change or a few.
    """
    spoiled = bytearray(data)
    while spoiled == data:
        for _ in range(rng.choice((1, 1, 1, 2, 5))):
            # One more than there are bytes, so that something comes after the last, too.
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
