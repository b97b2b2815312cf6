"""
Text for people: numbers, addresses, and text from peers and operators.

Invariant: text from a peer or an operator is escaped before it is printed.
"""

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv6Address, ip_address
from socket import AF_INET6, inet_ntop, inet_pton

from twisted.internet.interfaces import IAddress

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def format_number(number: float) -> str:
    """
    A number with thousands separators; below ten with one decimal, unless it is whole.
    """
    if number == int(number) or number >= 10:
        return f"{round(number):,}"
    return f"{number:.1f}"


def format_size(size: float) -> str:
    """
    A number of bytes, such as C{1.5 KiB}.
    """
    unit = 0
    while size >= 1023.5 and unit < len(_UNITS) - 1:
        size, unit = size / 1024, unit + 1
    return f"{format_number(round(size, 1) if unit else round(size))} {_UNITS[unit]}"


def _units(seconds: float) -> Iterator[tuple[int, str]]:
    rest = int(seconds)
    for length, unit in ((86400, "d"), (3600, "h"), (60, "min"), (1, "s")):
        number, rest = divmod(rest, length)
        if number:
            yield number, unit


def format_duration(seconds: float) -> str:
    """
    A time in its two largest units, such as C{3 h 12 min}.
    """
    if seconds < 10:
        return f"{seconds:.1f} s"
    return " ".join(f"{number} {unit}" for number, unit in list(_units(seconds))[:2])


def format_delay(seconds: float) -> str:
    """
    A short time in milliseconds, such as C{12.5 ms}.
    """
    return f"{format_number(round(seconds * 1000, 1))} ms"


def format_timeout(seconds: float, space: str = "") -> str:
    """
    A time in one unit, as options take it, such as C{500ms}, C{30s} or C{5m}.

    @param space: what stands between the number and the unit.
    """
    if not seconds:
        return "0"
    for length, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds % length == 0:
            return f"{seconds / length:.0f}{space}{unit}"
    if seconds < 1:
        return f"{seconds * 1000:g}{space}ms"
    return f"{seconds:.10g}{space}s"


def format_date(moment: float) -> str:
    """
    A date and time (RFC 3339, UTC) from seconds since 1970.
    """
    return f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%dT%H:%M:%SZ}"


INVISIBLE = frozenset(
    map(
        chr,
        (
            *(0x34F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x3164, 0xFFA0),
            *range(0x180B, 0x1810),
            *range(0xFE00, 0xFE10),
            *range(0xE0100, 0xE01F0),
        ),
    )
)
"""
Characters that are invisible although C{str.isprintable} says otherwise: those with Unicode's
property C{Default_Ignorable_Code_Point}.
"""


def escape(text: str) -> str:
    """
    Replace each character that could move the cursor, end the line or be invisible by a Python
    escape.
    """
    return "".join(c if c.isprintable() and c not in INVISIBLE else ascii(c)[1:-1] for c in text)


_UNQUOTED = re.compile(r"[!#-+\-./0-9:<>-\[\]-~]+")
"""A value that needs no quotes: ASCII without space and C{" , ; = \\}."""


def quoted(text: str) -> str:
    """
    A value for a line of text.  It stays as it is, unless a part of it could be read as the end
    of the value or as another field: then it is put in double quotes, with a backslash before
    each double quote and backslash.  Different values stay different.
    """
    if _UNQUOTED.fullmatch(text):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escape(escaped)}"'


class PeerText(str):
    """
    A value of a log event that a peer has chosen, in full or in part.  Formatted into a
    message it is L{quoted}.
    """

    def __format__(self, spec: str) -> str:
        return format(quoted(str(self)), spec)


class Described(str):
    """
    A word of a log event, with what people read in its place: formatted into a message it is
    C{text}.  Other records, such as the field of a JSON object, have the word.
    """

    __slots__ = ("text", "word")

    text: str
    word: str

    def __new__(cls, word: str, text: str) -> "Described":
        self = super().__new__(cls, word)
        self.word = word
        self.text = text
        return self

    def __format__(self, spec: str) -> str:
        return format(self.text, spec)


IP = IPv4Address | IPv6Address


def ip_of(address: IAddress) -> IP | None:
    """
    The IP address of an address; C{None} if it has none.

    An IPv4-mapped address, which an IPv4 client of a dual-stack socket has, becomes the IPv4
    address in it (RFC 4291 2.5.5.2).
    """
    return ip_of_host(getattr(address, "host", None))


def ip_of_host(host: str | None) -> IP | None:
    """
    The IP address that a text stands for, as L{ip_of}; C{None} if it stands for none.
    """
    try:
        ip = ip_address(host)  # type: ignore[arg-type]  # of None, it raises ValueError
    except ValueError:
        # Twisted's haproxy: endpoint accepts any text as an address.
        return None
    return getattr(ip, "ipv4_mapped", None) or ip


_BYTE = r"(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
_IPV4 = re.compile(rf"(?:::ffff:)?({_BYTE}(?:\.{_BYTE}){{3}})", re.ASCII)
"""An IPv4 address, or one that is mapped into IPv6."""


def _is_plain_ipv6(host: str) -> bool:
    """
    Whether a text is an IPv6 address in its usual form, with no IPv4 address in it and no zone.
    """
    try:
        return "." not in host and inet_ntop(AF_INET6, inet_pton(AF_INET6, host)) == host
    except (OSError, ValueError):
        return False


def format_host(host: str | None) -> str:
    """
    The address of a client without its port, as L{format_address} has it.

    @param host: the C{host} of its Twisted address; C{None} for a UNIX socket.
    """
    if host is None:
        return "unix"
    ipv4 = _IPV4.fullmatch(host)
    return ipv4[1] if ipv4 else escape(host)


def format_address(address: IAddress) -> str:
    """
    An address as text: C{192.0.2.1:9000}, C{[2001:db8::1]:9000}, C{unix:/run/echod}.
    """
    host = getattr(address, "host", None)
    if host is None:
        name = getattr(address, "name", None) or b""
        return escape("unix:" + name.decode("utf-8", "backslashreplace"))
    return format_host_port(host, address.port)  # type: ignore[attr-defined]  # as in ip_of


def format_host_port(host: str, port: int) -> str:
    """
    An IP address, or what a proxy has given as one, and a port, as text.
    """
    # An access record needs this text.  ipaddress gives the same for ten times the CPU.
    if ipv4 := _IPV4.fullmatch(host):
        return f"{ipv4[1]}:{port}"
    if _is_plain_ipv6(host):
        return f"[{host}]:{port}"
    ip = ip_of_host(host)
    text = escape(str(ip or host))
    if ip is not None and ip.version == 6:
        text = f"[{text}]"
    return f"{text}:{port}"
