"""
C{python -m tests.bench [--quick] [--json FILE] [--only WORD]}: what an echo costs.

Each server runs in a process of its own, pinned to one core; the load runs on the other,
where there is one.  In each round every server has its turn, so that what disturbs the
machine disturbs all; a figure is the lower quartile over the rounds, with the upper quartile as
its spread.  The figure is CPU of the server process (user and system, from the operating system)
for one operation.

echod has its default configuration, with the access log to a file, unless a row says otherwise.
"""

import argparse
import contextlib
import datetime
import json
import os
import platform
import resource
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench import load, worst
from tests.bench.peers import (
    SERVER_CORE,
    Peer,
    compiled_peers,
    program_peers,
    python_peers,
)

Row = dict[str, Any]


SIZES = {64: "64 B", 1024: "1 KiB", 16384: "16 KiB", 65536: "64 KiB", 1 << 20: "1 MiB"}


@dataclass(frozen=True)
class Scenario:
    """
    One line of the table.

    @ivar kind: C{"echo"} or C{"connect"}.
    """

    kind: str
    tls: bool
    size: int = 64
    connections: int = 1

    @property
    def name(self) -> str:
        where = "TLS" if self.tls else "plain"
        if self.kind == "connect":
            return f"{where}: connect, {'handshake, ' if self.tls else ''}echo 64 B, close"
        return f"{where}: echo {SIZES[self.size]}, {self.connections} connections"

    def programs_too(self) -> bool:
        """
        Whether it suits servers that fork for each connection.
        """
        return not self.tls and self.size == 64 and self.connections <= 64


FULL = [
    *(
        Scenario("echo", tls, size, connections)
        for tls in (False, True)
        for size in SIZES
        for connections in (1, 32 if tls else 64, 1000)
        # A thousand clients with so much each under way would measure the machine's memory.
        if size < 65536 or connections < 1000
    ),
    Scenario("echo", False, 1 << 20, 4),
    Scenario("connect", False),
    Scenario("connect", True),
]

QUICK = [
    Scenario("echo", False, 64, 64),
    Scenario("echo", False, 1024, 64),
    Scenario("echo", False, 64, 1),
    Scenario("echo", False, 65536, 64),
    Scenario("echo", False, 1 << 20, 4),
    Scenario("echo", True, 64, 32),
    Scenario("echo", True, 1 << 20, 4),
    Scenario("connect", False),
    Scenario("connect", True),
]


def lower_quartile(values: list[float]) -> float:
    """
    The value that a quarter of these are below: what disturbs the machine only adds to a figure.
    """
    return quartiles(values)[0]


def quartiles(values: list[float]) -> tuple[float, float]:
    """
    The lower and the upper quartile.
    """
    if len(values) < 2:
        return values[0], values[0]
    lower, _, upper = statistics.quantiles(values, method="inclusive")
    return lower, upper


def summary(samples: list[Row]) -> Row:
    """
    The lower quartile of each figure of the rounds, and the upper one as C{FIGURE_upper}.
    """
    row: Row = {}
    for figure in samples[0] if samples else ():
        lower, upper = quartiles([sample[figure] for sample in samples])
        row |= {figure: lower, f"{figure}_upper": upper}
    return row


ACCESS_LOGS: dict[str, tuple[str, ...]] = {
    "access log to a file": (),
    "access log to a file, JSON": ("--log-format", "json"),
    "access log not wanted": ("--log-level", "warn"),
    "no access log": ("--access-log", "off"),
}
"""
Rows of their own for connections: an echo costs the same with all of these.  The first is the
default configuration.
"""


def measure_connections(
    scenario: Scenario, peers: list[Peer], rounds: int, seconds: float
) -> list[list[Row]]:
    """
    Measure connections with each of L{ACCESS_LOGS}, in the same rounds.

    @return: for each access log, the figures of each peer.
    """
    others = [peer for peer in peers if peer.name != "echod"]
    logging = {}
    try:
        for name, options in ACCESS_LOGS.items():
            logging[name] = Peer("echod", scenario.tls, *options)
            logging[name].name = name
        rows = measure(scenario, [*logging.values(), *others], rounds, seconds)
    finally:
        for peer in logging.values():
            peer.stop()
    groups = []
    for name in logging:
        ours = [row | {"peer": "echod"} for row in rows if row["peer"] == name]
        theirs = [row for row in rows if row["peer"] not in logging]
        groups.append([row | {"scenario": f"{scenario.name}, {name}"} for row in ours + theirs])
    return groups


def measure(scenario: Scenario, peers: list[Peer], rounds: int, seconds: float) -> list[Row]:
    """
    Measure each peer in turn, in each round.

    @return: the figures of each peer.
    """
    context = load.tls_context() if scenario.tls else None
    clients: dict[str, list[load.Client]] = {}
    for peer in peers:
        if scenario.kind == "echo":
            clients[peer.name] = load.connect_many(peer.port, scenario.connections, context)
    samples: dict[str, list[Row]] = {peer.name: [] for peer in peers}
    for turn in range(rounds + 1):
        for peer in peers:
            before = peer.cpu_seconds()
            if scenario.kind == "echo":
                outcome = load.play(clients[peer.name], scenario.size, seconds)
            else:
                outcome = load.connect_echo_close(peer.port, context, seconds)
            # Let the server finish what the last operation left it to do.
            time.sleep(0.02)
            cpu = peer.cpu_seconds() - before
            ordered = sorted(outcome.latencies)
            if turn and ordered:
                samples[peer.name].append(
                    {
                        "cpu_us": cpu / outcome.operations * 1e6,
                        "operations_per_second": outcome.operations / outcome.seconds,
                        "p50_us": ordered[len(ordered) // 2] * 1e6,
                        "p99_us": ordered[len(ordered) * 99 // 100] * 1e6,
                    }
                )
    for group in clients.values():
        load.close_all(group)
    return [
        {"scenario": scenario.name, "peer": peer.name, **summary(samples[peer.name])}
        for peer in peers
    ]


EVERY_LIMIT = (
    *("--allow", "127.0.0.0/8", "--deny", "192.0.2.0/24", "--max-connections", "5000"),
    *("--max-per-client", "5000", "--connect-rate", "100000", "--idle-timeout", "1h"),
    *("--max-lifetime", "1h", "--write-timeout", "1h"),
    *("--proxy-protocol", "optional", "--proxy-trust", "192.0.2.0/24"),
)


ADMIN = ("--admin", "unix:{}/admin")

EVERYTHING = (*EVERY_LIMIT, "--log-format", "json", *ADMIN)

ADMIN_PATHS = (b"/", b"/connections", b"/metrics", b"/livez", b"/readyz")


class Scraper(threading.Thread):
    """
    Asks once a second for all that C{--admin} has, until the server is gone.
    """

    def __init__(self, path: str):
        super().__init__(daemon=True)
        self._path = path
        self.start()

    def run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                for asked in ADMIN_PATHS:
                    with socket.socket(socket.AF_UNIX) as client:
                        client.connect(self._path)
                        client.sendall(b"GET " + asked + b" HTTP/1.0\r\n\r\n")
                        while client.recv(65536):
                            pass
                time.sleep(1)


def beside_another(
    other: str, options: tuple[str, ...], idle: int, rounds: int, seconds: float
) -> list[Row]:
    """
    The same echo on two echod in turn, one with other options or beside idle connections.

    @param other: what to call that one.
    """
    scenario = Scenario("echo", False, 64, 64)
    plain, second = Peer("echod", False), Peer("echod", False, *options)
    second.name = other
    try:
        if "--admin" in options:
            Scraper(second.admin)
        sitting = load.connect_many(plain.port, 1, None)
        sitting += load.connect_many(second.port, idle, None)
        rows = measure(scenario, [plain, second], rounds, seconds)
        load.close_all(sitting)
    finally:
        plain.stop()
        second.stop()
    for row in rows:
        row["scenario"] = f"{scenario.name}, and the same with {other}"
    return rows


def beside_streams(names: list[str], streams: int, rounds: int, seconds: float) -> list[Row]:
    """
    One client that sends 64 bytes, a millisecond after the last echo, beside streams at
    full speed from a process of their own.  Without the millisecond there would be most
    messages whenever the streams happen to be slow.

    @return: the figures of each peer.
    """
    peers = [Peer(name, False) for name in names]
    samples: dict[str, list[Row]] = {name: [] for name in names}
    try:
        for turn in range(rounds + 1):
            for peer in peers:
                command = ("-m", "tests.bench.load", str(peer.port), str(streams))
                with subprocess.Popen(
                    (sys.executable, *command), stdout=subprocess.PIPE
                ) as streaming:
                    try:
                        assert streaming.stdout is not None
                        if not streaming.stdout.readline():
                            raise RuntimeError(f"the streams of {peer.name} did not start")
                        ordered = sorted(load.pace(peer.port, seconds, 0.001))
                    finally:
                        streaming.kill()
                if turn and ordered:
                    samples[peer.name].append(
                        {
                            "p99_us": ordered[len(ordered) * 99 // 100] * 1e6,
                            "p50_us": ordered[len(ordered) // 2] * 1e6,
                        }
                    )
    finally:
        for peer in peers:
            peer.stop()
    return [
        {
            "scenario": f"plain: echo 64 B beside {streams} streams",
            "peer": name,
            **summary(taken),
        }
        for name, taken in samples.items()
    ]


SWEPT = ("--max-connections", "20000", "--idle-timeout", "1h", "--max-lifetime", "1h")


def swept(idle: int, rounds: int, seconds: float) -> list[Row]:
    """
    CPU per second of an echod with idle connections only, and of another with one of them.
    """
    peers = {"echod": Peer("echod", False, *SWEPT), "one idle": Peer("echod", False, *SWEPT)}
    samples: dict[str, list[float]] = {name: [] for name in peers}
    sitting = []
    try:
        sitting += load.connect_many(peers["echod"].port, idle, None)
        sitting += load.connect_many(peers["one idle"].port, 1, None)
        for turn in range(rounds + 1):
            before = {name: peer.cpu_seconds() for name, peer in peers.items()}
            begun = time.perf_counter()
            time.sleep(2 * seconds)
            took = time.perf_counter() - begun
            for name, peer in peers.items() if turn else ():
                samples[name].append((peer.cpu_seconds() - before[name]) / took * 1e6)
    finally:
        load.close_all(sitting)
        for peer in peers.values():
            peer.stop()
    scenario = f"plain: {idle} idle connections swept, CPU in a second"
    return [
        {"scenario": scenario, "peer": name, "cost_us": lower_quartile(taken)}
        for name, taken in samples.items()
    ]


def in_turns(
    scenario: str, peer: Peer, operations: dict[str, Callable[[], object]], rounds: int, count: int
) -> list[Row]:
    """
    The cost of several operations on one server, in interleaved rounds.

    @param count: how often each is done in a round.
    """
    samples: dict[str, list[float]] = {name: [] for name in operations}
    for turn in range(rounds + 1):
        for name, operation in operations.items():
            before = peer.cpu_seconds()
            for _ in range(count):
                operation()
            time.sleep(0.02)
            if turn:
                samples[name].append((peer.cpu_seconds() - before) / count * 1e6)
    return [
        {"scenario": scenario, "peer": name, "cost_us": lower_quartile(taken)}
        for name, taken in samples.items()
    ]


def turned_away(tls: bool, rounds: int) -> list[Row]:
    """
    The cost of a client that is refused by its address, and of one that gets one byte back.
    """
    context = load.tls_context() if tls else None
    peer = Peer("echod", tls, "--deny", "127.0.0.2")

    def serve() -> None:
        with load.connect(peer.port, context) as client:
            client.sendall(b"x")
            client.recv(1)

    def refuse() -> None:
        with (
            contextlib.suppress(ConnectionError),
            socket.create_connection(("127.0.0.1", peer.port), 30, ("127.0.0.2", 0)) as client,
        ):
            client.recv(1)

    try:
        scenario = f"{'TLS' if tls else 'plain'}: a client turned away, and one served 1 B"
        return in_turns(scenario, peer, {"echod": refuse, "served": serve}, rounds, 500)
    finally:
        peer.stop()


def scrape(connections: int, rounds: int) -> list[Row]:
    """
    The cost of a scrape and of the pages, with many connections.
    """
    peer = Peer("echod", False, *SWEPT, *ADMIN)
    sitting = []

    def get(path: str) -> None:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(peer.admin)
            client.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
            while client.recv(65536):
                pass

    asked = {"echod": "/metrics", "/": "/", "/connections": "/connections"}
    operations = {name: (lambda path=path: get(path)) for name, path in asked.items()}
    try:
        sitting += load.connect_many(peer.port, connections, None)
        scenario = f"plain: scrape /metrics with {connections} connections, and the pages"
        return in_turns(scenario, peer, operations, rounds, 5)
    finally:
        load.close_all(sitting)
        peer.stop()


def check(rounds: int) -> list[Row]:
    """
    CPU of one plain C{echod-check}, from start to end, and of a Python that imports Twisted's
    reactor.
    """
    peer = Peer("echod", False)
    program = str(Path(sys.executable).with_name("echod-check"))
    commands = {
        "echod": [program, "--quiet", f"127.0.0.1:{peer.port}"],
        "twisted": [sys.executable, "-c", "import twisted.internet.reactor"],
    }
    samples: dict[str, list[float]] = {name: [] for name in commands}
    try:
        for turn in range(4 * rounds + 1):
            for name, command in commands.items():
                before = resource.getrusage(resource.RUSAGE_CHILDREN)
                subprocess.run(command, check=True)
                after = resource.getrusage(resource.RUSAGE_CHILDREN)
                used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
                if turn:
                    samples[name].append(used * 1e6)
    finally:
        peer.stop()
    return [
        {"scenario": "echod-check, start to end", "peer": name, "cost_us": lower_quartile(taken)}
        for name, taken in samples.items()
    ]


def memory(tls: bool, connections: int, names: list[str]) -> list[Row]:
    """
    Memory of the server process for each idle connection, each peer started anew.
    """
    context = load.tls_context() if tls else None
    rows = []
    for name in names:
        peer = Peer(name, tls)
        try:
            load.close_all(load.connect_many(peer.port, 20, context))
            time.sleep(0.2)
            before = peer.rss_bytes()
            clients = load.connect_many(peer.port, connections, context)
            time.sleep(0.5)
            each = (peer.rss_bytes() - before) / connections
            load.close_all(clients)
        finally:
            peer.stop()
        where = "TLS" if tls else "plain"
        rows.append(
            {
                "scenario": f"{where}: memory of an idle connection, {connections} of them",
                "peer": name,
                "bytes": each,
            }
        )
    return rows


def figure_of(row: Row) -> tuple[str, str]:
    """
    The figure of a scenario, and its unit.
    """
    for figure in ("bytes", "cost_us", "cpu_us"):
        if figure in row:
            return figure, "B" if figure == "bytes" else "us"
    return "p99_us", "us"


def show(rows: list[Row]) -> None:
    """
    Print what one scenario gave, with echod's share of what each other peer takes.
    """
    figure, unit = figure_of(rows[0])
    print(f"\n{rows[0]['scenario']}")
    ours = next(row.get(figure) for row in rows if row["peer"] == "echod")
    for row in rows:
        if figure not in row:
            print(f"  {row['peer']:8} no operation was finished")
            continue
        line = f"  {row['peer']:8}{row[figure]:10.1f} {unit}"
        if row["peer"] != "echod" and row[figure] > 0:
            line += f"   echod takes {ours / row[figure]:5.2f} x"
        elif figure == "cpu_us":
            line += " " * 22
        if f"{figure}_upper" in row:
            line += f"   to {row[f'{figure}_upper']:8.1f}"
        if figure == "cpu_us":
            line += (
                f"   {row['operations_per_second']:9.0f}/s"
                f"   p50 {row['p50_us']:8.0f} us   p99 {row['p99_us']:8.0f} us"
            )
        print(line, flush=True)


def markdown(results: list[Row]) -> str:
    """
    The results as a table: what echod takes, from the lower to the upper quartile, and its share
    of what each other takes.
    """
    peers = list(dict.fromkeys(row["peer"] for row in results if row["peer"] != "echod"))
    lines = [
        f"| | echod | {' | '.join(f'of {name}' for name in peers)} |",
        "|---|---|" + "---|" * len(peers),
    ]
    for scenario in dict.fromkeys(row["scenario"] for row in results):
        rows = {row["peer"]: row for row in results if row["scenario"] == scenario}
        figure, unit = figure_of(rows["echod"])
        ours = rows["echod"].get(figure, 0.0)
        cells = []
        for peer in peers:
            theirs = rows.get(peer, {}).get(figure, 0.0)
            cells.append(f"{ours / theirs:.2f}" if theirs > 0 else "")
        digits = 0 if ours > 99 else 1
        spread = rows["echod"].get(f"{figure}_upper", ours)
        to = f" to {spread:.{digits}f}" if spread > ours else ""
        lines.append(f"| {scenario} | {ours:.{digits}f}{to} {unit} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """
    Run the benchmark.
    """
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench",
        description="Measure the CPU time that an echo costs a server, for echod and for others.",
    )
    parser.add_argument("--quick", action="store_true", help="a few scenarios, under a minute")
    parser.add_argument("--json", metavar="FILE", help="write all figures there")
    parser.add_argument(
        "--only", metavar="WORD", default="", help="only scenarios with this word in their name"
    )
    parser.add_argument("--rounds", type=int, default=0, help="how many rounds to measure")
    parser.add_argument("--seconds", type=float, default=0.0, help="of each round")
    parser.add_argument("--markdown", action="store_true", help="print a table at the end")
    parser.add_argument(
        "--worst",
        action="store_true",
        help="measure the delay of one client beside the most expensive clients",
    )
    chosen = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if chosen.worst:
        for line in worst.rows(2.0, chosen.only):
            print(line, flush=True)
        return
    cores = os.cpu_count() or 1
    if cores > 1:
        os.sched_setaffinity(0, set(range(cores)) - {SERVER_CORE})
    rounds = chosen.rounds or (3 if chosen.quick else 9)
    seconds = chosen.seconds or 0.5
    machine = (
        f"{platform.system()} {platform.release()} {platform.machine()}, {cores} cores, "
        f"Python {platform.python_version()}, {datetime.date.today().isoformat()}"
    )
    print(f"{machine}; {rounds} rounds of {seconds} s")
    names = python_peers()
    if chosen.quick:
        names.remove("asyncio")
    results: list[Row] = []
    scenarios = [s for s in (QUICK if chosen.quick else FULL) if chosen.only in s.name]
    for tls in (False, True):
        wanted = [s for s in scenarios if s.tls == tls]
        peers = [Peer(name, tls) for name in names + compiled_peers(tls)] if wanted else []
        with_programs = wanted and not tls and not chosen.quick
        programs = [Peer(name, tls) for name in program_peers()] if with_programs else []
        try:
            for scenario in wanted:
                takes_part = peers + (programs if scenario.programs_too() else [])
                if scenario.kind == "connect":
                    groups = measure_connections(scenario, takes_part, rounds, seconds)
                else:
                    groups = [measure(scenario, takes_part, rounds, seconds)]
                for rows in groups:
                    show(rows)
                    results += rows
        finally:
            for peer in peers + programs:
                peer.stop()
    if not chosen.quick:
        for other, options, idle in (
            ("8000 idle", (), 8000),
            ("every limit", EVERY_LIMIT, 1),
            ("two workers", ("--workers", "2"), 1),
            ("all of --admin scraped each second", ADMIN, 1),
            ("everything on", EVERYTHING, 1),
        ):
            if chosen.only in other:
                rows = beside_another(other, options, idle, rounds, seconds)
                show(rows)
                results += rows
        if chosen.only in "beside streams":
            rows = beside_streams(names + compiled_peers(False), 8, 2 * rounds, seconds / 2)
            show(rows)
            results += rows
        more: dict[str, Callable[[], list[Row]]] = {
            "swept": lambda: swept(10_000, rounds, seconds),
            "scrape": lambda: scrape(10_000, rounds),
            "turned away, plain": lambda: turned_away(False, rounds),
            "turned away, TLS": lambda: turned_away(True, rounds),
            "check": lambda: check(rounds),
        }
        for name, measured in more.items():
            if chosen.only in name:
                rows = measured()
                show(rows)
                results += rows
        for tls in (False, True):
            for connections in (1000, 8000):
                if chosen.only in "memory":
                    rows = memory(tls, connections, names)
                    show(rows)
                    results += rows
    if chosen.markdown:
        print(f"\n{markdown(results)}")
    if chosen.json:
        with open(chosen.json, "w") as file:
            json.dump({"machine": machine, "rounds": rounds, "results": results}, file, indent=1)


if __name__ == "__main__":
    sys.exit(main())
