"""
Runs twistd, twist and echod-check many times, in processes that have their imports already:
C{prefork.py SOCKET}.  Each command line is a process of its own, forked from one that has
imported what they all import and nothing that a command line decides on, the reactor above all.

Invariant: what a process does after its imports is what it does when it is started anew; so
this is for tests of what comes then.
"""

import argparse
import atexit
import functools
import json
import os
import re
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

PRELOADED = (
    *("twisted.scripts.twistd", "twisted.application.twist._twist"),
    *("twisted.internet.epollreactor", "twisted.internet.endpoints", "twisted.internet.ssl"),
    *("twisted.plugins.echod_plugin", "echod.tap", "echod.net.reactor"),
    *("echod.check.runner", "echod.check.ping", "echod.check.conformance", "echod.check.tls"),
)

PROGRAMS = ("twistd", "twist", "echod-check")

STARTUP = Path(__file__).with_name("startup")
"""The folder of the module that sets the times of a daemon."""

MAX_BYTES = 1 << 20


class Forked:
    """
    A process, as L{subprocess.Popen} has it.

    @ivar pid: its number.
    """

    def __init__(self, server: socket.socket):
        """
        @param server: tells of the process; when it is closed, the process is killed.
        """
        self._server = server
        self._status: int | None = None
        self.pid = int(server.recv(100))

    def wait(self, timeout: float | None = None) -> int:
        """
        @return: its exit status, negative for a signal.
        @raise subprocess.TimeoutExpired: it has not ended in time.
        """
        if self._status is None:
            self._server.settimeout(timeout)
            try:
                self._status = int(self._server.recv(100))
            except TimeoutError:
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0) from None
            self._server.close()
        return self._status

    def kill(self) -> None:
        self._server.close()


class Prefork:
    """
    The process that forks.  It ends with this process.
    """

    def __init__(self) -> None:
        self._folder = tempfile.mkdtemp(prefix="echod-")
        self._path = f"{self._folder}/socket"
        self._process = subprocess.Popen(
            [sys.executable, __file__, self._path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=self._folder,
        )
        assert self._process.stdout is not None
        if self._process.stdout.readline() != b"ready\n":
            self.close()
            raise AssertionError("the process that forks did not start")

    def close(self) -> None:
        """
        End it.
        """
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
        shutil.rmtree(self._folder)

    def spawn(
        self, command: Sequence[str], cwd: Path, env: Mapping[str, str], streams: Sequence[int]
    ) -> Forked:
        """
        Start a command line of one of C{PROGRAMS}.

        @param streams: the descriptors of its standard streams.
        """
        asked = json.dumps({"command": command, "cwd": str(cwd), "env": dict(env)}).encode()
        server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            server.connect(self._path)
            socket.send_fds(server, [asked], streams)
            return Forked(server)
        except BaseException:
            server.close()
            raise

    def run(
        self, command: Sequence[str], cwd: Path, env: Mapping[str, str], seconds: float
    ) -> subprocess.CompletedProcess[str]:
        """
        What L{subprocess.run} does with C{capture_output}.

        @raise subprocess.TimeoutExpired: it has not ended in time; it is killed.
        """
        with (
            open(os.devnull, "rb") as null,
            tempfile.TemporaryFile("w+", encoding="utf-8") as out,
            tempfile.TemporaryFile("w+", encoding="utf-8") as err,
        ):
            streams = [file.fileno() for file in (null, out, err)]
            process = self.spawn(command, cwd, env, streams)
            try:
                status = process.wait(seconds)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
            texts = []
            for file in (out, err):
                file.seek(0)
                texts.append(file.read())
        return subprocess.CompletedProcess(list(command), status, *texts)


@functools.cache
def shared() -> Prefork:
    """
    The one of this process, for all of its tests.
    """
    made = Prefork()
    atexit.register(made.close)
    return made


def serve(path: str) -> tuple[dict[str, Any], list[int]]:
    """
    Fork for each command line, until standard input ends.

    @return: in a process that is to run one, the command line and its standard streams.
    """
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listening.bind(path)
    listening.listen(100)
    print("ready", flush=True)
    while listening in select.select([listening, 0], [], [])[0]:
        client, _ = listening.accept()
        if os.fork():
            client.close()
            # Whichever has ended by now.
            with suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            continue
        # This one waits for the process, as the one who asked cannot.
        listening.close()
        data, descriptors, *_ = socket.recv_fds(client, MAX_BYTES, 3)
        asked: dict[str, Any] = json.loads(data)
        child = os.fork()
        if not child:
            client.close()
            return asked, descriptors
        watch(client, child, descriptors)
    os._exit(0)


def watch(client: socket.socket, child: int, descriptors: list[int]) -> NoReturn:
    """
    Tell the one who asked of the process, and kill it when that one is gone.
    """
    for descriptor in (0, 1, *descriptors):
        os.close(descriptor)
    with suppress(OSError):
        client.send(b"%d" % child)
    ended = os.pidfd_open(child)
    if ended not in select.select([client, ended], [], [])[0]:
        signal.pidfd_send_signal(ended, signal.SIGKILL)
    # Until it is asked for, its number stays its own.
    exited = os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    assert exited is not None
    killed = exited.si_code != os.CLD_EXITED
    with suppress(OSError):
        client.send(b"%d" % (-exited.si_status if killed else exited.si_status))
        client.recv(1)
    os.waitpid(child, 0)
    os._exit(0)


def take(streams: list[int]) -> None:
    """
    Make these the standard streams.
    """
    for number, descriptor in enumerate(streams):
        os.dup2(descriptor, number)
        os.close(descriptor)
    # Those of before know whether they could seek.
    for name, number, buffering in (("stdout", 1, -1), ("stderr", 2, 1)):
        stream = open(number, "w", buffering, closefd=False)  # noqa: SIM115
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def leave(status: object) -> NoReturn:
    """
    Exit as Python does (sys.exit), but leave it to the system to free the memory: that of a
    forked process takes ten times as long to free as most command lines take to run.
    """
    if isinstance(status, str):
        print(status, file=sys.stderr)
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(status if isinstance(status, int) else int(bool(status)))


def main() -> None:
    """
    Import, fork for each command line, and run it in the forked process.
    """
    parser = argparse.ArgumentParser(description="Fork for each command line that is asked for.")
    parser.add_argument("socket", help="where to listen for them")
    path = parser.parse_args().socket
    for name in PRELOADED:
        __import__(name)
    if "twisted.internet.reactor" in sys.modules:
        raise SystemExit("a reactor has been imported, and the command line has no choice")
    asked, streams = serve(path)
    take(streams)
    os.chdir(asked["cwd"])
    os.environ.clear()
    os.environ.update(asked["env"])
    # Workers import from the same folders.
    sys.path.insert(1, str(STARTUP))
    runpy.run_path(str(STARTUP / "sitecustomize.py"))
    sys.argv[:] = asked["command"]
    # As the console script of each.
    sys.argv[0] = re.sub(r"(-script\.pyw|\.exe)?$", "", sys.argv[0])
    match Path(sys.argv[0]).name:
        case "twistd":
            from twisted.scripts.twistd import run
        case "twist":
            from twisted.application.twist._twist import Twist

            run = Twist.main
        case _:
            from echod.check import main as run
    try:
        status = run()
    except SystemExit as end:
        status = end.code
    leave(status)


if __name__ == "__main__":
    # What a console script has there, not the folder of this file.
    sys.path[0] = str(Path(sys.executable).parent)
    main()
