"""
How many CPUs this process may use.

Invariant: a limit that the system does not tell limits nothing, and raises nothing.
"""

import math
import os
from contextlib import suppress
from pathlib import Path


def usable_cpus() -> int:
    """
    The number of CPUs that this process may run on; fewer if the quota of its cgroups is less, at
    least 1.
    """
    cpus = len(os.sched_getaffinity(0))
    quota = cpu_quota(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))
    return max(1, math.ceil(min(cpus, quota)))


def cpu_quota(membership: Path, root: Path) -> float:
    """
    How many CPUs' time the cgroups of this process may use: the limit of a container, or
    C{CPUQuota=} of systemd.  Infinity without a quota, and with version 1 of cgroups.

    @param membership: names the cgroup of this process (cgroups(7), C{/proc/pid/cgroup}).
    @param root: where cgroups are mounted.
    """
    quota = math.inf
    own = root
    with suppress(OSError, ValueError):
        for line in membership.read_text().splitlines():
            if line.startswith("0::/"):
                own = root / line.removeprefix("0::/")
    # The quota of each cgroup above holds, too.
    for cgroup in (own, *own.parents):
        # "max" is no quota, and no number either (cpu.max in the kernel's cgroup-v2.rst).
        with suppress(OSError, ValueError):
            most, period = map(int, (cgroup / "cpu.max").read_text().split())
            quota = min(quota, most / period)
    return quota
