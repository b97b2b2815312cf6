"""
Listeners that misbehave on purpose (C{--fault}) and that greet (C{--greet}), with real clients.

No test here is judged by how late something is: C{python -m tests.bench.faults} measures that.
"""

import asyncio
import json
import random
import re
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

import tests
from echod._util.sockets import outq
from tests.support.certificates import make_certificate
from tests.support.clients import Connection, TLSClient, context
from tests.support.daemons import (
    LOOPBACK,
    PATIENCE_SECONDS,
    Daemon,
    tls_daemon,
    wait_until,
)
from tests.support.faultclients import Address, Seen, flipped, has_all, talk
from tests.support.faultfindings import FAULTS, finding
from tests.support.handshakes import client_context
from tests.support.haproxy import HAProxy, Way
from tests.support.proxyheaders import v2

KIB = 1024
DATA = random.Random(18).randbytes(1 << 20)

CHAINS = (
    ("latency=300ms,jitter=50ms",),
    ("bandwidth=64KiB",),
    ("slicer=1KiB,delay=2ms",),
    ("limit=64KiB",),
    ("reset=64KiB",),
    ("reset=300ms",),
    ("timeout",),
    ("limit=64KiB", "slow-close=300ms"),
    ("corrupt=16KiB",),
    ("refuse",),
    ("latency=300ms", "limit=64KiB", "slicer=1KiB"),
)


def arguments(listen: str) -> list[str]:
    """
    A listener for each chain.
    """
    found = []
    for chain in CHAINS:
        found += [listen, "tcp:0:interface=127.0.0.1", *(f"--fault={each}" for each in chain)]
    return found


def addresses(daemon: Daemon, listen: str) -> list[Address]:
    """
    The addresses of the listeners of this option.
    """
    found = [each.rpartition(":") for each, asked in daemon.addresses if asked.startswith(listen)]
    return [(host, int(port)) for host, _, port in found]


class FaultTests(SynchronousTestCase):
    """
    Each fault, plain and over TLS.
    """

    def see(self, chain: tuple[str, ...], address: Address, tls: bool) -> None:
        """
        Talk to the listener of a chain, and check what came back.
        """
        kind, _, value = chain[0].partition("=")
        until = {"timeout": lambda seen: seen.data or seen.ended}.get(kind)
        seconds = 1.0 if kind == "timeout" else PATIENCE_SECONDS
        size = 100 * KIB
        if kind in ("latency", "bandwidth", "slicer", "corrupt") and len(chain) == 1:
            until = has_all(DATA[:size])
        start = time.monotonic()
        seen = asyncio.run(
            talk(address, tls, DATA[:size], until or (lambda seen: seen.ended), seconds)
        )
        back = bytes(seen.data)
        told = f"{chain}, TLS {tls}, {len(back)} bytes, {seen.ended}"
        if kind == "corrupt":
            bits = flipped(DATA[:size], back)
            self.assertEqual([bit // (16 * KIB * 8) for bit in bits][:6], list(range(6)), told)
            self.assertLessEqual(len(bits), 7)
            return
        whole = {"timeout": 0, "refuse": 0}.get(kind, size)
        if "limit=64KiB" in chain or (value == "64KiB" and kind == "reset"):
            whole = 64 * KIB
        if kind == "reset" and value.endswith("ms"):
            # It takes with it what the client has not read by then.
            whole = len(back)
            self.assertGreaterEqual(seen.ended_at - start, 0.299, told)
        self.assertEqual((len(back), back == DATA[:whole]), (whole, True), told)
        ended = {"reset": "reset", "refuse": "reset"}.get(kind, "")
        self.assertEqual(seen.ended, "eof" if "limit=64KiB" in chain else ended, told)
        self.check_times(seen, kind, told)

    def check_times(self, seen: Seen, kind: str, told: str) -> None:
        """
        Nothing comes too early.
        """
        if kind == "latency":
            self.assertGreaterEqual(seen.pieces[0][0] - seen.sent_at, 0.249, told)
        if kind == "bandwidth":
            took = seen.pieces[-1][0] - seen.sent_at
            self.assertGreaterEqual(took, (100 - 64 / 20 * 2) / 64 * 0.9, told)

    def test_plain(self) -> None:
        """
        Each fault does what its definition says.
        """
        options = ("--access-log", "on", "--drain-timeout", "0")
        with Daemon(*arguments("--listen"), *options) as daemon:
            for chain, address in zip(CHAINS, addresses(daemon, "--listen"), strict=True):
                self.see(chain, address, False)
            # A timeout does not let the client's end be seen for another minute.
            count = len(CHAINS) - 1
            wait_until(
                lambda: daemon.log.count(" bytes echoed ") >= count, "the other access records"
            )
            daemon.stop()
            log = daemon.log
        self.assertEqual(log.count(" bytes echoed "), len(CHAINS))
        for chain in CHAINS:
            fault = "+".join(each.partition("=")[0] for each in chain)
            self.assertIn(f"fault {fault}\n", log)
            self.assertIn(f": misbehaves on purpose: {' '.join(chain)}; seed ", log)
        for fault in ("limit", "reset", "refuse"):
            self.assertRegex(log, f" s, ended by a fault; fault {fault}\n")

    def test_tls(self) -> None:
        """
        The same over TLS.
        """
        with tls_daemon(*arguments("--tls-listen")) as daemon:
            for chain, address in zip(CHAINS, addresses(daemon, "--tls-listen"), strict=True):
                self.see(chain, address, True)

    def test_half_close(self) -> None:
        """
        A client that closes its sending side gets everything, and then the end, through delays.
        """
        for faults in (["latency=200ms"], ["slicer=16KiB,delay=1ms", "slow-close=200ms"]):
            options = [f"--fault={each}" for each in faults]
            with Daemon(*LOOPBACK, *options) as daemon, daemon.connect() as client:
                start = time.monotonic()
                self.assertTrue(Connection(client).exchange(DATA) == DATA)
                self.assertGreaterEqual(time.monotonic() - start, 0.2)

    def test_half_close_tls(self) -> None:
        """
        The same over TLS, with a close_notify.
        """
        with tls_daemon("--fault=latency=200ms") as daemon:
            client = TLSClient(daemon.connect("--tls-port"), context("TLS 1.3"))
            self.assertTrue(client.handshake().exchange(DATA) == DATA)

    def test_unix(self) -> None:
        """
        On a UNIX socket, exactly the bytes before a fault come, and then the end.
        """
        for fault in ("limit=64KiB", "reset=64KiB", "latency=100ms"):
            daemon = Daemon("--listen", "unix:{}/echo.sock", "--fault", fault)
            with daemon, daemon.connect("--listen") as client:
                client.sendall(DATA[: 100 * KIB])
                if fault.startswith("latency"):
                    client.shutdown(socket.SHUT_WR)
                back = b""
                try:
                    while piece := client.recv(65536):
                        back += piece
                except ConnectionResetError:
                    self.assertEqual(fault, "reset=64KiB")
            size = 100 if fault.startswith("latency") else 64
            self.assertTrue(back == DATA[: size * KIB], (fault, len(back)))

    def test_seed(self) -> None:
        """
        The same seed gives the same connections the same fault.
        """
        found = []
        for _ in range(2):
            options = ("--fault", "refuse,chance=30%", "--fault-seed", "5")
            with Daemon(*LOOPBACK, *options) as daemon:
                address = ("127.0.0.1", daemon.port())
                talks = (talk(address, False, b"x", has_all(b"x")) for _ in range(40))
                found.append([bool(asyncio.run(each).data) for each in talks])
        self.assertEqual(found[0], found[1])
        self.assertEqual(len(set(found[0])), 2)

    def test_workers(self) -> None:
        """
        With workers, each listener has its own faults, and the other listeners have none.
        """
        listeners = ("--listen", "tcp:0:interface=127.0.0.1")
        with Daemon(
            *(*listeners, "--fault", "limit=10", *listeners, *listeners, "--fault", "reset=20B"),
            *("--workers", "2"),
        ) as daemon:
            limited, plain, reset = addresses(daemon, "--listen")
            for _ in range(5):
                for address, size, ended in ((limited, 10, "eof"), (reset, 20, "reset")):
                    seen = asyncio.run(talk(address, False, DATA[:100]))
                    self.assertEqual((seen.data, seen.ended), (DATA[:size], ended))
                seen = asyncio.run(talk(plain, False, DATA[:100], half_close=True))
                self.assertEqual((seen.data, seen.ended), (DATA[:100], "eof"))
            self.assertEqual(daemon.log.count("misbehaves on purpose"), 2)

    def test_stop(self) -> None:
        """
        A stop sends what is delayed at once, then drains.
        """
        for fault in ("latency=1h", "bandwidth=1KiB", "slicer=1,delay=1m", "timeout"):
            options = ("--fault", fault, "--greet", "--drain-timeout", "10m")
            with Daemon(*LOOPBACK, *options) as daemon:
                with daemon.connect() as client:
                    if fault != "timeout":
                        # The greeting is not delayed.
                        self.assertIn(b"}", client.makefile("rb", 0).readline())
                    client.sendall(DATA[: 200 * KIB])
                    wait_until(lambda: not outq(client.fileno()), "the daemon's kernel")
                    daemon.signal(signal.SIGTERM)
                    back = b""
                    while piece := client.recv(65536):
                        back += piece
                daemon.wait()
                self.assertTrue(back == (b"" if fault == "timeout" else DATA[: 200 * KIB]), fault)
                self.assertIn("drained: 1 connections finished, 0 aborted", daemon.log)

    def test_proxy_header(self) -> None:
        """
        Behind a proxy, the bytes after the header meet the faults, and a refusal comes after it.
        """
        trust = ("--proxy-protocol", "require", "--proxy-trust", "127.0.0.1")
        header = v2("192.0.2.1", 40000)
        with Daemon(*LOOPBACK, "--fault", "limit=64KiB", *trust) as daemon:
            seen = asyncio.run(
                talk(("127.0.0.1", daemon.port()), False, header + DATA[: 100 * KIB])
            )
            self.assertTrue(seen.data == DATA[: 64 * KIB])
            self.assertEqual(seen.ended, "eof")
        with Daemon(*LOOPBACK, "--fault", "refuse", *trust) as daemon:
            seen = asyncio.run(talk(("127.0.0.1", daemon.port()), False, header + b"x"))
            self.assertEqual((seen.data, seen.ended), (b"", "reset"))


class GreetingTests(SynchronousTestCase):
    """
    C{--greet}.
    """

    def test_plain_and_tls(self) -> None:
        """
        The first line says who is who; then comes the echo.
        """
        with tls_daemon("--greet", "--port", "0", "--greet") as daemon:
            with daemon.connect() as client:
                line, _, rest = Connection(client).exchange(b"echo").partition(b"\n")
                fields = json.loads(line)
                host, port = client.getsockname()
                self.assertEqual((fields["client"], rest), (f"{host}:{port}", b"echo"))
                self.assertEqual((fields["listener"], fields["connection"]), ("tcp", 1))
                self.assertEqual(fields["address"], daemon.address())
            client = TLSClient(daemon.connect("--tls-port"), context("TLS 1.3"))
            line, _, rest = client.handshake().exchange(b"echo").partition(b"\n")
            fields = json.loads(line)
            self.assertEqual((fields["tls_version"], rest), ("TLSv1.3", b"echo"))
            wait_until(lambda: "4 bytes echoed" in daemon.log, "the access records")

    def test_haproxy(self) -> None:
        """
        Behind HAProxy with PROXY version 2 and TLS, the line has the client's address, SNI, ALPN
        and the subject of the client's certificate; whether HAProxy ends TLS, or passes it on.
        """
        trust = ("--proxy-protocol", "require", "--proxy-trust", "127.0.0.1")
        options = "proxy-v2-options ssl,cert-cn,ssl-cipher,authority,crc32c,unique-id"
        authority = make_certificate(["authority"], authority=True)
        made = client_context("TLSv1.3", make_certificate(["a-client"], authority), alpn=(b"h2",))
        files = ("--tls-client-auth", "request", "--tls-client-ca", "{}/ca", "--tls-alpn", "h2")
        daemon = tls_daemon("--greet", "--port", "0", "--greet", *files, *trust)
        (daemon.directory / "ca").write_bytes(authority.cert_pem)
        with daemon:
            ways = [
                Way(
                    "ended",
                    f"{daemon.address('--port')} send-proxy-v2 {options}",
                    bind="ssl crt {}/pem alpn h2 verify optional ca-ignore-err all "
                    "crt-ignore-err all ca-file {}/pem",
                ),
                Way("passed", f"{daemon.address('--tls-port')} send-proxy-v2"),
            ]
            found = {}
            with HAProxy(ways) as proxy:
                for way in ("ended", "passed"):
                    with proxy.connect(way) as client:
                        host, port = client.getsockname()
                        session = TLSClient(client, made)
                        session.tls.set_tlsext_host_name(b"echo.example")
                        line, _, rest = session.handshake().exchange(b"echo").partition(b"\n")
                        found[way] = fields = json.loads(line)
                        self.assertEqual((fields["client"], rest), (f"{host}:{port}", b"echo"))
                        self.assertRegex(fields["proxy"], r"^127\.0\.0\.1:\d+$")
        ended, passed = found["ended"], found["passed"]
        self.assertEqual(
            (ended["proxy_authority"], ended["proxy_alpn"], ended["proxy_tls_cn"]),
            ("echo.example", "h2", "a-client"),
        )
        self.assertEqual((passed["tls_sni"], passed["tls_alpn"]), ("echo.example", "h2"))
        self.assertRegex(passed["tls_subject"], "a-client")
        self.assertTrue(re.fullmatch("[0-9A-F]+", passed["tls_serial"]))


class FindingTests(SynchronousTestCase):
    """
    What C{echod-check --conformance} finds.
    """

    def test_table(self) -> None:
        """
        For each fault, plain and over TLS, it finds what the table in C{tests/bench/README.md}
        says.
        """
        page = (Path(tests.__file__).parent / "bench" / "README.md").read_text()
        _, _, table = page.partition("| `--fault` | finding |\n|---|---|\n")
        rows = re.findall(r"^\| `(.+)` \| (.+) \|$", table.partition("\n\n")[0], re.MULTILINE)
        self.assertEqual([fault for fault, _ in rows], [fault for fault, _ in FAULTS])
        # More would take the CPU that the timeouts of the cases count on.
        with ThreadPoolExecutor(2) as pool:
            runs = [(*each, tls) for each in FAULTS for tls in (False, True)]
            found = list(pool.map(lambda each: (each[0], finding(*each)), runs))
        self.assertEqual(found, [row for row in rows for _ in range(2)])
