"""
What Python may meet where it runs: its own switches, and no threads.
"""

import os
import signal
import subprocess
import sys

from twisted.trial.unittest import SynchronousTestCase

from tests.support import needs
from tests.support.certificates import make_certificate
from tests.support.daemons import LOOPBACK, PATIENCE_SECONDS, FreshDaemon, echo
from tests.support.wrong_servers import PATIENT, PROGRAM

NOBODY = 64862
"""A user that has no process."""

NO_THREAD = """
import _thread
try:
    _thread.start_new_thread(print, ())
except RuntimeError:
    raise SystemExit(0)
raise SystemExit("there is a thread")
"""


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
        daemon = FreshDaemon(*LOOPBACK, *tls, *clients)
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
                    [PROGRAM, *PATIENT, *options],
                    capture_output=True,
                    text=True,
                    timeout=PATIENCE_SECONDS,
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


class WithoutThreadsTests(SynchronousTestCase):
    """
    Where there can be no thread: a limit on processes counts threads, too.
    """

    def setUp(self) -> None:
        # For root there is no such limit (getrlimit(2)).  What remains lets this user reach an
        # interpreter in root's own folder.
        kept = "-all,+dac_read_search"
        self.limited = [
            *("setpriv", f"--reuid={NOBODY}", "--clear-groups", f"--bounding-set={kept}"),
            *(f"--inh-caps={kept}", f"--ambient-caps={kept}", "prlimit", "--nproc=1"),
        ]
        tried = (*self.limited, sys.executable, "-c", NO_THREAD)
        needs.command(*tried, what="setpriv and prlimit --nproc (CAP_DAC_READ_SEARCH)")

    def test_daemon(self) -> None:
        """
        The daemon echoes and logs, and says that it has no thread for that.
        """
        daemon = FreshDaemon(*LOOPBACK)
        daemon._command = (*self.limited, *daemon._command)
        with daemon:
            with daemon.connect() as client:
                self.assertEqual(echo(client, b"hello"), b"hello")
            daemon.ended("client", 1)
            daemon.stop()
            self.assertIn("no thread for the log: can't start new thread; ", daemon.log)
            self.assertEqual(daemon.log.count("no thread"), 1)
            self.assertIn("echod stopped: 1 connection", daemon.log)

    def test_client(self) -> None:
        """
        The client asks for addresses as ever, and for a name says that it cannot.
        """
        with FreshDaemon(*LOOPBACK) as daemon:
            for host, status, text in (
                ("127.0.0.1:{}", 0, ""),
                ("tcp:127.0.0.1:{}", 0, ""),
                ("localhost:{}", 3, "no thread for the lookup; "),
                ("tcp:host=localhost:port={}", 3, "no thread for the lookup; "),
            ):
                done = subprocess.run(
                    [*self.limited, PROGRAM, *PATIENT, host.format(daemon.port())],
                    capture_output=True,
                    text=True,
                    timeout=PATIENCE_SECONDS,
                )
                self.assertEqual(done.returncode, status, done.stderr)
                self.assertIn(text, done.stderr)
                self.assertEqual(len(done.stderr.splitlines()), bool(status))
