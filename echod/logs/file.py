"""
Where the lines of the log go: a stream, or a file that is rotated.

Invariant: a line is written whole or not at all.
"""

import os
import select
import stat
from collections.abc import Sequence
from typing import Protocol

from constantly import NamedConstant

Record = tuple[NamedConstant, bytes]
"""A level, and the line with its end in UTF-8."""

WAIT_SECONDS = 0.25
"""How long to wait for room where a write would not, before that is called a failure."""


class IDestination(Protocol):
    """
    A place for lines.
    """

    def write(self, records: Sequence[Record]) -> None:
        """
        Write lines.  It may block for as long as it likes.

        @raise OSError: when that fails; the same lines are given again then, until it
            does not.
        """

    def has_room(self, seconds: float) -> bool:
        """
        Wait at most so long until lines can be written without waiting; those of one batch,
        unless a single line is longer.
        """

    def is_due(self) -> bool:
        """
        Whether it is time for L{rotate}.
        """

    def rotate(self) -> None:
        """
        Begin anew, if it is a place where that means something.

        @raise OSError: when that fails, and things are as before.
        """


def wait_for_room(descriptor: int, seconds: float | None = None) -> bool:
    """
    Wait a little until something can be written.

    @param seconds: how long at most; C{None} for L{WAIT_SECONDS}.
    @return: whether it can.
    """
    room = select.poll()
    room.register(descriptor, select.POLLOUT)
    return bool(room.poll((WAIT_SECONDS if seconds is None else seconds) * 1000))


class StreamDestination:
    """
    A descriptor that lines are written to one after the other.
    """

    _pauseAccepting = b""

    def __init__(self, descriptor: int):
        self._descriptor = descriptor

    def write(self, records: Sequence[Record]) -> None:
        """
        Write lines, or what is left of them.

        @raise OSError: when that fails.
        """
        self._pauseAccepting = self._pauseAccepting or b"".join(line for _, line in records)
        while self._pauseAccepting:
            try:
                written = os.write(self._descriptor, self._pauseAccepting)
            except BlockingIOError:
                # Whoever shares the terminal or the pipe may have made it non-blocking.
                if not wait_for_room(self._descriptor):
                    raise
            else:
                self._pauseAccepting = self._pauseAccepting[written:]

    def has_room(self, seconds: float) -> bool:
        """
        For a pipe, this is C{PIPE_BUF} bytes (pipe(7)); a regular file has it always.
        """
        return wait_for_room(self._descriptor, seconds)

    def is_due(self) -> bool:
        """
        Never.
        """
        return False

    def rotate(self) -> None:
        """
        There is nothing to rotate.
        """


ROTATE_BYTES = 1_000_000
"""The size at which twistd has a log rotated."""

MAX_LINKS = 40
"""How many symbolic links the kernel follows (path_resolution(7))."""


def own_descriptor(path: str) -> int | None:
    """
    Which descriptor of this process a path leads to, as C{/dev/stdout} and C{/proc/self/fd/1}
    do (proc(5)); C{None} for another path.

    @raise OSError: when it is not open.
    """
    ours = os.path.realpath("/dev/fd")
    for _ in range(MAX_LINKS):
        folder, name = os.path.split(path)
        folder = os.path.realpath(folder)
        if folder == ours and name.isdecimal():
            os.fstat(int(name))
            return int(name)
        try:
            path = os.path.join(folder, os.readlink(os.path.join(folder, name)))
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
    A file that is added to; the older ones are beside it, C{.1} being the newest.

    @ivar path: its path, links resolved.
    """

    def __init__(self, path: str, rotate_bytes: int = ROTATE_BYTES):
        """
        @raise OSError: when it cannot be opened.
        """
        # Not a link such as /dev/stdout is to be moved, but the file that it leads to.
        self.path = os.path.realpath(path)
        self._rotate_bytes = rotate_bytes
        own = own_descriptor(path)
        if own is None or _is_at(self.path, os.fstat(own)):
            super().__init__(self._open())
        else:
            # A pipe or a socket, which has no path: a socket cannot be opened again, nor can
            # another user's pipe.
            super().__init__(os.dup(own))
        # Such as /dev/null, a pipe, or a file that has no name any more are not to be moved,
        # nor cut.
        status = os.fstat(self._descriptor)
        self._regular = stat.S_ISREG(status.st_mode) and status.st_nlink > 0
        self._due_bytes = rotate_bytes

    def _open(self) -> int:
        # Without O_NONBLOCK, opening a pipe that nobody reads would wait for somebody.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC
        return os.open(self.path, flags, 0o666)

    def close(self) -> None:
        """
        Close it.
        """
        os.close(self._descriptor)

    def write(self, records: Sequence[Record]) -> None:
        """
        Add lines, all or none.

        @raise OSError: when that fails.
        """
        before = os.fstat(self._descriptor).st_size
        try:
            super().write(records)
        except OSError:
            if self._regular:
                # Half a line would be the end of this file if it is rotated now.
                self._pauseAccepting = b""
                os.ftruncate(self._descriptor, before)
            raise

    def is_due(self) -> bool:
        """
        Whether it has grown enough.
        """
        return self._regular and os.fstat(self._descriptor).st_size >= self._due_bytes

    def rotate(self) -> None:
        """
        Move the file aside and begin a new one.  If somebody has moved it already, as
        logrotate does, a new one is all that it takes.

        @raise OSError: when that fails; the old file goes on.
        """
        if not self._regular:
            return
        old = os.fstat(self._descriptor)
        # If this fails, it is tried again when as much has been written as for the first.
        self._due_bytes = old.st_size + self._rotate_bytes
        if _is_at(self.path, old):
            self._move_aside()
        descriptor = self._open()
        try:
            os.fchmod(descriptor, stat.S_IMODE(old.st_mode))
        except OSError:
            os.close(descriptor)
            raise
        self.close()
        self._descriptor = descriptor
        self._due_bytes = self._rotate_bytes

    def _move_aside(self) -> None:
        free = 1
        while os.path.lexists(f"{self.path}.{free}"):
            free += 1
        for number in range(free, 1, -1):
            os.rename(f"{self.path}.{number - 1}", f"{self.path}.{number}")
        os.rename(self.path, f"{self.path}.1")
