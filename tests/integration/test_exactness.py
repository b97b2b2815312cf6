"""
The first promise: what a client sends comes back, whole and in order, however it reads.

The sender closes its sending side behind its last byte, which is where echo servers lose
most; everything below is about plain connections over IPv4, IPv6 and a unix socket.
"""

from twisted.trial.unittest import SynchronousTestCase

from tests.support.clients import Clients, StreamClient
from tests.support.daemons import PATIENCE_SECONDS, Daemon, show
from tests.support.listeners import listener

RUNS = 20
SLOW_AT_A_TIME = 10
MIB = 1024 * 1024

SLOW_RECEIVE_BUFFER = 16 * 1024

SIZES = (0, 1, 65535, 65536, 65537, 64 * MIB)


def round_trips(daemon: Daemon, size: int, number: int = 1, slow: bool = False) -> int:
    """
    Clients that send so much at the same time, and read what comes back.

    @param slow: whether they read nothing until every buffer on the way is full, so that the
        daemon stops reading, and then less at a time than they send.
    @return: how many got all of it, and nothing else.
    """
    buffer = SLOW_RECEIVE_BUFFER if slow else 0
    clients = [
        StreamClient(daemon.connect("--listen", buffer), 1000 * turn, size, reads=not slow)
        for turn in range(number)
    ]
    with Clients(clients) as group:
        if slow:
            group.run(lambda: all(client.stuck for client in clients), "the buffers to be full")
        for client in clients:
            client.reads = True
            client.read_piece = SLOW_RECEIVE_BUFFER // 2 if slow else client.read_piece
        group.run(lambda: group.over, "the ends", 10 * PATIENCE_SECONDS)
    return sum(client.whole for client in clients)


class HalfCloseTests(SynchronousTestCase):
    """
    8 MiB, then the end of file, 20 times over.
    """

    size = 8 * MIB

    def every_byte(self, transport: str, slow: bool) -> None:
        with Daemon(*listener(transport)) as daemon:
            at_a_time = SLOW_AT_A_TIME if slow else 1
            turns = range(RUNS // at_a_time)
            same = sum(round_trips(daemon, self.size, at_a_time, slow) for _ in turns)
            how = f"{transport}, {'slow' if slow else 'fast'} reader"
            show(f"{how}: all of it came back {same} of {RUNS} times")
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
        # One that sends nothing is recorded at that level only.
        with Daemon(*listener(transport), "--log-level", "debug") as daemon:
            same = [size for size in SIZES if round_trips(daemon, size)]
            show(f"{transport}: all came back of {', '.join(map(str, same))} bytes")
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
