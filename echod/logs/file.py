"""
Where the lines of the log go: the interface of a destination, and two of them, a stream and a
file that is rotated.

Invariant: a line is written whole or not at all.
"""

import os
import select
import stat
import typing
from collections.abc import Sequence

from constantly import NamedConstant

Record = tuple[NamedConstant, bytes]
"""A level, and a line in UTF-8 with its newline."""

WRITE_TIMEOUT = 0.25
"""How many seconds a non-blocking descriptor may stay full before the write fails."""

ROTATE_BYTES = 1_000_000
"""The size at which a log file is rotated: twistd's own."""

MAX_SYMLINKS = 40
"""How many symbolic links the kernel follows in one path (path_resolution(7))."""


class IDestination(typing.Protocol):
    """
    Where lines are written.
    """

    def write(self, records: Sequence[Record]) -> None:
        """
        Write lines.  This may block.

        @raise OSError: when the write fails; the caller passes the same lines again until
            it succeeds.
        """

    def is_writable(self, seconds: float) -> bool:
        """
        Whether a batch of lines, or one longer line, can be written without blocking.

        @param seconds: how long to wait at most until it can.
        """

    def should_rotate(self) -> bool:
        """
        Whether it is time to call L{rotate}.
        """

    def rotate(self) -> None:
        """
        Start a new file, if the destination is a file.

        @raise OSError: when that fails; the old file stays in use.
        """


def wait_writable(descriptor: int, seconds: float | None = None) -> bool:
    """
    Wait until a descriptor can be written to.

    @param seconds: how long at most; C{None} for L{WRITE_TIMEOUT}.
    @return: whether it can.
    """
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return bool(poll.poll((WRITE_TIMEOUT if seconds is None else seconds) * 1000))


class StreamDestination:
    """
    Standard output, or another open descriptor.
    """

    _unwritten = b""

    def __init__(self, descriptor: int):
        self._descriptor = descriptor

    def write(self, records: Sequence[Record]) -> None:
        """
        Write lines; first the rest of those that an earlier call could not write.

        @raise OSError: when that fails.
        """
        self._unwritten = self._unwritten or b"".join(line for _, line in records)
        while self._unwritten:
            try:
                written = os.write(self._descriptor, self._unwritten)
            except BlockingIOError:
                # Another process that shares the terminal or pipe may have set O_NONBLOCK.
                if not wait_writable(self._descriptor):
                    raise
            else:
                self._unwritten = self._unwritten[written:]

    def is_writable(self, seconds: float) -> bool:
        """
        A pipe is writable when C{PIPE_BUF} bytes fit (pipe(7)); a regular file always is.
        """
        return wait_writable(self._descriptor, seconds)

    def should_rotate(self) -> bool:
        """
        Never: a stream is not rotated.
        """
        return False

    def rotate(self) -> None:
        """
        Do nothing: a stream is not rotated.
        """


def own_descriptor(path: str) -> int | None:
    """
    The descriptor of this process that a path stands for, as C{/dev/stdout} and
    C{/proc/self/fd/1} do (proc(5)); C{None} for another path.

    @raise OSError: when that descriptor is not open.
    """
    descriptors = os.path.realpath("/dev/fd")
    for _ in range(MAX_SYMLINKS):
        directory, name = os.path.split(path)
        directory = os.path.realpath(directory)
        if directory == descriptors and name.isdecimal():
            os.fstat(int(name))
            return int(name)
        try:
            path = os.path.join(directory, os.readlink(os.path.join(directory, name)))
        except OSError:
            break
    return None


def _is_at(path: str, file: os.stat_result) -> bool:
    try:
        return os.path.samestat(os.stat(path), file)
    except OSError:
        return False


class LogFile(StreamDestination):
    """
    A file that lines are appended to.  Rotated files are C{PATH.1}, the newest, C{PATH.2} and
    so on.

    @ivar path: its path, symbolic links resolved.
    """

    def __init__(self, path: str, rotate_bytes: int = ROTATE_BYTES):
        """
        @param rotate_bytes: the size at which it is rotated.
        @raise OSError: when it cannot be opened.
        """
        # Rotation must move the file itself and not a link to it such as /dev/stdout.
        self.path = os.path.realpath(path)
        self._rotate_bytes = rotate_bytes
        own = own_descriptor(path)
        if own is None or _is_at(self.path, os.fstat(own)):
            super().__init__(self._open())
        else:
            # A pipe or socket without a path.  open(2) fails for a socket, and for a pipe of
            # another user.
            super().__init__(os.dup(own))
        # Never rename or truncate /dev/null, a pipe, or a file that was deleted.
        status = os.fstat(self._descriptor)
        self._regular = stat.S_ISREG(status.st_mode) and status.st_nlink > 0
        self._rotate_at = rotate_bytes

    def _open(self) -> int:
        # Without O_NONBLOCK, opening a FIFO that has no reader blocks (fifo(7)).
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC
        return os.open(self.path, flags, 0o666)

    def close(self) -> None:
        """
        Close the file.
        """
        os.close(self._descriptor)

    def write(self, records: Sequence[Record]) -> None:
        """
        Append lines, all or none.

        @raise OSError: when that fails.
        """
        before = os.fstat(self._descriptor).st_size
        try:
            super().write(records)
        except OSError:
            if self._regular:
                # If the file is rotated now, half a line would stay at its end.
                self._unwritten = b""
                os.ftruncate(self._descriptor, before)
            raise

    def should_rotate(self) -> bool:
        """
        Whether the file has reached its size limit.
        """
        return self._regular and os.fstat(self._descriptor).st_size >= self._rotate_at

    def rotate(self) -> None:
        """
        Rename the file and create a new one.  If another program such as logrotate has renamed
        it, only create the new one.

        @raise OSError: when that fails; the old file stays in use.
        """
        if not self._regular:
            return
        old = os.fstat(self._descriptor)
        # If this fails, try again after another rotate_bytes, not at each line.
        self._rotate_at = old.st_size + self._rotate_bytes
        if _is_at(self.path, old):
            self._rename_old()
        descriptor = self._open()
        try:
            os.fchmod(descriptor, stat.S_IMODE(old.st_mode))
        except OSError:
            os.close(descriptor)
            raise
        self.close()
        self._descriptor = descriptor
        self._rotate_at = self._rotate_bytes

    def _rename_old(self) -> None:
        free = 1
        while os.path.lexists(f"{self.path}.{free}"):
            free += 1
        for number in range(free, 1, -1):
            os.rename(f"{self.path}.{number - 1}", f"{self.path}.{number}")
        os.rename(self.path, f"{self.path}.1")
