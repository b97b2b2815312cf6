"""
The system log (RFC 3164), as a destination.

Invariant: nothing here blocks for long.  syslog(3) blocks forever when syslogd hangs, and
reports no error when there is none.

The socket of syslogd is a datagram socket, with some syslogds a stream.  As in glibc's syslog(3),
the error of connect(2) says which, and a null byte ends each message on a stream.
"""

import errno
import itertools
import os
import socket
import sys
import syslog
import time
from collections.abc import Callable, Iterator, Sequence

from echod._util.text import escape
from echod.logs.file import Record, wait_writable
from echod.logs.style import PRIORITIES

SOCKET = "/var/run/syslog" if sys.platform == "darwin" else "/dev/log"


def datagrams(records: Sequence[Record], prefix: str, pid: int, now: str) -> Iterator[bytes]:
    """
    Format records as messages for syslogd: one datagram for each line.

    @param prefix: the tag before the message.
    @param now: the timestamp, as RFC 3164 4.1.2 has it.
    """
    for level, lines in records:
        priority = syslog.LOG_DAEMON | PRIORITIES[level]
        for line in lines.splitlines():
            yield f"<{priority}>{now} {prefix}[{pid}]: ".encode() + line


def _now() -> str:
    return time.strftime("%b %e %H:%M:%S")


class SyslogDestination:
    """
    The system log.
    """

    _socket: socket.socket | None = None
    _terminator = b""
    _sent = 0
    _unsent = b""

    def __init__(self, prefix: str, path: str = SOCKET, now: Callable[[], str] = _now):
        """
        @param prefix: the tag before each message.
        @param path: the socket of syslogd.
        @param now: returns the timestamp, as L{datagrams} takes it.
        """
        self._prefix = escape(prefix)
        self._path = path
        self._now = now

    def write(self, records: Sequence[Record]) -> None:
        """
        Send lines.

        @raise OSError: when that fails; the next call skips those that were sent.
        """
        # Not cached: the process id changes when twistd goes to the background.
        messages = datagrams(records, self._prefix, os.getpid(), self._now())
        for datagram in itertools.islice(messages, self._sent, None):
            self._send(datagram)
            self._sent += 1
        self._sent = 0

    def _send(self, datagram: bytes) -> None:
        sock = self._socket or self.connect()
        try:
            self._send_to(sock, datagram)
        except BlockingIOError:
            raise
        except OSError:
            # A restarted syslogd has a new socket.
            self.close()
            self._send_to(self.connect(), datagram)

    def _send_to(self, sock: socket.socket, datagram: bytes) -> None:
        # After a failure, first the rest of this message that a stream did not take.
        self._unsent = self._unsent or datagram + self._terminator
        while self._unsent:
            try:
                sent = sock.send(self._unsent)
            except BlockingIOError:
                if not wait_writable(sock.fileno()):
                    raise
            else:
                self._unsent = self._unsent[sent:]

    def connect(self) -> socket.socket:
        """
        Connect to syslogd.

        @raise OSError: when there is none.
        """
        try:
            return self._connect(socket.SOCK_DGRAM, b"")
        except OSError as error:
            if error.errno != errno.EPROTOTYPE:
                raise
            return self._connect(socket.SOCK_STREAM, b"\0")

    def _connect(self, kind: socket.SocketKind, terminator: bytes) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, kind)
        try:
            sock.setblocking(False)
            sock.connect(self._path)
        except OSError:
            sock.close()
            raise
        self._socket, self._terminator, self._unsent = sock, terminator, b""
        return sock

    def close(self) -> None:
        """
        Close the socket; the next line opens another.
        """
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def is_writable(self, seconds: float) -> bool:
        """
        Without a connection, always: connecting does not block.
        """
        return self._socket is None or wait_writable(self._socket.fileno(), seconds)

    def should_rotate(self) -> bool:
        """
        Never: syslogd rotates its own files.
        """
        return False

    def rotate(self) -> None:
        """
        Do nothing: syslogd rotates its own files.
        """
