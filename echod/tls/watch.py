"""
Whether files have changed.

The rule of this room: a look costs a stat(2) a file.  Files are read only when that shows
something new, and then it is their content that decides.
"""

import os
from collections.abc import Sequence
from hashlib import sha256

MOST_BYTES = 1 << 20
"""How much of a file is compared."""

Stamp = tuple[int, ...] | None
"""What tells, without reading it, that a file may have changed; C{None} if it is not there."""


def _stamp(path: str) -> Stamp:
    # Through symbolic links, so that it is seen when any on the way leads elsewhere.
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _digest(path: str) -> bytes | None:
    if not os.path.isfile(path):
        return None
    try:
        with open(path, "rb") as file:
            return sha256(file.read(MOST_BYTES)).digest()
    except OSError:
        return None


class FileWatch:
    """
    Some files that belong together, and what they were like when they were last looked at.
    """

    def __init__(self, paths: Sequence[str]):
        self._paths = paths
        self._seen: list[Stamp] = []
        self._known: list[Stamp] = []
        self._digests: list[bytes | None] = []

    def note(self) -> None:
        """
        Take what there is for what is known.
        """
        self._seen = self._known = [_stamp(path) for path in self._paths]
        self._digests = [_digest(path) for path in self._paths]

    def has_changed(self) -> bool:
        """
        Look again.

        @return: whether there is a content that is new and that the last look saw too.
            Whoever replaces several files, one after the other, is left time for it.
        """
        seen = [_stamp(path) for path in self._paths]
        still, self._seen = seen == self._seen, seen
        if not still or seen == self._known:
            return False
        self._known = seen
        before, self._digests = self._digests, [_digest(path) for path in self._paths]
        return before != self._digests
