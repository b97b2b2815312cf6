"""
What twistd does around the daemon: it changes directories, and writes and removes a pidfile.

Invariant: what twistd would answer with a traceback is one line here, before anything is made.
"""

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from echod._util.errors import StartupError
from echod._util.text import escape


class TwistdOptionError(StartupError):
    """
    An option of twistd's cannot be followed.
    """

    program = "twistd"


def _enter(folder: str) -> None:
    """
    Find out whether a process can change to a directory.
    """
    os.stat(f"{folder}/.")


def _write(path: str) -> None:
    """
    Find out whether a file can be written.  It is written and removed: the disk may be full.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        # twistd has read that one, and starts all the same.
        return
    try:
        os.write(descriptor, b"%d" % os.getpid())
    finally:
        os.close(descriptor)
        os.unlink(path)


def preflight(twistd: Mapping[str, Any] | None) -> None:
    """
    Find out whether twistd can follow its C{--chroot}, C{--rundir} and C{--pidfile}.

    @param twistd: its options; C{None} where twistd does not run us.
    @raise TwistdOptionError: when it cannot.
    """
    if twistd is None:
        return
    root = twistd["chroot"]
    steps: tuple[tuple[str, Callable[[str], None], str], ...] = (
        ("chroot", _enter, "give a directory"),
        ("rundir", _enter, "give a directory"),
        ("pidfile", _write, "give a file that can be written"),
    )
    for option, attempt, way_out in steps:
        if not twistd[option]:
            continue
        prefix = "" if root is None or option == "chroot" else f"{root}/"
        try:
            attempt(prefix + twistd[option])
        except OSError as error:
            value = escape(twistd[option])
            raise TwistdOptionError(f"--{option} '{value}': {error.strerror}; {way_out}") from None


class Pidfile:
    """
    The pidfile that twistd writes at the start and removes at the end.
    """

    _written: tuple[int, int, int] | None = None

    def __init__(self, twistd: Any):
        """
        @param twistd: its options; C{None} where twistd does not run us.
        """
        self._twistd = twistd

    def written(self) -> None:
        """
        Twistd has just written it.
        """
        self._written = self._identity()

    def keep_foreign(self) -> None:
        """
        Keep twistd, which is about to end, from removing the pidfile of another process, or one
        that is gone: it removes the file at that path unseen, and logs a traceback if there is
        none.
        """
        if self._written is not None and self._identity() != self._written:
            self._twistd["pidfile"] = ""

    def _identity(self) -> tuple[int, int, int] | None:
        with suppress(OSError, TypeError):
            # No process holds the file open, so another file may get its inode, but not its time.
            found = os.stat(self._twistd["pidfile"])
            return found.st_dev, found.st_ino, found.st_mtime_ns
        return None
