"""
Checks of twistd's own options: twistd changes directories and the user, and reads, writes and
removes a pidfile.

Invariant: an error for which twistd would print a traceback is one line here, before anything is
created.
"""

import codecs
import os
import pwd
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from echod._util.errors import StartupError
from echod._util.text import escape

MAX_PIDFILE_BYTES = 64
"""More than a process ID with spaces around it."""


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


def _error(option: str, value: object, reason: str) -> TwistdOptionError:
    return TwistdOptionError(f"--{option} '{escape(str(value))}': {reason}")


def check_old_pidfile(twistd: Mapping[str, Any] | None) -> None:
    """
    Check that twistd can read the pidfile that is there.  It does so before C{makeService}, so this
    is called earlier.

    @param twistd: twistd's options; C{None} when twistd does not run the daemon.
    @raise TwistdOptionError: when twistd would fail, such as with an empty file that a full disk
        has left.
    """
    path = None if twistd is None else twistd["pidfile"]
    if not path:
        return
    try:
        # twistd asks for it after makeService.
        os.path.abspath(path)
    except OSError:
        reason = "there is no current directory; give an absolute path, or --pidfile="
        raise _error("pidfile", path, reason) from None
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_PIDFILE_BYTES).strip()
    except FileNotFoundError:
        return
    except OSError as error:
        raise _error("pidfile", path, f"{error.strerror}; give a file that can be read") from None
    if not content:
        raise _error("pidfile", path, "is empty; remove it, or give another")
    if not content.isdigit() or int(content) >> 31:
        raise _error("pidfile", path, "holds no process ID; remove it, or give another")


def _check_user(twistd: Mapping[str, Any]) -> None:
    uid = twistd.get("uid")
    if uid is None or uid == os.getuid():
        return
    try:
        # twistd needs the user's group, and initgroups(3) its name.
        pwd.getpwuid(uid)
    except (KeyError, OverflowError):
        raise _error("uid", uid, "no user has this number; give a user of this machine") from None


def _check_user_in(root: str, uid: int) -> None:
    # twistd asks for the user again after the chroot, and prints a traceback if there is none.
    path = f"{root}/etc/passwd"
    with suppress(OSError), open(path, encoding="utf-8", errors="replace") as users:
        if any(line.split(":")[2:3] == [str(uid)] for line in users):
            return
    reason = f"{escape(path)} does not have this user; copy its line there (passwd(5))"
    raise _error("uid", uid, reason)


def _prepare_chroot(root: str) -> None:
    # Twisted opens it for each TCP port.  In the background, twistd opens it, and the command that
    # has started it would wait without end.
    device = f"{root}/dev/null"
    try:
        os.close(os.open(device, os.O_RDWR))
    except OSError as error:
        reason = f"{escape(device)}: {error.strerror}; make it with mknod -m 666 PATH c 1 3"
        raise _error("chroot", root, reason) from None
    # getaddrinfo() imports this codec at its first call, which is after the chroot.
    codecs.lookup("idna")


def preflight(twistd: Mapping[str, Any] | None) -> None:
    """
    Check twistd's C{--uid}, C{--chroot}, C{--rundir} and C{--pidfile}, and import what cannot be
    imported after a chroot.  A C{--uid} or C{--gid} that is an unknown name ends twistd with a
    traceback before it calls echod.

    @param twistd: twistd's options; C{None} when twistd does not run the daemon.
    @raise TwistdOptionError: when twistd would fail with one of them.
    """
    if twistd is None:
        return
    _check_user(twistd)
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
            raise _error(option, twistd[option], f"{error.strerror}; {advice}") from None
    if root:
        _prepare_chroot(root)
        if twistd.get("uid") is not None:
            _check_user_in(root, twistd["uid"])


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

    @contextmanager
    def removed_on_error(self) -> Iterator[None]:
        """
        Remove the pidfile if the C{with} block raises a L{StartupError}.  twistd removes it too,
        but first reports the error to the command that started the daemon in the background.  That
        command would end while the file is still there.
        """
        try:
            yield
        except StartupError:
            self.keep_foreign()
            if self._written is not None and self._twistd["pidfile"]:
                # If it cannot be removed, twistd tries again, and logs why.
                with suppress(OSError):
                    os.unlink(self._twistd["pidfile"])
                    self._twistd["pidfile"] = ""
            raise

    def _identity(self) -> tuple[int, int, int] | None:
        with suppress(OSError, TypeError):
            # The file is not open, so another one may get its inode, but not its time.
            found = os.stat(self._twistd["pidfile"])
            return found.st_dev, found.st_ino, found.st_mtime_ns
        return None
