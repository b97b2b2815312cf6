"""
C{python -m tests.bench.faults [--runs 200]}: each fault of C{--fault} against its definition, plain
and over TLS, as a table in Markdown; then the draws of C{chance}; then many clients of a listener
with a latency: memory, and the time of a stop.

Invariant: each listener is one of a real daemon, and the clients know only its address.
"""

import argparse
import asyncio
import random
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from tests.support.daemons import Daemon, tls_daemon
from tests.support.faultclients import Address, Seen, flipped, has_all, repeated, talk

DATA = random.Random(18).randbytes(4 << 20)
KIB = 1024
TOLERANCE = 0.010
"""Seconds by which a fault may be late."""

Verdict = tuple[bool, float]
"""Whether a run was right, and the figure that its row shows."""


async def latency(address: Address, tls: bool) -> Verdict:
    seen = await talk(address, tls, DATA[:64], has_all(DATA[:64]))
    delay = seen.pieces[0][0] - seen.sent_at
    return seen.data == DATA[:64] and 0.08 <= delay <= 0.12 + TOLERANCE, delay * 1000


async def bandwidth(address: Address, tls: bool) -> Verdict:
    def enough(seen: Seen) -> bool:
        return bool(seen.pieces) and seen.pieces[-1][0] - seen.pieces[0][0] > 10

    seen = await talk(address, tls, DATA[: 3000 * KIB], enough)
    start = seen.pieces[0][0]
    size = sum(each for when, each in seen.pieces if when - start <= 10)
    share = size / (10 * 256 * KIB) * 100
    return DATA.startswith(bytes(seen.data)) and 95 <= share <= 105, share


async def slicer(address: Address, tls: bool) -> Verdict:
    data = DATA[: 8 * KIB]
    seen = await talk(address, tls, data, has_all(data))
    took = seen.pieces[-1][0] - seen.pieces[0][0]
    return seen.data == data and took >= 0.033, took * 1000


async def limit(address: Address, tls: bool) -> Verdict:
    seen = await talk(address, tls, DATA[: 100 * KIB])
    return seen.data == DATA[: 64 * KIB] and seen.ended == "eof", len(seen.data)


async def reset(address: Address, tls: bool) -> Verdict:
    seen = await talk(address, tls, DATA[: 100 * KIB])
    return seen.data == DATA[: 64 * KIB] and seen.ended == "reset", len(seen.data)


async def reset_later(address: Address, tls: bool) -> Verdict:
    seen = await talk(address, tls, DATA[:KIB])
    after = seen.ended_at - seen.sent_at
    right = seen.data == DATA[:KIB] and seen.ended == "reset"
    return right and 0.28 <= after <= 0.3 + TOLERANCE, after * 1000


async def timeout(address: Address, tls: bool) -> Verdict:
    seen = await talk(address, tls, DATA[: 100 * KIB], lambda seen: seen.data or seen.ended, 1)
    return not seen.data and not seen.ended, len(seen.data)


async def slow_close(address: Address, tls: bool) -> Verdict:
    seen = await talk(address, tls, DATA[: 2 * KIB])
    after = seen.ended_at - seen.sent_at
    right = seen.data == DATA[:KIB] and seen.ended == "eof"
    return right and 0.3 <= after <= 0.3 + TOLERANCE, after * 1000


async def corrupt(address: Address, tls: bool) -> Verdict:
    data = DATA[: 64 * KIB]
    seen = await talk(address, tls, data, has_all(data))
    bits = flipped(data, bytes(seen.data))
    return [bit // (16 * KIB * 8) for bit in bits] == [0, 1, 2, 3], len(bits)


async def refuse(address: Address, tls: bool) -> Verdict:
    seen = await talk(address, tls, DATA[:64])
    return not seen.data and seen.ended == "reset", len(seen.data)


@dataclass(frozen=True)
class Row:
    """
    One fault.

    @ivar faults: the values of C{--fault}.
    @ivar unit: of the figure.
    """

    faults: Sequence[str]
    definition: str
    run: Callable[[Address, bool], Awaitable[Verdict]]
    unit: str
    at_once: int = 4


ROWS = (
    Row(["latency=100ms,jitter=20ms"], "80 to 120 ms, and 10 ms", latency, "ms"),
    Row(["bandwidth=256KiB"], "within 5 % over 10 s", bandwidth, "%", 100),
    Row(["slicer=1KiB,delay=5ms"], "8 slices in 35 ms or more", slicer, "ms"),
    Row(["limit=64KiB"], "exactly 64 KiB, then the end", limit, "bytes"),
    Row(["reset=64KiB"], "exactly 64 KiB, then a reset", reset, "bytes"),
    Row(["reset=300ms"], "a reset after 300 ms, and 10 ms", reset_later, "ms"),
    Row(["timeout"], "nothing", timeout, "bytes", 50),
    Row(["limit=1KiB", "slow-close=300ms"], "the end 300 ms later, and 10 ms", slow_close, "ms"),
    Row(["corrupt=16KiB"], "one bit in each 16 KiB", corrupt, "bits"),
    Row(["refuse"], "a reset and no byte", refuse, "bytes"),
)


def options(tls: bool, faults: Sequence[Sequence[str]]) -> list[str]:
    """
    A listener for each chain of faults.
    """
    listen = "--tls-listen" if tls else "--listen"
    found = []
    for chain in faults:
        found += [listen, "tcp:0:interface=127.0.0.1"]
        found += [f"--fault={each}" for each in chain]
    return found


def addresses(daemon: Daemon, tls: bool) -> list[Address]:
    """
    The addresses of its listeners, in the order of the command line.
    """
    listen = "--tls-listen" if tls else "--listen"
    found = [each.rpartition(":") for each, asked in daemon.addresses if asked.startswith(listen)]
    return [(host, int(port)) for host, _, port in found]


async def prove(row: Row, address: Address, tls: bool, runs: int) -> tuple[int, str]:
    """
    Run one row.

    @return: how many runs were right, and its cell of the table.
    """
    found = await repeated(runs, row.at_once, lambda _: row.run(address, tls))
    good = sum(right for right, _ in found)
    figures = sorted(figure for _, figure in found)
    low, high = figures[0], figures[-1]
    span = f"{low:,.5g}" if low == high else f"{low:,.5g} to {high:,.5g}"
    return good, f"{good} of {runs}; {span} {row.unit}"


def prove_all(runs: int) -> bool:
    """
    Print the table.
    """
    print("| `--fault` | definition | plain | TLS |\n|---|---|---|---|")
    cells: list[list[str]] = [[] for _ in ROWS]
    right = True
    for tls in (False, True):
        with tls_daemon(*options(tls, [row.faults for row in ROWS])) as daemon:
            for row, address, line in zip(ROWS, addresses(daemon, tls), cells, strict=True):
                good, cell = asyncio.run(prove(row, address, tls, runs))
                line.append(cell)
                right = right and good == runs
    for row, line in zip(ROWS, cells, strict=True):
        name = " ".join(f"`{each}`" for each in row.faults)
        print(f"| {name} | {row.definition} | {' | '.join(line)} |", flush=True)
    return right


def draws(count: int) -> list[bool]:
    """
    Which of so many connections, one after the other, a listener refuses with a chance of 30 %.
    """

    async def connect_all(address: Address) -> list[bool]:
        found = []
        for _ in range(count):
            seen = await talk(address, False, b"x", has_all(b"x"))
            found.append(not seen.data)
        return found

    with Daemon(*options(False, [["refuse,chance=30%"]]), "--fault-seed", "18") as daemon:
        return asyncio.run(connect_all(addresses(daemon, False)[0]))


def crowd(clients: int) -> tuple[float, float, int]:
    """
    Clients of a listener with a latency, each of which sends 512 KiB; meanwhile, a stop.

    @return: the KiB that each takes of the daemon, how many seconds the stop took, and how many
        clients got exactly what they had sent.
    """

    data = DATA[: 512 * KIB]

    async def all_clients(daemon: Daemon, address: Address) -> tuple[float, float, int]:
        before = daemon.rss()
        enough = time.monotonic() + 2.5

        async def one(_: int) -> Seen:
            return await talk(address, False, data, lambda seen: seen.ended, 60)

        talking = asyncio.ensure_future(repeated(clients, clients, one))
        largest = before
        while time.monotonic() < enough:
            await asyncio.sleep(0.05)
            largest = max(largest, daemon.rss())
        started = time.monotonic()
        daemon.signal(signal.SIGTERM)
        seen = await talking
        daemon.wait()
        stopped = time.monotonic() - started
        exact = sum(each.data == data for each in seen)
        return (largest - before) / clients / KIB, stopped, exact

    with Daemon(*options(False, [["latency=20s"]])) as daemon:
        return asyncio.run(all_clients(daemon, addresses(daemon, False)[0]))


def main() -> int:
    """
    Run it all.

    @return: 0 when everything was right.
    """
    parser = argparse.ArgumentParser(prog="python -m tests.bench.faults")
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--clients", type=int, default=500)
    chosen = parser.parse_args()
    right = prove_all(chosen.runs)
    first, second = draws(1000), draws(1000)
    share = sum(first) / 10
    print(f"\n1000 connections with a chance of 30 %: {share} %; again the same: {first == second}")
    memory, stopped, exact = crowd(chosen.clients)
    print(
        f"{chosen.clients} clients with a latency of 20 s: {memory:.0f} KiB each, "
        f"stopped in {stopped:.1f} s, {exact} exact"
    )
    right = right and 26 <= share <= 34 and first == second and exact == chosen.clients
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
