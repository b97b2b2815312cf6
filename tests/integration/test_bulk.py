"""
Bulk data, which the kernel moves from a socket back to the same socket (C{splice(2)}): every byte
comes back, whatever the client, the network or the kernel does.
"""

import contextlib
import random
import re
import signal
import socket
import struct
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from unittest import SkipTest

from twisted.trial.unittest import SynchronousTestCase

from tests.support import needs
from tests.support.daemons import (
    LOOPBACK,
    PATIENCE_SECONDS,
    PATIENT_STOP,
    REACTOR,
    Daemon,
    Worker,
    connect,
    echo,
    receive,
    receive_rest,
    show,
    wait_until,
)
from tests.support.listeners import listener
from tests.support.proxyheaders import v1, v2
from tests.support.tracing import traced

KIB = 1024
MIB = 1024 * KIB

SIZES = (1, 448, 4 * KIB, 32 * KIB - 1, 32 * KIB, 64 * KIB, 96 * KIB, 96 * KIB + 1, MIB)
"""Sizes of one send or one read, on both sides of where the daemon changes its ways."""


def pipes(daemon: Daemon) -> int:
    """
    How many ends of pipes the daemon has open; two more once it has moved bulk.
    """
    found = 0
    for entry in Path(f"/proc/{daemon.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found += str(entry.readlink()).startswith("pipe:")
    return found


class Exchange:
    """
    A client that sends bulk in pieces of many sizes, and stalls while it reads.

    @ivar data: all that it sends.
    @ivar back: what has come back.
    """

    def __init__(self, client: socket.socket, seed: object, size: int, urgent: bool = False):
        """
        @param urgent: whether the last byte of some pieces is sent as urgent.
        """
        self._rng = random.Random(f"{seed}")
        self._socket = client
        self._urgent = urgent
        self.data = self._rng.randbytes(size)
        self.back = bytearray()

    def _send(self, rng: random.Random) -> None:
        unsent = memoryview(self.data)
        while unsent:
            piece, unsent = unsent[: (size := rng.choice(SIZES))], unsent[size:]
            if self._urgent and rng.random() < 0.3:
                self._socket.sendall(piece[:-1])
                self._socket.send(piece[-1:], socket.MSG_OOB)
            else:
                self._socket.sendall(piece)
            if rng.random() < 0.1:
                time.sleep(rng.uniform(0, 0.01))

    def run(self, half_closes: bool = True) -> bool:
        """
        Send, and receive everything.

        @param half_closes: whether it closes its sending side behind the last byte, and reads to
            the end of the stream; else it closes when everything is back.
        @return: whether everything came back.
        """

        def send() -> None:
            self._send(random.Random(self._rng.random()))
            if half_closes:
                self._socket.shutdown(socket.SHUT_WR)

        sending = Worker(send)
        with self._socket as client:
            while half_closes or len(self.back) < len(self.data):
                data = client.recv(self._rng.choice(SIZES))
                if not data:
                    break
                self.back += data
                if self._rng.random() < 0.02:
                    time.sleep(self._rng.uniform(0, 0.05))
            sending.result()
        return self.back == self.data


def settle(client: socket.socket) -> None:
    """
    Send and receive until the daemon moves this connection's bytes in bulk.
    """
    data = bytes(64 * KIB)
    for _ in range(5):
        if echo(client, data) != data:
            raise AssertionError("the echo is not what was sent")


class ExactnessTests(SynchronousTestCase):
    """
    Bulk of many sizes, from clients that stall.
    """

    clients = 8

    def all_exact(self, *options: str, urgent: bool = False) -> None:
        with Daemon(*options) as daemon:
            before = pipes(daemon)
            exchanges = [
                Exchange(
                    daemon.connect(options[0]),
                    f"{options}/{number}",
                    random.Random(number).randrange(MIB, 6 * MIB),
                    urgent,
                )
                for number in range(self.clients)
            ]
            working = [
                Worker(lambda one=one, half=bool(number % 2): one.run(half))  # type: ignore[misc]
                for number, one in enumerate(exchanges)
            ]
            exact = [worker.result() for worker in working]
            self.assertEqual(exact, [True] * self.clients)
            daemon.ended("client", self.clients)
            echoed = sorted(record[2] for record in daemon.records())
            self.assertEqual(echoed, sorted(len(one.data) for one in exchanges))
            if not REACTOR and "--workers" not in options:
                self.assertEqual(pipes(daemon), before + 2)
            daemon.stop()
            # With workers, each has a line of its own.
            stopped = re.findall(r"stopped: (\d+) connections, (\d+) bytes", daemon.log)
            self.assertEqual(sum(int(connections) for connections, _ in stopped), self.clients)
            self.assertEqual(sum(int(size) for _, size in stopped), sum(echoed))

    def test_ipv4(self) -> None:
        """
        Over IPv4 every byte comes back and is counted.
        """
        self.all_exact(*listener("IPv4"))

    def test_ipv6(self) -> None:
        """
        Over IPv6.
        """
        self.all_exact(*listener("IPv6"))

    def test_unix(self) -> None:
        """
        On a UNIX socket.
        """
        self.all_exact(*listener("unix"))

    def test_workers(self) -> None:
        """
        With workers, each of which has a pipe of its own.
        """
        for transport in ("IPv4", "unix"):
            self.all_exact(*listener(transport), "--workers", "2")

    def test_urgent(self) -> None:
        """
        With urgent bytes in it.
        """
        for transport in ("IPv4", "unix"):
            self.all_exact(*listener(transport), urgent=True)

    def test_proxy_header(self) -> None:
        """
        Behind a PROXY header, in the same segment.
        """
        trust = ("--proxy-protocol", "require", "--proxy-trust", "127.0.0.1/32")
        data = random.Random(7).randbytes(3 * MIB)
        with Daemon(*LOOPBACK, *trust) as daemon:
            for header in (v1("192.0.2.7", 40000), v2("192.0.2.7", 40000)):
                with daemon.connect() as client:

                    def send(client: socket.socket = client, header: bytes = header) -> None:
                        client.sendall(header + data)
                        client.shutdown(socket.SHUT_WR)

                    sending = Worker(send)
                    self.assertEqual(receive_rest(client), data)
                    sending.result()
            daemon.ended("client", 2)
            seen = [(peer, size) for peer, _, size, *_ in daemon.records()]
            self.assertEqual(seen, [("192.0.2.7:40000", len(data))] * 2)


class EndTests(SynchronousTestCase):
    """
    Connections that end while bulk is under way.
    """

    def test_reset(self) -> None:
        """
        Clients that reset the connection are recorded so, and leave nothing behind.
        """
        number = 50
        with Daemon(*LOOPBACK) as daemon, daemon.connect() as other:
            settle(other)
            before = daemon.descriptors()
            for _ in range(number):
                with daemon.connect() as client:
                    settle(client)
                    client.sendall(bytes(256 * KIB))
                    linger = struct.pack("ii", 1, 0)
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            daemon.ended("reset", number)
            settle(other)
            self.assertEqual(daemon.descriptors(), before)

    def test_reset_before_the_echo(self) -> None:
        """
        A reset that has come before the daemon sends is recorded so, in bulk and else.
        """
        sizes = (6, 20 * KIB, 100 * KIB)
        with Daemon(*LOOPBACK) as daemon:
            clients = [daemon.connect() for _ in sizes]
            for client in clients:
                settle(client)
                settle(client)
            daemon.signal(signal.SIGSTOP)
            wait_until(lambda: daemon.state("State").startswith("T"), "the daemon to halt")
            for client, size in zip(clients, sizes, strict=True):
                client.sendall(bytes(size))
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                client.close()
            daemon.signal(signal.SIGCONT)
            daemon.ended("reset", len(sizes))

    def test_close_unread(self) -> None:
        """
        Clients that close without reading their echo end alone.
        """
        number = 50
        with Daemon(*LOOPBACK) as daemon, daemon.connect() as other:
            settle(other)
            before = daemon.descriptors()
            for _ in range(number):
                with daemon.connect() as client:
                    settle(client)
                    client.sendall(bytes(256 * KIB))
            wait_until(lambda: len(daemon.records()) == number, "the records")
            settle(other)
            self.assertEqual(daemon.descriptors(), before)

    def test_stop(self) -> None:
        """
        A stop lets bulk that is under way come to its end.
        """
        daemon = Daemon(*LOOPBACK, "--drain-timeout", "10m")
        daemon.times = PATIENT_STOP
        with daemon:
            clients = [daemon.connect() for _ in range(4)]
            for client in clients:
                settle(client)
            exchanges = [Exchange(one, number, 8 * MIB) for number, one in enumerate(clients)]
            working = [Worker(one.run) for one in exchanges]
            wait_until(lambda: all(one.back for one in exchanges), "bulk to be under way")
            daemon.signal(signal.SIGTERM)
            self.assertEqual([worker.result() for worker in working], [True] * len(clients))
            daemon.wait("the stop")
            self.assertIn("drained: 4 connections finished, 0 aborted", daemon.log)

    def test_unread(self) -> None:
        """
        A client that reads nothing of its bulk is held back, costs no more memory than its
        queue, and gets all of it when it reads.
        """
        number = 100
        with Daemon(*LOOPBACK, "--write-timeout", "0") as daemon:
            clients = [connect(daemon.address(), 64 * KIB) for _ in range(number)]
            for client in clients:
                settle(client)
            before = daemon.rss()
            sent = []
            for client in clients:
                client.setblocking(False)
                sent.append(0)
            progress = True
            while progress:
                progress = False
                for which, client in enumerate(clients):
                    with contextlib.suppress(BlockingIOError):
                        sent[which] += client.send(bytes(256 * KIB))
                        progress = True
                time.sleep(0.05)
            grown = (daemon.rss() - before) / number
            show(f"{number} clients that read nothing: {grown / KIB:.0f} KiB each")
            self.assertLess(grown, 256 * KIB)
            self.assertLess(max(sent), 16 * MIB)
            for size, client in zip(sent, clients, strict=True):
                client.settimeout(PATIENCE_SECONDS)
                client.shutdown(socket.SHUT_WR)
                self.assertEqual(len(receive_rest(client)), size)
                client.close()
            daemon.ended("client", number)


class SystemCallTests(SynchronousTestCase):
    """
    What the daemon asks of the kernel, and what it does if the kernel refuses.
    """

    size = 4 * MIB

    if REACTOR:
        skip = "needs echod's own reactor"

    def bulk(self, daemon: Daemon, count: int = 2) -> None:
        """
        Echo bulk on several connections, and on a UNIX socket.
        """
        exchanges = [
            Exchange(daemon.connect(option), f"{option}{number}", self.size)
            for option in ("--port", "--listen")
            for number in range(count)
        ]
        working = [Worker(one.run) for one in exchanges]
        self.assertEqual([worker.result() for worker in working], [True] * len(working))
        daemon.ended("client", len(working))
        self.assertEqual({size for _, _, size, *_ in daemon.records()}, {self.size})

    def daemon(self) -> Daemon:
        return Daemon(*LOOPBACK, *listener("unix"))

    def test_bulk(self) -> None:
        """
        Bulk is spliced, and a small part of it is received.
        """
        with self.daemon() as daemon, daemon.connect() as client:
            settle(client)
            with traced(daemon) as trace:
                data = random.Random(3).randbytes(self.size)
                sending = Worker(lambda: client.sendall(data))
                self.assertEqual(receive(client, len(data)), data)
                sending.result()
            spliced = trace.moved("splice") // 2
            received = trace.moved("recvfrom")
            show(f"{self.size} bytes: {spliced} spliced, {received} received")
            self.assertGreater(spliced, self.size // 2)

    def test_small(self) -> None:
        """
        Small messages are received and sent: with two system calls each, and no pipe.
        """
        with self.daemon() as daemon, daemon.connect() as client:
            # The first read is smaller.
            self.assertEqual(echo(client, bytes(1000)), bytes(1000))
            with traced(daemon) as trace:
                for _ in range(100):
                    self.assertEqual(echo(client, bytes(1000)), bytes(1000))
                wait_until(lambda: trace.moved("sendto") >= 100_000, "the trace")
            calls = Counter(re.findall(r"(\w+)\(.* = 1000$", "\n".join(trace.lines), re.M))
            self.assertEqual(calls["sendto"], 100)
            self.assertLessEqual(calls["recvfrom"], 100)
            self.assertNotIn("splice", "".join(trace.lines))

    def refused(self, injected: str, most: int) -> None:
        """
        Bulk comes back, and is received and sent instead.

        @param most: how many calls of splice there may be.
        """
        with self.daemon() as daemon:
            before = pipes(daemon)
            with traced(daemon, injected) as trace:
                self.bulk(daemon)
            calls = [line for line in trace.lines if "splice(" in line]
            show(f"{injected}: {len(calls)} calls of splice")
            self.assertTrue(any("INJECTED" in line for line in trace.lines))
            self.assertLessEqual(len(calls), most)
            self.assertGreaterEqual(trace.moved("recvfrom"), 3 * self.size)
            self.assertEqual(pipes(daemon), before)
            daemon.stop()

    def test_refused(self) -> None:
        """
        If the kernel or a filter of system calls refuses to splice, the daemon asks once.
        """
        for error in ("EINVAL", "EPERM", "ENOSYS"):
            self.refused(f"splice:error={error}", 1)

    def test_refused_to_send(self) -> None:
        """
        The same if it refuses while bytes are in the pipe: these are sent.
        """
        self.refused("splice:error=EINVAL:when=2+", 2)

    def test_no_descriptor(self) -> None:
        """
        Without a descriptor for the pipe, nothing is spliced.
        """
        self.refused("pipe2:error=EMFILE", 0)

    def test_descriptor_later(self) -> None:
        """
        When there is a descriptor again, bulk is spliced again.
        """
        with self.daemon() as daemon:
            before = pipes(daemon)
            with traced(daemon, "pipe2:error=EMFILE:when=1..3") as trace:
                self.bulk(daemon)
            self.assertGreater(trace.moved("splice"), 0)
            self.assertEqual(pipes(daemon), before + 2)

    def test_takes_nothing(self) -> None:
        """
        If a socket never takes anything from the pipe, everything goes through the queue.
        """
        with self.daemon() as daemon:
            with traced(daemon, "splice:error=EAGAIN:when=2+2"):
                self.bulk(daemon)
            daemon.stop()

    def test_nothing_came(self) -> None:
        """
        If a splice finds nothing, the same bytes are received.
        """
        with self.daemon() as daemon:
            with traced(daemon, "splice:error=EAGAIN") as trace:
                self.bulk(daemon)
            self.assertGreaterEqual(trace.moved("recvfrom"), 4 * self.size)
            daemon.stop()

    def test_small_pipe(self) -> None:
        """
        A user who has many pipes gets small ones: then nothing is spliced.
        """
        needs.other_user()
        soft = Path("/proc/sys/fs/pipe-user-pages-soft")
        needs.file(soft)
        # Each has 16 pages.
        number = int(soft.read_text()) // 16
        if not number:
            raise SkipTest(f"needs a limit in {soft}")
        needs.descriptors(2 * number + 100)
        script = SMALL_PIPE.format(number=number, nobody=65534)
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, timeout=PATIENCE_SECONDS
        )
        self.assertEqual(done.stderr, "")
        capacity, usable = done.stdout.split()
        self.assertLess(int(capacity), 64 * KIB)
        self.assertEqual(usable, "False")


SMALL_PIPE = """
import os, resource, socket
from echod.net.splice import SPLICE, Pipe, Splicer

_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
os.setgroups([])
os.setuid({nobody})
pipes = [os.pipe() for _ in range({number})]
print(Pipe.make().capacity())
ours, theirs = socket.socketpair()
theirs.send(b"hello")
splicer = Splicer(SPLICE)
assert splicer.relay(ours.fileno()) == (0, b"")
assert ours.recv(5) == b"hello"
print(splicer.usable)
"""
"""A user who has as many pipes as it may have without a privilege."""
