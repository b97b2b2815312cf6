"""
The daemon as it is seen from outside, from its start to the end of its drain.
"""

import os
import sys

from twisted.internet.defer import Deferred

from echod.factory import EchoFactory
from echod.service import check
from tests.certificates import make_certificate
from tests.test_service import ServiceTestCase, Stuck


class SeenTests(ServiceTestCase):
    """
    What a daemon with C{--admin} has to show.
    """

    def seen(self, service):
        """
        @return: whether it is ready, or why not.
        """
        return service.observation.snapshot().not_ready() or "ready"

    def test_life(self):
        """
        It is ready when its listeners are bound, and no more from the first moment of a stop;
        until the last connection has ended, it is watched.
        """
        service = self.build(*self.local, "--admin", "tcp:1:interface=127.0.0.1")
        self.assertEqual(self.seen(service), "not listening: --port 0 --interface 127.0.0.1")
        service.privilegedStartService()
        service.startService()
        self.assertEqual(self.seen(service), "ready")
        Stuck(service.connections)
        self.reactor.pump([1] * 3)
        self.assertEqual(len(service.observation.snapshot().history), 3)
        echo_port = self.reactor.ports[0]
        echo_port.closing = Deferred()
        stopped = service.stopService()
        self.assertEqual(self.seen(service), "draining")
        self.reactor.pump([1] * 3)
        echo_port.closing.callback(None)
        self.reactor.advance(1)
        self.assertEqual(len(service.observation.snapshot().history), 7)
        self.assertNoResult(stopped)
        self.reactor.advance(4)
        self.assertIsNone(self.successResultOf(stopped))
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_not_watched(self):
        """
        Without C{--admin} nothing is done for it, and a snapshot can be taken all the same.
        """
        service = self.build(*self.local)
        service.startService()
        self.reactor.pump([1] * 3)
        now = service.observation.snapshot()
        self.assertEqual((now.history, now.lag.counts[0], now.max_connections), ([], 0, 10000))

    def test_certificates(self):
        """
        The certificates are those that are served.
        """
        made = make_certificate(["a.example"])
        path = self.file(made.cert_pem + made.key_pem)
        service = self.build("--tls-port", "0", "-i", "127.0.0.1", "--tls-cert", path)
        (served,) = service.observation.snapshot().certificates
        self.assertEqual((served.names, served.path), (["a.example"], path))


class AdminTests(ServiceTestCase):
    """
    C{--admin}.
    """

    def test_listeners(self):
        """
        It listens beside the echo, is none of the echo's listeners, and is checked with them.
        """
        service = self.build("--listen", "tcp:7", "--admin", "tcp:1:interface=127.0.0.1")
        self.assertEqual([each.option for each in service.listeners()], ["--listen tcp:7"])
        self.assertEqual(
            [each.option for each in service.all_listeners()],
            ["--listen tcp:7", "--admin tcp:1:interface=127.0.0.1"],
        )
        error = self.assertRaises(SystemExit, check, self.reactor, service)
        self.assertEqual(error.code, 0)
        self.assertIn("  192.0.2.1:9000, --admin tcp:1:inter", self.stdout.getvalue())
        self.assertEqual([port.stopped for port in self.reactor.ports], [True, True])

    def test_order(self):
        """
        It goes on until the last connection has ended.
        """
        service = self.build(*self.local, "--admin", "tcp:1:interface=127.0.0.1")
        service.startService()
        admin, echo = sorted(
            self.reactor.ports, key=lambda port: isinstance(port.factory, EchoFactory)
        )
        Stuck(service.connections)
        stopped = service.stopService()
        self.reactor.advance(0)
        self.assertEqual((echo.stopped, admin.stopped), (True, False))
        self.reactor.advance(4.9)
        self.assertFalse(admin.stopped)
        self.reactor.advance(0.1)
        self.assertTrue(admin.stopped)
        self.assertIsNone(self.successResultOf(stopped))

    def test_mode(self):
        """
        A UNIX socket of its own is for owner and group, unless the endpoint says otherwise.
        """
        for endpoint, mode in (("unix:/x", 0o660), ("unix:/x:mode=600", 0o600)):
            service = self.build(*self.local, "--admin", endpoint)
            service.startService()
            self.assertEqual(self.reactor.unixServers[-1][3], mode)

    def test_bad_endpoint(self):
        """
        An endpoint that is none is one line.
        """
        error = self.assertRaises(SystemExit, self.build, *self.local, "--admin", "nosuch:1")
        self.assertTrue(str(error.code).startswith("echod: --admin nosuch:1: not an endpoint ("))
        self.assertEqual(len(str(error.code).splitlines()), 1)

    def test_not_installed(self):
        """
        Without prometheus_client, it says in one line what to install.
        """
        names = ("prometheus_client.core", "echod.metrics")
        there = {name: sys.modules.pop(name) for name in names if name in sys.modules}
        self.addCleanup(sys.modules.update, there)
        sys.modules[names[0]] = None
        error = self.assertRaises(SystemExit, self.build, *self.local, "--admin", "unix:/x")
        self.assertEqual(
            error.code, "echod: --admin: needs prometheus_client; pip install 'echod[metrics]'"
        )
        # The daemon alone needs nothing of it.
        self.build(*self.local)

    def test_snapshots(self):
        """
        What it shows is this process.
        """
        service = self.build(*self.local, "--admin", "unix:/x")
        (snapshot,) = self.successResultOf(Deferred.fromCoroutine(service.snapshots()))
        self.assertEqual(snapshot.process.pid, os.getpid())
