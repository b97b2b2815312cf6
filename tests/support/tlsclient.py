"""
A TLS client that can do what Python's C{ssl} cannot: close its sending side with a
close_notify and still read, send records of a chosen length, update its keys, or end at any
point.

Invariant: OpenSSL works on the client's socket directly, so the test sees what the wire carried.
"""

import contextlib
import select
import socket
import time

from OpenSSL import SSL
from service_identity.pyopenssl import verify_hostname

VERSIONS = {"TLS 1.2": SSL.TLS1_2_VERSION, "TLS 1.3": SSL.TLS1_3_VERSION}


def context(version: str) -> SSL.Context:
    """
    A client's context for one version, which accepts any certificate.
    """
    made = SSL.Context(SSL.TLS_CLIENT_METHOD)
    made.set_min_proto_version(VERSIONS[version])
    made.set_max_proto_version(VERSIONS[version])
    return made


class TLSClient:
    """
    A client on a connected socket, in the middle of its handshake or after it.

    @ivar closed: whether the server's close_notify has come.
    """

    def __init__(self, sock: socket.socket, context: SSL.Context, seconds: float = 60.0):
        """
        @param seconds: the deadline of the handshake, and of each exchange.
        """
        sock.setblocking(False)
        self.socket = sock
        self.tls = SSL.Connection(context, sock)
        self.tls.set_connect_state()
        self.closed = False
        self._seconds = seconds
        self._deadline = time.monotonic() + seconds

    def wait(self, error: SSL.Error) -> None:
        """
        Wait for what OpenSSL wants.
        """
        writable = isinstance(error, SSL.WantWriteError)
        poller = select.poll()
        poller.register(self.socket, select.POLLOUT if writable else select.POLLIN)
        if not poller.poll(max(0, self._deadline - time.monotonic()) * 1000):
            raise TimeoutError("the server neither sends nor receives")

    def handshake(self) -> "TLSClient":
        """
        Complete the handshake.
        """
        while True:
            try:
                self.tls.do_handshake()
            except (SSL.WantReadError, SSL.WantWriteError) as error:
                self.wait(error)
            else:
                return self

    def verify(self, name: str) -> None:
        """
        Check that the server's certificate is for this name (RFC 9525).  The handshake has
        verified its chain.

        @raise service_identity.VerificationError: it is not.
        """
        verify_hostname(self.tls, name)

    def receive(self, most: int = 65536) -> bytes | None:
        """
        What has arrived; C{None} if nothing has, empty at the server's close_notify.
        """
        try:
            return self.tls.recv(most)
        except SSL.WantReadError:
            return None
        except SSL.ZeroReturnError:
            self.closed = True
            return b""

    def exchange(
        self,
        data: bytes,
        record: int = 16384,
        slow: bool = False,
        close: bool = True,
    ) -> bytes:
        """
        Send C{data} and a close_notify, and meanwhile receive until the server's close_notify.

        @param record: most bytes of one record.
        @param slow: whether to read a little at a time.
        @param close: whether to send a close_notify; else receive as much as was sent.
        """
        self._deadline = time.monotonic() + self._seconds
        view = memoryview(data)
        sent = 0
        said = not close
        back = bytearray()
        while not self.closed and (close or len(back) < len(data)):
            if sent < len(view):
                with contextlib.suppress(SSL.WantReadError, SSL.WantWriteError):
                    sent += self.tls.send(view[sent : sent + record])
            elif not said:
                with contextlib.suppress(SSL.WantReadError, SSL.WantWriteError):
                    self.tls.shutdown()
                    said = True
            piece = self.receive(2000 if slow else 65536)
            if piece:
                back += piece
            elif piece is None:
                self._idle(sent < len(view) or not said)
        return bytes(back)

    def rest(self) -> bytes:
        """
        Receive until the server's close_notify, without an answer to it.
        """
        back = bytearray()
        while not self.closed:
            piece = self.receive()
            if piece is None:
                self._idle(False)
            else:
                back += piece
        return bytes(back)

    def _idle(self, sending: bool) -> None:
        poller = select.poll()
        poller.register(self.socket, select.POLLIN | (select.POLLOUT if sending else 0))
        if not poller.poll(max(0, self._deadline - time.monotonic()) * 1000):
            raise TimeoutError("the server neither sends nor receives")

    def close(self) -> None:
        """
        Close the socket without a close_notify.
        """
        self.socket.close()
