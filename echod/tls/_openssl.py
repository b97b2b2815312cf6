"""
What pyOpenSSL has no public methods for: OpenSSL's read and write, called directly, and a few
queries and settings.

Invariant: pyOpenSSL's private names are used here only, and with a version that lacks one of them
everything still works, by its public methods or without the setting.

Reading and writing do what C{Connection.recv} and C{Connection.send} do, except that these
allocate a buffer for each read and ask OpenSSL for an error after each success.  Without that, a
TLS echo of 64 bytes takes 0.86 of the CPU time, and one of 1 MiB takes 0.88 of it.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import cache, partial
from socket import MSG_PEEK, MSG_TRUNC, socket
from typing import Any

from OpenSSL import SSL

RECORD_BYTES = 16384
"""The longest plaintext of one TLS record (RFC 8446 5.1)."""

MAX_RECORD_BYTES = 5 + RECORD_BYTES + 2048
"""The longest TLS record: its header, and its ciphertext (RFC 5246 6.2.3)."""

MODE_NO_AUTO_CHAIN = 0x8
"""
C{SSL_MODE_NO_AUTO_CHAIN} (SSL_CTX_set_mode(3)): send only the chain that was given, and do not
build one from the trusted certificates.
"""

_shared = bytearray(RECORD_BYTES)


@cache
def _shared_buffer() -> Any:
    return SSL._ffi.from_buffer("char[]", _shared)  # type: ignore[attr-defined]  # private


def read_and_write(connection: Any) -> tuple[Callable[[], bytes], Callable[[Any], int]]:
    """
    Make the two functions that read from and write to a connection.

    They raise what the methods of pyOpenSSL raise, and are those methods if this version lacks a
    private name that is needed here.  They are for the reactor's thread only: all connections
    read into one buffer.

    After an error they empty the thread's error queue.  With OpenSSL before 4.0, an error that
    stays in it ends the next connection that has nothing to read (SSL_get_error(3)).

    @param connection: a pyOpenSSL C{Connection}.
    @return: a function that receives the rest of a record, so that OpenSSL holds no data for
        which the descriptor is not readable; and one that sends a bytes-like object, and returns
        how many bytes of it were sent.
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
    The memory from which OpenSSL reads during a handshake, and to which it writes.  OpenSSL is
    called directly: with pyOpenSSL's methods, a handshake takes 8 % more CPU time.

    @cvar input: the buffer for what was received; all connections share it.
    """

    __slots__ = ("_connection", "_input", "_into", "_lib", "_out", "_output", "_ssl", "_unpack")
    input = bytearray(4096)

    def __init__(self, connection: Any):
        """
        @raise AttributeError: when this version of pyOpenSSL lacks a private name.
        """
        self._connection, self._ssl = connection, connection._ssl
        self._into, self._out = connection._into_ssl, connection._from_ssl
        self._lib, self._unpack, self._input, self._output = self._shared()

    @classmethod
    @cache
    def _shared(cls) -> tuple[Any, Any, Any, Any]:
        lib, ffi = SSL._lib, SSL._ffi  # type: ignore[attr-defined]  # private
        for name in ("SSL_set_fd", "BIO_get_mem_data", "BIO_read", "BIO_write"):
            getattr(lib, name)
        return lib, ffi.unpack, ffi.from_buffer(cls.input), _shared_buffer()

    def proceed(self, size: int) -> bool:
        """
        Let OpenSSL read what was received.

        @param size: the number of bytes in L{input}.
        @return: whether the handshake is complete; else it needs more bytes.
        @raise SSL.Error: when the handshake has failed.
        """
        lib, ssl = self._lib, self._ssl
        lib.BIO_write(self._into, self._input, size)
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
        Remove and return what OpenSSL has written.
        """
        size = self._lib.BIO_read(self._out, self._output, RECORD_BYTES)
        if size <= 0:
            return b""
        written: bytes = self._unpack(self._output, size)
        return written if size < RECORD_BYTES else written + self.take()

    def attach(self, sock: socket) -> int:
        """
        Let OpenSSL read and write a socket from now on.

        @return: how many of the received bytes it has not read.
        """
        connection = self._connection
        unread: int = self._lib.BIO_get_mem_data(self._into, SSL._ffi.NULL)  # type: ignore[attr-defined]  # private
        self._lib.SSL_set_fd(self._ssl, sock.fileno())
        connection._socket = sock
        # SSL_set_fd has freed both.
        connection._into_ssl = connection._from_ssl = None
        return unread


def memory_of(connection: Any) -> HandshakeMemory | None:
    """
    The memory for the handshake of a connection without a socket; C{None} if this version of
    pyOpenSSL cannot attach a socket afterwards.
    """
    try:
        return HandshakeMemory(connection)
    except AttributeError:
        return None


@cache
def _relay_buffers(records: int) -> tuple[Any, ...]:
    received, encrypted = (bytearray(records * MAX_RECORD_BYTES) for _ in range(2))
    from_buffer = SSL._ffi.from_buffer  # type: ignore[attr-defined]  # private
    return received, from_buffer(received), encrypted, from_buffer(encrypted)


def record_relay(connection: Any, records: int) -> Callable[[socket], tuple[Any, ...]] | None:
    """
    Make the function that reads the records that have come to a socket, and encrypts their data
    again, in memory: on the socket, OpenSSL makes two system calls to read a record, and one to
    write it.  It returns how many bytes of data were read; the records to send before it is called
    again; data, if any, to be written after those; and the error that ended this, if any.  It
    raises C{OSError} if the connection is broken.

    @param records: how many records it reads at most.
    @return: C{None} if this version of pyOpenSSL lacks a private name.
    """
    try:
        ssl, fail = connection._ssl, connection._raise_ssl_error
        lib, unpack, _, plain = HandshakeMemory._shared()
        for name in ("BIO_new_mem_buf", "BIO_s_mem", "BIO_set_mem_eof_return", "SSL_set_bio"):
            getattr(lib, name)
        received, source, encrypted, target = _relay_buffers(records)
    except AttributeError:
        return None

    def relay(sock: socket) -> tuple[int, memoryview, bytes, SSL.Error | None]:
        size = 0
        with suppress(BlockingIOError):
            size = sock.recv_into(received, 0, MSG_PEEK)
        reads, writes = lib.BIO_new_mem_buf(source, size), lib.BIO_new(lib.BIO_s_mem())
        lib.BIO_set_mem_eof_return(reads, -1)
        lib.SSL_set_bio(ssl, reads, writes)
        data, end, unwritten, error = 0, 0, b"", None
        for _ in range(records):
            got = lib.SSL_read(ssl, plain, RECORD_BYTES)
            if got <= 0:
                if lib.SSL_get_error(ssl, got) != lib.SSL_ERROR_WANT_READ:
                    try:
                        fail(ssl, got)
                    except SSL.Error as raised:
                        error = raised.with_traceback(None)
                break
            data += got
            written = max(0, lib.SSL_write(ssl, plain, got))
            end += max(0, lib.BIO_read(writes, target + end, MAX_RECORD_BYTES))
            if written < got:
                unwritten = unpack(plain + written, got - written)
                break
        # An alert, or the answer to a KeyUpdate.
        end += max(0, lib.BIO_read(writes, target + end, len(encrypted) - end))
        unread = lib.BIO_get_mem_data(reads, SSL._ffi.NULL)  # type: ignore[attr-defined]  # private
        lib.ERR_clear_error()
        lib.SSL_set_fd(ssl, sock.fileno())  # It frees both memories.
        while size > unread:
            # TCP drops what has been peeked at, without a copy (tcp(7)).  None of it can be gone.
            size -= sock.recv_into(received, size - unread, MSG_TRUNC) or size
        return data, memoryview(encrypted)[:end], unwritten, error

    return relay


def stop_retrying(connection: Any) -> None:
    """
    Make each read handle one record, of any type, and then return.

    pyOpenSSL sets C{SSL_MODE_AUTO_RETRY} on each connection (clearing it on the context has no
    effect).  With it, one read goes on through records without data until the socket is empty:
    200,000 KeyUpdates, or refused renegotiations, block the loop for 1.6 s (SSL_CTX_set_mode(3)).
    """
    with suppress(AttributeError):
        lib = SSL._lib  # type: ignore[attr-defined]  # private
        lib.SSL_clear_mode(connection._ssl, lib.SSL_MODE_AUTO_RETRY)


def forget_errors() -> None:
    """
    Empty the thread's error queue.  pyOpenSSL removes the errors that it raises, but none of a
    system call (C{SysCallError}).
    """
    with suppress(AttributeError):
        SSL._lib.ERR_clear_error()  # type: ignore[attr-defined]  # private


def is_lost(error: SSL.Error) -> bool:
    """
    Whether an error means that the connection is gone: a system call has failed now, or has
    failed before, in which case OpenSSL gives no reason.
    """
    return isinstance(error, SSL.SysCallError) or error.args == ([],)


def set_groups(context: Any, names: Iterable[str]) -> tuple[str, ...]:
    """
    Set the groups for the key exchange, in order, without those that this OpenSSL lacks.

    @param context: a pyOpenSSL C{Context}.
    @return: the groups that were set; none if this version of pyOpenSSL cannot set them, and
        OpenSSL's default stays.
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
"""How many bytes of a client's list of protocols are read; an ordinary list has 12."""


def choose_protocol(theirs: bytes, ours: Sequence[bytes]) -> tuple[int, int] | None:
    """
    Choose the first of our protocols that the client offers.

    @param theirs: the client's list, with a byte for the length before each (RFC 7301 3.1).
    @param ours: our protocols, in order of preference.
    @return: its offset in the client's list, and its length; C{None} if there is none.
    """
    offsets: dict[bytes, int] = {}
    end = 0
    while end < len(theirs):
        start, size = end + 1, theirs[end]
        end = start + size
        if end <= len(theirs):
            offsets.setdefault(theirs[start:end], start)
    return next(((offsets[name], len(name)) for name in ours if name in offsets), None)


def set_protocols(context: Any, ours: Sequence[bytes]) -> None:
    """
    Choose a protocol by ALPN; if the client offers none of ours, send a fatal alert (RFC 7301
    3.2).  The time that pyOpenSSL's own callback takes is quadratic in the length of the client's
    list: 40 ms for 63 KB.

    @param context: a pyOpenSSL C{Context}.
    @param ours: our protocols, in order of preference.
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

    # Where pyOpenSSL keeps its own callback, so that ours lives as long as the context.
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
    Whether the handshake resumed an earlier session; C{None} if that is not known.
    """
    try:
        return bool(SSL._lib.SSL_session_reused(connection._ssl))  # type: ignore[attr-defined]  # private
    except AttributeError:
        return None


def has_peer_finished(connection: Any) -> bool:
    """
    Whether the peer's Finished message has come and was correct.  pyOpenSSL copies the message,
    which takes ten times as long.
    """
    try:
        lib, ffi = SSL._lib, SSL._ffi  # type: ignore[attr-defined]  # private
        return bool(lib.SSL_get_peer_finished(connection._ssl, ffi.NULL, 0))
    except AttributeError:
        return connection.get_peer_finished() is not None


def verify_error(connection: Any) -> str | None:
    """
    Why the peer's certificate was refused, as OpenSSL's text; C{None} if it was not.
    """
    try:
        lib = SSL._lib  # type: ignore[attr-defined]  # private
        result = lib.SSL_get_verify_result(connection._ssl)
        text = SSL._ffi.string(lib.X509_verify_cert_error_string(result))  # type: ignore[attr-defined]  # private
    except AttributeError:
        return None
    return text.decode() if result else None


def reasons(error: BaseException | None) -> list[str]:
    """
    The reasons that OpenSSL gives for an error.
    """
    args = error.args if error else ()
    if args and isinstance(args[0], list):
        return [reason for _, _, reason in args[0] if reason]
    return list(map(str, args))


def reason_text(error: BaseException | None) -> str:
    """
    The reasons that OpenSSL gives for an error, in one line.
    """
    return ", ".join(reasons(error)) or "no reason given"
