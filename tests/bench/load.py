"""
The load: clients on one thread and one epoll, in lock step with the server.

Each client sends a message, waits until all of it has come back, and sends again, so an
operation is one message there and back.

C{python -m tests.bench.load PORT CLIENTS} sends as fast as it can instead.

Invariant: it does nothing that is not needed to load a server, as it takes its time from the
same machine; so it does not use the clients of the tests (L{tests.support.clients}), and does not
look at what comes back.
"""

import argparse
import contextlib
import select
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field

Client = socket.socket


@dataclass
class Outcome:
    """
    What one measured interval gave.
    """

    operations: int = 0
    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)


def tls_context() -> ssl.SSLContext:
    """
    A client's context that accepts any certificate: the servers' are made for the run.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def connect(port: int, context: ssl.SSLContext | None) -> Client:
    """
    One connected client; with a context, after its TLS handshake.
    """
    client = socket.create_connection(("127.0.0.1", port), timeout=30)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if context is not None:
        client = context.wrap_socket(client)
    return client


def connect_many(port: int, count: int, context: ssl.SSLContext | None) -> list[Client]:
    """
    Many connected clients.
    """
    return [connect(port, context) for _ in range(count)]


class _Player:
    """
    One client in the middle of its message.
    """

    __slots__ = ("client", "left", "message", "started", "unsent")

    def __init__(self, client: Client, message: bytes):
        self.client = client
        self.message = message
        self.start()

    def start(self) -> None:
        self.started = time.perf_counter()
        self.left = len(self.message)
        self.unsent = memoryview(self.message)
        self.send()

    def send(self) -> None:
        try:
            while self.unsent:
                self.unsent = self.unsent[self.client.send(self.unsent) :]
        except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
            pass

    def receive(self) -> bool:
        """
        @return: whether the whole message is back.
        """
        want = min(self.left, 262144)
        try:
            while self.left:
                data = self.client.recv(want)
                if not data:
                    raise ConnectionError("the server closed the connection")
                self.left -= len(data)
        except (BlockingIOError, ssl.SSLWantReadError):
            pass
        return not self.left


def play(clients: list[Client], size: int, seconds: float) -> Outcome:
    """
    Let every client send messages of C{size} bytes for some seconds.
    """
    message = bytes(range(256)) * (size // 256) + bytes(size % 256)
    outcome = Outcome()
    poller = select.epoll()
    players: dict[int, _Player] = {}
    big = size > 65536
    events = select.EPOLLIN | (select.EPOLLOUT | select.EPOLLET if big else 0)
    for client in clients:
        client.setblocking(False)
        poller.register(client.fileno(), events)
    begun = time.perf_counter()
    for client in clients:
        players[client.fileno()] = _Player(client, message)
    end = begun + seconds
    clock = time.perf_counter
    record = outcome.latencies.append
    while (now := clock()) < end:
        for fd, _ in poller.poll(end - now):
            player = players[fd]
            if player.unsent:
                player.send()
            while player.receive():
                outcome.operations += 1
                now = clock()
                record(now - player.started)
                player.start()
                if not big:
                    break
    outcome.seconds = clock() - begun
    _settle(players.values(), poller)
    return outcome


def _settle(players: "object", poller: select.epoll) -> None:
    """
    Receive all outstanding echoes, so that the connections can be used again.
    """
    waiting = [p for p in players if p.left]  # type: ignore[attr-defined]
    deadline = time.perf_counter() + 20
    while waiting and time.perf_counter() < deadline:
        poller.poll(0.05)
        for player in waiting:
            player.send()
            player.receive()
        waiting = [p for p in waiting if p.left]
    poller.close()


def connect_echo_close(port: int, context: ssl.SSLContext | None, seconds: float) -> Outcome:
    """
    Connect, echo 64 bytes, close; one after another.
    """
    outcome = Outcome()
    begun = time.perf_counter()
    message = bytes(64)
    while (started := time.perf_counter()) < begun + seconds:
        client = connect(port, context)
        client.sendall(message)
        left = len(message)
        while left:
            left -= len(client.recv(left))
        client.close()
        outcome.operations += 1
        outcome.latencies.append(time.perf_counter() - started)
    outcome.seconds = time.perf_counter() - begun
    return outcome


def pace(port: int, seconds: float, rest: float) -> list[float]:
    """
    Send 64 bytes, wait for them, rest, and again.

    @return: how long each took, in seconds.
    """
    latencies = []
    message = bytes(64)
    with connect(port, None) as client:
        end = time.perf_counter() + seconds
        while (started := time.perf_counter()) < end:
            client.sendall(message)
            left = len(message)
            while left:
                data = client.recv(left)
                if not data:
                    raise ConnectionError("the server closed the connection")
                left -= len(data)
            latencies.append(time.perf_counter() - started)
            time.sleep(rest)
    return latencies


def close_all(clients: list[Client]) -> None:
    """
    Close them all.
    """
    for client in clients:
        with contextlib.suppress(OSError):
            client.close()


def stream(port: int, count: int) -> None:
    """
    Clients that send without end and look at nothing that comes back, so that the server is what
    limits the speed.  Print a line once each has received bytes.
    """
    outgoing, incoming = bytes(256 * 1024), bytearray(256 * 1024)
    poller = select.epoll()
    clients = {client.fileno(): client for client in connect_many(port, count, None)}
    silent = set(clients)
    for fd, client in clients.items():
        client.setblocking(False)
        poller.register(fd, select.EPOLLIN | select.EPOLLOUT)
    while True:
        for fd, events in poller.poll():
            with contextlib.suppress(BlockingIOError):
                if events & select.EPOLLIN:
                    if not clients[fd].recv_into(incoming):
                        raise SystemExit("the server has closed a connection")
                    if silent:
                        silent.discard(fd)
                        if not silent:
                            print("streaming", flush=True)
                if events & select.EPOLLOUT:
                    clients[fd].send(outgoing)


Measure = Callable[[], Outcome]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.load",
        description="Send to an echo server as fast as it takes it, until killed.",
    )
    parser.add_argument("port", type=int)
    parser.add_argument("clients", type=int)
    given = parser.parse_args()
    stream(given.port, given.clients)
