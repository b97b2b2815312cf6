"""
A daemon whose sockets listen before it is started, and after it has ended.
"""

import os
import shlex
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

from twisted.trial.unittest import TestCase

from tests.support import needs, socketactivate
from tests.support.activation import ActivatedDaemon
from tests.support.certificates import make_certificate
from tests.support.clients import VERSIONS, TLSClient, context
from tests.support.daemons import (
    PATIENCE_SECONDS,
    PATIENT_STOP,
    echo,
    receive_rest,
    show,
    wait_until,
)

RESTARTS = 3


class InheritedTests(TestCase):
    """
    Sockets of each family, with and without TLS.
    """

    def listen(self, *addresses: str) -> list[socket.socket]:
        """
        Sockets that listen until the end of the test.
        """
        made = []
        for address in addresses:
            if "/" in address:
                made.append(socket.socket(socket.AF_UNIX))
                made[-1].bind(address)
                made[-1].listen(50)
            else:
                family = socket.AF_INET6 if ":" in address else socket.AF_INET
                made.append(socket.create_server((address, 0), family=family, backlog=1000))
            self.addCleanup(made[-1].close)
        return made

    def test_families(self) -> None:
        """
        All sockets of a name are served, each with its own family, and a UNIX socket's file
        stays as it was.
        """
        needs.ipv6()
        directory = Path(self.mktemp()).absolute()
        directory.mkdir()
        # Short enough for a UNIX address.
        path = os.path.relpath(directory / "s")
        sockets = self.listen("127.0.0.1", "::1", path)
        os.chmod(path, 0o640)
        with ActivatedDaemon({"echo": sockets}, "--listen", "systemd:name=echo") as daemon:
            for each in sockets:
                with socket.socket(each.family) as client:
                    client.settimeout(60)
                    client.connect(each.getsockname())
                    self.assertEqual(echo(client, b"x" * 100_000), b"x" * 100_000)
            self.assertEqual(daemon.ended("client", 3), 3)
            self.assertEqual({record[1] for record in daemon.records()}, {"echo"})
            daemon.stop()
            self.assertEqual(daemon.status, -signal.SIGTERM)
        self.assertEqual(stat.S_IMODE(os.stat(path).st_mode), 0o640)

    def test_another_process(self) -> None:
        """
        A shell that keeps the sockets and starts the daemon as its child: the line names it.
        """
        (listening,) = self.listen("127.0.0.1")
        program = str(Path(sys.executable).with_name("twistd"))
        options = ("--listen", "systemd:index=0")
        twistd = shlex.join([program, "-n", "--pidfile=", "echod", *options])
        given = f"echo={listening.fileno()}"
        command = [sys.executable, socketactivate.__file__, given, "--", "/bin/sh", "-c"]
        done = subprocess.run(
            [*command, f"echo $$; {twistd}; exit $?"],
            cwd=Path(self.mktemp()).parent,
            pass_fds=[listening.fileno()],
            capture_output=True,
            text=True,
            timeout=60,
        )
        shell = done.stdout.split()[0]
        self.assertIn(f"they were handed to process {shell}, and this is process ", done.stderr)
        self.assertEqual((done.returncode, done.stderr.count("\n")), (78, 1))

    def test_tls(self) -> None:
        """
        One socket can be served plain and another with TLS, also when it is a UNIX socket;
        half-close and all bytes as ever.
        """
        directory = Path(self.mktemp()).absolute()
        directory.mkdir()
        path = os.path.relpath(directory / "s")
        plain, secure, unix = self.listen("127.0.0.1", "127.0.0.1", path)
        daemon = ActivatedDaemon(
            {"echo": [plain], "echo-tls": [secure, unix]},
            *("--listen", "systemd:name=echo", "--tls-listen", "systemd:name=echo-tls"),
            *("--tls-cert", "{}/pem"),
        )
        made = make_certificate()
        (daemon.directory / "pem").write_bytes(made.cert_pem + made.key_pem)
        with daemon:
            with socket.create_connection(plain.getsockname(), timeout=60) as client:
                self.assertEqual(echo(client, b"plain"), b"plain")
            for each in (secure, unix):
                for version in VERSIONS:
                    with socket.socket(each.family) as client:
                        client.connect(each.getsockname())
                        tls = TLSClient(client, context(version)).handshake()
                        self.assertEqual(tls.exchange(b"secret" * 50_000), b"secret" * 50_000)

    def test_restart(self) -> None:
        """
        While the daemon is restarted, with clients connecting all the while, none is refused
        and each gets all of its own.
        """
        (listening,) = self.listen("127.0.0.1")
        address = listening.getsockname()
        over = threading.Event()
        wrong: list[str] = []
        served = 0
        longest = 0.0

        def come() -> None:
            nonlocal served, longest
            word = b"word" * 100
            while not over.is_set():
                began = time.monotonic()
                try:
                    with socket.create_connection(address, timeout=60) as client:
                        client.sendall(word)
                        client.shutdown(socket.SHUT_WR)
                        if receive_rest(client) != word:
                            wrong.append("not all of it came back")
                except OSError as error:
                    wrong.append(str(error))
                served += 1
                longest = max(longest, time.monotonic() - began)

        client = threading.Thread(target=come)
        client.start()
        try:
            for _ in range(RESTARTS):
                sockets = {"echo": [listening]}
                daemon = ActivatedDaemon(sockets, "--listen", "systemd:name=echo")
                daemon.times = PATIENT_STOP
                with daemon:
                    before = served
                    wait_until(lambda n=before: served >= n + 20, "some to be served")
                    daemon.signal(signal.SIGTERM)
                    daemon.wait()
                    self.assertEqual(daemon.status, -signal.SIGTERM)
        finally:
            # The last daemon serves the clients that wait now.
            over.set()
            with ActivatedDaemon({"echo": [listening]}, "--listen", "systemd:name=echo"):
                client.join(PATIENCE_SECONDS)
        self.assertEqual(wrong, [])
        show(f"{RESTARTS} restarts: {served} clients served, 0 refused, longest {longest:.2f} s")
