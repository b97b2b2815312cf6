"""
Headers of the PROXY protocol, as a proxy would send them and as none would.

Invariant: nothing of echod's is used, so that both would have to make the
same mistake.
"""

import socket
import struct

SIGNATURE = bytes.fromhex("0d0a0d0a000d0a515549540a")

LOCAL, PROXY = 0x20, 0x21
UNSPEC, TCP4, TCP6, UNIX = 0x00, 0x11, 0x21, 0x31
ALPN, AUTHORITY, UNIQUE_ID, SSL, SSL_VERSION, SSL_CN = 0x01, 0x02, 0x05, 0x20, 0x21, 0x22


def v1(client: str, port: int) -> bytes:
    """
    A line of version 1 for a client on TCP.
    """
    kind, proxy = ("TCP6", "2001:db8::1") if ":" in client else ("TCP4", "198.51.100.1")
    return f"PROXY {kind} {client} {proxy} {port} 9000\r\n".encode()


def v2(client: str, port: int, *vectors: bytes) -> bytes:
    """
    A header of version 2 for a client on TCP.
    """
    six = ":" in client
    family, proxy = (socket.AF_INET6, "::1") if six else (socket.AF_INET, "127.0.0.1")
    hosts = socket.inet_pton(family, client) + socket.inet_pton(family, proxy)
    addresses = hosts + struct.pack("!HH", port, 9000)
    return v2_raw(PROXY, TCP6 if six else TCP4, addresses + b"".join(vectors))


def v2_raw(command: int, family: int, rest: bytes = b"") -> bytes:
    """
    A header of version 2, with whatever in it.
    """
    return SIGNATURE + struct.pack("!BBH", command, family, len(rest)) + rest


def vector(kind: int, value: bytes) -> bytes:
    """
    A type-length-value vector.
    """
    return struct.pack("!BH", kind, len(value)) + value


def tls_vector(*vectors: bytes) -> bytes:
    """
    What a proxy tells of the TLS that it has ended.
    """
    return vector(SSL, b"\x01" + bytes(4) + b"".join(vectors))
