"""
Does a server that fails a plain check speak TLS?

Invariant: OpenSSL is not imported: the ClientHello is a constant.
"""

from typing import Any

from twisted.internet.defer import TimeoutError

from echod.check.connect import Dial, timeout_after
from echod.check.results import CheckError, CheckResult

PROBE_TIMEOUT = 1.0
"""Seconds."""


def _vector(size: int, content: bytes) -> bytes:
    return len(content).to_bytes(size, "big") + content


def _extension(kind: int, content: bytes) -> bytes:
    return kind.to_bytes(2, "big") + _vector(2, content)


_EXTENSIONS = (
    _extension(10, _vector(2, bytes.fromhex("001d0017")))  # supported_groups: X25519, P-256
    + _extension(13, _vector(2, bytes.fromhex("0403080408070401")))  # signature_algorithms
    + _extension(43, _vector(1, bytes.fromhex("03040303")))  # supported_versions: 1.3, 1.2
    + _extension(51, _vector(2, b""))  # key_share: empty
)

_BODY = (
    b"\3\3"
    + b"echod-check asks: is this TLS?  ".ljust(32)[:32]
    + _vector(1, b"")
    + _vector(2, bytes.fromhex("130113021303c02bc02fc02cc030"))
    + _vector(1, b"\0")
    + _vector(2, _EXTENSIONS)
)

CLIENT_HELLO = b"\x16\3\1" + _vector(2, b"\1" + _vector(3, _BODY))
"""A ClientHello for TLS 1.2 and 1.3 (RFC 8446 4.1.2), without a key share."""

_HANDSHAKE, _ALERT = 0x16, 0x15
_SERVER_HELLO = 2


async def tls_answer(clock: Any, dial: Dial) -> str | None:
    """
    Send a ClientHello on a new connection.

    @return: what the server answers with: C{"a TLS handshake"}, C{"a TLS alert"}, or C{None} when
        it is not TLS.
    """

    async def ask() -> bytes:
        stream = await dial(CheckResult())
        try:
            await stream.write(CLIENT_HELLO)
            answer = b""
            while len(answer) < 6 and (piece := await stream.read()):
                answer += piece
            return answer
        finally:
            stream.abort()

    try:
        answer = await timeout_after(clock, PROBE_TIMEOUT, ask())
    except (CheckError, TimeoutError):
        return None
    if len(answer) < 6 or answer[1] != 3:
        return None
    if answer[0] == _ALERT:
        return "a TLS alert"
    # A server that echoes sends the ClientHello back.
    return "a TLS handshake" if (answer[0], answer[5]) == (_HANDSHAKE, _SERVER_HELLO) else None
