"""
The daemon where something is wrong with the machine: its clock steps, its disk is full, a
stream that every process has is closed, there is no system log, a pidfile is left over, and
it runs as PID 1.

Of descriptors that run out there is more in C{test_accept}, and of logs in C{test_logs}.
"""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from unittest import SkipTest

from twisted.trial.unittest import SynchronousTestCase

from tests.support import needs
from tests.support.certificates import make_certificate
from tests.support.clients import TLSClient, context
from tests.support.daemons import (
    LOOPBACK,
    ON_A_SOCKET,
    PATIENCE_SECONDS,
    Daemon,
    connect,
    echo,
    receive_rest,
    show,
    socket_listens,
    socket_path,
    wait_until,
)

TLS = ("--tls-port", "0", "--tls-cert", "{}/disk/pem")


class Under(Daemon):
    """
    A daemon that another program starts, and becomes.
    """

    def __init__(self, starter: Sequence[str], *options: str, **how: object):
        super().__init__(*options, **how)  # type: ignore[arg-type]  # as its own
        command = [part.replace("{}", str(self.directory)) for part in starter]
        self._command = (*command, *self._command)


def shell(script: str) -> tuple[str, ...]:
    """
    A script that ends by becoming the daemon.
    """
    return "sh", "-c", f'{script} exec "$@"', "sh"


def said(daemon: Daemon, data: bytes = b"hello", option: str = "--port") -> bytes:
    """
    What a new client gets back.
    """
    with daemon.connect(option) as client:
        return echo(client, data)


class ClockTests(SynchronousTestCase):
    """
    A clock that is set while the daemon runs (libfaketime).
    """

    idle_seconds = 1.5
    jumps = {"+1h": 3600, "-1h": -3600, "+1d": 86400, "-1d": -86400}

    def daemon(self, reactor: str = "") -> Daemon:
        found = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
        if not found:
            raise SkipTest("needs faketime")
        environment = (
            f"LD_PRELOAD={found[0]}",
            "FAKETIME_TIMESTAMP_FILE={}/clock",
            "FAKETIME_NO_CACHE=1",
            # What cannot be set in a real machine is not set here.
            "FAKETIME_DONT_FAKE_MONOTONIC=1",
        )
        options = (*LOOPBACK, *TLS, "--idle-timeout", f"{self.idle_seconds}s")
        # Twisted's line about a closed port is at that level.
        options += ("--log-level", "debug")
        how = {"reactor": reactor} if reactor else {}
        daemon = Under(("env", *environment), *options, "--drain-timeout", "1s", **how)
        made = make_certificate()
        (daemon.directory / "disk").mkdir()
        (daemon.directory / "disk" / "pem").write_bytes(made.cert_pem + made.key_pem)
        self.set(daemon, "+0")
        return daemon

    def set(self, daemon: Daemon, to: str) -> None:
        """
        Set the daemon's clock.
        """
        new = daemon.directory / "new"
        new.write_text(f"{to}\n")
        new.rename(daemon.directory / "clock")

    def is_set(self, daemon: Daemon, offset: int) -> bool:
        """
        Whether the last line of the log is of the time that was set.
        """
        moment = datetime.fromisoformat(daemon.log.splitlines()[-1].split()[0])
        return abs((moment - datetime.now(UTC)).total_seconds() - offset) < 60

    def step(self, daemon: Daemon, to: str, offset: int) -> float:
        """
        Step the clock under an idle client.

        @return: how long it was left in peace.
        """
        start = time.monotonic()
        with daemon.connect() as client:
            self.assertEqual(echo(client, b"before"), b"before")
            before = len(daemon.records())
            self.set(daemon, to)
            self.assertEqual(said(daemon), b"hello")
            with daemon.connect("--tls-port") as sock:
                secure = TLSClient(sock, context("TLS 1.3")).handshake()
                self.assertEqual(secure.exchange(b"secret"), b"secret")
            self.assertEqual(client.recv(1), b"")
            took = time.monotonic() - start
        wait_until(lambda: len(daemon.records()) >= before + 3, "the records")
        # Its connection ends when the daemon sees the client's FIN.
        most = time.monotonic() - start + 0.001
        self.assertTrue(self.is_set(daemon, offset), daemon.log[-200:])
        *_, (*_, seconds, reason) = daemon.records()
        self.assertEqual(reason, "idle-timeout")
        # By its own account, too.
        self.assertTrue(self.idle_seconds <= seconds <= most, (seconds, most))
        return took

    def test_steps(self) -> None:
        """
        Whether the clock steps by an hour or a day, forward or back, an idle client is let go
        when its time is over, not at once and not never; and others are served.
        """
        with self.daemon() as daemon:
            for to, offset in self.jumps.items():
                took = self.step(daemon, to, offset)
                show(f"clock {to}: idle for {took:.2f} s of {self.idle_seconds} s")
                self.assertGreaterEqual(took, self.idle_seconds)

    def test_another_reactor(self) -> None:
        """
        It is the same on a reactor of Twisted's, which tells time by the clock on the wall.
        """
        with self.daemon("poll") as daemon:
            took = self.step(daemon, "-1d", -86400)
            self.assertGreaterEqual(took, self.idle_seconds)

    def test_drain(self) -> None:
        """
        A clock that is set back while the daemon stops does not make it wait for ever.
        """
        with self.daemon() as daemon, daemon.connect() as client:
            client.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while True:
                    client.send(bytes(65536))
            daemon.signal(signal.SIGTERM)
            wait_until(lambda: "Closed)" in daemon.log, "the drain")
            self.set(daemon, "-1d")
            daemon.wait()
            self.assertIn("0 connections finished, 1 aborted", daemon.log)


class FullDiskTests(SynchronousTestCase):
    """
    A disk on which nothing more can be written: a small one, in a namespace of its own.
    """

    BEFORE = (
        *("unshare", "--mount"),
        *shell(
            'mount -t tmpfs -o size=64k tmpfs "{}/disk" && cp {}/pem {}/disk/pem &&'
        ),
    )  # fmt: skip

    def setUp(self) -> None:
        needs.mount()

    def daemon(self, *options: str, **how: object) -> Daemon:
        daemon = Under(self.BEFORE, *options, **how)
        (daemon.directory / "disk").mkdir()
        (daemon.directory / "pem").write_bytes(self.pem())
        return daemon

    def pem(self) -> bytes:
        made = make_certificate()
        return made.cert_pem + made.key_pem

    def disk(self, daemon: Daemon) -> Path:
        """
        The disk, as the daemon sees it.
        """
        return Path(f"/proc/{daemon.pid}/root{daemon.directory}/disk")

    def fill(self, daemon: Daemon) -> None:
        """
        Write until the disk has no space for a byte.
        """
        with (self.disk(daemon) / "filler").open("wb", buffering=0) as file:
            for size in (4096, 1):
                with contextlib.suppress(OSError):
                    while True:
                        file.write(bytes(size))

    def handshake(self, daemon: Daemon) -> int:
        """
        Echo something over TLS.

        @return: the serial number of the certificate.
        """
        with daemon.connect("--tls-port") as sock:
            client = TLSClient(sock, context("TLS 1.3")).handshake()
            self.assertEqual(client.exchange(b"secret"), b"secret")
            certificate = client.tls.get_peer_certificate()
            assert certificate is not None
            return certificate.get_serial_number()

    def test_tls(self) -> None:
        """
        A key log that cannot be written loses its lines, and one warning says so; truncated
        certificates are not served; both work again when the disk has space.
        """
        with self.daemon(*LOOPBACK, *TLS, "--tls-keylog", "{}/disk/keys") as daemon:
            keys, pem = self.disk(daemon) / "keys", self.disk(daemon) / "pem"
            serial = self.handshake(daemon)
            self.fill(daemon)
            while not daemon.log.count("cannot write to --tls-keylog"):
                # Until the last page of the file is full as well.
                self.assertEqual(self.handshake(daemon), serial)
            for _ in range(3):
                self.assertEqual(self.handshake(daemon), serial)
            new = self.pem()
            with contextlib.suppress(OSError), pem.open("wb", buffering=0) as file:
                file.write(new[:600])
                while True:
                    file.write(b"-")
            daemon.signal(signal.SIGHUP)
            wait_until(lambda: "cannot reload --tls-cert" in daemon.log, "the complaint")
            self.assertEqual(self.handshake(daemon), serial)
            self.assertEqual(said(daemon), b"hello")
            self.assertEqual(daemon.log.count("No space left on device"), 1)
            (self.disk(daemon) / "filler").unlink()
            pem.write_bytes(new)
            daemon.signal(signal.SIGHUP)
            wait_until(lambda: self.handshake(daemon) != serial, "the new certificate")
            before = keys.stat().st_size
            self.handshake(daemon)
            self.assertGreater(keys.stat().st_size, before)
            daemon.stop()

    def test_log(self) -> None:
        """
        A log file on it delays no echo, can be rotated, and goes on when the disk has space.
        """
        before = ("--logfile", "{}/disk/log")
        with self.daemon(*ON_A_SOCKET, before=before, ready=socket_listens) as daemon:
            log = self.disk(daemon) / "log"
            address = f"unix:{socket_path(daemon)}"
            self.fill(daemon)
            for number in range(50):
                with connect(address) as client:
                    self.assertEqual(echo(client, b"%d" % number), b"%d" % number)
            daemon.signal(signal.SIGUSR1)
            wait_until((self.disk(daemon) / "log.1").exists, "the rotated log")
            with connect(address) as client:
                self.assertEqual(echo(client, b"hello"), b"hello")
            (self.disk(daemon) / "filler").unlink()

            def is_logged_again() -> bool:
                with connect(address) as client:
                    echo(client, b"again")
                return "5 bytes echoed" in log.read_text()

            wait_until(is_logged_again, "a record")
            daemon.stop()

    def test_pidfile(self) -> None:
        """
        A pidfile that cannot be written is one line, in the background too.
        """
        for mode in (("-n",), ()):
            needs.namespaces("--mount", "--pid")
            fill = "head -c 9999 /dev/zero >filler 2>/dev/null"
            script = f'mount -t tmpfs -o size=4k tmpfs "$PWD" && cd "$PWD" || exit 9; {fill};'
            # Whatever has gone to the background ends with the namespace's first process.
            starter = ("unshare", "--mount", "--pid", "--fork", "--kill-child", *shell(script))
            done = subprocess.run(
                (*starter, *twistd(*mode, "--pidfile", "pid"), "echod", *LOOPBACK),
                cwd=self.folder(),
                capture_output=True,
                text=True,
                timeout=60,
            )
            self.assertEqual((done.returncode, done.stdout), (78, ""))
            line = r"\Atwistd: --pidfile '\S+': No space left on device; give [^\n]+\n\Z"
            self.assertRegex(done.stderr, line)

    def folder(self) -> str:
        path = self.mktemp()
        os.mkdir(path)
        return path


def twistd(*options: str) -> tuple[str, ...]:
    return str(Path(sys.executable).with_name("twistd")), *options


class ClosedTests(SynchronousTestCase):
    """
    Standard streams that were closed before the daemon was started.
    """

    def lives(self, daemon: Daemon) -> None:
        """
        It echoes and stops, and no socket has the number of a standard stream: what is
        written there would go to a client.
        """
        with daemon:
            for number in range(3):
                with connect(f"unix:{socket_path(daemon)}") as client:
                    self.assertEqual(echo(client, b"%d" % number), b"%d" % number)
                    for stream in range(3):
                        place = os.readlink(f"/proc/{daemon.pid}/fd/{stream}")
                        self.assertNotIn("socket:", place)
            daemon.stop()

    def test_foreground(self) -> None:
        """
        Without standard input, and without all three, it echoes and stops.
        """
        for streams in ("<&-", "<&- >&- 2>&-"):
            closed = shell(f"exec {streams};")
            self.lives(Under(closed, *ON_A_SOCKET, ready=socket_listens))

    def test_background(self) -> None:
        """
        In the background, too.
        """
        closed = shell("exec <&- >&- 2>&-;")
        daemon = Under(closed, *ON_A_SOCKET, background=True, ready=socket_listens)
        self.lives(daemon)


# A /dev of its own, whose log is a socket in the daemon's directory.
OWN_DEV = """
mkdir {}/dev && mount -t tmpfs none {}/dev && cd {}/dev && touch null urandom &&
mount --bind /dev/null null && mount --bind /dev/urandom urandom && ln -s /proc/self/fd fd &&
ln -s {}/syslogd log && cd / && mount --rbind {}/dev /dev || exit;
"""


class SyslogTests(SynchronousTestCase):
    """
    Machines whose syslogd takes a stream, or on which there is none.
    """

    def test_stream(self) -> None:
        """
        A syslogd that takes a stream, and no datagrams, gets every record.
        """
        needs.mount()
        before = ("unshare", "--mount", *shell(OWN_DEV))
        daemon = Under(before, *ON_A_SOCKET, before=("--syslog",), ready=socket_listens)
        with socket.socket(socket.AF_UNIX) as syslogd:
            syslogd.bind(str(daemon.directory / "syslogd"))
            syslogd.listen()
            syslogd.settimeout(PATIENCE_SECONDS)
            with daemon:
                with connect(f"unix:{socket_path(daemon)}") as client:
                    self.assertEqual(echo(client, b"hello"), b"hello")
                daemon.stop()
                self.assertEqual((daemon.stdout, daemon.stderr), ("", ""))
                with syslogd.accept()[0] as stream:
                    text = receive_rest(stream).decode()
        records = text.split("\0")
        self.assertEqual(records.pop(), "")
        for record in records:
            self.assertRegex(record, r"\A<\d+>\w{3} [ \d]\d [\d:]{8} twisted\[\d+\]: ")
        self.assertIn("echod 0.1.0 starting", records[0])
        self.assertEqual(sum(": 5 bytes echoed in" in record for record in records), 1)
        self.assertIn("echod stopped: ", records[-1])

    def test_no_dev_log(self) -> None:
        """
        Without /dev/log it starts, echoes and stops, and says so once.
        """
        needs.mount()
        hide = 'if [ -e /dev/log ]; then mount --bind /dev/null "$(readlink -f /dev/log)"; fi;'
        before = ("unshare", "--mount", *shell(hide))
        with Under(before, *ON_A_SOCKET, before=("--syslog",), ready=socket_listens) as daemon:
            place = f"/proc/{daemon.pid}/root/dev/log"
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as log:
                self.assertRaises(OSError, log.connect, place)
            with connect(f"unix:{socket_path(daemon)}") as client:
                self.assertEqual(echo(client, b"hello"), b"hello")
            daemon.stop()
            self.assertEqual(daemon.stdout, "")
            self.assertRegex(
                daemon.stderr, r"\Atwistd: --syslog: no program listens on /dev/log: [^\n]+\n\Z"
            )


class PidfileTests(SynchronousTestCase):
    """
    A pidfile that is there before the daemon is.
    """

    def dead(self) -> int:
        """
        The number of a process that is no more.
        """
        child = subprocess.Popen(["true"])
        child.wait()
        return child.pid

    def test_stale(self) -> None:
        """
        What a daemon that is no more has left behind does not stop the next one.
        """
        daemon = Daemon(*LOOPBACK, background=True)
        daemon.pidfile.write_text(str(self.dead()))
        with daemon:
            self.assertEqual(int(daemon.pidfile.read_text()), daemon.pid)
            self.assertEqual(said(daemon), b"hello")
            daemon.stop()
            self.assertFalse(daemon.pidfile.exists())

    def refused(self, content: str, status: int = 1) -> str:
        """
        Start with this in the pidfile.

        @return: what is said about it.
        """
        daemon = Daemon(*LOOPBACK, background=True)
        daemon.pidfile.write_text(content)
        error = self.assertRaises(AssertionError, daemon.start)
        daemon._child.wait()
        self.assertEqual((daemon.status, daemon.pidfile.read_text()), (status, content))
        daemon.__exit__(None, None, None)
        return str(error)

    def test_another_process(self) -> None:
        """
        The number of a living process is respected: nothing is started, and no process ends.
        """
        self.assertIn(f"running, PID {os.getpid()}", self.refused(str(os.getpid())))

    def test_rubbish(self) -> None:
        """
        What is no number, and an empty file, is one line.
        """
        for content, reason in (("rubbish", "holds no process ID"), ("", "is empty")):
            said = self.refused(content, status=78)
            self.assertRegex(said, rf"twistd: --pidfile '\S+': {reason}; remove it")


class FirstProcess(Under):
    """
    A daemon as the first process of its namespace, as in a container.
    """

    BEFORE = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")

    def __init__(self, *options: str, **how: object):
        super().__init__(self.BEFORE, *options, **how)

    def _watch(self, pid: int) -> None:
        children = Path(f"/proc/{pid}/task/{pid}/children")
        super()._watch(int(wait_until(children.read_text, "the first process")))


class FirstProcessTests(SynchronousTestCase):
    """
    The daemon as PID 1: signals that are not handled do nothing there, and a pidfile that an
    earlier container has left says 1.
    """

    def setUp(self) -> None:
        needs.namespaces("--pid", "--mount-proc")

    def test_life(self) -> None:
        """
        It starts beside a stale pidfile, survives what it is to survive, and is stopped by
        TERM and by INT after a drain, with success: the kernel lets no first process end by
        a signal of its own.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            daemon = FirstProcess(*LOOPBACK, "--drain-timeout", "10m")
            daemon.pidfile.write_text("1")
            with daemon:
                self.assertEqual(daemon.state("NSpid").split()[1:], ["1"])
                with daemon.connect() as client:
                    for survived in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
                        daemon.signal(survived)
                        self.assertEqual(echo(client, b"hello"), b"hello")
                    daemon.signal(number)
                    self.assertEqual(client.recv(1), b"")
                daemon.wait()
                self.assertEqual(re.findall(r"drained: (\d+) conn", daemon.log), ["1"])
                self.assertEqual(daemon.status, 0)

    def test_second_term(self) -> None:
        """
        A second TERM ends it at once.
        """
        with FirstProcess(*LOOPBACK, "--drain-timeout", "10m") as daemon:
            with daemon.connect() as client:
                client.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    while True:
                        client.send(bytes(65536))
                daemon.signal(signal.SIGTERM)
                wait_until(lambda: "Received SIGTERM" in daemon.log, "the drain")
                daemon.signal(signal.SIGTERM)
                daemon.wait()
            self.assertIn("1 aborted", daemon.log)
