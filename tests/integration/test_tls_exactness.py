"""
Over TLS, too, every byte comes back: also when the client closes its sending side with a
close_notify as soon as it has sent.
"""

import random

from twisted.trial.unittest import SynchronousTestCase

from tests.support.certificates import make_certificate
from tests.support.clients import VERSIONS, TLSClient, context
from tests.support.daemons import Daemon

SIZES = (1, 30_000, 100_000, 8_000_000)
RUNS = 50


class TLSTestCase(SynchronousTestCase):
    """
    A daemon with a TLS port for each test.
    """

    def setUp(self) -> None:
        made = make_certificate(names=("localhost",))
        self.daemon = Daemon("--tls-port", "0", "--tls-cert", "{}/pem", "--interface", "127.0.0.1")
        (self.daemon.directory / "pem").write_bytes(made.cert_pem + made.key_pem)
        self.enterContext(self.daemon)

    def client(self, version: str) -> TLSClient:
        sock = self.daemon.connect("--tls-port")
        self.addCleanup(sock.close)
        return TLSClient(sock, context(version)).handshake()


class HalfCloseTests(TLSTestCase):
    """
    A close_notify ends the client's sending, and nothing else (RFC 8446 6.1).
    """

    def exchanges(self, version: str) -> None:
        whole = random.Random(8446).randbytes(max(SIZES))
        for size in SIZES:
            data = whole[:size]
            exact = 0
            for _ in range(RUNS):
                client = self.client(version)
                exact += client.exchange(data) == data
                client.close()
            print(f"{version}, {size} bytes and close_notify: {exact} of {RUNS} came back whole")
            self.assertEqual(exact, RUNS)

    def test_tls_1_2(self) -> None:
        """
        With TLS 1.2, all that was sent before the close_notify comes back.
        """
        self.exchanges("TLS 1.2")

    def test_tls_1_3(self) -> None:
        """
        With TLS 1.3, all that was sent before the close_notify comes back.
        """
        self.exchanges("TLS 1.3")

    def test_slow_reader(self) -> None:
        """
        A client that reads little at a time gets everything.
        """
        data = random.Random(1).randbytes(1_000_000)
        for version in VERSIONS:
            self.assertEqual(self.client(version).exchange(data, slow=True), data)

    def test_small_records(self) -> None:
        """
        Records of one byte come back whole and in order.
        """
        data = random.Random(2).randbytes(20_000)
        for version in VERSIONS:
            self.assertEqual(self.client(version).exchange(data, piece=1), data)
