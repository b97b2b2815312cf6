"""
How long one client waits for its echo beside the worst that another one can do.
"""

import time
from collections.abc import Iterator

from tests.support import worst
from tests.support.daemons import connect, echo

NUMBER = 256
"""How many connections the other one has."""


def rows(seconds: float, word: str = "") -> Iterator[str]:
    """
    A line for each kind.

    @param seconds: how long to measure each.
    @param word: what is in the name of those that are wanted.
    """
    for name, kind in {**worst.PLAIN, **worst.TLS}.items():
        if word in name:
            yield _row(name, kind, seconds)


def _row(name: str, kind: worst.Kind, seconds: float) -> str:
    with worst.daemon_for(kind) as daemon, connect(daemon.address("--port")) as client:
        echo(client, bytes(64))
        with worst.under_way(name, daemon.address(kind.option), NUMBER):
            waits, used = [], []
            end = time.perf_counter() + seconds
            while (start := time.perf_counter()) < end:
                before = daemon.cpu()
                echo(client, bytes(64))
                waits.append(time.perf_counter() - start)
                used.append(daemon.cpu() - before)
    waits.sort()
    return (
        f"{NUMBER} x {name:38} p50 {waits[len(waits) // 2] * 1000:8.2f} ms   "
        f"longest {waits[-1] * 1000:8.1f} ms, of which {max(used) * 1000:8.1f} ms of CPU"
    )
