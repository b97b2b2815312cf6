"""
C{python -m tests.soak [--seconds N] [--seed N]}: a daemon with clients of several behaviors,
behind a network that changes all the time.

Invariant: every byte that comes back is the one that was sent.  A connection that ends cleanly
has its whole stream; if not, a toxic or its client ended it.  The daemon's memory and descriptors
do not grow.  The exit status is 1 if any of this fails.
"""

import argparse
import asyncio
import re
import secrets
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.soak.run import CLIENTS, Listener, Soak
from tests.support.clients import VERSIONS, context
from tests.support.daemons import Daemon, tls_daemon, wait_until

KIB = 1024

WARM_UP = 0.25
"""The share of the run after which memory and descriptors must not grow."""

LEAST_SECONDS = 60.0
"""
The shortest run, in seconds, whose slope is judged: in a few samples, the load of the machine
hides it.
"""

MOST_GROWTH_KIB = 1024
"""How much the fitted line of the memory may rise over the rest of the run."""


@dataclass
class Samples:
    """
    Memory and descriptors of a process, once a second.
    """

    moments: list[float] = field(default_factory=list)
    rss_kib: list[float] = field(default_factory=list)
    descriptors: list[float] = field(default_factory=list)

    async def take(self, daemon: Daemon, seconds: float) -> None:
        """
        Take a sample once a second, for this long.
        """
        start = time.monotonic()
        while time.monotonic() < start + seconds:
            self.moments.append(time.monotonic() - start)
            self.rss_kib.append(daemon.rss() / KIB)
            self.descriptors.append(daemon.descriptors())
            await asyncio.sleep(1.0)

    def slope(self, values: Sequence[float]) -> tuple[float, float]:
        """
        The fitted line through the samples after the warm-up (least squares).

        @return: how much it rises in a minute, and how much over all of it.
        """
        first = int(len(values) * WARM_UP)
        xs, ys = self.moments[first:], values[first:]
        mean_x, mean_y = sum(xs) / len(xs), sum(ys) / len(ys)
        square = sum((x - mean_x) ** 2 for x in xs)
        rise = sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True)) / square
        return rise * 60, rise * (xs[-1] - xs[0])


def soak_daemon() -> Daemon:
    """
    A daemon with a listener of each kind.  What waits for a network that stalls is left time.
    """
    return tls_daemon(
        *("--port", "0", "--listen", "unix:{}/echo.sock"),
        *("--proxy-protocol", "optional", "--proxy-trust", "127.0.0.0/8", "--proxy-trust", "unix"),
        *("--handshake-timeout", "60s", "--write-timeout", "90s", "--max-lifetime", "5m"),
    )


def listeners_of(daemon: Daemon) -> dict[str, Listener]:
    """
    The listeners of that daemon.
    """
    return {
        "plain": Listener(("127.0.0.1", daemon.port("--port"))),
        "tls": Listener(
            ("127.0.0.1", daemon.port("--tls-port")), [context(name) for name in VERSIONS]
        ),
        "unix": Listener(str(daemon.directory / "echo.sock")),
    }


def soak(seconds: float, seed: object, clients: int = CLIENTS) -> tuple[str, list[str]]:
    """
    Run a daemon and its clients.

    @return: the report, and the failures.
    """
    samples, wrong = Samples(), []
    with soak_daemon() as daemon:
        fresh = daemon.descriptors()

        async def run() -> None:
            await asyncio.gather(load.run(seconds), samples.take(daemon, seconds))

        load = Soak(listeners_of(daemon), seed, clients)
        asyncio.run(run())
        totals = load.totals
        wait_until(lambda: daemon.descriptors() <= fresh, "the last connection to be gone")
        after = daemon.descriptors()
        cpu = daemon.cpu()
        took = daemon.stop()
        [(opened, echoed)] = re.findall(r"stopped: (\d+) connections, (\d+) bytes", daemon.log)
        reasons = Counter(record[4] for record in daemon.records())
    rss, rss_grown = samples.slope(samples.rss_kib)
    held, held_grown = samples.slope(samples.descriptors)
    wrong += totals.bad
    judged = seconds >= LEAST_SECONDS
    if judged and rss_grown > MOST_GROWTH_KIB:
        wrong.append(f"memory grows: {rss_grown:.0f} KiB, more than {MOST_GROWTH_KIB}")
    if judged and held_grown > clients:
        wrong.append(f"descriptors grow: {held_grown:.1f}, more than {clients}")
    if int(opened) != load.accepted:
        wrong.append(f"{opened} connections of {load.accepted} were counted")
    lines = [
        f"{totals.visits} streams, {totals.sent} bytes sent, {totals.received} back, "
        f"{totals.corrupt} corrupt, {len(totals.bad)} without a known cause",
        "ends: " + counted(totals.ends),
        "clients: " + counted(totals.behaviors),
        f"the daemon: {opened} connections, {echoed} bytes echoed; by reason: {counted(reasons)}; "
        f"{cpu:.1f} s of CPU; gone {took:.2f} s after TERM",
        f"memory: {samples.rss_kib[0]:.0f} KiB at first, {max(samples.rss_kib):.0f} at most, "
        f"{samples.rss_kib[-1]:.0f} at last; past the first {WARM_UP:.0%} {rss:+.1f} KiB/min, "
        f"{rss_grown:+.0f} KiB in all (at most {MOST_GROWTH_KIB})",
        f"descriptors: {fresh} before, {max(samples.descriptors):.0f} at most, {after} after; "
        f"{held:+.2f} a minute, {held_grown:+.1f} in all (at most {clients})",
    ]
    return "\n".join(lines), wrong


def counted(counts: Counter[str]) -> str:
    """
    The counts in words, the largest first.
    """
    return ", ".join(f"{name} {count}" for name, count in counts.most_common())


def main() -> None:
    """
    The command.
    """
    parser = argparse.ArgumentParser(
        prog="python -m tests.soak",
        description="Run a daemon and many clients behind a faulty network, and check every byte.  "
        "The exit status is 1 if a byte is wrong or lost, or if memory or descriptors grow.",
    )
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", default=str(secrets.randbelow(10**9)))
    parser.add_argument("--clients", type=int, default=CLIENTS, help="how many clients at a time")
    given = parser.parse_args()
    print(f"seed {given.seed}, {given.seconds:g} s, {given.clients} clients at a time", flush=True)
    report, wrong = soak(given.seconds, given.seed, given.clients)
    print(report)
    for line in wrong[:20]:
        print(f"WRONG: {line}")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
