"""
The header of the PROXY protocol, versions 1 and 2 (the specification is HAProxy's,
C{doc/proxy-protocol.txt}), as bytes: no input and no output here.

Invariant: a header is believed whole or not at all, and what it says is a
valid address and printable text.  It may come byte by byte, so L{ProxyParser} says of
each piece how much of it belongs to the header; the rest is the client's.
"""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from ipaddress import IPv4Address as IPv4, IPv6Address as IPv6

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress

from echod._util.text import escape
from echod.proxyprotocol import V2_SIGNATURE

V1_SIGNATURE = b"PROXY "
V1_MOST_BYTES = 107
"""The longest line of version 1, CRLF included (section 2.1)."""

V2_FIXED_BYTES = 16
V2_MOST_BYTES = 4096
"""
The longest header of version 2 that is taken.  Senders are to keep to 536 bytes (section
2.2), but those that pass on the client's certificate do not.
"""

MAX_CHARACTERS = 512
"""How much of a text is kept: an identifier of 128 bytes, all of them escaped."""

Address = IPv4Address | IPv6Address | UNIXAddress


class InvalidProxyHeader(ValueError):
    """
    What began like a header is none.  The text says why, in words.
    """


@dataclass(frozen=True)
class ProxyInfo:
    """
    What a header says.

    @ivar client: the client's address; C{None} when the header tells none, and the
        connection's own stands: LOCAL, UNKNOWN, UNSPEC.
    @ivar log_fields: what else it tells, by name.
    """

    client: Address | None = None
    log_fields: dict[str, str] = field(default_factory=dict)


class ProxyParser:
    """
    Takes a header out of a stream.

    @ivar taken: the bytes that belong to the header, or may yet turn out to.
    @ivar header: the header, once it is complete.
    """

    def __init__(self) -> None:
        self.taken = b""
        self.header: ProxyInfo | None = None

    def feed(self, data: bytes) -> int:
        """
        Take what belongs to the header from a piece of the stream.

        @param data: the piece, not empty.
        @return: how many bytes of it that is; none, when the stream does not begin with
            a header.
        @raise BadHeader: when it begins with a header's signature, and is none.
        """
        before, stream = len(self.taken), self.taken + data
        if stream.startswith(V1_SIGNATURE[: len(stream)]):
            size, parse = _v1_size(stream), _parse_v1
        elif stream.startswith(V2_SIGNATURE[: len(stream)]):
            size, parse = _v2_size(stream), _parse_v2
        else:
            return 0
        self.taken = stream[:size]
        if len(self.taken) == size:
            self.header = parse(self.taken)
        return len(self.taken) - before


_PORT = rb"(0|[1-9][0-9]{0,4})"
_V1 = re.compile(
    rb"PROXY (?:UNKNOWN(?: [^\r\n]*)?|(TCP[46]) ([0-9A-Fa-f.:]+) ([0-9A-Fa-f.:]+) "
    + _PORT + b" " + _PORT + rb")\r\n"
)  # fmt: skip


def _v1_size(stream: bytes) -> int | None:
    end = stream.find(b"\n", 0, V1_MOST_BYTES)
    if end < 0 and len(stream) >= V1_MOST_BYTES:
        raise InvalidProxyHeader("a line that does not end")
    return None if end < 0 else end + 1


def _parse_v1(whole: bytes) -> ProxyInfo:
    match = _V1.fullmatch(whole)
    if match is None:
        raise InvalidProxyHeader("not a line of version 1")
    kind, *where = match.groups()
    if kind is None:
        return ProxyInfo()
    source, destination, port, other_port = (each.decode("ascii") for each in where)
    try:
        client = _address(kind == b"TCP6", source, int(port))
        _address(kind == b"TCP6", destination, int(other_port))
    except ValueError:
        raise InvalidProxyHeader("not an address and its port") from None
    return ProxyInfo(client)


def _address(six: bool, host: str | bytes, port: int) -> IPv4Address | IPv6Address:
    ip = IPv6(host) if six else IPv4(host)
    if port > 65535:
        raise ValueError
    return (IPv6Address if six else IPv4Address)("TCP", str(ip), port)


def _v2_size(stream: bytes) -> int | None:
    if len(stream) < V2_FIXED_BYTES:
        return None
    size = V2_FIXED_BYTES + int.from_bytes(stream[14:16], "big")
    if size > V2_MOST_BYTES:
        raise InvalidProxyHeader("longer than any")
    return size


_UNSPEC = 0x00
_ADDRESSES = {
    0x11: struct.Struct("!4s4sHH"),
    0x12: struct.Struct("!4s4sHH"),
    0x21: struct.Struct("!16s16sHH"),
    0x22: struct.Struct("!16s16sHH"),
    0x31: struct.Struct("!108s108s"),
    0x32: struct.Struct("!108s108s"),
}
"""Family and transport (section 2.2), with how source and destination are laid out."""


def _parse_v2(whole: bytes) -> ProxyInfo:
    version_and_command, family = whole[12], whole[13]
    if version_and_command not in (0x20, 0x21):
        raise InvalidProxyHeader("neither LOCAL nor PROXY of version 2")
    if version_and_command == 0x20 or family == _UNSPEC:
        # What else it says is not to be looked at.
        return ProxyInfo()
    layout = _ADDRESSES.get(family)
    if layout is None:
        raise InvalidProxyHeader("an address of no known family")
    if len(whole) < V2_FIXED_BYTES + layout.size:
        raise InvalidProxyHeader("too short for its addresses")
    source, _, *ports = layout.unpack_from(whole, V2_FIXED_BYTES)
    client: Address
    if ports:
        client = _address(family >> 4 == 2, source, ports[0])
    else:
        # A name that begins with a null byte is an abstract one (unix(7)).
        name = source[:1] + source[1:].partition(b"\0")[0]
        client = UNIXAddress(name if name.strip(b"\0") else None)
    return ProxyInfo(client, _log_fields(whole, V2_FIXED_BYTES + layout.size))


_ALPN, _AUTHORITY, _CRC32C, _UNIQUE_ID, _SSL = 0x01, 0x02, 0x03, 0x05, 0x20
_SSL_VERSION, _SSL_CN, _SSL_CIPHER = 0x21, 0x22, 0x23
_NAMES = {
    _ALPN: "proxy_alpn",
    _AUTHORITY: "proxy_authority",
    _UNIQUE_ID: "proxy_unique_id",
}
_TLS_NAMES = {
    _SSL_VERSION: "proxy_tls_version",
    _SSL_CIPHER: "proxy_tls_cipher",
    _SSL_CN: "proxy_tls_cn",
}


def _log_fields(whole: bytes, start: int) -> dict[str, str]:
    log_fields = {}
    for kind, at, value in _vectors(whole, start, len(whole)):
        if kind == _CRC32C:
            _check(whole, at, value)
        elif kind == _SSL:
            # One byte of flags, and four that say whether the certificate was verified.
            if len(value) < 5:
                raise InvalidProxyHeader("too short for what it says of TLS")
            for inner, _, text in _vectors(whole, at + 5, at + len(value)):
                if inner in _TLS_NAMES:
                    log_fields[_TLS_NAMES[inner]] = _text(text)
        elif kind == _UNIQUE_ID and len(value) > 128:
            raise InvalidProxyHeader("an identifier of more than 128 bytes")
        elif kind in _NAMES:
            log_fields[_NAMES[kind]] = _text(value)
    return log_fields


def _vectors(whole: bytes, at: int, end: int) -> Iterator[tuple[int, int, bytes]]:
    """
    The type-length-value vectors (section 2.2.1-9): type, place of the value, value.
    """
    while at < end:
        size = int.from_bytes(whole[at + 1 : at + 3], "big")
        if at + 3 + size > end:
            raise InvalidProxyHeader("a field that is longer than the header")
        yield whole[at], at + 3, whole[at + 3 : at + 3 + size]
        at += 3 + size


def _text(value: bytes) -> str:
    # In a line of the log, a semicolon would pass for the beginning of another fact.
    text = escape(value.decode("utf-8", "backslashreplace")).replace(";", r"\x3b")
    return text[:MAX_CHARACTERS]


def _check(whole: bytes, at: int, value: bytes) -> None:
    if len(value) != 4:
        raise InvalidProxyHeader("a checksum of another size")
    if int.from_bytes(value, "big") != crc32c(whole[:at] + bytes(4) + whole[at + 4 :]):
        raise InvalidProxyHeader("a checksum that is not its own")


@cache
def _crc32c_table() -> list[int]:
    table = []
    for number in range(256):
        for _ in range(8):
            number = number >> 1 ^ (0x82F63B78 if number & 1 else 0)
        table.append(number)
    return table


def crc32c(data: bytes) -> int:
    """
    The CRC32c of Castagnoli (RFC 9260 appendix A).
    """
    table = _crc32c_table()
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ table[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF
