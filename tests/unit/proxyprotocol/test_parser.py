"""
Parsing PROXY headers, by their specification (HAProxy's C{doc/proxy-protocol.txt}).
"""

import random
import struct
from ipaddress import IPv4Address, IPv6Address, ip_address

from hypothesis import HealthCheck, given, settings, strategies as st
from twisted.internet import address
from twisted.trial.unittest import SynchronousTestCase

from echod.proxyprotocol.parser import (
    MAX_V2_BYTES,
    V1_SIGNATURE,
    ProxyHeaderError,
    ProxyInfo,
    ProxyParser,
    crc32c,
)
from tests.support.proxyheaders import (
    ALPN,
    AUTHORITY,
    CRC32C,
    FOUR,
    LOCAL,
    NETNS,
    NOOP,
    PROXY,
    SIX,
    SSL,
    SSL_CIPHER,
    SSL_CN,
    SSL_KEY_ALG,
    SSL_SIG_ALG,
    SSL_VERSION,
    TCP4,
    TCP6,
    TLS_TLVS,
    UDP4,
    UDP6,
    UNIQUE_ID,
    UNIX,
    UNIX_DGRAM,
    UNSPEC,
    checksummed,
    tls_tlv,
    tlv,
    unix_addresses,
    v2_header,
)

PAYLOAD = b"\r\nPROXY \0payload"
"""What follows a header, and looks like one itself."""


def content(header):
    """
    The content of a header as text that can be compared: the client and the fields.
    """
    client = header.client
    if isinstance(client, address.UNIXAddress):
        return ("unix", client.name), header.log_fields
    if client is not None:
        return (type(client).__name__, client.type, client.host, client.port), header.log_fields
    return None, header.log_fields


def outcome(pieces):
    """
    What a stream that arrives in these pieces gives: the content of its header and the rest, or the
    error, or the state of the parser without a header.
    """
    parser = ProxyParser()
    taken = 0
    left = b""
    pieces = list(pieces)
    while pieces and parser.header is None:
        piece = pieces.pop(0)
        if not piece:
            continue
        try:
            size = parser.feed(piece)
        except ProxyHeaderError as error:
            assert parser.header is None
            return "bad", str(error)
        assert 0 <= size <= len(piece)
        taken += size
        assert len(parser.taken) == taken
        left = piece[size:]
        if parser.header is None and left:
            assert size == 0, "what belongs to no header was taken"
            return "none", parser.taken + left + b"".join(pieces)
    if parser.header is None:
        return "more", parser.taken
    return "header", *content(parser.header), parser.taken, left + b"".join(pieces)


def bytewise(stream):
    """
    A stream, byte by byte.
    """
    return (stream[n : n + 1] for n in range(len(stream)))


def inet(host, port):
    """
    A client, as L{content} has it.
    """
    return ("IPv6Address" if ":" in host else "IPv4Address", "TCP", host, port)


WORST = b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n".replace(
    b"ffff:f...f:ffff", b":".join([b"ffff"] * 8)
)
"""The longest line that the specification knows of."""

GOOD_V1 = {
    b"PROXY TCP4 192.0.2.1 198.51.100.2 40000 9000\r\n": inet("192.0.2.1", 40000),
    b"PROXY TCP4 0.0.0.0 255.255.255.255 0 65535\r\n": inet("0.0.0.0", 0),
    b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n": inet("255.255.255.255", 65535),
    b"PROXY TCP6 2001:db8::1 :: 65535 0\r\n": inet("2001:db8::1", 65535),
    b"PROXY TCP6 2001:DB8:0:0:0:0:0:A 2001:0db8::1 1 2\r\n": inet("2001:db8::a", 1),
    b"PROXY TCP6 %b %b 65535 65535\r\n" % ((b":".join([b"ffff"] * 8),) * 2): inet(
        ":".join(["ffff"] * 8), 65535
    ),
    b"PROXY UNKNOWN\r\n": None,
    b"PROXY UNKNOWN \r\n": None,
    b"PROXY UNKNOWN 192.0.2.1 198.51.100.2 40000 9000\r\n": None,
    b"PROXY UNKNOWN \0\xff\x1b[2J what ever\r\n": None,
    WORST: None,
}

NOT_A_LINE = "not a line of version 1"
NO_ADDRESS = "not an address and its port"
NO_END = "a line that does not end"

BAD_V1 = {
    NO_ADDRESS: (
        b"PROXY TCP4 192.0.2.1 198.51.100.2 65536 9000\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 40000 65536\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 99999 9000\r\n",
        b"PROXY TCP4 192.0.2.256 198.51.100.2 40000 9000\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100 40000 9000\r\n",
        b"PROXY TCP4 192.0.2.01 198.51.100.2 40000 9000\r\n",
        b"PROXY TCP4 192.0.2.1 198.051.100.2 40000 9000\r\n",
        b"PROXY TCP4 3221225985 198.51.100.2 40000 9000\r\n",
        b"PROXY TCP4 192.0.2. 198.51.100.2 40000 9000\r\n",
        b"PROXY TCP4 2001:db8::1 2001:db8::2 40000 9000\r\n",
        b"PROXY TCP4 192.0.2.1 2001:db8::2 40000 9000\r\n",
        b"PROXY TCP4 ::ffff:192.0.2.1 198.51.100.2 40000 9000\r\n",
        b"PROXY TCP6 192.0.2.1 198.51.100.2 40000 9000\r\n",
        b"PROXY TCP6 2001:db8::1 198.51.100.2 40000 9000\r\n",
        b"PROXY TCP6 2001:db8::1::2 2001:db8::2 40000 9000\r\n",
        b"PROXY TCP6 2001:db8:::1 2001:db8::2 40000 9000\r\n",
        b"PROXY TCP6 12345::1 2001:db8::2 40000 9000\r\n",
        b"PROXY TCP6 ::1 ::2 65536 9000\r\n",
    ),
    NOT_A_LINE: (
        b"PROXY \r\n",
        b"PROXY \n",
        b"PROXY \r\r\n",
        b"PROXY  UNKNOWN\r\n",
        b"PROXY UNKNOWN\n",
        b"PROXY UNKNOWN\r\r\n",
        b"PROXY UNKNOWN x\ry\r\n",
        b"PROXY UNKNOWNX\r\n",
        b"PROXY unknown\r\n",
        b"PROXY UNKNOW\r\n",
        b"PROXY TCP4\r\n",
        b"PROXY TCP4 \r\n",
        b"PROXY TCP4 192.0.2.1\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 40000\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 40000 \r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 40000 9000 \r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 40000 9000 1\r\n",
        b"PROXY TCP4  192.0.2.1 198.51.100.2 40000 9000\r\n",
        b"PROXY TCP4 192.0.2.1  198.51.100.2 40000 9000\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2  40000 9000\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 40000  9000\r\n",
        b"PROXY TCP4\t192.0.2.1 198.51.100.2 40000 9000\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 40000 9000\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 40000 9000\r\r\n",
        b"PROXY TCP4 192.0.2.1\r198.51.100.2 40000 9000\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 040000 9000\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 04000 9000\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 40000 00\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 +4000 9000\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 -1 9000\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 4_0 9000\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 40000 9_0\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 4.0 9000\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 0x40 9000\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 400000 9000\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 40000 http\r\n",
        b"PROXY TCP4 192.0.2.1/32 198.51.100.2 40000 9000\r\n",
        b"PROXY TCP4 client.example 198.51.100.2 40000 9000\r\n",
        b"PROXY TCP4 192.0.2.1\0 198.51.100.2 40000 9000\r\n",
        b"PROXY TCP4 192.0.2.\xb2 198.51.100.2 40000 9000\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.2 4000\xb2 9000\r\n",
        b"PROXY TCP6 fe80::1%lo ::2 40000 9000\r\n",
        b"PROXY TCP6 [::1] ::2 40000 9000\r\n",
        b"PROXY tcp4 192.0.2.1 198.51.100.2 40000 9000\r\n",
        b"PROXY TCP5 192.0.2.1 198.51.100.2 40000 9000\r\n",
        b"PROXY TCP46 192.0.2.1 198.51.100.2 40000 9000\r\n",
        b"PROXY UDP4 192.0.2.1 198.51.100.2 40000 9000\r\n",
    ),
    NO_END: (
        WORST.replace(b"65535\r", b"65535 \r"),
        WORST[:-2] + b"x\r\n",
        WORST[:-2] + b"xyz",
        b"PROXY UNKNOWN " + bytes(93),
        b"PROXY TCP4 " + b"1" * 96,
        b"PROXY " + b" " * 200 + b"\r\n",
    ),
}

NO_VERSION = "neither LOCAL nor PROXY of version 2"
NO_FAMILY = "an address of no known family"
SHORT = "too short for its addresses"
OVERRUN = "a field that is longer than the header"
SHORT_TLS = "too short for what it says of TLS"
LONG_ID = "an identifier of more than 128 bytes"
SUM_SIZE = "a checksum of another size"
SUM = "a checksum that is not its own"
SUMS = "more than one checksum"
LONG = "longer than any"

FOUR_TOLD, SIX_TOLD = inet("192.0.2.1", 40000), inet("2001:db8::1", 65535)
FULL = bytes(range(1, 109))
TLS_FACTS = {
    "proxy_tls_version": "TLSv1.3",
    "proxy_tls_cipher": "TLS_AES_128_GCM_SHA256",
    "proxy_tls_cn": "client.example",
}

GOOD_V2 = {
    "LOCAL": (v2_header(family=UNSPEC, command=LOCAL), None, {}),
    "LOCAL with addresses": (v2_header(FOUR, command=LOCAL), None, {}),
    "LOCAL of no family": (v2_header(b"what ever", 0xFF, LOCAL), None, {}),
    "LOCAL with vectors": (v2_header(FOUR + tlv(ALPN, b"h2", 9), command=LOCAL), None, {}),
    "PROXY for an unknown family": (v2_header(family=UNSPEC), None, {}),
    "PROXY for an unknown family, with something": (v2_header(b"what ever", UNSPEC), None, {}),
    "TCP over IPv4": (v2_header(FOUR), FOUR_TOLD, {}),
    "UDP over IPv4": (v2_header(FOUR, UDP4), FOUR_TOLD, {}),
    "TCP over IPv6": (v2_header(SIX, TCP6), SIX_TOLD, {}),
    "UDP over IPv6": (v2_header(SIX, UDP6), SIX_TOLD, {}),
    "zeros": (v2_header(bytes(12)), inet("0.0.0.0", 0), {}),
    "ones": (v2_header(b"\xff" * 12), inet("255.255.255.255", 65535), {}),
    "UNIX stream": (
        v2_header(unix_addresses(b"/run/client", b"/x"), UNIX),
        ("unix", b"/run/client"),
        {},
    ),
    "UNIX datagram": (
        v2_header(unix_addresses(b"/run/client"), UNIX_DGRAM),
        ("unix", b"/run/client"),
        {},
    ),
    "UNIX, full": (v2_header(unix_addresses(FULL, b"/run/echod"), UNIX), ("unix", FULL), {}),
    "UNIX, more behind the end": (v2_header(unix_addresses(b"/a\0/b"), UNIX), ("unix", b"/a"), {}),
    "UNIX, abstract": (v2_header(unix_addresses(b"\0name"), UNIX), ("unix", b"\0name"), {}),
    "UNIX, abstract and full": (
        v2_header(unix_addresses(b"\0" + FULL[1:]), UNIX),
        ("unix", b"\0" + FULL[1:]),
        {},
    ),
    "UNIX, no name": (v2_header(unix_addresses(b""), UNIX), ("unix", None), {}),
    "ALPN": (v2_header(FOUR + tlv(ALPN, b"h2")), FOUR_TOLD, {"proxy_alpn": "h2"}),
    "authority": (
        v2_header(SIX + tlv(AUTHORITY, b"echo.example"), TCP6),
        SIX_TOLD,
        {"proxy_authority": "echo.example"},
    ),
    "authority in UTF-8": (
        v2_header(FOUR + tlv(AUTHORITY, "\xe9cho".encode())),
        FOUR_TOLD,
        {"proxy_authority": "\xe9cho"},
    ),
    "unprintable": (
        v2_header(FOUR + tlv(ALPN, b"a\r\n\x1b[2J\0\xff\\")),
        FOUR_TOLD,
        {"proxy_alpn": "a\\r\\n\\x1b[2J\\x00\\xff\\"},
    ),
    "what would pass for another fact": (
        v2_header(FOUR + tlv(ALPN, b"h2; proxy_tls_cn admin") + tls_tlv(tlv(SSL_CN, b";;"))),
        FOUR_TOLD,
        {"proxy_alpn": "h2\\x3b proxy_tls_cn admin", "proxy_tls_cn": "\\x3b\\x3b"},
    ),
    "long": (
        v2_header(FOUR + tlv(AUTHORITY, b"\n" * 1000)),
        FOUR_TOLD,
        {"proxy_authority": r"\n" * 256},
    ),
    "empty value": (v2_header(FOUR + tlv(ALPN)), FOUR_TOLD, {"proxy_alpn": ""}),
    "identifier": (v2_header(FOUR + tlv(UNIQUE_ID, b"1a")), FOUR_TOLD, {"proxy_unique_id": "1a"}),
    "longest identifier": (
        v2_header(FOUR + tlv(UNIQUE_ID, b"x" * 128)),
        FOUR_TOLD,
        {"proxy_unique_id": "x" * 128},
    ),
    "padding": (v2_header(FOUR + tlv(NOOP, b"abc") + tlv(NOOP)), FOUR_TOLD, {}),
    "unknown vectors": (
        v2_header(
            FOUR + tlv(NETNS, b"blue") + tlv(0xE1, b"x" * 300) + tlv(0, b"") + tlv(0xFF, b"\n")
        ),
        FOUR_TOLD,
        {},
    ),
    "several": (
        v2_header(
            unix_addresses(b"/c")
            + tlv(NOOP, b"x")
            + tlv(ALPN, b"h2")
            + tlv(0xEE)
            + tlv(UNIQUE_ID, b"7"),
            UNIX,
        ),
        ("unix", b"/c"),
        {"proxy_alpn": "h2", "proxy_unique_id": "7"},
    ),
    "TLS": (v2_header(FOUR + tls_tlv(*TLS_TLVS)), FOUR_TOLD, TLS_FACTS),
    "fields out of their offset": (
        v2_header(FOUR + tls_tlv(tlv(ALPN, b"h2"), tlv(UNIQUE_ID, b"7")) + tlv(SSL_CN, b"x")),
        FOUR_TOLD,
        {},
    ),
    "TLS with nothing in it": (v2_header(FOUR + tls_tlv(flags=0, verify=1)), FOUR_TOLD, {}),
    "TLS with more than is known": (
        v2_header(
            FOUR
            + tls_tlv(tlv(SSL_SIG_ALG, b"SHA256"), *TLS_TLVS, tlv(SSL_KEY_ALG, b"RSA2048"))
            + tlv(ALPN, b"h2")
        ),
        FOUR_TOLD,
        {**TLS_FACTS, "proxy_alpn": "h2"},
    ),
    "checksum": (checksummed(), FOUR_TOLD, {}),
    "checksum behind": (checksummed(before=tlv(ALPN, b"h2")), FOUR_TOLD, {"proxy_alpn": "h2"}),
    "checksum before": (checksummed(after=tlv(ALPN, b"h2")), FOUR_TOLD, {"proxy_alpn": "h2"}),
    "checksum between": (
        checksummed(tls_tlv(*TLS_TLVS), tlv(NOOP, b"xyz"), addresses=SIX, family=TCP6),
        SIX_TOLD,
        TLS_FACTS,
    ),
}

BAD_V2 = {
    NO_VERSION: (
        v2_header(FOUR, command=0x22),
        v2_header(FOUR, command=0x2F),
        v2_header(FOUR, command=0x10),
        v2_header(FOUR, command=0x11),
        v2_header(FOUR, command=0x31),
        v2_header(FOUR, command=0x00),
        v2_header(FOUR, command=0xFF),
        v2_header(family=UNSPEC, command=0x22),
    ),
    NO_FAMILY: tuple(
        v2_header(unix_addresses(b"/c"), family)
        for family in (
            0x01, 0x02, 0x03, 0x0F, 0x10, 0x13, 0x1F, 0x20, 0x23, 0x30, 0x33, 0x40, 0x41, 0xF1, 0xFF
        )
    ),
    SHORT: (
        v2_header(),
        v2_header(FOUR[:-1]),
        v2_header(FOUR[:-1], UDP4),
        v2_header(FOUR, TCP6),
        v2_header(SIX[:-1], TCP6),
        v2_header(SIX[:-1], UDP6),
        v2_header(SIX, UNIX),
        v2_header(unix_addresses(b"/c")[:-1], UNIX),
        v2_header(unix_addresses(b"/c")[:-1], UNIX_DGRAM),
    ),
    OVERRUN: (
        v2_header(FOUR + b"\x01"),
        v2_header(FOUR + b"\x01\x00"),
        v2_header(FOUR + b"\x04\x00\x01"),
        v2_header(FOUR + tlv(ALPN, b"h2", 3)),
        v2_header(FOUR + tlv(0xEE, b"h2", 0xFFFF)),
        v2_header(FOUR + tlv(ALPN, b"h2") + tlv(NOOP, b"", 1)),
        v2_header(FOUR + tls_tlv(*TLS_TLVS) + b"\x00"),
        v2_header(FOUR + tlv(SSL, bytes(5), 6)),
        # Inside of what it says of TLS.
        v2_header(FOUR + tls_tlv(b"\x21")),
        v2_header(FOUR + tls_tlv(b"\x21\x00")),
        v2_header(FOUR + tls_tlv(tlv(SSL_CN, b"x", 2))),
        v2_header(FOUR + tls_tlv(tlv(SSL_CN, b"x", 2)) + tlv(NOOP, b"abc")),
        v2_header(FOUR + tls_tlv(b"\x22\x00") + tlv(NOOP, b"abc")),
    ),
    SHORT_TLS: (
        v2_header(FOUR + tlv(SSL)),
        v2_header(FOUR + tlv(SSL, bytes(4))),
        v2_header(FOUR + tlv(SSL, bytes(4)) + tlv(NOOP, b"abc")),
    ),
    LONG_ID: (
        v2_header(FOUR + tlv(UNIQUE_ID, b"x" * 129)),
        v2_header(FOUR + tlv(ALPN, b"h2") + tlv(UNIQUE_ID, b"x" * 1000)),
    ),
    SUM_SIZE: (
        v2_header(FOUR + tlv(CRC32C)),
        v2_header(FOUR + tlv(CRC32C, bytes(3))),
        v2_header(FOUR + tlv(CRC32C, bytes(5))),
    ),
    SUMS: (
        # The first one is right; to check each would take as long as there are many.
        checksummed(after=tlv(CRC32C, bytes(4))),
        checksummed(after=tlv(ALPN, b"h2") + tlv(CRC32C)),
        checksummed(after=tlv(CRC32C, bytes(4)) * 575),
    ),
    SUM: (
        checksummed(wrong=1),
        checksummed(wrong=0x80000000),
        checksummed(tlv(ALPN, b"h2"), tlv(NOOP), wrong=1),
        checksummed(tlv(ALPN, b"h2")).replace(b"h2", b"h3"),
        checksummed(after=tlv(ALPN, b"h2")).replace(b"h2", b"h3"),
        checksummed().replace(FOUR[8:10], b"\0\0"),
        v2_header(FOUR + tlv(CRC32C, bytes(4))),
        # In the order of bytes that other protocols have for it.
        checksummed()[:-4] + checksummed()[:-5:-1],
    ),
    LONG: (
        v2_header(FOUR, size=MAX_V2_BYTES - 15),
        v2_header(FOUR, size=0xFFFF),
        v2_header(FOUR, command=LOCAL, size=0xFFFF),
        v2_header(FOUR, size=MAX_V2_BYTES - 15) + bytes(MAX_V2_BYTES),
    ),
}  # fmt: skip

NONE = (
    b"x",
    b"hello",
    b" PROXY UNKNOWN\r\n",
    b"proxy UNKNOWN\r\n",
    b"Proxy UNKNOWN\r\n",
    b"PROXY\tUNKNOWN\r\n",
    b"PROXY\r\n",
    b"PROXYUNKNOWN\r\n",
    b"PROXZ",
    b"PP",
    b"\n",
    b"\r\r\n",
    b"\r\nPROXY UNKNOWN\r\n",
    b"\r\n\r\n\0\r\nQUIT\r\n",
    b"\r\n\r\n\0\r\nquit\n",
    b"\r\n\r\n\0\r\nQUI\n",
    b"\0" + v2_header(FOUR),
    b"\x16\x03\x01\x02\x00\x01",
    b"GET / HTTP/1.1\r\n\r\n",
)
"""What is the client's own, whole."""


class TableTests(SynchronousTestCase):
    """
    Good and bad headers, each in all the ways in which it can be split.
    """

    def assert_outcome(self, stream, expected):
        """
        The outcome is the same in one piece, byte by byte, and cut in two anywhere.
        """
        self.assertEqual(outcome([stream]), expected, stream)
        self.assertEqual(outcome(bytewise(stream)), expected, stream)
        for cut in range(1, len(stream)):
            if (found := outcome([stream[:cut], stream[cut:]])) != expected:
                self.fail(f"{stream!r} cut at {cut}: {found} is not {expected}")

    def test_version_1(self):
        """
        Each good line has its client, or none, and ends where it ends.
        """
        for header, client in GOOD_V1.items():
            for left in (b"", PAYLOAD, header):
                self.assert_outcome(header + left, ("header", client, {}, header, left))

    def test_version_1_wrong(self):
        """
        Each bad line is refused, with a reason.
        """
        for words, streams in BAD_V1.items():
            for stream in streams:
                for left in (b"", PAYLOAD):
                    self.assert_outcome(stream + left, ("bad", words))

    def test_version_1_longest(self):
        """
        A line has 107 bytes at most, and is refused as too long at the last of them.
        """
        self.assertEqual(len(WORST), 107)
        for stream in (WORST[:-1] + b"x", WORST[:-2] + b"xx", WORST[:-2] + b"x\r"):
            self.assertEqual(outcome([stream[:-1]])[0], "more")
            self.assertEqual(outcome([stream]), ("bad", NO_END))
        # With one more byte the end of the line would come, but it is too late.
        self.assertEqual(outcome([WORST[:-2] + b"x\r\n"]), ("bad", NO_END))

    def test_version_2(self):
        """
        Each good header has its client and its fields, and ends where its length says.
        """
        for name, (header, client, log_fields) in GOOD_V2.items():
            for left in (b"", PAYLOAD):
                with self.subTest(name):
                    self.assert_outcome(header + left, ("header", client, log_fields, header, left))

    def test_version_2_wrong(self):
        """
        Each bad header is refused, with a reason.
        """
        for words, streams in BAD_V2.items():
            for stream in streams:
                self.assert_outcome(stream, ("bad", words))

    def test_version_2_longest(self):
        """
        A header may have 4096 bytes, and a longer one is refused as soon as its length is known.
        """
        size = MAX_V2_BYTES - 16 - len(FOUR) - 3
        self.assertEqual(MAX_V2_BYTES, 4096)
        header = v2_header(FOUR + tlv(NOOP, b"x" * size))
        expected = ("header", FOUR_TOLD, {}, header, PAYLOAD)
        self.assertEqual(outcome([header + PAYLOAD]), expected)
        self.assertEqual(outcome(bytewise(header + PAYLOAD)), expected)
        longer = v2_header(FOUR + tlv(NOOP, b"x" * (size + 1)))
        self.assertEqual(outcome([longer[:15]]), ("more", longer[:15]))
        self.assertEqual(outcome([longer[:16]]), ("bad", LONG))

    def test_truncated(self):
        """
        As long as more bytes may complete the header, the parser waits.
        """
        for header in (*GOOD_V1, *(header for header, _, _ in GOOD_V2.values())):
            for size in range(1, len(header)):
                start = header[:size]
                self.assertEqual(outcome([start]), ("more", start))
                self.assertEqual(outcome(bytewise(start)), ("more", start))

    def test_none(self):
        """
        What does not begin like a header is the client's to the byte, however late that shows.
        """
        for stream in NONE:
            for left in (b"", PAYLOAD):
                self.assert_outcome(stream + left, ("none", stream + left))

    def test_empty_header(self):
        """
        A header without content has no client and no fields.
        """
        self.assertEqual(ProxyInfo(), ProxyInfo(None, {}))

    def test_last_one_counts(self):
        """
        When a proxy sends a field twice, the last one counts.
        """
        header = v2_header(FOUR + tlv(ALPN, b"h2") + tlv(ALPN, b"h3"))
        self.assertEqual(outcome([header])[2], {"proxy_alpn": "h3"})


class ChecksumTests(SynchronousTestCase):
    """
    The CRC32c of a header.
    """

    def test_known_values(self):
        """
        The check value and the examples of RFC 3720 (B.4).
        """
        for data, expected in (
            (b"123456789", 0xE3069283),
            (b"", 0),
            (bytes(32), 0x8A9136AA),
            (b"\xff" * 32, 0x62A8AB43),
            (bytes(range(32)), 0x46DD794E),
            (bytes(range(31, -1, -1)), 0x113FDB5C),
        ):
            self.assertEqual(crc32c(data), expected)

    def test_any_flipped_bit(self):
        """
        Whichever bit of a header is flipped, the header is refused.
        """
        header = checksummed(tlv(ALPN, b"h2"))
        good = outcome([header])
        self.assertEqual(good[0], "header")
        for offset in range(len(header) * 8):
            flipped = bytearray(header)
            flipped[offset // 8] ^= 1 << offset % 8
            found = outcome([bytes(flipped)])
            if found[0] == "header":
                # LOCAL, so the rest is ignored; or there is no checksum.
                self.assertIn(offset // 8, (12, header.index(b"\x03\0\4")))
            elif found[0] == "none":
                self.assertLess(offset // 8, 12)


def cases(count):
    """
    The settings of a test with so many cases, the same ones each time.
    """
    return settings(
        max_examples=count,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


SEEDS = st.integers(0, 2**64 - 1)
"""
A case, of which L{random.Random} makes the rest: it costs a tenth of drawing each part, and
a case that fails is one number.
"""


def some_bytes(chance, most):
    """
    Random bytes, and bytes that could do harm.
    """
    kind = chance.randrange(3)
    size = min(chance.choice((0, 1, 2, 5, 20, 127, 128, 129, most)), most)
    if kind == 0:
        return chance.randbytes(size)
    if kind == 1:
        return bytes(chance.choices(b"\0\r\n\x1b\x7f\x80\x9b\xc3\xa9\xff{}%;\\ ", k=size))
    return ("".join(chance.choices("h2.\u202e\u2028\xe9\U0001f600\n", k=size))).encode()[:most]


def some_port(chance):
    return chance.choice((0, 1, 80, 9999, 10000, 65535, chance.randrange(65536)))


def some_v1(chance):
    """
    A good line, and its client.
    """
    kind = chance.randrange(4)
    if kind == 0:
        text = bytes(chance.choices(range(256), k=chance.randrange(92)))
        text = text.translate(None, b"\r\n")
        return b"PROXY UNKNOWN" + chance.choice((b"", b" " + text)) + b"\r\n", None
    make, bits = (IPv6Address, 128) if kind == 1 else (IPv4Address, 32)
    source, destination = (
        make(chance.getrandbits(bits) >> chance.choice((0, 0, bits // 2, bits - 1)))
        for _ in range(2)
    )
    port = some_port(chance)
    shown = chance.choice((str(source), source.exploded.upper()))
    line = f"PROXY TCP{source.version} {shown} {destination} {port} {some_port(chance)}\r\n"
    return line.encode(), inet(str(source), port)


NAMES = {ALPN: "proxy_alpn", AUTHORITY: "proxy_authority", UNIQUE_ID: "proxy_unique_id"}
TLS_NAMES = {
    SSL_VERSION: "proxy_tls_version",
    SSL_CIPHER: "proxy_tls_cipher",
    SSL_CN: "proxy_tls_cn",
}


def some_vectors(chance, names, most):
    """
    Vectors, and the names of their fields.
    """
    others = [kind for kind in (NOOP, NETNS, 0, 0x24, 0x25, 0xE0, 0xFF) if kind not in names]
    vectors, log_fields = [], set()
    for _ in range(chance.choice((0, 0, 1, 2, 4))):
        kind = chance.choice((*names, *others))
        vectors.append(tlv(kind, some_bytes(chance, 128 if kind == UNIQUE_ID else most)))
        log_fields.update(name for name in (names.get(kind),) if name)
    return vectors, log_fields


def some_v2(chance):
    """
    A good header, its client, and the names of its fields.
    """
    if chance.random() < 0.1:
        command, family = chance.choice(((LOCAL, chance.randrange(256)), (PROXY, UNSPEC)))
        return v2_header(some_bytes(chance, 300), family, command), None, set()
    vectors, log_fields = some_vectors(chance, NAMES, 200)
    if chance.random() < 0.3:
        inner, more = some_vectors(chance, TLS_NAMES, 100)
        vectors.append(tls_tlv(*inner, flags=chance.randrange(8), verify=chance.getrandbits(32)))
        log_fields |= more
    chance.shuffle(vectors)
    kind = chance.randrange(3)
    family = (TCP4, TCP6, UNIX)[kind] + chance.randrange(2)
    if kind == 2:
        name = some_bytes(chance, 108).replace(b"\0", b"x")
        name = chance.choice((b"", b"\0"))[: len(name)] + name
        addresses = unix_addresses(name[:108], some_bytes(chance, 108))
        client = ("unix", name[:108] or None)
    else:
        source = (IPv4Address, IPv6Address)[kind](chance.getrandbits((32, 128)[kind]))
        port = some_port(chance)
        other = chance.randbytes(len(source.packed))
        ports = struct.pack("!HH", port, some_port(chance))
        addresses, client = source.packed + other + ports, inet(str(source), port)
    if chance.random() < 0.3:
        cut = chance.randint(0, len(vectors))
        before, after = b"".join(vectors[:cut]), b"".join(vectors[cut:])
        return checksummed(before, after, 0, addresses, family), client, log_fields
    return v2_header(addresses + b"".join(vectors), family), client, log_fields


def mutated(chance, header):
    """
    The same with a few bytes changed, lost, doubled or added.
    """
    bad = bytearray(header)
    for _ in range(chance.choice((1, 1, 2, 4))):
        # The beginning matters most, but the signature must stand more often than not.
        low = 0 if chance.random() < 0.1 else min(len(bad), 6 if bad[:1] == b"P" else 12)
        offset = min(chance.randint(low, len(bad)), chance.randint(low, len(bad)))
        kind = chance.randrange(6)
        if kind == 0:
            bad[offset : offset + 1] = bytes((chance.randrange(256),))
        elif kind == 1:
            bad[offset : offset + chance.choice((1, 1, 5))] = b""
        elif kind == 2:
            bad[offset:offset] = bytes(chance.choices(b"\0\r\n 0123456789:.+_-\xff", k=1))
        elif kind == 3:
            bad[offset:offset] = bad[offset : offset + chance.choice((1, 4, 20))]
        elif kind == 4 and offset < len(bad):
            bad[offset] ^= 1 << chance.randrange(8)
        else:
            end = chance.randint(low, len(bad))
            bad[offset : offset + 2] = bad[end : end + 2]
    return bytes(bad)


PORTS = frozenset(map(str, range(65536)))
"""The ports, as they are written."""


def reference_v1(line):
    """
    Whether a line, with its end, is one of version 1, and its client. Written from the
    specification, field by field, without using the parser.
    """
    if len(line) > 107 or not line.endswith(b"\r\n") or b"\r" in line[:-2]:
        return False, None
    word, kind, *fields = line[:-2].split(b" ")
    if kind == b"UNKNOWN":
        return True, None
    if word != b"PROXY" or kind not in (b"TCP4", b"TCP6") or len(fields) != 4:
        return False, None
    make = IPv4Address if kind == b"TCP4" else IPv6Address
    try:
        texts = [field.decode("ascii") for field in fields]
        ips = [make(text) for text in texts[:2]]
    except ValueError:
        return False, None
    if "%" in "".join(texts) or not PORTS.issuperset(texts[2:]):
        return False, None
    return True, inet(str(ips[0]), int(texts[2]))


class GeneratedTests(SynchronousTestCase):
    """
    Ten thousand generated headers.
    """

    def assert_sound(self, stream, whole):
        """
        The result is valid and printable, and no more was taken than there was.
        """
        if whole[0] == "header":
            _, client, log_fields, taken, left = whole
            self.assertEqual(taken + left, stream)
            if client is not None and client[0] == "unix":
                self.assertTrue(client[1] is None or 1 <= len(client[1]) <= 108)
            elif client is not None:
                name, kind, host, port = client
                ip = ip_address(host)
                self.assertEqual((name, kind, str(ip)), (f"IPv{ip.version}Address", "TCP", host))
                self.assertTrue(0 <= port <= 65535)
            for name, text in log_fields.items():
                self.assertTrue(name.isidentifier() and text.isprintable(), log_fields)
                self.assertNotIn(";", text)
        elif whole[0] == "none":
            self.assertEqual(whole[1], stream)
        elif whole[0] == "more":
            self.assertEqual(whole[1], stream)
            self.assertLess(len(stream), MAX_V2_BYTES)
        else:
            self.assertEqual(whole[0], "bad")
            self.assertTrue(whole[1].isprintable() and whole[1])

    def outcome(self, chance, stream):
        """
        The outcome of a stream, which has to be the same in any pieces.
        """
        whole = outcome([stream])
        self.assertEqual(outcome(bytewise(stream)), whole, stream)
        cuts = sorted(chance.randint(0, len(stream)) for _ in range(3))
        pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, None], strict=True)]
        self.assertEqual(outcome(pieces), whole, pieces)
        self.assert_sound(stream, whole)
        return whole

    @cases(2000)
    @given(SEEDS)
    def test_good_v1(self, seed):
        """
        Each good line is accepted, with its client.
        """
        chance = random.Random(seed)
        header, client = some_v1(chance)
        self.assertEqual(reference_v1(header), (True, client))
        found = self.outcome(chance, header + PAYLOAD)
        self.assertEqual(found, ("header", client, {}, header, PAYLOAD))

    @cases(2000)
    @given(SEEDS)
    def test_good_v2(self, seed):
        """
        Each good header is accepted, with its client and its fields.
        """
        chance = random.Random(seed)
        header, client, log_fields = some_v2(chance)
        kind, *found, taken, left = self.outcome(chance, header + PAYLOAD)
        self.assertEqual((kind, taken, left), ("header", header, PAYLOAD))
        self.assertEqual((found[0], set(found[1])), (client, log_fields))

    @cases(3000)
    @given(SEEDS)
    def test_mutated_v1(self, seed):
        """
        A mutated line is refused exactly if the specification does not allow it.
        """
        chance = random.Random(seed)
        stream = mutated(chance, some_v1(chance)[0])
        found = self.outcome(chance, stream)
        if not stream.startswith(V1_SIGNATURE):
            self.assertIn(found[0], ("none", "more"))
            return
        line = stream[: stream.find(b"\n") + 1]
        if not line and len(stream) < 107:
            self.assertEqual(found, ("more", stream))
            return
        good, client = reference_v1(line)
        if good:
            self.assertEqual(found, ("header", client, {}, line, stream[len(line) :]))
        else:
            self.assertEqual(found[0], "bad", stream)

    @cases(3000)
    @given(SEEDS)
    def test_mutated_v2(self, seed):
        """
        A mutated header is accepted or refused, and does no harm.
        """
        chance = random.Random(seed)
        stream = mutated(chance, some_v2(chance)[0])
        found = self.outcome(chance, stream)
        if found[0] == "header":
            self.assertIn(stream[12], (LOCAL, PROXY))
            self.assertEqual(len(found[3]), 16 + int.from_bytes(stream[14:16], "big"))
