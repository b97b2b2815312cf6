"""
Standard streams that are closed, full, or for ASCII alone.
"""

import os
import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.support import needs
from tests.support.certificates import make_certificate
from tests.support.daemons import LOOPBACK, PATIENCE_SECONDS, FreshDaemon
from tests.support.wrong_servers import PATIENT, PROGRAM

ECHOD, TWISTD, TWIST = (
    str(Path(sys.executable).with_name(name)) for name in ("echod", "twistd", "twist")
)
CHECK = (TWISTD, "-n", "--pidfile=", "echod", "--check", *LOOPBACK)
ANSWERS = (
    (ECHOD, "--help"),
    (ECHOD, "--version"),
    (TWISTD, "echod", "--help"),
    (TWIST, "echod", "--help"),
)
"""The commands of the daemon that print and exit."""


class StreamsTests(SynchronousTestCase):
    """
    C{echod-check} and C{--check}.
    """

    def run_with(self, streams: str, *command: str) -> tuple[int, str, str]:
        """
        Run a command with its streams as the shell's words have them.

        @return: its status, and what it wrote to standard output and standard error.
        """
        done = subprocess.run(
            ["sh", "-c", f'exec "$@" {streams}', "sh", *command],
            capture_output=True,
            encoding="utf-8",
            timeout=PATIENCE_SECONDS,
        )
        return done.returncode, done.stdout, done.stderr

    def test_closed(self) -> None:
        """
        A closed stream changes nothing but that no message appears; a failure does not go to
        standard output instead.
        """
        with FreshDaemon(*LOOPBACK) as daemon:
            where = f"127.0.0.1:{daemon.port()}"
            taken = (
                *CHECK[: -len(LOOPBACK)],
                "--listen",
                f"tcp:{daemon.port()}:interface=127.0.0.1",
            )
            for streams in (">&-", "2>&-", "<&- >&- 2>&-"):
                for command, expected in (
                    ((PROGRAM, *PATIENT, where), 0),
                    ((PROGRAM, *PATIENT, "--ping", "-c", "1", where), 0),
                    ((PROGRAM, "unix:/no/such/socket"), 13),
                    ((PROGRAM, "--nope"), 2),
                    (CHECK, 0),
                    (taken, 1),
                ):
                    status, out, err = self.run_with(streams, *command)
                    self.assertEqual(status, expected, (streams, command, err))
                    self.assertNotIn("Traceback", err)
                    if status:
                        self.assertEqual(out, "")
            daemon.ended("client", 3)

    def test_full(self) -> None:
        """
        Output that cannot be written is one line; where the line cannot be, the status stays.
        """
        needs.file("/dev/full")
        for command, status in (
            ((PROGRAM, "--help"), 2),
            ((PROGRAM, "--version"), 2),
            *((command, 1) for command in ANSWERS),
            (CHECK, 1),
        ):
            ended = self.run_with(">/dev/full", *command)
            self.assertEqual((ended[0], len(ended[2].splitlines())), (status, 1), ended)
            self.assertIn("standard output: No space left on device", ended[2])
        for command, status in (
            ((PROGRAM, "--nope"), 2),
            ((PROGRAM, "unix:/no/such/socket"), 13),
        ):
            self.assertEqual(self.run_with("2>/dev/full", *command), (status, "", ""))

    def test_reader_gone(self) -> None:
        """
        Neither is output whose reader has closed, as C{| head} does, a traceback.
        """
        reading, writing = os.pipe()
        os.close(reading)
        with os.fdopen(writing, "w") as pipe:
            for command in (*ANSWERS, CHECK):
                # Python may flush after each line, or at exit.
                for unbuffered in ("", "1"):
                    done = subprocess.run(
                        command,
                        stdout=pipe,
                        stderr=subprocess.PIPE,
                        text=True,
                        timeout=PATIENCE_SECONDS,
                        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
                    )
                    self.assertEqual(done.returncode, 1, done.stderr)
                    self.assertRegex(
                        done.stderr, r"\Aechod: (--check: )?standard output: Broken pipe\n\Z"
                    )

    def test_ascii(self) -> None:
        """
        What they cannot show is an escape.
        """
        folder = Path(self.mktemp()).absolute() / "\u00fc"
        folder.mkdir(parents=True)
        made = make_certificate(["localhost"])
        (folder / "pem").write_bytes(made.cert_pem + made.key_pem)
        (folder / "pem").chmod(0o600)
        tls = ("--tls-port", "0", "--tls-cert", f"{folder}/pem")
        ascii_only = ("env", "PYTHONIOENCODING=ascii")
        status, out, err = self.run_with("", *ascii_only, *CHECK, *tls)
        self.assertEqual((status, err), (0, ""))
        self.assertIn(r"/\xfc/pem", out)
        status, out, err = self.run_with("", *ascii_only, PROGRAM, f"unix:{folder}"[:100])
        self.assertEqual((status in (4, 13), out, len(err.splitlines())), (True, "", 1), err)
        ping = (PROGRAM, "--ping", "-c", "1", "unix:\u00fc")
        status, out, err = self.run_with("", *ascii_only, *ping)
        self.assertIn(r"--- unix:\xfc ---", out)
        self.assertEqual((status, err), (13, ""))
