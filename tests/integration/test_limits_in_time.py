"""
Limits in time: a client that sends nothing, or too little, or stays too long, is ended in time; and
a client that reads gets the rest of its echo first.
"""

import contextlib
import itertools
import random
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from unittest import SkipTest

from OpenSSL import SSL
from twisted.trial.unittest import SynchronousTestCase

from tests.support.clients import VERSIONS, Clients, End, StreamClient, context
from tests.support.daemons import (
    LOOPBACK,
    REACTOR,
    Daemon,
    echo,
    many_descriptors,
    receive,
    receive_rest,
    server_side,
    show,
    tls_daemon,
    wait_until,
)
from tests.support.proxyheaders import v1
from tests.support.shortclients import (
    IdleClient,
    connect_from,
    is_served,
    loopback_addresses,
    wait_for_all,
)
from tests.support.tlswire import WireClient

KIB = 1024
MIB = 1024 * KIB

CHECK_INTERVAL = 0.5
"""How often the daemon checks: it is how exact the timeouts are."""


class SittersTests(SynchronousTestCase):
    """
    Five hundred clients that only wait_for_all there.
    """

    each = 100
    # Long enough for all of them to come on a busy machine.
    handshake_seconds = 5.0
    idle_seconds = 5.5
    lifetime_seconds = 6.0
    warm_ups = 2

    def silent(self, option: str) -> Callable[[], IdleClient]:
        return lambda: IdleClient(lambda: self.daemon.connect(option))

    def dripping(self) -> IdleClient:
        """
        A byte a second, and each comes back.
        """
        return IdleClient(lambda: self.daemon.connect("--port"), itertools.repeat(b"."))

    def dripping_hello(self) -> IdleClient:
        """
        A byte a second of a good beginning.
        """
        drip: Iterator[bytes] = (bytes([byte]) for byte in self.hello)
        return IdleClient(lambda: self.daemon.connect("--tls-port"), drip)

    def half_way(self) -> IdleClient:
        """
        All of the handshake, but for the last byte.
        """

        def come() -> socket.socket:
            sock = self.daemon.connect("--tls-port")
            sock.sendall(WireClient(sock, self.context).last_flight()[:-1])
            return sock

        return IdleClient(come)

    def come(self, kinds: Iterable[Callable[[], IdleClient]]) -> list[list[IdleClient]]:
        """
        Have all of them come.  Those who are there already drip meanwhile, and each of them at
        once.
        """
        found: list[list[IdleClient]] = []
        next_drop = time.monotonic() + 1
        for kind in kinds:
            found.append([])
            for _ in range(self.each):
                found[-1].append(kind())
                self.addCleanup(found[-1][-1].socket.close)
                found[-1][-1].drop()
                if time.monotonic() >= next_drop:
                    next_drop += 1
                    for each in itertools.chain(*found):
                        each.drop()
        return found

    def come_and_go(self, kinds: Iterable[Callable[[], IdleClient]], empty: int) -> None:
        """
        Have all of them there at once, and go by themselves.
        """
        idle_clients = list(itertools.chain(*self.come(kinds)))
        for each in idle_clients:
            # Those who came first may have been ended before the last have come.
            with contextlib.suppress(ConnectionError):
                each.socket.send(next(each.drip, b""))
        # A client that is served now has waited until all of that was read.
        with self.daemon.connect("--port") as client:
            for _ in range(10):
                self.assertEqual(echo(client, b"x"), b"x")
        for each in idle_clients:
            each.socket.close()
        wait_until(lambda: self.daemon.descriptors() == empty, "them to be gone")

    def most_memory(self) -> int:
        """
        The most memory that the daemon has occupied so far, in bytes.  What it occupies now
        depends on what the C library gives back, and on Python's next garbage collection.
        """
        return int(self.daemon.state("VmHWM").split()[0]) * KIB

    def test_gone_in_time(self) -> None:
        """
        Silent, dripping and half-handshaken clients are gone when their limit is over, and
        leave neither memory nor a descriptor behind.
        """
        if REACTOR == "select":
            raise SkipTest("select(2) takes no descriptor above 1023")
        self.enterContext(many_descriptors(5 * self.each + 300))
        limits = {
            "--handshake-timeout": self.handshake_seconds,
            "--idle-timeout": self.idle_seconds,
            "--max-lifetime": self.lifetime_seconds,
        }
        options = itertools.chain(*((name, f"{limit}s") for name, limit in limits.items()))
        self.daemon = self.enterContext(tls_daemon("--port", "0", *options, anew=True))
        self.context = context("TLS 1.3")
        with socket.socket() as sock:
            self.hello = WireClient(sock, self.context).flight()
        kinds = {
            "silent": (self.silent("--port"), self.idle_seconds),
            "dripping": (self.dripping, self.lifetime_seconds),
            "silent, TLS": (self.silent("--tls-port"), self.handshake_seconds),
            "dripping, TLS": (self.dripping_hello, self.handshake_seconds),
            "half-handshaken": (self.half_way, self.handshake_seconds),
        }
        makers = [kind for kind, _ in kinds.values()]
        cold, empty = self.daemon.rss(), self.daemon.descriptors()
        for _ in range(self.warm_ups):
            self.come_and_go(makers, empty)
        most = self.most_memory()
        crowds = self.come(makers)
        wait_for_all(itertools.chain(*crowds), lambda _: False, "to be gone")
        wait_until(lambda: self.daemon.descriptors() == empty, "the descriptors to be closed")
        # What had been left behind by those would now come on top.
        self.come_and_go(makers, empty)
        after = self.most_memory()
        for (name, (_, limit)), group in zip(kinds.items(), crowds, strict=True):
            times = [each.gone_after for each in group if each.gone_after is not None]
            late = max(times) - limit
            resets = sum(each.was_reset for each in group)
            show(
                f"{len(times)} {name}: gone {min(times) - limit:+.2f} to {late:+.2f} s from "
                f"their limit of {limit} s, {resets} by a reset"
            )
            self.assertEqual(len(times), self.each)
            self.assertGreaterEqual(min(times), limit)
            # Those who could be told goodbye were.
            self.assertEqual(resets, 0 if name in ("silent", "dripping") else self.each, name)
        first, more = most - cold, after - most
        show(
            f"memory: {first / KIB:.0f} KiB for the first {len(kinds) * self.each} clients, "
            f"{more / KIB:.0f} KiB more after as many that had to be ended"
        )
        # How many of them were there at once, the last time, depends on the machine.
        self.assertLessEqual(more, first / 2)
        self.daemon.stop()
        # With those of the other rounds who were too slow, if any.
        self.assertGreaterEqual(self.daemon.refused()["handshake"], 3 * self.each)
        reasons = Counter(reason for *_, reason in self.daemon.records())
        self.assertGreaterEqual(reasons["idle-timeout"], self.each)
        self.assertGreaterEqual(reasons["max-lifetime"], self.each)


def send_unread(client: socket.socket, data: bytes) -> None:
    """
    Send, and take nothing for now.
    """
    client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, len(data))
    client.sendall(data)


FIN_WAIT_1 = 4
"""The daemon has said that it will send no more, and not all of it has arrived."""


class PoliteTests(SynchronousTestCase):
    """
    The ends of those who are idle or have been there for too long.
    """

    small = 8 * KIB
    data = random.Random(5).randbytes(300 * KIB)

    def rest(self, client: socket.socket) -> bytes:
        """
        The rest of the client's echo, to an end that must be orderly.
        """
        data = bytearray()
        while piece := client.recv(65536):
            data += piece
        return bytes(data)

    def test_idle(self) -> None:
        """
        A client that neither sends nor reads anything for a while gets the rest of its echo,
        and then the end of file; over TLS, a close_notify before it.
        """
        with tls_daemon("--port", "0", "--idle-timeout", "6s") as daemon:
            plain = daemon.connect("--port", self.small)
            self.addCleanup(plain.close)
            send_unread(plain, self.data)
            secure = {}
            for version in VERSIONS:
                sock = daemon.connect("--tls-port", self.small)
                self.addCleanup(sock.close)
                secure[version] = WireClient(sock, context(version)).handshake()
                send_unread(sock, secure[version].record(self.data))
            # All has been sent that can be, and the end of file waits behind it; it may
            # wait for as long as a client may take nothing, which is 30 s.
            wait_until(lambda: server_side(plain)[0] == FIN_WAIT_1, "the polite end")
            later = time.monotonic() + 2.5 * CHECK_INTERVAL
            wait_until(lambda: time.monotonic() > later, "the next looks")
            self.assertEqual(daemon.records(), [])
            self.assertEqual(self.rest(plain), self.data)
            plain.close()
            for version, client in secure.items():
                back = client.decrypt(self.rest(client.socket))
                self.assertEqual((version, back == self.data), (version, True))
                self.assertIsInstance(client.end, SSL.ZeroReturnError)
                client.socket.close()
            daemon.ended("idle-timeout", 3)
            self.assertEqual({record[2] for record in daemon.records()}, {len(self.data)})

    def test_idle_is_not_slow(self) -> None:
        """
        A client that reads its echo little by little, or sends a byte now and then,
        is not idle.
        """
        with Daemon(*LOOPBACK, "--idle-timeout", "6s") as daemon:
            taker = daemon.connect(receive_buffer=self.small)
            sender = daemon.connect()
            self.addCleanup(taker.close)
            self.addCleanup(sender.close)
            send_unread(taker, self.data)
            back = b""
            start = time.monotonic()
            for turn in range(30):
                due = start + turn / 4
                wait_until(lambda due=due: time.monotonic() >= due, "the next turn")
                back += taker.recv(4 * KIB)
                self.assertEqual(echo(sender, b"."), b".")
            self.assertLess(len(back), len(self.data))
            taker.shutdown(socket.SHUT_WR)
            back += receive_rest(taker)
            self.assertEqual(back, self.data)
            daemon.ended("client", 1)
            self.assertEqual(len(daemon.records()), 1)

    def test_lifetime(self) -> None:
        """
        Clients that have been there for too long and go on sending get the echo of all that
        was taken from them, from first to last, and then the end of file, not a reset.
        """
        with Daemon(*LOOPBACK, "--max-lifetime", "1s") as daemon:
            came = time.monotonic()
            clients = [
                StreamClient(daemon.connect(receive_buffer=size), start=number * 1000)
                for number, size in enumerate((0, self.small, 0, self.small))
            ]
            with Clients(clients) as group:
                group.run(lambda: group.over, "the ends")
            daemon.ended("max-lifetime", len(clients))
            after = [client.ended - came for client in clients]
            show(f"a lifetime of 1 s: over after {min(after):.2f} to {max(after):.2f} s")
            self.assertEqual({client.end for client in clients}, {End.EOF})
            self.assertTrue(all(client.exact for client in clients))
            received = sorted(client.received for client in clients)
            self.assertEqual(sorted(record[2] for record in daemon.records()), received)
            self.assertGreaterEqual(min(after), 1.0)

    def test_takes_nothing(self) -> None:
        """
        A client that reads nothing of its echo is aborted after its write timeout; one that
        does not close its own side, soon after the end of file.
        """
        limits = ("--max-lifetime", "10s", "--idle-timeout", "10s", "--write-timeout", "2s")
        with tls_daemon("--port", "0", *limits) as daemon:
            stuck = StreamClient(daemon.connect("--port", self.small), reads=False)
            unread, stays = daemon.connect("--port", self.small), daemon.connect("--port")
            tls = WireClient(daemon.connect("--tls-port"), context("TLS 1.3")).handshake()
            for client in (unread, stays, tls.socket):
                self.addCleanup(client.close)
            send_unread(unread, self.data)
            # That one sends as long as anybody takes it.
            with Clients([stuck]) as group:
                group.run(lambda: len(daemon.records()) == 4, "all to be gone")
            self.assertGreater(stuck.sent, 0)
            self.assertEqual(receive_rest(stays), b"")
            tls.decrypt(receive_rest(tls.socket))
            self.assertIsInstance(tls.end, SSL.ZeroReturnError)
            ends = sorted((reason, took) for *_, took, reason in daemon.records())
            show(", ".join(f"{reason} after {took:.1f} s" for reason, took in ends))
            self.assertEqual(
                Counter(reason for reason, _ in ends), {"idle-timeout": 2, "write-timeout": 2}
            )
            # Its write timeout is over first, though it is as silent as the others.
            self.assertGreaterEqual(min(took for _, took in ends), 1.5)


class OwedTests(SynchronousTestCase):
    """
    Clients that read nothing of their pending echo.
    """

    kernel = 150_000
    """What the kernel holds for a client on a UNIX socket, so that reading does not pause."""

    def test_takes_nothing(self) -> None:
        """
        Each is ended for that reason and not before that time, however it is connected, also when
        reading goes on, or when it sends a little now and then; on a UNIX socket, when it has
        sent what the kernel holds. One that takes a little now and then stays.
        """
        options = ("--port", "0", "--listen", "unix:{}/echo.sock", "--write-timeout", "5s")
        with tls_daemon(*options) as daemon:
            small = 8 * KIB
            stalled = [daemon.connect("--port", small), daemon.connect("--listen")]
            stalled += [daemon.connect("--port", small), daemon.connect("--listen")]
            tls = WireClient(daemon.connect("--tls-port", small), context("TLS 1.3")).handshake()
            taker = daemon.connect("--port", small)
            for client in (*stalled, tls.socket, taker):
                self.addCleanup(client.close)
            for client in (*stalled, taker):
                send_unread(client, bytes(self.kernel))
            send_unread(tls.socket, tls.record(bytes(self.kernel)))
            taken, due = 0, time.monotonic()

            def all_ended() -> bool:
                nonlocal taken, due
                if time.monotonic() >= due:
                    due += 0.25
                    for client, piece in zip(stalled[2:], (b".", bytes(16 * KIB)), strict=True):
                        with contextlib.suppress(OSError):
                            client.send(piece, socket.MSG_DONTWAIT)
                    # Enough to open the window (RFC 1122, 4.2.3.3).
                    taken += len(taker.recv(4 * KIB))
                return len(daemon.records()) == 5

            wait_until(all_ended, "the stalls to be found")
            records = daemon.records()
            self.assertEqual(Counter(reason for *_, reason in records), {"write-timeout": 5})
            times = sorted(seconds for *_, seconds, _ in records)
            show(f"--write-timeout 5s: aborted after {times[0]:.2f} to {times[-1]:.2f} s")
            self.assertGreaterEqual(times[0], 4.7)
            taker.shutdown(socket.SHUT_WR)
            self.assertEqual(len(receive_rest(taker)) + taken, self.kernel)


class SlowReaderTests(SynchronousTestCase):
    """
    Clients that read steadily, and less than they send.
    """

    size = 64
    seconds = 6.0

    def test_stay(self) -> None:
        """
        They stay, however they are connected: on a UNIX socket a short message occupies more than
        its bytes, and in TLS a record has more.
        """
        options = ("--port", "0", "--listen", "unix:{}/echo.sock", "--write-timeout", "2s")
        with tls_daemon(*options) as daemon:
            tls = WireClient(daemon.connect("--tls-port"), context("TLS 1.3")).handshake()
            first, data = tls.record(bytes(self.size)), bytes(self.size)
            records = itertools.chain([first], iter(lambda: tls.record(data), None))
            kinds: list[tuple[socket.socket, int, Iterator[bytes]]] = [
                (daemon.connect("--port"), self.size, itertools.repeat(data)),
                (daemon.connect("--listen"), self.size, itertools.repeat(data)),
                (tls.socket, len(first), records),
            ]
            begun = due = time.monotonic()
            taken = [0] * len(kinds)
            while time.monotonic() < begun + self.seconds:
                wait_until(lambda due=due: time.monotonic() >= due, "the next turn")
                due = max(due + 0.05, time.monotonic())
                for turn, (client, length, pieces) in enumerate(kinds):
                    for _ in range(3):
                        client.sendall(next(pieces))
                    for _ in range(2):
                        taken[turn] += len(client.recv(length))
                    if taken[turn] == 2 * length:
                        # So that there is always something unread.
                        client.sendall(b"".join(itertools.islice(pieces, 50)))
            self.assertEqual(daemon.records(), [])
            self.assertGreater(min(taken), 10 * len(first))
            for client, *_ in kinds:
                client.close()


class StandstillTests(SynchronousTestCase):
    """
    The daemon stands still for longer than its limits, and clients send all the while.
    """

    seconds = 5
    """A PROXY header may take this long (C{PROXY_HEADER_TIMEOUT}); so may the others here."""

    def stopped(self, daemon: Daemon, proxied: Daemon) -> list[socket.socket]:
        """
        Connect, stop the daemons, and send.

        @return: the clients; empty if their limits were over before they had sent.
        """
        before = daemon.descriptors() + proxied.descriptors()
        start = time.monotonic()
        clients = [daemon.connect("--port"), daemon.connect("--tls-port"), proxied.connect()]
        for client in clients:
            self.addCleanup(client.close)

        def are_in() -> bool:
            return daemon.descriptors() + proxied.descriptors() >= before + 3

        wait_until(lambda: are_in() or time.monotonic() > start + self.seconds, "the clients")
        for each in (daemon, proxied):
            each.signal(signal.SIGSTOP)
        talking, secure, behind = clients
        talking.sendall(b"talks")
        secure.sendall(WireClient(secure, context("TLS 1.3")).flight())
        behind.sendall(v1("192.0.2.7", 40000) + b"hello")
        if are_in() and time.monotonic() < start + self.seconds:
            return clients
        for each in (daemon, proxied):
            each.signal(signal.SIGCONT)
        for client in clients:
            client.close()
        return []

    def test_unread(self) -> None:
        """
        No client is idle, and no PROXY header or ClientHello late, while its data waits to be read.
        """
        limit = f"{self.seconds}s"
        proxies = ("--proxy-protocol", "require", "--proxy-trust", "127.0.0.0/8")
        limits = ("--idle-timeout", limit, "--handshake-timeout", limit)
        with tls_daemon("--port", "0", *limits) as daemon, Daemon(*LOOPBACK, *proxies) as proxied:
            talking, secure, behind = wait_until(
                lambda: self.stopped(daemon, proxied), "the stop before the limits are over"
            )
            over = time.monotonic() + self.seconds + 1
            wait_until(lambda: time.monotonic() > over, "the limits to be over")
            for each in (daemon, proxied):
                each.signal(signal.SIGCONT)
            self.assertEqual(receive(talking, 5), b"talks")
            self.assertEqual(receive(behind, 5), b"hello")
            # Its answer to the ClientHello.  There is no time left for the rest of the handshake.
            self.assertEqual(receive(secure, 1), b"\x16")


class StopTests(SynchronousTestCase):
    """
    The daemon is told to stop while clients are in their handshakes.
    """

    number = 100

    def test_during_handshakes(self) -> None:
        """
        Silent clients, and those half-way through the handshake, do not hold up the stop.
        """
        with tls_daemon("--drain-timeout", "10m", "--handshake-timeout", "10m") as daemon:
            empty = daemon.descriptors()
            made = context("TLS 1.3")
            for turn in range(self.number):
                sock = daemon.connect("--tls-port")
                self.addCleanup(sock.close)
                client = WireClient(sock, made)
                match turn % 4:
                    case 1:
                        sock.sendall(client.flight()[:100])
                    case 2:
                        sock.sendall(client.flight())
                    case 3:
                        sock.sendall(client.last_flight()[:-1])
            wait_until(lambda: daemon.descriptors() == empty + self.number, "all to be accepted")
            took = daemon.stop()
            show(f"{self.number} clients silent or half-way: exit {took:.2f} s after TERM")
            self.assertEqual(daemon.status, -signal.SIGTERM)


class TenThousandTests(SynchronousTestCase):
    """
    As many clients as there may be by default.
    """

    clients = 10_000
    turned_away = 10

    def test_sweep(self) -> None:
        """
        10,000 may come, and the next is refused; the sweep leaves all of them alone.  What
        it costs: C{SweepTests} in C{tests/test_connections.py} counts the calls, and
        C{python -m tests.bench --only swept} the CPU time.
        """
        if REACTOR == "select":
            raise SkipTest("select(2) takes no descriptor above 1023")
        self.enterContext(many_descriptors(self.clients + 300))
        limits = ("--idle-timeout", "1h", "--max-lifetime", "1h")
        with Daemon(*LOOPBACK, *limits) as daemon:
            self.assertNotIn("#warn", daemon.log)
            place = ("127.0.0.1", daemon.port())
            addresses = itertools.cycle(itertools.islice(loopback_addresses(), 100))
            clients: list[socket.socket] = []
            for _ in range(self.clients + self.turned_away):
                clients.append(connect_from(next(addresses), place))
                self.addCleanup(clients[-1].close)
                is_served(clients[-1])
            # They are counted, and told, by the sweep.
            daemon.turned_away({"max-connections": self.turned_away})
            answers = [is_served(client) for client in clients]
            self.assertEqual(answers, [True] * self.clients + [False] * self.turned_away)
            self.assertEqual(daemon.records(), [])
