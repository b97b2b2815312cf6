"""
C{python -m tests.bench.conformance [--only WORD]}: the exactness suite of C{echod-check}, run
against echod and against others, as a table in Markdown.

Invariant: each server is a real one, started here on a free port, and the table is what
C{echod-check --conformance --json} has printed about it.
"""

import argparse
import datetime
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.bench.peers import Peer, program_peers, python_peers
from tests.support.certificates import make_certificate

HAPROXY = """
defaults
    mode tcp
    timeout connect 60s
    timeout client 60s
    timeout server 60s
listen echo
    bind 127.0.0.1:{front}{tls}
    server echod 127.0.0.1:{back}
"""
NAMES = {"twisted": "wire.Echo", "asyncio": "asyncio", "uvloop": "uvloop"}
CASE_TIMEOUT = ("--timeout", "20s")
MAX_SECONDS = 600


@dataclass(frozen=True)
class Column:
    """
    One server of a table.

    @ivar peer: what it is, as L{Peer} names it.
    @ivar proxy: C{None}, C{"tcp"} for HAProxy before it, or C{"terminates"} for HAProxy
        that ends TLS before it.
    """

    peer: str
    tls: bool
    proxy: str | None = None

    @property
    def name(self) -> str:
        name = NAMES.get(self.peer, self.peer)
        if self.proxy is None:
            return name
        return f"{name} behind HAProxy" + (" that ends TLS" if self.proxy == "terminates" else "")


def columns() -> list[Column]:
    """
    The servers that are installed.
    """
    proxies = ["tcp"] if shutil.which("haproxy") else []
    found = [Column("echod", False), *(Column("echod", False, proxy) for proxy in proxies)]
    found += [Column(name, False) for name in python_peers() if name != "echod"]
    found += [Column(name, False) for name in program_peers()]
    found += [Column("echod", True), *(Column("echod", True, proxy) for proxy in proxies)]
    found += [Column("echod", True, "terminates") for _ in proxies]
    found += [Column(name, True) for name in python_peers() if name != "echod"]
    return found


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def haproxy(back: int, terminates: bool) -> Iterator[int]:
    """
    HAProxy before a server on this port.

    @return: its own port.
    """
    front = _free_port()
    with tempfile.TemporaryDirectory(prefix="echod-conformance-") as folder:
        made = make_certificate()
        Path(folder, "pem").write_bytes(made.cert_pem + made.key_pem)
        tls = f" ssl crt {folder}/pem" if terminates else ""
        config = Path(folder, "haproxy.cfg")
        config.write_text(HAPROXY.format(front=front, back=back, tls=tls))
        child = subprocess.Popen(["haproxy", "-db", "-f", str(config)], stderr=subprocess.DEVNULL)
        try:
            deadline = time.monotonic() + 20
            while True:
                try:
                    socket.create_connection(("127.0.0.1", front), 1).close()
                    break
                except OSError:
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.02)
            yield front
        finally:
            child.terminate()
            child.wait()


def ask(port: int, tls: bool) -> list[dict[str, Any]]:
    """
    Run the suite.

    @return: its cases.
    """
    program = str(Path(sys.executable).with_name("echod-check"))
    options = ["--tls", "--insecure"] if tls else []
    done = subprocess.run(
        [program, "--conformance", "--json", *CASE_TIMEOUT, *options, f"127.0.0.1:{port}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        timeout=MAX_SECONDS,
    )
    cases: list[dict[str, Any]] = json.loads(done.stdout)["cases"]
    return cases


def run(column: Column) -> list[dict[str, Any]]:
    """
    Start a server, ask about it, and end it.
    """
    terminates = column.proxy == "terminates"
    peer = Peer(column.peer, column.tls and not terminates, "--access-log", "off")
    try:
        if column.proxy is None:
            return ask(peer.port, column.tls)
        with haproxy(peer.port, terminates) as front:
            return ask(front, column.tls)
    finally:
        peer.stop()


def _count(number: int) -> str:
    for unit, size in (("MiB", 1 << 20), ("KiB", 1 << 10)):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return f"{number} B"


def cell(case: dict[str, Any]) -> str:
    """
    How a case ended: C{pass}, or why not and how much did not come back.
    """
    if case["passed"]:
        return "pass"
    lost = f", {_count(case['lost'])}" if case["lost"] else ""
    return f"**{case['outcome']}{lost}**"


def table(results: dict[Column, list[dict[str, Any]]]) -> str:
    """
    A table: a line for each case, a column for each server.
    """
    heads = [column.name for column in results]
    lines = ["| | " + " | ".join(heads) + " |", "|---|" + "---|" * len(heads)]
    for row in zip(*results.values(), strict=True):
        lines.append(f"| {row[0]['case']} | " + " | ".join(map(cell, row)) + " |")
    passed = [f"{sum(c['passed'] for c in cases)} of {len(cases)}" for cases in results.values()]
    lines.append("| passed | " + " | ".join(passed) + " |")
    return "\n".join(lines)


def versions() -> str:
    """
    What was run, each with its version.
    """
    found = [f"{name} {version(name)}" for name in ("echod", "Twisted", "pyOpenSSL", "uvloop")
             if name != "uvloop" or "uvloop" in python_peers()]  # fmt: skip
    for package in ("haproxy", "xinetd", "ncat", "socat"):
        done = subprocess.run(
            ["dpkg-query", "-W", "-f", "${Version}", package], capture_output=True, text=True
        )
        if done.returncode == 0 and done.stdout:
            found.append(f"{package} {done.stdout}")
    return ", ".join(found)


def main() -> int:
    """
    Run it all.

    @return: 0 when echod passed everything.
    """
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.conformance",
        description="Run echod-check --conformance against echod and against other servers.",
    )
    parser.add_argument(
        "--only", metavar="WORD", default="", help="only servers with this word in their name"
    )
    chosen = parser.parse_args()
    system = platform.freedesktop_os_release().get("PRETTY_NAME", platform.system())
    print(
        f"{datetime.date.today().isoformat()}, {system}, {platform.system()} "
        f"{platform.release().partition('-')[0]}, {os.cpu_count()} cores, "
        f"Python {platform.python_version()}; {versions()}"
    )
    good = True
    for tls in (False, True):
        wanted = [c for c in columns() if c.tls == tls and chosen.only in c.name]
        if not wanted:
            continue
        results = {column: run(column) for column in wanted}
        good = good and all(
            case["passed"]
            for column, cases in results.items()
            if column.peer == "echod" and column.proxy is None
            for case in cases
        )
        print(f"\n{'Over TLS' if tls else 'Plain'}:\n\n{table(results)}", flush=True)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
