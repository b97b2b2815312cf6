"""
Where twistd's own options would have the daemon live: C{--chroot}, C{--rundir}, C{--pidfile}.

The rule of this room: twistd goes there by itself, after the daemon has been built; what it
would stumble over with a traceback is told here, in one line.
"""

import errno
import os
from collections.abc import Callable, Mapping
from typing import Any

from echod.sockets import printable


def check_whereabouts(
    twistd: Mapping[str, Any] | None, access: Callable[[str, int], bool] = os.access
) -> None:
    """
    Find out whether twistd can go where it is told to.

    @param twistd: its options; C{None} where it is not twistd that runs us.
    @raise SystemExit: with one line, when it cannot.
    """
    if twistd is None:
        return
    root = twistd["chroot"]

    def check(option: str, folder: str, mode: int, way_out: str) -> None:
        where = folder if root is None or option == "chroot" else f"{root}/{folder}"
        if not os.path.exists(where):
            reason = errno.ENOENT
        elif not os.path.isdir(where):
            reason = errno.ENOTDIR
        elif not access(where, mode):
            reason = errno.EACCES
        else:
            return
        value = printable(twistd[option])
        raise SystemExit(f"twistd: --{option} '{value}': {os.strerror(reason)}; {way_out}")

    if root is not None:
        check("chroot", root, os.X_OK, "give a directory")
    check("rundir", twistd["rundir"], os.X_OK, "give a directory")
    if pidfile := twistd["pidfile"]:
        folder = os.path.dirname(pidfile)
        check("pidfile", folder, os.W_OK | os.X_OK, "give a file that can be written")
