"""
Runs twistd and twist many times, in processes that have their imports already: C{prefork.py
SOCKET}.  Each command line is a process of its own, forked from one that has imported what
they all import and nothing that a command line decides on, the reactor above all.

Invariant: what a process does after its imports is what it does when it is started anew; so
this is for tests of what comes then.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

PRELOADED = (
    *("twisted.scripts.twistd", "twisted.application.twist._twist"),
    *("twisted.internet.epollreactor", "twisted.internet.endpoints", "twisted.internet.ssl"),
    *("twisted.plugins.echod_plugin", "echod.tap", "echod.net.reactor"),
)

MAX_BYTES = 1 << 20


class Prefork:
    """
    The process that forks, for the length of a C{with} block.
    """

    def __init__(self, seconds: float):
        """
        @param seconds: how long a process may take.
        """
        self._seconds = seconds

    def __enter__(self) -> "Prefork":
        self._folder = tempfile.mkdtemp(prefix="echod-")
        self._path = f"{self._folder}/socket"
        self._process = subprocess.Popen(
            [sys.executable, __file__, self._path], stdout=subprocess.PIPE, cwd=self._folder
        )
        assert self._process.stdout is not None
        if self._process.stdout.readline() != b"ready\n":
            self.__exit__()
            raise AssertionError("the process that forks did not start")
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
        shutil.rmtree(self._folder)

    def run(
        self, command: Sequence[str], cwd: Path, env: Mapping[str, str]
    ) -> subprocess.CompletedProcess[str]:
        """
        What L{subprocess.run} does with C{capture_output}, for a command line of twistd's or
        twist's.

        @raise subprocess.TimeoutExpired: when it has not ended in time; it is killed.
        """
        asked = json.dumps({"command": command, "cwd": str(cwd), "env": dict(env)}).encode()
        texts: list[str] = ["", ""]
        readings: list[threading.Thread] = []

        def read(number: int, descriptor: int) -> None:
            with open(descriptor, encoding="utf-8") as file:
                texts[number] = file.read()

        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
            server.settimeout(self._seconds)
            server.connect(self._path)
            writing = []
            for number in range(2):
                ours, theirs = os.pipe()
                writing.append(theirs)
                readings.append(threading.Thread(target=read, args=(number, ours), daemon=True))
                readings[-1].start()
            socket.send_fds(server, [asked], writing)
            for descriptor in writing:
                os.close(descriptor)
            try:
                status = int(server.recv(100))
            except TimeoutError:
                raise subprocess.TimeoutExpired(command, self._seconds) from None
        for reading in readings:
            reading.join(self._seconds)
        return subprocess.CompletedProcess(list(command), status, *texts)


def serve(path: str) -> dict[str, Any]:
    """
    Fork for each command line.

    @return: in a process that is to run one, the command line.
    """
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listening.bind(path)
    listening.listen(100)
    print("ready", flush=True)
    while True:
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
        data, descriptors, *_ = socket.recv_fds(client, MAX_BYTES, 2)
        asked: dict[str, Any] = json.loads(data)
        child = os.fork()
        if not child:
            client.close()
            for number, descriptor in enumerate(descriptors, 1):
                os.dup2(descriptor, number)
                os.close(descriptor)
            # Those of before know whether they could seek, which a pipe cannot.
            for name, number, buffering in (("stdout", 1, -1), ("stderr", 2, 1)):
                stream = open(number, "w", buffering, closefd=False)  # noqa: SIM115
                setattr(sys, name, stream)
                setattr(sys, f"__{name}__", stream)
            return asked
        for descriptor in (1, *descriptors):
            os.close(descriptor)
        client.settimeout(0.05)
        ended = 0
        while not ended:
            ended, status = os.waitpid(child, os.WNOHANG)
            try:
                if not ended and not client.recv(1):
                    # No client waits any more.
                    os.kill(child, 9)
            except TimeoutError:
                pass
        with suppress(OSError):
            client.send(b"%d" % os.waitstatus_to_exitcode(status))
        os._exit(0)


def main() -> None:
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for name in PRELOADED:
        __import__(name)
    if "twisted.internet.reactor" in sys.modules:
        raise SystemExit("a reactor has been imported, and the command line has no choice")
    asked = serve(sys.argv[1])
    os.chdir(asked["cwd"])
    os.environ.clear()
    os.environ.update(asked["env"])
    sys.argv[:] = asked["command"]
    # As the console script of each.
    sys.argv[0] = re.sub(r"(-script\.pyw|\.exe)?$", "", sys.argv[0])
    if Path(sys.argv[0]).name == "twistd":
        from twisted.scripts.twistd import run
    else:
        from twisted.application.twist._twist import Twist

        run = Twist.main
    sys.exit(run())


if __name__ == "__main__":
    # What a console script has there, not the folder of this file.
    sys.path[0] = str(Path(sys.executable).parent)
    main()
