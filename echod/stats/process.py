"""
What the operating system says of this process: memory, CPU, descriptors.

Invariant: what the system does not tell is C{None}, and nothing fails for it.
"""

import os
import resource
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
"""Where Linux tells (proc(5))."""


@dataclass(frozen=True)
class ProcessStats:
    """
    One process at one moment.

    @ivar started: when it was started, in seconds since 1970.
    @ivar cpu_seconds: user and system time together.
    @ivar most_descriptors: how many may be open; C{None} for any number, too.
    """

    pid: int
    started: float | None
    cpu_seconds: float
    resident_bytes: int | None
    virtual_bytes: int | None
    descriptors: int | None
    most_descriptors: int | None


def this_process(proc: Path = PROC) -> ProcessStats:
    """
    Look at this process.
    """
    used = resource.getrusage(resource.RUSAGE_SELF)
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
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
        most_descriptors=None if most == resource.RLIM_INFINITY else most,
    )


def descriptors(proc: Path = PROC) -> int | None:
    """
    How many descriptors are open.  Since Linux 6.2 the size of the directory is that
    number; before, it is 0, and they have to be counted.
    """
    directory = proc / "self/fd"
    with suppress(OSError):
        return directory.stat().st_size or len(os.listdir(directory)) - 1
    return None


def started(proc: Path = PROC) -> float | None:
    """
    When this process was started, to the second, in seconds since 1970.
    """
    with suppress(OSError, ValueError, IndexError):
        # The name of the program, in parentheses, may contain anything.
        fields = (proc / "self/stat").read_text().rpartition(")")[2].split()
        since_boot = int(fields[19]) / os.sysconf("SC_CLK_TCK")
        # The clock that start times are told by also runs while the machine sleeps.
        ago = time.clock_gettime(time.CLOCK_BOOTTIME) - since_boot
        return float(round(time.time() - ago))
    return None
