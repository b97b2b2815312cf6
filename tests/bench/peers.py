"""
The servers that are measured: echod and others, each a process of its own, pinned to one
core, on a port of its own choice.
"""

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

from tests.support.certificates import make_certificate

SERVER_CORE = 0
XINETD = """
defaults
{{
    instances = UNLIMITED
    cps = 100000 1
}}
service echo
{{
    type = INTERNAL UNLISTED
    id = echo-stream
    socket_type = stream
    protocol = tcp
    wait = no
    user = root
    bind = 127.0.0.1
    port = {port}
}}
"""


def python_peers() -> list[str]:
    """
    The peers that run in Python, those that are installed.
    """
    return ["echod", "twisted", "asyncio"] + (["uvloop"] if find_spec("uvloop") else [])


def program_peers() -> list[str]:
    """
    The programs that are installed; each forks for a connection, and speaks no TLS.
    """
    return [name for name in ("xinetd", "ncat", "socat") if shutil.which(name)]


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def _stat(pid: int) -> list[str]:
    """
    The fields of stat in proc(5), from the third on; none when the process is gone.
    """
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


class Peer:
    """
    One running server.

    @ivar port: where it listens.
    """

    def __init__(self, name: str, tls: bool, *options: str, log_to_file: bool = False):
        """
        @param options: for echod.  C{{}} in one stands for the server's own directory.
        @param log_to_file: whether echod logs to a file, with access records, as by default.
            Otherwise it logs to a pipe, and has no access log.
        """
        self.name = name
        self._directory = tempfile.TemporaryDirectory(prefix="echod-bench-")
        self._path = Path(self._directory.name)
        self._options = [option.replace("{}", self._directory.name) for option in options]
        self._log = self._path / "log" if log_to_file else None
        self._forks = name not in python_peers()
        self.port = _free_port() if self._forks or log_to_file else 0
        pem = None
        if tls:
            made = make_certificate(names=("localhost",))
            pem = self._path / "pem"
            pem.write_bytes(made.cert_pem + made.key_pem)
        pin = (
            (lambda: os.sched_setaffinity(0, {SERVER_CORE}))
            if (os.cpu_count() or 1) > 1
            else (lambda: None)
        )
        self._process = subprocess.Popen(
            self._command(pem), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, preexec_fn=pin
        )
        self._wait()

    def _command(self, pem: Path | None) -> list[str]:
        name, port = self.name, str(self.port)
        if name == "echod":
            listen = ["--tls-port", port, "--tls-cert", str(pem)] if pem else ["--port", port]
            twistd = str(Path(sys.executable).with_name("twistd"))
            command = [twistd, "-n", "--pidfile="]
            log = ["echod", "--access-log", "off"]
            if "--access-log" in self._options:
                log = ["echod"]
            if self._log is not None:
                log = ["--logfile", str(self._log), "echod"]
            return [*command, *log, *listen, *self._options]
        if not self._forks:
            return [sys.executable, "-m", "tests.bench.servers", name, *([str(pem)] if pem else [])]
        if name == "xinetd":
            config = self._path / "xinetd.conf"
            config.write_text(XINETD.format(port=port))
            return ["xinetd", "-dontfork", "-f", str(config), "-pidfile", str(self._path / "pid")]
        if name == "ncat":
            return ["ncat", "--listen", "127.0.0.1", port, "--keep-open", "--exec", "/bin/cat"]
        return ["socat", f"TCP-LISTEN:{port},bind=127.0.0.1,fork,reuseaddr,backlog=1024", "PIPE"]

    def _wait(self) -> None:
        deadline = time.monotonic() + 20
        while not self.port:
            assert self._process.stdout is not None
            line = self._process.stdout.readline().decode()
            if not line or time.monotonic() > deadline:
                raise RuntimeError(f"{self.name} did not start")
            if found := re.search(r"listening on \S+:(\d+),|^(\d+)$", line):
                self.port = int(found[1] or found[2])
                return
        while time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                time.sleep(0.02)
        raise RuntimeError(f"{self.name} did not start")

    @property
    def admin(self) -> str:
        """
        The path of its admin socket, with C{--admin unix:{}/admin}.
        """
        return str(self._path / "admin")

    def _tree(self) -> list[int]:
        parents: dict[int, int] = {}
        for entry in Path("/proc").iterdir() if self._forks else ():
            if entry.name.isdigit() and (fields := _stat(int(entry.name))):
                parents[int(entry.name)] = int(fields[1])
        found = [self._process.pid]
        for pid in found:
            found += [child for child, parent in parents.items() if parent == pid]
        return found

    def cpu_seconds(self) -> float:
        """
        CPU used until now, user and system, that of all threads and children included.  A
        process without children has it to the nanosecond (schedstat in proc(5)), others to the
        clock tick.
        """
        tree = self._tree()
        if not self._forks:
            threads = Path(f"/proc/{tree[0]}/task").iterdir()
            return sum(int((each / "schedstat").read_text().split()[0]) for each in threads) / 1e9
        ticks = sum(int(value) for pid in tree for value in _stat(pid)[11:15])
        return ticks / os.sysconf("SC_CLK_TCK")

    def rss_bytes(self) -> int:
        """
        The memory that the process occupies now (statm in proc(5)).
        """
        pages = Path(f"/proc/{self._process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def stop(self) -> None:
        """
        End it, and what it started.
        """
        for pid in reversed(self._tree()):
            try:
                os.kill(pid, 9)
            except ProcessLookupError:
                continue
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._directory.cleanup()
