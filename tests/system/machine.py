"""
A Debian that is booted under systemd, with echod's units installed; it ends with its C{with}
block.

Invariant: every wait has a deadline, and what was started here ends here, also if the test fails.
"""

import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support.daemons import wait_until
from tests.system.tree import REPOSITORY, alone, container, installation, tree

LIFE_SECONDS = 120
"""After this time the machine is ended, even if this process has been killed."""

COMMAND_SECONDS = 120.0

HERE = Path(__file__).resolve().parent
UNITS = "/etc/systemd/system"


def children(pid: int) -> dict[int, str]:
    """
    The children of a process, and the names of their programs (stat in proc(5)).
    """
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            before, _, after = (entry / "stat").read_text().rpartition(")")
        except OSError:
            continue  # It has gone in the meantime.
        if int(after.split()[1]) == pid:
            found[int(entry.name)] = before.partition("(")[2]
    return found


class ClientRun:
    """
    A run of C{client.py}.

    @ivar found: what it has printed at the end.
    """

    found: Any = None


class Machine:
    """
    The machine.

    @ivar folder: a folder of this process that is C{/io} there.
    """

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._leader = 0

    def __enter__(self) -> Self:
        try:
            self._boot()
        except BaseException:
            self._stack.close()
            raise
        return self

    def _boot(self) -> None:
        binds = {installation(): "/opt/echod", REPOSITORY / "deploy": "/deploy", HERE: "/clients"}
        root, _ = tree()
        self._stack.enter_context(alone())
        temporary = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="echod-io-"))
        self.folder = Path(temporary)
        command = container(
            root,
            *(f"--bind-ro={outside}:{inside}" for outside, inside in binds.items()),
            *(f"--bind={self.folder}:/io", "--console=pipe", "--boot"),
        )
        console = self._stack.enter_context((self.folder / "console").open("w"))
        self._timeout = subprocess.Popen(
            ["timeout", "--kill-after=5", str(LIFE_SECONDS), *command],
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=console,
        )
        self._stack.callback(self._end)
        self._leader = wait_until(self._find_leader, "systemd to be started")
        wait_until(self._is_up, "the machine to be up")

    def _find_leader(self) -> int:
        if self._timeout.poll() is not None:
            console = (self.folder / "console").read_text()
            raise AssertionError(f"systemd-nspawn ended at once: {console}")
        for nspawn in children(self._timeout.pid):
            for leader, name in children(nspawn).items():
                # Until then it is systemd-nspawn that prepares the machine.
                if name == "systemd":
                    return leader
        return 0

    def _is_up(self) -> bool:
        asked = self._inside("systemctl", "is-system-running", "--wait")
        return not subprocess.run(asked, capture_output=True, timeout=COMMAND_SECONDS).returncode

    def _end(self) -> None:
        if self._leader:
            # With it ends all that runs in there, and systemd-nspawn then tidies up.
            os.kill(self._leader, signal.SIGKILL)
        else:
            self._timeout.terminate()
        self._timeout.wait(COMMAND_SECONDS)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if error is not None:
                print(self.run("journalctl", "--no-pager", "--lines=60", "--output=short-precise"))
        finally:
            self._stack.close()

    def _inside(self, *command: str) -> list[str]:
        path = "PATH=/usr/sbin:/usr/bin:/sbin:/bin"
        return ["nsenter", f"--target={self._leader}", "--all", "--", "env", "-i", path, *command]

    def run(self, *command: str, status: int = 0, seconds: float = COMMAND_SECONDS) -> str:
        """
        Run a command in there.

        @return: what it wrote.
        """
        done = subprocess.run(
            self._inside(*command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=seconds,
        )
        if done.returncode != status:
            raise AssertionError(f"{' '.join(command)}: {done.returncode}, {done.stdout}")
        return done.stdout

    def write(self, path: str, content: bytes | str, mode: int = 0o644) -> None:
        """
        Write a file in there, and the folders that it takes.
        """
        content = content.encode() if isinstance(content, str) else content
        (self.folder / "file").write_bytes(content)
        self.run("install", "-D", f"--mode={mode:o}", "/io/file", path)

    def install(self, *units: str, **drop_ins: str) -> None:
        """
        Install units and drop-ins of C{deploy/}, and more drop-ins for the service.

        @param drop_ins: lines for C{[Service]}, by the drop-in's name.
        """
        for unit in units:
            self.run("install", "-D", "--mode=644", f"/deploy/{unit}", f"{UNITS}/{unit}")
        for name, lines in drop_ins.items():
            # Behind those of deploy/.
            path = f"{UNITS}/echod.service.d/zz-{name}.conf"
            self.write(path, f"[Service]\n{lines}\n")
        self.run("systemctl", "daemon-reload")

    def show(self, name: str) -> str:
        """
        A property of the service.
        """
        return self.run("systemctl", "show", "--value", f"--property={name}", "echod").strip()

    def journal(self) -> str:
        """
        What the service, and systemd of it, have logged.
        """
        return self.run("journalctl", "--no-pager", "--unit=echod", "--output=cat")

    def process(self) -> Mapping[str, str]:
        """
        C{/proc/PID/status} (proc(5)) of the service.
        """
        status = self.run("cat", f"/proc/{self.show('MainPID')}/status")
        return dict(line.replace("\t", " ").split(": ", 1) for line in status.splitlines())

    def run_client(self, *arguments: str) -> Any:
        """
        Run C{client.py} in the machine until it ends.

        @return: what it has printed.
        """
        return json.loads(self.run("python3", "/clients/client.py", *arguments))

    @contextmanager
    def clients(self, *arguments: str) -> Iterator[ClientRun]:
        """
        Clients in the machine for the length of a C{with} block.
        """
        told = ClientRun()
        process = subprocess.Popen(
            self._inside("python3", "/clients/client.py", *arguments),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        try:
            if process.stdout.readline() != "here\n":
                raise AssertionError("the clients did not connect")
            yield told
            written, _ = process.communicate("", COMMAND_SECONDS)
            told.found = json.loads(written)
        finally:
            process.kill()
            process.communicate()
