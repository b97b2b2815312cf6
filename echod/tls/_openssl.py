"""
What pyOpenSSL has and does not show: OpenSSL's read and write, as directly as can be, and
a few answers and settings for which it has no methods.

Invariant: pyOpenSSL's private names are used here alone, and a version that
lacks one of them is made do without.

Reading and writing are what C{Connection.recv} and C{Connection.send} do, less what they do
in vain.  They make a buffer for each read, and ask OpenSSL what went wrong after each
success; without that, a TLS echo of 64 bytes takes 0.86 of the CPU time, one of 1 MiB takes
0.88 of it.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import cache, partial
from socket import socket
from typing import Any

from OpenSSL import SSL

RECORD_BYTES = 16384
"""The longest plaintext of one TLS record (RFC 8446 5.1)."""

MODE_NO_AUTO_CHAIN = 0x8
"""
C{SSL_MODE_NO_AUTO_CHAIN} (SSL_CTX_set_mode(3)): send the chain that was given, and do not
look for one among the trusted certificates.
"""

_shared = bytearray(RECORD_BYTES)


@cache
def _shared_buffer() -> Any:
    return SSL._ffi.from_buffer("char[]", _shared)  # type: ignore[attr-defined]  # private


def read_and_write(connection: Any) -> tuple[Callable[[], bytes], Callable[[Any], int]]:
    """
    Two calls that raise what the methods of pyOpenSSL raise, and are those methods should
    a version of it lack a private name that is needed here.  They are for one thread, that
    of the reactor: all connections share the buffer that is read into.

    What fails leaves nothing behind: the queue of errors belongs to the thread, and with
    OpenSSL before 4.0 whatever stands in it ends the next connection that has nothing to
    read (SSL_get_error(3)).

    @param connection: a pyOpenSSL C{Connection}.
    @return: what receives the rest of a record, so that OpenSSL keeps nothing that makes
        no descriptor readable; and what sends a bytes-like object, and returns how many
        bytes of it went.
    """
    try:
        ssl, fail = connection._ssl, connection._raise_ssl_error
        lib, ffi = SSL._lib, SSL._ffi  # type: ignore[attr-defined]  # private
        ssl_read, ssl_write, clear_error = lib.SSL_read, lib.SSL_write, lib.ERR_clear_error
        unpack, from_buffer = ffi.unpack, ffi.from_buffer
        buffer = _shared_buffer()
    except AttributeError:
        return partial(connection.recv, RECORD_BYTES), connection.send

    def recv() -> bytes:
        got = ssl_read(ssl, buffer, RECORD_BYTES)
        if got <= 0:
            try:
                fail(ssl, got)
            finally:
                clear_error()
        received: bytes = unpack(buffer, got)
        return received

    def send(data: Any) -> int:
        sent: int = ssl_write(ssl, from_buffer(data), len(data))
        if sent <= 0:
            try:
                fail(ssl, sent)
            finally:
                clear_error()
        return sent

    return recv, send


class HandshakeMemory:
    """
    A connection that is not on a socket yet: what OpenSSL is given to read for its
    handshake, and what it has written.  OpenSSL is called directly, as for reading and
    writing: with pyOpenSSL's methods, a handshake takes 8 % more.

    @cvar input: where what has come is put.  All connections share it.
    """

    __slots__ = ("_connection", "_given", "_lib", "_put", "_ssl", "_taken", "_unpack", "_written")
    input = bytearray(4096)

    def __init__(self, connection: Any):
        """
        @raise AttributeError: with a version of pyOpenSSL that lacks a private name.
        """
        self._connection, self._ssl = connection, connection._ssl
        self._given, self._written = connection._into_ssl, connection._from_ssl
        self._lib, self._unpack, self._put, self._taken = self._shared_by_all()

    @classmethod
    @cache
    def _shared_by_all(cls) -> tuple[Any, Any, Any, Any]:
        lib, ffi = SSL._lib, SSL._ffi  # type: ignore[attr-defined]  # private
        for name in ("SSL_set_fd", "BIO_get_mem_data", "BIO_read", "BIO_write"):
            getattr(lib, name)
        return lib, ffi.unpack, ffi.from_buffer(cls.input), _shared_buffer()

    def proceed(self, size: int) -> bool:
        """
        Have OpenSSL handle what has come.

        @param size: how much of L{input} that is.
        @return: whether the handshake is over; else more has to come.
        @raise SSL.Error: when it has failed.
        """
        lib, ssl = self._lib, self._ssl
        lib.BIO_write(self._given, self._put, size)
        result = lib.SSL_do_handshake(ssl)
        if result == 1:
            return True
        if lib.SSL_get_error(ssl, result) != lib.SSL_ERROR_WANT_READ:
            try:
                self._connection._raise_ssl_error(ssl, result)
            finally:
                lib.ERR_clear_error()
        return False

    def take(self) -> bytes:
        """
        What OpenSSL has written.
        """
        size = self._lib.BIO_read(self._written, self._taken, RECORD_BYTES)
        if size <= 0:
            return b""
        written: bytes = self._unpack(self._taken, size)
        return written if size < RECORD_BYTES else written + self.take()

    def attach(self, sock: socket) -> int:
        """
        Let the connection go on with a socket.

        @return: how many bytes of those that it was given it has not read.
        """
        connection = self._connection
        left: int = self._lib.BIO_get_mem_data(self._given, SSL._ffi.NULL)  # type: ignore[attr-defined]  # private
        self._lib.SSL_set_fd(self._ssl, sock.fileno())
        connection._socket = sock
        # OpenSSL has freed both.
        connection._into_ssl = connection._from_ssl = None
        return left


def memory_of(connection: Any) -> HandshakeMemory | None:
    """
    How to do the handshake of a connection that is not on a socket; C{None} if this version
    of pyOpenSSL does not let it go on with one afterwards.
    """
    try:
        return HandshakeMemory(connection)
    except AttributeError:
        return None


def stop_retrying(connection: Any) -> None:
    """
    Let a read handle one record, of whatever type, and then return.

    pyOpenSSL sets C{SSL_MODE_AUTO_RETRY} on each connection (on the context, clearing it has
    no effect), so that one read goes on over records without data until the socket is empty:
    200,000 KeyUpdates, or as many renegotiations that are refused, held up all others for
    1.6 s (SSL_CTX_set_mode(3)).
    """
    with suppress(AttributeError):
        lib = SSL._lib  # type: ignore[attr-defined]  # private
        lib.SSL_clear_mode(connection._ssl, lib.SSL_MODE_AUTO_RETRY)


def forget_errors() -> None:
    """
    Empty the thread's queue of errors, where one may stand that pyOpenSSL has left there:
    it takes out those that it raises, but none of a system call's (C{SysCallError}).
    """
    with suppress(AttributeError):
        SSL._lib.ERR_clear_error()  # type: ignore[attr-defined]  # private


def is_lost(error: SSL.Error) -> bool:
    """
    Whether an error says that the connection is gone: a system call has said so now, or did
    before, and then OpenSSL gives no reason.
    """
    return isinstance(error, SSL.SysCallError) or error.args == ([],)


def set_groups(context: Any, names: Iterable[str]) -> tuple[str, ...]:
    """
    Set the groups for the key exchange, in order, less those that this OpenSSL has not.

    @param context: a pyOpenSSL C{Context}.
    @return: those that it has; none if they could not be set, and OpenSSL's own stay.
    """
    try:
        raw, lib = context._context, SSL._lib  # type: ignore[attr-defined]  # private
        set_list, clear_error = lib.SSL_CTX_set1_curves_list, lib.ERR_clear_error
    except AttributeError:
        return ()
    known = tuple(name for name in names if set_list(raw, name.encode()) == 1)
    clear_error()
    set_list(raw, ":".join(known).encode())
    return known


MAX_ALPN_BYTES = 1024
"""How much of a client's list of protocols is looked at: an ordinary one has 12 bytes."""


def choose_protocol(theirs: bytes, ours: Sequence[bytes]) -> tuple[int, int] | None:
    """
    The first of ours that the client has.

    @param theirs: the client's list, each after a byte with its length (RFC 7301 3.1).
    @param ours: the protocols on offer, in order of preference.
    @return: where in the list it is, and its length; C{None} if there is none.
    """
    places: dict[bytes, int] = {}
    place = 0
    while place < len(theirs):
        start, size = place + 1, theirs[place]
        place = start + size
        if place <= len(theirs):
            places.setdefault(theirs[start:place], start)
    return next(((places[name], len(name)) for name in ours if name in places), None)


def set_protocols(context: Any, ours: Sequence[bytes]) -> None:
    """
    Choose a protocol by ALPN; if there is none in common, send a fatal alert (RFC 7301 3.2).
    pyOpenSSL's own callback takes a time that is quadratic in the length of the client's
    list: 40 ms for 63 KB.

    @param context: a pyOpenSSL C{Context}.
    """
    try:
        raw, lib, ffi = context._context, SSL._lib, SSL._ffi  # type: ignore[attr-defined]  # private
        set_callback = lib.SSL_CTX_set_alpn_select_cb
        chosen, fatal = lib.SSL_TLSEXT_ERR_OK, lib.SSL_TLSEXT_ERR_ALERT_FATAL
    except AttributeError:
        context.set_alpn_select_callback(partial(_choose_slowly, ours))
        return

    def choose(_: Any, out: Any, out_size: Any, given: Any, size: int, __: Any) -> int:
        theirs = ffi.buffer(given, min(size, MAX_ALPN_BYTES))[:]
        found = choose_protocol(theirs, ours)
        if found is None:
            return int(fatal)
        # OpenSSL makes a copy.
        out[0], out_size[0] = given + found[0], found[1]
        return int(chosen)

    # Where pyOpenSSL keeps its own, so that it lives as long as the context.
    context._alpn_select_callback = ffi.callback(
        "int (*)(SSL *, unsigned char **, unsigned char *, "
        "const unsigned char *, unsigned int, void *)",
        choose,
        error=fatal,
    )
    set_callback(raw, context._alpn_select_callback, ffi.NULL)


def _choose_slowly(ours: Sequence[bytes], _: Any, theirs: list[bytes]) -> bytes:
    for protocol in ours:
        if protocol in theirs:
            return protocol
    raise SSL.Error([("", "", "no application protocol")])


def is_resumed(connection: Any) -> bool | None:
    """
    Whether a connection's handshake resumed an earlier session; C{None} if nobody knows.
    """
    try:
        return bool(SSL._lib.SSL_session_reused(connection._ssl))  # type: ignore[attr-defined]  # private
    except AttributeError:
        return None


def has_peer_finished(connection: Any) -> bool:
    """
    Whether the peer's Finished has come, and was right.  pyOpenSSL makes a copy of it, which
    takes ten times as long.
    """
    try:
        lib, ffi = SSL._lib, SSL._ffi  # type: ignore[attr-defined]  # private
        return bool(lib.SSL_get_peer_finished(connection._ssl, ffi.NULL, 0))
    except AttributeError:
        return connection.get_peer_finished() is not None


def verify_error(connection: Any) -> str | None:
    """
    Why the peer's certificate was refused, in OpenSSL's words; C{None} if it was not.
    """
    try:
        lib = SSL._lib  # type: ignore[attr-defined]  # private
        result = lib.SSL_get_verify_result(connection._ssl)
        words = SSL._ffi.string(lib.X509_verify_cert_error_string(result))  # type: ignore[attr-defined]  # private
    except AttributeError:
        return None
    return words.decode() if result else None


def reasons(error: BaseException | None) -> list[str]:
    """
    The reasons that OpenSSL gives for an error, in its words.
    """
    args = error.args if error else ()
    if args and isinstance(args[0], list):
        return [reason for _, _, reason in args[0] if reason]
    return list(map(str, args))


def reason_text(error: BaseException | None) -> str:
    """
    The reasons for an error in one line.
    """
    return ", ".join(reasons(error)) or "no reason given"
