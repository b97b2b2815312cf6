"""
The system calls of a daemon, traced with strace(1).
"""

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import SkipTest

from tests.support import needs
from tests.support.daemons import Daemon


class Trace:
    """
    The system calls of a daemon.

    @ivar lines: those that strace(1) has written.
    """

    def __init__(self, path: Path):
        self._path = path

    @property
    def lines(self) -> list[str]:
        return self._path.read_text().splitlines()

    def moved(self, call: str, flag: str = "") -> int:
        """
        How many bytes a system call has moved in all, if given a flag, where it had that.
        """
        found = re.compile(rf"{call}\(.*{flag}.* = (\d+)$")
        return sum(int(match[1]) for line in self.lines if (match := found.search(line)))


@contextmanager
def traced(daemon: Daemon, *inject: str) -> Iterator[Trace]:
    """
    Trace a daemon with strace(1).

    @param inject: what system calls return instead of what the kernel would return.
    """
    path = daemon.directory / "trace"
    command = [needs.program("strace"), "-f", "-o", str(path), "-p", str(daemon.pid)]
    command += ["-e", "trace=splice,recvfrom,sendto,pipe2"]
    for each in inject:
        command += ["-e", f"inject={each}"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        said = process.stderr.readline()
        if "attached" not in said:
            raise SkipTest(f"needs strace -p: {said.strip()}")
        yield Trace(path)
    finally:
        process.terminate()
        process.stderr.read()
        process.stderr.close()
        process.wait()
