"""
Connected client sockets for asyncio, plain and with TLS.

Invariant: with TLS, an end of file without a close_notify is an error.
"""

import asyncio
import socket
import struct

from OpenSSL import SSL

from tests.support.tlswire import WireClient

MAX_READ = 64 * 1024


class Truncated(ConnectionError):
    """
    The TLS stream has ended without a close_notify.
    """


class AsyncSocket:
    """
    A connected socket.
    """

    def __init__(self, sock: socket.socket):
        self.sock = sock

    async def begin(self) -> None:
        """
        Prepare for the first byte; with TLS, the handshake.
        """

    async def send(self, data: bytes | memoryview) -> None:
        await asyncio.get_running_loop().sock_sendall(self.sock, data)

    async def receive(self, most: int) -> bytes:
        """
        @return: some bytes; empty at the end of file.
        """
        return await asyncio.get_running_loop().sock_recv(self.sock, most)

    async def send_last(self, data: bytes | memoryview) -> None:
        """
        Send, and close the sending side.
        """
        await self.send(data)
        self.sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """
        Close; with TLS, without a close_notify.
        """
        self.sock.close()

    def reset(self) -> None:
        """
        Close with a reset.
        """
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


class AsyncTLSSocket(AsyncSocket):
    """
    The same with TLS; a close_notify closes the sending side.
    """

    def __init__(self, sock: socket.socket, context: SSL.Context):
        super().__init__(sock)
        self._tls = WireClient(sock, context)
        self._come = b""

    async def begin(self) -> None:
        while True:
            if flight := self._tls.flight():
                await super().send(flight)
            if self._tls.tls.get_state_string() == b"SSL negotiation finished successfully":
                return
            if not (data := await super().receive(MAX_READ)):
                raise Truncated("in the handshake")
            self._tls.tls.bio_write(data)

    async def send(self, data: bytes | memoryview) -> None:
        await super().send(self._tls.record(bytes(data)))

    async def send_last(self, data: bytes | memoryview) -> None:
        await super().send(self._tls.records(bytes(data)))

    async def receive(self, most: int) -> bytes:
        while not (data := self._tls.decrypt(self._come)):
            if isinstance(self._tls.end, SSL.ZeroReturnError):
                return b""
            if not isinstance(self._tls.end, SSL.WantReadError):
                raise ConnectionError(f"TLS: {self._tls.end!r}")
            self._come = await super().receive(most)
            if not self._come:
                raise Truncated("no close_notify")
        self._come = b""
        return data
