"""
HAProxy in front: the daemon knows who the client is, and every byte comes back.
"""

import hashlib
import random
import re
import socket
from collections.abc import Iterator

from twisted.trial.unittest import SynchronousTestCase

from tests.support import needs
from tests.support.clients import Connection, TLSClient, context
from tests.support.daemons import (
    Daemon,
    echo,
    show,
    tls_daemon,
    wait_until,
)
from tests.support.haproxy import HAProxy, Way

MIB = 1024 * 1024

DATA = random.Random(8).randbytes(8 * MIB)

ALL_V2_OPTIONS = "proxy-v2-options ssl,cert-cn,ssl-cipher,authority,crc32c,unique-id"

ENDS_TLS = "ssl crt {}/pem alpn h2"
"""A frontend that speaks TLS with the client itself."""

UNIQUE = "unique-id-format %{+X}o%ci-%cp"


def endpoints(client: socket.socket) -> str:
    """
    The client's own address, as the daemon has it in its log.
    """
    host, port = client.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def plain(client: socket.socket) -> bytes:
    """
    Send all of it, close the sending side, and read to the end.
    """
    return Connection(client).exchange(DATA)


def secure(client: socket.socket) -> bytes:
    """
    The same over TLS, closed with a close_notify.
    """
    made = context("TLS 1.3")
    made.set_alpn_protos([b"h2"])
    session = TLSClient(client, made)
    session.tls.set_tlsext_host_name(b"echo.example")
    return session.handshake().exchange(DATA)


class HAProxyTests(SynchronousTestCase):
    """
    HAProxy's own PROXY headers.
    """

    def setUp(self) -> None:
        trust = ("--proxy-protocol", "require", "--proxy-trust", "127.0.0.1")
        self.daemon = self.enterContext(tls_daemon("--port", "0", *trust))
        self.plain = self.daemon.address("--port")
        self.tls = self.daemon.address("--tls-port")

    def through(self, proxy: HAProxy, way: str, talk: object = plain) -> str:
        """
        Send 8 MiB this way and have them back.

        @return: the access record that names the client.
        """
        with proxy.connect(way) as client:
            peer = endpoints(client)
            back = talk(client)
        self.assertEqual((way, digest(back)), (way, digest(DATA)))
        start, size = f" of {peer} to ", f" {len(DATA)} bytes"

        def record() -> str:
            lines = self.daemon.log.splitlines()
            return "".join(line for line in lines if start in line and size in line)

        line = wait_until(record, f"the record of {peer}, {way}")
        self.assertRegex(line, r", closed by client; proxy 127\.0\.0\.1:\d+")
        return line

    def test_send_proxy(self) -> None:
        """
        With C{send-proxy} and C{send-proxy-v2}, plain and over HAProxy's own TLS, the record
        has the client's address and port, and 8 MiB with a half-close come back exactly.
        """
        self.send_proxy("127.0.0.1")

    def test_send_proxy_ipv6(self) -> None:
        """
        So it is for a client of IPv6.
        """
        needs.ipv6()
        self.send_proxy("::1")

    def send_proxy(self, host: str) -> None:
        ways = [
            Way(f"{name}-{version}", f"{address} {version} {tls}", host=host)
            for name, address, tls in (
                ("plain", self.plain, ""),
                ("tls", self.tls, "ssl verify none"),
            )
            for version in ("send-proxy", "send-proxy-v2")
        ]
        with HAProxy(ways) as proxy:
            for way in ways:
                self.through(proxy, way.name)
        names = ", ".join(way.name for way in ways)
        show(f"HAProxy at {host}: 8 MiB and a half-close, exact for {names}")
        self.assertEqual(self.daemon.refused(), {})

    def test_passed_through(self) -> None:
        """
        The client's own TLS, passed on behind the header, ends at the daemon.
        """
        ways = [
            Way(version, f"{self.tls} {version}") for version in ("send-proxy", "send-proxy-v2")
        ]
        with HAProxy(ways) as proxy:
            for way in ways:
                self.through(proxy, way.name, secure)

    def test_options(self) -> None:
        """
        What HAProxy tells besides is in the record: the unique id, and of a TLS that it has
        ended itself the version, the cipher, ALPN and the name that was asked for; its
        checksum is found to be right.
        """
        server = f"send-proxy-v2 {ALL_V2_OPTIONS}"
        ways = [
            Way("plain", f"{self.plain} {server}", more=UNIQUE),
            Way("ended", f"{self.plain} {server}", bind=ENDS_TLS, more=UNIQUE),
            Way("again", f"{self.tls} {server} ssl verify none", bind=ENDS_TLS, more=UNIQUE),
        ]
        with HAProxy(ways) as proxy:
            line = self.through(proxy, "plain")
            self.assertRegex(line, r"; proxy_unique_id 7F000001-[0-9A-F]+")
            self.assertNotIn("proxy_tls", line)
            for way in ("ended", "again"):
                line = self.through(proxy, way, secure)
                facts = dict(re.findall(r"; (proxy_\w+) (\S+?)(?=;|$)", line))
                self.assertEqual(facts.pop("proxy_tls_cipher")[:4], "TLS_")
                self.assertRegex(facts.pop("proxy_unique_id"), "^7F000001-")
                self.assertEqual(
                    facts,
                    {
                        "proxy_alpn": "h2",
                        "proxy_authority": "echo.example",
                        "proxy_tls_version": "TLSv1.3",
                    },
                )
                show(f"HAProxy tells, {way}: {line.partition('; ')[2]}")


CHECK = "check inter 50ms rise 1 fall 20"
"""A server's options: it is down if twenty checks in a row fail, and each of them is told."""


class HealthCheckTests(SynchronousTestCase):
    """
    HAProxy's health checks.
    """

    checks = 10

    def ways(self, name: str, daemon: Daemon) -> Iterator[Way]:
        """
        For each kind of check, a server that is checked in that way.
        """
        every = f"{CHECK} check-send-proxy"
        plain, tls = daemon.address("--port"), daemon.address("--tls-port")
        for version in ("send-proxy", "send-proxy-v2"):
            yield Way(f"{name}-plain-{version}", f"{plain} {version} {every}")
            yield Way(f"{name}-tcp-{version}", f"{tls} {version} {every}")
        # One without a header.
        yield Way(f"{name}-bare", f"{plain} {CHECK}")

    def test_not_logged(self) -> None:
        """
        With and without a header, to both ports: at the default level the log does not
        speak of the checks, they find the daemon well, and clients are served meanwhile.
        """
        trust = ("--proxy-protocol", "require", "--proxy-trust", "127.0.0.1", "--port", "0")
        info = self.enterContext(tls_daemon(*trust))
        debug = self.enterContext(tls_daemon(*trust, "--log-level", "debug"))
        ways = [*self.ways("info", info), *self.ways("debug", debug)]
        least = self.checks * len(ways) // 2
        with HAProxy(ways) as proxy:
            with proxy.connect("info-plain-send-proxy-v2") as client:
                peer = endpoints(client)
                rounds = 0

                def checked() -> bool:
                    nonlocal rounds
                    rounds += 1
                    self.assertEqual(echo(client, b"hello"), b"hello")
                    return debug.log.count("#debug] connection ") >= least

                wait_until(checked, "the checks")
            failed = re.findall(r"check for server .* failed, reason: ([^,]+)", proxy.stderr)
            # HAProxy allows a check the time to the next one, which a busy machine can take.
            self.assertEqual([each for each in failed if "timeout" not in each], [])
        size = 5 * rounds
        wait_until(
            lambda: f" of {peer} to {info.address()}: {size} bytes" in info.log,
            "the client's record",
        )
        for daemon in (info, debug):
            daemon.stop()
            self.assertEqual(daemon.refused(), {})
        self.assertEqual(info.log.count("bytes echoed in"), 1)
        counted = re.search(r"echod stopped: (\d+) connections", info.log)
        assert counted is not None
        show(f"HAProxy checked {counted[1]} times, and the log says nothing of it")
        self.assertGreater(int(counted[1]), least // 2)

    def test_with_tls(self) -> None:
        """
        A check that goes as far as the TLS handshake, as HAProxy's do to a server that it
        speaks TLS with, leaves no line either.
        """
        with tls_daemon("--log-level", "debug") as daemon:
            server = f"{daemon.address('--tls-port')} ssl verify none"
            with HAProxy([Way("tls", f"{server} check inter 50ms rise 1 fall 1")]):
                wait_until(lambda: len(daemon.records()) >= self.checks, "the checks")
            self.assertNotIn("echod.connections#info] connection ", daemon.log)
