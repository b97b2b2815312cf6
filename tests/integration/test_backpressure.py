"""
Clients that behave badly cost the daemon, and the other clients, little.
"""

import contextlib
import fcntl
import socket
import sys
import termios
import time
from collections import Counter
from typing import Any
from unittest import SkipTest

from twisted.internet.error import ConnectionDone
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from echod.connections.admission import Admission
from echod.connections.timeouts import Timeouts
from echod.connections.tracker import Connections
from echod.net.reactor import MAX_EVENTS, EagerReactor
from echod.net.splice import MAX_SPLICE
from echod.net.transport import MAX_READ
from echod.protocol import EchoFactory
from tests.support.clients import Clients, End, StreamClient, reset
from tests.support.daemons import (
    LOOPBACK,
    REACTOR,
    FreshDaemon,
    Worker,
    connect,
    echo,
    many_descriptors,
    percentile,
    ping_pong,
    show,
    wait_until,
)

KIB = 1024
MIB = 1024 * KIB


def unread(client: socket.socket) -> int:
    """
    How much the kernel has received for a client that has not read it (tcp(7)).
    """
    answer = fcntl.ioctl(client, termios.FIONREAD, bytes(4))
    return int.from_bytes(answer, sys.byteorder)


class NeverReadTests(SynchronousTestCase):
    """
    Clients that send as much as they can and read nothing.
    """

    clients = 200
    write_timeout = 2.0

    def test_they_cost_little_and_end(self) -> None:
        """
        200 such clients cost at most 50 MiB, keep no other client from its echo, and are
        all aborted with their reason, not before the write timeout is over.
        """
        timeout = f"{self.write_timeout}s"
        with (
            FreshDaemon(*LOOPBACK, "--write-timeout", timeout) as daemon,
            daemon.connect() as other,
        ):
            ping_pong(other, lambda done: done < 200)
            before = daemon.rss()
            address = daemon.address()
            # Small buffers in the clients leave it to the daemon to hold the rest of the echo.
            clients = [
                StreamClient(connect(address, 64 * KIB), 1000 * number, reads=False)
                for number in range(self.clients)
            ]
            with Clients(clients) as group:

                def goes_on(done: int) -> bool:
                    time.sleep(0.002)
                    return not group.over

                pinging = Worker(lambda: ping_pong(other, goes_on))
                group.run(lambda: group.over, "all of them to be aborted")
                times = pinging.result()
            p99 = percentile(times, 99)
            aborted = daemon.ended("write-timeout", self.clients)
            # What it holds now depends on what the C library gives back (proc(5)).
            most = int(daemon.state("VmHWM").split()[0]) * KIB
            lived = min(seconds for *_, seconds, reason in daemon.records() if reason != "client")
            show(
                f"{self.clients} clients that never read: {(most - before) / MIB:.1f} MiB in all; "
                f"another client's p99 {p99 * 1000:.1f} ms of {len(times)}; {aborted} aborted as "
                f"write-timeout, the first after {lived:.1f} s"
            )
            self.assertLessEqual(most - before, 50 * MIB)
            self.assertEqual({client.end for client in clients}, {End.RESET})
            # Each was really held back: it could send no more than the buffers hold.
            self.assertLess(max(client.sent for client in clients), 16 * MIB)
            self.assertGreater(min(client.sent for client in clients), 64 * KIB)
            self.assertEqual(aborted, self.clients)
            # The daemon looks twice a second.
            self.assertGreaterEqual(lived, self.write_timeout - 0.5)


class ResetTests(SynchronousTestCase):
    """
    Clients that connect and reset the connection.
    """

    warm_up = 500
    clients = 5000
    most_growth = 5 * MIB
    """1 KiB for each: one that is kept costs more, by IdleTests."""

    def connect_and_reset(self, address: str, number: int) -> None:
        """
        Connect, perhaps send something, and reset.
        """
        for turn in range(number):
            client = connect(address)
            if turn % 2:
                client.send(b"never to be read")
            reset(client)

    def test_they_leave_nothing_behind(self) -> None:
        """
        5000 such clients leave the daemon with the descriptors and the memory that it had.
        """
        # Those who send nothing are recorded at that level only.
        with FreshDaemon(*LOOPBACK, "--log-level", "debug") as daemon:
            address = daemon.address()
            empty = daemon.descriptors()
            self.connect_and_reset(address, self.warm_up)
            wait_until(lambda: len(daemon.records()) >= self.warm_up, "the records")
            before = daemon.rss()
            self.connect_and_reset(address, self.clients)
            total = self.warm_up + self.clients
            wait_until(lambda: daemon.log.count("bytes echoed in") >= total, "the records")
            wait_until(lambda: daemon.descriptors() <= empty, "the descriptors to be closed")
            growth = daemon.rss() - before
            reasons = Counter(record[4] for record in daemon.records())
            show(
                f"{self.clients} connections reset: {daemon.descriptors() - empty} descriptors "
                f"and {growth / KIB:.0f} KiB more than before; {dict(reasons)} with the warm-up"
            )
            self.assertEqual(daemon.descriptors(), empty)
            self.assertLessEqual(growth, self.most_growth)
            self.assertEqual(reasons.total(), total)
            self.assertLessEqual(reasons.keys(), {"client", "reset"})
            with daemon.connect() as client:
                self.assertEqual(echo(client, b"still here"), b"still here")


class IdleTests(SynchronousTestCase):
    """
    Clients that are connected and do nothing.
    """

    warm_up = 100
    clients = 2000
    most_bytes_each = 4 * KIB

    def test_they_cost_little(self) -> None:
        """
        2000 idle connections cost at most 4 KiB each in the daemon's memory.
        """
        if REACTOR == "select":
            raise SkipTest("select(2) takes no descriptor above 1023")
        self.enterContext(many_descriptors(self.warm_up + self.clients + 200))
        with FreshDaemon(*LOOPBACK) as daemon:
            address = daemon.address()
            clients: list[socket.socket] = []

            def join(number: int) -> None:
                for _ in range(number):
                    clients.append(connect(address))
                    # It has not only been accepted; it has been served.
                    self.assertEqual(echo(clients[-1], b"x"), b"x")

            try:
                join(self.warm_up)
                before, descriptors = daemon.rss(), daemon.descriptors()
                join(self.clients)
                each = (daemon.rss() - before) / self.clients
                more = daemon.descriptors() - descriptors
            finally:
                for client in clients:
                    client.close()
            show(f"{more} idle connections: {each:.0f} bytes each")
            self.assertEqual(more, self.clients)
            self.assertLessEqual(each, self.most_bytes_each)


class FairnessTests(SynchronousTestCase):
    """
    One client with small messages beside many that stream as fast as they can; in this
    process, on a reactor that turns when the test says so, so that what is counted is turns
    and bytes, at any speed.  What it costs in time: C{python -m tests.bench --only beside}.
    """

    message = bytes(64)
    piece = bytes(256 * KIB)
    rounds = 20

    buffer = 4 * MIB
    """What each stream has waiting for the daemon, as far as the system allows."""

    def setUp(self) -> None:
        self.reactor = EagerReactor()
        self.connections = Connections(self.reactor, Timeouts(), access_log=None)
        factory = EchoFactory("tcp", Admission(self.connections, 10_000))
        self.port = self.reactor.listenTCP(0, factory, interface="127.0.0.1")
        # Connections that are accepted inherit it (tcp(7)).
        self.port.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self.buffer)

    def tearDown(self) -> None:
        for each in self.reactor.removeAll():
            each.connectionLost(Failure(ConnectionDone()))
        self.reactor._poller.close()

    def join(self) -> tuple[socket.socket, Any]:
        """
        Connect.

        @return: the client, and the daemon's side of it.
        """
        before = len(self.connections)
        client = connect(f"127.0.0.1:{self.port.getHost().port}")
        self.addCleanup(client.close)
        client.setblocking(False)

        def accepted() -> bool:
            self.reactor.doIteration(0)
            return len(self.connections) > before

        wait_until(accepted, "the client to be accepted")
        [(connection, _)] = self.connections.newest(1)
        return client, connection

    def stream(self, client: socket.socket) -> None:
        """
        Send and take as much as goes without waiting.
        """
        with contextlib.suppress(BlockingIOError):
            while client.recv(256 * KIB):
                pass
        with contextlib.suppress(BlockingIOError):
            while client.send(self.piece):
                pass

    def play(self, number: int) -> tuple[int, int]:
        """
        Let so many stream, and between them one send message after message.

        @return: the most turns of the loop that a message waited for its echo, and the most
            bytes of one stream that were served meanwhile.
        """
        streams = [self.join() for _ in range(number)]
        client, served = self.join()
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        size = len(self.message)
        most_turns = most_bytes = 0
        for _ in range(self.rounds):
            for each, _ in streams:
                self.stream(each)
            client.send(self.message)
            wait_until(lambda: served.unread() == size, "the message to arrive")
            before = {connection: connection.bytes_echoed for _, connection in streams}
            expected, turns = served.bytes_echoed + size, 0
            while served.bytes_echoed < expected:
                self.reactor.doIteration(0)
                turns += 1
                self.assertLessEqual(turns, 1000, "the message is not served at all")
            most_turns = max(most_turns, turns)
            most_bytes = max(most_bytes, *(c.bytes_echoed - had for c, had in before.items()))
            wait_until(lambda: unread(client) == size, "the echo to arrive")
            self.assertEqual(client.recv(100), self.message)
        show(
            f"a small message beside {number} streams: at most {most_turns} turns of the loop, "
            f"in which a stream was served at most {most_bytes / KIB:.0f} KiB"
        )
        self.assertGreater(min(c.bytes_echoed for _, c in streams), 0)
        return most_turns, most_bytes

    def test_streams_starve_nobody(self) -> None:
        """
        Beside eight streams, a small message is served in the next turn of the loop, and
        before it, a stream at most once.
        """
        turns, size = self.play(8)
        self.assertEqual(turns, 1)
        self.assertLessEqual(size, max(MAX_READ, MAX_SPLICE))

    def test_more_than_one_turn_serves(self) -> None:
        """
        Beside more streams than a turn of the loop serves, it waits until each has been
        served once, and no longer.
        """
        number = MAX_EVENTS + 50
        self.rounds = 2
        self.enterContext(many_descriptors(2 * number + 200))
        turns, size = self.play(number)
        self.assertLessEqual(turns, 2)
        self.assertLessEqual(size, max(MAX_READ, MAX_SPLICE))
