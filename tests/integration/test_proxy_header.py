"""
The PROXY header on real sockets: from proxies that are trusted and others, whole, in
pieces, late, and never.
"""

import itertools
import json
import random
import re
import select
import socket
from collections.abc import Iterator

from twisted.trial.unittest import SynchronousTestCase

from tests.support.clients import VERSIONS, context
from tests.support.daemons import (
    LOOPBACK,
    Daemon,
    connect,
    receive,
    receive_rest,
    server_side,
    show,
    tls_daemon,
    wait_until,
)
from tests.support.proxyheaders import (
    ALPN,
    AUTHORITY,
    LOCAL,
    SSL_CN,
    SSL_VERSION,
    TCP4,
    UNIQUE_ID,
    UNIX,
    UNSPEC,
    tls_tlv,
    tlv,
    v1,
    v2,
    v2_header,
)
from tests.support.shortclients import IdleClient, connect_from, wait_for_all
from tests.support.tlswire import WireClient

KIB = 1024

PROXY_ADDRESS = "127.0.0.2"
"""The one whose headers are believed."""

STRANGER = "127.0.0.3"

MODES = ("optional", "require")

CLIENT, CLIENT_PORT = "192.0.2.7", 4242
SIX = "2001:db8::7"

SAID = random.Random(4).randbytes(100 * KIB)

OWN = ""
"""Stands for the address of the socket itself."""

HEADERS: dict[str, tuple[bytes, str]] = {
    "v1 TCP4": (v1(CLIENT, CLIENT_PORT), f"{CLIENT}:{CLIENT_PORT}"),
    "v1 TCP6": (v1(SIX, CLIENT_PORT), f"[{SIX}]:{CLIENT_PORT}"),
    "v1 mapped": (v1(f"::ffff:{CLIENT}", CLIENT_PORT), f"{CLIENT}:{CLIENT_PORT}"),
    "v1 UNKNOWN": (b"PROXY UNKNOWN\r\n", OWN),
    "v1 UNKNOWN and more": (b"PROXY UNKNOWN ffff::1 ffff::1 65535 65535\r\n", OWN),
    "v2 TCP4": (v2(CLIENT, CLIENT_PORT), f"{CLIENT}:{CLIENT_PORT}"),
    "v2 TCP6": (v2(SIX, CLIENT_PORT), f"[{SIX}]:{CLIENT_PORT}"),
    "v2 mapped": (v2(f"::ffff:{CLIENT}", CLIENT_PORT), f"{CLIENT}:{CLIENT_PORT}"),
    "v2 UNIX": (v2_header(b"/run/x".ljust(216, b"\0"), UNIX), "unix:/run/x"),
    "v2 LOCAL": (v2_header(b"", UNSPEC, LOCAL), OWN),
    "v2 UNSPEC": (v2_header(bytes(12), UNSPEC), OWN),
    "v2 with a long field": (
        v2(CLIENT, CLIENT_PORT, tlv(0xEE, bytes(3000))),
        f"{CLIENT}:{CLIENT_PORT}",
    ),
}
"""Good headers, and whom the daemon shall take for the client."""

BAD_HEADERS: dict[str, bytes] = {
    "v1 no address": b"PROXY TCP4 300.0.2.7 198.51.100.1 4242 9000\r\n",
    "v1 no port": b"PROXY TCP4 192.0.2.7 198.51.100.1 4242 90000\r\n",
    "v1 other family": v1(CLIENT, 1).replace(b"TCP4", b"TCP6"),
    "v1 LF alone": v1(CLIENT, 1).replace(b"\r\n", b"\n"),
    "v1 ESC": b"PROXY TCP4 192.0.2.7\x1b[31m 198.51.100.1 4242 9000\r\n",
    "v1 without an end": b"PROXY TCP4 " + b"1" * 200,
    "v2 version 1": v2_header(bytes(12), TCP4, 0x11),
    "v2 command 2": v2_header(bytes(12), TCP4, 0x22),
    "v2 family 4": v2_header(bytes(12), 0x41),
    "v2 too short": v2_header(bytes(11), TCP4),
    "v2 field too long": v2(CLIENT, 1, b"\x05\xff\xff"),
    "v2 wrong checksum": v2(CLIENT, 1, tlv(0x03, b"\0\0\0\1")),
    "v2 as long as can be": v2_header(bytes(65535), TCP4),
}


def options(mode: str, *trusted: str, timeout: str = "10m") -> tuple[str, ...]:
    """
    The options for one mode.

    @param timeout: C{--proxy-header-timeout}; by default longer than any test.
    """
    trust = (option for each in trusted for option in ("--proxy-trust", each))
    return ("--proxy-protocol", mode, *trust, "--proxy-header-timeout", timeout)


class HeaderTestCase(SynchronousTestCase):
    """
    What the tests of the header have in common.
    """

    def come(self, source: str, daemon: Daemon, option: str = "--port") -> socket.socket:
        client = connect_from(source, ("127.0.0.1", daemon.port(option)))
        self.addCleanup(client.close)
        return client

    def converse(self, source: str, daemon: Daemon, said: bytes) -> tuple[bytes, str]:
        """
        Say something, close the sending side, and listen to the end.

        @return: what was heard, and the client's own address in words.
        """
        client = self.come(source, daemon)
        host, port = client.getsockname()
        try:
            client.sendall(said)
            client.shutdown(socket.SHUT_WR)
        except OSError:
            # It has been shown out already.
            pass
        heard = receive_rest(client)
        client.close()
        return heard, f"{host}:{port}"

    def recorded(self, daemon: Daemon, peer: str, proxy: str = "") -> None:
        """
        Wait for the access record that names this peer, and the proxy as well if there was
        one between.
        """
        told = re.compile(
            rf" of {re.escape(peer)} to .*, closed by client"
            + (rf"; proxy {re.escape(proxy)}(?:;|$)" if proxy else "(?!; proxy)"),
            re.MULTILINE,
        )
        wait_until(lambda: told.search(daemon.log), f"the record of {peer}")


class TrustTests(HeaderTestCase):
    """
    Who is believed, and who gets in.
    """

    def test_trusted(self) -> None:
        """
        From a trusted proxy, a good header gives the client's address, and what follows it is
        echoed; a client that sends a bad one gets nothing back.
        """
        for mode in MODES:
            with Daemon(*LOOPBACK, *options(mode, PROXY_ADDRESS)) as daemon:
                for name, (header, client) in HEADERS.items():
                    heard, own = self.converse(PROXY_ADDRESS, daemon, header + SAID)
                    self.assertEqual((name, heard == SAID), (name, True))
                    self.recorded(daemon, client or own, own if client else "")
                for name, header in BAD_HEADERS.items():
                    heard, _ = self.converse(PROXY_ADDRESS, daemon, header + b"hello")
                    self.assertEqual((name, heard), (name, b""))
                daemon.stop()
                daemon.turned_away({"proxy-header": len(BAD_HEADERS)})
                self.assertEqual(len(daemon.records()), len(HEADERS))

    def test_none(self) -> None:
        """
        A trusted proxy that sends no header is one more client where headers are optional,
        and refused where they are required; so is one whose data only begins like one.
        """
        beginnings = (b"P", b"PROXX", b"\r\n\r\n\0\r\nQUIT\r", b"hello")
        with Daemon(*LOOPBACK, *options("optional", PROXY_ADDRESS)) as daemon:
            for said in beginnings:
                heard, own = self.converse(PROXY_ADDRESS, daemon, said + SAID)
                self.assertEqual((said, heard == said + SAID), (said, True))
                self.recorded(daemon, own)
            self.assertEqual(daemon.refused(), {})
        with Daemon(*LOOPBACK, *options("require", PROXY_ADDRESS)) as daemon:
            for said in beginnings:
                self.assertEqual(self.converse(PROXY_ADDRESS, daemon, said + SAID)[0], b"")
            daemon.stop()
            daemon.turned_away({"proxy-header": len(beginnings)})

    def test_untrusted(self) -> None:
        """
        From anybody else, a header is never believed: where it is optional, it is echoed
        like all data; where it is required, others are refused.
        """
        said = [header for header, _ in HEADERS.values()] + list(BAD_HEADERS.values()) + [b"x"]
        with Daemon(*LOOPBACK, *options("optional", PROXY_ADDRESS)) as daemon:
            for header in said:
                heard, own = self.converse(STRANGER, daemon, header)
                self.assertEqual(heard, header)
                self.recorded(daemon, own)
            self.assertNotIn(CLIENT, daemon.log)
        with Daemon(*LOOPBACK, *options("require", PROXY_ADDRESS)) as daemon:
            for header in said:
                self.assertEqual(self.converse(STRANGER, daemon, header)[0], b"")
            daemon.stop()
            daemon.turned_away({"proxy-header": len(said)})
            self.assertNotIn(CLIENT, daemon.log)
            self.assertEqual(daemon.records(), [])

    def test_byte_by_byte(self) -> None:
        """
        A header that comes byte by byte is as good as one that comes whole.
        """
        headers = (v1(CLIENT, CLIENT_PORT), v2(CLIENT, CLIENT_PORT))
        for mode, header in zip(MODES, headers, strict=True):
            with Daemon(*LOOPBACK, *options(mode, PROXY_ADDRESS)) as daemon:
                client = self.come(PROXY_ADDRESS, daemon)
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                for place in range(len(header)):
                    client.sendall(header[place : place + 1])
                    # The daemon has taken it, and it alone.
                    wait_until(lambda c=client: server_side(c)[2] == 0, "the byte to be read")
                client.sendall(b"hello")
                client.shutdown(socket.SHUT_WR)
                self.assertEqual(receive_rest(client), b"hello")
                host, port = client.getsockname()
                self.recorded(daemon, f"{CLIENT}:{CLIENT_PORT}", f"{host}:{port}")

    def test_client_rules(self) -> None:
        """
        Behind a proxy, it is the client whom the rules and limits are for, and not the
        proxy.
        """
        rules = ("--deny", "192.0.2.66", "--deny", "127.0.0.2", "--max-per-client", "2")
        rate = ("--connect-rate", "0.001:3")
        with Daemon(*LOOPBACK, *options("require", PROXY_ADDRESS), *rules, *rate) as daemon:

            def come(client: str, header: bytes = b"") -> bool:
                sock = self.come(PROXY_ADDRESS, daemon)
                try:
                    sock.sendall((header or v2(client, 1)) + b"?")
                    return sock.recv(10) == b"?"
                except ConnectionError:
                    return False

            self.assertFalse(come("192.0.2.66"))
            self.assertFalse(come("::ffff:192.0.2.66"))
            self.assertEqual([come("192.0.2.1") for _ in range(3)], [True, True, False])
            self.assertFalse(come("::ffff:192.0.2.1"))
            # A client of IPv6 is a /64.
            many = [come(f"2001:db8::{n}") for n in range(1, 5)]
            self.assertEqual(many, [True, True, False, False])
            self.assertTrue(come("2001:db8:0:1::1"))
            for _ in range(3):
                self.converse(PROXY_ADDRESS, daemon, v1("192.0.2.2", 1))
            for _ in range(2):
                said = v1("192.0.2.2", 1) + b"hello"
                self.assertEqual(self.converse(PROXY_ADDRESS, daemon, said)[0], b"")
            daemon.turned_away({"denied": 2, "max-per-client": 4, "connect-rate": 2})
            self.assertIn(f"denied, the last from 192.0.2.66:1 to {daemon.address()}", daemon.log)


class LateTests(HeaderTestCase):
    """
    Headers that never come to an end.
    """

    limit_seconds = 5.0
    beginnings = {
        "silent": b"",
        "one byte": b"P",
        "v1": HEADERS["v1 TCP4"][0][:-1],
        "v2": HEADERS["v2 TCP4"][0][:-1],
        "dripping": b"",
    }

    def idle_clients(self, daemon: Daemon, option: str = "--port") -> dict[str, IdleClient]:
        found = {}
        for name, beginning in self.beginnings.items():
            drip: Iterator[bytes] = iter(())
            if name == "dripping":
                drip = (bytes([byte]) for byte in HEADERS["v1 TCP4"][0])
            found[name] = IdleClient(lambda: self.come(PROXY_ADDRESS, daemon, option), drip)
            found[name].socket.sendall(beginning)
        return found

    def in_time(self, what: str, times: list[float | None]) -> None:
        found = [each for each in times if each is not None]
        self.assertEqual(len(found), len(times), what)
        show(f"{what}: {min(found):.2f} to {max(found):.2f} s, limit {self.limit_seconds} s")
        self.assertGreaterEqual(min(found), self.limit_seconds)

    def test_deadline(self) -> None:
        """
        A client whose header is not complete after five seconds is refused if it is required; if
        it is optional, what has come by then is data.
        """
        with (
            tls_daemon(
                "--port", "0", *options("optional", PROXY_ADDRESS, timeout="5s")
            ) as optional,
            tls_daemon("--port", "0", *options("require", PROXY_ADDRESS, timeout="5s")) as require,
        ):
            gone = self.idle_clients(require)
            gone_tls = self.idle_clients(require, "--tls-port")
            data = self.idle_clients(optional)
            data_tls = self.idle_clients(optional, "--tls-port")
            # Who has said nothing so far may still begin with TLS.
            silent = data.pop("silent")
            silent_tls = data_tls.pop("silent")
            everybody = [*gone.values(), *gone_tls.values(), *data.values(), *data_tls.values()]
            wait_for_all(
                everybody, lambda idle_client: bool(idle_client.heard), "to hear something"
            )
            self.assertEqual({s.heard for s in (*gone.values(), *gone_tls.values())}, {b""})
            self.in_time(
                "required headers that never came",
                [idle_client.gone_after for idle_client in (*gone.values(), *gone_tls.values())],
            )
            for name, idle_client in data.items():
                if name != "dripping":
                    self.assertEqual((name, idle_client.heard), (name, self.beginnings[name]))
            # About five of them.
            self.assertTrue(HEADERS["v1 TCP4"][0].startswith(data["dripping"].heard))
            self.in_time("optional headers: data", [s.heard_after for s in data.values()])
            # No TLS begins like that.
            self.assertEqual({idle_client.heard for idle_client in data_tls.values()}, {b""})
            self.in_time("optional headers: no TLS", [s.gone_after for s in data_tls.values()])
            client = silent.socket
            client.settimeout(60)
            client.sendall(b"PROXY ")
            self.assertEqual(client.recv(10), b"PROXY ")
            silent_tls.socket.settimeout(60)
            secure = WireClient(silent_tls.socket, context("TLS 1.3")).handshake()
            silent_tls.socket.sendall(secure.record(b"hello"))
            heard = b""
            while not heard:
                heard = secure.decrypt(silent_tls.socket.recv(4096))
            self.assertEqual(heard, b"hello")
            # Those that said nothing were not refused.
            require.turned_away({"proxy-header": 2 * (len(self.beginnings) - 1)})
            self.assertNotIn(", idle", require.log)
            optional.turned_away({"handshake": len(self.beginnings) - 1})

    def test_with_first_bytes(self) -> None:
        """
        A balancer that sends the header with the client's first bytes may take as long as the
        client does, when there is no limit.
        """
        with Daemon(*LOOPBACK, *options("require", PROXY_ADDRESS, timeout="0")) as daemon:
            client = self.come(PROXY_ADDRESS, daemon)
            # Longer than the limit would be, with the looks that it takes.
            self.assertEqual(select.select([client], [], [], self.limit_seconds + 1.5)[0], [])
            client.sendall(HEADERS["v2 TCP4"][0] + b"hello")
            self.assertEqual(receive(client, 5), b"hello")
            daemon.turned_away({})

    def test_end_of_file(self) -> None:
        """
        A client that closes its sending side within the header is refused where headers
        are required, and gets its bytes back where they are not; one that says nothing at
        all is neither refused nor recorded.
        """
        partial = [beginning for beginning in self.beginnings.values() if beginning]
        for mode in MODES:
            with Daemon(*LOOPBACK, *options(mode, PROXY_ADDRESS, timeout="5s")) as daemon:
                for said in partial:
                    heard, own = self.converse(PROXY_ADDRESS, daemon, said)
                    if mode == "optional":
                        self.assertEqual(heard, said)
                        self.recorded(daemon, own)
                    else:
                        self.assertEqual(heard, b"")
                for _ in range(5):
                    self.assertEqual(self.converse(PROXY_ADDRESS, daemon, b"")[0], b"")
                refused = {"proxy-header": len(partial)} if mode == "require" else {}
                daemon.stop()
                daemon.turned_away(refused)
                self.assertEqual(len(daemon.records()), 0 if refused else len(partial))
                self.assertIn(f"echod stopped: {len(partial) + 5} connections", daemon.log)

    def test_stop(self) -> None:
        """
        Headers that have not come to an end do not hold up the daemon's stop.
        """
        with Daemon(*LOOPBACK, *options("require", PROXY_ADDRESS, timeout="5s")) as daemon:
            empty = daemon.descriptors()
            idle_clients = self.idle_clients(daemon)
            wait_until(
                lambda: daemon.descriptors() == empty + len(idle_clients), "all to be accepted"
            )
            took = daemon.stop()
            show(f"{len(idle_clients)} unfinished headers: exit {took:.2f} s after TERM")
            # They were not waited for until they were late.
            self.assertEqual(daemon.refused(), {})


class TLSHeaderTests(HeaderTestCase):
    """
    A header before TLS.
    """

    def test_one_segment(self) -> None:
        """
        A header, and the client's hello right behind it: TLS begins where the header ends.
        """
        names = ("v1 TCP4", "v2 TCP6", "v2 with a long field")
        for mode in MODES:
            with tls_daemon(*options(mode, PROXY_ADDRESS)) as daemon:
                for name, version in itertools.product(names, VERSIONS):
                    self.one_segment(daemon, *HEADERS[name], version)

    def one_segment(self, daemon: Daemon, header: bytes, peer: str, version: str) -> None:
        sock = self.come(PROXY_ADDRESS, daemon, "--tls-port")
        host, port = sock.getsockname()
        client = WireClient(sock, context(version))
        sock.sendall(header + client.flight())
        while not (flight := client.flight()):
            client.tls.bio_write(sock.recv(65536))
        sock.sendall(flight)
        while client.tls.get_state_string() != b"SSL negotiation finished successfully":
            client.tls.bio_write(sock.recv(65536))
            client.flight()
        sock.sendall(client.records(SAID))
        self.assertEqual(client.decrypt(receive_rest(sock)), SAID)
        # The daemon waits for that, for 2.5 s.
        sock.close()
        self.recorded(daemon, peer, f"{host}:{port}")


NASTY = (
    v1(CLIENT, 1).replace(b"192.0.2.7", b"\x1b[31m192.0.2.7"),
    v1(CLIENT, 1).replace(b"PROXY TCP4", b"PROXY UNKNOWN \x1b]0;title\x07\x9b31m"),
    v2(CLIENT, 1, tlv(AUTHORITY, b"\x1b]0;title\x07\r\nforged line")),
    v2(CLIENT, 1, tlv(AUTHORITY, "\u202e\u2028\x9b31m\x85".encode())),
    v2(CLIENT, 1, tlv(ALPN, b"\xff\x9b\x00h2"), tlv(UNIQUE_ID, bytes(range(128)))),
    v2(CLIENT, 1, tls_tlv(tlv(SSL_VERSION, b"\x1b[2J"), tlv(SSL_CN, b"a\nb\x7f"))),
    v2_header(b"/run/\x1b[31m\n\x9b".ljust(216, b"\0"), UNIX),
    v2_header(b"\0\x1b[31m{peer}\n".ljust(216, b"\0"), UNIX),
    b"PROXY \x1b[31m\r\n",
    b"PROXY TCP6 \x1b::1 ::1 1 1\r\n",
)


class LogTests(HeaderTestCase):
    """
    What a header can do to the log.
    """

    def test_no_control_characters(self) -> None:
        """
        Whatever a header has in it, every line of the log is one line of printable text,
        and as JSON so are its values.
        """
        for form in ("text", "json"):
            with Daemon(
                *LOOPBACK, *options("require", PROXY_ADDRESS), "--log-format", form
            ) as daemon:
                heard = [self.converse(PROXY_ADDRESS, daemon, x + b"hi")[0] for x in NASTY]
                served = heard.count(b"hi")
                self.assertEqual(served, 7)
                self.assertEqual(set(heard), {b"hi", b""})
                daemon.stop()
                daemon.turned_away({"proxy-header": 3})
                log = daemon.log
            self.assertEqual(log.count("bytes echoed in"), served)
            self.assertEqual({c for c in log if not c.isprintable()}, {"\n"})
            self.assertIn("proxy_authority", log)
            self.assertIn("\\x1b[31m{peer}" if form == "text" else "\\\\x1b[31m{peer}", log)
            self.assertNotIn("\nforged", log)
            if form == "json":
                for record in map(json.loads, log.splitlines()):
                    for value in record.values():
                        self.assertTrue(str(value).isprintable(), value)


class ListenTests(HeaderTestCase):
    """
    Headers at listeners of other kinds.
    """

    def say(self, daemon: Daemon, said: bytes) -> bytes:
        with connect(daemon.address("--listen unix")) as client:
            try:
                client.sendall(said)
                client.shutdown(socket.SHUT_WR)
            except OSError:
                return b""
            return receive_rest(client)

    def test_unix(self) -> None:
        """
        Over a UNIX socket, a header is believed with C{--proxy-trust unix}, and not without,
        whatever networks are trusted.
        """
        listeners = (*LOOPBACK, "--listen", "unix:{}/s")
        header, peer = HEADERS["v2 TCP4"]
        for mode in MODES:
            with Daemon(*listeners, *options(mode, "unix")) as daemon:
                self.assertEqual(self.say(daemon, header + SAID), SAID)
                self.recorded(daemon, peer, "unix:")
                # The word unix trusts no other peer.
                heard, _ = self.converse("127.0.0.1", daemon, header)
                self.assertEqual(heard, header if mode == "optional" else b"")
            with Daemon(*listeners, *options(mode, "0.0.0.0/0", "::/0")) as daemon:
                heard = self.say(daemon, header)
                self.assertEqual(heard, header if mode == "optional" else b"")
                heard, _ = self.converse("127.0.0.1", daemon, header + b"hello")
                self.assertEqual(heard, b"hello")

    def test_tcp(self) -> None:
        """
        A listener that C{--listen tcp:} asks for reads headers as C{--port} does.
        """
        listeners = ("--listen", "tcp:0:interface=127.0.0.1")
        header, peer = HEADERS["v1 TCP6"]
        with Daemon(*listeners, *options("require", PROXY_ADDRESS)) as daemon:
            client = self.come(PROXY_ADDRESS, daemon, "--listen tcp")
            host, port = client.getsockname()
            client.sendall(header + SAID)
            client.shutdown(socket.SHUT_WR)
            self.assertEqual(receive_rest(client), SAID)
            self.recorded(daemon, peer, f"{host}:{port}")

    def test_dual_stack(self) -> None:
        """
        A proxy with an IPv4 address is trusted as such on a socket of IPv6, too.
        """
        header, peer = HEADERS["v2 TCP4"]
        with Daemon("--port", "0", *options("require", PROXY_ADDRESS)) as daemon:
            heard, own = self.converse(PROXY_ADDRESS, daemon, header + b"hello")
            self.assertEqual(heard, b"hello")
            self.recorded(daemon, peer, own)
            self.assertEqual(self.converse(STRANGER, daemon, header + b"hello")[0], b"")
