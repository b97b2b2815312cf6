"""
The daemon as it is seen from outside, from its start to the end of its drain.
"""

from twisted.internet.defer import Deferred

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
