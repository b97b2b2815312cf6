"""
Tests for the collector and its snapshots.
"""

from datetime import UTC, datetime

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from echod.connections.connection import Reason
from echod.connections.timeouts import Timeouts
from echod.connections.tracker import Connections
from echod.stats.collector import MAX_NEWEST, Collector
from echod.stats.snapshot import (
    CertificateInfo,
    ClientInfo,
    ConnectionInfo,
    Handshakes,
    ListenerInfo,
    ListenerStats,
    Sample,
    Snapshot,
)
from echod.tls.credentials import read_key_pair
from tests.support.certificates import make_certificate
from tests.support.fakes import FakeConnection


class FakeListener:
    """
    A listener that is bound or not.
    """

    def __init__(self, name, bound=True):
        self.listener_name = name
        self.option = f"--listen {name}"
        self.bound = bound

    def address(self):
        return f"{self.listener_name}:1"


class NamelessConnection(FakeConnection):
    """
    A connection whose peer() fails.
    """

    def peer(self):
        raise RuntimeError("no address")


class LostConnection(FakeConnection):
    """
    A connection without an address.
    """

    @property
    def client(self):
        raise RuntimeError("no address")

    def peer(self):
        return "somewhere"


class ObservationTests(SynchronousTestCase):
    """
    Tests for L{Collector}.
    """

    def setUp(self):
        self.clock = Clock()
        self.connections = Connections(self.clock, Timeouts(), None)
        self.listeners = [FakeListener("tcp"), FakeListener("tls", bound=False)]
        self.served = []
        self.collector = Collector(
            self.clock,
            self.connections,
            7,
            lambda: self.listeners,
            lambda: self.served,
            lambda: 9,
            lambda: 5.0,
            lambda: "echo1.example",
        )

    def connection(self, listener="tcp", bytes_echoed=0):
        connection = FakeConnection()
        connection.listener, connection.bytes_echoed = listener, bytes_echoed
        self.connections.add(connection)
        return connection

    def traffic(self, name="tcp"):
        (found,) = (each for each in self.collector.snapshot().traffic if each.listener == name)
        return found

    def test_beginning(self):
        """
        Before the first connection, all counters exist and are 0.
        """
        self.clock.advance(3)
        now = self.collector.snapshot()
        self.assertEqual((now.worker, now.taken, now.uptime), (None, 5.0, 3.0))
        self.assertEqual((now.max_connections, now.draining, now.log_dropped), (7, False, 9))
        self.assertEqual(
            now.listeners,
            [
                ListenerInfo("tcp", "--listen tcp", "tcp:1"),
                ListenerInfo("tls", "--listen tls", None),
            ],
        )
        ends = (
            "client",
            "reset",
            "idle-timeout",
            "max-lifetime",
            "write-timeout",
            "drain",
            "aborted",
            "error",
        )
        refusals = ("denied", "max-connections", "max-per-client", "connect-rate")
        refusals += ("proxy-header", "handshake")
        self.assertEqual(
            now.traffic,
            [
                ListenerStats(name, 0, 0, 0, dict.fromkeys(ends, 0), dict.fromkeys(refusals, 0))
                for name in ("tcp", "tls")
            ],
        )
        self.assertEqual((now.handshakes, now.certificates, now.newest), ([], [], []))
        self.assertEqual(set(now.versions), {"version", "python", "twisted", "openssl"})
        self.assertEqual(Snapshot.from_json(now.to_json()), now)

    def test_traffic(self):
        """
        Each listener has its own counters, of live and closed connections together.
        """
        self.connection("tls", 5)
        live, gone = self.connection(bytes_echoed=100), self.connection(bytes_echoed=20)
        self.connections.remove(gone, Reason.CLIENT)
        self.connections.refusals.add("tcp", Reason.CONNECT_RATE, "192.0.2.1:5")
        live.bytes_echoed += 1
        now = self.traffic()
        self.assertEqual((now.connections, now.opened, now.echoed_bytes), (1, 2, 121))
        self.assertEqual((now.closed["client"], now.refused["connect-rate"]), (1, 1))
        other = self.traffic("tls")
        self.assertEqual((other.connections, other.opened, other.echoed_bytes), (1, 1, 5))
        self.assertEqual((other.closed["client"], other.refused["connect-rate"]), (0, 0))

    def test_never_back(self):
        """
        A closed connection and its bytes stay counted.
        """
        connection = self.connection(bytes_echoed=100)
        before = self.traffic()
        self.connections.remove(connection, Reason.RESET)
        after = self.traffic()
        self.assertEqual((before.opened, before.echoed_bytes), (1, 100))
        self.assertEqual((after.opened, after.echoed_bytes), (1, 100))

    def test_refused_after_accept(self):
        """
        A client that is refused for its handshake counts as closed too, so that the sums
        agree.
        """
        self.connections.remove(self.connection(), Reason.HANDSHAKE)
        now = self.traffic()
        self.assertEqual((now.connections, now.opened), (0, 1))
        self.assertEqual((now.closed["handshake"], now.refused["handshake"]), (1, 1))

    def test_same_name(self):
        """
        Listeners of one name, such as two inherited sockets, are counted as one.
        """
        self.listeners.append(FakeListener("tcp"))
        self.connection()
        now = self.collector.snapshot()
        self.assertEqual(len(now.listeners), 3)
        self.assertEqual([each.listener for each in now.traffic], ["tcp", "tls"])
        self.assertEqual(self.traffic().connections, 1)

    def test_certificates(self):
        """
        The certificates that are served are listed, and the possible results of handshakes.
        """
        made = make_certificate(names=("a.example",))
        path = self.mktemp()
        with open(path, "wb") as file:
            file.write(made.cert_pem + made.key_pem)
        (each,) = self.served = [read_key_pair(path, None)]
        self.connections.totals.handshakes["failed", ""] += 2
        now = self.collector.snapshot()
        self.assertEqual(
            now.certificates,
            [
                CertificateInfo(
                    ["a.example"],
                    each.not_after.timestamp(),
                    each.serial,
                    path,
                    each.not_before.timestamp(),
                )
            ],
        )
        begins = datetime.fromtimestamp(now.certificates[0].not_before, UTC)
        self.assertEqual(begins, made.certificate.not_valid_before_utc)
        ends = datetime.fromtimestamp(now.certificates[0].not_after, UTC)
        self.assertEqual(ends, made.certificate.not_valid_after_utc)
        self.assertEqual(
            now.handshakes,
            [
                Handshakes("ok", "TLSv1.2", 0),
                Handshakes("ok", "TLSv1.3", 0),
                Handshakes("failed", "", 2),
            ],
        )

    def test_newest(self):
        """
        The newest connections come first, up to a limit.
        """
        for _ in range(MAX_NEWEST + 5):
            self.connection()
        self.clock.advance(2)
        newest = self.collector.snapshot().newest
        self.assertEqual([each.connection for each in newest], list(range(MAX_NEWEST + 5, 5, -1)))
        self.assertEqual(
            newest[0], ConnectionInfo(MAX_NEWEST + 5, "tcp", "192.0.2.7:40000", "open", 2.0, 0, {})
        )

    def test_broken(self):
        """
        A connection that fails is left out, and the others are listed.
        """
        self.connection()
        broken = NamelessConnection()
        self.connections.add(broken)
        now = self.collector.snapshot()
        self.assertEqual([each.connection for each in now.newest], [1])
        self.assertEqual(self.traffic().connections, 2)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 2)

    def test_clients(self):
        """
        The clients with the most connections are listed; one that fails hides no other figure.
        """
        self.connection(bytes_echoed=5)
        self.connection(bytes_echoed=6)
        now = self.collector.snapshot()
        self.assertEqual(now.clients, [ClientInfo("192.0.2.7", 2, 11)])
        self.assertEqual(now.host, "echo1.example")
        self.connections.add(LostConnection())
        now = self.collector.snapshot()
        self.assertEqual((now.clients, now.traffic[0].connections), ([], 3))
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_rates(self):
        """
        Each listener has the rates of the last second, and its maxima; the connections of this
        moment count too.
        """
        self.connections.remove(self.connection(bytes_echoed=100), Reason.CLIENT)
        self.collector.startService()
        live = [self.connection(bytes_echoed=50), self.connection()]
        self.connections.remove(self.connection(bytes_echoed=7), Reason.CLIENT)
        self.clock.advance(1)
        for connection in live:
            self.connections.remove(connection, Reason.CLIENT)
        self.clock.advance(1)
        tcp = self.traffic()
        self.assertEqual((tcp.opened_rate, tcp.bytes_rate), (0, 0))
        self.assertEqual((tcp.opened_rate_peak, tcp.bytes_rate_peak), (3, 57))
        self.assertEqual((tcp.connections, tcp.connections_peak), (0, 2))
        for _ in range(4):
            self.connection()
        self.assertEqual(self.traffic().connections_peak, 4)
        self.assertEqual(self.traffic("tls").opened_rate_peak, 0)
        self.collector.stopService()

    def test_states(self):
        """
        A connection is open, paused, ending, or waits for something.
        """
        connection = self.connection()
        for expected, fields in (
            ("open", {}),
            ("paused", {"paused": True}),
            ("handshake", {"waiting_for": Reason.HANDSHAKE}),
            ("ending", {"ending": True}),
        ):
            connection.__dict__.update(fields)
            self.assertEqual(self.collector.snapshot().newest[0].state, expected)

    def test_facts(self):
        """
        The facts of TLS are listed.
        """
        self.connection().known = {"tls_version": "TLSv1.3"}
        self.assertEqual(self.collector.snapshot().newest[0].facts, {"tls_version": "TLSv1.3"})

    def test_odd_names(self):
        """
        The name of a listener is escaped.
        """
        self.listeners = [FakeListener("a\n\x1b[2J")]
        self.connection("a\n\x1b[2J")
        now = self.collector.snapshot()
        shown = r"a\n\x1b[2J"
        self.assertEqual((now.listeners[0].name, now.traffic[0].listener), (shown, shown))
        self.assertEqual((now.newest[0].listener, now.traffic[0].connections), (shown, 1))

    def test_history(self):
        """
        When it runs, it keeps a history and measures the lag.
        """
        self.collector.startService()
        self.connection(bytes_echoed=50)
        self.connections.refusals.add("tcp", Reason.CONNECT_RATE, "192.0.2.1:5")
        self.clock.pump([0.25, 0.5, 0.25])
        now = self.collector.snapshot()
        self.assertEqual(now.history, [Sample(1, 50, 1, 0.25)])
        self.assertEqual((now.lag_last, now.lag.sum), (0.0, 0.25))
        self.collector.stopService()
        self.assertEqual(self.clock.getDelayedCalls(), [])
