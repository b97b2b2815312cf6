"""
The HTTP of C{--admin}: any bytes, in pieces of any sizes, to a real daemon.

Invariant: a connection gets responses or its end, or both, in bounded time; the log has no
traceback; and other clients get their pages all the while.
"""

import itertools
import re
import socket
from typing import Any

from hypothesis import strategies as st

from tests.fuzz.target import play
from tests.support.admin import ADMIN, ask
from tests.support.daemons import LOOPBACK, Daemon, connect

EXAMPLES = 60

_STATUS = re.compile(rb"HTTP/1\.[01] [1-5][0-9][0-9] [^\r\n]*\r\n")

_name = st.sampled_from(
    [
        *("Host", "Content-Length", "content-length", "Transfer-Encoding", "Connection", "Expect"),
        *("Accept", "Accept-Encoding", "Range", "If-Modified-Since", "Upgrade", "Cookie"),
        *("Authorization", "Content-Type", "X-Forwarded-For", "Origin", "Sec-WebSocket-Key", "X"),
    ]
).map(str.encode)
_value = st.one_of(
    st.sampled_from(
        [
            *(
                "localhost",
                "127.0.0.1",
                "localhost:99999",
                "[::1]",
                "[",
                "]:",
                "a b",
                "",
                "@",
                "\t",
            ),
            *("0", "1", "5", "-1", "+1", "1e3", "0x5", "1_0", " 7 ", "4 4", "5, 5", "9" * 5000),
            *("chunked", "chunked, chunked", "gzip, chunked", "identity", "close", "keep-alive"),
            *("100-continue", "upgrade", "h2c", "websocket", "bytes=0-", "bytes=9-1", "*/*"),
            *("Sat, 01 Jan 2000 00:00:00 GMT", "Sat, 99 Jan 99999 00:00:00 GMT", "Basic !!"),
            *("multipart/form-data; boundary=x", "multipart/form-data", "a=b; a=b; $", "text/html"),
            "application/x-www-form-urlencoded",
        ]
    ).map(str.encode),
    st.integers(-5, 10**9).map(lambda number: b"%d" % number),
    st.binary(max_size=12),
    st.integers(0, 20000).map(lambda size: b"v" * size),
)
_method = st.one_of(
    st.sampled_from([b"GET", b"HEAD", b"POST", b"PUT", b"OPTIONS", b"TRACE", b"CONNECT", b"PRI"]),
    st.binary(max_size=5),
)
_path = st.one_of(
    st.sampled_from(
        [
            *(
                "/",
                "/metrics",
                "/connections",
                "/livez",
                "/readyz",
                "*",
                "//",
                "/a/../",
                "/%",
                "/%00",
            ),
            *(
                "http://localhost/metrics",
                "http://[/",
                "http://%5b::1/",
                "HTTP:///",
                "/?a=b;c&&=",
                "",
            ),
            *("localhost:80", "/" + "a" * 20000, "/%zz?%zz=%zz", "/\x7f", "http://localhost:x/"),
        ]
    ).map(str.encode),
    st.binary(max_size=12),
)
_hostile = st.sampled_from(
    [
        b"Content-Length: " + b"9" * 5000,
        b"Content-Length: " + b"9" * 21,
        b"Content-Length: 5\r\nContent-Length: 6",
        b"Content-Length: 5\r\nTransfer-Encoding: chunked",
        b"Transfer-Encoding: chunked",
        b"Transfer-Encoding: gzip",
        b"Content-Type: multipart/form-data; boundary=\r\nContent-Length: 3",
        b"Host: [",
        b"Host: " + b"a" * 15000,
        b"Connection: close",
        b"Expect: 100-continue",
        b" folded",
        b"X" * 17000,
    ]
)
"""Lines that need a look of their own."""

_version = st.sampled_from(
    [b"HTTP/1.1"] * 6 + [b"HTTP/1.0", b"HTTP/0.9", b"HTTP/2.0", b"http", b""]
)
_line_end = st.sampled_from([b"\r\n"] * 12 + [b"\n", b"\r", b"\r\r\n", b""])
_chunk = st.one_of(
    st.binary(min_size=1, max_size=9).map(lambda data: b"%x\r\n%b\r\n" % (len(data), data)),
    st.sampled_from(
        [b"0\r\n\r\n", b"0\r\nX: y\r\n\r\n", b"-1\r\n", b"g\r\n", b"5;x=y\r\nhello\r\n", b"f" * 30]
    ),
)


@st.composite
def _request(draw: Any) -> bytes:
    end = draw(_line_end)
    lines = [b" ".join((draw(_method), draw(_path), draw(_version)))]
    if draw(st.booleans()):
        lines.append(b"Host: localhost")
    for _ in range(draw(st.sampled_from([0, 0, 1, 1, 2, 3, 5, 600]))):
        colon = draw(st.sampled_from([b": "] * 6 + [b":", b" : ", b""]))
        lines.append(draw(_name) + colon + draw(_value))
    lines += draw(st.lists(_hostile, max_size=2))
    body = draw(
        st.one_of(
            st.just(b""), st.binary(max_size=20), st.lists(_chunk, max_size=4).map(b"".join),
            st.just(b"x" * 70000),
        )
    )  # fmt: skip
    return end.join(lines) + end + draw(st.sampled_from([end, end, end, b""])) + body


@st.composite
def _sent(draw: Any) -> tuple[list[bytes], bool]:
    """
    The pieces that a client sends, and whether it resets the connection in the end.
    """
    data: bytes = draw(
        st.one_of(
            _request(), st.lists(_request(), max_size=4).map(b"".join), st.binary(max_size=200)
        )
    )
    for _ in range(draw(st.sampled_from([0, 0, 1, 3]))):
        at = draw(st.integers(0, len(data)))
        data = data[:at] + draw(st.binary(max_size=3)) + data[at + draw(st.integers(0, 3)) :]
    cuts = sorted(cut % (len(data) + 1) for cut in draw(st.lists(st.integers(0, 400), max_size=5)))
    places = [0, *cuts, len(data)]
    pieces = [data[start:end] for start, end in itertools.pairwise(places)]
    return pieces, draw(st.sampled_from([False] * 9 + [True]))


class AdminHTTP:
    """
    A daemon with C{--admin}.
    """

    name = "admin"

    def __init__(self) -> None:
        self._daemon = Daemon(*LOOPBACK, *ADMIN)

    def __enter__(self) -> "AdminHTTP":
        self._daemon.__enter__()
        self._address = self._daemon.address("--admin")
        return self

    def __exit__(self, *error: Any) -> None:
        # Looks for tracebacks in the log.
        self._daemon.__exit__(*error)

    def round(self, number: int) -> int:
        return play(_sent(), self._check, number, EXAMPLES)

    def _check(self, case: tuple[list[bytes], bool]) -> None:
        pieces, resets = case
        logged = len(self._daemon.log) + len(self._daemon.stderr)
        with connect(self._address) as client:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            response = bytearray()
            try:
                for piece in pieces:
                    client.sendall(piece)
                if resets:
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                    return
                client.shutdown(socket.SHUT_WR)
            except OSError as error:
                # The daemon has ended the connection while the client still sent.
                assert not isinstance(error, TimeoutError), "the daemon reads nothing"
            try:
                while data := client.recv(65536):
                    response += data
            except ConnectionResetError:
                pass
        if response:
            assert _STATUS.match(response), f"not a response: {bytes(response[:200])!r}"
        status, page = ask(self._daemon, "/livez")
        assert status == 200, f"{status}: {page}"
        # A client, whatever it sends, is no line of the log.
        new = (self._daemon.log + self._daemon.stderr)[logged:]
        assert not new, new
