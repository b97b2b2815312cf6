"""
The servers that are measured: echod and others, each a process of its own, pinned to one
core, on a port of its own choice.
"""

import functools
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


def compiled_peers(tls: bool) -> list[str]:
    """
    The peers that are compiled here, as far as there is a compiler.  That in C speaks no TLS.
    """
    found = ["C"] if shutil.which("cc") and not tls else []
    return found + (["Go"] if shutil.which("go") else [])


def program_peers() -> list[str]:
    """
    The programs that are installed; each forks for a connection, and speaks no TLS.
    """
    return [name for name in ("xinetd", "ncat", "socat") if shutil.which(name)]


_compiled = tempfile.TemporaryDirectory(prefix="echod-bench-")


@functools.cache
def _compile(name: str) -> str:
    """
    Compile a server.

    @return: the path of the program.
    """
    source = Path(__file__).with_name("echo.c" if name == "C" else "echo.go")
    program = str(Path(_compiled.name) / name)
    command = ["cc", "-O2", "-o"] if name == "C" else ["go", "build", "-o"]
    subprocess.run([*command, program, str(source)], check=True)
    return program


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

    def __init__(self, name: str, tls: bool, *options: str):
        """
        @param options: for echod, which has its default configuration otherwise, and logs to a
            file, with access records.  C{{}} in one stands for the server's own directory.
        """
        self.name = name
        self._directory = tempfile.TemporaryDirectory(prefix="echod-bench-")
        self._path = Path(self._directory.name)
        self._options = [option.replace("{}", self._directory.name) for option in options]
        self._log = self._path / "log" if name == "echod" else None
        self._forks = name in program_peers()
        self._has_children = self._forks or "--workers" in options
        # At that level, the log does not tell the port.
        self.port = _free_port() if self._forks or "--log-level" in options else 0
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
        if self._log is not None:
            listen = ["--tls-port", port, "--tls-cert", str(pem)] if pem else ["--port", port]
            twistd = str(Path(sys.executable).with_name("twistd"))
            command = [twistd, "-n", "--pidfile=", "--logfile", str(self._log), "echod"]
            return [*command, *listen, *self._options]
        files = [str(pem)] if pem else []
        if name in ("C", "Go"):
            return [_compile(name), *files]
        if not self._forks:
            return [sys.executable, "-m", "tests.bench.servers", name, *files]
        if name == "xinetd":
            config = self._path / "xinetd.conf"
            config.write_text(XINETD.format(port=port))
            return ["xinetd", "-dontfork", "-f", str(config), "-pidfile", str(self._path / "pid")]
        if name == "ncat":
            return ["ncat", "--listen", "127.0.0.1", port, "--keep-open", "--exec", "/bin/cat"]
        return ["socat", f"TCP-LISTEN:{port},bind=127.0.0.1,fork,reuseaddr,backlog=1024", "PIPE"]

    def _said(self) -> str:
        """
        What it has printed or logged so far.
        """
        if self._log is not None:
            return self._log.read_text() if self._log.exists() else ""
        assert self._process.stdout is not None
        return self._process.stdout.readline().decode()

    def _wait(self) -> None:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and self._process.poll() is None:
            if self.port:
                try:
                    socket.create_connection(("127.0.0.1", self.port), 1).close()
                    return
                except OSError:
                    pass
            elif found := re.search(r"listening on \S+:(\d+),|^(\d+)$", self._said(), re.M):
                self.port = int(found[1] or found[2])
                # Workers are up when a client is served.
                if not self._has_children:
                    return
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
        for entry in Path("/proc").iterdir() if self._has_children else ():
            if entry.name.isdigit() and (fields := _stat(int(entry.name))):
                parents[int(entry.name)] = int(fields[1])
        found = [self._process.pid]
        for pid in found:
            found += [child for child, parent in parents.items() if parent == pid]
        return found

    def cpu_seconds(self) -> float:
        """
        CPU used until now, user and system, that of all threads and children included.  A
        process that does not fork for each connection has it to the nanosecond (schedstat in
        proc(5)), others to the clock tick.
        """
        tree = self._tree()
        if not self._forks:
            threads = [each for pid in tree for each in Path(f"/proc/{pid}/task").iterdir()]
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
