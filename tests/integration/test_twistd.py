"""
The daemon in its surroundings: in the background, under another user, and its logs.
"""

import grp
import json
import os
import pwd
import signal
import socket
import ssl
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.support import needs
from tests.support.admin import ADMIN, ask
from tests.support.daemons import (
    LOOPBACK,
    ON_A_SOCKET,
    PATIENCE_SECONDS,
    FreshDaemon,
    connect,
    echo,
    socket_listens,
    socket_path,
    wait_until,
)


def stop(daemon: FreshDaemon) -> None:
    daemon.signal(signal.SIGTERM)
    daemon.wait()


def trusting_all() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


class BackgroundTests(SynchronousTestCase):
    """
    C{twistd} without C{-n}.
    """

    def test_from_start_to_stop(self) -> None:
        """
        In the background it echoes, logs to its file, stops when told to, and takes its
        pidfile with it.
        """
        with FreshDaemon(*LOOPBACK, "--drain-timeout", "10m", background=True) as daemon:
            self.assertEqual(daemon.pidfile.read_text().strip(), str(daemon.pid))
            self.assertNotEqual(daemon.state("PPid"), str(os.getpid()))
            with daemon.connect() as client:
                self.assertEqual(echo(client, b"hello"), b"hello")
                daemon.signal(signal.SIGTERM)
                self.assertEqual(client.recv(1), b"")
            daemon.wait()
            self.assertFalse(daemon.pidfile.exists())
            self.assertIn("drained: 1 connections finished, 0 aborted", daemon.log)
            self.assertEqual((daemon.stdout, daemon.stderr), ("", ""))

    def test_usr1_rotates_the_log(self) -> None:
        """
        USR1 begins a new log file, and the old one is kept beside it.
        """
        with FreshDaemon(*LOOPBACK, background=True) as daemon:
            address = daemon.address()
            daemon.signal(signal.SIGUSR1)
            old = daemon.directory / "twistd.log.1"
            wait_until(old.exists, "the old log")
            with connect(address) as client:
                self.assertEqual(echo(client, b"hello"), b"hello")
            self.assertEqual(daemon.ended("client", 1), 1)
            self.assertIn("listening on", old.read_text())
            self.assertNotIn("bytes echoed in", old.read_text())

    def test_usr1_rotates_the_log_in_the_foreground(self) -> None:
        """
        With -n and --logfile, USR1 rotates as well.
        """
        before = ("--logfile", "{}/twistd.log")
        with FreshDaemon(*LOOPBACK, before=before) as daemon:
            address = daemon.address()
            daemon.signal(signal.SIGUSR1)
            wait_until((daemon.directory / "twistd.log.1").exists, "the old log")
            with connect(address) as client:
                self.assertEqual(echo(client, b"hello"), b"hello")
            self.assertEqual(daemon.ended("client", 1), 1)


class UserTests(SynchronousTestCase):
    """
    C{twistd --uid --gid}.
    """

    def other_user(self) -> pwd.struct_passwd:
        user = pwd.getpwnam("nobody")
        needs.other_user(user.pw_uid)
        return user

    def serves_as(self, daemon: FreshDaemon, user: pwd.struct_passwd) -> None:
        self.assertEqual(daemon.state("Uid").split(), [str(user.pw_uid)] * 4)
        self.assertEqual(daemon.state("Gid").split(), [str(user.pw_gid)] * 4)
        with daemon.connect() as client:
            self.assertEqual(echo(client, b"hello"), b"hello")
        self.assertEqual(daemon.ended("client", 1), 1)
        stop(daemon)
        self.assertIn("drained: 0 connections", daemon.log)

    def test_foreground(self) -> None:
        """
        Started by root with --uid and --gid, it serves, logs and stops as that user.
        """
        user = self.other_user()
        group = grp.getgrgid(user.pw_gid).gr_name
        with FreshDaemon(*LOOPBACK, before=("--uid", user.pw_name, "--gid", group)) as daemon:
            self.serves_as(daemon, user)

    def test_background(self) -> None:
        """
        The same in the background, with a log file and a pidfile.
        """
        user = self.other_user()
        ids = ("--uid", str(user.pw_uid), "--gid", str(user.pw_gid))
        with FreshDaemon(*LOOPBACK, before=ids, background=True) as daemon:
            self.serves_as(daemon, user)
            self.assertFalse(daemon.pidfile.exists())


class ChrootTests(SynchronousTestCase):
    """
    C{twistd --chroot}.
    """

    def root(self) -> Path:
        root = Path(self.mktemp()).resolve()
        root.mkdir(parents=True)
        needs.chroot(root)
        return root

    def prepared(self) -> Path:
        root = self.root()
        (root / "dev").mkdir()
        needs.device(root / "dev/null")
        return root

    def test_all_listeners(self) -> None:
        """
        With nothing but /dev/null in the new root, TCP, TLS, UDP and the status page work, on
        addresses of each syntax, and HUP and USR1 do no harm.
        """
        listeners = (
            *(*LOOPBACK, "--udp-port", "0", "--tls-port", "0", "--tls-self-signed"),
            *("--listen", "tcp:0:interface=127.0.0.2"),
            *(*ADMIN, "--log-format", "json"),
        )
        options = ("--chroot", str(self.prepared()), "--rundir", "/")
        with FreshDaemon(*listeners, before=options) as daemon:
            self.assertEqual(Path(f"/proc/{daemon.pid}/root").resolve(), Path(options[1]))
            for option in ("--port", "--listen"):
                with daemon.connect(option) as client:
                    self.assertEqual(echo(client, b"hello"), b"hello")
            with trusting_all().wrap_socket(daemon.connect("--tls-port")) as client:
                self.assertEqual(echo(client, b"hello"), b"hello")
            host, _, port = daemon.address("--udp-port").rpartition(":")
            with socket.socket(type=socket.SOCK_DGRAM) as client:
                client.settimeout(PATIENCE_SECONDS)
                client.connect((host, int(port)))
                client.send(b"hello")
                self.assertEqual(client.recv(9), b"hello")
            for path in ("/", "/connections", "/metrics", "/readyz"):
                self.assertEqual(ask(daemon, path)[0], 200, path)
            daemon.signal(signal.SIGHUP)
            daemon.signal(signal.SIGUSR1)
            stop(daemon)
            self.assertEqual(daemon.stderr, "")

    def test_other_user(self) -> None:
        """
        With --uid, the user has to be in the new root, or the start is one line.
        """
        user = pwd.getpwnam("nobody")
        needs.other_user(user.pw_uid)
        root = self.prepared()
        before = ("--chroot", str(root), "--rundir", "/", "--uid", user.pw_name)
        done = subprocess.run(
            [
                Path(sys.executable).with_name("twistd"),
                "-n",
                "--pidfile=",
                *before,
                "echod",
                *LOOPBACK,
            ],
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
        )
        self.assertEqual((done.returncode, done.stdout), (78, ""))
        self.assertRegex(done.stderr, r"\Atwistd: --uid [^\n]+/etc/passwd does not have [^\n]+\n\Z")
        (root / "etc").mkdir()
        line = f"{user.pw_name}:x:{user.pw_uid}:{user.pw_gid}::/:\n"
        (root / "etc/passwd").write_text(line)
        with FreshDaemon(*LOOPBACK, before=before) as daemon:
            self.assertEqual(daemon.state("Uid").split(), [str(user.pw_uid)] * 4)
            with daemon.connect() as client:
                self.assertEqual(echo(client, b"hello"), b"hello")

    def test_without_the_device(self) -> None:
        """
        Without it, the start is one line, also in the background, where twistd would wait for
        ever.
        """
        root = self.root()
        for mode in ("--nodaemon", "--no_save"):
            given = (mode, "--pidfile=", "--logfile", str(root / "log"), "--chroot", str(root))
            done = subprocess.run(
                [Path(sys.executable).with_name("twistd"), *given, "echod", *LOOPBACK],
                capture_output=True,
                text=True,
                timeout=PATIENCE_SECONDS,
            )
            self.assertEqual((done.returncode, done.stdout), (78, ""))
            self.assertRegex(
                done.stderr, r"\Atwistd: --chroot [^\n]+/dev/null: No such file[^\n]+\n\Z"
            )
            self.assertEqual(list(root.iterdir()), [])


class LogTests(SynchronousTestCase):
    """
    What is logged, and where.
    """

    def test_json(self) -> None:
        """
        With --log-format json each line is one object, and the access record has its
        fields.
        """
        with FreshDaemon(*LOOPBACK, "--log-format", "json") as daemon:
            address = daemon.address()
            with daemon.connect() as client:
                host, port = client.getsockname()
                self.assertEqual(echo(client, b"hello"), b"hello")
            wait_until(lambda: "bytes echoed in" in daemon.log, "the access record")
            stop(daemon)
            events: list[dict[str, Any]] = [json.loads(line) for line in daemon.log.splitlines()]
            for event in events:
                self.assertLessEqual({"timestamp", "level", "logger", "message"}, event.keys())
                datetime.fromisoformat(event["timestamp"])
            by_name = {event["event"]: event for event in events if "event" in event}
            self.assertEqual(by_name["listening"]["address"], address)
            self.assertEqual(by_name["drained"]["finished"], 0)
            self.assertEqual(by_name["stopped"]["bytes"], 5)
            record = by_name["access"]
            self.assertEqual(record["connection"], 1)
            self.assertEqual(record["listener"], "tcp")
            self.assertEqual(record["peer"], f"{host}:{port}")
            self.assertEqual(record["bytes"], 5)
            self.assertEqual(record["reason"], "client")
            self.assertEqual(record["level"], "info")
            self.assertTrue(0 <= record["seconds"] < 60)

    def test_no_payload(self) -> None:
        """
        Even at the level debug, nothing that a client sent is logged.
        """
        with FreshDaemon(*LOOPBACK, "--log-level", "debug") as daemon:
            with daemon.connect() as client:
                self.assertEqual(echo(client, b"my-secret\r\n\x1b[2J"), b"my-secret\r\n\x1b[2J")
            self.assertEqual(daemon.ended("client", 1), 1)
            stop(daemon)
            self.assertNotIn("my-secret", daemon.log)

    def test_access_log_off(self) -> None:
        """
        With --access-log off the connections are counted, and none is recorded.
        """
        with FreshDaemon(*LOOPBACK, "--access-log", "off") as daemon:
            with daemon.connect() as client:
                self.assertEqual(echo(client, b"hello"), b"hello")
            stop(daemon)
            self.assertEqual(daemon.records(), [])
            self.assertNotIn("bytes echoed in", daemon.log)
            self.assertIn("echod stopped: 1 connections, 5 bytes echoed", daemon.log)

    def test_only_errors(self) -> None:
        """
        With --log-level error, a life without errors leaves no line anywhere.
        """
        silent = ("--log-level", "error")
        with FreshDaemon(*ON_A_SOCKET, *silent, ready=socket_listens) as daemon:
            with connect(f"unix:{socket_path(daemon)}") as client:
                self.assertEqual(echo(client, b"hello"), b"hello")
            daemon.signal(signal.SIGHUP)
            stop(daemon)
            self.assertEqual((daemon.stdout, daemon.stderr), ("", ""))

    def test_logger_of_the_user(self) -> None:
        """
        With twistd's C{--logger} it is that which gets the records, here one that writes
        none, and we write nothing either.
        """
        own = ("--logger", "twisted.logger.LogPublisher", "--logfile", "{}/log")
        with FreshDaemon(*ON_A_SOCKET, before=own, ready=socket_listens) as daemon:
            with connect(f"unix:{socket_path(daemon)}") as client:
                self.assertEqual(echo(client, b"hello"), b"hello")
            stop(daemon)
            self.assertEqual((daemon.stdout, daemon.stderr), ("", ""))
            self.assertFalse((daemon.directory / "log").exists())

    def test_syslog(self) -> None:
        """
        With --syslog it starts, echoes and stops, and writes nothing to its output, but to
        standard error that there is no syslogd, if there is none.
        """
        with FreshDaemon(*ON_A_SOCKET, before=("--syslog",), ready=socket_listens) as daemon:
            with connect(f"unix:{socket_path(daemon)}") as client:
                self.assertEqual(echo(client, b"hello"), b"hello")
            stop(daemon)
            self.assertEqual(daemon.stdout, "")
            self.assertRegex(daemon.stderr, r"\A(twistd: --syslog: no program listens [^\n]+\n)?\Z")
            self.assertFalse(socket_path(daemon).exists())
