"""
The systemd units: systemd accepts them, they lock the daemon in, and the daemon can live
with that.  tests/system/ has them run.
"""

import os
import re
import shlex
import shutil
import signal
import ssl
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from echod.options import Options
from tests.support import needs, sandbox
from tests.support.certificates import make_certificate
from tests.support.clients import stream
from tests.support.daemons import Daemon, echo, show

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
UNIT = DEPLOY / "echod.service"
SOCKETS = ("echod.socket", "echod-tls.socket")
INSTALLED = "/opt/echod/bin/twistd"
PATIENCE_SECONDS = 60.0

LISTENS_ITSELF = ([], ["tls"], ["admin"])
ACTIVATED = (["socket"], ["socket", "socket-tls"])
VARIANTS = (*LISTENS_ITSELF, ["port-7"], *ACTIVATED)
"""The drop-ins that go together."""


def analyze(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", "--no-pager", *arguments],
        env={**os.environ, "SYSTEMD_UNIT_PATH": f"{folder}:"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )


class SandboxedDaemon(Daemon):
    """
    echod under the filters of a unit.
    """

    def __init__(self, unit: Path, *options: str):
        super().__init__(*options)
        launcher = (sys.executable, sandbox.__file__, str(unit))
        self._command = (*launcher, *self._command)


class UnitTests(SynchronousTestCase):
    """
    Tests for C{deploy/echod.service}, its drop-ins and its sockets.
    """

    skip = needs.lacking("systemd-analyze")

    def setUp(self) -> None:
        self.text = UNIT.read_text()

    def installed(self, drop_ins: Sequence[str] = ()) -> Path:
        """
        A folder with the units, and these drop-ins.
        """
        folder = Path(self.mktemp()).resolve()
        (folder / "echod.service.d").mkdir(parents=True)
        twistd = Path(sys.executable).with_name("twistd")
        # systemd wants to find the program, and it is not installed where it will be.
        service = self.text.replace(f"ExecStart={INSTALLED}", f"ExecStart={twistd}")
        (folder / "echod.service").write_text(service)
        for name in SOCKETS:
            shutil.copy(DEPLOY / name, folder)
        for name in drop_ins:
            shutil.copy(DEPLOY / "echod.service.d" / f"{name}.conf", folder / "echod.service.d")
        return folder

    def together(self, drop_ins: Sequence[str]) -> str:
        """
        The unit and its drop-ins in one text, in the order in which systemd reads them.
        """
        parts = [DEPLOY / "echod.service.d" / f"{name}.conf" for name in sorted(drop_ins)]
        return "".join([self.text, *(part.read_text() for part in parts)])

    def setting(self, name: str) -> str:
        """
        The value of a setting that the unit has once.
        """
        [value] = sandbox.settings(self.text, name)
        return value

    def options(self, drop_ins: Sequence[str]) -> Options:
        """
        What the command of the unit means to echod, which has to take it.
        """
        text = self.together(drop_ins)
        environment: dict[str, str] = {}
        for line in sandbox.settings(text, "Environment"):
            environment |= (assignment.split("=", 1) for assignment in shlex.split(line))
        words: list[str] = []
        for word in shlex.split(self.setting("ExecStart")):
            # systemd splits a variable that stands alone (systemd.service(5)).
            words += environment[word[1:]].split() if word.startswith("$") else [word]
        program, *arguments = words
        self.assertEqual(INSTALLED, program)
        where = arguments.index("echod")
        # In the foreground, and without a pidfile that a crash would leave in the way.
        self.assertEqual({"--nodaemon", "--pidfile="}, set(arguments[:where]))
        options = Options()
        options.parseOptions(arguments[where + 1 :])
        return options

    def exposure(self, drop_ins: Sequence[str]) -> float:
        """
        How exposed the service is by systemd's own measure, of 10 for an open one.
        """
        folder = self.installed(drop_ins)
        done = analyze(folder, "security", "--offline=true", str(folder / "echod.service"))
        found = re.search(r"Overall exposure level for echod\.service: ([\d.]+)", done.stdout)
        assert found is not None, done
        show(f"systemd-analyze security {' '.join(drop_ins)}: exposure {found[1]} of 10")
        return float(found[1])

    def test_verify(self) -> None:
        """
        systemd reads every unit, with the drop-ins that go together, without a word of
        complaint.
        """
        for drop_ins in VARIANTS:
            folder = self.installed(drop_ins)
            units = [str(folder / name) for name in ("echod.service", *SOCKETS)]
            done = analyze(folder, "verify", *units)
            self.assertEqual((0, "", ""), (done.returncode, done.stdout, done.stderr))

    def test_verify_sees(self) -> None:
        """
        What systemd would complain of in a drop-in is seen.
        """
        folder = self.installed(["tls"])
        with (folder / "echod.service.d" / "tls.conf").open("a") as drop_in:
            drop_in.write("LoadCredentials=x\n")
        self.assertIn("Unknown key", analyze(folder, "verify", str(folder / SOCKETS[0])).stderr)

    def test_every_drop_in(self) -> None:
        """
        The tests know all the drop-ins there are.
        """
        there = {path.stem for path in (DEPLOY / "echod.service.d").iterdir()}
        self.assertEqual(there, {name for drop_ins in VARIANTS for name in drop_ins})

    def test_exposure(self) -> None:
        """
        The service is exposed by no more than 1.2 when it listens itself, and than 0.5 when
        systemd does; with the capability for port 7, by no more than 1.5.
        """
        for most, variants in ((1.2, LISTENS_ITSELF), (0.5, ACTIVATED), (1.5, [["port-7"]])):
            for drop_ins in variants:
                self.assertLessEqual(self.exposure(drop_ins), most)

    def test_unprivileged(self) -> None:
        """
        The service runs as a user of its own, which is not root and has no capability.
        """
        self.assertEqual("yes", self.setting("DynamicUser"))
        self.assertEqual("", self.setting("CapabilityBoundingSet"))
        self.assertEqual([], sandbox.settings(self.text, "User"))

    def test_command(self) -> None:
        """
        The command of the unit is one that echod takes, and means what the drop-in says.
        """
        ports = [(self.options(each)["port"], self.options(each)["tls-port"]) for each in VARIANTS]
        itself = [(9000, None), (9000, 9443), (9000, None), (7, None)]
        self.assertEqual([*itself, (None, None), (None, None)], ports)
        self.assertEqual("unix:/run/echod/admin.sock", self.options(["admin"])["admin"])

    def test_names(self) -> None:
        """
        echod asks for the sockets by the names that their units give them.
        """
        names = []
        for unit in SOCKETS:
            text = (DEPLOY / unit).read_text()
            [name] = sandbox.settings(text, "FileDescriptorName")
            names.append(f"systemd:name={name}")
        for drop_ins, secure in zip(ACTIVATED, ([], names[1:]), strict=True):
            options = self.options(drop_ins)
            self.assertEqual((names[:1], secure), (options["listen"], options["tls-listen"]))

    def test_key(self) -> None:
        """
        The key that is handed over is the one that is read.
        """
        for drop_ins in (["tls"], ["socket", "socket-tls"]):
            [credential] = sandbox.settings(self.together(drop_ins), "LoadCredential")
            name, _, path = credential.partition(":")
            self.assertTrue(path.startswith("/etc/"))
            [(cert, key)] = self.options(drop_ins)["tls-cert"]
            self.assertEqual((f"%d/{name}", None), (cert[-len(name) - 3 :], key))

    def test_time_to_stop(self) -> None:
        """
        systemd waits for longer than a drain takes without being asked to.
        """
        self.assertEqual("SIGTERM", self.setting("KillSignal"))
        drain = Options()["drain-timeout"]
        self.assertGreaterEqual(int(self.setting("TimeoutStopSec")), drain + 5)

    def test_serves(self) -> None:
        """
        Under the system calls, address families and memory protection that the unit
        leaves it, echod serves plain TCP and a unix socket, and stops when told to.
        """
        self.serve([])

    def test_serves_tls(self) -> None:
        """
        With the drop-in for it, it serves TLS as well.
        """
        self.serve(["tls"])

    def serve(self, drop_ins: Sequence[str]) -> None:
        unit = self.installed() / "whole.service"
        unit.write_text(self.together(drop_ins))
        made = make_certificate()
        pem = unit.with_name("echod.pem")
        pem.write_bytes(made.cert_pem + made.key_pem)
        options = ["--port", "0", "--interface", "127.0.0.1", "--listen", "unix:{}/s"]
        if drop_ins:
            options += ["--tls-port", "0", "--tls-cert", str(pem)]
        data = bytes(stream(0, 300_000))
        with SandboxedDaemon(unit, *options) as daemon:
            self.assertEqual("2", daemon.state("Seccomp"))
            for option in ("--port", "--listen"):
                with daemon.connect(option) as client:
                    self.assertEqual(data, echo(client, data))
            if drop_ins:
                context = ssl.create_default_context(cadata=made.cert_pem.decode())
                with (
                    daemon.connect("--tls-port") as raw,
                    context.wrap_socket(raw, server_hostname="localhost") as client,
                ):
                    self.assertEqual(data, echo(client, data))
            daemon.signal(signal.SIGTERM)
            daemon.wait("the end by TERM")
            number = 3 if drop_ins else 2
            self.assertIn(
                f"echod stopped: {number} connections, {number * len(data)} bytes", daemon.log
            )

    def test_callbacks(self) -> None:
        """
        What takes callbacks ends the start in one line, under the memory protection of the
        unit: if it works one day, nothing need be said of it any more.
        """
        made = make_certificate()
        pem = self.installed() / "echod.pem"
        pem.write_bytes(made.cert_pem + made.key_pem)
        command = [sys.executable, sandbox.__file__, str(UNIT)]
        command += [str(Path(sys.executable).with_name("twistd")), "-n", "--pidfile=", "echod"]
        done = subprocess.run(
            [*command, "--tls-port", "0", "--tls-cert", str(pem), "--tls-alpn", "echo"],
            cwd=pem.parent,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
        )
        self.assertEqual(78, done.returncode)
        self.assertIn("MemoryDenyWriteExecute=no", done.stderr)
        self.assertEqual(1, done.stderr.count("\n"))
