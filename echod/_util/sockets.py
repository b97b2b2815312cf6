"""
System calls on sockets and descriptors: the options of a listening socket, the bytes that the
kernel holds of a connected one, and the limit on descriptors.

Invariant: everything here takes a socket or a descriptor, so it works with any reactor and any
transport.
"""

import fcntl
import os
import resource
import socket
import struct
import sys
import termios
from collections.abc import Callable, Iterator
from contextlib import suppress

KEEPALIVE_IDLE = 60
KEEPALIVE_INTERVAL = 10
KEEPALIVE_PROBES = 6

KEEPALIVE_TIMEOUT = KEEPALIVE_IDLE + KEEPALIVE_PROBES * KEEPALIVE_INTERVAL
"""How many seconds after the last packet the kernel closes a connection that answers no probe."""

USER_TIMEOUT_MARGIN = 5
"""Seconds."""

SEND_BUFFER_BYTES = 256 * 1024
"""
How much the kernel buffers for one TCP client that does not read.  Linux doubles the figure for
its own bookkeeping, and limits it to C{net.core.wmem_max} (socket(7)).  A connection on a UNIX
socket has C{net.core.wmem_default}.
"""


def _options(family: int, write_timeout: float) -> Iterator[tuple[int, str, int]]:
    """
    The level, name and value of each option.  Some platforms lack some of them.
    """
    if family == socket.AF_UNIX:
        # An accepted one inherits none of them.
        return
    yield socket.SOL_SOCKET, "SO_SNDBUF", SEND_BUFFER_BYTES
    yield socket.SOL_SOCKET, "SO_OOBINLINE", 1
    yield socket.SOL_SOCKET, "SO_KEEPALIVE", 1
    for name, value in (
        ("TCP_NODELAY", 1),
        ("TCP_KEEPIDLE", KEEPALIVE_IDLE),
        ("TCP_KEEPINTVL", KEEPALIVE_INTERVAL),
        ("TCP_KEEPCNT", KEEPALIVE_PROBES),
    ):
        yield socket.IPPROTO_TCP, name, value
    if write_timeout:
        # Later than echod's own timeout, which logs the reason.  And not sooner than all probes
        # take: with a user timeout, Linux ends an idle connection by it and not by TCP_KEEPCNT
        # (tcp_keepalive_timer() in net/ipv4/tcp_timer.c).
        seconds = max(write_timeout + USER_TIMEOUT_MARGIN, KEEPALIVE_TIMEOUT)
        yield socket.IPPROTO_TCP, "TCP_USER_TIMEOUT", int(seconds * 1000)


def keep_urgent(sock: socket.socket) -> None:
    """
    Receive a byte that the peer sends as urgent (C{MSG_OOB}, send(2)) at its place in the stream.
    Without this option the kernel removes it from the stream (C{SO_OOBINLINE}, socket(7)).

    An accepted TCP socket inherits the option from the listening one on Linux; an accepted UNIX
    socket does not.  (UNIX sockets have urgent bytes since Linux 5.15.)
    """
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)


def set_socket_options(listening: socket.socket, write_timeout: float) -> list[tuple[str, OSError]]:
    """
    Set the options that accepted connections inherit from a listening TCP socket, so that they
    cost nothing at accept (Linux, tcp(7)).  An accepted UNIX socket inherits nothing, so a
    listening one is left as it is.

    @param write_timeout: how many seconds a client may read nothing.  Some time later, and not
        before all keepalive probes are lost, the kernel closes a connection whose peer
        acknowledges nothing (C{TCP_USER_TIMEOUT}, tcp(7)); 0 leaves the system's default.
    @return: the options that the kernel refuses, as in some containers, each with its error.
    """
    refused = []
    for level, name, value in _options(listening.family, write_timeout):
        if option := getattr(socket, name, None):
            try:
                listening.setsockopt(level, option, value)
            except OSError as error:
                refused.append((name, error))
    return refused


_ZERO = bytes(struct.calcsize("i"))


def _queue_bytes(fileno: int, request: int) -> int:
    answer = fcntl.ioctl(fileno, request, _ZERO)
    return int.from_bytes(answer, sys.byteorder, signed=True)


def unread(fileno: int) -> int:
    """
    How many received bytes the kernel holds that are not read yet (C{FIONREAD}, tcp(7) and
    unix(7)).
    """
    return _queue_bytes(fileno, termios.FIONREAD)


def outq(fileno: int) -> int:
    """
    How many written bytes the kernel holds: not sent, or sent and not acknowledged
    (C{TIOCOUTQ}, tcp(7) and unix(7)).
    """
    return _queue_bytes(fileno, termios.TIOCOUTQ)


_UNACKED_OFFSET = 24


def accept_queue_length(listening: socket.socket) -> int:
    """
    How many clients wait to be accepted (C{tcpi_unacked} of C{TCP_INFO}, tcp(7)); 0 also where the
    kernel does not say, as of a UNIX socket.
    """
    if sys.platform == "linux" and listening.family != socket.AF_UNIX:
        with suppress(OSError):
            info = listening.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _UNACKED_OFFSET + 4)
            return int.from_bytes(info[_UNACKED_OFFSET:], sys.byteorder)
    return 0


def is_acknowledged(
    fileno: int,
    # This is called for each connection that ends.
    ioctl: Callable[[int, int, bytes], bytes] = fcntl.ioctl,
    request: int = termios.TIOCOUTQ,
) -> bool:
    """
    Whether L{outq} is 0: the peer's kernel has acknowledged all that was written.  A FIN of ours
    counts as one byte (C{tcp_ioctl} and C{tcp_send_fin} in net/ipv4).
    """
    return ioctl(fileno, request, _ZERO) == _ZERO


BYTES_ACKED = struct.Struct("@Q")
BYTES_ACKED_OFFSET = 120
"""Of C{tcpi_bytes_acked} in C{struct tcp_info} (linux/tcp.h), since Linux 4.1."""

TCP_INFO: int | None = getattr(socket, "TCP_INFO", None) if sys.platform == "linux" else None


def bytes_acknowledged(sock: socket.socket, option: int | None = TCP_INFO) -> int | None:
    """
    How many bytes the peer's kernel has acknowledged since the connection began (C{TCP_INFO},
    tcp(7)).

    @return: C{None} for other sockets than TCP, on systems that do not tell, and before the first
        byte: a sandbox may answer with zeros for what it does not know.
    """
    if option is None:
        return None
    size = BYTES_ACKED_OFFSET + BYTES_ACKED.size
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, option, size)
    except OSError:
        return None
    if len(info) < size:
        return None
    acknowledged: int = BYTES_ACKED.unpack_from(info, BYTES_ACKED_OFFSET)[0]
    return acknowledged or None


def descriptor_limit() -> int:
    """
    Raise the limit on open descriptors to the hard limit, as far as an unprivileged process may
    (C{RLIMIT_NOFILE}, getrlimit(2)).

    @return: the new limit; C{sys.maxsize} when there is none, or when a sandbox forbids the call.
    """
    limit = resource.RLIM_INFINITY
    with suppress(OSError, ValueError):
        limit, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        limit = hard
    return sys.maxsize if limit == resource.RLIM_INFINITY else limit


def file_identity(path: bytes) -> tuple[int, int] | None:
    """
    The device and inode of the file at a path; C{None} if there is none.  While a UNIX socket is
    open, no other file gets its pair.
    """
    with suppress(OSError, ValueError):
        found = os.stat(path)
        return found.st_dev, found.st_ino
    return None
