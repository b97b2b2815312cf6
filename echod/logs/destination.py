"""
Where lines of the log can go: what the sink asks of such a place, and the plainest of
them, a stream such as standard output.

The rule of this room: a line is written whole or not at all.  What has been begun when a
place fails is ended first when it takes again.
"""

import os
import select
from collections.abc import Sequence
from typing import Protocol

from constantly import NamedConstant

Record = tuple[NamedConstant, bytes]
"""A level, and the line with its end in UTF-8."""

WAIT_SECONDS = 0.25
"""How long to wait for room where a write would not, before that is called a failure."""


class Destination(Protocol):
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


class Stream:
    """
    A descriptor that lines are written to one after the other.
    """

    _rest = b""

    def __init__(self, descriptor: int):
        self._descriptor = descriptor

    def write(self, records: Sequence[Record]) -> None:
        """
        Write lines, or what is left of them.

        @raise OSError: when that fails.
        """
        self._rest = self._rest or b"".join(line for _, line in records)
        while self._rest:
            try:
                written = os.write(self._descriptor, self._rest)
            except BlockingIOError:
                # Whoever shares the terminal or the pipe may have made it non-blocking.
                if not wait_for_room(self._descriptor):
                    raise
            else:
                self._rest = self._rest[written:]

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
