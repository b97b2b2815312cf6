"""
What is seen of the daemon from outside: metrics, health, and while it is being stopped.
"""

import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path
from unittest import SkipTest

from prometheus_client.openmetrics.parser import text_string_to_metric_families
from twisted.trial.unittest import SynchronousTestCase

from echod.admin.site import IDLE_TIMEOUT
from tests.support import needs
from tests.support.admin import ADMIN, AdminConnection, ask, samples, shown
from tests.support.clients import VERSIONS, TLSClient, context
from tests.support.daemons import (
    LOOPBACK,
    REACTOR,
    Daemon,
    Process,
    connect,
    echo,
    many_descriptors,
    receive_rest,
    show,
    tls_daemon,
    wait_until,
)
from tests.support.listeners import held_port
from tests.support.tlswire import WireClient

TWISTD = str(Path(sys.executable).with_name("twistd"))


class ScrapeTests(SynchronousTestCase):
    """
    What a scrape gets, over TCP and over a UNIX socket.
    """

    def test_promtool(self) -> None:
        """
        Prometheus' own checker has nothing to say against the metrics.
        """
        promtool = needs.program("promtool")
        with tls_daemon(*ADMIN) as daemon:
            TLSClient(daemon.connect("--tls-port"), context("TLS 1.3")).handshake().close()
            _, text = ask(daemon, "/metrics")
            checked = subprocess.run(
                [promtool, "check", "metrics"],
                input=text,
                capture_output=True,
                text=True,
                timeout=60,
            )
            self.assertEqual((checked.returncode, checked.stdout, checked.stderr), (0, "", ""))

    def test_openmetrics(self) -> None:
        """
        OpenMetrics, when asked for, is what its own parser takes.
        """
        accept = {"Accept": "application/openmetrics-text; version=1.0.0; charset=utf-8"}
        with tls_daemon(*ADMIN) as daemon:
            _, text = ask(daemon, "/metrics", accept)
            names = {family.name for family in text_string_to_metric_families(text)}
        self.assertLess(
            {
                "echod_connections_active",
                "echod_connections_accepted",
                "echod_reactor_lag_seconds",
            },
            names,
        )

    def test_unix(self) -> None:
        """
        A UNIX socket serves owner and group, and any Host.
        """
        with Daemon(*LOOPBACK, "--admin", "unix:{}/admin.sock") as daemon:
            path = daemon.directory / "admin.sock"
            self.assertEqual(stat.S_IMODE(path.stat().st_mode), 0o660)
            self.assertEqual(ask(daemon, "/readyz", {"Host": "whatever"}), (200, "ready\n"))
            command = [
                needs.program("curl"),
                "-sS",
                "--unix-socket",
                str(path),
                "http://echod/livez",
            ]
            got = subprocess.run(command, capture_output=True, text=True, timeout=60)
            self.assertEqual((got.stdout, got.stderr), ("alive\n", ""))
            daemon.stop()
            self.assertFalse(path.exists())

    def test_host(self) -> None:
        """
        Over TCP, a name that another site may own is not served, unless the operator allows it.
        """
        with Daemon(*LOOPBACK, *ADMIN, "--admin-host", "echod.example") as daemon:
            for host, status in (
                ("localhost", 200),
                ("127.0.0.1:1", 200),
                ("echod.example.:9001", 200),
                ("evil.example", 421),
            ):
                self.assertEqual(ask(daemon, "/connections", {"Host": host})[0], status)

    def test_both(self) -> None:
        """
        An endpoint C{tcp:} without an interface, of any option, is there over IPv4 and over
        IPv6, as a probe by either address of a pod asks it.
        """
        needs.ipv6()
        with tls_daemon(
            *("--admin", "tcp:0", "--listen", "tcp:0", "--tls-listen", "tcp:0"), "--workers", "2"
        ) as daemon:
            ports = [
                int(daemon.address(option).rpartition(":")[2])
                for option in ("--admin", "--listen", "--tls-listen")
            ]
            for host in ("127.0.0.1", "::1"):
                url = f"http://[{host}]" if ":" in host else f"http://{host}"
                command = [
                    needs.program("curl"),
                    "-sS",
                    "--noproxy",
                    "*",
                    f"{url}:{ports[0]}/readyz",
                ]
                got = subprocess.run(command, capture_output=True, text=True, timeout=60)
                self.assertEqual((got.stdout, got.stderr), ("ready\n", ""))
                with socket.create_connection((host, ports[1]), 30) as client:
                    self.assertEqual(echo(client, b"x"), b"x")
                sock = socket.create_connection((host, ports[2]), 30)
                TLSClient(sock, context("TLS 1.3")).handshake().close()

    def test_not_the_echo(self) -> None:
        """
        Who looks is none of the echo's connections, and is not refused as one.
        """
        options = ("--max-connections", "1", "--max-per-client", "1", "--deny", "127.0.0.2")
        with Daemon(*LOOPBACK, *ADMIN, *options, "--connect-rate", "0.1:1") as daemon:
            with daemon.connect() as client:
                echo(client, b"x")
                for _ in range(5):
                    self.assertEqual(samples(daemon)["echod_connections_active", "tcp"], 1)
            wait_until(lambda: samples(daemon)["echod_connections_active", "tcp"] == 0, "its end")
            self.assertEqual(samples(daemon)["echod_connections_accepted_total", "tcp"], 1)


class BusyTests(SynchronousTestCase):
    """
    When many connect, or ask for what cannot be.
    """

    def ask_all(self, path: str, silent: int, asking: int) -> list[str]:
        """
        Let clients connect in one burst: silent ones, some that ask for a path, and silent
        ones again, before the daemon can see the first of them.

        @return: the first line that each of those that asked has got.
        """
        with Daemon(*LOOPBACK, *ADMIN) as daemon:
            address = daemon.address("--admin")
            self.enterContext(many_descriptors(2 * silent + asking + 100))
            daemon.signal(signal.SIGSTOP)
            for _ in range(silent):
                self.enterContext(connect(address))
            clients = [self.enterContext(connect(address)) for _ in range(asking)]
            for client in clients:
                client.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            for _ in range(silent):
                self.enterContext(connect(address))
            daemon.signal(signal.SIGCONT)
            return [client.recv(100).decode().split("\r\n")[0] for client in clients]

    def test_silent_burst(self) -> None:
        """
        Who asks gets an answer, though hundreds connect at the same time and say nothing.
        """
        self.assertEqual(self.ask_all("/livez", 300, 17), ["HTTP/1.1 200 OK"] * 17)

    def test_asking_burst(self) -> None:
        """
        So do hundreds who ask at the same time.
        """
        if REACTOR:
            raise SkipTest("the ports of other reactors accept a hundred clients at once")
        self.assertEqual(self.ask_all("/readyz", 20, 300), ["HTTP/1.1 200 OK"] * 300)

    def test_long_length(self) -> None:
        """
        A Content-Length that Python makes no number of is a bad request, and no traceback.
        """
        with Daemon(*LOOPBACK, *ADMIN) as daemon:
            headers = {"Content-Length": "1" * 5000}
            self.assertEqual(ask(daemon, "/readyz", headers)[0], 400)
            self.assertEqual(ask(daemon, "/readyz"), (200, "ready\n"))
            daemon.stop()
            self.assertNotIn("Traceback", daemon.log)

    def test_absolute(self) -> None:
        """
        A client that takes it for a proxy asks with the whole URL (RFC 9112 3.2.2).
        """
        with Daemon(*LOOPBACK, *ADMIN) as daemon:
            proxy = f"http://{daemon.address('--admin')}"
            for url, answer in (
                ("http://localhost:9001/readyz", "ready\n200"),
                ("http://evil.example/readyz", "421"),
            ):
                command = [
                    needs.program("curl"),
                    "-sS",
                    "--noproxy",
                    "",
                    "-x",
                    proxy,
                    "-w",
                    "%{http_code}",
                    url,
                ]
                got = subprocess.run(command, capture_output=True, text=True, timeout=60)
                self.assertTrue(got.stdout.endswith(answer), got)


class CountTests(SynchronousTestCase):
    """
    What has been counted is what has happened.
    """

    def test_bytes(self) -> None:
        """
        Bytes are right while a long stream runs, and stay so after its end; the sums agree.
        """
        with Daemon(*LOOPBACK, *ADMIN) as daemon:
            key = ("echod_echoed_bytes_total", "tcp")
            with daemon.connect() as client:
                for number in range(1, 4):
                    echo(client, bytes(100_000))
                    self.assertEqual(samples(daemon)[key], number * 100_000)
                (shown_client,) = shown(daemon)["newest"]
                self.assertEqual((shown_client["bytes"], shown_client["state"]), (300_000, "open"))
                host, port = client.getsockname()
                self.assertEqual(shown_client["peer"], f"{host}:{port}")
            ended = ("echod_connections_closed_total", "tcp", "client")
            wait_until(lambda: samples(daemon)[ended] == 1, "the end to be counted")
            now = samples(daemon)
            self.assertEqual(now[key], 300_000)
            self.assertEqual(now["echod_connections_accepted_total", "tcp"], 1)
            self.assertEqual(now["echod_connection_duration_seconds_count",], 1)

    def test_handshakes(self) -> None:
        """
        Handshakes are counted by how they came out; one that is broken off in the middle
        has failed, and who only looks whether the port is open has begun none.
        """
        with tls_daemon(*ADMIN) as daemon:
            for version in VERSIONS:
                TLSClient(daemon.connect("--tls-port"), context(version)).handshake().close()
            with daemon.connect("--tls-port") as garbage:
                garbage.sendall(b"GET / HTTP/1.0\r\n\r\n")
                receive_rest(garbage)
            with daemon.connect("--tls-port") as broken:
                # When the server has answered our first message, go.
                broken.sendall(WireClient(broken, context("TLS 1.2")).flight())
                self.assertEqual(broken.recv(1), b"\x16")
            daemon.connect("--tls-port").close()
            wait_until(lambda: not shown(daemon)["newest"], "all to be gone")
            now = samples(daemon)
            name = "echod_tls_handshakes_total"
            counts = {tuple(labels): n for (metric, *labels), n in now.items() if metric == name}
            self.assertEqual(
                counts, {("ok", "TLSv1.2"): 1, ("ok", "TLSv1.3"): 1, ("failed", ""): 2}
            )

    def test_blocked_loop(self) -> None:
        """
        A loop that does not come round has a lag.
        """
        with Daemon(*LOOPBACK, *ADMIN) as daemon:
            daemon.signal(signal.SIGSTOP)
            time.sleep(0.6)
            daemon.signal(signal.SIGCONT)
            wait_until(lambda: _late(daemon) >= 1, "the lag to be seen")

    def test_process(self) -> None:
        """
        The process metrics are those of the daemon.
        """
        with Daemon(*LOOPBACK, *ADMIN) as daemon:
            now = samples(daemon)
            self.assertLess(abs(now["process_start_time_seconds",] - time.time()), 60)
            memory = now["process_resident_memory_bytes",]
            self.assertLess(abs(memory - daemon.rss()), 8 << 20)
            with daemon.connect() as client:
                echo(client, b"x")
                more = now["process_open_fds",] + 1
                wait_until(lambda: samples(daemon)["process_open_fds",] == more, "one more")


def _late(daemon: Daemon) -> float:
    now = samples(daemon)
    count = now["echod_reactor_lag_seconds_count",]
    return count - now["echod_reactor_lag_seconds_bucket", "0.1"]


class StopTests(SynchronousTestCase):
    """
    While it is being stopped.
    """

    def test_drain(self) -> None:
        """
        From the first moment of a drain it is not ready, and says so, while the page still
        shows how it goes; at the end, who keeps a connection for later holds nothing up.
        """
        with Daemon(*LOOPBACK, *ADMIN, "--drain-timeout", "10m") as daemon:
            stuck = self.enterContext(daemon.connect(receive_buffer=4096))
            stuck.setblocking(False)
            sent = 0
            try:
                while sent < 64 << 20:
                    sent += stuck.send(bytes(65536))
            except BlockingIOError:
                pass
            idle, asking = AdminConnection(daemon), AdminConnection(daemon)
            for connection in (idle, asking):
                self.addCleanup(connection.close)
                self.assertEqual(connection.get("/readyz"), (200, "ready\n"))
            daemon.signal(signal.SIGTERM)
            wait_until(lambda: asking.get("/readyz") == (503, "draining\n"), "the drain")
            status, page = asking.get("/")
            self.assertEqual(status, 200)
            self.assertIn(">draining</p>", page)
            self.assertEqual(asking.get("/livez"), (200, "alive\n"))
            # Also who comes only now.
            self.assertEqual(ask(daemon, "/readyz")[0], 503)
            self.assertRaises(ConnectionRefusedError, daemon.connect)
            daemon.signal(signal.SIGTERM)
            daemon.wait()
            self.assertRaises(ConnectionRefusedError, connect, daemon.address("--admin"))
            self.assertIn("drained: 0 connections finished, 1 aborted", daemon.log)

    def test_idle_clients(self) -> None:
        """
        A stop without connections takes no longer for those who keep one to the page.
        """
        with Daemon(*LOOPBACK, *ADMIN, "--drain-timeout", "10m") as daemon:
            connection = AdminConnection(daemon)
            self.addCleanup(connection.close)
            connection.get("/readyz")
            half = self.enterContext(connect(daemon.address("--admin")))
            half.sendall(b"GET / HT")
            # It was not waited for them to be closed for want of a request.
            self.assertLess(daemon.stop(), IDLE_TIMEOUT / 2)


class BadInputTests(SynchronousTestCase):
    """
    What cannot be.
    """

    def start(self, *options: str) -> tuple[int, str]:
        """
        @return: the status and standard error of a daemon that does not start.
        """
        with Process(TWISTD, "-n", "--pidfile=", "echod", *LOOPBACK, *options) as process:
            process.wait()
            return process.status, process.stderr

    def test_taken(self) -> None:
        """
        A port that is taken is one line, and nothing runs.
        """
        with socket.create_server(("127.0.0.1", 0)) as taken:
            endpoint = f"tcp:{taken.getsockname()[1]}:interface=127.0.0.1"
            status, stderr = self.start("--admin", endpoint)
        reason = "Address already in use; stop what listens there, or give another"
        self.assertEqual((status, stderr), (1, f"echod: --admin {endpoint}: {reason}\n"))

    def test_echo_port(self) -> None:
        """
        It never shares the echo's port.
        """
        port = self.enterContext(held_port())
        endpoint = f"tcp:{port}:interface=127.0.0.1"
        status, stderr = self.start("--listen", endpoint, "--admin", endpoint)
        self.assertEqual(status, 1)
        self.assertIn(f"echod: --admin {endpoint}: Address already in use", stderr)

    def test_check(self) -> None:
        """
        C{--check} tells where it would be seen.
        """
        command = (TWISTD, "-n", "--pidfile=", "echod", *LOOPBACK, *ADMIN, "--check")
        with Process(*command) as process:
            process.wait()
            self.assertEqual(process.status, 0)
            self.assertRegex(process.stdout, r"  127\.0\.0\.1:\d+, --admin tcp:0:interface")


class Limited(Daemon):
    """
    A daemon that is started with a bound on its descriptors.
    """

    def __init__(self, nofile: int, *options: str):
        needs.prlimit(nofile)
        super().__init__(*options)
        self._command = ("prlimit", f"--nofile={nofile}", *self._command)


class ManyTests(SynchronousTestCase):
    """
    When there are very many connections.
    """

    clients = 10_000
    most_bytes = 1 << 20

    def test_ten_thousand(self) -> None:
        """
        With ten thousand live connections, a scrape is small.  What it costs:
        C{python -m tests.bench --only scrape}.
        """
        self.enterContext(many_descriptors(self.clients + 200))
        with Daemon(*LOOPBACK, *ADMIN, "--max-connections", str(self.clients + 10)) as daemon:
            for number in range(self.clients):
                client = self.enterContext(daemon.connect())
                if number % 100 == 0:
                    echo(client, b"x" * 64)
            wait_until(
                lambda: samples(daemon)["echod_connections_active", "tcp"] == self.clients,
                "all of them",
            )
            connection = AdminConnection(daemon)
            self.addCleanup(connection.close)
            for path in ("/metrics", "/", "/connections"):
                status, body = connection.get(path)
                size = len(body.encode())
                show(f"{path} with {self.clients} connections: {size / 1024:.1f} KiB")
                self.assertEqual(status, 200)
                self.assertLess(size, self.most_bytes)

    def test_no_descriptor_left(self) -> None:
        """
        When the echo's connections have taken all the descriptors that they may, it can
        still be seen, by many.
        """
        with Limited(150, *LOOPBACK, *ADMIN) as daemon:
            served = []
            for _ in range(200):
                client = self.enterContext(daemon.connect())
                client.sendall(b"x")
                served.append(client)
            most = 150 - 64
            full = ("echod_connections_refused_total", "tcp", "max-connections")
            wait_until(lambda: samples(daemon)[full] == 200 - most, "the refusals")
            for _ in range(32):
                connection = AdminConnection(daemon)
                self.addCleanup(connection.close)
                self.assertEqual(connection.get("/readyz"), (200, "ready\n"))
            now = samples(daemon)
            self.assertEqual(now["echod_connections_active", "tcp"], most)
            self.assertEqual(now["echod_max_connections",], most)
            self.assertNotIn("cannot accept", daemon.log)
