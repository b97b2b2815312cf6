"""
Python's own switches: warnings that are errors, and no docstrings.
"""

import os
import signal
import subprocess

from twisted.trial.unittest import SynchronousTestCase

from tests.certificates import make_certificate
from tests.integration.support import LOOPBACK, PATIENCE_SECONDS, Daemon, echo
from tests.integration.wrong_servers import PROGRAM


class SwitchesTests(SynchronousTestCase):
    """
    The daemon and its client under each.
    """

    def serve(self) -> None:
        """
        Start a daemon with a client's authority, talk to it in plain and over TLS with a
        certificate, and stop it.
        """
        authority = make_certificate(["An authority"], authority=True)
        made = make_certificate(["localhost"], authority)
        tls = ("--tls-port", "0", "--tls-cert", "{}/pem", "--tls-alpn", "echo")
        clients = ("--tls-client-auth", "require", "--tls-client-ca", "{}/ca")
        daemon = Daemon(*LOOPBACK, *tls, *clients)
        (daemon.directory / "ca").write_bytes(authority.cert_pem)
        (daemon.directory / "pem").write_bytes(made.chain + made.key_pem)
        with daemon:
            with daemon.connect() as client:
                self.assertEqual(echo(client, b"hello"), b"hello")
            files = ("--ca", daemon.directory / "ca", "--cert", daemon.directory / "pem")
            for options in (
                (f"127.0.0.1:{daemon.port()}",),
                ("--tls", *files, "--alpn", "echo", f"localhost:{daemon.port('--tls-port')}"),
            ):
                done = subprocess.run(
                    [PROGRAM, *options], capture_output=True, text=True, timeout=PATIENCE_SECONDS
                )
                self.assertEqual((done.returncode, done.stderr), (0, ""))
            daemon.stop()
            # twistd ends as the signal has it.
            self.assertEqual((daemon.status, daemon.stderr), (-signal.SIGTERM, ""))

    def switch(self, name: str, value: str) -> None:
        """
        Let every Python that is started have a switch, until the test ends.
        """
        before = os.environ.get(name)
        self.addCleanup(
            lambda: os.environ.pop(name) if before is None else os.environ.update({name: before})
        )
        os.environ[name] = value

    def test_warnings(self) -> None:
        """
        Nothing is deprecated, nor warned of otherwise, that they do.
        """
        self.switch("PYTHONWARNINGS", "error")
        self.serve()

    def test_no_docstrings(self) -> None:
        """
        They need no docstring.
        """
        self.switch("PYTHONOPTIMIZE", "2")
        self.serve()
