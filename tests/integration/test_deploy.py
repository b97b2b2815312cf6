"""
The systemd unit: systemd accepts it, it locks the daemon in, and the daemon can live
with that.
"""

import re
import shlex
import shutil
import signal
import ssl
import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from echod.options import Options
from tests.certificates import make_certificate
from tests.integration import sandbox
from tests.integration.support import Daemon, echo, show
from tests.integration.talkers import stream

UNIT = Path(__file__).resolve().parents[2] / "deploy" / "echod.service"
INSTALLED = "/opt/echod/bin/twistd"
MOST_EXPOSURE = 1.5
PATIENCE_SECONDS = 60.0


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", "--no-pager", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )


class SandboxedDaemon(Daemon):
    """
    echod under the filters of the unit.
    """

    def __init__(self, *options: str):
        super().__init__(*options)
        launcher = (sys.executable, sandbox.__file__, str(UNIT))
        self._command = (*launcher, *self._command)


class UnitTests(SynchronousTestCase):
    """
    Tests for C{deploy/echod.service}.
    """

    if shutil.which("systemd-analyze") is None:
        skip = "systemd-analyze is not installed"

    def setUp(self) -> None:
        folder = Path(self.mktemp()).resolve()
        folder.mkdir()
        self.text = UNIT.read_text()
        twistd = Path(sys.executable).with_name("twistd")
        # systemd wants to find the program, and it is not installed where it will be.
        self.unit = folder / "echod.service"
        self.unit.write_text(self.text.replace(f"ExecStart={INSTALLED}", f"ExecStart={twistd}"))

    def setting(self, name: str) -> str:
        """
        The value of a setting that the unit has once.
        """
        [value] = sandbox.settings(self.text, name)
        return value

    def test_verify(self) -> None:
        """
        systemd reads the unit without a word of complaint.
        """
        done = analyze("verify", str(self.unit))
        self.assertEqual((0, "", ""), (done.returncode, done.stdout, done.stderr))

    def test_exposure(self) -> None:
        """
        By systemd's own measure, of 10 for an open one, the service is exposed by no more
        than 1.5.
        """
        done = analyze("security", "--offline=true", str(self.unit))
        found = re.search(r"Overall exposure level for echod\.service: ([\d.]+)", done.stdout)
        assert found is not None, done
        show(f"systemd-analyze security: exposure {found[1]} of 10, at most {MOST_EXPOSURE}")
        self.assertLessEqual(float(found[1]), MOST_EXPOSURE)

    def test_unprivileged(self) -> None:
        """
        The service runs as a user of its own, which is not root and has no capability.
        """
        self.assertEqual("yes", self.setting("DynamicUser"))
        self.assertEqual("", self.setting("CapabilityBoundingSet"))
        self.assertEqual([], sandbox.settings(self.text, "User"))

    def test_command(self) -> None:
        """
        The command of the unit is one that echod takes, in the foreground and without a
        pidfile, which a crash would leave in the way of the restart.
        """
        program, *arguments = shlex.split(self.setting("ExecStart"))
        self.assertEqual(INSTALLED, program)
        where = arguments.index("echod")
        self.assertEqual({"--nodaemon", "--pidfile="}, set(arguments[:where]))
        options = Options()
        options.parseOptions(arguments[where + 1 :])
        self.assertEqual(9000, options["port"])

    def test_stop_outlasts_drain(self) -> None:
        """
        systemd waits for longer than the drain of a stop takes before it kills.
        """
        self.assertEqual("SIGTERM", self.setting("KillSignal"))
        drain = Options()["drain-timeout"]
        self.assertGreaterEqual(int(self.setting("TimeoutStopSec")), drain + 5)

    def test_serves(self) -> None:
        """
        Under the system calls, address families and memory protection that the unit
        leaves it, echod serves plain TCP, TLS and a unix socket, and stops when told to.
        """
        made = make_certificate()
        pem = self.unit.with_name("echod.pem")
        pem.write_bytes(made.cert_pem + made.key_pem)
        tls = ("--tls-port", "0", "--tls-cert", str(pem))
        data = bytes(stream(0, 300_000))
        options = ("--port", "0", "--interface", "127.0.0.1", *tls, "--listen", "unix:{}/s")
        with SandboxedDaemon(*options) as daemon:
            self.assertEqual("2", daemon.state("Seccomp"))
            context = ssl.create_default_context(cadata=made.cert_pem.decode())
            for option in ("--port", "--listen"):
                with daemon.connect(option) as client:
                    self.assertEqual(data, echo(client, data))
            with (
                daemon.connect("--tls-port") as raw,
                context.wrap_socket(raw, server_hostname="localhost") as client,
            ):
                self.assertEqual(data, echo(client, data))
            daemon.signal(signal.SIGTERM)
            daemon.wait("the end by TERM")
            self.assertIn("echod stopped: 3 connections, 900000 bytes", daemon.log)
