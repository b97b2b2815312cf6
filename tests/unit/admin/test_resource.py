"""
Tests for the HTTP responses and the service.
"""

import json

from twisted.internet.address import IPv4Address, UNIXAddress
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.logger import capturedLogs, formatEvent
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from echod.admin.page import STATIC
from echod.admin.prometheus import render_metrics
from echod.admin.resource import (
    HEADERS,
    MAX_PENDING,
    MAX_PENDING_READY,
    AdminResource,
    AdminService,
)
from echod.admin.site import AdminSite
from echod.net.endpoints import TCPEndpoint
from echod.stats.snapshot import OptionInfo, not_ready
from tests.support.fakes import FakePort, PortReactor, SocketTransport
from tests.support.snapshots import make_snapshot


class FakeSource:
    """
    A source of figures.

    @ivar look: returns a Deferred of the snapshots.
    @ivar taken: how often they were taken.
    """

    def __init__(self, look):
        self.look = look
        self.taken = 0

    async def snapshots(self):
        self.taken += 1
        return await self.look()

    async def not_ready(self):
        return not_ready(await self.look())


class AdminTestCase(SynchronousTestCase):
    """
    The site, in memory.

    @ivar snapshots: what there is to see; a C{Deferred} of it, or what is raised instead.
    """

    local = IPv4Address("TCP", "127.0.0.1", 9001)

    def setUp(self):
        self.snapshots = [make_snapshot()]
        self.source = FakeSource(self.look)
        self.site = AdminSite(AdminResource(self.source, render_metrics), Clock())

    async def look(self):
        if isinstance(self.snapshots, Exception):
            raise self.snapshots
        if isinstance(self.snapshots, Deferred):
            return await self.snapshots
        return self.snapshots

    def connect(self):
        transport = SocketTransport(hostAddress=self.local)
        self.addCleanup(transport.close)
        transport.protocol = self.site.buildProtocol(None)
        transport.protocol.makeConnection(transport)
        return transport

    def read(self, transport):
        """
        @return: the status, the headers and the body of a response.
        """
        head, _, body = transport.value().partition(b"\r\n\r\n")
        status, *lines = head.decode().split("\r\n")
        headers = {}
        for line in lines:
            name, _, value = line.partition(": ")
            self.assertNotIn(name.lower(), headers)
            headers[name.lower()] = value
        return int(status.split()[1]), headers, body

    def ask(self, path="/", method="GET", version="1.1", host="localhost", headers=""):
        transport = self.connect()
        named = f"Host: {host}\r\n" if host is not None else ""
        head = f"{method} {path} HTTP/{version}\r\n{named}{headers}\r\n"
        transport.protocol.dataReceived(head.encode())
        return self.read(transport)


class ResourceTests(AdminTestCase):
    """
    Tests for the paths.
    """

    def test_page(self):
        """
        The page has headers that forbid caching, framing and sharing.
        """
        status, headers, body = self.ask()
        self.assertEqual((status, headers["content-type"]), (200, "text/html; charset=utf-8"))
        self.assertIn(b"<title>echo1.example:9000 - echod</title>", body)
        self.assertEqual(headers["content-length"], str(len(body)))
        policy = headers["content-security-policy"]
        self.assertTrue(policy.startswith("default-src 'none';"))
        self.assertNotIn("unsafe", policy)
        self.assertIn("frame-ancestors 'none'", policy)
        self.assertEqual(headers["cache-control"], "no-store")
        self.assertEqual(headers["x-content-type-options"], "nosniff")
        self.assertEqual(headers["referrer-policy"], "no-referrer")
        self.assertEqual(headers["cross-origin-resource-policy"], "same-origin")
        self.assertTrue(headers["server"].startswith("echod/"))

    def test_every_answer(self):
        """
        Each response has these headers, and none allows other origins.
        """
        for path in ("/", "/connections", "/metrics", "/livez", "/readyz", "/page.js", "/x", "*"):
            for method in ("GET", "HEAD", "POST", "OPTIONS"):
                _, headers, _ = self.ask(path, method, headers="Origin: https://evil.example\r\n")
                for name, value in HEADERS.items():
                    self.assertEqual(headers[name], value)
                self.assertEqual([name for name in headers if "allow-" in name], [])

    def test_head(self):
        """
        HEAD is GET without the body.
        """
        self.snapshots = [make_snapshot()]
        for path in ("/", "/metrics", "/readyz", "/page.css", "/x"):
            status, headers, body = self.ask(path, "HEAD")
            self.assertEqual(body, b"")
            self.assertEqual(
                (status, headers["content-length"]), (status, str(len(self.ask(path)[2])))
            )
            self.assertEqual(status, self.ask(path)[0])

    def test_methods(self):
        """
        Other methods are refused.
        """
        for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "get", "X"):
            for path in ("/", "/connections", "/metrics", "/livez", "/readyz"):
                status, headers, _ = self.ask(path, method)
                self.assertEqual((status, headers["allow"]), (405, "GET, HEAD"))

    def test_connections(self):
        """
        The page as JSON.
        """
        status, headers, body = self.ask("/connections")
        self.assertEqual((status, headers["content-type"]), (200, "application/json"))
        self.assertEqual(json.loads(body)["newest"][0]["connection"], 12)

    def test_metrics(self):
        """
        Metrics have the format that the request accepts.
        """
        status, headers, body = self.ask("/metrics")
        kind = "text/plain; version=0.0.4; charset=utf-8"
        self.assertEqual((status, headers["content-type"]), (200, kind))
        self.assertIn(b'echod_connections_active{listener="tcp"} 3.0\n', body)
        accept = "Accept: application/openmetrics-text; version=1.0.0\r\n"
        _, headers, body = self.ask("/metrics", headers=accept)
        self.assertTrue(headers["content-type"].startswith("application/openmetrics-text"))
        self.assertTrue(body.endswith(b"# EOF\n"))

    def test_health(self):
        """
        C{/livez} always responds; C{/readyz} says whether the daemon can serve, and C{/healthz}
        is another name for it.
        """
        self.assertEqual((self.ask("/livez")[0], self.ask("/livez")[2]), (200, b"alive\n"))
        self.assertEqual((self.ask("/readyz")[0], self.ask("/readyz")[2]), (200, b"ready\n"))
        self.snapshots = [make_snapshot(draining=True)]
        self.assertEqual(self.ask("/livez")[0], 200)
        self.assertEqual((self.ask("/readyz")[0], self.ask("/readyz")[2]), (503, b"draining\n"))
        self.assertEqual((self.ask("/healthz")[0], self.ask("/healthz")[2]), (503, b"draining\n"))
        # These take no snapshot, whose cost grows with the number of connections.
        self.assertEqual(self.source.taken, 0)
        # The page still shows how it goes.
        self.assertEqual(self.ask("/")[0], 200)
        self.assertEqual(self.source.taken, 1)

    def test_options(self):
        """
        The page and the JSON have the options in force.
        """
        options = [OptionInfo("--port", "9000", True)]
        self.site = AdminSite(AdminResource(self.source, render_metrics, (), options), Clock())
        self.assertIn(b'<th scope="row">--port</th><td>9000</td>', self.ask("/")[2])
        shown = json.loads(self.ask("/connections")[2])
        self.assertEqual(shown["options"], [{"option": "--port", "value": "9000", "given": True}])

    def test_reasons(self):
        """
        The meaning of each reason has a page, also while no worker answers.
        """
        self.snapshots = []
        status, headers, body = self.ask("/reasons")
        self.assertEqual((status, headers["content-type"]), (200, "text/html; charset=utf-8"))
        self.assertIn(b'id="write-timeout"', body)

    def test_nobody(self):
        """
        Without an answer of a worker, the response says so.
        """
        self.snapshots = []
        for path in ("/", "/connections", "/metrics", "/readyz", "/healthz"):
            status, _, body = self.ask(path)
            self.assertEqual((status, body), (503, b"no worker answers\n"))
        self.assertEqual(self.ask("/livez")[0], 200)

    def test_static(self):
        """
        The other files of the page are served.
        """
        for path, (content, kind) in STATIC.items():
            status, headers, body = self.ask(path.decode())
            self.assertEqual((status, headers["content-type"], body), (200, kind, content))

    def test_nothing_else(self):
        """
        Another path is refused, with the paths that exist.
        """
        for path in ("/x", "//", "/../etc/passwd", "/static/page.js", "/metrics/", "/%00", "*"):
            status, _, body = self.ask(path)
            self.assertEqual(status, 404)
            self.assertNotIn(b"passwd", body)
        self.assertIn(b"/metrics", body)

    def test_query(self):
        """
        A query changes nothing.
        """
        self.assertEqual(self.ask("/readyz?x=<script>")[0], 200)


class HostTests(AdminTestCase):
    """
    Tests for the Host of a request.
    """

    def test_rebinding(self):
        """
        A name that an attacker may own is refused on each path.
        """
        for path in ("/", "/connections", "/metrics", "/livez", "/readyz", "/page.js", "/x"):
            status, _, body = self.ask(path, host="evil.example")
            self.assertEqual(status, 421)
            self.assertNotIn(b"evil", body)
            self.assertEqual(len(body.splitlines()), 1)

    def test_names(self):
        """
        Names of --admin-host are served; for other names, the response says how to add
        them.
        """
        names = {"echod.example"}
        self.site = AdminSite(AdminResource(self.source, render_metrics, names), Clock())
        self.assertEqual(self.ask("/readyz", host="echod.example:9001")[0], 200)
        self.assertEqual(self.ask("http://echod.example/readyz")[0], 200)
        status, _, body = self.ask("/readyz", host="evil.example")
        self.assertEqual(status, 421)
        self.assertIn(b"--admin-host", body)

    def test_named(self):
        """
        Status 421 has a reason phrase.
        """
        transport = self.connect()
        transport.protocol.dataReceived(b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n")
        self.assertTrue(transport.value().startswith(b"HTTP/1.1 421 Misdirected Request\r\n"))

    def test_without(self):
        """
        HTTP/1.1 requires one Host; HTTP/1.0, which load balancers use for health checks,
        may have none.
        """
        self.assertEqual(self.ask(host=None)[0], 400)
        self.assertEqual(self.ask(headers="Host: localhost\r\n")[0], 400)
        self.assertEqual(self.ask("/readyz", host=None, version="1.0")[0], 200)
        self.assertEqual(self.ask("/readyz", host="evil.example", version="1.0")[0], 421)

    def test_absolute(self):
        """
        The host of a target in absolute form counts instead of Host, which HTTP/1.1 still
        requires.  Other schemes are refused.
        """
        for target, status in (
            ("http://localhost:9001/readyz", 200),
            ("HTTP://LOCALHOST/readyz?x", 200),
            ("http://127.0.0.1", 200),
            ("http://localhost:9001?x", 200),
            ("http://localhost/x", 404),
            ("http://evil.example/readyz", 421),
            ("http://localhost@evil.example/readyz", 421),
            ("http://user@localhost/readyz", 421),
            ("http:///readyz", 421),
        ):
            for host in ("localhost", "evil.example"):
                self.assertEqual(self.ask(target, host=host)[0], status, target)
        for other in ("https://localhost/readyz", "http:/readyz", "localhost:9001"):
            self.assertEqual(self.ask(other)[0], 404)
        self.assertEqual(self.ask("http://localhost/readyz", host=None)[0], 400)
        self.assertEqual(self.ask("http://localhost/readyz", host=None, version="1.0")[0], 200)
        self.assertEqual(self.ask("http://evil.example/", host=None, version="1.0")[0], 421)

    def test_any_bytes(self):
        """
        A Host with any bytes is refused, and an Accept with any bytes is no format.
        """
        transport = self.connect()
        transport.protocol.dataReceived(b"GET / HTTP/1.1\r\nHost: \xff\r\n\r\n")
        self.assertEqual(self.read(transport)[0], 421)
        transport = self.connect()
        transport.protocol.dataReceived(
            b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nAccept: \xff\r\n\r\n"
        )
        status, headers, _ = self.read(transport)
        self.assertEqual((status, headers["content-type"][:10]), (200, "text/plain"))

    def test_unix(self):
        """
        Over a UNIX socket any host is served.
        """
        self.local = UNIXAddress(b"/x")
        self.assertEqual(self.ask(host="whatever")[0], 200)


class WaitingTests(AdminTestCase):
    """
    Tests for requests that wait for snapshots.
    """

    def test_many(self):
        """
        The number of waiting requests is limited; some are reserved for readiness, and
        liveness does not wait.
        """
        self.site = AdminSite(AdminResource(FakeSource(Deferred), render_metrics), Clock())
        head = b" HTTP/1.1\r\nHost: localhost\r\n\r\n"
        waiting = []

        def ask(path):
            waiting.append(self.connect())
            waiting[-1].protocol.dataReceived(b"GET " + path + head)
            return waiting[-1].value()

        for _ in range(MAX_PENDING):
            self.assertEqual(ask(b"/metrics"), b"")
        self.assertIn(b" 503 ", ask(b"/metrics"))
        for _ in range(MAX_PENDING_READY - MAX_PENDING):
            self.assertEqual(ask(b"/readyz"), b"")
        self.assertIn(b" 503 ", ask(b"/readyz"))
        self.assertTrue(ask(b"/livez").endswith(b"alive\n"))
        # Who has gone waits no longer.
        waiting[0].protocol.connectionLost(Failure(ConnectionDone()))
        self.assertEqual(ask(b"/readyz"), b"")

    def test_later(self):
        """
        The response is sent when the snapshots are there.
        """
        self.snapshots = Deferred()
        transport = self.connect()
        transport.protocol.dataReceived(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        self.assertEqual(transport.value(), b"")
        self.snapshots.callback([make_snapshot()])
        self.assertEqual(self.read(transport)[0], 200)

    def test_gone(self):
        """
        A client that disconnects cancels its request, and nothing is logged.
        """
        canceled = []
        self.snapshots = Deferred(canceled.append)
        transport = self.connect()
        transport.protocol.dataReceived(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        transport.protocol.connectionLost(Failure(ConnectionDone()))
        self.assertEqual(canceled, [self.snapshots])
        self.assertEqual(transport.value(), b"")

    def test_gone_and_canceled(self):
        """
        Nothing is logged either when the snapshots that were there already come because of that,
        as those of several workers do.
        """
        self.snapshots = Deferred(lambda waiting: waiting.callback([make_snapshot()]))
        transport = self.connect()
        transport.protocol.dataReceived(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        transport.protocol.connectionLost(Failure(ConnectionDone()))
        self.assertEqual(self.flushLoggedErrors(), [])
        self.assertEqual(transport.value(), b"")

    def test_gone_and_failed(self):
        """
        Nothing is logged either when the snapshots fail because of that.
        """

        def fail(waiting):
            waiting.errback(LookupError("gone"))

        self.snapshots = Deferred(fail)
        transport = self.connect()
        transport.protocol.dataReceived(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        transport.protocol.connectionLost(Failure(ConnectionDone()))
        self.assertEqual(transport.value(), b"")
        self.assertEqual(len(self.flushLoggedErrors()), 1)

    def test_failure(self):
        """
        An exception is logged, and the response is one line without details.
        """
        self.snapshots = LookupError("a secret")
        status, _, body = self.ask("/metrics")
        self.assertEqual((status, body), (500, b"internal error; see the log\n"))
        (failure,) = self.flushLoggedErrors(LookupError)
        self.assertEqual(str(failure.value), "a secret")


class ReachablePort(FakePort):
    """
    A port with an address that the test chooses.
    """

    host = "127.0.0.1"

    def getHost(self):
        return IPv4Address("TCP", self.host, 9001)


class LocalReactor(PortReactor):
    """
    A reactor with such ports.
    """

    def _port(self, sock, factory):
        self.ports.append(ReachablePort(sock, factory))
        return self.ports[-1]


class ServiceTests(SynchronousTestCase):
    """
    Tests for L{AdminService}.
    """

    def setUp(self):
        self.reactor = LocalReactor()
        self.addCleanup(self.reactor.close)
        self.admin = AdminService(self.reactor, FakeSource(self.look), render_metrics)
        self.admin.add_listener("--admin x", TCPEndpoint(self.reactor, 0, "127.0.0.1", 5))

    async def look(self):
        return [make_snapshot()]

    def start(self, host):
        self.patch(ReachablePort, "host", host)
        with capturedLogs() as events:
            self.admin.privilegedStartService()
            self.admin.startService()
        return [formatEvent(event) for event in events]

    def test_start(self):
        """
        A start logs the address.
        """
        self.assertEqual(self.start("127.0.0.1"), ["listening on 127.0.0.1:9001, --admin x"])

    def test_reachable(self):
        """
        A start warns when other machines can reach the port.
        """
        for host in ("0.0.0.0", "192.0.2.1"):
            self.setUp()
            _, warning = self.start(host)
            self.assertTrue(
                warning.startswith(f"{host}:9001, --admin x: other machines can reach it"), warning
            )

    def test_stop(self):
        """
        A stop waits for the port to close, and not for connections.
        """
        self.start("127.0.0.1")
        (port,) = self.reactor.ports
        port.closing = Deferred()
        transport = StringTransport(hostAddress=port.getHost())
        port.factory.buildProtocol(None).makeConnection(transport)
        stopped = self.admin.stopService()
        self.assertTrue(transport.disconnecting)
        self.assertNoResult(stopped)
        port.closing.callback(None)
        self.assertIsNone(self.successResultOf(stopped))

    def test_not_started(self):
        """
        It can be stopped before it is started.
        """
        self.assertIsNone(self.successResultOf(self.admin.stopService()))
