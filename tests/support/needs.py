"""
What a test needs of the machine, beyond Python: programs, rights and devices.

Invariant: each is tried, not guessed from the user or the system, and what is missing skips
the test with its name: C{needs curl}.  trial lists these at the end of a run, each with its
tests.
"""

import functools
import os
import resource
import shutil
import socket
import subprocess
from pathlib import Path
from unittest import SkipTest

SYSTEM_FOLDERS = "/usr/sbin:/usr/local/sbin:/sbin"
"""Where programs stand that not every user has in the path."""

TRIAL_SECONDS = 60.0


def found(name: str) -> str | None:
    """
    Where a program is; C{None} when it is not installed.
    """
    return shutil.which(name) or shutil.which(name, path=SYSTEM_FOLDERS)


def lacking(*names: str) -> str | None:
    """
    Why a class of tests is skipped that takes all of these programs; C{None} when it is not.
    """
    return next((f"needs {name}" for name in names if found(name) is None), None)


def program(*names: str) -> str:
    """
    Find a program by any of its names.

    @raise SkipTest: when it has none of them.
    """
    for name in names:
        if path := found(name):
            return path
    raise SkipTest(f"needs {names[0]}")


def file(path: str | Path, what: str = "") -> None:
    """
    Make sure that there is a file, or a device.

    @param what: what to call it, if not by its path.
    """
    if not os.path.exists(path):
        raise SkipTest(f"needs {what or path}")


def terminal() -> None:
    """
    Make sure that a pseudo-terminal can be had (pty(7)).
    """
    try:
        for descriptor in os.openpty():
            os.close(descriptor)
    except OSError:
        raise SkipTest("needs /dev/pts") from None


def ipv6() -> None:
    """
    Make sure that IPv6 works on this machine.
    """
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        raise SkipTest("needs IPv6") from None


@functools.cache
def _works(*command: str, user: int | None = None) -> bool:
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=TRIAL_SECONDS,
            user=user,
            group=user,
            extra_groups=None if user is None else (),
        )
    except OSError:
        return False
    return not done.returncode


def command(*command: str, what: str) -> None:
    """
    Make sure that a command works here.

    @param what: what it takes, in words.
    """
    program(command[0])
    if not _works(*command):
        raise SkipTest(f"needs {what}")


def namespaces(*kinds: str) -> None:
    """
    Make sure that namespaces can be made (unshare(1)).

    @param kinds: unshare's options.
    """
    command("unshare", *kinds, "--fork", "true", what=f"unshare {' '.join(kinds)}")


def mount(*options: str) -> None:
    """
    Make sure that something can be mounted, in a namespace of its own.

    @param options: more of unshare's.
    """
    script = 'mount -t tmpfs -o size=64k none "$0"'
    command(
        *("unshare", "--mount", *options, "sh", "-c", script, "/tmp"),
        what="mount (CAP_SYS_ADMIN)",
    )


def other_user(uid: int = 65534) -> None:
    """
    Make sure that a process can become another user.
    """
    if os.getuid() == uid or not _works("true", user=uid):
        raise SkipTest("needs to become another user (CAP_SETUID)")


def prlimit(number: int | str) -> None:
    """
    Make sure that the bound on descriptors can be set by prlimit(1).
    """
    command("prlimit", f"--nofile={number}", "true", what="prlimit --nofile")


def descriptors(number: int) -> None:
    """
    Make sure that a process may have so many descriptors open.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < number:
        raise SkipTest(f"needs {number} descriptors (ulimit -Hn)")
