"""
Headers of the PROXY protocol, valid and invalid.

Invariant: nothing of echod is used, so a mistake would have to be made twice.
"""

import socket
import struct

SIGNATURE = bytes.fromhex("0d0a0d0a000d0a515549540a")

LOCAL, PROXY = 0x20, 0x21
UNSPEC, TCP4, UDP4, TCP6, UDP6, UNIX, UNIX_DGRAM = 0x00, 0x11, 0x12, 0x21, 0x22, 0x31, 0x32
ALPN, AUTHORITY, CRC32C, NOOP, UNIQUE_ID, SSL, NETNS = 1, 2, 3, 4, 5, 0x20, 0x30
SSL_VERSION, SSL_CN, SSL_CIPHER, SSL_SIG_ALG, SSL_KEY_ALG = 0x21, 0x22, 0x23, 0x24, 0x25

FOUR = struct.pack("!4s4sHH", bytes((192, 0, 2, 1)), bytes((198, 51, 100, 2)), 40000, 9000)
SIX = struct.pack(
    "!16s16sHH", socket.inet_pton(socket.AF_INET6, "2001:db8::1"), bytes(16), 65535, 0
)
"""The addresses of a TCP connection, over IPv4 and IPv6, as a header of version 2 has them."""


def v1(client: str, port: int) -> bytes:
    """
    A line of version 1 for a client on TCP.
    """
    kind, proxy = ("TCP6", "2001:db8::1") if ":" in client else ("TCP4", "198.51.100.1")
    return f"PROXY {kind} {client} {proxy} {port} 9000\r\n".encode()


def v2(client: str, port: int, *tlvs: bytes) -> bytes:
    """
    A header of version 2 for a client on TCP.
    """
    six = ":" in client
    family, proxy = (socket.AF_INET6, "::1") if six else (socket.AF_INET, "127.0.0.1")
    hosts = socket.inet_pton(family, client) + socket.inet_pton(family, proxy)
    addresses = hosts + struct.pack("!HH", port, 9000)
    return v2_header(addresses + b"".join(tlvs), TCP6 if six else TCP4)


def v2_header(
    rest: bytes = b"", family: int = TCP4, command: int = PROXY, size: int | None = None
) -> bytes:
    """
    A header of version 2, valid or not.

    @param rest: what follows the first 16 bytes.
    @param size: the length that it states; C{None} for that of C{rest}.
    """
    size = len(rest) if size is None else size
    return SIGNATURE + struct.pack("!BBH", command, family, size) + rest


def tlv(kind: int, value: bytes = b"", size: int | None = None) -> bytes:
    """
    A type-length-value (TLV).

    @param size: the length that it states; C{None} for that of C{value}.
    """
    return struct.pack("!BH", kind, len(value) if size is None else size) + value


def tls_tlv(*tlvs: bytes, flags: int = 0x07, verify: int = 0) -> bytes:
    """
    The TLV about the client's TLS session, which the proxy has ended.
    """
    return tlv(SSL, struct.pack("!BI", flags, verify) + b"".join(tlvs))


def unix_addresses(source: bytes, destination: bytes = b"") -> bytes:
    """
    The two names of a connection on a UNIX socket.
    """
    return struct.pack("!108s108s", source, destination)


def crc32c(data: bytes) -> int:
    """
    The checksum of RFC 3720 (appendix B.4), bit by bit.
    """
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    return value ^ 0xFFFFFFFF


def checksummed(
    before: bytes = b"",
    after: bytes = b"",
    wrong: int = 0,
    addresses: bytes = FOUR,
    family: int = TCP4,
) -> bytes:
    """
    A header with a checksum between its TLVs.

    @param wrong: bits of the checksum to flip.
    """
    head = len(SIGNATURE) + 4 + len(addresses + before) + 3
    zeroed = v2_header(addresses + before + tlv(CRC32C, bytes(4)) + after, family)
    number = crc32c(zeroed) ^ wrong
    return zeroed[:head] + number.to_bytes(4, "big") + zeroed[head + 4 :]


TLS_TLVS = (
    tlv(SSL_VERSION, b"TLSv1.3"),
    tlv(SSL_CIPHER, b"TLS_AES_128_GCM_SHA256"),
    tlv(SSL_CN, b"client.example"),
)
"""What a proxy can say about a TLS session."""
