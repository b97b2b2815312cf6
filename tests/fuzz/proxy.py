"""
The parser of PROXY headers against a model, which was written by the specification (HAProxy's
C{doc/proxy-protocol.txt}) and uses nothing of echod.

Invariant: for any stream, in pieces of any sizes, both find the same header and the same rest, or
both refuse it.
"""

import itertools
import socket
import struct
from typing import Any

from hypothesis import strategies as st
from twisted.internet.address import UNIXAddress

from echod.proxyprotocol.parser import ProxyHeaderError, ProxyParser
from tests.fuzz.target import play
from tests.support.proxyheaders import SIGNATURE, crc32c, v2_header

EXAMPLES = 500

Outcome = tuple[Any, ...]
"""
C{("more",)}, C{("bad",)}, C{("none",)}, or C{"header"} with its length, the client, and the
fields.
"""


def model(stream: bytes) -> Outcome:
    """
    What this stream is, by the specification and by what the operator's page says of lengths.
    """
    for begin, judge in ((b"PROXY ", _line), (SIGNATURE, _binary)):
        if stream[: len(begin)] == begin:
            return judge(stream)
        if begin.startswith(stream):
            return ("more",)
    return ("none",)


def _line(stream: bytes) -> Outcome:
    # "The maximum line lengths the receiver must support including the CRLF" is 107.
    line, newline, _ = stream[:107].partition(b"\n")
    if not newline:
        return ("more",) if len(stream) < 107 else ("bad",)
    size = len(line) + 1
    if line[-1:] != b"\r" or b"\r" in line[:-1]:
        return ("bad",)
    words = line[:-1].split(b" ")
    if words[1] == b"UNKNOWN":
        return ("header", size, None, {})
    if len(words) != 6 or words[1] not in (b"TCP4", b"TCP6"):
        return ("bad",)
    family = socket.AF_INET6 if words[1] == b"TCP6" else socket.AF_INET
    hosts, ports = [], []
    for word in words[2:4]:
        try:
            hosts.append(socket.inet_pton(family, word.decode("ascii")))
        except (OSError, ValueError):
            return ("bad",)
        if any(byte not in b"0123456789abcdefABCDEF.:" for byte in word):
            return ("bad",)
    for word in words[4:]:
        # "in the range [0..65535] inclusive ... heading zeroes are not permitted".
        if word not in (b"%d" % number for number in (_decimal(word),)) or _decimal(word) > 65535:
            return ("bad",)
        ports.append(_decimal(word))
    return ("header", size, (family, hosts[0], ports[0]), {})


def _decimal(word: bytes) -> int:
    number = 0
    for byte in word[:10]:
        number = number * 10 + (byte - 48)
    return number


def _binary(stream: bytes) -> Outcome:
    if len(stream) < 16:
        return ("more",)
    version, family, length = struct.unpack("!BBH", stream[12:16])
    if 16 + length > 4096:
        return ("bad",)
    if len(stream) < 16 + length:
        return ("more",)
    whole, rest = stream[: 16 + length], stream[16 : 16 + length]
    if version == 0x20 or (version == 0x21 and family == 0):
        return ("header", len(whole), None, {})
    sizes = {0x11: 12, 0x12: 12, 0x21: 36, 0x22: 36, 0x31: 216, 0x32: 216}
    if version != 0x21 or family not in sizes or length < sizes[family]:
        return ("bad",)
    client: Any
    if family < 0x20:
        client = (socket.AF_INET, rest[:4], struct.unpack("!H", rest[8:10])[0])
    elif family < 0x30:
        client = (socket.AF_INET6, rest[:16], struct.unpack("!H", rest[32:34])[0])
    else:
        path = rest[:108]
        end = path.find(b"\0", 1)
        client = (socket.AF_UNIX, path[: None if end < 0 else end].rstrip(b"\0"))
    fields = _vectors(whole, 16 + sizes[family], len(whole))
    if fields is None:
        return ("bad",)
    return ("header", len(whole), client, fields)


_FIELDS = {1: "proxy_alpn", 2: "proxy_authority", 5: "proxy_unique_id"}
_TLS_FIELDS = {0x21: "proxy_tls_version", 0x22: "proxy_tls_cn", 0x23: "proxy_tls_cipher"}


def _vectors(whole: bytes, at: int, end: int, inner: bool = False) -> dict[str, bytes] | None:
    found: dict[str, bytes] = {}
    sums = 0
    while at < end:
        if at + 3 > end:
            return None
        kind, size = struct.unpack("!BH", whole[at : at + 3])
        value = whole[at + 3 : at + 3 + size]
        at += 3
        if at + size > end:
            return None
        if inner:
            if kind in _TLS_FIELDS:
                found[_TLS_FIELDS[kind]] = value
        elif kind == 3:
            sums += 1
            zeroed = whole[:at] + b"\0\0\0\0" + whole[at + 4 :]
            if sums > 1 or size != 4 or struct.unpack("!I", value)[0] != crc32c(zeroed):
                return None
        elif kind == 0x20:
            more = _vectors(whole, at + 5, at + size, True) if size >= 5 else None
            if more is None:
                return None
            found |= more
        elif kind == 5 and size > 128:
            return None
        elif kind in _FIELDS:
            found[_FIELDS[kind]] = value
        at += size
    return found


def parsed(stream: bytes, cuts: list[int]) -> Outcome:
    """
    What echod's parser makes of this stream, cut at these places.
    """
    parser = ProxyParser()
    places = [0, *sorted({cut % (len(stream) + 1) for cut in cuts}), len(stream)]
    taken = 0
    for start, end in itertools.pairwise(places):
        if start == end:
            continue
        try:
            size = parser.feed(stream[start:end])
        except ProxyHeaderError as error:
            assert str(error), "an error without a reason"
            return ("bad",)
        taken += size
        if parser.header is not None:
            break
        if size == 0:
            assert stream.startswith(parser.taken), "other bytes than came"
            return ("none",)
        assert size == end - start, "a part of a piece, and no header"
    if parser.header is None:
        assert parser.taken == stream, "other bytes than came"
        return ("more",)
    assert parser.taken == stream[:taken], "other bytes than came"
    client: Any = parser.header.client
    if isinstance(client, UNIXAddress):
        client = (socket.AF_UNIX, client.name or b"")
    elif client is not None:
        family = socket.AF_INET6 if ":" in client.host else socket.AF_INET
        client = (family, socket.inet_pton(family, client.host), client.port)
    return ("header", taken, client, parser.header.log_fields)


def check(case: tuple[bytes, list[int]]) -> None:
    """
    Compare the parser with the model.
    """
    stream, cuts = case
    expected, found = model(stream), parsed(stream, cuts)
    assert found[:3] == expected[:3], f"{found}, not {expected}"
    if expected[0] == "header":
        shown, values = found[3], expected[3]
        assert list(shown) == list(values), f"{found}, not {expected}"
        for name, value in values.items():
            text = shown[name]
            assert text.isprintable() and ";" not in text, text
            assert len(text) <= 512, text
            if value.isalnum():
                assert text == value.decode()[:512], text


_number = st.one_of(
    st.integers(0, 70000).map(lambda number: b"%d" % number),
    st.sampled_from([b"0", b"00", b"65535", b"65536", b"", b"-1", b"+1", b"1_0", b"9" * 30]),
)
_host = st.one_of(
    st.ip_addresses().map(lambda ip: str(ip).encode()),
    st.ip_addresses(v=6).map(lambda ip: ip.exploded.upper().encode()),
    st.sampled_from([b"::ffff:1.2.3.4", b"1.2.3", b"01.2.3.4", b"fe80::1%1", b"::", b"", b"x"]),
)
_word = st.one_of(_number, _host, st.binary(max_size=8))
_v1 = st.one_of(
    st.tuples(
        st.just(b"PROXY"), st.sampled_from([b"TCP4", b"TCP6"]), _host, _host, _number, _number
    ),
    st.tuples(
        st.just(b"PROXY"), st.sampled_from([b"UNKNOWN", b"UNKNOWNX", b"TCP5", b""]), _word, _word
    ),
    st.lists(_word, max_size=7).map(lambda words: [b"PROXY", *words]),
).flatmap(
    lambda words: st.sampled_from([b"\r\n", b"\r\n", b"\r\n", b"\n", b"\r", b"\n\r"]).map(
        lambda end: b" ".join(words) + end
    )
)


@st.composite
def _vector(draw: Any, depth: int = 0) -> bytes:
    kind = draw(st.sampled_from([1, 2, 3, 4, 5, 0x20, 0x21, 0x22, 0x23, 0x30, 0xEE]))
    value: bytes
    if kind == 0x20 and depth < 2 and draw(st.booleans()):
        value = b"\7\0\0\0\0" + b"".join(draw(st.lists(_vector(depth + 1), max_size=3)))
    else:
        value = draw(
            st.one_of(
                st.binary(max_size=140),
                st.text("abcXYZ019", max_size=600).map(str.encode),
                st.just(bytes(4)),
            )
        )
    size = len(value) + draw(st.sampled_from([0, 0, 0, 0, 0, 1, -1, 255]))
    return struct.pack("!BH", kind, max(0, size) % 65536) + value


@st.composite
def _v2(draw: Any) -> bytes:
    family = draw(st.sampled_from([0x11, 0x12, 0x21, 0x22, 0x31, 0x32, 0x00, 0x13, 0x41]))
    size = {1: 12, 2: 36, 3: 216}.get(family >> 4, 0)
    addresses = draw(st.binary(min_size=size, max_size=size))
    if family >> 4 == 3:
        name = draw(st.sampled_from([b"", b"/run/x", b"\0name", b"\0", b"a" * 108, b"a\0b"]))
        addresses = name.ljust(108, b"\0")[:108] + addresses[108:]
    addresses = addresses[: len(addresses) - draw(st.sampled_from([0, 0, 0, 0, 1, 11]))]
    vectors = draw(st.lists(_vector(), max_size=4))
    summed = draw(st.booleans())
    place = draw(st.integers(0, len(vectors)))
    if summed:
        vectors.insert(place, b"\3\0\4" + bytes(4))
    rest = addresses + b"".join(vectors)
    stated = draw(st.sampled_from([None, None, None, None, 0, 4080, 4081, 65535, len(rest) // 2]))
    command = draw(st.sampled_from([0x21, 0x21, 0x21, 0x20, 0x11, 0x2F]))
    header = v2_header(rest[:65535], family, command, stated)
    if summed:
        at = 16 + len(addresses) + sum(map(len, vectors[:place])) + 3
        number = crc32c(header) ^ draw(st.sampled_from([0, 0, 0, 1]))
        header = header[:at] + struct.pack("!I", number) + header[at + 4 :]
    return header


@st.composite
def streams(draw: Any) -> tuple[bytes, list[int]]:
    """
    A stream, often with a header, and where it is cut.
    """
    stream: bytes = draw(st.one_of(_v1, _v2(), st.binary(max_size=20)))
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2]))):
        at = draw(st.integers(0, len(stream)))
        new = draw(st.binary(max_size=2))
        stream = stream[:at] + new + stream[at + draw(st.integers(0, 2)) :]
    stream += draw(st.binary(max_size=120))
    stream = stream[: draw(st.sampled_from([None, None, None, 0, 5, 12, 16, 106, 107, 108]))]
    return stream, draw(st.lists(st.integers(0, 5000), max_size=4))


class ProxyHeaders:
    """
    The parser of PROXY headers.
    """

    name = "proxy"

    def __enter__(self) -> "ProxyHeaders":
        return self

    def __exit__(self, *error: Any) -> None: ...

    def round(self, number: int) -> int:
        return play(streams(), check, number, EXAMPLES)
