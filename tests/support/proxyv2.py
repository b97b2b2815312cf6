"""
Headers of version 2 of the PROXY protocol, built field by field.

Invariant: each helper also makes invalid headers, by wrong sizes, flags or checksums.
"""

import struct
from ipaddress import IPv6Address

from echod.proxyprotocol import V2_SIGNATURE
from echod.proxyprotocol.parser import crc32c

LOCAL, PROXY = 0x20, 0x21
UNSPEC, TCP4, UDP4, TCP6, UDP6, STREAM, DGRAM = 0x00, 0x11, 0x12, 0x21, 0x22, 0x31, 0x32
ALPN, AUTHORITY, CRC32C, NOOP, UNIQUE_ID, SSL, NETNS = 1, 2, 3, 4, 5, 0x20, 0x30
SSL_VERSION, SSL_CN, SSL_CIPHER, SSL_SIG_ALG, SSL_KEY_ALG = 0x21, 0x22, 0x23, 0x24, 0x25

FOUR = struct.pack("!4s4sHH", bytes((192, 0, 2, 1)), bytes((198, 51, 100, 2)), 40000, 9000)
SIX = struct.pack("!16s16sHH", IPv6Address("2001:db8::1").packed, bytes(16), 65535, 0)


def v2(
    body: bytes = b"", family: int = TCP4, command: int = PROXY, size: int | None = None
) -> bytes:
    """
    A header of version 2.
    """
    size = len(body) if size is None else size
    return V2_SIGNATURE + struct.pack("!BBH", command, family, size) + body


def tlv(kind: int, value: bytes = b"", size: int | None = None) -> bytes:
    """
    A type-length-value vector.
    """
    return struct.pack("!BH", kind, len(value) if size is None else size) + value


def tls(*inner: bytes, flags: int = 0x07, verify: int = 0) -> bytes:
    """
    The vector with the TLS fields.
    """
    return tlv(SSL, struct.pack("!BI", flags, verify) + b"".join(inner))


def with_checksum(
    before: bytes = b"",
    after: bytes = b"",
    wrong: int = 0,
    addresses: bytes = FOUR,
    family: int = TCP4,
) -> bytes:
    """
    A header with a checksum among its vectors.
    """
    unsummed = v2(addresses + before + tlv(CRC32C, bytes(4)) + after, family)
    number = crc32c(unsummed) ^ wrong
    return v2(addresses + before + tlv(CRC32C, number.to_bytes(4, "big")) + after, family)


def unix(source: bytes, destination: bytes = b"") -> bytes:
    """
    Source and destination of a connection on a UNIX socket.
    """
    return struct.pack("!108s108s", source, destination)


TLS_VECTORS = (
    tlv(SSL_VERSION, b"TLSv1.3"),
    tlv(SSL_CIPHER, b"TLS_AES_128_GCM_SHA256"),
    tlv(SSL_CN, b"client.example"),
)
