"""
Clients behind a proxy, on real sockets, up to the echo and TLS after the header.
"""

import contextlib
import gc
import socket
import struct
import weakref
from ipaddress import ip_network

from OpenSSL import SSL
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.logger import capturedLogs, formatEvent
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from echod.connections.admission import AccessRules, Admission, RateLimiter
from echod.connections.connection import IConnection, Reason
from echod.connections.timeouts import Timeouts
from echod.connections.tracker import Connections
from echod.net.tls import TLSMixin
from echod.protocol import EchoFactory
from echod.proxyprotocol.parser import MAX_V2_BYTES
from echod.proxyprotocol.protocol import ProxyHeaderProtocol, ProxyPolicy
from tests.support.certificates import make_certificate
from tests.support.clients import VERSIONS, context as client_context
from tests.support.fakes import EventAccessLog
from tests.support.handshakes import CertificateInfo
from tests.support.pairs import BIG, PairTestCase, drained
from tests.support.proxyheaders import (
    ALPN,
    AUTHORITY,
    FOUR,
    LOCAL,
    NOOP,
    TCP6,
    TLS_TLVS,
    UNIQUE_ID,
    UNIX,
    UNSPEC,
    checksummed,
    tls_tlv,
    tlv,
    unix_addresses,
    v2_header,
)

V1 = b"PROXY TCP4 203.0.113.5 198.51.100.2 1234 9000\r\n"
V2 = v2_header(FOUR + tlv(ALPN, b"h2"))
AT_PROXY = ("198.51.100.9", 5)
"""Where the proxy connects from."""

SERVER = make_certificate()


def v1(host, port=1234):
    """
    A header that names this client.
    """
    kind, other = (b"TCP6", b"::1") if ":" in host else (b"TCP4", b"192.0.2.2")
    return b"PROXY %b %b %b %d 9000\r\n" % (kind, host.encode(), other, port)


ENDINGS = {
    "client": "closed by client",
    "reset": "reset by client",
    "max-lifetime": "open for 0",
    "drain": "closed because echod stops",
    "aborted": "aborted because echod stops",
    "error": "failed",
}
"""What people read at the end of an access record."""


class ProxyPolicyTests(SynchronousTestCase):
    """
    Whose headers are accepted.
    """

    def test_networks(self):
        """
        Those from trusted networks, also from an IPv4-mapped address.
        """
        policy = ProxyPolicy(True, map(ip_network, ("192.0.2.0/24", "2001:db8::1")))
        for address, trusted in (
            (IPv4Address("TCP", "192.0.2.1", 1), True),
            (IPv4Address("TCP", "192.0.3.1", 1), False),
            (IPv6Address("TCP", "::ffff:192.0.2.1", 1), True),
            (IPv6Address("TCP", "::ffff:192.0.3.1", 1), False),
            (IPv6Address("TCP", "2001:db8::1", 1), True),
            (IPv6Address("TCP", "2001:db8::2", 1), False),
            (UNIXAddress(b"/run/proxy"), False),
            (UNIXAddress(None), False),
            (IPv4Address("TCP", "no host", 1), False),
        ):
            self.assertIs(policy.trusts(address), trusted, address)

    def test_unix(self):
        """
        With the option for it, those from UNIX sockets, and from no others.
        """
        policy = ProxyPolicy(False, [], unix=True)
        for address, trusted in (
            (UNIXAddress(b"/run/proxy"), True),
            (UNIXAddress(None), True),
            (IPv4Address("TCP", "127.0.0.1", 1), False),
            (IPv6Address("TCP", "::1", 1), False),
            # An unknown address that another header layer has made is not a UNIX socket.
            (IPv4Address("TCP", "no host", 1), False),
        ):
            self.assertIs(policy.trusts(address), trusted, address)

    def test_required(self):
        """
        It knows whether a header is required.
        """
        self.assertEqual([ProxyPolicy(each, []).required for each in (True, False)], [True, False])


class ProxyTestCase(PairTestCase):
    """
    A listener behind a trusted proxy, on a reactor that the test turns.

    @ivar records: what was logged.
    """

    def make(self, required=True, tls=None, deny=(), per_client=0, rate=None, **limits):
        self.connections = Connections(self.reactor, Timeouts(**limits), EventAccessLog())
        self.admission = Admission(
            self.connections,
            1000,
            AccessRules(deny=map(ip_network, deny)),
            per_client,
            RateLimiter(self.reactor, *rate) if rate else None,
        )
        policy = ProxyPolicy(required, map(ip_network, ("198.51.100.0/24", "2001:db8:9::/48")))
        self.factory = EchoFactory("tcp", self.admission, tls, policy)
        self.factory.outermost = True

    def setUp(self):
        super().setUp()
        self.make()
        logs = capturedLogs()
        self.records = logs.__enter__()
        self.addCleanup(logs.__exit__, None, None, None)

    def accept(self, client=AT_PROXY, tcp=False):
        """
        Accept a connection.

        @return: what the factory made for it, its transport, and the other's socket.
        """
        kind = IPv6Address if ":" in client[0] else IPv4Address
        protocol = self.factory.buildProtocol(kind("TCP", *client))
        transport, peer = self.connect(protocol, client=client, tcp=tcp)
        return protocol, transport, peer

    def turns(self, count=6):
        for _ in range(count):
            self.reactor.turn()

    def logged(self):
        """
        What was logged since the last call, with the refusals, but without times.
        """
        self.connections.refusals.log_summary()
        lines = [(event["log_level"].name, formatEvent(event)) for event in self.records]
        del self.records[:]
        return lines

    def access(self, peer, size, reason="client", facts="", number=1, level="info"):
        return [
            (
                level,
                f"connection {number} of {peer} to tcp: {size} bytes echoed in 0.000 s, "
                f"{ENDINGS[reason]}{facts}",
            )
        ]

    def refused(self, reason, peer, detail=""):
        words = f"refused 1: {reason}, the last from {peer} to tcp"
        return [("info", f"{words}, {detail}" if detail else words)]

    def assert_over(self, **ended):
        """
        All connections have ended, for these reasons, and nothing about clients is stored.
        """
        self.turns()
        self.assertEqual(len(self.connections), 0)
        words = {reason.value.replace("-", "_"): n for reason, n in self.connections.ended.items()}
        self.assertEqual(words, ended)
        self.assertEqual(self.admission.clients(), 0)
        self.assertEqual(self.reactor.removeAll(), [])

    def exchange(self, pieces, facts="; proxy 198.51.100.9:5", peer="203.0.113.5:1234", back=b""):
        """
        A client sends pieces, with a turn of the reactor after each, and closes its sending side;
        C{back} comes back.
        """
        _, _, sock = self.accept()
        got = b""
        for piece in pieces:
            sock.sendall(piece)
            self.reactor.turn()
            got += drained(sock)
        sock.shutdown(socket.SHUT_WR)
        self.turns()
        self.assertEqual(got + drained(sock), back)
        self.assertEqual(sock.recv(1), b"")
        number = self.connections.opened
        self.assertEqual(self.logged(), self.access(peer, len(back), "client", facts, number))
        self.assertEqual(len(self.connections), 0)


class HeaderTests(ProxyTestCase):
    """
    From the header to the echo.
    """

    def test_interfaces(self):
        """
        The protocol provides the half-close interface that Twisted looks for, and is a
        C{IConnection}.
        """
        protocol, _, _ = self.accept()
        self.assertIsInstance(protocol, ProxyHeaderProtocol)
        verifyObject(IHalfCloseableProtocol, protocol)
        asked = set(IConnection.__annotations__)
        asked.update(name for name in vars(IConnection) if not name.startswith("_"))
        self.assertEqual([name for name in asked if not hasattr(protocol, name)], [])
        self.assertEqual(
            (protocol.listener, protocol.ending, protocol.paused), ("tcp", False, False)
        )
        self.assertIs(protocol.waiting_for, Reason.PROXY_HEADER)

    def test_one_segment(self):
        """
        What comes right after the header is echoed, to the byte, and the record has the client's
        address and the proxy's.
        """
        self.exchange([V1 + b"hello"], back=b"hello")
        self.exchange(
            [V2 + V1 + b"\0"],
            "; proxy 198.51.100.9:5; proxy_alpn h2",
            "192.0.2.1:40000",
            V1 + b"\0",
        )
        self.assert_over(client=2)

    def test_cut_anywhere(self):
        """
        Wherever the stream is cut, the header is parsed and the rest echoed.
        """
        for required in (True, False):
            self.make(required)
            for cut in range(1, len(V1) + 5):
                self.exchange([(V1 + b"hello")[:cut], (V1 + b"hello")[cut:]], back=b"hello")
            for cut in range(1, len(V2) + 5):
                self.exchange(
                    [(V2 + b"hello")[:cut], (V2 + b"hello")[cut:]],
                    "; proxy 198.51.100.9:5; proxy_alpn h2",
                    "192.0.2.1:40000",
                    b"hello",
                )

    def test_byte_by_byte(self):
        """
        It may come byte by byte.
        """
        stream = V1 + b"hello"
        self.exchange([stream[n : n + 1] for n in range(len(stream))], back=b"hello")
        stream = checksummed(tlv(ALPN, b"h2")) + b"\r\n"
        self.exchange(
            [stream[n : n + 1] for n in range(len(stream))],
            "; proxy 198.51.100.9:5; proxy_alpn h2",
            "192.0.2.1:40000",
            b"\r\n",
        )

    def test_all_at_once(self):
        """
        A client that sends its header, much data and its FIN before the reactor turns gets all of
        it back.
        """
        for header in (V1, v2_header(FOUR + tlv(NOOP, bytes(MAX_V2_BYTES - 16 - 12 - 3)))):
            _, _, sock = self.accept(tcp=True)
            sock.setblocking(False)
            sent = sock.send(header + BIG) - len(header)
            sock.shutdown(socket.SHUT_WR)
            back = self.drain(sock, sent)
            self.assertEqual(back, BIG[:sent])
            self.reactor.until(lambda: not len(self.connections))

    def test_largest(self):
        """
        The largest header is read whole, and nothing of what follows.
        """
        header = v2_header(FOUR + tlv(NOOP, bytes(MAX_V2_BYTES - 16 - 12 - 3)))
        self.assertEqual(len(header), MAX_V2_BYTES)
        for cut in (1, 15, 16, 17, 4095, 4096):
            self.exchange(
                [header[:cut], header[cut:] + b"hello"], peer="192.0.2.1:40000", back=b"hello"
            )

    def test_client(self):
        """
        The client's address is the header's, or the connection's if the header has none.
        """
        itself = "198.51.100.9:5"
        for header, peer, facts in (
            (v1("2001:db8::5", 65535), "[2001:db8::5]:65535", f"; proxy {itself}"),
            (v1("::ffff:203.0.113.5"), "203.0.113.5:1234", f"; proxy {itself}"),
            (v2_header(bytes(36), TCP6), "[::]:0", f"; proxy {itself}"),
            (
                v2_header(unix_addresses(b"/run/a\n"), UNIX),
                r'"unix:/run/a\\n"',
                f"; proxy {itself}",
            ),
            (v2_header(unix_addresses(b""), UNIX), "unix:", f"; proxy {itself}"),
            (v2_header(FOUR, command=LOCAL), itself, ""),
            (v2_header(family=UNSPEC), itself, ""),
            (b"PROXY UNKNOWN\r\n", itself, ""),
            (b"PROXY UNKNOWN 1 2 3\r\n", itself, ""),
        ):
            self.exchange([header + b"hello"], facts, peer, b"hello")

    def test_fields(self):
        """
        The other fields of the header are in the record, by name.
        """
        header = v2_header(
            FOUR
            + tls_tlv(*TLS_TLVS)
            + tlv(ALPN, b"h2\n")
            + tlv(AUTHORITY, b"echo.example")
            + tlv(UNIQUE_ID, b"{peer}")
        )
        _, _, sock = self.accept()
        sock.sendall(header + b"x")
        sock.close()
        self.assertEqual(len(self.connections), 1)
        self.turns()
        (event,) = self.records
        expected = {
            "event": "access",
            "peer": "192.0.2.1:40000",
            "proxy": "198.51.100.9:5",
            "proxy_tls_version": "TLSv1.3",
            "proxy_tls_cipher": "TLS_AES_128_GCM_SHA256",
            "proxy_tls_cn": "client.example",
            "proxy_alpn": "h2\\n",
            "proxy_authority": "echo.example",
            "proxy_unique_id": "{peer}",
        }
        self.assertEqual({name: event.get(name) for name in expected}, expected)
        self.assertIn("; proxy_unique_id {peer}", formatEvent(event))

    def test_one_connection(self):
        """
        It stays one connection, with one number and one age.
        """
        _, transport, sock = self.accept()
        self.assertEqual((len(self.connections), self.connections.opened), (1, 1))
        self.reactor.advance(2)
        sock.sendall(V1)
        self.turns()
        self.assertEqual((len(self.connections), self.connections.opened), (1, 1))
        echo = transport.protocol
        self.assertEqual((echo.listener, echo.peer()), ("tcp", "203.0.113.5:1234"))
        self.assertEqual(echo.client, IPv4Address("TCP", "203.0.113.5", 1234))
        self.reactor.advance(3)
        sock.close()
        self.assert_over(client=1)
        ((_, line),) = self.logged()
        self.assertIn("connection 1 of 203.0.113.5:1234 to tcp: 0 bytes echoed in 5.000 s", line)

    def test_nothing_stays(self):
        """
        After the header nothing stays between the transport and the echo.
        """
        _, transport, sock = self.accept()
        self.assertIn("doRead", vars(transport))
        sock.sendall(V1)
        self.turns()
        self.assertNotIn("doRead", vars(transport))
        self.assertNotIsInstance(transport.protocol, ProxyHeaderProtocol)

    def test_no_cycle(self):
        """
        A connection that never sent a header leaves no reference cycle.
        """
        self.addCleanup(gc.enable)
        gc.collect()
        gc.disable()
        protocol, transport, sock = self.accept()
        sock.close()
        self.turns()
        self.assert_over(client=1)
        gone = weakref.ref(transport)
        protocol.transport = None
        del protocol, transport
        self.assertIsNone(gone())


class WrongHeaderTests(ProxyTestCase):
    """
    Invalid and missing headers.
    """

    def test_wrong(self):
        """
        An invalid header is refused with a reset, in either mode; the reason is logged, and nothing
        is echoed.
        """
        for required in (True, False):
            for bad, words in (
                (V1.replace(b"1234", b"65536"), "not an address and its port"),
                (b"PROXY TCP4\r\n", "not a line of version 1"),
                (b"PROXY UNKNOWN" + b" " * 200, "a line that does not end"),
                (v2_header(FOUR, command=0x2F), "neither LOCAL nor PROXY of version 2"),
                (v2_header(FOUR, size=0xFFFF), "longer than any"),
                (checksummed(wrong=1), "a checksum that is not its own"),
            ):
                for pieces in ([bad + b"hello"], [bad[n : n + 1] for n in range(len(bad))]):
                    self.make(required)
                    _, _, sock = self.accept()
                    with contextlib.suppress(OSError):
                        for piece in pieces:
                            sock.sendall(piece)
                            self.reactor.turn()
                    self.assert_over(proxy_header=1)
                    with contextlib.suppress(ConnectionResetError):
                        self.assertEqual(sock.recv(100), b"")
                    self.assertEqual(
                        self.logged(), self.refused("proxy-header", "198.51.100.9:5", words)
                    )
                    counts = self.connections.refusals.counts
                    self.assertEqual(counts, {("tcp", Reason.PROXY_HEADER): 1})

    def test_reset(self):
        """
        On TCP the other side gets a reset.
        """
        _, _, sock = self.accept(tcp=True)
        sock.sendall(b"PROXY TCP4\r\n")
        self.reactor.until(lambda: not len(self.connections))
        self.assertRaises(ConnectionResetError, sock.recv, 1)

    def test_none_though_required(self):
        """
        If a header is required, a connection that sends anything else is refused.
        """
        for stream in (b"hello", b"PRO", b"\r\n\r\n"):
            self.make()
            _, _, sock = self.accept()
            sock.sendall(stream)
            self.reactor.turn()
            if stream != b"hello":
                self.assertEqual(len(self.connections), 1)
                sock.sendall(b"x")
            self.assert_over(proxy_header=1)
            with contextlib.suppress(ConnectionResetError):
                self.assertEqual(sock.recv(100), b"")
            self.assertEqual(
                self.logged(), self.refused("proxy-header", "198.51.100.9:5", "there is none")
            )

    def test_none_and_optional(self):
        """
        If it is optional, anything else is echoed, to the byte, however late it shows.
        """
        self.make(required=False)
        for stream in (
            b"hello",
            b"PROXYhello",
            b"PROXY\r\n",
            b"proxy UNKNOWN\r\n",
            b"\r\n\r\n\0\r\nQUIT\r\nhello",
            b"P" * 1000,
        ):
            for pieces in ([stream], [stream[n : n + 1] for n in range(len(stream))]):
                self.exchange(pieces, "", "198.51.100.9:5", stream)
            for cut in range(1, min(len(stream), 20)):
                self.exchange([stream[:cut], stream[cut:]], "", "198.51.100.9:5", stream)

    def test_not_trusted(self):
        """
        A header from an untrusted address is ordinary data.
        """
        self.make(required=False)
        _, _, sock = self.accept(("192.0.2.66", 7))
        sock.sendall(V1 + b"hello")
        sock.shutdown(socket.SHUT_WR)
        self.turns()
        self.assertEqual(drained(sock), V1 + b"hello")
        self.assertEqual(self.logged(), self.access("192.0.2.66:7", len(V1) + 5))


class EndTests(ProxyTestCase):
    """
    Ends, at each stage.
    """

    def test_health_check(self):
        """
        A connection without a byte is counted, and logged at debug level only.
        """
        for required in (True, False):
            self.make(required)
            protocol, _, sock = self.accept()
            sock.shutdown(socket.SHUT_WR)
            self.assert_over(client=1)
            self.assertTrue(protocol.ending)
            self.assertEqual(sock.recv(1), b"")
            self.assertEqual(self.connections.refusals.counts, {})
            self.assertEqual(self.logged(), self.access("198.51.100.9:5", 0, level="debug"))

    def test_health_check_with_a_header(self):
        """
        A proxy that sends only a header is logged at debug level too.
        """
        for header, peer, facts in (
            (v2_header(command=LOCAL), "198.51.100.9:5", ""),
            (V1, "203.0.113.5:1234", "; proxy 198.51.100.9:5"),
        ):
            self.make()
            _, _, sock = self.accept()
            sock.sendall(header)
            sock.shutdown(socket.SHUT_WR)
            self.assert_over(client=1)
            self.assertEqual(self.logged(), self.access(peer, 0, facts=facts, level="debug"))

    def test_in_the_middle(self):
        """
        A header that ends too early is refused if one is required, and else data.
        """
        for header in (V1, V2):
            for size in (1, 5, 6, 12, 15, 16, len(header) - 1):
                for apart in (True, False):
                    for required in (True, False):
                        self.make(required)
                        _, _, sock = self.accept()
                        sock.sendall(header[:size])
                        if apart:
                            self.reactor.turn()
                        sock.shutdown(socket.SHUT_WR)
                        if required:
                            self.assert_over(proxy_header=1)
                            self.assertEqual(
                                self.logged(),
                                self.refused("proxy-header", "198.51.100.9:5", "there is none"),
                            )
                        else:
                            self.assert_over(client=1)
                            self.assertEqual(drained(sock), header[:size])
                            self.assertEqual(self.logged(), self.access("198.51.100.9:5", size))

    def test_reset(self):
        """
        A connection that breaks before there is anything to echo is logged at debug level only.
        """
        for sent in (b"", b"PROX"):
            self.make()
            _, _, sock = self.accept(tcp=True)
            sock.sendall(sent)
            self.turns()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()
            self.reactor.until(lambda: not len(self.connections))
            self.assert_over(reset=1)
            self.assertEqual(
                self.logged(), self.access("198.51.100.9:5", 0, "reset", level="debug")
            )

    def test_bug(self):
        """
        A failure in the daemon before the header was read is an error, and not the client's end.
        """
        _, transport, _ = self.accept()
        transport.connectionLost(Failure(ZeroDivisionError()))
        self.assert_over(error=1)

    def test_twice(self):
        """
        An end that is reported twice counts once.
        """
        protocol, _, sock = self.accept()
        sock.close()
        self.turns()
        protocol.connectionLost(Failure(ConnectionDone()))
        self.assert_over(client=1)

    def test_write_side(self):
        """
        The end of our sending side changes nothing for a protocol that sends nothing.
        """
        protocol, _, _ = self.accept()
        protocol.writeConnectionLost()
        self.assertEqual((len(self.connections), protocol.ending), (1, False))

    def test_ended_by_us(self):
        """
        A timeout or a stop ends it at once, with the given reason.
        """
        for end, reason in (
            (lambda protocol: protocol.close(Reason.DRAIN), "drain"),
            (lambda protocol: protocol.abort(Reason.ABORTED), "aborted"),
            (
                lambda protocol: (protocol.close(Reason.MAX_LIFETIME), protocol.abort()),
                "max-lifetime",
            ),
        ):
            self.make()
            protocol, _, sock = self.accept()
            sock.sendall(b"PROX")
            self.reactor.turn()
            end(protocol)
            self.assertTrue(protocol.ending)
            self.assert_over(**{reason.replace("-", "_"): 1})
            self.assertEqual(self.logged(), self.access("198.51.100.9:5", 0, reason))

    def test_drain(self):
        """
        A drain waits for what has been sent, and not for a header that does not come.
        """
        protocol, _, sock = self.accept()
        self.assertEqual((protocol.unread(), protocol.pending()), (0, (0,)))
        self.assertFalse(protocol.end_if_delivered())
        sock.sendall(b"PROX")
        self.assertEqual(protocol.unread(), 4)
        self.reactor.turn()
        self.assertEqual((protocol.unread(), protocol.pending()), (0, (0,)))
        self.reactor.advance(1)
        drained = self.connections.drain(5)
        self.turns()
        self.successResultOf(drained)
        self.assert_over(drain=1)


class LateTests(ProxyTestCase):
    """
    A header that is late.
    """

    def wait(self, seconds, each=lambda: None):
        """
        Let time pass, with checks as often as the daemon makes them.
        """
        for _ in range(round(seconds * 2)):
            each()
            self.turns(1)
            self.reactor.advance(0.5)
            self.connections.check_timeouts()

    def test_required(self):
        """
        If it is required, the whole header has to come in five seconds.
        """
        for sent in (b"P", b"PROX", V1[:-1], V2[:-1]):
            self.make()
            _, _, sock = self.accept()
            sock.sendall(sent)
            self.wait(4.5)
            self.turns()
            self.assertEqual(len(self.connections), 1)
            self.wait(0.5)
            self.assert_over(proxy_header=1)
            self.assertEqual(self.logged(), self.refused("proxy-header", "198.51.100.9:5", "late"))

    def test_probe(self):
        """
        If nothing at all has come in that time, it was a health check: it ends with a FIN, is no
        refusal, and is logged at debug level.
        """
        _, _, sock = self.accept(tcp=True)
        self.wait(5)
        self.assert_over(idle_timeout=1)
        self.assertEqual(sock.recv(1), b"")
        self.assertEqual(self.connections.refusals.counts, {})
        ((level, line),) = self.logged()
        self.assertEqual(level, "debug")
        self.assertTrue(line.endswith("to tcp: 0 bytes echoed in 5.000 s, idle for 5 s"), line)

    def test_unread(self):
        """
        Input that came and was not read yet counts as something.
        """
        protocol, _, sock = self.accept()
        sock.sendall(b"PROX")
        protocol.timed_out()
        self.assert_over(proxy_header=1)

    def test_no_timeout(self):
        """
        Without a timeout it may come at any time.
        """
        self.make(proxy_header=0)
        _, _, sock = self.accept()
        self.wait(1000)
        self.assertEqual(len(self.connections), 1)
        sock.sendall(V1 + b"hello")
        self.turns()
        self.assertEqual(drained(sock), b"hello")

    def test_dripping(self):
        """
        Single bytes from time to time do not extend the timeout.
        """
        _, _, sock = self.accept()
        stream = iter(V1)
        self.wait(4.5, lambda: sock.sendall(bytes((next(stream),))))
        self.assertEqual(len(self.connections), 1)
        self.wait(0.5, lambda: sock.sendall(bytes((next(stream),))))
        self.assert_over(proxy_header=1)

    def test_just_in_time(self):
        """
        One that comes in time is accepted, and the time it took changes nothing later.
        """
        _, transport, sock = self.accept()
        sock.sendall(V1[:-1])
        self.wait(4.5)
        sock.sendall(V1[-1:] + b"hello")
        back = []
        self.wait(60, lambda: back.append(drained(sock)))
        self.assertEqual(b"".join(back), b"hello")
        self.assertEqual(transport.protocol.peer(), "203.0.113.5:1234")

    def test_optional(self):
        """
        If it is optional, what has come by then is the client's, and so is what comes later.
        """
        for sent in (b"", b"PROX", V1[:-1]):
            self.make(required=False)
            _, _, sock = self.accept()
            sock.sendall(sent)
            self.wait(4.5)
            self.assertEqual(drained(sock), b"")
            self.wait(0.5)
            self.turns()
            self.assertEqual((drained(sock), len(self.connections)), (sent, 1))
            sock.sendall(V1)
            sock.shutdown(socket.SHUT_WR)
            self.assert_over(client=1)
            self.assertEqual(drained(sock), V1)
            ((_, line),) = self.logged()
            self.assertIn(f" of 198.51.100.9:5 to tcp: {len(sent + V1)} bytes", line)


class ClientLimitTests(ProxyTestCase):
    """
    Limits per client, for the clients that the headers name.
    """

    def try_header(self, header, first=b"hello"):
        """
        @return: the other's socket, and whether the client is admitted.
        """
        before = sum(self.connections.ended.values())
        _, _, sock = self.accept()
        sock.sendall(header + first)
        self.turns()
        inside = sum(self.connections.ended.values()) == before
        if inside:
            self.assertEqual(drained(sock), first)
        return sock, inside

    def test_address(self):
        """
        A client that the rules deny is refused though its proxy may connect, and nothing is read
        from it.
        """
        self.make(deny=["203.0.113.0/24"])
        for header in (V1, v1("::ffff:203.0.113.5")):
            self.assertFalse(self.try_header(header)[1])
            self.assertEqual(self.logged(), self.refused("denied", "203.0.113.5:1234"))
        self.assertTrue(self.try_header(v1("192.0.2.5"))[1])
        self.assertEqual(len(self.connections), 1)
        self.assertEqual(self.connections.ended, {Reason.DENIED: 2})

    def test_address_of_the_proxy(self):
        """
        The proxy's own address is checked if the header names no client.
        """
        self.make(required=False, deny=["198.51.100.9"])
        self.assertTrue(self.try_header(V1)[1])
        for header in (v2_header(command=LOCAL), b"PROXY UNKNOWN\r\n", b"no header"):
            self.assertFalse(self.try_header(header)[1])
            self.assertEqual(self.logged(), self.refused("denied", "198.51.100.9:5"))

    def test_per_client(self):
        """
        Each client has its maximum number of connections, through one proxy, and all counts return
        to 0.
        """
        self.make(per_client=2)
        one, other = v1("203.0.113.5"), v1("2001:db8::1")
        socks = []
        for header, expected in (
            (one, True), (other, True), (one, True), (one, False), (v1("2001:db8::2"), True),
            (v1("2001:db8::3"), False), (v1("2001:db8:0:1::"), True), (one, False),
        ):  # fmt: skip
            sock, inside = self.try_header(header)
            self.assertEqual(inside, expected, header)
            if inside:
                socks.append(sock)
        self.assertEqual((self.admission.clients(), len(self.connections)), (3, 5))
        socks[0].close()
        self.turns()
        sock, inside = self.try_header(one)
        self.assertTrue(inside)
        for each in (*socks[1:], sock):
            each.close()
        self.assert_over(client=6, max_per_client=3)

    def test_not_counted_before(self):
        """
        As long as no client has been named, none is counted.
        """
        self.make(per_client=1)
        for _ in range(3):
            _, _, sock = self.accept()
            sock.sendall(V1[:-1])
            self.turns()
        self.assertEqual((self.admission.clients(), len(self.connections)), (0, 3))

    def test_counts_return(self):
        """
        After any end after the header, the count is back at 0.
        """
        for end in (
            lambda echo, sock: sock.close(),
            lambda echo, sock: sock.shutdown(socket.SHUT_WR),
            lambda echo, sock: echo.abort(Reason.ABORTED),
            lambda echo, sock: (echo.close(Reason.DRAIN), sock.close()),
            lambda echo, sock: echo.transport.connectionLost(Failure(ZeroDivisionError())),
        ):
            for header in (V1, v2_header(command=LOCAL), v2_header(unix_addresses(b"/x"), UNIX)):
                self.make(per_client=1)
                _, transport, sock = self.accept()
                sock.sendall(header + b"hello")
                self.turns()
                self.assertEqual(len(self.connections), 1)
                end(transport.protocol, sock)
                self.turns()
                self.assertEqual((len(self.connections), self.admission.clients()), (0, 0))
                self.assertEqual(self.connections.opened, 1)

    def test_rate(self):
        """
        A client that connects too often is refused, and others through the same proxy are not.
        """
        self.make(rate=(1.0, 2))
        got = [self.try_header(V1)[1] for _ in range(4)]
        self.assertEqual(got, [True, True, False, False])
        self.assertTrue(self.try_header(v1("203.0.113.6"))[1])
        self.reactor.advance(1)
        self.assertTrue(self.try_header(V1)[1])
        self.assertEqual(self.connections.ended, {Reason.CONNECT_RATE: 2})

    def test_late_and_refused(self):
        """
        A client that is refused for its address is not logged as late.
        """
        self.make(required=False, deny=["198.51.100.9"])
        self.accept()
        self.reactor.advance(5)
        self.connections.check_timeouts()
        self.assert_over(denied=1)
        self.assertEqual(self.logged(), self.refused("denied", "198.51.100.9:5"))


class TLSTests(ProxyTestCase):
    """
    TLS after the header.
    """

    def make(self, **given):
        super().make(tls=CertificateInfo(SERVER), **given)

    def client(self, version="TLS 1.3"):
        """
        @return: a client, and the first bytes that it sends.
        """
        client = SSL.Connection(client_context(version))
        client.set_connect_state()
        with contextlib.suppress(SSL.WantReadError):
            client.do_handshake()
        return client, client.bio_read(65536)

    def talk(self, client, sock, said=b"hello"):
        """
        Complete the handshake and send something; it is echoed.
        """
        got = []
        sent = []

        def heard():
            with contextlib.suppress(SSL.WantReadError):
                client.do_handshake()
                if not sent:
                    sent.append(client.send(said))
                got.append(client.recv(100))
            with contextlib.suppress(SSL.WantReadError):
                sock.sendall(client.bio_read(65536))
            if data := drained(sock):
                client.bio_write(data)
            return got

        self.reactor.until(heard)
        self.assertEqual(got, [said])

    def test_no_context(self):
        """
        When there is no TLS context, the connection ends, and is removed.
        """
        self.make()
        self.patch(self.factory, "tls", object())
        _, transport, sock = self.accept()
        sock.sendall(V1)
        error = self.assertRaises(AttributeError, self.turns)
        transport.connectionLost(Failure(error))
        self.assert_over(error=1)

    def test_after_the_header(self):
        """
        TLS begins with the byte after the header, wherever the stream is cut.
        """
        for version in VERSIONS:
            for header in (V1, V2):
                for cut in (0, 1, len(header) - 1, len(header), len(header) + 1):
                    _, transport, sock = self.accept()
                    client, hello = self.client(version)
                    for piece in ((header + hello)[:cut], (header + hello)[cut:]):
                        sock.sendall(piece)
                        self.reactor.turn()
                    self.talk(client, sock)
                    self.assertIsInstance(transport, TLSMixin)
                    sock.close()
                    self.turns()
        self.assertEqual(set(self.connections.ended), {Reason.RESET})
        self.assertEqual({level for level, _ in self.logged()}, {"info"})

    def test_byte_by_byte(self):
        """
        All of it may come byte by byte.
        """
        _, transport, sock = self.accept()
        client, hello = self.client()
        for byte in V1 + hello:
            sock.sendall(bytes((byte,)))
            self.reactor.turn()
        self.talk(client, sock)
        self.assertEqual(transport.protocol.peer(), "203.0.113.5:1234")

    def test_client_and_fields(self):
        """
        The record has the client's address, the fields of the header, and those of TLS.
        """
        _, _, sock = self.accept()
        client, hello = self.client()
        sock.sendall(V2 + hello)
        self.talk(client, sock)
        client.shutdown()
        sock.sendall(client.bio_read(65536))
        sock.close()
        self.assert_over(client=1)
        suite, group = client.get_cipher_name(), client.get_group_name()
        facts = "; proxy 198.51.100.9:5; proxy_alpn h2; tls_version TLSv1.3"
        facts += f"; tls_cipher {suite}; tls_group {group}; tls_resumed no"
        self.assertEqual(self.logged(), self.access("192.0.2.1:40000", 5, facts=facts))

    def test_timeouts(self):
        """
        First the header has its timeout and then the handshake, both from accept.
        """
        _, transport, sock = self.accept()
        sock.sendall(V1)
        self.reactor.advance(4)
        self.connections.check_timeouts()
        self.turns()
        self.assertIs(transport.protocol.waiting_for, Reason.HANDSHAKE)
        self.reactor.advance(5.5)
        self.connections.check_timeouts()
        self.turns()
        self.assertEqual(len(self.connections), 1)
        self.reactor.advance(0.5)
        self.connections.check_timeouts()
        self.assert_over(handshake=1)
        self.assertEqual(self.logged(), self.refused("handshake", "203.0.113.5:1234", "late"))

    def test_failed(self):
        """
        A failed handshake is a refusal of the client that the header named.
        """
        _, _, sock = self.accept()
        sock.sendall(V1 + b"GET / HTTP/1.1\r\n\r\n")
        self.assert_over(handshake=1)
        self.assertEqual(
            self.logged(), self.refused("handshake", "203.0.113.5:1234", "http request")
        )

    def test_health_check(self):
        """
        A header with nothing after it is logged at debug level only.
        """
        _, _, sock = self.accept()
        sock.sendall(v2_header(command=LOCAL))
        self.turns()
        sock.close()
        self.turns()
        ((level, _),) = self.logged()
        self.assertEqual((level, len(self.connections)), ("debug", 0))

    def test_refused(self):
        """
        A refused client gets nothing of TLS.
        """
        self.make(deny=["203.0.113.5"], per_client=1)
        _, transport, sock = self.accept()
        sock.sendall(V1 + self.client()[1])
        self.turns()
        self.assertNotIsInstance(transport, TLSMixin)
        with contextlib.suppress(ConnectionResetError):
            self.assertEqual(sock.recv(100), b"")
        self.assert_over(denied=1)

    def test_optional(self):
        """
        If the header is optional, TLS may begin with the first byte.
        """
        self.make(required=False)
        for apart in (False, True):
            _, transport, sock = self.accept()
            client, hello = self.client()
            sock.sendall(hello[: 1 if apart else None])
            self.turns()
            sock.sendall(hello[1:] if apart else b"")
            self.talk(client, sock)
            self.assertEqual(transport.protocol.peer(), "198.51.100.9:5")

    def test_neither(self):
        """
        An invalid header is not TLS either.
        """
        self.make(required=False, per_client=1)
        for stream in (b"PROX", b"\r\n\r\n"):
            for more in (b"x", None):
                _, transport, sock = self.accept()
                sock.sendall(stream)
                self.turns()
                if more:
                    sock.sendall(more)
                else:
                    sock.shutdown(socket.SHUT_WR)
                self.turns()
                self.assertNotIsInstance(transport, TLSMixin)
                self.assertEqual(self.logged(), self.refused("handshake", "198.51.100.9:5"))
        self.assert_over(handshake=4)

    def test_neither_and_denied(self):
        """
        A client that the rules deny is refused for that, whatever it sends.
        """
        self.make(required=False, deny=["198.51.100.9"])
        _, _, sock = self.accept()
        sock.sendall(b"PROX")
        self.turns()
        sock.sendall(b"x")
        self.assert_over(denied=1)

    def test_late_and_silent(self):
        """
        If it is optional, a silent client has the rest of the time for a handshake.
        """
        self.make(required=False)
        _, transport, sock = self.accept()
        self.reactor.advance(5)
        self.connections.check_timeouts()
        self.assertIs(transport.protocol.waiting_for, Reason.HANDSHAKE)
        client, hello = self.client()
        sock.sendall(hello)
        self.talk(client, sock)
