"""
C{python -m tests.support.underload [options] -- COMMAND...}: run a command, such as C{trial tests},
on a machine that is busy with other work: processes that only compute, and processes that write
to the disk and wait until it has all of it.

Invariant: the load ends with the run, however that ends: each of its processes looks whether its
parent is still there, and none outlives the time that the run may take.
"""

import argparse
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import tests

LOOPS = os.cpu_count() or 1
WRITERS = 1
MINUTES = 60.0

FILE_BYTES = 32 << 20
PIECE = 1 << 20

TURN = 1_000_000
"""How many steps a process computes, some 20 ms of them, before it looks at the time."""


def goes_on(parent: int, deadline: float) -> bool:
    """
    Whether the load is still wanted.
    """
    return os.getppid() == parent and time.monotonic() < deadline


def compute(parent: int, deadline: float) -> None:
    """
    Take all of a CPU that can be had.
    """
    while goes_on(parent, deadline):
        for _ in range(TURN):
            pass


def write(parent: int, deadline: float) -> None:
    """
    Write a file, wait for the disk after each piece (fsync(2)), and begin again.
    """
    with tempfile.TemporaryFile(dir=".") as file:
        while goes_on(parent, deadline):
            file.seek(0)
            for _ in range(FILE_BYTES // PIECE):
                file.write(os.urandom(PIECE))
                file.flush()
                os.fsync(file.fileno())


@contextmanager
def load(loops: int, writers: int, deadline: float) -> Iterator[None]:
    """
    Keep the machine busy meanwhile.

    @param deadline: when the load ends at the latest, on the monotonic clock.
    """
    works: list[Callable[[int, float], None]] = [compute] * loops + [write] * writers
    spawn = multiprocessing.get_context("spawn")
    processes = [
        spawn.Process(target=work, args=(os.getpid(), deadline), daemon=True) for work in works
    ]
    try:
        for process in processes:
            process.start()
        yield
    finally:
        for process in processes:
            if process.pid is not None:
                process.kill()
                process.join()


def run(command: Sequence[str], seconds: float) -> int:
    """
    Run a command, and end it and what it has started when it takes too long.

    @return: its exit status; 124 if it took too long, as of timeout(1).
    """
    # An error for a test is none for pip, which .ci/run starts.
    environment = dict(os.environ)
    if environment.get("PYTHONWARNINGS") == tests.WARNINGS:
        del environment["PYTHONWARNINGS"]
    with subprocess.Popen(command, env=environment, start_new_session=True) as child:
        try:
            return child.wait(seconds)
        except subprocess.TimeoutExpired:
            return 124
        finally:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)


def main(arguments: Sequence[str]) -> int:
    """
    @return: the exit status: 1 if the command failed in any of its runs.
    """
    parser = argparse.ArgumentParser(
        prog="python -m tests.support.underload",
        description="Run a command while the machine is busy with other work.",
    )
    parser.add_argument("--loops", type=int, default=LOOPS, help="processes that compute")
    parser.add_argument("--writers", type=int, default=WRITERS, help="processes that write")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="limit for each run")
    parser.add_argument("--times", type=int, default=1, help="how often to run the command")
    parser.add_argument("command", nargs="+", help="for example: trial tests")
    options = parser.parse_args(arguments)
    program, *rest = options.command
    beside = Path(sys.executable).parent / program
    command = [str(beside) if beside.exists() else program, *rest]
    # What was started ends with this process: see the C{finally} clauses.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    failed = 0
    for number in range(1, options.times + 1):
        seconds = options.minutes * 60
        began = time.monotonic()
        with load(options.loops, options.writers, began + seconds):
            status = run(command, seconds)
            average = os.getloadavg()[0]
        failed += status != 0
        took = time.monotonic() - began
        print(f"run {number}: status {status} in {took:.0f} s, load {average:.1f}", flush=True)
    print(f"{options.times} runs under load, {failed} failed", flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
