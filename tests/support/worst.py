"""
C{python -m tests.support.worst KIND ADDRESS NUMBER}: a client that costs the others the most,
by so many of its connections at once, until standard input ends.

It says C{ready} when all are connected and under way.
"""

import argparse
import contextlib
import itertools
import os
import select
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from OpenSSL import SSL

import tests
from tests.support.admin import ADMIN
from tests.support.certificates import make_certificate
from tests.support.clients import context, reset
from tests.support.daemons import LOOPBACK, Daemon, connect
from tests.support.proxyheaders import tlv, v1, v2
from tests.support.tlsrecords import CLIENT_HELLO, HANDSHAKE, OldSealer, Sealer, keep_secrets
from tests.support.tlswire import WireClient

ROOT = Path(tests.__file__).parent.parent


@dataclass(frozen=True)
class Kind:
    """
    What each connection does.

    @ivar option: the listener that it is for.
    @ivar payload: makes what it sends, given its connected socket: bytes, or several of them,
        one after the other.
    @ivar piece: how much of that goes into one segment.
    @ivar repeat: whether it begins anew on the same connection; else it closes and connects
        again.
    @ivar flags: for C{send(2)}.
    @ivar reads: whether it takes what comes back.
    @ivar resets: whether it closes with a reset.
    """

    option: str
    payload: Callable[[socket.socket], bytes | Iterator[bytes]]
    piece: int = 65536
    repeat: bool = False
    flags: int = 0
    reads: bool = True
    resets: bool = False


def _always(payload: bytes) -> Callable[[socket.socket], bytes]:
    return lambda sock: payload


def _request(path: str, *headers: bytes) -> bytes:
    head = f"GET {path} HTTP/1.1\r\nHost: localhost\r\n".encode()
    return head + b"".join(each + b"\r\n" for each in headers) + b"\r\n"


def _vector(size: int, body: bytes) -> bytes:
    return len(body).to_bytes(size, "big") + body


def _extension(number: int, body: bytes) -> bytes:
    return struct.pack("!H", number) + _vector(2, body)


def client_hello(*extensions: bytes, record: int = 16384) -> bytes:
    """
    A ClientHello (RFC 8446, 4.1.2) that asks for TLS 1.3, in records of this length.
    """
    asked = (
        _extension(43, b"\2\3\4"),
        _extension(10, _vector(2, b"\0\x17")),
        _extension(13, _vector(2, b"\4\3")),
        _extension(51, _vector(2, b"")),
    )
    body = b"\3\3" + os.urandom(32) + b"\0" + _vector(2, b"\x13\1") + b"\1\0"
    body += _vector(2, b"".join((*asked, *extensions)))
    message = b"\1" + _vector(3, body)
    pieces = (message[at : at + record] for at in range(0, len(message), record))
    return b"".join(b"\x16\3\1" + _vector(2, piece) for piece in pieces)


def _context() -> SSL.Context:
    return SSL.Context(SSL.TLS_CLIENT_METHOD)


def _hello(sock: socket.socket) -> bytes:
    return WireClient(sock, _context()).flight()


def _small_records(sock: socket.socket) -> Iterator[bytes]:
    client = WireClient(sock, _context()).handshake()
    while True:
        yield b"".join(client.record(b".") for _ in range(500))


def _key_updates(sock: socket.socket) -> Iterator[bytes]:
    made = context("TLS 1.3")
    secrets = keep_secrets(made)
    WireClient(sock, made).handshake()
    sealer = Sealer(secrets)
    # They take longer to make than to handle: many are made before the flood begins.
    yield b"".join(sealer.key_update() for _ in range(500))
    while True:
        yield b"".join(sealer.key_update() for _ in range(50))


def _renegotiations(sock: socket.socket) -> Iterator[bytes]:
    made = context("TLS 1.2")
    secrets = keep_secrets(made)
    client = WireClient(sock, made).handshake()
    sealer = OldSealer(secrets, client.tls.server_random())
    while True:
        yield b"".join(sealer.seal(HANDSHAKE, CLIENT_HELLO) for _ in range(1000))


PADDING = [_extension(0xFE00 + number, bytes(16000)) for number in range(4)]

PLAIN = {
    "small writes": Kind("--port", _always(bytes(4096)), piece=1, repeat=True),
    "small writes to a UNIX socket": Kind("--listen", _always(bytes(4096)), piece=1, repeat=True),
    "bulk": Kind("--port", _always(bytes(1 << 20)), repeat=True),
    "bulk, nothing read": Kind("--port", _always(bytes(1 << 20)), repeat=True, reads=False),
    "urgent bytes": Kind(
        "--port", _always(bytes(4096)), piece=1, repeat=True, flags=socket.MSG_OOB
    ),
    "connect and close": Kind("--port", _always(b"hello")),
    "connect and reset": Kind("--port", _always(b"hello"), resets=True),
    "PROXY header byte by byte": Kind(
        "--tls-listen", _always(v1("2001:db8:1111:2222:3333:4444:5555:6666", 40000)), piece=1
    ),
    "PROXY header with many vectors": Kind(
        "--tls-listen", _always(v2("192.0.2.7", 40000, *(tlv(0xE0, b"") for _ in range(170))))
    ),
    "requests with many headers": Kind(
        "--admin", _always(_request("/", *(b"a%d: b" % n for n in range(490))))
    ),
    "requests with long headers": Kind("--admin", _always(_request("/", b"a: " + b"b" * 16000))),
    "requests with short lines": Kind("--admin", _always(b"\r\n" * 40000)),
    "requests for the page": Kind("--admin", _always(_request("/")), repeat=True),
    "requests for all as JSON": Kind("--admin", _always(_request("/connections")), repeat=True),
    "requests for metrics": Kind("--admin", _always(_request("/metrics")), repeat=True),
}
"""The kinds that do not come to TLS."""

TLS = {
    "handshakes begun": Kind("--tls-port", _hello),
    "ClientHello in records of a byte": Kind(
        "--tls-port", _always(client_hello(*PADDING, record=1))
    ),
    "ClientHello of 64 KB": Kind("--tls-port", _always(client_hello(*PADDING))),
    "ClientHello with many ALPN protocols": Kind(
        "--tls-port", _always(client_hello(_extension(16, _vector(2, b"\1a" * 31500))))
    ),
    "small records": Kind("--tls-port", _small_records),
    "KeyUpdates": Kind("--tls-port", _key_updates),
    "ClientHellos behind the handshake": Kind("--tls-port", _renegotiations),
}
"""The kinds that are about TLS."""


class Attacker:
    """
    One connection, over and over.
    """

    def __init__(self, kind: Kind, address: str, poller: select.epoll):
        self.kind = kind
        self._address = address
        self._poller = poller
        self.begin()

    def begin(self) -> None:
        """
        Connect.
        """
        self.sock = connect(self._address)
        with contextlib.suppress(OSError):
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        made = self.kind.payload(self.sock)
        self._more = iter((made,)) if isinstance(made, bytes) else made
        self._payload, self._at = memoryview(next(self._more)), 0
        self.sock.setblocking(False)
        reads = select.EPOLLIN if self.kind.reads else 0
        self._poller.register(self.sock, select.EPOLLOUT | reads)

    def end(self) -> None:
        """
        Close.
        """
        (reset if self.kind.resets else socket.socket.close)(self.sock)

    def go_on(self, event: int) -> bool:
        """
        @return: whether the connection is still of use.
        """
        try:
            if event & select.EPOLLIN and not self.sock.recv(1 << 18):
                return False
            if event & select.EPOLLOUT:
                piece = self._payload[self._at : self._at + self.kind.piece]
                self._at += self.sock.send(piece, self.kind.flags)
        except BlockingIOError:
            return True
        except OSError:
            return False
        if self._at == len(self._payload):
            self._at = 0
            if self.kind.repeat:
                return True
            more = next(self._more, b"")
            self._payload = memoryview(more)
            return bool(more)
        return not event & (select.EPOLLHUP | select.EPOLLERR)


def flood(kind: Kind, address: str, number: int) -> None:
    """
    Attack until standard input ends.
    """
    poller = select.epoll()
    found = (Attacker(kind, address, poller) for _ in range(number))
    attackers = {each.sock.fileno(): each for each in found}
    poller.register(0, select.EPOLLIN)
    for turn in itertools.count():
        if turn == 1:
            # Each has sent something.
            print("ready", flush=True)
        for fd, event in poller.poll():
            if fd == 0:
                return
            attacker = attackers.pop(fd)
            if not attacker.go_on(event):
                attacker.end()
                try:
                    attacker.begin()
                except (OSError, SSL.Error):
                    # The daemon is stopping, or refuses.
                    continue
            attackers[attacker.sock.fileno()] = attacker


LIMITS = ("--access-log", "off", "--drain-timeout", "100ms")


def _with_certificate(daemon: Daemon) -> Daemon:
    made = make_certificate()
    (daemon.directory / "pem").write_bytes(made.cert_pem + made.key_pem)
    return daemon


def daemon(*options: str) -> Daemon:
    """
    A daemon that has a listener of each sort.
    """
    unix = ("--listen", "unix:{}/echo.sock")
    tls = ("--tls-port", "0", "--tls-cert", "{}/pem", "--tls-alpn", "h2,echo")
    return _with_certificate(Daemon(*LOOPBACK, *unix, *tls, *ADMIN, *LIMITS, *options))


def daemon_for(kind: Kind) -> Daemon:
    """
    A daemon with the listener that this kind needs.
    """
    if kind.option != "--tls-listen":
        return daemon()
    listen = ("--tls-listen", "tcp:0:interface=127.0.0.1", "--tls-cert", "{}/pem")
    proxies = ("--proxy-protocol", "optional", "--proxy-trust", "127.0.0.1/32")
    return _with_certificate(Daemon(*LOOPBACK, *listen, *proxies, *LIMITS))


@contextmanager
def under_way(name: str, address: str, number: int) -> Iterator[None]:
    """
    Run the attack in another process meanwhile.
    """
    command = (sys.executable, "-m", "tests.support.worst", name, address, str(number))
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe) as attack:
        assert attack.stdin is not None and attack.stdout is not None
        try:
            assert attack.stdout.readline() == b"ready\n"
            yield
        finally:
            attack.kill()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m tests.support.worst",
        description="Attack a daemon until standard input ends.",
    )
    kinds = {**PLAIN, **TLS}
    parser.add_argument("kind", choices=kinds)
    parser.add_argument("address", help="as echod logs it")
    parser.add_argument("number", type=int, help="how many connections")
    given = parser.parse_args()
    flood(kinds[given.kind], given.address, given.number)
