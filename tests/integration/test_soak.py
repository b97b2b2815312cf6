"""
A soak that is short enough for every run, and whether it would find anything: its proxy does
what its toxics say, and its judgement falls on servers that are wrong.

The ten minutes are C{python -m tests.soak}.
"""

import asyncio
import random
import socket
import threading
import time
from collections.abc import Callable
from typing import Self

from twisted.trial.unittest import SynchronousTestCase

from tests.soak.__main__ import soak
from tests.soak.clients import burst, half_closer
from tests.soak.run import Listener, Soak
from tests.support.clients import Clients, Connection, End, StreamClient, reset
from tests.support.daemons import PATIENCE_SECONDS, receive, show
from tests.support.faultproxy import FaultProxy, Link
from tests.support.stock import Stock
from tests.support.toxics import (
    DOWN,
    UP,
    Bandwidth,
    Latency,
    LimitData,
    ResetPeer,
    Slicer,
    SlowClose,
    Stall,
    Timeout,
    Toxic,
)

KIB = 1024
DATA = random.Random(862).randbytes(256 * KIB)
SEED = "862"


class Server:
    """
    An echo of asyncio's in a thread of its own, with a proxy before it.

    @ivar proxy: the proxy.
    @ivar pieces: what has come, piece by piece.
    """

    def __init__(self, alter: Callable[[bytes], bytes] = bytes):
        self._alter = alter
        self._ready = threading.Event()
        self._thread = threading.Thread(target=asyncio.run, args=(self._run(),), daemon=True)
        self.pieces: list[bytes] = []

    def __enter__(self) -> Self:
        self._thread.start()
        if not self._ready.wait(PATIENCE_SECONDS):
            raise AssertionError("no server")
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(PATIENCE_SECONDS)

    async def _run(self) -> None:
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._echo, "127.0.0.1", 0)
        self.address = server.sockets[0].getsockname()
        self.proxy = FaultProxy(self.address, SEED)
        self._port = await self.proxy.start()
        self._ready.set()
        await self._end.wait()
        await self.proxy.stop()
        server.close()

    async def _echo(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(64 * KIB):
                self.pieces.append(data)
                writer.write(self._alter(data))
                await writer.drain()
        except OSError:
            pass
        writer.close()

    def connect(self, *toxics: Toxic, number: int = 0) -> tuple[socket.socket, Link]:
        """
        Connect through the proxy.
        """
        client = socket.socket()
        client.settimeout(PATIENCE_SECONDS)
        client.bind(("127.0.0.1", 0))
        self.proxy.toxics = toxics
        link = self.proxy.announce(client.getsockname()[1], number)
        client.connect(("127.0.0.1", self._port))
        return client, link


class ToxicTests(SynchronousTestCase):
    """
    Tests for L{FaultProxy} and what it can do.
    """

    def setUp(self) -> None:
        self.server = self.enterContext(Server())

    def echo(self, *toxics: Toxic, data: bytes = DATA) -> float:
        """
        Send and close the sending side, and expect all of it.

        @return: how many seconds that took.
        """
        start = time.monotonic()
        client, link = self.server.connect(*toxics)
        with client:
            back = Connection(client).exchange(data)
        self.assertEqual(back, data)
        self.assertEqual((link.toxics, link.broken_by, link.failure), (list(toxics), None, ""))
        return time.monotonic() - start

    def test_none(self) -> None:
        """
        Without a toxic every byte goes through, and the end.
        """
        self.echo()
        self.echo(data=b"")

    def test_delays(self) -> None:
        """
        What only takes time takes at least the time that it says, in its own direction, and
        loses nothing.
        """
        for way in (UP, DOWN):
            self.assertGreaterEqual(self.echo(Latency(way, 1, 0.2, 0.05), data=b"x"), 0.15)
            self.assertGreaterEqual(self.echo(Bandwidth(way, 1, 1024 * KIB)), 0.25)
            self.assertGreaterEqual(self.echo(Stall(way, 1, 0.2)), 0.2)
            self.assertGreaterEqual(self.echo(SlowClose(way, 1, 0.2), data=b"x"), 0.2)

    def test_latency_is_no_bandwidth(self) -> None:
        """
        What is late is late together: the second chunk waits no longer than the first.
        """
        one_by_one = 0.3 * len(DATA) / (4 * KIB)
        took = self.echo(Latency(UP, 1, 0.3), Slicer(UP, 1, 4 * KIB, 0))
        self.assertLess(took, one_by_one)

    def test_slices(self) -> None:
        """
        Slices come apart from each other.
        """
        self.echo(Slicer(UP, 1, 100, 50, 0.001), data=DATA[:10_000])
        self.assertGreater(len(self.server.pieces), 20)
        self.assertLessEqual(max(map(len, self.server.pieces[:3])), 450)

    def broken(self, toxic: Toxic) -> tuple[int, bool]:
        """
        Send until the toxic acts.

        @return: how much came back, and whether a reset ended it.
        """
        client, link = self.server.connect(toxic)
        sender = StreamClient(client, limit=len(DATA))
        with Clients([sender]) as group:
            group.run(lambda: group.over, "the toxic to act")
        self.assertIs(link.broken_by, toxic)
        self.assertTrue(sender.exact)
        self.assertLess(sender.received, 64 * KIB)
        return sender.received, sender.end is End.RESET

    def test_breaks(self) -> None:
        """
        What breaks a connection does so in the middle, with the end that it says, and the
        proxy knows.
        """
        for way in (UP, DOWN):
            self.assertTrue(self.broken(ResetPeer(way))[1])
            start = time.monotonic()
            self.broken(Timeout(way, seconds=0.2))
            self.assertGreaterEqual(time.monotonic() - start, 0.2)
        self.broken(LimitData(UP))
        first, _ = self.broken(LimitData(DOWN))
        self.assertEqual(self.broken(LimitData(DOWN))[0], first)

    def test_ends_are_handed_on(self) -> None:
        """
        A reset on one side is a reset on the other.
        """
        client, link = self.server.connect()
        client.sendall(b"x")
        self.assertEqual(receive(client, 1), b"x")
        reset(client)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not link.failure and time.monotonic() < deadline:
            time.sleep(0.01)
        self.assertIn("reset", link.failure)

    def test_toxicity(self) -> None:
        """
        What befalls a connection depends on the seed and its number, and in the long run on
        the toxicity.
        """
        both = [Latency(UP, 0.5), ResetPeer(UP, 0.1)]
        runs = []
        for _ in range(2):
            proxy = FaultProxy("nowhere", SEED)
            proxy.toxics = both
            runs.append([tuple(proxy.announce(1, number).toxics) for number in range(1000)])
        self.assertEqual(*runs)
        for toxic, share in zip(both, (500, 100), strict=True):
            befallen = sum(toxic in befall for befall in runs[0])
            self.assertLess(abs(befallen - share), 50)


class SoakTests(SynchronousTestCase):
    """
    The soak itself.
    """

    seconds = 5.0

    def judged(self, address: tuple[str, int], enough: Callable[[Soak], bool]) -> Soak:
        """
        Run it for longer and longer, until it has had the time to find something.
        """
        listeners = {"plain": Listener(address, header=lambda rng: b"")}
        for seconds in (1.0, 4.0, 16.0, 60.0):
            load = Soak(listeners, SEED, behaviors={half_closer: 1, burst: 1})
            asyncio.run(load.run(seconds))
            if enough(load):
                break
        return load

    def test_loses(self) -> None:
        """
        An echo that loses the rest at a half-close is found out.
        """
        with Stock("echo") as server:
            host, _, port = server.address().rpartition(":")
            found = self.judged((host, int(port)), lambda load: load.totals.ends["LOST"] > 0)
            totals = found.totals
        self.assertEqual(totals.corrupt, 0)
        self.assertGreater(totals.ends["LOST"], 0)
        self.assertEqual(len(totals.bad), totals.ends["LOST"])

    def test_corrupts(self) -> None:
        """
        An echo in which one byte is wrong, or comes twice, is found out.
        """
        for alter in (lambda data: data[:-1] + b"!", lambda data: data + data[-1:]):
            with Server(alter) as server:
                totals = self.judged(server.address, lambda load: load.totals.corrupt > 0).totals
            self.assertGreater(totals.corrupt, totals.visits // 2)

    def test_echod(self) -> None:
        """
        Behind a bad network, no stream of echod's is corrupt or short without a reason, and
        it holds in the end what it held at first.
        """
        report, wrong = soak(self.seconds, SEED)
        show(f"{self.seconds:g} s of soak, seed {SEED}:\n{report}")
        self.assertEqual(wrong, [])
