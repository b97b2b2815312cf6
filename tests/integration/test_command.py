"""
The command C{echod}, as a person on a terminal and a script see it.
"""

import contextlib
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from echod import __version__
from tests.support import needs
from tests.support.daemons import LOOPBACK, PATIENCE_SECONDS, connect, echo
from tests.support.workers import WorkersDaemon

ECHOD = str(Path(sys.executable).with_name("echod"))


class Terminal:
    """
    A program on a terminal of its own.
    """

    def __init__(self, *command: str, **environ: str):
        needs.terminal()
        self._ours, theirs = pty.openpty()
        try:
            self.process = subprocess.Popen(
                command,
                stdin=theirs,
                stdout=theirs,
                stderr=theirs,
                env={**os.environ, "TERM": "xterm", "NO_COLOR": "", **environ},
                start_new_session=True,
            )
        finally:
            os.close(theirs)
        self.text = ""

    def read(self, what: str) -> str:
        """
        Read until a pattern is there, or the program has ended.

        @return: all that has been read.
        """
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not re.search(what, self.text):
            if not select.select([self._ours], [], [], deadline - time.monotonic())[0]:
                raise AssertionError(f"waited in vain for {what}: {self.text}")
            try:
                data = os.read(self._ours, 4096)
            except OSError:
                # All other ends of the terminal are closed.
                break
            self.text += data.decode().replace("\r\n", "\n")
        return self.text

    def interrupt(self) -> int:
        """
        Send what Ctrl-C sends.

        @return: the exit status.
        """
        os.killpg(self.process.pid, signal.SIGINT)
        self.read("never")
        return self.process.wait(PATIENCE_SECONDS)

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(PATIENCE_SECONDS)
        os.close(self._ours)


@contextmanager
def terminal(*command: str, **environ: str) -> Iterator[Terminal]:
    """
    A program on a terminal, which is ended with the C{with} block.
    """
    running = Terminal(*command, **environ)
    try:
        yield running
    finally:
        running.close()


class TerminalTests(SynchronousTestCase):
    """
    C{echod} and C{python -m echod} on a terminal.
    """

    def test_start_and_stop(self) -> None:
        """
        The first line says where it listens and what to try; it echoes; Ctrl-C stops it, without
        a traceback.
        """
        for command in ((ECHOD,), (sys.executable, "-m", "echod")):
            with terminal(*command, *LOOPBACK) as daemon:
                first = daemon.read("\n").splitlines()[0]
                found = re.fullmatch(
                    rf"echod {re.escape(__version__)} listens on (127\.0\.0\.1:(\d+)); "
                    r"Ctrl-C stops it; try: nc -N 127\.0\.0\.1 (\d+)",
                    first,
                )
                assert found is not None, first
                self.assertEqual(found[2], found[3])
                with connect(found[1]) as client:
                    self.assertEqual(echo(client, b"hello"), b"hello")
                    client.close()
                daemon.read("closed by client\n")
                status = daemon.interrupt()
            self.assertEqual(status, -signal.SIGINT)
            self.assertNotIn("Traceback", daemon.text)
            self.assertIn(f" to {found[1]}: 5 bytes echoed in ", daemon.text)
            self.assertIn("[echod.connections#\x1b[32minfo\x1b[0m] connection 1 of ", daemon.text)
            for twisted in ("UnixAppLogger", "Factory starting", "Closed)", "listening on"):
                self.assertNotIn(twisted, daemon.text)

    def test_no_color(self) -> None:
        """
        With C{NO_COLOR} there are no colors; with C{--log-format json}, only JSON.
        """
        with terminal(ECHOD, *LOOPBACK, NO_COLOR="1") as daemon:
            daemon.read("\n")
            daemon.interrupt()
            self.assertIn("#info] echod stopped", daemon.text)
            self.assertNotIn("\x1b", daemon.text)
        with terminal(ECHOD, *LOOPBACK, "--log-format", "json") as daemon:
            self.assertTrue(daemon.read("\n").startswith('{"timestamp"'))

    def test_port_in_use(self) -> None:
        """
        A port in use is one line.
        """
        with terminal(ECHOD, *LOOPBACK) as daemon:
            port = re.findall(r"127\.0\.0\.1:(\d+);", daemon.read("\n"))[0]
            with terminal(ECHOD, "--interface", "127.0.0.1", "--port", port) as second:
                text = second.read("never")
                self.assertEqual(second.process.wait(PATIENCE_SECONDS), 1)
        option = f"echod: --port {port} --interface 127.0.0.1: "
        reason = "Address already in use; stop what listens there, or give another\n"
        self.assertEqual(text, option + reason)


class ScriptTests(SynchronousTestCase):
    """
    What scripts and service managers see.
    """

    def run_echod(self, *options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [ECHOD, *options],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
        )

    def test_statuses(self) -> None:
        """
        C{--check} tells what is right, a wrong option and a port in use apart.
        """
        with WorkersDaemon(2) as daemon:
            host, _, port = daemon.address().rpartition(":")
            for options, status in (
                (("--check", "--interface", host, "--port", "0"), 0),
                (("--check", "--interface", host, "--port", "x"), 78),
                (("--check", "--interface", host, "--port", port), 1),
                (("--interface", host, "--port", port), 1),
            ):
                done = self.run_echod(*options)
                self.assertEqual(done.returncode, status, done)
                self.assertEqual(len(done.stderr.splitlines()), int(status > 0), done)

    def test_lines_of_a_start(self) -> None:
        """
        A start and a stop with two workers take a dozen lines.
        """
        with WorkersDaemon(2) as daemon:
            daemon.stop()
            lines = daemon.log.splitlines()
        self.assertLessEqual(len(lines), 12, daemon)
        self.assertGreater(len(lines), 5)
