"""
Tests for the coercions of option values.
"""

import errno
import os
from ipaddress import ip_network

from twisted.logger import LogLevel
from twisted.trial.unittest import SynchronousTestCase

from echod._util import values


class ValuesTests(SynchronousTestCase):
    """
    Text of the command line becomes a value, or an error text.
    """

    def check(self, coerce, good, bad, way_out):
        """
        A good value has its type; the error for a bad one says what to give.
        """
        for text, expected in good.items():
            value = coerce(text)
            self.assertEqual((value, type(value)), (expected, type(expected)), text)
        for text in bad:
            error = self.assertRaises(ValueError, coerce, text)
            self.assertRegex(str(error), r"\Anot [^;]+; give [^;]+\Z")
            self.assertIn(way_out, str(error))

    def test_port_number(self):
        """
        A port is a number from 0 to 65535 in plain digits.
        """
        self.check(
            values.port_number,
            {"0": 0, "7": 7, "65535": 65535, "00080": 80},
            ("", "x", "-1", "+1", "65536", "99999", "100000", "000080", "9000 ", "9\n", "0x10",
             "1_0", "\u0661"),
            "give a number from 0 (any free port) to 65535",
        )  # fmt: skip

    def test_backlog(self):
        """
        A queue holds from 1 to 65535.
        """
        self.check(
            values.backlog,
            {"1": 1, "1024": 1024, "65535": 65535},
            ("", "0", "65536", "100000", "-1", "1.5", "9\n"),
            "give a number from 1 to 65535",
        )

    def test_interface(self):
        """
        An interface is an IP address of either version, kept as it was written.
        """
        self.check(
            values.interface,
            {"127.0.0.1": "127.0.0.1", "::1": "::1", "0::1": "0::1", "fe80::1%lo": "fe80::1%lo"},
            ("", "localhost", "127.0.0.1:80", "300.0.0.1", "127.0.0.1/8", "::1\x1b[2J"),
            "give one such as 127.0.0.1 or ::1",
        )

    def test_seconds(self):
        """
        A time is in seconds, or has its unit, and is no longer than a week.
        """
        self.check(
            values.seconds,
            {
                "0": 0.0, "30": 30.0, "1.5": 1.5, "500ms": 0.5, "30s": 30.0, "5m": 300.0,
                "1h": 3600.0, "0.5h": 1800.0, "1d": 86400.0, "7d": 604800.0, "604800": 604800.0,
                "000000005": 5.0, "0.000000001": 1e-9,
            },
            ("", "x", "-1", "8d", "nan", "inf", "1e3", ".5", "5.", "5 s", "5S", "169h", "604801",
             "604800.1", "5s\n", "1_0", "\u0661", "0000000005", "0.0000000001"),
            "give seconds, or such as 500ms, 30s, 5m, up to a week",
        )  # fmt: skip

    def test_log_level(self):
        """
        A level is one of four words.
        """
        self.check(
            values.log_level,
            {
                "debug": LogLevel.debug,
                "info": LogLevel.info,
                "warn": LogLevel.warn,
                "error": LogLevel.error,
            },
            ("", "INFO", "critical", "all", "info "),
            "give debug, info, warn or error",
        )

    def test_one_of(self):
        """
        A choice is one of its words.
        """
        self.check(
            values.one_of("a", "b", "c"),
            {"a": "a", "b": "b", "c": "c"},
            ("", "d", "A", "ab"),
            "give a or b or c",
        )

    def test_path(self):
        """
        A path is what may be the name of a file.
        """
        self.check(
            values.path,
            {"cert.pem": os.path.abspath("cert.pem"), "/a b\n": "/a b\n"},
            ("", "a\0b"),
            "give the name of a file",
        )

    def test_path_without_current_directory(self):
        """
        Where the current directory has been removed, only an absolute path is one.
        """

        def getcwd():
            raise FileNotFoundError(errno.ENOENT, "No such file or directory")

        self.patch(os, "getcwd", getcwd)
        self.assertEqual(values.path("/cert.pem"), "/cert.pem")
        error = self.assertRaises(ValueError, values.path, "cert.pem")
        self.assertEqual(str(error), "there is no current directory; give an absolute path")

    def test_protocols(self):
        """
        Protocols are names between commas, of characters that can be seen.
        """
        self.check(
            values.protocols,
            {"echo": (b"echo",), "h2,http/1.1": (b"h2", b"http/1.1"), "x" * 255: (b"x" * 255,)},
            ("", ",", "h2,", "h2,,x", "h 2", "h2\n", "\xe9", "x" * 256),
            "give names such as h2,http/1.1",
        )

    def test_count(self):
        """
        A number of connections may be 0, and has an end.
        """
        self.check(
            values.count,
            {"0": 0, "5": 5, "10000000": 10_000_000},
            ("", "-1", "10000001", "100000000", "1.5", "x", "1\n", "1_0"),
            "give one from 0 to 10000000",
        )

    def test_positive(self):
        """
        Where there must be some, 0 is refused.
        """
        self.check(
            values.positive,
            {"1": 1, "5": 5, "10000000": 10_000_000},
            ("", "0", "00", "-1", "10000001", "100000000", "1.5", "x", "1\n"),
            "give one from 1 to 10000000",
        )

    def test_processes(self):
        """
        A number of processes may be 0, which leaves it to the machine.
        """
        self.check(
            values.processes,
            {"0": 0, "1": 1, "16": 16, "1024": 1024},
            ("", "x", "-1", "1.5", "1025", "99999", "2\n"),
            "give one from 0 to 1024",
        )

    def test_connect_rate(self):
        """
        A rate is connections a second, and how many at once; by default as many as a second.
        0 is no rate.
        """
        self.assertIsNone(values.connect_rate("0"))
        good = {
            "10": (10.0, 10), "1": (1.0, 1), "0.5": (0.5, 1), "0.001": (0.001, 1),
            "2.5": (2.5, 3), "10:50": (10.0, 50), "10:1": (10.0, 1), "0.5:7": (0.5, 7),
            "999999.999": (999999.999, 1_000_000), "1:999999": (1.0, 999_999),
        }  # fmt: skip
        self.check(
            values.connect_rate,
            good,
            ("", "0.0", "0.000", "0:5", "-1", "10:", ":5", "10:0", "10:05", "10:-1", "10:1.5",
             "1000000", "1.0001", "1:1000000", "10/s", "1e3", "10:50:1", "10\n", "10:5\n"),
            "give connections a second, such as 10, 0.5, or 10:50",
        )  # fmt: skip
        for text in good:
            self.assertEqual([type(each) for each in values.connect_rate(text)], [float, int])

    def test_unix_path(self):
        """
        The path of a UNIX socket has to fit into its address; what counts is bytes.
        """
        longest = "/" + "x" * 106
        self.check(
            values.unix_path,
            {longest: longest, "s": "s"},
            ("/" + "x" * 107, "/" + "\u00e4" * 54, "", "a\0b"),
            "; give ",
        )

    def test_host_name(self):
        """
        A host name is in ASCII (IDNA 2008), without a trailing dot.
        """
        self.check(
            values.host_name,
            {
                "localhost": "localhost",
                "echo.example.": "echo.example",
                "_x._tcp.Echo.example": "_x._tcp.Echo.example",
                "xn--strae-oqa.example": "xn--strae-oqa.example",
                "stra\u00dfe.example": "xn--strae-oqa.example",
                "B\u00dcCHER.example.": "xn--bcher-kva.example",
                "b\u00fccher\u3002example\u3002": "xn--bcher-kva.example",
                "x" * 63: "x" * 63,
                ".".join(["x" * 49] * 5): ".".join(["x" * 49] * 5),
            },
            ("", ".", "a..b", ".example.com", "a..", "x" * 64, "a b", "a\n", "\u00e4..b", "\u2603-",
             "\u00e4" * 64, "a\0", ".".join(["x" * 49] * 5) + ".xxxxx"),
            "give one such as echo.example",
        )  # fmt: skip

    def test_server_name(self):
        """
        A certificate can be for an address as well.
        """
        self.check(
            values.server_name,
            {"127.0.0.1": "127.0.0.1", "::1": "::1", "localhost.": "localhost"},
            ("a..b", "[::1]"),
            "give one such as echo.example",
        )

    def test_network(self):
        """
        A network is a prefix of either version, or one address.
        """
        good = {
            "192.0.2.0/24": "192.0.2.0/24",
            "192.0.2.7": "192.0.2.7/32",
            "0.0.0.0/0": "0.0.0.0/0",
            "2001:db8::/32": "2001:db8::/32",
            "2001:DB8::1": "2001:db8::1/128",
            "::/0": "::/0",
        }
        self.check(
            values.network,
            {text: ip_network(expected) for text, expected in good.items()},
            ("", "x", "192.0.2.0/33", "192.0.2.0/-1", "::/129", "192.0.2", "192.0.2.0/24 ",
             "192.0.2.0/24\n", "192.0.2.1:80", "[::1]"),
            "give one such as 192.0.2.0/24 or 2001:db8::/32",
        )  # fmt: skip

    def test_network_with_host_bits(self):
        """
        An address with a prefix that cuts it is refused, with the network that is meant.
        """
        self.check(values.network, {}, ("192.0.2.7/24",), "give one such as 192.0.2.0/24")
        self.check(values.network, {}, ("2001:db8::7/32",), "give one such as 2001:db8::/32")
        self.check(values.network, {}, ("::ffff:192.0.2.7/120",), "give one such as ::ffff:")

    def test_network_with_a_zone(self):
        """
        A zone belongs to a link and not to a network.
        """
        self.check(
            values.network,
            {"fe80::/10": ip_network("fe80::/10")},
            ("fe80::%lo/10", "fe80::1%lo"),
            "give one such as fe80::/10, without a zone",
        )

    def test_mapped_network(self):
        """
        An IPv4-mapped network is the IPv4 network that it is; one that is more is not.
        """
        good = {
            "::ffff:192.0.2.7": "192.0.2.7/32",
            "::ffff:192.0.2.7/128": "192.0.2.7/32",
            "::ffff:192.0.2.0/120": "192.0.2.0/24",
            "::ffff:0:0/97": "0.0.0.0/1",
            "::ffff:0:0/96": "0.0.0.0/0",
            "::fffe:0:0/95": "::fffe:0:0/95",
            "::/95": "::/95",
            "::ffff:0:0:0/96": "::ffff:0:0:0/96",
        }
        self.check(
            values.network, {text: ip_network(expected) for text, expected in good.items()}, (), ""
        )

    def test_host(self):
        """
        A host is a name in lower case without a trailing dot, or an address in its
        canonical form.
        """
        for text, value in (
            ("Echod.Example.", "echod.example"),
            ("web_1-a", "web_1-a"),
            ("192.0.2.1", "192.0.2.1"),
            ("2001:DB8:0::1", "2001:db8::1"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("a" * 63, "a" * 63),
        ):
            self.assertEqual(values.host(text), value)
        for text in (
            *("", ".", "a..b", "a..", ".a", "a b", "a:1", "[::1]", "fe80::1%lo", "*.example"),
            *("a/", "http://a", "\xe9.example", "a\n", "a" * 64, ".".join(["a" * 63] * 4)),
        ):
            self.assertRaises(ValueError, values.host, text)
