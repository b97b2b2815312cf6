"""
Stock Twisted loses, echod does not: each way in which an echo loses data on Twisted's own
transports, shown on C{twisted.protocols.wire.Echo} and disproved on echod by the same
client.

If Twisted mends one of these, its test fails here, and echod may do without its cure.
"""

import contextlib
import random
import signal
import socket
from collections.abc import Callable
from pathlib import Path

from OpenSSL import SSL
from twisted.trial.unittest import SynchronousTestCase

from tests.support.clients import VERSIONS, Clients, Connection, StreamClient, context
from tests.support.daemons import (
    LOOPBACK,
    Daemon,
    connect,
    echo,
    receive,
    receive_rest,
    refuses,
    server_side,
    show,
    tls_daemon,
    wait_until,
)
from tests.support.stock import Stock
from tests.support.tlswire import WireClient

KIB = 1024
MIB = 1024 * KIB
SUPPORT = Path(__file__).parents[1] / "support"

TRIES = 20
"""How often stock Twisted may do well before a fact counts as not shown."""

RUNS = 3
"""How often echod has to."""

DATA = random.Random(862).randbytes(8 * MIB)

Outcome = tuple[int, int]
"""How many came back, and how many should have: bytes, or clients."""


class Echod(Daemon):
    """
    echod, plain, with time enough to drain.
    """

    def __init__(self) -> None:
        super().__init__(*LOOPBACK, "--drain-timeout", "10m")

    def polite(self) -> None:
        """
        Tell it to end every connection and close its port.
        """
        self.signal(signal.SIGTERM)


Server = Stock | Daemon
Client = Callable[[Server], Outcome]


class FactTestCase(SynchronousTestCase):
    """
    What all facts have in common.
    """

    def fact(
        self,
        trap: str,
        client: Client,
        stock: Callable[[], Stock],
        echod: Callable[[], Daemon],
        ends: bool = False,
    ) -> None:
        """
        Show it on the one and disprove it on the other.

        @param ends: whether C{client} ends the server, so that each run needs a new one.
        """
        lost: list[Outcome] = []
        tries = 0
        while not lost and tries < TRIES:
            with stock() as server:
                for _ in range(1 if ends else TRIES):
                    tries += 1
                    came, expected = client(server)
                    if came < expected:
                        lost.append((came, expected))
                        break
        if not lost:
            self.fail(f"not shown: in {tries} tries, stock Twisted lost nothing by {trap}")
        runs: list[Outcome] = []
        while len(runs) < RUNS:
            with echod() as daemon:
                runs += [client(daemon) for _ in range(1 if ends else RUNS)]
        whole = sum(got == due for got, due in runs)
        show(
            f"{trap}: stock Twisted gave {lost[0][0]} of {lost[0][1]} (try {tries}), "
            f"echod gave all {whole} of {len(runs)} times"
        )
        self.assertEqual([due - got for got, due in runs], [0] * len(runs))


def came_back(back: bytes, sent: bytes) -> Outcome:
    """
    The outcome for a stream; what comes back of it must at least be true.
    """
    if not sent.startswith(back):
        raise AssertionError("what came back was not what had been sent")
    return len(back), len(sent)


def send_and_close(server: Server, size: int) -> Outcome:
    """
    Send, close the sending side, and read to the end, with a small buffer, so that much is
    still to be sent when the end comes.
    """
    client = StreamClient(connect(server.address(), 64 * KIB), limit=size)
    with Clients([client]) as group:
        group.run(lambda: group.over, "the end")
    if not client.exact:
        raise AssertionError("what came back was not what had been sent")
    return client.received, size


class HalfCloseFacts(FactTestCase):
    """
    A client that closes its sending side, and has not received all of its echo yet.
    """

    def test_one_byte(self) -> None:
        """
        C{printf x | ncat} gets nothing from the documentation's echo.
        """
        self.fact(
            "EOF behind one byte",
            lambda server: send_and_close(server, 1),
            lambda: Stock("echo"),
            Echod,
        )

    def test_eight_megabytes(self) -> None:
        """
        A client that sends 8 MiB and closes its sending side loses much of it there.
        """
        self.fact(
            "EOF behind 8 MiB",
            lambda server: send_and_close(server, len(DATA)),
            lambda: Stock("echo"),
            Echod,
        )

    def test_wrapper(self) -> None:
        """
        An echo that does know half-close gets no word of it in any of Twisted's wrappers.
        """
        with Stock("half-closeable") as server:
            self.assertEqual(send_and_close(server, 1), (1, 1))
        self.fact(
            "EOF in a policies.ProtocolWrapper",
            lambda server: send_and_close(server, 1),
            lambda: Stock("wrapped"),
            Echod,
        )


def tls_client(server: Server, version: str, buffer: int = 0) -> WireClient:
    """
    A TLS client after its handshake.
    """
    option = ("--tls-port",) if isinstance(server, Daemon) else ()
    return WireClient(connect(server.address(*option), buffer), context(version)).handshake()


class TLSFacts(FactTestCase):
    """
    The same over TLS.
    """

    size = 30_000

    def all_at_once(self, version: str) -> Client:
        data = DATA[: self.size]

        def client(server: Server) -> Outcome:
            client = tls_client(server, version)
            with client.socket:
                client.socket.sendall(client.records(data))
                return came_back(client.decrypt(receive_rest(client.socket)), data)

        return client

    def test_close_notify_at_once(self) -> None:
        """
        Data that arrives together with the client's close_notify is lost behind Twisted's
        memory BIO.
        """
        for version in VERSIONS:
            self.fact(
                f"{version}, data and close_notify at once",
                self.all_at_once(version),
                lambda: Stock("echo", tls=True),
                tls_daemon,
            )

    def test_half_close_without_close_notify(self) -> None:
        """
        C{loseWriteConnection} on Twisted's TLS transport sends a FIN without a
        close_notify, which looks like an attack; echod's polite end has one.
        """

        def client(server: Server) -> Outcome:
            client = tls_client(server, "TLS 1.3")
            with client.socket:
                client.socket.sendall(client.record(b"hello"))
                came = client.decrypt(receive(client.socket, 1))
                while came != b"hello":
                    came += client.decrypt(client.socket.recv(4096))
                if isinstance(server, Stock):
                    server.polite()
                else:
                    server.signal(signal.SIGTERM)
                client.decrypt(receive_rest(client.socket))
            return int(isinstance(client.end, SSL.ZeroReturnError)), 1

        self.fact(
            "close_notify before the FIN",
            client,
            lambda: Stock("loseWriteConnection", tls=True),
            tls_daemon,
            ends=True,
        )


ESTABLISHED = 1


def talk_past_the_end(
    server: Server, client: socket.socket, more: Callable[[], bytes], number: signal.Signals
) -> bytes:
    """
    Have the server close politely while it still has data that the client has not read;
    then send more, and only then read.

    @return: what came.
    """
    # The server has taken all of it; some of the echo is on the way, and stays there.
    wait_until(lambda: server_side(client)[2] == 0, "the server to have read everything")
    server.signal(number)
    wait_until(lambda: server_side(client)[0] != ESTABLISHED, "the polite end")
    with contextlib.suppress(ConnectionError):
        for _ in range(3):
            client.sendall(more())
    return receive_rest(client)


class PoliteEndFacts(FactTestCase):
    """
    The server wants to end a connection, and the client goes on sending.
    """

    data = DATA[: 128 * KIB]
    buffer = 16 * KIB

    def test_peer_still_sends(self) -> None:
        """
        After C{loseConnection}, what the client still sends is answered with a reset, which
        destroys the echo under way; echod reads on, and the client gets the rest of its echo.
        """

        def client(server: Server) -> Outcome:
            number = signal.SIGUSR1 if isinstance(server, Stock) else signal.SIGTERM
            with connect(server.address(), self.buffer) as client:
                client.sendall(self.data)
                back = talk_past_the_end(server, client, lambda: b"more", number)
            return came_back(back, self.data)

        self.fact(
            "loseConnection() while the peer sends",
            client,
            lambda: Stock("loseConnection"),
            Echod,
            ends=True,
        )

    def test_peer_still_sends_tls(self) -> None:
        """
        Over TLS, too, a client that is still sending when echod ends gets the rest of its echo.
        """
        for version in VERSIONS:
            with tls_daemon("--drain-timeout", "10m") as daemon:
                client = tls_client(daemon, version, self.buffer)
                with client.socket as sock:
                    sock.sendall(client.record(self.data))
                    back = talk_past_the_end(
                        daemon, sock, lambda c=client: c.record(b"more"), signal.SIGTERM
                    )
                got, expected = came_back(client.decrypt(back), self.data)
                show(f"{version}, peer still sends at the polite end: {got} of {expected}")
                self.assertEqual(got, expected)
                self.assertIsInstance(client.end, SSL.ZeroReturnError)


class StopFacts(FactTestCase):
    """
    The server stops.
    """

    waiting = 10

    def test_data_owed(self) -> None:
        """
        C{reactor.stop()} discards pending echoes; echod's stop waits for clients that read.
        """

        def client(server: Server) -> Outcome:
            with connect(server.address(), 64 * KIB) as client:
                sent = Connection(client).fill(DATA, 64 * KIB)
                address = server.address()
                server.signal(signal.SIGTERM)
                wait_until(lambda: refuses(address), "the port to be closed")
                client.settimeout(60)
                return came_back(receive_rest(client), DATA[:sent])

        self.fact("reactor.stop() with data", client, lambda: Stock("echo"), Echod, ends=True)

    def test_accept_queue(self) -> None:
        """
        C{stopListening()} resets the clients in the accept queue; echod serves them first.
        """

        def client(server: Server) -> Outcome:
            with connect(server.address()) as first:
                self.assertEqual(echo(first, b"first"), b"first")
            server.signal(signal.SIGSTOP)
            wait_until(lambda: server.state("State").startswith("T"), "the server to halt")
            clients = [connect(server.address()) for _ in range(self.waiting)]
            for sock in clients:
                sock.sendall(b"waits")
            server.signal(signal.SIGUSR1 if isinstance(server, Stock) else signal.SIGTERM)
            server.signal(signal.SIGCONT)
            served = 0
            for sock in clients:
                with sock, contextlib.suppress(ConnectionError):
                    served += receive(sock, 5) == b"waits"
            return served, self.waiting

        self.fact(
            "stopListening() with clients in the accept queue",
            client,
            lambda: Stock("stopListening"),
            Echod,
            ends=True,
        )
