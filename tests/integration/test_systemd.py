"""
What a daemon tells a service manager: a real one tells it, to a socket that stands in for
systemd's.  With systemd itself: tests/system/.
"""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from twisted.trial.unittest import TestCase

from tests.support.daemons import (
    LOOPBACK,
    PATIENCE_SECONDS,
    Daemon,
    connect,
    echo,
    show,
    tls_daemon,
    wait_until,
)
from tests.support.servicemanager import ServiceManager

TOLD = re.compile(r"(READY|STOPPING|RELOADING|WATCHDOG)=1")


class NotifyTests(TestCase):
    """
    The daemon is a process, the service manager is this one.
    """

    def setUp(self) -> None:
        self.manager = ServiceManager()
        self.addCleanup(self.manager.close)

    def supervised(self, daemon: Daemon, **environment: str) -> Daemon:
        """
        Have the daemon started as a service manager would.
        """
        all_of_it = self.manager.environment | environment
        given = [f"{name}={value}" for name, value in all_of_it.items()]
        # env(1) becomes the daemon, so the process stays the same.
        daemon._command = ("env", *given, *daemon._command)
        return daemon

    def wait_for(self, assignment: str, times: int = 1) -> None:
        wait_until(lambda: self.manager.told().count(assignment) >= times, assignment)

    def test_ready_means_ready(self) -> None:
        """
        Who is told READY can connect, and can stop the daemon with a drain, at that very
        moment.
        """
        for _ in range(3):
            self.manager.messages.clear()
            # At a path, so that nothing but READY has to be waited for.
            daemon = Daemon("--listen", "unix:{}/s", "--drain-timeout", "10m")
            daemon._ready = lambda _: "READY=1" in self.manager.told()
            daemon._runs = lambda: True  # type: ignore[method-assign]
            with self.supervised(daemon):
                with connect(f"unix:{daemon.directory}/s") as client:
                    daemon.signal(signal.SIGTERM)
                    self.assertEqual(b"", client.recv(1))
                daemon.wait()
                self.assertIn("drained: 1 connections finished, 0 aborted", daemon.log)

    def test_one_life(self) -> None:
        """
        From READY over reloads to the end, everything is told in its order, and the figures
        with it.
        """
        daemon = tls_daemon("--port", "0", "--drain-timeout", "1s")
        with self.supervised(daemon):
            self.wait_for("READY=1")
            self.wait_for("STATUS=0 connections, 0 B/s, 0 refused")
            with connect(daemon.address("--port")) as client:
                began = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
                daemon.signal(signal.SIGHUP)
                self.wait_for("READY=1", 2)
                ended = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
                echo(client, bytes(30_000))
                wait_until(
                    lambda: any(
                        re.fullmatch(r"STATUS=1 connection, [\d.]+ KiB/s, 0 refused", each)
                        for each in self.manager.told()
                    ),
                    "the figures",
                )
                daemon.signal(signal.SIGTERM)
                self.wait_for("STOPPING=1")
                # Busy, so that it has to be waited for, until it is aborted.
                try:
                    while echo(client, b"x"):
                        pass
                except ConnectionError:
                    pass
            daemon.wait()
        told = self.manager.told()
        order = [each for each in told if TOLD.fullmatch(each)]
        self.assertEqual(["READY=1", "RELOADING=1", "READY=1", "STOPPING=1"], order)
        [reloading] = [each for each in self.manager.messages if each[0] == "RELOADING=1"]
        moment = int(reloading[1].removeprefix("MONOTONIC_USEC="))
        self.assertTrue(began <= moment <= ended, (began, moment, ended))
        stop = told[told.index("STOPPING=1") + 1 :]
        self.assertTrue(stop[0].startswith("STATUS=draining, 1 connection, "), stop)
        self.assertIn("EXTEND_TIMEOUT_USEC=10000000", stop)

    def test_watchdog(self) -> None:
        """
        Signs of life come twice in the time that the watchdog waits, and stop when the
        process does.
        """
        began = time.monotonic()
        with self.supervised(Daemon(*LOOPBACK), WATCHDOG_USEC="400000") as daemon:
            self.wait_for("WATCHDOG=1", 6)
            number, took = self.manager.told().count("WATCHDOG=1"), time.monotonic() - began
            self.assertLessEqual(number, took / 0.2 + 1)
            daemon.signal(signal.SIGSTOP)
            wait_until(lambda: daemon.state("State").startswith("T"), "the process to stop")
            self.manager.take()
            time.sleep(0.5)
            self.assertEqual([], self.manager.take())
            daemon.signal(signal.SIGCONT)
            self.wait_for("WATCHDOG=1", number + 2)
        show(f"{number} signs of life in {took:.2f} s from the start, due one each 0.2 s")

    def test_watchdog_of_another(self) -> None:
        """
        A watchdog that is another process's gets no sign of life from this one.
        """
        another = {"WATCHDOG_USEC": "100000", "WATCHDOG_PID": str(os.getpid())}
        with self.supervised(Daemon(*LOOPBACK), **another):
            self.wait_for("READY=1")
            time.sleep(0.3)
        self.assertNotIn("WATCHDOG=1", self.manager.told())

    def test_nobody_reads(self) -> None:
        """
        A service manager that takes nothing keeps no echo waiting, and hears of the last
        state when it takes again.
        """
        full = self.manager.fill()
        daemon = self.supervised(Daemon(*LOOPBACK), WATCHDOG_USEC="20000")
        with daemon:
            with daemon.connect() as client:
                for _ in range(20):
                    daemon.signal(signal.SIGHUP)
                    self.assertEqual(b"hello", echo(client, b"hello"))
            # All echoes are back, and its queue is still full.
            self.assertEqual(0, self.manager.fill())
            self.wait_for("READY=1")
            told = self.manager.told()
            self.assertEqual(["X=1"] * full, told[:full])

    def test_gone(self) -> None:
        """
        A service manager that goes away is not missed.
        """
        with self.supervised(Daemon(*LOOPBACK), WATCHDOG_USEC="20000") as daemon:
            self.wait_for("READY=1")
            self.manager.close()
            with daemon.connect() as client:
                daemon.signal(signal.SIGHUP)
                wait_until(lambda: "SIGHUP ignored" in daemon.log, "the reload")
                self.assertEqual(b"hello", echo(client, b"hello"))
            daemon.stop()
            self.assertIn("echod stopped: 1 connections", daemon.log)

    def test_path(self) -> None:
        """
        The socket may be one with a path, as systemd's is; one that is not there is said
        to be missing, and the daemon serves.
        """
        daemon = Daemon(*LOOPBACK)
        notify = str(daemon.directory / "notify")
        manager = ServiceManager(notify)
        self.addCleanup(manager.close)
        with self.supervised(daemon, NOTIFY_SOCKET=notify):
            wait_until(lambda: "READY=1" in manager.told(), "READY=1")
        with self.supervised(Daemon(*LOOPBACK), NOTIFY_SOCKET="/no/such/socket") as daemon:
            line = "cannot notify the service manager: /no/such/socket: No such file"
            wait_until(lambda: line in daemon.log, "the warning")
            with daemon.connect() as client:
                self.assertEqual(b"hello", echo(client, b"hello"))

    def test_check(self) -> None:
        """
        C{--check} tells nothing, though it starts the daemon for a moment.
        """
        twistd = str(Path(sys.executable).with_name("twistd"))
        done = subprocess.run(
            [twistd, "-n", "--pidfile=", "echod", *LOOPBACK, "--check"],
            env={**os.environ, **self.manager.environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
        )
        self.assertEqual(0, done.returncode, done.stderr)
        self.assertIn("all is well", done.stdout)
        self.assertEqual([], self.manager.told())

    def test_background(self) -> None:
        """
        In the background without a service manager no notification is sent; what the daemon
        leaves open is no socket for it.
        """
        with Daemon(*LOOPBACK, background=True) as daemon:
            folder = Path(f"/proc/{daemon.pid}/fd")
            sockets = [link for link in folder.iterdir() if "socket:" in os.readlink(link)]
            datagrams = []
            for link in sockets:
                inode = os.readlink(link).strip("socket:[]")
                for line in Path("/proc/net/unix").read_text().splitlines()[1:]:
                    fields = line.split()
                    # Type and inode, by proc(5).
                    if fields[6] == inode and int(fields[4], 16) == socket.SOCK_DGRAM:
                        datagrams.append(line)
            self.assertEqual([], datagrams)
