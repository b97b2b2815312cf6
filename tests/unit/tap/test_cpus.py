"""
Tests for L{echod.tap.cpus}.
"""

import math
import os
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from echod.tap import cpus
from echod.tap.cpus import cpu_quota, usable_cpus


class QuotaTests(SynchronousTestCase):
    """
    Tests for L{cpu_quota}, with files like those of the kernel.
    """

    def setUp(self):
        base = Path(self.mktemp())
        self.membership, self.root = base / "cgroup", base / "fs"
        self.root.mkdir(parents=True)

    def cgroup(self, name, cpu_max=None):
        path = self.root / name
        path.mkdir(exist_ok=True)
        if cpu_max is not None:
            (path / "cpu.max").write_text(f"{cpu_max}\n")

    def quota(self, membership="0::/\n"):
        self.membership.write_text(membership)
        return cpu_quota(self.membership, self.root)

    def test_container(self):
        """
        In a container, the cgroup of the process is the root that it sees.
        """
        self.cgroup("", "150000 100000")
        self.assertEqual(self.quota(), 1.5)

    def test_levels(self):
        """
        The lowest quota of the cgroup and of those above it holds.
        """
        name = "0::/system.slice/echod.service\n"
        self.cgroup("")
        self.cgroup("system.slice", "400000 100000")
        self.cgroup("system.slice/echod.service", "max 100000")
        self.cgroup("system.slice/other.service", "1000 100000")
        self.assertEqual(self.quota(name), 4)
        self.cgroup("system.slice/echod.service", "20000 10000")
        self.assertEqual(self.quota(name), 2)
        self.cgroup("system.slice", "50000 100000")
        self.assertEqual(self.quota(name), 0.5)

    def test_none(self):
        """
        There is no quota in version 1, without cgroups, or in what is not understood.
        """
        self.assertEqual(self.quota("4:cpu:/a\n3:memory:/\n0::/a\n"), math.inf)
        self.assertEqual(self.quota(""), math.inf)
        self.cgroup("", "100000")
        self.assertEqual(self.quota(), math.inf)
        self.membership.write_bytes(b"0::/\xff\n")
        self.assertEqual(cpu_quota(self.membership, self.root), math.inf)
        self.assertEqual(cpu_quota(self.root / "nothing", self.root), math.inf)


class UsableTests(SynchronousTestCase):
    """
    Tests for L{usable_cpus}.
    """

    def test_fewest(self):
        """
        It is the number of CPUs of the affinity, or the quota, rounded up, if that is less.
        """
        allowed = set(range(3))
        self.patch(os, "sched_getaffinity", lambda _: allowed)
        for quota, most in ((math.inf, 3), (8.0, 3), (2.0, 2), (1.01, 2), (0.25, 1)):
            self.patch(cpus, "cpu_quota", lambda *_, quota=quota: quota)
            self.assertEqual(usable_cpus(), most)
