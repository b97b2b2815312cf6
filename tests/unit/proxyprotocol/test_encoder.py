"""
Encoded PROXY headers, decoded as the specification says.
"""

import socket
import struct

from twisted.trial.unittest import SynchronousTestCase

from echod.proxyprotocol import V2_SIGNATURE
from echod.proxyprotocol.encoder import encode_proxy_header, parse_address


class ParseAddressTests(SynchronousTestCase):
    """
    Tests for L{parse_address<echod.proxyprotocol.encoder.parse_address>}.
    """

    def test_good(self):
        """
        Addresses of both versions are parsed, with their port.
        """
        for text, address, port in (
            ("192.0.2.1:4711", "192.0.2.1", 4711),
            ("[2001:db8::1]:65535", "2001:db8::1", 65535),
        ):
            found = parse_address(text)
            self.assertEqual((str(found[0]), found[1]), (address, port))

    def test_bad(self):
        """
        Everything else is an error of one line that says what to give.
        """
        for text in (
            *("", "192.0.2.1", "192.0.2.1:", "192.0.2.256:1", "192.0.2.1:65536", "a:1"),
            *("2001:db8::1:1", "[192.0.2.1]:1", "[::1]", "192.0.2.1:1\r\n"),
        ):
            error = self.assertRaises(ValueError, parse_address, text)
            self.assertIn("give one such as 192.0.2.1:4711", str(error))


class EncodeTests(SynchronousTestCase):
    """
    Tests for L{encode_proxy_header<echod.proxyprotocol.encoder.encode_proxy_header>}.
    """

    here = parse_address("192.0.2.9:443")
    here6 = parse_address("[2001:db8::9]:443")

    def decode(self, header):
        """
        @return: what a version 2 header says.
        """
        signature, kind, family, length = struct.unpack("!12sBBH", header[:16])
        self.assertEqual(signature, b"\x0d\x0a\x0d\x0a\x00\x0d\x0a\x51\x55\x49\x54\x0a")
        self.assertEqual((kind, length), (0x21, len(header) - 16))
        size, af = {0x11: (4, socket.AF_INET), 0x21: (16, socket.AF_INET6)}[family]
        one, two, *ports = struct.unpack(f"!{size}s{size}sHH", header[16:])
        return [socket.inet_ntop(af, one), socket.inet_ntop(af, two), *ports]

    def test_v1(self):
        """
        Version 1 is a line of text, and never longer than 107 bytes.
        """
        header = encode_proxy_header("v1", parse_address("198.51.100.7:4711"), self.here)
        self.assertEqual(header, b"PROXY TCP4 198.51.100.7 192.0.2.9 4711 443\r\n")
        header = encode_proxy_header("v1", parse_address("[2001:db8::7]:4711"), self.here6)
        self.assertEqual(header, b"PROXY TCP6 2001:db8::7 2001:db8::9 4711 443\r\n")
        longest = parse_address(f"[{':'.join(['ffff'] * 8)}]:65535")
        self.assertLessEqual(len(encode_proxy_header("v1", longest, longest)), 107)

    def test_v2(self):
        """
        Version 2 is binary.
        """
        header = encode_proxy_header("v2", parse_address("198.51.100.7:4711"), self.here)
        self.assertEqual(self.decode(header), ["198.51.100.7", "192.0.2.9", 4711, 443])
        header = encode_proxy_header("v2", parse_address("[2001:db8::7]:4711"), self.here6)
        self.assertEqual(self.decode(header), ["2001:db8::7", "2001:db8::9", 4711, 443])

    def test_mixed(self):
        """
        Addresses of two families are both written as IPv6.
        """
        header = encode_proxy_header("v2", parse_address("[2001:db8::7]:1"), self.here)
        self.assertEqual(self.decode(header), ["2001:db8::7", "::ffff:192.0.2.9", 1, 443])
        header = encode_proxy_header("v2", parse_address("198.51.100.7:1"), self.here6)
        self.assertEqual(self.decode(header), ["::ffff:198.51.100.7", "2001:db8::9", 1, 443])

    def test_unknown(self):
        """
        Without a source, the server is to use the address of the connection.
        """
        self.assertEqual(encode_proxy_header("v1", None, self.here), b"PROXY UNKNOWN\r\n")
        self.assertEqual(encode_proxy_header("v2", None, self.here), V2_SIGNATURE + b"\x20\0\0\0")
