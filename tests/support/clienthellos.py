"""
ClientHello messages of any length, in any records.
"""

import struct


def vector(size: int, content: bytes) -> bytes:
    """
    A vector after its length in C{size} bytes (RFC 8446 3.4).
    """
    return len(content).to_bytes(size, "big") + content


def extension(kind: int, content: bytes) -> bytes:
    """
    One extension (RFC 8446 4.2).
    """
    return struct.pack(">H", kind) + vector(2, content)


GROUPS = extension(10, vector(2, b"\0\x17"))
SIGNATURES = extension(13, vector(2, b"\4\3"))


def hello(size: int = 0, *extensions: bytes) -> bytes:
    """
    A ClientHello message of TLS 1.2.

    @param size: its length in bytes, by an unknown extension; 0 for the shortest.
    """
    body = b"\3\3" + bytes(32) + b"\0" + vector(2, b"\xc0\x2b") + b"\1\0"
    more = b"".join((GROUPS, SIGNATURES, *extensions))
    if size:
        more += extension(0xFE00, bytes(size - 4 - len(body) - 2 - len(more) - 4))
    return b"\1" + vector(3, body + vector(2, more))


def records(message: bytes, most: int = 16384) -> bytes:
    """
    A handshake message in records of at most C{most} bytes.
    """
    pieces = [message[place : place + most] for place in range(0, len(message), most)]
    return b"".join(b"\x16\3\3" + vector(2, piece) for piece in pieces)
