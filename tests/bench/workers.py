"""
C{python -m tests.bench.workers}: what an echo costs with several workers, by that with one.

Each CPU has one worker and one load.  So one such CPU is compared with two of them, and not two
processes on two CPUs with three.
"""

import argparse
import multiprocessing
import os
import re
import statistics
import subprocess
import sys
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tests.bench import load

ROUNDS = 9
SECONDS = 1.0


class Server:
    """
    A daemon with so many workers, each on a CPU of its own, and as many loads.
    """

    def __init__(self, workers: int, connections: int):
        """
        @param connections: of each load.
        """
        twistd = str(Path(sys.executable).with_name("twistd"))
        command = [twistd, "-n", "--pidfile=", "echod", "--access-log", "off", "--port", "0"]
        command += ["--interface", "127.0.0.1", "--workers", str(workers)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self._pids = [] if workers > 1 else [self._process.pid]
        port = 0
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if found := re.search(r"listening on \S+:(\d+),", line):
                port = int(found[1])
            if found := re.search(r"is up, process (\d+)", line):
                self._pids.append(int(found[1]))
            if port and len(self._pids) == workers:
                break
        self._loads = []
        for cpu, pid in enumerate(self._pids):
            os.sched_setaffinity(pid, {cpu})
            ours, theirs = multiprocessing.Pipe()
            arguments = (cpu, port, connections, theirs)
            multiprocessing.Process(target=play, args=arguments, daemon=True).start()
            ours.recv()
            self._loads.append(ours)

    def cpu_seconds(self) -> float:
        """
        CPU that the workers have used (schedstat in proc(5)).
        """
        used = 0
        for pid in self._pids:
            used += int(Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[0])
        return used / 1e9

    def measure(self) -> float:
        """
        @return: CPU seconds for an echo.
        """
        before = self.cpu_seconds()
        for each in self._loads:
            each.send(SECONDS)
        operations = sum(each.recv() for each in self._loads)
        return (self.cpu_seconds() - before) / operations

    def stop(self) -> None:
        """
        End it.
        """
        self._process.terminate()
        assert self._process.stdout is not None
        self._process.stdout.read()
        self._process.wait()


def play(cpu: int, port: int, connections: int, orders: "Connection[Any, Any]") -> None:
    """
    A load, which plays for as many seconds as it is told, each time that it is.
    """
    os.sched_setaffinity(0, {cpu})
    clients = load.connect_many(port, connections, None)
    orders.send(None)
    while True:
        orders.send(load.play(clients, 64, orders.recv()).operations)


def main() -> None:
    """
    Measure in turn, and print medians.
    """
    argparse.ArgumentParser(
        prog="python -m tests.bench.workers",
        description="Measure what an echo costs with a worker on each CPU, by that with one.  "
        "It takes a minute.",
    ).parse_args()
    most = len(os.sched_getaffinity(0))
    for connections in (64, 128):
        servers = {count: Server(count, connections) for count in (1, most)}
        costs: dict[int, list[float]] = {count: [] for count in servers}
        for _ in range(ROUNDS):
            for count, server in servers.items():
                costs[count].append(server.measure())
        for server in servers.values():
            server.stop()
        one, all_of_them = (statistics.median(costs[count]) * 1e6 for count in servers)
        ratio = statistics.median(b / a for a, b in zip(*costs.values(), strict=True))
        print(
            f"echo 64 B, {connections} connections for each CPU: 1 worker {one:.1f} us, "
            f"{most} workers {all_of_them:.1f} us, ratio {ratio:.2f}"
        )


if __name__ == "__main__":
    main()
