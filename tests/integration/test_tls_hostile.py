"""
TLS clients that do what they may but seldom do, and clients that do what they may not:
each costs only its own connection.
"""

import contextlib
import random
import re
import select
import signal
import socket
import subprocess
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from unittest import SkipTest

from OpenSSL import SSL
from twisted.trial.unittest import SynchronousTestCase

from tests.support import needs
from tests.support.clienthellos import extension, hello, records, vector
from tests.support.clients import VERSIONS, Clients, StreamClient, TLSClient, context, reset
from tests.support.daemons import (
    REACTOR,
    Daemon,
    Process,
    many_descriptors,
    receive_rest,
    show,
    tls_daemon,
    wait_until,
)
from tests.support.tlsrecords import CLIENT_HELLO, DATA, HANDSHAKE, OldSealer, Sealer, keep_secrets
from tests.support.tlswire import WireClient, spoil

KIB = 1024
MIB = 1024 * KIB


def join(daemon: Daemon, version: str, buffer: int = 0) -> TLSClient:
    """
    Connect, and do the handshake.

    @param buffer: C{SO_RCVBUF} and C{SO_SNDBUF} of the socket; 0 for the system's defaults.
    """
    sock = daemon.connect("--tls-port", buffer)
    if buffer:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
    return TLSClient(sock, context(version)).handshake()


class HostileTestCase(SynchronousTestCase):
    """
    A daemon for each test, and a well-behaved client of it that lives as long.
    """

    options: tuple[str, ...] = ()
    anew = False

    def setUp(self) -> None:
        self.daemon = self.enterContext(tls_daemon(*self.options, anew=self.anew))
        self.bystander = join(self.daemon, "TLS 1.3")
        self.addCleanup(self.bystander.close)
        self.goes_on()
        self.empty = self.daemon.descriptors()

    def goes_on(self) -> None:
        """
        The bystander is served.
        """
        data = random.randbytes(1000)
        self.assertEqual(self.bystander.exchange(data, close=False), data)

    def join(self, version: str, buffer: int = 0) -> TLSClient:
        client = join(self.daemon, version, buffer)
        self.addCleanup(client.close)
        return client

    def all_gone(self) -> None:
        """
        None but the bystander is left, whatever the clients hold open.
        """
        wait_until(lambda: self.daemon.descriptors() <= self.empty, "the descriptors to be closed")
        self.goes_on()


class BothWaysTests(HostileTestCase):
    """
    Both sides send at once.
    """

    clients = 2
    size = 16 * MIB

    def both_ways(self, version: str) -> None:
        clients = [
            StreamClient(
                join(self.daemon, version, 64 * KIB), 1000 * number, self.size, reads=False
            )
            for number in range(self.clients)
        ]
        with Clients(clients) as group:
            group.run(lambda: all(client.stuck for client in clients), "them to be held back")
            most = max(client.sent for client in clients)
            for client in clients:
                client.reads = True
            group.run(lambda: group.over, "the ends")
        same = sum(client.whole for client in clients)
        show(
            f"{version}, both sides sending: {same} of {self.clients} got their "
            f"{self.size // MIB} MiB, held back at {most / MIB:.1f} MiB before they read"
        )
        self.assertEqual(same, self.clients)
        self.assertLess(most, self.size)
        self.all_gone()

    def test_tls_1_2(self) -> None:
        """
        With TLS 1.2, clients that send until they are held back, and then send and read at
        once, get everything.
        """
        self.both_ways("TLS 1.2")

    def test_tls_1_3(self) -> None:
        """
        With TLS 1.3, clients that send until they are held back, and then send and read at
        once, get everything.
        """
        self.both_ways("TLS 1.3")


class RaggedTests(HostileTestCase):
    """
    Records that are read in parts: what OpenSSL holds of one makes no descriptor readable.
    """

    batches = 200
    most_records = 20

    def test_batches(self) -> None:
        """
        Records of all lengths, many in one segment, come back whole before anything more is
        sent.
        """
        rng = random.Random(2)
        batches = []
        for _ in range(self.batches):
            number = rng.randrange(1, self.most_records)
            batches.append([rng.choice((1, 100, 3000, 16384)) for _ in range(number)])
        for made in map(context, VERSIONS):
            client = WireClient(self.daemon.connect("--tls-port"), made).handshake()
            with client.socket as sock:
                for batch in batches:
                    data = rng.randbytes(sum(batch))
                    pieces, place = [], 0
                    for size in batch:
                        pieces.append(data[place : place + size])
                        place += size
                    sock.sendall(b"".join(map(client.record, pieces)))
                    back = b""
                    while len(back) < len(data):
                        back += client.decrypt(sock.recv(65536))
                    self.assertEqual(back, data)
        show(f"{len(batches)} batches of ragged records came back whole, for each version")
        self.all_gone()


class OfferTests(HostileTestCase):
    """
    Clients that offer what the daemon has no use for.
    """

    def test_application_protocols(self) -> None:
        """
        A client that offers application protocols (ALPN, RFC 7301), as curl and browsers
        do, is served, and none is agreed upon.
        """
        for version in VERSIONS:
            made = context(version)
            made.set_alpn_protos([b"h2", b"http/1.1"])
            client = TLSClient(self.daemon.connect("--tls-port"), made)
            self.addCleanup(client.close)
            self.assertEqual(client.handshake().exchange(b"hello"), b"hello")
            self.assertEqual(client.tls.get_alpn_proto_negotiated(), b"")
        self.all_gone()


class StallTests(HostileTestCase):
    """
    Clients that take nothing.
    """

    options = ("--write-timeout", "5s")
    anew = True

    def test_aborted(self) -> None:
        """
        A TLS client that sends and never reads is held back, and aborted when its time is
        over.
        """
        before = self.daemon.rss()
        clients = [self.join(version, 64 * KIB) for version in VERSIONS]
        data = bytes(32 * MIB)
        took = [client.fill(data) for client in clients]
        growth = self.daemon.rss() - before
        self.assertEqual(self.daemon.ended("write-timeout", len(clients)), len(clients))
        show(
            f"{len(clients)} TLS clients that never read: held back at {max(took) / MIB:.1f} MiB "
            f"at the most, {growth / KIB:.0f} KiB of memory, then aborted as write-timeout"
        )
        self.assertLess(max(took), 16 * MIB)
        self.assertLess(growth, 4 * MIB)
        self.all_gone()


class OpenSSLClient(Process):
    """
    C{openssl s_client}, which takes a letter at the start of a line as a command: C{k} and
    C{K} for a key update, C{R} for a renegotiation.
    """

    stdin = subprocess.PIPE

    def __init__(self, daemon: Daemon, version: str):
        address = daemon.address("--tls-port")
        super().__init__(needs.program("openssl"), "s_client", version, "-msg", "-connect", address)

    def say(self, line: str) -> None:
        """
        Send a line; or do what the letter stands for.
        """
        assert self._child.stdin is not None
        self._child.stdin.write(f"{line}\n".encode())
        self._child.stdin.flush()

    def echoes(self, line: str) -> None:
        """
        Send a line, and wait for it to come back.
        """
        self.say(line)
        wait_until(lambda: f"\n{line}\n" in self.stdout, "the echo")

    def seen(self, message: str) -> int:
        """
        How many messages of a kind have gone over the wire.
        """
        return len(re.findall(message, self.stdout))

    def __exit__(self, *how: object) -> None:
        super().__exit__(*how)  # type: ignore[arg-type]
        if self._child.stdin is not None:
            self._child.stdin.close()


class RekeyTests(HostileTestCase):
    """
    New keys for a connection that has some already.
    """

    updates = 30

    def test_key_updates(self) -> None:
        """
        The echo goes on when a TLS 1.3 client changes its keys, and when it asks the daemon
        to change its own, which it does.
        """
        with OpenSSLClient(self.daemon, "-tls1_3") as client:
            client.echoes("x first")
            for number in range(self.updates):
                for letter in "kK":
                    before = client.stderr.count("KEYUPDATE")
                    client.say(letter)
                    wait_until(
                        lambda before=before: client.stderr.count("KEYUPDATE") > before,
                        "the key update",
                    )
                    client.echoes(f"x after {letter} {number}")
            ours = client.seen(r">>> TLS 1\.3, Handshake .*KeyUpdate")
            theirs = client.seen(r"<<< TLS 1\.3, Handshake .*KeyUpdate")
            show(f"{ours} key updates by the client, {theirs} by the daemon, the echo went on")
            self.assertEqual(ours, 2 * self.updates)
            self.assertEqual(theirs, self.updates)
            client.say("Q")
            client.wait()
        self.assertEqual(self.daemon.ended("client", 1), 1)
        self.all_gone()

    def test_renegotiation(self) -> None:
        """
        A TLS 1.2 client that wants to renegotiate is told no, and others are served on.
        """
        other = self.join("TLS 1.2")
        self.assertEqual(other.exchange(b"before", close=False), b"before")
        with OpenSSLClient(self.daemon, "-tls1_2") as client:
            client.echoes("x first")
            client.say("R")
            client.wait()
            refused = client.seen("Alert .*no_renegotiation")
            hellos = client.seen("<<< .*ServerHello\n")
            show(f"renegotiation: {hellos} ServerHello, {refused} alert no_renegotiation")
            self.assertEqual((hellos, refused), (1, 1))
        wait_until(lambda: len(self.daemon.records()) == 1, "the end of that connection")
        self.assertEqual(other.exchange(b"after", close=False), b"after")
        other.close()
        self.all_gone()


class FloodTests(HostileTestCase):
    """
    Clients that send what carries no data, or no end: the others are served meanwhile.
    """

    updates = 30_000
    least_echoes = 10
    hellos = 64

    def flood(self, version: str) -> None:
        """
        Send many records without data, and data behind them; until it is answered, count
        the bystander's echoes.
        """
        made = context(version)
        secrets = keep_secrets(made)
        client = TLSClient(self.daemon.connect("--tls-port"), made).handshake()
        self.addCleanup(client.close)
        self.assertEqual(client.exchange(b"x", close=False), b"x")
        if version == "TLS 1.3":
            sealer = Sealer(secrets)
            # The one that OpenSSL has sent.
            sealer.seal(DATA, b"x")
            pieces = [sealer.key_update() for _ in range(self.updates)]
            last = sealer.seal(DATA, b"behind them")
        else:
            old = OldSealer(secrets, client.tls.server_random())
            old.seal(DATA, b"x")
            pieces = [old.seal(HANDSHAKE, CLIENT_HELLO) for _ in range(self.updates)]
            last = old.seal(DATA, b"behind them")
        sent = b"".join((*pieces, last))

        def send_and_wait() -> None:
            view, back, kind = memoryview(sent), b"", 0
            poller = select.poll()
            while kind != DATA:
                # Refusals of a renegotiation come back meanwhile, and want to be read.
                poller.register(client.socket, select.POLLIN | (select.POLLOUT if view else 0))
                if not poller.poll(60_000):
                    raise TimeoutError("the daemon neither sends nor takes")
                with contextlib.suppress(BlockingIOError):
                    view = view[client.socket.send(view) :]
                with contextlib.suppress(BlockingIOError):
                    back += client.socket.recv(65536)
                while kind != DATA and len(back) > 4:
                    kind, back = back[0], back[5 + int.from_bytes(back[3:5], "big") :]

        echoes = 0
        with ThreadPoolExecutor(1) as pool:
            coming = pool.submit(send_and_wait)
            while not coming.done():
                self.assertEqual(self.bystander.exchange(b"x", close=False), b"x")
                echoes += 1
            coming.result()
        show(f"{version}: {echoes} echoes of another beside {self.updates} records without data")
        self.assertGreaterEqual(echoes, self.least_echoes)

    def test_key_updates(self) -> None:
        """
        Others are served beside a client that sends KeyUpdates without end.
        """
        self.flood("TLS 1.3")

    def test_renegotiations(self) -> None:
        """
        Others are served beside one that asks for renegotiations without end.
        """
        self.flood("TLS 1.2")

    def hello_refused(self, sent: bytes, detail: str) -> None:
        """
        Clients that begin like this, all at once, are refused, and the log says why.
        """
        clients = [self.daemon.connect("--tls-port") for _ in range(self.hellos)]
        for sock in clients:
            self.addCleanup(sock.close)
            sock.setblocking(False)
            with contextlib.suppress(BlockingIOError, ConnectionError):
                sock.sendall(sent)
            self.goes_on()
        self.daemon.turned_away({"handshake": self.hellos})
        self.assertEqual(set(re.findall("refused .*, (a .*)", self.daemon.log)), {detail})
        self.all_gone()

    def test_hellos_in_small_records(self) -> None:
        """
        ClientHellos of 64 KB in records of one byte are refused at their seventeenth record.
        """
        self.hello_refused(records(hello(65_000), 1), "a ClientHello in more than 16 records")

    def test_large_hellos(self) -> None:
        """
        ClientHellos of more than 16 KiB are refused.
        """
        self.hello_refused(records(hello(65_000)), "a ClientHello of more than 16 KiB")

    def test_protocols(self) -> None:
        """
        A ClientHello with as many protocols (ALPN) as go into 16 KiB is one as any other to
        a daemon that has none on offer.
        """
        protocols = extension(16, vector(2, b"\1a" * 7500))
        with self.daemon.connect("--tls-port") as sock:
            sock.sendall(records(hello(0, protocols)))
            self.assertEqual(sock.recv(6)[5:], b"\2")


class FarewellTests(HostileTestCase):
    """
    What comes behind a client's close_notify.
    """

    size = 300_000

    def test_ignored(self) -> None:
        """
        Whatever comes behind a client's close_notify is ignored: it gets back all that it
        has sent, and a close_notify, and the connection ends when it closes.
        """
        junk = {
            "a record": b"\x17\3\3\0\x20" + bytes(32),
            "an alert": b"\x15\3\3\0\x13" + bytes(19),
            "100 KB": bytes(100_000),
        }
        data = random.Random(5).randbytes(self.size)
        for version in VERSIONS:
            for what, more in junk.items():
                sock = self.daemon.connect("--tls-port", 64 * KIB)
                with sock:
                    client = WireClient(sock, context(version)).handshake()
                    sent = client.records(data) + more
                    with ThreadPoolExecutor(1) as pool:
                        sending = pool.submit(sock.sendall, sent)
                        back = b""
                        while not isinstance(client.end, SSL.ZeroReturnError):
                            piece = sock.recv(65536)
                            self.assertNotEqual(piece, b"", f"{version}, {what}: no close_notify")
                            back += client.decrypt(piece)
                        sending.result()
                    # What comes later still is no reason for a reset.
                    sock.sendall(more)
                    self.assertEqual(receive_rest(sock), b"")
                    self.assertEqual(back == data, True, f"{version}, {what}: {len(back)} bytes")
        number = len(VERSIONS) * len(junk)
        self.assertEqual(self.daemon.ended("client", number), number)
        self.all_gone()
        show(f"behind a close_notify: {number} of {number} got all back, and no reset")


class GoneTests(HostileTestCase):
    """
    Clients that go without a word, or stay when they should go.
    """

    # Who goes before the handshake is over is recorded at that level only.
    options = ("--log-level", "debug", "--drain-timeout", "10m")

    def test_vanished(self) -> None:
        """
        A client that closes without a close_notify has got what it sent, and is logged as a
        connection that broke.
        """
        data = random.Random(3).randbytes(30_000)
        leave = {"FIN": socket.socket.close, "RST": reset}
        for version in VERSIONS:
            for how in leave.values():
                client = self.join(version)
                self.assertEqual(client.exchange(data, close=False), data)
                how(client.socket)
        self.daemon.ended("reset", 4)
        self.assertEqual(
            Counter((size, reason) for _, _, size, _, reason in self.daemon.records()),
            {(len(data), "reset"): 4},
        )
        self.all_gone()
        show("gone without close_notify: 4 of 4 logged as reset")

    def test_truncated(self) -> None:
        """
        A FIN right behind the data, without a close_notify, is never taken for an orderly
        end, and all that came before it counts.
        """
        number = 20
        for version in VERSIONS:
            for _ in range(number):
                client = self.join(version)
                client.tls.sendall(bytes(10_000))
                client.socket.shutdown(socket.SHUT_WR)
                client.socket.setblocking(True)
                receive_rest(client.socket)
                client.close()
        self.daemon.ended("reset", 2 * number)
        sizes = Counter((size, reason) for _, _, size, _, reason in self.daemon.records())
        show(f"truncated streams, bytes and reason: {dict(sizes)}")
        self.assertEqual(sizes, {(10_000, "reset"): 2 * number})
        self.all_gone()

    def test_socket_kept_open(self) -> None:
        """
        A client that has had its answer and the close_notify, and keeps its socket open,
        costs the daemon nothing any more when its linger is over.
        """
        for version in VERSIONS:
            client = self.join(version)
            self.assertEqual(client.exchange(b"all of it"), b"all of it")
        self.daemon.ended("client", len(VERSIONS))
        self.all_gone()

    def test_close_notify_not_answered(self) -> None:
        """
        Clients that never answer the daemon's close_notify do not hold up its stop.
        """
        clients = [self.join(version) for version in VERSIONS]
        for client in clients:
            self.assertEqual(client.exchange(b"hello", close=False), b"hello")
        self.daemon.signal(signal.SIGTERM)
        told = time.monotonic()
        for client in clients:
            self.assertEqual(client.rest(), b"")
        self.daemon.wait()
        took = time.monotonic() - told
        show(f"close_notify never answered: exit {took:.2f} s after TERM")
        self.assertEqual(self.daemon.ended("drain", 3), 3)
        self.assertIn("drained: 3 connections finished, 0 aborted", self.daemon.log)

    def stop_half_way(self, number: int) -> list[socket.socket]:
        """
        Clients that stop somewhere in their handshakes.
        """
        clients: list[socket.socket] = []
        for version in VERSIONS:
            made = context(version)
            for turn in range(number):
                sock = self.daemon.connect("--tls-port")
                self.addCleanup(sock.close)
                clients.append(sock)
                client = WireClient(sock, made)
                # Of every other one, the server's flight has come and gone.
                flight = client.last_flight() if turn % 2 else client.flight()
                sock.sendall(flight[: turn * len(flight) // number])
        wait_until(
            lambda: self.daemon.descriptors() == self.empty + len(clients), "all to be accepted"
        )
        self.goes_on()
        self.assertEqual(self.daemon.records(), [])
        return clients

    def test_unfinished_handshakes(self) -> None:
        """
        Clients that stop in the middle of the handshake delay no other, and leave nothing
        behind when they go.  Those that have sent a byte have failed to shake hands.
        """
        number = 40
        clients = self.stop_half_way(number)
        for turn, sock in enumerate(clients):
            if turn % 4 < 2:
                reset(sock)
            else:
                sock.close()
        self.all_gone()
        # The first one of each version has sent nothing.
        silent = len(clients) // number
        refused = len(clients) - silent
        self.daemon.turned_away({"handshake": refused})
        self.daemon.ended("reset", silent)
        reasons = Counter((size, reason) for _, _, size, _, reason in self.daemon.records())
        show(f"{len(clients)} clients left in mid-handshake: {dict(reasons)}, {refused} refused")
        self.assertEqual(reasons, {(0, "reset"): silent})
        self.assertIn(", the client went away\n", self.daemon.log)

    def test_stop_during_handshakes(self) -> None:
        """
        Clients that stop in the middle of the handshake do not hold up the daemon's stop.
        """
        clients = self.stop_half_way(10)
        self.bystander.close()
        self.daemon.ended("reset", 1)
        self.daemon.signal(signal.SIGTERM)
        took = self.daemon.wait()
        show(f"{len(clients)} unfinished handshakes: exit {took:.2f} s after TERM")
        self.assertEqual(len(self.daemon.records()), len(clients) + 1)


class BadInputTests(HostileTestCase):
    """
    Bytes that are not TLS, or not what they were.
    """

    options = ("--log-level", "debug")
    anew = True

    warm_up = 500
    noise = 1000
    hellos = 5000
    flights = 1000
    streams = 3000
    most_growth = 4 * MIB

    pieces = (b"first", bytes(700), random.Random(5).randbytes(300))

    def setUp(self) -> None:
        super().setUp()
        self.address = self.daemon.address("--tls-port")
        self.contexts = [context(version) for version in VERSIONS]
        self.whole = 0

    def say(self, sock: socket.socket, data: bytes) -> bytes:
        """
        Say all of it, close our side, and listen to the end.
        """
        try:
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
        except OSError:
            # It has heard enough.
            pass
        return receive_rest(sock)

    def case_noise(self, rng: random.Random, sock: socket.socket) -> None:
        start = rng.choice(
            (b"", b"\x16\x03\x01", b"\x16\x03\x01\x00\x30", b"\x17\x03\x03", b"\x80")
        )
        self.say(sock, start + rng.randbytes(rng.choice((1, 10, 100, 1000, 20_000))))

    def case_hello(self, rng: random.Random, sock: socket.socket) -> None:
        client = WireClient(sock, rng.choice(self.contexts))
        self.say(sock, spoil(rng, client.flight()))

    def case_flight(self, rng: random.Random, sock: socket.socket) -> None:
        client = WireClient(sock, rng.choice(self.contexts))
        self.say(sock, spoil(rng, client.last_flight()))

    def case_stream(self, rng: random.Random, sock: socket.socket) -> None:
        client = WireClient(sock, rng.choice(self.contexts)).handshake()
        back = client.decrypt(self.say(sock, spoil(rng, client.records(*self.pieces))))
        # Whole records, from the first on; never a byte of a spoiled one.
        self.assertIn(back, [b"".join(self.pieces[:n]) for n in range(len(self.pieces) + 1)])
        self.whole += len(back) == sum(map(len, self.pieces))

    def cases(self, kind: str, number: int, seed: int) -> None:
        """
        Do so many, each on a connection of its own and from a generator of its own.
        """
        case = getattr(self, f"case_{kind}")
        for turn in range(number):
            with socket.create_connection(self.place, 60) as sock:
                try:
                    case(random.Random(f"{kind} {seed} {turn}"), sock)
                except BaseException:
                    print(f"the case was: {kind}, seed {seed}, number {turn}")
                    raise
            if turn % 250 == 0:
                self.goes_on()

    @property
    def place(self) -> tuple[str, int]:
        host, _, port = self.address.rpartition(":")
        return host, int(port)

    def accounted(self) -> int:
        """
        How many connections the log has told of, by a record or among the refusals.
        """
        return self.daemon.log.count("bytes echoed in") + self.daemon.refused().total()

    def other_lines(self) -> list[str]:
        """
        The lines that are about neither.
        """
        about = re.compile(r"bytes echoed in|refused \d+: handshake, ")
        return [line for line in self.daemon.log.splitlines() if not about.search(line)]

    def test_ten_thousand(self) -> None:
        """
        10,000 connections of noise, and of spoiled handshakes and records, each end alone,
        each is in the log's account, and they leave nothing behind.
        """
        kinds = {
            "noise": self.noise,
            "hello": self.hellos,
            "flight": self.flights,
            "stream": self.streams,
        }
        start = time.monotonic()
        for kind in kinds:
            self.cases(kind, self.warm_up // len(kinds), seed=0)
        wait_until(lambda: self.accounted() == self.warm_up, "the account of the warm-up")
        before, lines = self.daemon.rss(), self.other_lines()
        self.whole = 0
        for kind, number in kinds.items():
            self.cases(kind, number, seed=1)
        self.all_gone()
        growth = self.daemon.rss() - before
        total = sum(kinds.values())
        wait_until(lambda: self.accounted() >= self.warm_up + total, "the account")
        refused = self.daemon.refused()
        reasons = Counter(record[4] for record in self.daemon.records()) + refused
        show(
            f"{total} spoiled connections: {dict(reasons)} with the warm-up, {self.whole} of "
            f"{self.streams} spoiled streams whole, {growth / KIB:.0f} KiB more than before"
        )
        self.assertEqual(total, 10_000)
        self.assertEqual(reasons.total(), self.warm_up + total)
        # A line for each record, one a second for the refusals, and no other.
        self.assertEqual(self.other_lines(), lines)
        self.assertLessEqual(len(self.daemon.refusals()), time.monotonic() - start + 2)
        self.assertLessEqual(set(reasons), {"client", "reset", "error", "handshake"})
        self.assertGreater(refused["handshake"], 0)
        self.assertLessEqual(growth, self.most_growth)

    def test_spoiled_record(self) -> None:
        """
        At a record that was tampered with, the daemon ends that connection by itself, with
        an alert and the reason error.
        """
        for made in self.contexts:
            with socket.create_connection(self.place, 60) as sock:
                client = WireClient(sock, made).handshake()
                good = client.record(b"good")
                bad = bytearray(client.record(b"bad"))
                bad[-1] ^= 1
                sock.sendall(good + bad + client.record(b"late"))
                self.assertEqual(client.decrypt(receive_rest(sock)), b"good")
                self.assertRegex(str(client.end), "bad record mac")
        self.daemon.ended("error", len(self.contexts))
        self.assertEqual([record[2] for record in self.daemon.records()], [4, 4])
        self.all_gone()

    def test_plain_text(self) -> None:
        """
        A client that does not speak TLS is let go at once, and refused with the reason
        handshake.
        """
        with socket.create_connection(self.place, 60) as sock:
            sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
            self.assertNotIn(b"GET", receive_rest(sock))
        self.daemon.turned_away({"handshake": 1})
        self.assertEqual(self.daemon.records(), [])
        self.all_gone()


class IdleTests(HostileTestCase):
    """
    Clients that are connected and do nothing.
    """

    anew = True

    warm_up = 50
    clients = 1000
    most_bytes_each = 32 * KIB

    def idle(self, version: str) -> None:
        if REACTOR == "select":
            raise SkipTest("select(2) takes no descriptor above 1023")
        self.enterContext(many_descriptors(self.warm_up + self.clients + 200))
        address = self.daemon.address("--tls-port")
        host, _, port = address.rpartition(":")
        made = context(version)

        def come(number: int) -> None:
            for _ in range(number):
                sock = socket.create_connection((host, int(port)), 60)
                self.addCleanup(sock.close)
                client = TLSClient(sock, made).handshake()
                self.assertEqual(client.exchange(b"x", close=False), b"x")

        come(self.warm_up)
        before, descriptors = self.daemon.rss(), self.daemon.descriptors()
        come(self.clients)
        each = (self.daemon.rss() - before) / self.clients
        more = self.daemon.descriptors() - descriptors
        show(f"{version}: {more} idle connections, {each / KIB:.1f} KiB each")
        self.assertEqual(more, self.clients)
        self.assertLessEqual(each, self.most_bytes_each)

    def test_tls_1_2(self) -> None:
        """
        1000 idle TLS 1.2 connections cost at most 32 KiB each in the daemon's memory.
        """
        self.idle("TLS 1.2")

    def test_tls_1_3(self) -> None:
        """
        1000 idle TLS 1.3 connections cost at most 32 KiB each in the daemon's memory.
        """
        self.idle("TLS 1.3")
