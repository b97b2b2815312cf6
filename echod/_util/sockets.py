"""
What echod asks of the kernel about a socket: the options set on a listening one,
the bytes that wait in a connected one, and an address in words.

Invariant: everything goes through the operating system's own interface,
so it holds for any reactor and any transport that has a descriptor.
"""

import fcntl
import os
import resource
import socket
import struct
import sys
import termios
from collections.abc import Iterator
from contextlib import suppress

KEEPALIVE_IDLE = 60
KEEPALIVE_INTERVAL = 10
KEEPALIVE_PROBES = 6

KEEPALIVE_SECONDS = KEEPALIVE_IDLE + KEEPALIVE_PROBES * KEEPALIVE_INTERVAL
"""When a client is given up that answers no probe."""

USER_TIMEOUT_MARGIN = 5

SEND_BUFFER_BYTES = 256 * 1024
"""
The bound on what the kernel holds for one client that does not read.  Linux doubles
the figure for its own book-keeping and cuts it at C{net.core.wmem_max} (socket(7)).
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
        ("TCP_KEEPIDLE", KEEPALIVE_IDLE),
        ("TCP_KEEPINTVL", KEEPALIVE_INTERVAL),
        ("TCP_KEEPCNT", KEEPALIVE_PROBES),
    ):
        yield socket.IPPROTO_TCP, name, value
    if write_timeout:
        # The sweep acts first, and knows why.  And where there is a user timeout, Linux ends
        # an idle connection by that and not by TCP_KEEPCNT, at the first lost probe if it is
        # shorter than all of them take (tcp_keepalive_timer() in net/ipv4/tcp_timer.c).
        seconds = max(write_timeout + USER_TIMEOUT_MARGIN, KEEPALIVE_SECONDS)
        yield socket.IPPROTO_TCP, "TCP_USER_TIMEOUT", int(seconds * 1000)


def keep_urgent(sock: socket.socket) -> None:
    """
    Leave a byte that the peer sends as urgent (C{MSG_OOB}, send(2)) where it stands in the
    stream.  Without this option the kernel takes it out (C{SO_OOBINLINE}, socket(7)).

    Linux copies the option from a listening TCP socket to those accepted from it, but not
    from a listening UNIX socket, where urgent bytes exist since Linux 5.15.
    """
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)


def set_socket_options(listening: socket.socket, write_timeout: float) -> list[tuple[str, OSError]]:
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


def outq(fileno: int) -> int:
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


def file_identity(path: bytes) -> tuple[int, int] | None:
    """
    Which file stands at a path now: its device and inode, C{None} if there is none.  That
    of a socket no other file gets as long as the socket is open.
    """
    with suppress(OSError, ValueError):
        found = os.stat(path)
        return found.st_dev, found.st_ino
    return None
