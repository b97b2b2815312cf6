"""
The system's log (RFC 3164), as a place for lines.

Invariant: nothing here waits for long.  syslog(3) waits for ever when the
daemon at the other end has stopped, and does not tell when there is none.

The socket takes datagrams as a rule, with some daemons a stream; as in glibc's syslog(3), the
kernel says which, and a null byte ends each message of a stream.
"""

import errno
import itertools
import os
import socket
import sys
import syslog
import time
from collections.abc import Callable, Iterator, Sequence

from twisted.logger import LogLevel

from echod._util.text import escape
from echod.logs.file import Record, wait_for_room

SOCKET = "/var/run/syslog" if sys.platform == "darwin" else "/dev/log"

_SEVERITIES = {
    LogLevel.debug: syslog.LOG_DEBUG,
    LogLevel.info: syslog.LOG_INFO,
    LogLevel.warn: syslog.LOG_WARNING,
    LogLevel.error: syslog.LOG_ERR,
    LogLevel.critical: syslog.LOG_CRIT,
}


def datagrams(records: Sequence[Record], prefix: str, pid: int, now: str) -> Iterator[bytes]:
    """
    Lines as syslogd takes them: one datagram for each, with the priority of its level.

    @param prefix: the name that it puts before each.
    @param now: the time as syslogd has it.
    """
    for level, lines in records:
        priority = syslog.LOG_DAEMON | _SEVERITIES[level]
        for line in lines.splitlines():
            yield f"<{priority}>{now} {prefix}[{pid}]: ".encode() + line


def _now() -> str:
    return time.strftime("%b %e %H:%M:%S")


class SyslogDestination:
    """
    The system's log.
    """

    _socket: socket.socket | None = None
    _ends_with = b""
    _sent = 0
    _pauseAccepting = b""

    def __init__(self, prefix: str, path: str = SOCKET, now: Callable[[], str] = _now):
        """
        @param prefix: the name that stands before each line.
        @param path: the socket that syslogd reads from.
        """
        self._prefix = escape(prefix)
        self._path = path
        self._now = now

    def write(self, records: Sequence[Record]) -> None:
        """
        Send lines.

        @raise OSError: when that fails; those that went are not sent again.
        """
        # Going to the background changes the process's number.
        all_of_them = datagrams(records, self._prefix, os.getpid(), self._now())
        for datagram in itertools.islice(all_of_them, self._sent, None):
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
            # A syslogd that has been started anew has a new socket.
            self.close()
            self._send_to(self.connect(), datagram)

    def _send_to(self, sock: socket.socket, datagram: bytes) -> None:
        # What has been begun is ended first; it is of the same line.
        self._pauseAccepting = self._pauseAccepting or datagram + self._ends_with
        while self._pauseAccepting:
            try:
                sent = sock.send(self._pauseAccepting)
            except BlockingIOError:
                if not wait_for_room(sock.fileno()):
                    raise
            else:
                self._pauseAccepting = self._pauseAccepting[sent:]

    def connect(self) -> socket.socket:
        """
        Connect to syslogd.

        @raise OSError: when there is none.
        """
        try:
            return self._connected(socket.SOCK_DGRAM, b"")
        except OSError as error:
            if error.errno != errno.EPROTOTYPE:
                raise
            return self._connected(socket.SOCK_STREAM, b"\0")

    def _connected(self, kind: socket.SocketKind, ends_with: bytes) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, kind)
        try:
            sock.setblocking(False)
            sock.connect(self._path)
        except OSError:
            sock.close()
            raise
        self._socket, self._ends_with, self._pauseAccepting = sock, ends_with, b""
        return sock

    def close(self) -> None:
        """
        Let go of the socket; the next line gets another.
        """
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def has_room(self, seconds: float) -> bool:
        """
        Where there is no connection, the attempt to make one does not wait.
        """
        return self._socket is None or wait_for_room(self._socket.fileno(), seconds)

    def is_due(self) -> bool:
        """
        Never.
        """
        return False

    def rotate(self) -> None:
        """
        syslogd does that for itself.
        """
