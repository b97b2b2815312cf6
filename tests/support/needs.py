"""
What a test needs besides Python: programs, rights and devices.

Invariant: a right is tried, never derived from the user or the system.  What is missing skips the
test and is named: C{needs curl}.  trial lists these reasons at the end of a run, each with its
tests.
"""

import functools
import os
import resource
import shutil
import socket
import stat
import subprocess
import sys
from pathlib import Path
from unittest import SkipTest

SYSTEM_FOLDERS = "/usr/sbin:/usr/local/sbin:/sbin"
"""Where programs are that are not in every user's PATH."""

TRIAL_SECONDS = 60.0


def found(name: str) -> str | None:
    """
    The path of a program; C{None} if it is not installed.
    """
    return shutil.which(name) or shutil.which(name, path=SYSTEM_FOLDERS)


def lacking(*names: str) -> str | None:
    """
    Why a class of tests that needs all of these programs is skipped; C{None} if it is not.
    """
    return next((f"needs {name}" for name in names if found(name) is None), None)


def program(*names: str) -> str:
    """
    Find a program by any of its names.

    @raise SkipTest: none is installed.
    """
    for name in names:
        if path := found(name):
            return path
    raise SkipTest(f"needs {names[0]}")


def file(path: str | Path, what: str = "") -> None:
    """
    Require a file or a device.

    @param what: its name in the reason; its path by default.
    """
    if not os.path.exists(path):
        raise SkipTest(f"needs {what or path}")


def terminal() -> None:
    """
    Require pseudo-terminals (pty(7)).
    """
    try:
        for descriptor in os.openpty():
            os.close(descriptor)
    except OSError:
        raise SkipTest("needs /dev/pts") from None


def ipv6() -> None:
    """
    Require IPv6.
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
    except (OSError, subprocess.TimeoutExpired):
        return False
    return not done.returncode


def command(*command: str, what: str) -> None:
    """
    Require that a command succeeds.

    @param what: what it needs, in words.
    """
    program(command[0])
    if not _works(*command):
        raise SkipTest(f"needs {what}")


def namespaces(*kinds: str) -> None:
    """
    Require namespaces (unshare(1)).

    @param kinds: unshare's options.
    """
    command("unshare", *kinds, "--fork", "true", what=f"unshare {' '.join(kinds)}")


def mount(*options: str) -> None:
    """
    Require mount(2) in a new namespace.

    @param options: further options of unshare.
    """
    script = 'mount -t tmpfs -o size=64k none "$0"'
    command(
        *("unshare", "--mount", *options, "sh", "-c", script, "/tmp"),
        what="mount (CAP_SYS_ADMIN)",
    )


def device(path: Path) -> None:
    """
    Require the right to make a device like C{/dev/null}, and to use it; it is made at this path.
    """
    try:
        os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        path.write_bytes(b"x")
    except OSError:
        raise SkipTest("needs mknod (CAP_MKNOD)") from None


def chroot(root: Path) -> None:
    """
    Require chroot(2).
    """
    chroot = program("chroot")
    # The program is not there, so chroot(8) exits with 127; with 125 if it may not change the root.
    done = subprocess.run([chroot, root, "true"], capture_output=True, timeout=TRIAL_SECONDS)
    if done.returncode != 127:
        raise SkipTest("needs chroot (CAP_SYS_CHROOT)")


def other_user(uid: int = 65534) -> None:
    """
    Require the right to become another user.
    """
    if os.getuid() == uid or not _works("true", user=uid):
        raise SkipTest("needs to become another user (CAP_SETUID)")


def prlimit(number: int | str) -> None:
    """
    Require prlimit(1) for the limit of descriptors.
    """
    command("prlimit", f"--nofile={number}", "true", what="prlimit --nofile")


def package_index() -> None:
    """
    Require that pip finds packages, on PyPI or where it is told to.
    """
    # A deprecated call of pip itself is no error, whatever PYTHONWARNINGS says.
    pip = (sys.executable, "-Wignore", "-m", "pip", "--disable-pip-version-check", "install")
    trial = ("--dry-run", "--ignore-installed", "--no-deps", "hatchling")
    command(*pip, *trial, what="a package index (PyPI)")


def descriptors(number: int) -> None:
    """
    Require a hard limit of at least this many descriptors.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < number:
        raise SkipTest(f"needs {number} descriptors (ulimit -Hn)")
