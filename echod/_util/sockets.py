"""
What echod asks of the kernel about a socket: the options set on a listening one,
the bytes that wait in a connected one, and an address in words.

The rule of this room: everything goes through the operating system's own interface,
so it holds for any reactor and any transport that has a descriptor.
"""

import fcntl
import os
import re
import resource
import socket
import struct
import sys
import termios
from collections.abc import Iterator
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, ip_address

from twisted.internet.interfaces import IAddress

IP = IPv4Address | IPv6Address

KEEPALIVE_IDLE_SECONDS = 60
KEEPALIVE_INTERVAL_SECONDS = 10
KEEPALIVE_PROBES = 6

KEEPALIVE_SECONDS = KEEPALIVE_IDLE_SECONDS + KEEPALIVE_PROBES * KEEPALIVE_INTERVAL_SECONDS
"""When a client is given up that answers no probe."""

USER_TIMEOUT_MARGIN_SECONDS = 5

SEND_BUFFER_BYTES = 256 * 1024
"""
The bound on what the kernel holds for one client that does not read.  Linux doubles
the figure for its own book-keeping and cuts it at C{net.core.wmem_max} (socket(7)).
"""

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


def _options(family: int, write_timeout: float) -> Iterator[tuple[int, str, int]]:
    """
    The level, name and value of each option: a platform that lacks one goes without it.
    """
    yield socket.SOL_SOCKET, "SO_SNDBUF", SEND_BUFFER_BYTES
    yield socket.SOL_SOCKET, "SO_OOBINLINE", 1
    if family == socket.AF_UNIX:
        return
    yield socket.SOL_SOCKET, "SO_KEEPALIVE", 1
    for name, value in (
        ("TCP_NODELAY", 1),
        ("TCP_KEEPIDLE", KEEPALIVE_IDLE_SECONDS),
        ("TCP_KEEPINTVL", KEEPALIVE_INTERVAL_SECONDS),
        ("TCP_KEEPCNT", KEEPALIVE_PROBES),
    ):
        yield socket.IPPROTO_TCP, name, value
    if write_timeout:
        # The sweep acts first, and knows why.  And where there is a user timeout, Linux ends
        # an idle connection by that and not by TCP_KEEPCNT, at the first lost probe if it is
        # shorter than all of them take (tcp_keepalive_timer() in net/ipv4/tcp_timer.c).
        seconds = max(write_timeout + USER_TIMEOUT_MARGIN_SECONDS, KEEPALIVE_SECONDS)
        yield socket.IPPROTO_TCP, "TCP_USER_TIMEOUT", int(seconds * 1000)


def keep_urgent(sock: socket.socket) -> None:
    """
    Leave a byte that the peer sends as urgent (C{MSG_OOB}, send(2)) where it stands in the
    stream.  Without this option the kernel takes it out (C{SO_OOBINLINE}, socket(7)).

    Linux copies the option from a listening TCP socket to those accepted from it, but not
    from a listening UNIX socket, where urgent bytes exist since Linux 5.15.
    """
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)


def tune(listening: socket.socket, write_timeout: float) -> list[tuple[str, OSError]]:
    """
    Set on a listening socket what each connection accepted from it shall inherit.

    Linux copies these options to the accepted socket, so they cost nothing at accept.

    @param write_timeout: seconds that a client may take nothing.  Later, and not before all
        keepalive probes are lost, the kernel gives up a connection whose sent bytes nobody
        acknowledges (C{TCP_USER_TIMEOUT}, tcp(7)); 0 leaves that to the system's default.
    @return: the options that the kernel refuses, as some containers' do, each with why.
    """
    refused = []
    for level, name, value in _options(listening.family, write_timeout):
        if option := getattr(socket, name, None):
            try:
                listening.setsockopt(level, option, value)
            except OSError as error:
                refused.append((name, error))
    return refused


def _queue_bytes(fileno: int, request: int) -> int:
    answer = fcntl.ioctl(fileno, request, bytes(struct.calcsize("i")))
    return int.from_bytes(answer, sys.byteorder, signed=True)


def unread(fileno: int) -> int:
    """
    How many bytes the peer has sent that have not been received from the kernel yet
    (C{FIONREAD}, tcp(7) and unix(7)).
    """
    return _queue_bytes(fileno, termios.FIONREAD)


def unsent(fileno: int) -> int:
    """
    How many bytes the kernel still holds for the peer: not sent, or sent and not
    acknowledged (C{TIOCOUTQ}, tcp(7) and unix(7)).
    """
    return _queue_bytes(fileno, termios.TIOCOUTQ)


def descriptor_limit() -> int:
    """
    Raise the bound on open descriptors as far as an ordinary user may, to the hard limit
    (C{RLIMIT_NOFILE}, getrlimit(2)).

    @return: the bound.  When there is none, or a sandbox forbids to ask, a large number.
    """
    limit = resource.RLIM_INFINITY
    with suppress(OSError, ValueError):
        limit, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        limit = hard
    return sys.maxsize if limit == resource.RLIM_INFINITY else limit


def printable(text: str) -> str:
    """
    The same text, with every character that could move a cursor, end a line or hide
    itself written as an escape.
    """
    return "".join(c if c.isprintable() and c not in HIDDEN else ascii(c)[1:-1] for c in text)


def file_identity(path: bytes) -> tuple[int, int] | None:
    """
    Which file stands at a path now: its device and inode, C{None} if there is none.  That
    of a socket no other file gets as long as the socket is open.
    """
    with suppress(OSError, ValueError):
        found = os.stat(path)
        return found.st_dev, found.st_ino
    return None


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
    return f'"{printable(escaped)}"'


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


def address_text(address: IAddress) -> str:
    """
    An address in words: C{192.0.2.1:9000}, C{[2001:db8::1]:9000}, C{unix:/run/echod}.
    """
    host = getattr(address, "host", None)
    if host is None:
        name = getattr(address, "name", None) or b""
        return printable("unix:" + name.decode("utf-8", "backslashreplace"))
    ip = ip_of(address)
    where = printable(str(ip or host))
    if ip is not None and ip.version == 6:
        where = f"[{where}]"
    return f"{where}:{address.port}"  # type: ignore[attr-defined]  # as above
