"""
Checks of twistd's own options: twistd changes directories, and writes and removes a pidfile.

Invariant: an error for which twistd would print a traceback is one line here, before anything is
created.
"""

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from echod._util.errors import StartupError
from echod._util.text import escape


class TwistdOptionError(StartupError):
    """
    twistd would fail with one of its own options.
    """

    program = "twistd"


def _check_directory(path: str) -> None:
    """
    Check that a process can change to a directory.
    """
    os.stat(f"{path}/.")


def _check_writable(path: str) -> None:
    """
    Check that a file can be written, by writing and removing it: the disk may be full.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        # twistd has read this pidfile before, and overwrites it.
        return
    try:
        os.write(descriptor, b"%d" % os.getpid())
    finally:
        os.close(descriptor)
        os.unlink(path)


def preflight(twistd: Mapping[str, Any] | None) -> None:
    """
    Check twistd's C{--chroot}, C{--rundir} and C{--pidfile}.

    @param twistd: twistd's options; C{None} when twistd does not run the daemon.
    @raise TwistdOptionError: when twistd would fail with one of them.
    """
    if twistd is None:
        return
    root = twistd["chroot"]
    steps: tuple[tuple[str, Callable[[str], None], str], ...] = (
        ("chroot", _check_directory, "give a directory"),
        ("rundir", _check_directory, "give a directory"),
        ("pidfile", _check_writable, "give a file that can be written"),
    )
    for option, check, advice in steps:
        if not twistd[option]:
            continue
        prefix = "" if root is None or option == "chroot" else f"{root}/"
        try:
            check(prefix + twistd[option])
        except OSError as error:
            value = escape(twistd[option])
            raise TwistdOptionError(f"--{option} '{value}': {error.strerror}; {advice}") from None


class Pidfile:
    """
    The pidfile that twistd writes at the start and removes at the end.
    """

    _written: tuple[int, int, int] | None = None

    def __init__(self, twistd: Any):
        """
        @param twistd: twistd's options; C{None} when twistd does not run the daemon.
        """
        self._twistd = twistd

    def written(self) -> None:
        """
        Record the pidfile that twistd has just written.
        """
        self._written = self._identity()

    def keep_foreign(self) -> None:
        """
        Keep twistd from removing the pidfile of another process at its end: it removes any file
        at this path, and logs a traceback if there is none.
        """
        if self._written is not None and self._identity() != self._written:
            self._twistd["pidfile"] = ""

    def _identity(self) -> tuple[int, int, int] | None:
        with suppress(OSError, TypeError):
            # The file is not open, so another one may get its inode, but not its time.
            found = os.stat(self._twistd["pidfile"])
            return found.st_dev, found.st_ino, found.st_mtime_ns
        return None
