"""
A daemon with several workers for the integration tests: its worker processes and their sockets.

Invariant: a signal is sent only to a worker that the daemon has named in its log and is the
parent of.
"""

import os
import re
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

from tests.support.daemons import (
    LOOPBACK,
    PATIENCE_SECONDS,
    REACTOR,
    Daemon,
    connect,
    receive,
    wait_until,
)

_UP = re.compile(r"worker (\d+) is up, process (\d+)")


class WorkersDaemon(Daemon):
    """
    A daemon with workers, which are started anew as it is.
    """

    anew = True

    def __init__(
        self,
        workers: int,
        *options: str,
        before: tuple[str, ...] = (),
        background: bool = False,
        reactor: str = REACTOR,
    ):
        super().__init__(
            *(options or LOOPBACK),
            *("--workers", str(workers)),
            before=before,
            background=background,
            reactor=reactor,
        )

    def ups(self) -> list[tuple[str, int]]:
        """
        The workers that have been up so far, each with its process.
        """
        return [(name, int(pid)) for name, pid in _UP.findall(self.log)]

    def pids(self) -> dict[str, int]:
        """
        The process of each worker, the latest one.
        """
        return dict(self.ups())

    def living(self) -> list[int]:
        """
        Its worker processes that have not ended.
        """
        return [pid for pid in {pid for _, pid in self.ups()} if lives(pid)]

    def signal_worker(self, name: str, number: int) -> int:
        """
        @return: the process that was signalled.
        """
        pid = self.pids()[name]
        parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]
        if int(parent) != self.pid:
            raise AssertionError(f"process {pid} is not ours")
        os.kill(pid, number)
        return pid

    def wait_for_another(self, name: str, old: int) -> int:
        """
        Wait until another process has replaced a worker.
        """
        wait_until(lambda: self.pids()[name] != old, f"another worker {name}")
        return self.pids()[name]

    def sockets(self) -> dict[str, int]:
        """
        How many sockets each worker has.
        """
        return {name: count_sockets(pid) for name, pid in self.pids().items()}


def lives(pid: int) -> bool:
    """
    Whether there is such a process that has not ended.
    """
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def count_sockets(pid: int) -> int:
    """
    How many sockets a process has open.
    """
    found = 0
    for name in os.listdir(f"/proc/{pid}/fd"):
        with suppress(OSError):
            found += os.readlink(f"/proc/{pid}/fd/{name}").startswith("socket:")
    return found


class ClientLoop(threading.Thread):
    """
    Clients one after the other, until L{stop}: connect, echo 64 bytes, close.

    @ivar ends: how often each result came: C{"ok"}, or the name of the error.
    @ivar slowest: the longest time from connect to close, in seconds.
    """

    def __init__(self, address: str):
        super().__init__(daemon=True)
        self._address = address
        self._enough = threading.Event()
        self.ends: Counter[str] = Counter()
        self.slowest = 0.0
        self.start()

    def run(self) -> None:
        while not self._enough.is_set():
            start = time.monotonic()
            try:
                with connect(self._address) as client:
                    client.sendall(bytes(64))
                    end = "ok" if receive(client, 64) == bytes(64) else "closed"
            except OSError as error:
                end = type(error).__name__
            self.ends[end] += 1
            self.slowest = max(self.slowest, time.monotonic() - start)

    def stop(self) -> None:
        self._enough.set()
        self.join(PATIENCE_SECONDS)
