"""
One client does its worst with 256 connections, and another one's echo goes on.

The measure of what that one waits for is the CPU time that the daemon uses between its
message and the echo, which other processes on the machine do not change.
"""

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from twisted.trial.unittest import TestCase

import tests
from tests import worst
from tests.certificates import make_certificate
from tests.integration.admin import ADMIN
from tests.integration.support import (
    LOOPBACK,
    PATIENCE_SECONDS,
    Daemon,
    connect,
    echo,
    show,
    wait_until,
)

ROOT = Path(tests.__file__).parent.parent


@contextmanager
def flood(name: str, address: str, number: int) -> Iterator[None]:
    """
    Have this done by another process, meanwhile.
    """
    command = (sys.executable, "-m", "tests.worst", name, address, str(number))
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe) as attack:
        assert attack.stdin is not None and attack.stdout is not None
        try:
            assert attack.stdout.readline() == b"ready\n"
            yield
        finally:
            attack.kill()


class BystanderTestCase(TestCase):
    """
    A daemon that has all kinds of listeners.
    """

    number = 256
    echoes = 100
    most_seconds = 0.1

    def daemon(self, *options: str) -> Daemon:
        daemon = Daemon(
            *LOOPBACK,
            *("--listen", "unix:{}/echo.sock"),
            *("--tls-port", "0", "--tls-cert", "{}/pem", "--tls-alpn", "h2,echo"),
            *options,
            *ADMIN,
            *("--access-log", "off", "--drain-timeout", "500ms"),
        )
        made = make_certificate()
        (daemon.directory / "pem").write_bytes(made.cert_pem + made.key_pem)
        return daemon

    def proxied(self) -> Daemon:
        """
        One that takes PROXY headers, before TLS.
        """
        listen = ("--tls-listen", "tcp:0:interface=127.0.0.1", "--tls-cert", "{}/pem")
        proxies = ("--proxy-protocol", "optional", "--proxy-trust", "127.0.0.1/32")
        daemon = Daemon(*LOOPBACK, *listen, *proxies, "--drain-timeout", "500ms")
        made = make_certificate()
        (daemon.directory / "pem").write_bytes(made.cert_pem + made.key_pem)
        return daemon

    def waits(self, daemon: Daemon, client: socket.socket) -> list[float]:
        """
        How much CPU time the daemon used for each of so many echoes, and for what came
        between, in order.
        """
        times = []
        for number in range(self.echoes):
            message = b"%064d" % number
            before = daemon.cpu()
            self.assertEqual(echo(client, message), message)
            times.append(daemon.cpu() - before)
        return sorted(times)

    def beside(self, name: str, kind: worst.Kind) -> None:
        """
        While this goes on, another one's echo does, and so does a stop.
        """
        with self.daemon() if kind.option != "--tls-listen" else self.proxied() as daemon:
            client = connect(daemon.address("--port"))
            self.addCleanup(client.close)
            self.assertEqual(echo(client, b"hello"), b"hello")
            with flood(name, daemon.address(kind.option), self.number):
                times = self.waits(daemon, client)
                daemon.signal(signal.SIGTERM)
                start = time.monotonic()
                daemon.wait("the stop", PATIENCE_SECONDS)
                stopped = time.monotonic() - start
        show(
            f"{self.number} x {name}: the daemon used {times[-1] * 1000:.1f} ms for an echo at "
            f"most, {times[len(times) // 2] * 1000:.2f} ms in the middle; stopped in "
            f"{stopped:.1f} s"
        )
        self.assertLess(times[-1], self.most_seconds, name)


class PlainTests(BystanderTestCase):
    """
    What can be done without TLS.
    """

    def test_all(self) -> None:
        """
        Whatever it does, the other one's echo takes at most a tenth of a second.
        """
        for name, kind in worst.PLAIN.items():
            self.beside(name, kind)

    def test_workers(self) -> None:
        """
        Workers answer their parent meanwhile.
        """
        with self.daemon("--workers", "2") as daemon:
            wait_until(lambda: "workers up" in daemon.log, "the workers")
            for name in ("small writes", "connect and close"):
                with flood(name, daemon.address("--port"), self.number):
                    # Five questions without an answer, two seconds apart, are the end of one.
                    over = time.monotonic() + 12
                    with connect(daemon.address("--port")) as client:
                        while time.monotonic() < over:
                            self.assertEqual(echo(client, b"hello"), b"hello")
            self.assertNotIn("killed", daemon.log)
            daemon.stop()
