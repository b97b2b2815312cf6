"""
Runs a command under the seccomp filters of a systemd unit, without systemd:
C{python sandbox.py UNIT COMMAND...}.

Invariant: what the unit denies is denied, or the command does not run.  C{systemd-analyze} lists
the groups of system calls.
"""

import argparse
import ctypes
import errno
import os
import re
import subprocess
from pathlib import Path

# seccomp_init(3), seccomp_rule_add(3), prctl(2), mmap(2)
ALLOW = 0x7FFF0000
ERRNO = 0x00050000
COMPARE_EQUAL, COMPARE_MASKED = 4, 7
PR_SET_NO_NEW_PRIVS = 38
PROT_WRITE, PROT_EXEC = 2, 4

FAMILIES = {"AF_UNIX": 1, "AF_INET": 2, "AF_INET6": 10}
MOST_FAMILIES = 46


class Comparison(ctypes.Structure):
    """
    C{struct scmp_arg_cmp}: a condition for one argument of a system call.
    """

    _fields_ = [  # ctypes wants a list
        ("argument", ctypes.c_uint),
        ("operator", ctypes.c_int),
        ("first", ctypes.c_uint64),
        ("second", ctypes.c_uint64),
    ]


def settings(unit: str, name: str) -> list[str]:
    """
    All values of a setting of a unit, in order.
    """
    return re.findall(rf"(?m)^{name}=(.*)$", unit)


def expand(names: str) -> set[str]:
    """
    Names of system calls, with groups such as C{@system-service} expanded.
    """
    calls: set[str] = set()
    for name in names.split():
        if not name.startswith("@"):
            calls.add(name)
            continue
        listed = subprocess.run(
            ["systemd-analyze", "syscall-filter", "--no-pager", name],
            capture_output=True,
            text=True,
            check=True,
        )
        lines = [line.strip() for line in listed.stdout.splitlines()[1:]]
        members = [line for line in lines if line and not line.startswith("#")]
        calls |= expand(" ".join(members))
    return calls


def allowed_calls(unit: str) -> set[str]:
    """
    The system calls that a unit's C{SystemCallFilter} lines leave.
    """
    allowed: set[str] = set()
    for line in settings(unit, "SystemCallFilter"):
        if line.startswith("~"):
            allowed -= expand(line[1:])
        else:
            allowed |= expand(line)
    # What systemd itself adds to every such list (systemd.exec(5)).
    return allowed | expand("@default") | {"execve"}


class Filter:
    """
    One seccomp filter, as libseccomp makes it.
    """

    def __init__(self, otherwise: int):
        self._library = ctypes.CDLL("libseccomp.so.2")
        self._library.seccomp_init.restype = ctypes.c_void_p
        self._context = ctypes.c_void_p(self._library.seccomp_init(ctypes.c_uint32(otherwise)))

    def add(self, action: int, call: str, *comparisons: Comparison) -> None:
        number = self._library.seccomp_syscall_resolve_name(call.encode())
        if number < 0:
            return  # not a system call of this machine
        array = (Comparison * len(comparisons))(*comparisons)
        failed = self._library.seccomp_rule_add_array(
            self._context, ctypes.c_uint32(action), number, len(comparisons), array
        )
        if failed:
            raise OSError(-failed, f"seccomp_rule_add: {call}")

    def load(self) -> None:
        if failed := self._library.seccomp_load(self._context):
            raise OSError(-failed, "seccomp_load")


def deny_arguments(unit: str) -> Filter:
    """
    What C{MemoryDenyWriteExecute} and C{RestrictAddressFamilies} deny.
    """
    deny = Filter(ALLOW)
    if settings(unit, "MemoryDenyWriteExecute")[-1:] == ["yes"]:
        both = PROT_WRITE | PROT_EXEC
        deny.add(ERRNO | errno.EPERM, "mmap", Comparison(2, COMPARE_MASKED, both, both))
        for call in ("mprotect", "pkey_mprotect"):
            deny.add(ERRNO | errno.EPERM, call, Comparison(2, COMPARE_MASKED, PROT_EXEC, PROT_EXEC))
    families = settings(unit, "RestrictAddressFamilies")[-1]
    kept = {FAMILIES[name] for name in families.split()}
    for family in set(range(MOST_FAMILIES)) - kept:
        comparison = Comparison(0, COMPARE_EQUAL, family, 0)
        deny.add(ERRNO | errno.EAFNOSUPPORT, "socket", comparison)
    return deny


def main() -> None:
    parser = argparse.ArgumentParser(description="Run a command under a unit's seccomp filters.")
    parser.add_argument("unit", type=Path)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    given = parser.parse_args()
    unit, command = given.unit.read_text(), given.command
    allow = Filter(ERRNO | errno.EPERM)
    for call in allowed_calls(unit):
        allow.add(ALLOW, call)
    deny = deny_arguments(unit)
    if ctypes.CDLL(None).prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError("no_new_privs")
    # In this order: the second filter might not let a third be loaded.
    deny.load()
    allow.load()
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
