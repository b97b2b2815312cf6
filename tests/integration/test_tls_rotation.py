"""
Certificates that are replaced while the daemon serves.
"""

import hashlib
import itertools
import os
import re
import signal
import ssl
import stat
import threading
import time
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.support import needs
from tests.support.certificates import make_certificate
from tests.support.daemons import Daemon, Worker, echo, show, wait_until
from tests.support.handshakes import client_context
from tests.support.tlsfiles import TLSDaemon, authority, certificate, put, serial, trusting
from tests.support.workers import WorkersDaemon

RELOADS = 50
NEW_A_SECOND = 100
WATCH_SECONDS = 60.0


class RotationTestCase(SynchronousTestCase):
    """
    A daemon whose certificates come and go.
    """

    def setUp(self) -> None:
        self.authority = authority()

    def served(self, daemon: TLSDaemon) -> int:
        """
        The serial number of what a new connection is shown.
        """
        client = daemon.client(trusting(self.authority))
        try:
            client.verify("localhost")
            if client.exchange(b"ping") != b"ping":
                raise AssertionError("no echo")
            return serial(client)
        finally:
            client.close()


class ReloadTests(RotationTestCase):
    """
    C{kill -HUP}.
    """

    def test_many(self) -> None:
        """
        However often certificates are replaced: no handshake fails, no stream is touched,
        and new connections are shown the new one.
        """
        stop = threading.Event()
        with TLSDaemon([certificate(self.authority)]) as daemon:

            def newcomers() -> int:
                context = trusting(self.authority)
                start = time.monotonic()
                for number in itertools.count():
                    if stop.is_set():
                        return number
                    client = daemon.client(context)
                    if client.exchange(b"ping", close=False) != b"ping":
                        raise AssertionError("no echo")
                    client.close()
                    stop.wait(start + (number + 1) / NEW_A_SECOND - time.monotonic())
                return 0

            def stream() -> int:
                client = daemon.client(trusting(self.authority))
                try:
                    for number in itertools.count():
                        if stop.is_set():
                            return number
                        data = os.urandom(50_000)
                        if client.exchange(data, close=False) != data:
                            raise AssertionError("the stream is not what was sent")
                        stop.wait(0.01)
                finally:
                    client.close()
                return 0

            workers = [Worker(newcomers), Worker(stream), Worker(stream)]
            seen = []
            started = time.monotonic()
            try:
                for _ in range(RELOADS):
                    made = certificate(self.authority)
                    number = made.certificate.serial_number
                    daemon.install(made)
                    daemon.signal(signal.SIGHUP)
                    asked = time.monotonic()
                    wait_until(lambda n=number: self.served(daemon) == n, "the new serial")
                    seen.append(time.monotonic() - asked)
                    time.sleep(0.05)
            finally:
                stop.set()
            rate = time.monotonic() - started
            connections, *pieces = [worker.result() for worker in workers]
            self.assertEqual(daemon.events("reload-failed"), [])
            self.assertEqual(
                {event["reason"] for event in daemon.events("access")} - {"client", "reset"}, set()
            )
            assert isinstance(connections, int)
            show(
                f"{RELOADS} reloads, {connections} new connections at {connections / rate:.0f}/s, "
                f"0 failed; streams of {pieces} x 50,000 bytes exact; "
                f"new serial after {max(seen) * 1000:.0f} ms at most"
            )

    def test_wrong_files(self) -> None:
        """
        With a file that is cut short, of another, or gone, the old certificate is served on,
        with one line for each time; and when all is well again, the new one.
        """
        old, new = (certificate(self.authority) for _ in range(2))
        number = old.certificate.serial_number
        with TLSDaemon([old]) as daemon:
            cert, key = (daemon.directory / name for name in ("0.pem", "0.key"))
            for count, (path, content) in enumerate(
                (
                    (cert, old.cert_pem[:200]),
                    (key, old.key_pem[:100]),
                    (key, new.key_pem),
                    (cert, new.cert_pem),
                    (key, new.encrypted_key_pem(b"password")),
                    (cert, None),
                    (key, None),
                ),
                1,
            ):
                before = path.read_bytes()
                if content is None:
                    path.unlink()
                else:
                    put(path, content)
                daemon.signal(signal.SIGHUP)
                failed = wait_until(
                    lambda n=count: (found := daemon.events("reload-failed"))[n - 1 :] and found,
                    "the line",
                )
                self.assertEqual(len(failed), count)
                self.assertEqual((failed[-1]["level"], self.served(daemon)), ("error", number))
                put(path, before)
            daemon.install(new)
            daemon.signal(signal.SIGHUP)
            wait_until(
                lambda: self.served(daemon) == new.certificate.serial_number, "the new serial"
            )

    def test_unprivileged(self) -> None:
        """
        A daemon that gave up root, and cannot read its key any more, says so and serves on.
        """
        needs.other_user(65534)
        made = certificate(self.authority)
        ids = ("--uid", "65534", "--gid", "65534")
        with TLSDaemon([made], before=ids) as daemon:
            self.assertEqual(daemon.state("Uid").split(), ["65534"] * 4)
            daemon.signal(signal.SIGHUP)
            (failed, *_) = wait_until(lambda: daemon.events("reload-failed"), "the line")
            self.assertIn("Permission denied", failed["reason"])
            self.assertEqual(self.served(daemon), made.certificate.serial_number)


class WatchTests(RotationTestCase):
    """
    No signal tells the daemon.
    """

    def test_replaced(self) -> None:
        """
        Files that are replaced are noticed, also when only a link on the way to them is turned.
        """
        made = [certificate(self.authority) for _ in range(3)]
        numbers = [each.certificate.serial_number for each in made]
        with TLSDaemon(made[:1]) as daemon:
            self.assertEqual(self.served(daemon), numbers[0])
            daemon.install(made[1])
            wait_until(
                lambda: self.served(daemon) == numbers[1], "the second serial", WATCH_SECONDS
            )
        # As in a mounted secret: the files are links through a directory that is one.
        daemon = TLSDaemon(made[:1])
        for number, each in enumerate(made):
            folder = daemon.directory / f"..{number}"
            folder.mkdir()
            put(folder / "0.pem", each.chain)
            put(folder / "0.key", each.key_pem)
        data = daemon.directory / "..data"
        data.symlink_to("..0")
        for name in ("0.pem", "0.key"):
            (daemon.directory / name).unlink()
            (daemon.directory / name).symlink_to(f"..data/{name}")
        with daemon:
            self.assertEqual(self.served(daemon), numbers[0])
            turned = Path(f"{data}_tmp")
            turned.symlink_to("..2")
            turned.replace(data)
            wait_until(lambda: self.served(daemon) == numbers[2], "the third serial", WATCH_SECONDS)
            self.assertEqual(daemon.events("reload-failed"), [])


class WarningTests(RotationTestCase):
    """
    What an operator has to know at the start.
    """

    def test_at_start(self) -> None:
        """
        It tells of each certificate, of one that ends soon, and of a key that others can read.
        """
        soon = certificate(self.authority, "localhost", "192.0.2.1", days=0.25)
        daemon = TLSDaemon([soon, certificate(self.authority, "b.example")])
        (daemon.directory / "1.key").chmod(0o640)
        with daemon:
            first, second = daemon.events("certificate-loaded")
            self.assertEqual(
                (first["names"], second["names"]), ("localhost, 192.0.2.1", "b.example")
            )
            self.assertEqual(int(first["serial"], 16), soon.certificate.serial_number)
            end = f"{soon.certificate.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}"
            (warning,) = daemon.events("certificate-ends")
            self.assertEqual((warning["level"], warning["not_after"]), ("warn", end))
            (exposed,) = daemon.events("key-exposed")
            self.assertEqual((exposed["level"], Path(exposed["path"]).name), ("warn", "1.key"))


class KeyLogTests(RotationTestCase):
    """
    C{--tls-keylog}.
    """

    def randoms(self, path: Path) -> set[str]:
        return {line.split()[1] for line in path.read_text().splitlines()}

    def random(self, daemon: TLSDaemon) -> str:
        """
        What the key log knows a new connection by.
        """
        client = daemon.client(client_context())
        try:
            if client.exchange(b"ping") != b"ping":
                raise AssertionError("no echo")
            return client.tls.client_random().hex()
        finally:
            client.close()

    def test_secrets(self) -> None:
        """
        The secrets of each connection are there, for the owner only, with a loud warning; HUP
        begins a new file.
        """
        made = make_certificate(days=80)
        with TLSDaemon([made], "--tls-keylog", "{}/keys") as daemon:
            path, moved = daemon.directory / "keys", daemon.directory / "moved"
            self.assertEqual(stat.S_IMODE(path.stat().st_mode), 0o600)
            self.assertIn("the secrets of EVERY TLS connection", daemon.log)
            self.assertIn(self.random(daemon), self.randoms(path))
            path.rename(moved)
            daemon.signal(signal.SIGHUP)
            wait_until(path.exists, "the new file")
            self.assertIn(self.random(daemon), self.randoms(path))
            self.assertEqual(len(self.randoms(moved)), 1)

    def test_full_disk(self) -> None:
        """
        A full disk disturbs no client.
        """
        needs.file("/dev/full")
        with TLSDaemon([make_certificate(days=80)], "--tls-keylog", "/dev/full") as daemon:
            for _ in range(3):
                self.random(daemon)
            daemon.stop()
            self.assertEqual(daemon.log.count("cannot write to --tls-keylog"), 1)


class SelfSignedTests(SynchronousTestCase):
    """
    C{--tls-self-signed}.
    """

    def shown(self, daemon: WorkersDaemon) -> str:
        """
        The fingerprint of what a new connection is shown, which has to be valid for localhost.
        """
        host, _, port = daemon.address("--tls-port").rpartition(":")
        pem = ssl.get_server_certificate((host, int(port)))
        context = ssl.create_default_context(cadata=pem)
        with (
            daemon.connect("--tls-port") as raw,
            context.wrap_socket(raw, server_hostname="localhost") as client,
        ):
            self.assertEqual(echo(client, b"hello"), b"hello")
            der = client.getpeercert(binary_form=True)
        assert der is not None
        return hashlib.sha256(der).digest().hex(":").upper()

    def test_workers(self) -> None:
        """
        All workers serve the same certificate, whose fingerprint is in the log, also after a reload
        and in a worker that has taken the place of another.  Nothing is written to a file.
        """
        listen = ("--tls-port", "0", "--interface", "127.0.0.1", "--tls-self-signed")
        with WorkersDaemon(2, *listen) as daemon:
            found = {self.shown(daemon) for _ in range(20)}
            self.assertEqual(len(found), 1)
            [fingerprint] = found
            self.assertEqual(daemon.log.count(fingerprint), 2)
            before = sorted(os.listdir(daemon.directory))
            daemon.signal(signal.SIGHUP)
            wait_until(lambda: daemon.log.count(fingerprint) == 4, "both workers' reload")
            os.kill(next(iter(daemon.pids().values())), signal.SIGKILL)
            wait_until(lambda: len(daemon.ups()) == 3, "another worker")
            self.assertEqual({self.shown(daemon) for _ in range(20)}, {fingerprint})
            self.assertEqual(sorted(os.listdir(daemon.directory)), before)

    def test_each_start(self) -> None:
        """
        Each start makes a new certificate.
        """
        found = set()
        for _ in range(2):
            with Daemon("--tls-port", "0", "--tls-self-signed") as daemon:
                found |= set(re.findall(r"SHA-256 fingerprint ([0-9A-F:]{95}),", daemon.log))
        self.assertEqual(len(found), 2)
