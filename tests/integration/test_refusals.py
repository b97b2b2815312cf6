"""
What refusals cost: little CPU, no descriptor, and a line a second in the log.
"""

import json
import socket
import time
from collections import Counter
from collections.abc import Callable

from twisted.trial.unittest import SynchronousTestCase

from tests.support.clients import TLSClient, context
from tests.support.daemons import (
    LOOPBACK,
    Daemon,
    echo,
    receive_rest,
    show,
    tls_daemon,
    wait_until,
)
from tests.support.shortclients import connect_from, is_served, loopback_addresses, reset

SSL_LISTENER = ("--listen", "ssl:0:privateKey={}/pem:interface=127.0.0.1")


def knock(source: str, port: int, said: bytes = b"") -> bytes:
    """
    Connect, say something, and listen to the end.
    """
    with connect_from(source, ("127.0.0.1", port)) as client:
        try:
            client.sendall(said)
        except ConnectionError:
            return b""
        return receive_rest(client)


class FloodTests(SynchronousTestCase):
    """
    Clients who come to fill the log.
    """

    least = 3000
    least_seconds = 2.0

    def test_a_line_a_second(self) -> None:
        """
        However many are refused, the log has about a line a second for each reason, and
        what the lines count adds up to all of them.
        """
        options = ("--port", "0", "--max-per-client", "2", "--connect-rate", "0.001:2")
        denied = ("--deny", "127.0.0.2", "--log-format", "json")
        with tls_daemon(*options, *denied) as daemon:
            plain, secure = daemon.port("--port"), daemon.port("--tls-port")
            place = ("127.0.0.1", plain)
            for client in (connect_from("127.0.0.3", place), connect_from("127.0.0.3", place)):
                self.addCleanup(client.close)
                self.assertTrue(is_served(client))
            for _ in range(2):
                with connect_from("127.0.0.4", place) as client:
                    self.assertTrue(is_served(client))
            wait_until(lambda: daemon.log.count('"event": "access"') == 2, "those two to be gone")
            others = loopback_addresses()
            kinds: dict[str, Callable[[], bytes]] = {
                "denied": lambda: knock("127.0.0.2", plain),
                "max-per-client": lambda: knock("127.0.0.3", plain),
                "connect-rate": lambda: knock("127.0.0.4", plain),
                "handshake": lambda: knock(next(others), secure, b"GET / HTTP/1.0\r\n\r\n"),
            }
            sent: Counter[str] = Counter()
            start = time.monotonic()
            # Two lines for each reason take a second and a bit.
            while sent.total() < self.least or time.monotonic() < start + self.least_seconds:
                for reason, come in kinds.items():
                    self.assertNotIn(b"HTTP", come())
                    sent[reason] += 1
            took = time.monotonic() - start
            told = wait_until(lambda: self.told(daemon, sent), "all to be told")
            lines = Counter(record["reason"] for record in told)
            show(
                f"{sent.total()} refused in {took:.1f} s, for {len(kinds)} reasons: "
                f"{len(told)} lines"
            )
            counted: Counter[str] = Counter()
            for record in told:
                counted[record["reason"]] += record["count"]
            self.assertEqual(counted, sent)
            for reason in kinds:
                self.assertGreaterEqual(lines[reason], 2, reason)
                # One for each second that has begun, and one for the rest.
                self.assertLessEqual(lines[reason], took + 2, reason)
            peers = {record["reason"]: record["peer"] for record in told}
            self.assertRegex(peers["denied"], r"^127\.0\.0\.2:\d+$")
            self.assertRegex(peers["connect-rate"], r"^127\.0\.0\.4:\d+$")
            self.assertEqual({record["level"] for record in told}, {"info"})

    def told(self, daemon: Daemon, sent: Counter[str]) -> list[dict[str, object]] | None:
        """
        The records about refusals, once they tell of as many as there were.
        """
        whole = daemon.log[: daemon.log.rfind("\n") + 1]
        records = [json.loads(line) for line in whole.splitlines()]
        told = [record for record in records if record.get("event") == "refused"]
        return told if sum(record["count"] for record in told) >= sent.total() else None

    def test_full(self) -> None:
        """
        That there are as many connections as may be, is a warning.
        """
        with Daemon(*LOOPBACK, "--max-connections", "1") as daemon:
            with daemon.connect() as client:
                self.assertEqual(echo(client, b"x"), b"x")
                for _ in range(10):
                    self.assertEqual(knock("", daemon.port()), b"")
                daemon.turned_away({"max-connections": 10})
            self.assertRegex(daemon.log, r"#warn\] refused \d+: max-connections, ")


class LeakTests(SynchronousTestCase):
    """
    Clients that are refused before there is a protocol for them.
    """

    tries = 1000

    def test_no_socket_is_left(self) -> None:
        """
        After a thousand refusals at each kind of TLS listener, no socket is left over.
        """
        daemon = self.enterContext(tls_daemon(*SSL_LISTENER, "--max-connections", "1"))
        # The one who is in came through the layer that refuses with a protocol.
        with daemon.connect("--listen ssl") as sock:
            client = TLSClient(sock, context("TLS 1.3")).handshake()
            self.assertEqual(client.exchange(b"x", close=False), b"x")
            full = daemon.descriptors()
            for option in ("--tls-port", "--listen ssl"):
                port = daemon.port(option)
                for _ in range(self.tries):
                    self.assertEqual(knock("", port), b"")
                wait_until(lambda: daemon.descriptors() == full, "the descriptors to be closed")
                show(f"{option}: {self.tries} refused, {daemon.descriptors() - full} left over")
            daemon.turned_away({"max-connections": 2 * self.tries})
            self.assertEqual(client.exchange(b"y", close=False), b"y")


class HealthCheckTests(SynchronousTestCase):
    """
    Load balancers that look whether a port takes connections.
    """

    checks = 50

    def check(self, *level: str) -> tuple[int, str]:
        """
        Connect to both ports and go again, with a FIN and with a reset.

        @return: how many there were with the one that does speak, and the whole log.
        """
        with tls_daemon("--port", "0", *level) as daemon:
            for option in ("--port", "--tls-port"):
                for leave in (socket.socket.close, reset):
                    for _ in range(self.checks):
                        leave(daemon.connect(option))
            with daemon.connect() as client:
                self.assertEqual(echo(client, b"hello"), b"hello")
                peer = client.getsockname()
            wait_until(
                lambda: f"{peer[0]}:{peer[1]} to {daemon.address()}: 5 bytes" in daemon.log,
                "its record",
            )
            daemon.stop()
            return 4 * self.checks + 1, daemon.log

    def test_info(self) -> None:
        """
        They are counted, and the log does not speak of them.
        """
        number, log = self.check()
        self.assertEqual(log.count("bytes echoed in"), 1)
        self.assertNotIn("refused", log)
        self.assertIn(f"echod stopped: {number} connections, 5 bytes echoed", log)

    def test_debug(self) -> None:
        """
        With C{--log-level debug}, there is a record of each, with the same end on both ports.
        """
        number, log = self.check("--log-level", "debug")
        self.assertEqual(log.count("bytes echoed in"), number)
        self.assertEqual(log.count("echod.connections#debug] connection "), number - 1)
        self.assertEqual(log.count(", closed by client"), 2 * self.checks + 1)
        self.assertEqual(log.count(", reset by client"), 2 * self.checks)
        self.assertNotIn("refused", log)

    def test_no_reset(self) -> None:
        """
        One that closes its sending side, and waits, sees the end of file and no reset.
        """
        with tls_daemon("--port", "0") as daemon:
            for option in ("--port", "--tls-port"):
                for _ in range(self.checks):
                    with daemon.connect(option) as client:
                        client.shutdown(socket.SHUT_WR)
                        self.assertEqual(client.recv(1), b"")
