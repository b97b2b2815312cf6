"""
Tests for system calls on sockets, with real sockets.
"""

import ast
import errno
import os
import resource
import socket
import struct
import sys
from ipaddress import ip_address

from hypothesis import given, settings, strategies as st
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.trial.unittest import SynchronousTestCase

from echod._util.sockets import (
    accept_queue_length,
    bytes_acknowledged,
    descriptor_limit,
    is_acknowledged,
    outq,
    set_socket_options,
    unread,
)
from echod._util.text import PeerText, escape, format_address, format_host, ip_of, quoted
from tests.support.arrivals import wait_for_arrival


class SocketTestCase(SynchronousTestCase):
    """
    Sockets that are closed when the test ends.
    """

    def closing(self, *sockets):
        for each in sockets:
            self.addCleanup(each.close)
        return sockets

    def tcp_pair(self, write_timeout=None):
        """
        A client of a listening socket, tuned if a timeout is given, and what it accepted.
        """
        (listening,) = self.closing(socket.create_server(("127.0.0.1", 0)))
        if write_timeout is not None:
            set_socket_options(listening, write_timeout)
        (client,) = self.closing(socket.create_connection(listening.getsockname(), timeout=60))
        (accepted,) = self.closing(listening.accept()[0])
        return client, accepted


class TuneTests(SocketTestCase):
    """
    The options of a listening socket.
    """

    def options(self, sock):
        tcp = socket.IPPROTO_TCP
        return {
            "no delay": bool(sock.getsockopt(tcp, socket.TCP_NODELAY)),
            "keepalive": bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)),
            "idle": sock.getsockopt(tcp, socket.TCP_KEEPIDLE),
            "interval": sock.getsockopt(tcp, socket.TCP_KEEPINTVL),
            "probes": sock.getsockopt(tcp, socket.TCP_KEEPCNT),
            "urgent inline": bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE)),
            "user timeout": sock.getsockopt(tcp, socket.TCP_USER_TIMEOUT),
        }

    def test_inherited(self):
        """
        A connection has the options from the moment it is accepted.
        """
        _, accepted = self.tcp_pair(write_timeout=30.0)
        self.assertEqual(
            self.options(accepted),
            {
                "no delay": True,
                "keepalive": True,
                "idle": 60,
                "interval": 10,
                "probes": 6,
                "urgent inline": True,
                "user timeout": 120_000,
            },
        )

    def test_user_timeout(self):
        """
        C{TCP_USER_TIMEOUT} is longer than the write timeout and than all keepalive probes.
        """
        for write_timeout, expected in ((1.0, 120_000), (115.0, 120_000), (300.0, 305_000)):
            _, accepted = self.tcp_pair(write_timeout=write_timeout)
            self.assertEqual(self.options(accepted)["user timeout"], expected)

    def test_refused(self):
        """
        Options that the kernel refuses are returned, and the others are set.
        """

        class Refusing(socket.socket):
            def setsockopt(self, level, option, value):
                if option in (socket.TCP_KEEPIDLE, socket.TCP_USER_TIMEOUT):
                    raise OSError(errno.ENOPROTOOPT, os.strerror(errno.ENOPROTOOPT))
                super().setsockopt(level, option, value)

        (listening,) = self.closing(Refusing())
        before = self.options(listening)
        refused = set_socket_options(listening, 30.0)
        self.assertEqual([name for name, _ in refused], ["TCP_KEEPIDLE", "TCP_USER_TIMEOUT"])
        self.assertEqual({error.errno for _, error in refused}, {errno.ENOPROTOOPT})
        after = self.options(listening)
        expected = before | {"no delay": True, "keepalive": True, "interval": 10, "probes": 6}
        expected["urgent inline"] = True
        self.assertEqual(after, expected)

    def test_send_buffer(self):
        """
        The kernel buffers at most 256 KiB for a client.
        """
        (bounded,) = self.closing(socket.socket())
        before = bounded.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
        bounded.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 256 * 1024)
        expected = bounded.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
        self.assertNotEqual(before, expected)
        (listening,) = self.closing(socket.socket())
        set_socket_options(listening, 30.0)
        self.assertEqual(listening.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF), expected)

    def test_unix(self):
        """
        A UNIX socket has the options that the system gives it: an accepted one would not inherit
        others.
        """

        def values(sock):
            names = (socket.SO_SNDBUF, socket.SO_OOBINLINE, socket.SO_KEEPALIVE)
            return [sock.getsockopt(socket.SOL_SOCKET, name) for name in names]

        listening, client = self.closing(
            socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
        )
        untouched = values(listening)
        self.assertEqual(set_socket_options(listening, 30.0), [])
        self.assertEqual(values(listening), untouched)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, untouched[0] // 4)
        name = self.mktemp()
        listening.bind(name)
        listening.listen()
        client.connect(name)
        (accepted,) = self.closing(listening.accept()[0])
        self.assertEqual(values(accepted), untouched)

    def test_no_write_timeout(self):
        """
        Without a write timeout, C{TCP_USER_TIMEOUT} is the system's default.
        """
        _, accepted = self.tcp_pair(write_timeout=0.0)
        options = self.options(accepted)
        self.assertEqual((options["user timeout"], options["idle"]), (0, 60))

    def test_platform_without(self):
        """
        An option that the platform lacks is left out.
        """
        with_all = self.options(self.tcp_pair(write_timeout=30.0)[1])
        self.patch(socket, "TCP_KEEPIDLE", None)
        _, accepted = self.tcp_pair(write_timeout=30.0)
        self.patch(socket, "TCP_KEEPIDLE", 4)
        without = self.options(accepted)
        self.assertNotEqual(without.pop("idle"), with_all.pop("idle"))
        self.assertEqual(without, with_all)


class QueueTests(SocketTestCase):
    """
    The bytes that the kernel holds of a connected socket.
    """

    def test_unread(self):
        """
        Bytes from the peer count until they are received.
        """
        for ours, theirs in (self.tcp_pair(), self.closing(*socket.socketpair())):
            self.assertEqual(unread(ours.fileno()), 0)
            theirs.sendall(b"12345")
            # A peek waits until they are there.
            ours.recv(5, socket.MSG_PEEK | socket.MSG_WAITALL)
            self.assertEqual(unread(ours.fileno()), 5)
            ours.recv(2)
            self.assertEqual(unread(ours.fileno()), 3)

    def test_unsent(self):
        """
        Sent bytes count until the peer has acknowledged them.
        """
        for ours, theirs in (self.tcp_pair(), self.closing(*socket.socketpair())):
            self.assertEqual(outq(ours.fileno()), 0)
            self.assertTrue(is_acknowledged(ours.fileno()))
            ours.setblocking(False)
            sent = 0
            try:
                while True:
                    sent += ours.send(bytes(65536))
            except BlockingIOError:
                pass
            self.assertGreater(outq(ours.fileno()), 0)
            self.assertFalse(is_acknowledged(ours.fileno()))
            theirs.settimeout(60)
            while sent:
                sent -= len(theirs.recv(1 << 20))
            # The last acknowledgement may be on its way: send the peer's end after it.
            theirs.shutdown(socket.SHUT_WR)
            ours.settimeout(60)
            self.assertEqual(ours.recv(1), b"")
            self.assertEqual(outq(ours.fileno()), 0)
            self.assertTrue(is_acknowledged(ours.fileno()))

    def test_acknowledged(self):
        """
        Acknowledged bytes are counted from the beginning of a TCP connection.
        """
        theirs, ours = self.tcp_pair()
        self.assertIsNone(bytes_acknowledged(ours))
        for total in (5, 10):
            ours.sendall(b"hello")
            self.assertEqual(theirs.recv(5, socket.MSG_WAITALL), b"hello")
            # What the peer sends acknowledges what it has received.
            theirs.sendall(b"x")
            self.assertEqual(ours.recv(1), b"x")
            self.assertEqual(bytes_acknowledged(ours), total)

    def test_not_acknowledged(self):
        """
        Not so on a UNIX socket, on a system without C{TCP_INFO}, or with a shorter one.
        """
        ours, theirs = self.closing(*socket.socketpair())
        ours.sendall(b"hello")
        self.assertIsNone(bytes_acknowledged(ours))
        theirs, ours = self.tcp_pair()
        ours.sendall(b"hello")
        theirs.shutdown(socket.SHUT_WR)
        self.assertEqual(ours.recv(1), b"")
        self.assertEqual(bytes_acknowledged(ours), 5)
        self.assertIsNone(bytes_acknowledged(ours, None))
        self.assertIsNone(bytes_acknowledged(ours, socket.TCP_NODELAY))


class AcceptQueueTests(SocketTestCase):
    """
    How many clients wait to be accepted.
    """

    def test_tcp(self):
        """
        On Linux the kernel tells it of a TCP socket.
        """
        for host, family in (("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6)):
            (listening,) = self.closing(socket.create_server((host, 0), family=family))
            lengths = [accept_queue_length(listening)]
            for _ in range(3):
                self.closing(socket.create_connection(listening.getsockname()[:2], timeout=60))
                wait_for_arrival()
                lengths.append(accept_queue_length(listening))
            self.closing(listening.accept()[0])
            self.assertEqual([*lengths, accept_queue_length(listening)], [0, 1, 2, 3, 2])

    def test_unknown(self):
        """
        Of a UNIX socket it does not, nor where a sandbox refuses to, nor on other platforms.
        """

        class Refusing(socket.socket):
            def getsockopt(self, *args):
                raise OSError(errno.ENOPROTOOPT, os.strerror(errno.ENOPROTOOPT))

        (tcp,) = self.closing(socket.create_server(("127.0.0.1", 0)))
        self.closing(socket.create_connection(tcp.getsockname(), timeout=60))
        wait_for_arrival()
        for listening in self.closing(socket.socket(socket.AF_UNIX), Refusing()):
            self.assertEqual(accept_queue_length(listening), 0)
        self.patch(sys, "platform", "freebsd14")
        self.assertEqual(accept_queue_length(tcp), 0)


class DescriptorLimitTests(SynchronousTestCase):
    """
    The limit on descriptors, with a fake kernel.
    """

    def limit(self, soft, hard, refusal=None):
        """
        @return: the limit that is found, and those that were asked for.
        """
        asked = []

        def setrlimit(kind, limits):
            self.assertEqual(kind, resource.RLIMIT_NOFILE)
            asked.append(limits)
            if refusal is not None:
                raise refusal

        answers = {resource.RLIMIT_NOFILE: (soft, hard)}
        self.patch(resource, "getrlimit", answers.__getitem__)
        self.patch(resource, "setrlimit", setrlimit)
        return descriptor_limit(), asked

    def test_raised(self):
        """
        The soft limit is raised to the hard limit, and returned.
        """
        self.assertEqual(self.limit(1024, 5000), (5000, [(5000, 5000)]))
        self.assertEqual(self.limit(5000, 5000), (5000, [(5000, 5000)]))

    def test_cannot_be_raised(self):
        """
        When the limit cannot be raised, the soft limit is returned.
        """
        for refusal in (OSError(1, "no"), ValueError("no")):
            self.assertEqual(self.limit(1024, 5000, refusal)[0], 1024)

    def test_none(self):
        """
        Without a limit, the result is a large number.
        """
        without = resource.RLIM_INFINITY
        self.assertEqual(self.limit(1024, without), (sys.maxsize, [(without, without)]))

    def test_not_told(self):
        """
        When the limit cannot be read, the result is a large number.
        """

        def getrlimit(kind):
            raise OSError(1, "no")

        self.patch(resource, "getrlimit", getrlimit)
        self.assertEqual(descriptor_limit(), sys.maxsize)


class AddressTests(SynchronousTestCase):
    """
    The IP address in an address.
    """

    def test_ip_of(self):
        """
        It is the client's address; an IPv4-mapped address becomes the IPv4 address.
        """
        for address, expected in (
            (IPv4Address("TCP", "192.0.2.1", 9000), "192.0.2.1"),
            (IPv4Address("TCP", "0.0.0.0", 0), "0.0.0.0"),
            (IPv6Address("TCP", "2001:db8::1", 9000), "2001:db8::1"),
            (IPv6Address("TCP", "::", 0), "::"),
            (IPv6Address("TCP", "fe80::1%lo", 9000), "fe80::1%lo"),
            (IPv6Address("TCP", "::ffff:192.0.2.1", 9000), "192.0.2.1"),
            (IPv6Address("TCP", "::ffff:0.0.0.0", 9000), "0.0.0.0"),
            (IPv6Address("TCP", "::192.0.2.1", 9000), "::c000:201"),
        ):
            self.assertEqual(ip_of(address), ip_address(expected))

    def test_none(self):
        """
        Other addresses have none.
        """
        for address in (
            UNIXAddress(b"/run/echod.sock"),
            UNIXAddress(None),
            IPv4Address("TCP", "no host", 1),
            IPv4Address("TCP", "", 1),
            None,
        ):
            self.assertIsNone(ip_of(address))


class TextTests(SynchronousTestCase):
    """
    Tests for text from peers and operators.
    """

    def test_printable(self):
        """
        Characters that could move the cursor, end a line or be invisible are escaped.
        """
        for text, expected in (
            ("tcp:9000 'x' \\ \xe9 \u65e5", "tcp:9000 'x' \\ \xe9 \u65e5"),
            ("a\r\n\tb", "a\\r\\n\\tb"),
            ("\x1b[2J\x00\x7f\x9b", "\\x1b[2J\\x00\\x7f\\x9b"),
            ("\u2028\u202e\ud800", "\\u2028\\u202e\\ud800"),
            ("a\u3164b\ufe0f\U000e0100", "a\\u3164b\\ufe0f\\U000e0100"),
            ("", ""),
        ):
            self.assertEqual(escape(text), expected)

    def test_address_text(self):
        """
        An address is shown in its usual form, and an IPv4 client of IPv6 as IPv4.
        """
        for address, expected in (
            (IPv4Address("TCP", "192.0.2.1", 9000), "192.0.2.1:9000"),
            (IPv6Address("TCP", "2001:db8::1", 9000), "[2001:db8::1]:9000"),
            (IPv6Address("TCP", "2001:DB8:0::1", 9000), "[2001:db8::1]:9000"),
            (IPv6Address("TCP", "::1.2.3.4", 9000), "[::102:304]:9000"),
            (IPv6Address("TCP", "fe80::1%lo", 9000), "[fe80::1%lo]:9000"),
            (IPv6Address("TCP", "::ffff:192.0.2.1", 9000), "192.0.2.1:9000"),
            (UNIXAddress(b"/run/echod.sock"), "unix:/run/echod.sock"),
            (UNIXAddress(None), "unix:"),
            (UNIXAddress(b"\0abstract"), "unix:\\x00abstract"),
            (UNIXAddress(b"/a\n\x1b[2J\xff\xc3\xa9"), "unix:/a\\n\\x1b[2J\\xff\xe9"),
        ):
            self.assertEqual(format_address(address), expected)

    def test_address_that_is_none(self):
        """
        An address with any text is escaped.
        """
        for host, expected in (
            ("no\nhost", "no\\nhost"), ("127.1", "127.1"), ("010.0.0.1", "010.0.0.1"),
            ("", ""), ("...", "..."), ("1.2.3.4\n", "1.2.3.4\\n"), ("\0", "\\x00"),
            ("::ffff:1.2.3.256", "::ffff:1.2.3.256"), ("1.2.3.4.", "1.2.3.4."),
            ("\u0661.2.3.4", "\u0661.2.3.4"), ("256.0.0.1", "256.0.0.1"),
        ):  # fmt: skip
            self.assertEqual(format_address(IPv4Address("TCP", host, 1)), f"{expected}:1")
            self.assertEqual(format_host(host), expected)

    def test_host(self):
        """
        A host is the address without the port; UNIX sockets have none.
        """
        for host, expected in (
            ("192.0.2.1", "192.0.2.1"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("2001:db8::1", "2001:db8::1"),
            (None, "unix"),
        ):
            self.assertEqual(format_host(host), expected)

    @settings(deadline=None, database=None, derandomize=True)
    @given(
        st.ip_addresses(v=4).map(str)
        | st.lists(st.sampled_from((0, 1, 0xFFFF)), min_size=8, max_size=8).map(
            lambda groups: socket.inet_ntop(socket.AF_INET6, struct.pack("!8H", *groups))
        )
        | st.ip_addresses(v=6).map(str)
        | st.text("0123456789abcdf:.%", max_size=20)
    )
    def test_same_as_ipaddress(self, host):
        """
        The text of an address is that of L{ipaddress}.
        """
        address = IPv6Address("TCP", host, 9)
        ip = ip_of(address)
        expected = host if ip is None else f"[{ip}]" if ip.version == 6 else str(ip)
        self.assertEqual(format_address(address), f"{expected}:9")


class QuotedTests(SynchronousTestCase):
    """
    Values in a line of text.
    """

    def test_bare(self):
        """
        A value that cannot be misread needs no quotes.
        """
        for text in (
            "192.0.2.1:9000",
            "[2001:db8::1]:9000",
            "unix:/run/echod",
            "unix:",
            "{}%",
        ):
            self.assertEqual(quoted(text), text)

    def test_quoted(self):
        """
        Another value is in quotes, with a backslash before each quote and backslash.
        """
        for text, expected in (
            ("", '""'),
            ("CN=x", '"CN=x"'),
            ("a b", '"a b"'),
            ("a; b", '"a; b"'),
            ("a,", '"a,"'),
            ("h\xe9", '"h\xe9"'),
            ('a"', r'"a\""'),
            ("a\\", r'"a\\"'),
            (r"\x0a", r'"\\x0a"'),
            ("a\nb\u2028\xa0", r'"a\nb\u2028\xa0"'),
        ):
            self.assertEqual(quoted(text), expected)

    @settings(deadline=None, database=None, derandomize=True)
    @given(st.text())
    def test_recovered(self, value):
        """
        Different values have different forms, each one printable token.
        """
        shown = quoted(value)
        self.assertTrue(shown.isprintable())
        self.assertEqual(ast.literal_eval(shown) if shown.startswith('"') else shown, value)

    def test_peer_text(self):
        """
        L{PeerText} is quoted when it is formatted, and not elsewhere.
        """
        self.assertEqual(f"{PeerText('a b')}|{PeerText('ab'):4}|", '"a b"|ab  |')
        self.assertEqual(PeerText("a b"), "a b")
