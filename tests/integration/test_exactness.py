"""
The first promise: what a client sends comes back, whole and in order, however it reads.

The sender closes its sending side behind its last byte, which is where echo servers lose
most; everything below is about plain connections over IPv4, IPv6 and a unix socket.
"""

import hashlib
import random
import socket
import time
from concurrent.futures import ThreadPoolExecutor

from twisted.trial.unittest import SynchronousTestCase

from tests.support.daemons import PATIENCE_SECONDS, Daemon, Worker, show
from tests.support.listeners import listener

RUNS = 20
SLOW_AT_A_TIME = 10
MIB = 1024 * 1024

SLOW_RECEIVE_BUFFER = 16 * 1024
SLOW_STALL_SECONDS = 0.1
SLOW_PAUSE_SECONDS = 0.002
SLOW_PAUSES = 200

SIZES = (0, 1, 65535, 65536, 65537, 64 * MIB)


def send_all(client: socket.socket, data: bytes | memoryview) -> None:
    """
    Send, then close the sending side.
    """
    client.sendall(data)
    client.shutdown(socket.SHUT_WR)


def read_fast(client: socket.socket) -> tuple[int, str]:
    """
    Read to the end of file.

    @return: how many bytes came, and their SHA-256.
    """
    digest, size = hashlib.sha256(), 0
    while data := client.recv(256 * 1024):
        digest.update(data)
        size += len(data)
    return size, digest.hexdigest()


def read_slowly(client: socket.socket) -> tuple[int, str]:
    """
    The same, but stall first, so that every buffer on the way fills and reading stops,
    and then pause again and again.
    """
    digest, size, pieces = hashlib.sha256(), 0, 0
    time.sleep(SLOW_STALL_SECONDS)
    while data := client.recv(SLOW_RECEIVE_BUFFER // 2):
        digest.update(data)
        size += len(data)
        pieces += 1
        if pieces % 4 == 0 and pieces < 4 * SLOW_PAUSES:
            time.sleep(SLOW_PAUSE_SECONDS)
    return size, digest.hexdigest()


def round_trip(daemon: Daemon, data: bytes | memoryview, slow: bool) -> tuple[bool, float]:
    """
    Send all of it to the daemon and read what comes back.

    @return: whether it was the same, and how long that took.
    """
    start = time.monotonic()
    with daemon.connect("--listen", SLOW_RECEIVE_BUFFER if slow else 0) as client:
        sender = Worker(lambda: send_all(client, data))
        size, digest = read_slowly(client) if slow else read_fast(client)
        sender.result()
    same = (size, digest) == (len(data), hashlib.sha256(data).hexdigest())
    return same, time.monotonic() - start


class HalfCloseTests(SynchronousTestCase):
    """
    8 MiB, then the end of file, 20 times over.
    """

    data = random.Random(8).randbytes(8 * MIB)

    def every_byte(self, transport: str, slow: bool) -> None:
        with Daemon(*listener(transport)) as daemon:
            with ThreadPoolExecutor(SLOW_AT_A_TIME if slow else 1) as pool:
                trips = [pool.submit(round_trip, daemon, self.data, slow) for _ in range(RUNS)]
                outcomes = [trip.result(10 * PATIENCE_SECONDS) for trip in trips]
            same = sum(equal for equal, _ in outcomes)
            longest = max(seconds for _, seconds in outcomes)
            how = f"{transport}, {'slow' if slow else 'fast'} reader"
            show(f"{how}: SHA-256 equal {same} of {RUNS}, longest {longest:.2f} s")
            self.assertEqual(same, RUNS)
            daemon.ended("client", RUNS)

    def test_ipv4_fast(self) -> None:
        """
        A client over IPv4 that reads as fast as it can gets all of its 8 MiB back.
        """
        self.every_byte("IPv4", slow=False)

    def test_ipv4_slow(self) -> None:
        """
        A client over IPv4 that reads slowly gets all of its 8 MiB back.
        """
        self.every_byte("IPv4", slow=True)

    def test_ipv6_fast(self) -> None:
        """
        A client over IPv6 that reads as fast as it can gets all of its 8 MiB back.
        """
        self.every_byte("IPv6", slow=False)

    def test_ipv6_slow(self) -> None:
        """
        A client over IPv6 that reads slowly gets all of its 8 MiB back.
        """
        self.every_byte("IPv6", slow=True)

    def test_unix_fast(self) -> None:
        """
        A client on a unix socket that reads as fast as it can gets all of its 8 MiB back.
        """
        self.every_byte("unix", slow=False)

    def test_unix_slow(self) -> None:
        """
        A client on a unix socket that reads slowly gets all of its 8 MiB back.
        """
        self.every_byte("unix", slow=True)


class SizeTests(SynchronousTestCase):
    """
    Sizes at the edges of the buffers, and one far beyond them.
    """

    def every_size(self, transport: str) -> None:
        everything = memoryview(random.Random(64).randbytes(max(SIZES)))
        # One that sends nothing is recorded at that level only.
        with Daemon(*listener(transport), "--log-level", "debug") as daemon:
            same = [size for size in SIZES if round_trip(daemon, everything[:size], False)[0]]
            show(f"{transport}: SHA-256 equal for {', '.join(map(str, same))} bytes")
            self.assertEqual(same, list(SIZES))
            daemon.ended("client", len(SIZES))
            self.assertEqual(sorted(record[2] for record in daemon.records()), list(SIZES))

    def test_ipv4(self) -> None:
        """
        Over IPv4, nothing, a byte, a buffer more or less, and 64 MiB come back as sent.
        """
        self.every_size("IPv4")

    def test_ipv6(self) -> None:
        """
        Over IPv6, nothing, a byte, a buffer more or less, and 64 MiB come back as sent.
        """
        self.every_size("IPv6")

    def test_unix(self) -> None:
        """
        On a unix socket, nothing, a byte, a buffer more or less, and 64 MiB come back as sent.
        """
        self.every_size("unix")
