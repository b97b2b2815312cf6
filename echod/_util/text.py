"""
Numbers, addresses and untrusted text as words.

Invariant: what a peer or an operator wrote is escaped before it is shown.
"""

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv6Address, ip_address

from twisted.internet.interfaces import IAddress

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def format_number(number: float) -> str:
    """
    A number with its thousands apart; one below ten with a digit behind the point, unless it
    is whole.
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


def _parts(seconds: float) -> Iterator[tuple[int, str]]:
    rest = int(seconds)
    for length, unit in ((86400, "d"), (3600, "h"), (60, "min"), (1, "s")):
        many, rest = divmod(rest, length)
        if many:
            yield many, unit


def format_duration(seconds: float) -> str:
    """
    A time by its two largest units, such as C{3 h 12 min}.
    """
    if seconds < 10:
        return f"{seconds:.1f} s"
    return " ".join(f"{many} {unit}" for many, unit in list(_parts(seconds))[:2])


def format_delay(seconds: float) -> str:
    """
    A short time, in milliseconds.
    """
    return f"{format_number(round(seconds * 1000, 1))} ms"


def format_date(moment: float) -> str:
    """
    A moment, from seconds since 1970 (RFC 3339, UTC).
    """
    return f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%dT%H:%M:%SZ}"


IP = IPv4Address | IPv6Address


HIDDEN = frozenset(
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
What Python calls printable though nothing is to be seen of it: Unicode's property
C{Default_Ignorable_Code_Point}, but for what is not printable anyway.
"""


def escape(text: str) -> str:
    """
    The same text, with every character that could move a cursor, end a line or hide
    itself written as an escape.
    """
    return "".join(c if c.isprintable() and c not in HIDDEN else ascii(c)[1:-1] for c in text)


_BARE = re.compile(r"[!#-+\-./0-9:<>-\[\]-~]+")
"""What stands in a line of text without quotes: ASCII but for space and C{" , ; = \\}."""


def quoted(text: str) -> str:
    """
    A value as it stands in a line of text: as it is, or, when something in it could be taken
    for the end of the value or for another field, in double quotes, with a backslash before
    each double quote and backslash.  No two values look the same.
    """
    if _BARE.fullmatch(text):
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


def ip_of(address: IAddress) -> IP | None:
    """
    The IP address in an address, C{None} if it has none.

    An IPv4 client of a dual-stack socket has an IPv4-mapped address (RFC 4291
    2.5.5.2); here it is the IPv4 address that it is.
    """
    try:
        ip = ip_address(address.host)  # type: ignore[attr-defined]  # IAddress names no field
    except (AttributeError, ValueError):
        # Twisted's haproxy: endpoint believes whatever a header says.
        return None
    return getattr(ip, "ipv4_mapped", None) or ip


def format_address(address: IAddress) -> str:
    """
    An address in words: C{192.0.2.1:9000}, C{[2001:db8::1]:9000}, C{unix:/run/echod}.
    """
    host = getattr(address, "host", None)
    if host is None:
        name = getattr(address, "name", None) or b""
        return escape("unix:" + name.decode("utf-8", "backslashreplace"))
    ip = ip_of(address)
    where = escape(str(ip or host))
    if ip is not None and ip.version == 6:
        where = f"[{where}]"
    return f"{where}:{address.port}"  # type: ignore[attr-defined]  # as above
