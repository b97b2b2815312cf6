"""
echod on a real systemd, by the units in C{deploy/}: a Debian is booted for each test.

Invariant: what is shown here is what cannot be shown without systemd.
"""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager

from twisted.trial.unittest import SkipTest, TestCase

from tests.support.certificates import make_certificate
from tests.support.daemons import show, wait_until
from tests.system.machine import Machine
from tests.system.tree import SUITE, missing, tree

PEM = "/etc/ssl/private/echod.pem"

WATCHDOG_SECONDS = 3
DRAIN_SECONDS = 4.0


@contextmanager
def boot(*units: str, **drop_ins: str) -> Iterator[Machine]:
    """
    A machine on which echod is installed, and not started.

    @param units: those of C{deploy/}, beside C{echod.service}.
    @param drop_ins: lines for the service, by the drop-in's name.
    """
    with Machine() as machine:
        machine.install("echod.service", *units, **drop_ins)
        yield machine


class SystemTests(TestCase):
    """
    The daemon from its start to its stop.
    """

    skip = missing()  # type: ignore[assignment]  # None for not to skip

    def certify(self, machine: Machine, mode: int = 0o600) -> int:
        """
        Give the machine a certificate that it is to serve and its clients trust.

        @return: its serial number.
        """
        made = make_certificate()
        machine.write(PEM, made.cert_pem + made.key_pem, mode)
        (machine.folder / "ca.pem").write_bytes(made.cert_pem)
        return made.certificate.serial_number

    def test_start(self) -> None:
        """
        When C{systemctl start} returns, echod listens; C{systemctl status} shows the figures;
        and a watchdog leaves it alone.
        """
        with boot(watchdog="WatchdogSec=2") as machine:
            began = time.monotonic()
            machine.run("systemctl", "start", "echod")
            took = time.monotonic() - began
            # At once: a port that is not bound yet would refuse.
            self.assertTrue(machine.run_client("once", "--port=9000")["exact"])
            self.assertEqual("active\n", machine.run("systemctl", "is-active", "echod"))
            with machine.clients("stay", "--port=9000", "--count=3"):
                status = wait_until(
                    lambda: re.search(
                        r'Status: "(3 connections, \S+ \S+/s, 0 refused)"',
                        machine.run("systemctl", "status", "echod"),
                    ),
                    "the figures",
                )[1]
            self.assertEqual("0", machine.show("NRestarts"))
            show(f"{tree()[1]}: started in {took:.2f} s; systemctl status: {status}")

    def test_echo(self) -> None:
        """
        Every byte comes back, plain and over TLS, with a key that only root may read.
        """
        with boot("echod.service.d/tls.conf") as machine:
            serial = self.certify(machine)
            machine.run("systemctl", "start", "echod")
            plain = machine.run_client("once", "--port=9000", "--bytes=1000000")
            secure = machine.run_client("once", "--port=9443", "--bytes=1000000", "--ca=/io/ca.pem")
            self.assertEqual((True, None), (plain["exact"], plain["serial"]))
            self.assertEqual((True, serial), (secure["exact"], secure["serial"]))
            show("1000000 bytes each, plain and TLS: exact")

    def test_sandbox(self) -> None:
        """
        It is an unprivileged user that can gain nothing, write nowhere, and see nothing of
        anybody else's.
        """
        with boot() as machine:
            machine.write("/home/user/secret", "secret")
            machine.run("systemctl", "start", "echod")
            pid, status = machine.show("MainPID"), machine.process()
            uid = int(status["Uid"].split()[0])
            self.assertTrue(61184 <= uid <= 65519, "a dynamic user (systemd.exec(5))")
            self.assertEqual({str(uid)}, set(status["Uid"].split() + status["Gid"].split()))
            for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
                self.assertEqual(0, int(status[name], 16), name)
            self.assertEqual(("1", "2"), (status["NoNewPrivs"], status["Seccomp"]))
            user_map = machine.run("cat", f"/proc/{pid}/uid_map").split()
            self.assertNotIn(str(2**32 - 1), user_map, "a user namespace of its own")
            # What it sees, as the user that it is.
            inside = ["nsenter", f"--target={pid}", "--mount", "setpriv", "--no-new-privs"]
            inside += [f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]
            inside += ["--bounding-set=-all", "--inh-caps=-all"]
            for folder in ("/", "/etc", "/opt/echod", "/usr", "/var", "/run", "/dev"):
                said = machine.run(*inside, "touch", f"{folder}/x", status=1)
                self.assertRegex(said, "Read-only file system|Permission denied", folder)
            machine.run(*inside, "touch", "/tmp/x")
            machine.run("ls", "/tmp/x", status=2)
            said = machine.run(*inside, "cat", "/home/user/secret", status=1)
            self.assertRegex(said, "No such file|Permission denied")
            processes = machine.run(*inside, "ls", "/proc").split()
            self.assertEqual(set(), {"1", "sys", "meminfo"} & set(processes))
            filters = status["Seccomp_filters"]
            show(f"uid {uid}, no capabilities, no new privileges, {filters} filters")

    @contextmanager
    def reloadable(self, **drop_ins: str) -> Iterator[tuple[Machine, int]]:
        """
        A machine on which echod runs, and may itself read a certificate that is renewed.

        @return: the machine, and the serial number of the certificate.
        """
        lines = (
            "LoadCredential=\n"
            "SupplementaryGroups=echo-keys\n"
            f'Environment="ECHOD_TLS=--tls-port 9443 --tls-cert {PEM}"'
        )
        with boot("echod.service.d/tls.conf", group=lines, **drop_ins) as machine:
            machine.run("groupadd", "echo-keys")
            # What is made in there is the group's as well.
            machine.run("install", "-d", "--group=echo-keys", "--mode=2750", "/etc/ssl/private")
            serial = self.certify(machine, 0o640)
            machine.run("systemctl", "start", "echod")
            yield machine, serial

    def test_reload(self) -> None:
        """
        After C{systemctl reload} the new certificate is served, and no connection has
        noticed.
        """
        with self.reloadable() as (machine, old):
            ca = "--ca=/io/ca.pem"
            plain = machine.clients("stay", "--port=9000", "--count=10", "--every=0.02")
            secure = machine.clients("stay", "--port=9443", "--count=10", "--every=0.02", ca)
            with plain as staying, secure as secure_staying:
                self.assertEqual(old, machine.run_client("once", "--port=9443", ca)["serial"])
                new = self.certify(machine, 0o640)
                machine.run("systemctl", "reload", "echod")
                # ExecReload= is over when HUP is sent.
                wait_until(lambda: machine.journal().count("] certificate for") > 1, "the reload")
                self.assertEqual(new, machine.run_client("once", "--port=9443", ca)["serial"])
            found = staying.found + secure_staying.found
            for client in found:
                self.assertEqual((None, True), (client["end"], client["right"]))
                self.assertEqual(client["sent"], client["received"])
            self.assertEqual({None, old}, {client["serial"] for client in found})
            self.assertEqual("active", machine.show("ActiveState"))
            show(f"reload: the new certificate is served; of {len(found)} connections 0 were lost")

    def test_reload_is_awaited(self) -> None:
        """
        Where systemd knows how, C{systemctl reload} returns when the new certificate is
        served.
        """
        if SUITE == "bookworm":
            raise SkipTest("takes systemd 254: set ECHOD_TEST_SYSTEM=trixie to have a newer one")
        newer = "Type=notify-reload\nExecReload=\nRestartSteps=8\nRestartMaxDelaySec=30"
        with self.reloadable(newer=newer) as (machine, _):
            version = machine.run("systemctl", "--version").split()[1]
            for _ in range(3):
                new = self.certify(machine, 0o640)
                machine.run("systemctl", "reload", "echod")
                told = machine.run_client("once", "--port=9443", "--ca=/io/ca.pem")
                self.assertEqual(new, told["serial"])
            self.assertNotIn("Unknown key", machine.run("journalctl", "--no-pager"))
            show(f"systemd {version}: reload returned with the new certificate 3 times of 3")

    def test_watchdog(self) -> None:
        """
        A process whose loop does not turn is ended and started again; the journal says
        where it stood.
        """
        with boot(watchdog=f"WatchdogSec={WATCHDOG_SECONDS}") as machine:
            machine.run("systemctl", "start", "echod")
            pid = machine.show("MainPID")
            took = machine.run_client("stall", "--port=9000", f"--pid={pid}")
            self.assertEqual(
                ("1", "active"), (machine.show("NRestarts"), machine.show("ActiveState"))
            )
            self.assertNotEqual(pid, machine.show("MainPID"))
            journal = machine.journal()
            self.assertIn("Watchdog timeout", journal)
            self.assertRegex(journal, r"Fatal Python error: Aborted[\s\S]*in doPoll")
            show(f"SIGSTOP to the next echo: {took:.2f} s, with WatchdogSec={WATCHDOG_SECONDS}")

    def test_restart(self) -> None:
        """
        With the ports held by systemd, no client is refused while echod is restarted, and
        each has its echo: all of it, or what came before an end that the log tells of.
        """
        parts = ("echod.socket", "echod-tls.socket")
        parts += ("echod.service.d/socket.conf", "echod.service.d/socket-tls.conf")
        options = 'Environment="ECHOD_OPTIONS=--drain-timeout 1s"'
        with boot(*parts, options=options) as machine:
            old = self.certify(machine)
            machine.run("systemctl", "start", "echod.socket", "echod-tls.socket")
            self.assertEqual("inactive", machine.show("ActiveState"))
            ca = "--ca=/io/ca.pem"
            # The first client starts it, of whichever socket.
            self.assertEqual(old, machine.run_client("once", "--port=9443", ca)["serial"])
            first = machine.show("MainPID")
            plain = machine.clients("reconnect", "--port=9000", "--count=6")
            secure = machine.clients("reconnect", "--port=9443", "--count=2", ca)
            stay = machine.clients("stay", "--port=9000", "--count=5", "--every=0.02")
            with plain as reconnecting, secure as secure_reconnecting, stay as staying:
                time.sleep(0.5)
                machine.run("systemctl", "restart", "echod")
                time.sleep(0.5)
            new = machine.show("MainPID")
            self.assertNotEqual(first, new)
            self.assertEqual(old, machine.run_client("once", "--port=9443", ca)["serial"])
            journal = machine.journal()
            both = (reconnecting.found, secure_reconnecting.found)
            for found in both:
                self.assertEqual(0, found["refused"])
                self.assertGreater(found["exact"], 0)
            ended = [
                *staying.found,
                *reconnecting.found["others"],
                *secure_reconnecting.found["others"],
            ]
            for client in ended:
                self.assertTrue(client["right"], client)
                record = rf"(?m)^.* of 127\.0\.0\.1:{client['port']} .*, (aborted|drain)\b"
                self.assertIsNotNone(re.search(record, journal), client)
            exact = sum(found["exact"] for found in both)
            slowest = max(found["slowest"] for found in both)
            show(
                f"restart: 0 refused, {exact} exact, the slowest in {slowest:.2f} s; of "
                f"{len(ended)} that were not done the log tells the end"
            )

    def test_admin(self) -> None:
        """
        What C{--admin} shows is had on a socket that root may open, also where there is no
        network, and with workers.
        """
        parts = ("echod.socket", "echod.service.d/socket.conf", "echod.service.d/admin.conf")
        with boot(*parts, options='Environment="ECHOD_OPTIONS=--workers 2"') as machine:
            machine.run("systemctl", "start", "echod")
            self.assertTrue(machine.run_client("once", "--port=9000", "--bytes=1000")["exact"])
            path = "/run/echod/admin.sock"
            self.assertEqual("660", machine.run("stat", "--format=%a", path).strip())
            self.assertEqual(
                "ready", machine.run_client("ask", f"--socket={path}", "--path=/readyz")
            )
            metrics = machine.run_client("ask", f"--socket={path}", "--path=/metrics")
            found = re.findall(
                r'(?m)^echod_echoed_bytes_total\{listener="echo",worker="[01]"\} (\S+)$', metrics
            )
            self.assertEqual(1000, sum(map(float, found)), metrics)
            machine.run("systemctl", "stop", "echod")
            machine.run("stat", path, status=1)

    def test_workers(self) -> None:
        """
        Several workers serve in the same sandbox; no client is refused when one of them is
        killed, nor when all are restarted.
        """
        parts = ("echod.socket", "echod.service.d/socket.conf")
        options = 'Environment="ECHOD_OPTIONS=--workers 2 --drain-timeout 1s"'
        with boot(*parts, options=options) as machine:
            machine.run("systemctl", "start", "echod.socket")
            self.assertTrue(machine.run_client("once", "--port=9000")["exact"])

            def workers() -> set[str]:
                parent = machine.show("MainPID")
                return set(machine.run("cat", f"/proc/{parent}/task/{parent}/children").split())

            before = workers()
            self.assertEqual(2, len(before))
            for pid in before:
                self.assertIn("NoNewPrivs:\t1", machine.run("cat", f"/proc/{pid}/status"))
            victim = min(before)
            with machine.clients("reconnect", "--port=9000", "--count=6") as reconnecting:
                machine.run("sh", "-c", f"kill -KILL {victim}")
                wait_until(lambda: len(workers() - {victim}) == 2, "another in its place")
                wait_until(lambda: machine.journal().count(" is up, process ") == 3, "it to serve")
                machine.run("systemctl", "restart", "echod")
                self.assertEqual(set(), workers() & before)
                self.assertTrue(machine.run_client("once", "--port=9000")["exact"])
            found = reconnecting.found
            self.assertEqual(0, found["refused"])
            self.assertGreater(found["exact"], 0)
            self.assertIn("was ended by SIGKILL; restarting it", machine.journal())
            show(
                f"2 workers, one killed, then all restarted: 0 refused, {found['exact']} exact, "
                f"the slowest in {found['slowest']:.2f} s"
            )

    def test_activated_sandbox(self) -> None:
        """
        With the port held by systemd, echod has a network of its own with nothing in it.
        """
        parts = ("echod.socket", "echod.service.d/socket.conf")
        with boot(*parts) as machine:
            machine.run("systemctl", "start", "echod.socket")
            self.assertTrue(machine.run_client("once", "--port=9000")["exact"])
            pid = machine.show("MainPID")
            networks = [machine.run("readlink", f"/proc/{each}/ns/net") for each in (pid, "1")]
            self.assertNotEqual(*networks)
            listed = machine.run("cat", f"/proc/{pid}/net/dev").splitlines()[2:]
            self.assertEqual(["lo"], [line.split(":")[0].strip() for line in listed])
            self.assertEqual(0, int(machine.process()["CapEff"], 16))
            show("socket-activated: a network with nothing but its own loopback, and echoes")

    def test_renewal(self) -> None:
        """
        With the ports held by systemd, a restart takes over a new certificate that is
        handed over, and one more socket.
        """
        parts = ("echod.socket", "echod-tls.socket")
        parts += ("echod.service.d/socket.conf", "echod.service.d/socket-tls.conf")
        with boot(*parts) as machine:
            old = self.certify(machine)
            machine.run("systemctl", "start", "echod")
            ca = "--ca=/io/ca.pem"
            self.assertEqual(old, machine.run_client("once", "--port=9443", ca)["serial"])
            new = self.certify(machine)
            machine.run("systemctl", "restart", "echod")
            self.assertEqual(new, machine.run_client("once", "--port=9443", ca)["serial"])
            self.assertTrue(machine.run_client("once", "--port=9000")["exact"])

    def test_drain(self) -> None:
        """
        A stop takes as long as the drain does, though that is longer than TimeoutStopSec=;
        meanwhile systemd knows that it stops, and for whom it waits.
        """
        options = f'Environment="ECHOD_OPTIONS=--drain-timeout {DRAIN_SECONDS}s"\nTimeoutStopSec=2'
        with boot(options=options) as machine:
            machine.run("systemctl", "start", "echod")
            quiet = machine.clients("stay", "--port=9000", "--count=4")
            busy = machine.clients("stay", "--port=9000", "--count=2", "--every=0.05")
            with quiet as quiet_staying, busy as busy_staying:
                began = time.monotonic()
                machine.run("systemctl", "stop", "--no-block", "echod")
                wait_until(lambda: "draining, " in machine.show("StatusText"), "the drain")
                self.assertEqual("deactivating", machine.show("ActiveState"))
                wait_until(lambda: machine.show("ActiveState") != "deactivating", "the end")
                took = time.monotonic() - began
            self.assertEqual(
                ("inactive", "success"), (machine.show("ActiveState"), machine.show("Result"))
            )
            self.assertGreaterEqual(took, DRAIN_SECONDS)
            for client in quiet_staying.found:
                self.assertEqual(("EOFError", True), (client["end"], client["right"]))
                self.assertEqual(client["sent"], client["received"])
            self.assertEqual({True}, {client["right"] for client in busy_staying.found})
            journal = machine.journal()
            self.assertIn("drained: 4 connections finished, 2 aborted", journal)
            self.assertNotIn("timed out", journal)
            show(f"stop: {took:.2f} s for a drain of {DRAIN_SECONDS} s with TimeoutStopSec=2")

    def test_port_7(self) -> None:
        """
        The port of RFC 862, without root: by the one capability that this takes, or by a
        socket of systemd's and none at all.
        """
        with boot("echod.service.d/port-7.conf") as machine:
            machine.run("systemctl", "start", "echod")
            self.assertTrue(machine.run_client("once", "--port=7")["exact"])
            status = machine.process()
            self.assertNotEqual("0", status["Uid"].split()[0])
            self.assertEqual(1 << 10, int(status["CapEff"], 16), "CAP_NET_BIND_SERVICE alone")
            machine.run("systemctl", "stop", "echod")
            machine.run("rm", "/etc/systemd/system/echod.service.d/port-7.conf")
            machine.write(
                "/etc/systemd/system/echod.socket.d/port.conf",
                "[Socket]\nListenStream=\nListenStream=7\n",
            )
            machine.install("echod.socket", "echod.service.d/socket.conf")
            machine.run("systemctl", "start", "echod.socket")
            self.assertTrue(machine.run_client("once", "--port=7")["exact"])
            self.assertEqual(0, int(machine.process()["CapEff"], 16))
            show("port 7: with CAP_NET_BIND_SERVICE alone, and from echod.socket with nothing")

    def test_descriptors(self) -> None:
        """
        The limit on connections keeps to LimitNOFILE=, of which the filter of system calls
        lets it use all.
        """
        with boot(limit="LimitNOFILE=100:200") as machine:
            machine.run("systemctl", "start", "echod")
            self.assertIn("--max-connections 10000: limited to 136", machine.journal())
            limits = machine.run("cat", f"/proc/{machine.show('MainPID')}/limits")
            self.assertRegex(limits, r"Max open files +200 +200")

    def test_cannot_start(self) -> None:
        """
        A start that fails says why, in one line, and is tried again until it does not.
        """
        option = 'Environment="ECHOD_OPTIONS=--interface 192.0.2.1"'
        with boot(option=option, sooner="RestartSec=100ms") as machine:
            machine.run("systemctl", "start", "echod", status=1)
            wait_until(lambda: int(machine.show("NRestarts")) > 5, "more tries than systemd makes")
            self.assertIn(
                "echod: --port 9000 --interface 192.0.2.1: Cannot assign requested address; "
                "give an address of this machine",
                machine.journal(),
            )
            machine.install(option="")
            wait_until(lambda: machine.show("ActiveState") == "active", "the next try")
