"""
OpenSSL's read and write, as directly as pyOpenSSL allows.

The rule of this room: what C{Connection.recv} and C{Connection.send} do, less what they do
in vain.  They make a buffer for each read, and ask OpenSSL what went wrong after each
success; without that, a TLS echo of 64 bytes takes 0.86 of the CPU time, one of 1 MiB takes
0.88 of it.  pyOpenSSL's private names are used in this room alone.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from OpenSSL import SSL

RECORD_BYTES = 16384
"""The longest plaintext of one TLS record (RFC 8446 5.1)."""

_shared = bytearray(RECORD_BYTES)


def read_and_write(connection: Any) -> tuple[Callable[[], bytes], Callable[[Any], int]]:
    """
    Two calls that raise what the methods of pyOpenSSL raise, and are those methods should
    a version of it lack a private name that is needed here.  They are for one thread, that
    of the reactor: all connections share the buffer that is read into.

    @param connection: a pyOpenSSL C{Connection}.
    @return: what receives the rest of a record, so that OpenSSL keeps nothing that makes
        no descriptor readable; and what sends a bytes-like object, and returns how many
        bytes of it went.
    """
    try:
        ssl, fail = connection._ssl, connection._raise_ssl_error
        lib, ffi = SSL._lib, SSL._ffi  # type: ignore[attr-defined]  # private
        ssl_read, ssl_write = lib.SSL_read, lib.SSL_write
        unpack, from_buffer = ffi.unpack, ffi.from_buffer
        buffer = from_buffer("char[]", _shared)
    except AttributeError:
        return partial(connection.recv, RECORD_BYTES), connection.send

    def recv() -> bytes:
        got = ssl_read(ssl, buffer, RECORD_BYTES)
        if got <= 0:
            fail(ssl, got)
        received: bytes = unpack(buffer, got)
        return received

    def send(data: Any) -> int:
        sent: int = ssl_write(ssl, from_buffer(data), len(data))
        if sent <= 0:
            fail(ssl, sent)
        return sent

    return recv, send
