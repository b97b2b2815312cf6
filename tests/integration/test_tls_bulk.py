"""
Bulk data over TLS, of which the daemon reads and sends several records at once: every byte comes
back, whatever the client or the kernel does.
"""

import random
import signal
import socket
from collections.abc import Callable

from OpenSSL import SSL
from twisted.trial.unittest import SynchronousTestCase

from tests.support.certificates import make_certificate
from tests.support.clients import (
    VERSIONS,
    Clients,
    End,
    StreamClient,
    TLSClient,
    context,
    reset,
)
from tests.support.daemons import LOOPBACK, PATIENT_STOP, Daemon, show, wait_until
from tests.support.tracing import Trace, traced

KIB = 1024
MIB = 1024 * KIB

LISTENERS = {"--tls-port": "0", "--tls-listen": "unix:{}/tls"}


class BulkClient(StreamClient):
    """
    A client that sends as much as the kernel takes, and reads pieces of many sizes, or does
    nothing for a turn.
    """

    def __init__(self, connection: TLSClient, seed: int, limit: int | None, reads: bool = True):
        super().__init__(connection, 1000 * seed, limit, reads)
        self._rng = random.Random(seed)
        self.piece = self._rng.choice((16 * KIB, 64 * KIB))

    def on(self, events: int) -> None:
        if self._rng.random() < 0.1:
            return
        self.read_piece = self._rng.choice((1, 1000, 16 * KIB, 64 * KIB))
        for _ in range(self._rng.randrange(1, 20)):
            before = self.sent + self.received
            super().on(events)
            if self.end or self.sent + self.received == before:
                return


class TLSBulkTestCase(SynchronousTestCase):
    """
    Daemons with TLS on TCP and on a UNIX socket.
    """

    def daemon(self, *options: str) -> Daemon:
        """
        One that is not started yet.
        """
        listeners = [part for each in LISTENERS.items() for part in each]
        made = make_certificate()
        daemon = Daemon(*LOOPBACK[2:], *listeners, "--tls-cert", "{}/pem", *options)
        (daemon.directory / "pem").write_bytes(made.cert_pem + made.key_pem)
        return daemon

    def join(
        self, daemon: Daemon, version: str, listener: str = "--tls-port", buffer: int = 0
    ) -> TLSClient:
        """
        Connect, and do the handshake.

        @param buffer: the client's C{SO_RCVBUF}.
        """
        return TLSClient(daemon.connect(listener, buffer), context(version)).handshake()

    def exact(self, daemon: Daemon, count: int, size: int) -> None:
        """
        Let clients of each kind work at once; everything comes back to each, and is counted.
        """
        clients = []
        for version in VERSIONS:
            for listener in LISTENERS:
                for _ in range(count):
                    limit = random.Random(len(clients)).randrange(size, 3 * size)
                    connection = self.join(daemon, version, listener)
                    clients.append(BulkClient(connection, len(clients), limit))
        with Clients(clients) as group:
            group.run(lambda: group.over, "the ends")
            self.assertEqual([client.whole for client in clients], [True] * len(clients))
        daemon.ended("client", len(clients))
        echoed = sorted(record[2] for record in daemon.records())
        self.assertEqual(echoed, sorted(client.sent for client in clients))


class ExactnessTests(TLSBulkTestCase):
    """
    Bulk from clients that stall.
    """

    def test_exact(self) -> None:
        """
        On TCP and on UNIX sockets, with each version of TLS.
        """
        with self.daemon() as daemon:
            self.exact(daemon, 3, 2 * MIB)
            daemon.stop()

    def test_workers(self) -> None:
        """
        With several processes.
        """
        with self.daemon("--workers", "2") as daemon:
            self.exact(daemon, 2, MIB)
            daemon.stop()


class EndTests(TLSBulkTestCase):
    """
    Connections that end while bulk is under way.
    """

    def under_way(self, daemon: Daemon, number: int, limit: int | None) -> Clients[BulkClient]:
        """
        Clients that have got a part of their echo.
        """
        clients = [
            BulkClient(self.join(daemon, sorted(VERSIONS)[seed % 2]), seed, limit)
            for seed in range(number)
        ]
        group = self.enterContext(Clients(clients))
        group.run(lambda: all(one.received > MIB for one in clients), "bulk to be under way")
        return group

    def leave(self, close: Callable[[socket.socket], object]) -> int:
        """
        Let clients go that have not read all of their echo; another one is served all the while.

        @return: how many were recorded as gone by a reset.
        """
        number = 20
        with self.daemon() as daemon, self.enterContext(self.under_way(daemon, 1, None)) as other:
            before = daemon.descriptors()
            for client in self.under_way(daemon, number, None).clients:
                client.reads = client.sending = False
                close(client.socket)
                client.lost(End.RESET)
            wait_until(lambda: len(daemon.records()) == number, "the records")
            bystander = other.clients[0]
            goal = bystander.received + MIB
            other.run(lambda: bystander.received > goal, "the other client's echo")
            self.assertTrue(bystander.exact)
            self.assertEqual(daemon.descriptors(), before)
            return sum(record[4] == "reset" for record in daemon.records())

    def test_reset(self) -> None:
        """
        Clients that reset the connection are recorded so, and leave nothing behind.
        """
        self.assertEqual(self.leave(reset), 20)

    def test_close_unread(self) -> None:
        """
        Clients that close without a close_notify leave nothing behind.
        """
        self.leave(socket.socket.close)

    def test_stop(self) -> None:
        """
        A stop lets bulk that is under way come to its end.
        """
        daemon = self.daemon("--drain-timeout", "10m")
        daemon.times = PATIENT_STOP
        with daemon:
            group = self.under_way(daemon, 4, 8 * MIB)
            daemon.signal(signal.SIGTERM)
            group.run(lambda: group.over, "the ends")
            self.assertEqual([client.whole for client in group.clients], [True] * 4)
            daemon.wait("the stop")
            self.assertIn("drained: 4 connections finished, 0 aborted", daemon.log)

    def test_unread(self) -> None:
        """
        A client that reads nothing of its bulk is held back, costs no more memory than its queue,
        and gets all of it when it reads.
        """
        number = 40
        with self.daemon("--write-timeout", "0") as daemon:
            clients = []
            for seed in range(number):
                connection = self.join(daemon, sorted(VERSIONS)[seed % 2], buffer=64 * KIB)
                clients.append(BulkClient(connection, seed, None))
            with Clients(clients) as group:
                group.run(lambda: all(one.received > MIB for one in clients), "bulk")
                before = daemon.rss()
                for client in clients:
                    client.reads = False
                group.run(lambda: all(client.stuck for client in clients), "them to be held back")
                grown = (daemon.rss() - before) / number
                most = max(client.sent - client.received for client in clients)
                show(f"{number} clients that read nothing: {grown / KIB:.0f} KiB each")
                self.assertLess(grown, 256 * KIB)
                self.assertLess(most, 16 * MIB)
                for client in clients:
                    client.reads = True
                    # It has sent a part of a record perhaps.
                    client.limit = client.sent + client.piece
                group.run(lambda: group.over, "the ends")
                self.assertEqual([client.whole for client in clients], [True] * number)
            daemon.ended("client", number)

    def test_truncated(self) -> None:
        """
        A FIN without a close_notify ends the connection, and is no ordinary end.
        """
        with self.daemon() as daemon:
            group = self.under_way(daemon, 4, None)
            for client in group.clients:
                client.socket.shutdown(socket.SHUT_WR)
                client.sending = False
            group.run(lambda: group.over, "the ends")
            self.assertEqual([client.exact for client in group.clients], [True] * 4)
            daemon.ended("reset", 4)

    def test_bad_record(self) -> None:
        """
        Bytes that are no record, right behind bulk, end the connection as an error.
        """
        data = random.Random(5).randbytes(100 * KIB)
        with self.daemon() as daemon:
            for version in VERSIONS:
                client = self.join(daemon, version)
                for _ in range(5):
                    self.assertEqual(client.exchange(data, close=False), data)
                self.assertEqual(client.fill(data), len(data))
                client.socket.setblocking(True)
                client.socket.sendall(bytes(32))
                back = b""
                with self.assertRaisesRegex(SSL.Error, "alert"):
                    while True:
                        back += client.tls.recv(64 * KIB)
                self.assertEqual(back, data)
                client.close()
            daemon.ended("error", len(VERSIONS))


class SystemCallTests(TLSBulkTestCase):
    """
    What the daemon asks of the kernel, and what it does if the kernel takes nothing.
    """

    def peeked(self, trace: Trace) -> int:
        """
        How many bytes were received behind a look at them.
        """
        return trace.moved("recvfrom", "MSG_TRUNC")

    def test_bulk(self) -> None:
        """
        Of bulk, several records are read at once.
        """
        size = 8 * MIB
        with self.daemon() as daemon:
            clients = [BulkClient(self.join(daemon, each), 1, size) for each in VERSIONS]
            with traced(daemon) as trace, Clients(clients) as group:
                group.run(lambda: group.over, "the ends")
                self.assertTrue(all(client.whole for client in clients))
            moved = self.peeked(trace)
            show(f"{2 * size} bytes: {moved} of records received several at a time")
            self.assertGreater(moved, size // 2)
            daemon.stop()

    def test_small(self) -> None:
        """
        Small messages are not looked at first.
        """
        with self.daemon() as daemon:
            client = self.join(daemon, "TLS 1.3")
            self.assertEqual(client.exchange(b"one", close=False), b"one")
            with traced(daemon) as trace:
                for size in (1, 1000, 16 * KIB - 1) * 10:
                    data = bytes(size)
                    self.assertEqual(client.exchange(data, close=False), data)
                client.close()
                daemon.ended("reset", 1)
            self.assertNotIn("MSG_PEEK", "".join(trace.lines))

    def test_takes_nothing(self) -> None:
        """
        If the kernel takes none, or few, of the records that are sent at once, they are sent
        later, before anything else.
        """
        for when in ("1+2", "1..3", "2+3"):
            with self.daemon() as daemon:
                with traced(daemon, f"sendto:error=EAGAIN:when={when}") as trace:
                    self.exact(daemon, 1, 2 * MIB)
                self.assertTrue(any("INJECTED" in line for line in trace.lines))
                daemon.stop()

    def test_nothing_came(self) -> None:
        """
        If nothing has come, OpenSSL reads the same bytes from its socket.
        """
        with self.daemon() as daemon:
            clients = [BulkClient(self.join(daemon, each), 1, 4 * MIB) for each in VERSIONS]
            with traced(daemon, "recvfrom:error=EAGAIN") as trace, Clients(clients) as group:
                group.run(lambda: group.over, "the ends")
                self.assertTrue(all(client.whole for client in clients))
            self.assertEqual(self.peeked(trace), 0)
            self.assertTrue(any("INJECTED" in line for line in trace.lines))
            daemon.stop()
