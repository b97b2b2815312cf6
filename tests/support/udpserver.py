"""
A UDP server for a client that runs on a fake reactor: both take turns in this process.
"""

import socket
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.testing import MemoryReactorClock

from tests.support.arrivals import on_one_cpu, wait_for_arrival

T = TypeVar("T")


def echo(datagram: bytes) -> list[bytes]:
    """
    What an echo answers.
    """
    return [datagram]


class UDPServer:
    """
    A server on the loopback interface.

    @ivar answers: returns the answers to a datagram.
    """

    def __init__(self, answers: Callable[[bytes], list[bytes]] = echo):
        self.answers = answers
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self._socket.setblocking(False)

    @property
    def target(self) -> tuple[str, int]:
        """
        Its address.
        """
        host, port = self._socket.getsockname()
        return host, port

    def close(self) -> None:
        """
        Close its socket: datagrams are refused from now on.
        """
        self._socket.close()

    def serve(self) -> None:
        """
        Answer all that was sent, and wait until the answers have arrived.
        """
        wait_for_arrival()
        self._answer()
        wait_for_arrival()

    def _answer(self) -> None:
        while self._socket.fileno() >= 0:
            try:
                datagram, client = self._socket.recvfrom(65536)
            except BlockingIOError:
                return
            for answer in self.answers(datagram):
                self._socket.sendto(answer, client)


def turn(
    reactor: MemoryReactorClock,
    server: UDPServer,
    work: Coroutine[Any, Any, T],
    step: float = 0.25,
    turns: int = 200,
) -> T:
    """
    Run a coroutine, while the server answers and the clock advances.
    """
    results: list[Any] = []
    with on_one_cpu():
        running = Deferred.fromCoroutine(work)
        running.addBoth(results.append)
        for _ in range(turns):
            if results:
                break
            server.serve()
            for reader in reactor.getReaders():
                reader.doRead()
            reactor.advance(step)
    [result] = results
    return result  # type: ignore[no-any-return]
