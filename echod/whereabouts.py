"""
Where twistd's own options would have the daemon live: C{--chroot}, C{--rundir}, C{--pidfile}.

Invariant: twistd goes there by itself, after the daemon has been built; what it
would stumble over with a traceback is told here, in one line, and nothing is left behind.
"""

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from echod._util.text import escape


def enter(folder: str) -> None:
    """
    Find out whether a directory can be gone to.
    """
    os.stat(f"{folder}/.")


def write(path: str) -> None:
    """
    Find out whether a file can be written; there may be no room for it, too.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        # twistd has looked at that one, and has found it no obstacle.
        return
    try:
        os.write(descriptor, b"%d" % os.getpid())
    finally:
        os.close(descriptor)
        os.unlink(path)


class Pidfile:
    """
    The pidfile that twistd writes at the start and removes at the end.
    """

    _written: tuple[int, int, int] | None = None

    def __init__(self, twistd: Any):
        """
        @param twistd: its options; C{None} where it is not twistd that runs us.
        """
        self._twistd = twistd

    def written(self) -> None:
        """
        It has just been written.
        """
        self._written = self._identity()

    def leave_another(self) -> None:
        """
        Let twistd, which is about to end, not remove the pidfile of another process, or one
        that is gone: it removes whatever is at that path, and logs a traceback if nothing is.
        """
        if self._written is not None and self._identity() != self._written:
            self._twistd["pidfile"] = ""

    def _identity(self) -> tuple[int, int, int] | None:
        with suppress(OSError, TypeError):
            # Nobody holds the file open, so another may get its inode, but not its time.
            found = os.stat(self._twistd["pidfile"])
            return found.st_dev, found.st_ino, found.st_mtime_ns
        return None


def preflight(twistd: Mapping[str, Any] | None) -> None:
    """
    Find out whether twistd can go where it is told to.

    @param twistd: its options; C{None} where it is not twistd that runs us.
    @raise SystemExit: with one line, when it cannot.
    """
    if twistd is None:
        return
    root = twistd["chroot"]
    steps: tuple[tuple[str, Callable[[str], None], str], ...] = (
        ("chroot", enter, "give a directory"),
        ("rundir", enter, "give a directory"),
        ("pidfile", write, "give a file that can be written"),
    )
    for option, look, way_out in steps:
        if not twistd[option]:
            continue
        under = "" if root is None or option == "chroot" else f"{root}/"
        try:
            look(under + twistd[option])
        except OSError as error:
            value = escape(twistd[option])
            raise SystemExit(f"twistd: --{option} '{value}': {error.strerror}; {way_out}") from None
