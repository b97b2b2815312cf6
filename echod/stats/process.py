"""
The operating system's figures of this process: memory, CPU, descriptors.

Invariant: a figure that the system does not have is C{None}, and raises nothing.
"""

import os
import resource
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
"""The directory of Linux's figures (proc(5))."""


@dataclass(frozen=True)
class ProcessStats:
    """
    One process at one moment.

    @ivar started: its start, in seconds since 1970.
    @ivar cpu_seconds: user and system time together.
    @ivar descriptors: how many are open.
    @ivar max_descriptors: how many may be open; C{None} also when there is no limit.
    """

    pid: int
    started: float | None
    cpu_seconds: float
    resident_bytes: int | None
    virtual_bytes: int | None
    descriptors: int | None
    max_descriptors: int | None


def this_process(proc: Path = PROC) -> ProcessStats:
    """
    Collect the figures of this process.
    """
    used = resource.getrusage(resource.RUSAGE_SELF)
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    virtual = resident = None
    with suppress(OSError, ValueError):
        pages = (proc / "self/statm").read_text().split()
        virtual, resident = (int(number) * resource.getpagesize() for number in pages[:2])
    return ProcessStats(
        pid=os.getpid(),
        started=started(proc),
        cpu_seconds=used.ru_utime + used.ru_stime,
        resident_bytes=resident,
        virtual_bytes=virtual,
        descriptors=descriptors(proc),
        max_descriptors=None if limit == resource.RLIM_INFINITY else limit,
    )


def descriptors(proc: Path = PROC) -> int | None:
    """
    How many descriptors are open.  Since Linux 6.2 the size of the directory is this number;
    before, it is 0, and this function counts the entries.
    """
    directory = proc / "self/fd"
    with suppress(OSError):
        return directory.stat().st_size or len(os.listdir(directory)) - 1
    return None


def started(proc: Path = PROC) -> float | None:
    """
    The start of this process, in seconds since 1970, rounded to a second.
    """
    with suppress(OSError, ValueError, IndexError):
        # The second field, the name of the program in parentheses, may contain spaces.
        fields = (proc / "self/stat").read_text().rpartition(")")[2].split()
        since_boot = int(fields[19]) / os.sysconf("SC_CLK_TCK")
        # The start time counts from boot and includes suspend, as CLOCK_BOOTTIME does.
        ago = time.clock_gettime(time.CLOCK_BOOTTIME) - since_boot
        return float(round(time.time() - ago))
    return None
