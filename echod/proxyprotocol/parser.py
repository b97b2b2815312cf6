"""
The receiver's half of the PROXY protocol (C{doc/proxy-protocol.txt} of HAProxy, whose sections
are cited here): parsing a header, without input and output.

Invariant: a header is accepted as a whole or not at all, and its result is a valid address and
printable text.  A header may come in pieces of any size; L{ProxyParser} returns how many bytes of
each piece belong to it, and the rest is the client's.
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
MAX_V1_BYTES = 107
"""The longest line of version 1, CRLF included (section 2.1)."""

V2_FIXED_BYTES = 16
"""Signature, version and command, family, and the length of the rest (section 2.2)."""

MAX_V2_BYTES = 4096
"""
The longest header of version 2 that is accepted.  Senders should not exceed 536 bytes (section
2.2), but those that add the client's certificate do.
"""

MAX_CHARACTERS = 512
"""How many characters of a field are kept: enough for an identifier of 128 bytes, all escaped."""

Address = IPv4Address | IPv6Address | UNIXAddress


class ProxyHeaderError(ValueError):
    """
    What began like a header is not a valid one.  The text says why.
    """


@dataclass(frozen=True)
class ProxyInfo:
    """
    The content of a header.

    @ivar client: the client's address; C{None} if the header has none (LOCAL, UNKNOWN, UNSPEC)
        and the address of the connection is used.
    @ivar log_fields: the other fields, for the access record.
    """

    client: Address | None = None
    log_fields: dict[str, str] = field(default_factory=dict)


class ProxyParser:
    """
    Finds a header at the beginning of a stream.

    @ivar taken: the bytes that belong to the header, or that may belong to one.
    @ivar header: the header, once it is complete; C{None} before.
    """

    def __init__(self) -> None:
        self.taken = b""
        self.header: ProxyInfo | None = None

    def feed(self, data: bytes) -> int:
        """
        Parse the next piece of the stream.

        @param data: the piece, not empty.
        @return: how many bytes of it belong to the header; 0 if the stream does not begin with a
            header.
        @raise ProxyHeaderError: when the stream begins like a header but has no valid one.
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
    end = stream.find(b"\n", 0, MAX_V1_BYTES)
    if end < 0 and len(stream) >= MAX_V1_BYTES:
        raise ProxyHeaderError("a line that does not end")
    return None if end < 0 else end + 1


def _parse_v1(header: bytes) -> ProxyInfo:
    match = _V1.fullmatch(header)
    if match is None:
        raise ProxyHeaderError("not a line of version 1")
    kind, *fields = match.groups()
    if kind is None:
        return ProxyInfo()
    source, destination, port, other_port = (each.decode("ascii") for each in fields)
    try:
        client = _address(kind == b"TCP6", source, int(port))
        _address(kind == b"TCP6", destination, int(other_port))
    except ValueError:
        raise ProxyHeaderError("not an address and its port") from None
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
    if size > MAX_V2_BYTES:
        raise ProxyHeaderError("longer than any")
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
"""The layout of source and destination, by family and transport (section 2.2)."""


def _parse_v2(header: bytes) -> ProxyInfo:
    version_and_command, family = header[12], header[13]
    if version_and_command not in (0x20, 0x21):
        raise ProxyHeaderError("neither LOCAL nor PROXY of version 2")
    if version_and_command == 0x20 or family == _UNSPEC:
        # The rest has to be ignored (section 2.2).
        return ProxyInfo()
    layout = _ADDRESSES.get(family)
    if layout is None:
        raise ProxyHeaderError("an address of no known family")
    if len(header) < V2_FIXED_BYTES + layout.size:
        raise ProxyHeaderError("too short for its addresses")
    source, _, *ports = layout.unpack_from(header, V2_FIXED_BYTES)
    client: Address
    if ports:
        client = _address(family >> 4 == 2, source, ports[0])
    else:
        # A name that begins with a null byte is abstract (unix(7)).
        name = source[:1] + source[1:].partition(b"\0")[0]
        client = UNIXAddress(name if name.strip(b"\0") else None)
    return ProxyInfo(client, _log_fields(header, V2_FIXED_BYTES + layout.size))


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


def _log_fields(header: bytes, start: int) -> dict[str, str]:
    log_fields = {}
    checked = False
    for kind, offset, value in _vectors(header, start, len(header)):
        if kind == _CRC32C:
            # A header has one field for it (section 2.2.3), and each check reads all of the header.
            if checked:
                raise ProxyHeaderError("more than one checksum")
            _check_crc(header, offset, value)
            checked = True
        elif kind == _SSL:
            # One byte of flags, and four for the result of verifying the certificate.
            if len(value) < 5:
                raise ProxyHeaderError("too short for what it says of TLS")
            for inner, _, text in _vectors(header, offset + 5, offset + len(value)):
                if inner in _TLS_NAMES:
                    log_fields[_TLS_NAMES[inner]] = _text(text)
        elif kind == _UNIQUE_ID and len(value) > 128:
            raise ProxyHeaderError("an identifier of more than 128 bytes")
        elif kind in _NAMES:
            log_fields[_NAMES[kind]] = _text(value)
    return log_fields


def _vectors(header: bytes, offset: int, end: int) -> Iterator[tuple[int, int, bytes]]:
    """
    The type-length-value vectors (sections 2.2.1 to 2.2.9): type, offset of the value, value.
    """
    while offset < end:
        kind, start = header[offset], offset + 3
        offset = start + int.from_bytes(header[offset + 1 : start], "big")
        if offset > end:
            raise ProxyHeaderError("a field that is longer than the header")
        yield kind, start, header[start:offset]


def _text(value: bytes) -> str:
    # A semicolon would look like the start of another field in a line of the log.
    text = escape(value.decode("utf-8", "backslashreplace")).replace(";", r"\x3b")
    return text[:MAX_CHARACTERS]


def _check_crc(header: bytes, offset: int, value: bytes) -> None:
    if len(value) != 4:
        raise ProxyHeaderError("a checksum of another size")
    if int.from_bytes(value, "big") != crc32c(header[:offset] + bytes(4) + header[offset + 4 :]):
        raise ProxyHeaderError("a checksum that is not its own")


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
    The CRC32c checksum (RFC 9260, appendix A).
    """
    table = _crc32c_table()
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ table[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF
