"""
Tests for the stages of a connection.
"""

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from echod.check.connect import CLOSE_TIMEOUT, Connector, gather
from echod.check.results import CheckError, CheckResult, Outcome, TLSSession
from echod.proxyprotocol.encoder import parse_address
from tests.support.memory import pair, sleep, turn

SESSION = TLSSession("TLSv1.3", "TLS_AES_256_GCM_SHA384", "x25519", None, ("localhost",), 7, True)


class TogetherTests(SynchronousTestCase):
    """
    Tests for L{gather}.
    """

    def setUp(self):
        self.waiting = [Deferred(), Deferred()]

        async def wait(what):
            await what

        self.done = Deferred.fromCoroutine(gather(*map(wait, self.waiting)))

    def test_all(self):
        """
        It ends when all coroutines have ended.
        """
        self.waiting[0].callback(None)
        self.assertNoResult(self.done)
        self.waiting[1].callback(None)
        self.assertIsNone(self.successResultOf(self.done))

    def test_one_fails(self):
        """
        When one fails, the others are canceled, and its failure is raised.
        """
        self.waiting[1].errback(CheckError(Outcome.LOST, ""))
        self.failureResultOf(self.done, CheckError)
        self.assertTrue(self.waiting[0].called)

    def test_given_up(self):
        """
        Canceling it cancels all.
        """
        self.done.cancel()
        self.failureResultOf(self.done, CancelledError)
        self.assertTrue(all(each.called for each in self.waiting))


class DiallerTests(SynchronousTestCase):
    """
    Tests for L{Connector}.
    """

    def setUp(self):
        self.clock = Clock()
        self.client, self.server = pair()
        self.answer = CheckResult()

    async def connect(self, reactor, answer):
        self.assertIs(reactor, self.clock)
        answer.times.connect = 0.5
        return self.client

    async def secure(self, stream):
        self.assertEqual(self.answer.stage, "TLS handshake")
        await sleep(self.clock, 3)
        stream.session = lambda: SESSION
        return stream

    async def refuse(self, stream):
        raise CheckError(Outcome.TLS_REFUSED, "no")

    def dial(self, *arguments):
        connector = Connector(self.clock, self.connect, *arguments)
        return Deferred.fromCoroutine(connector.dial(self.answer))

    def test_plain(self):
        """
        A plain connection is returned as it is.
        """
        self.assertIs(self.successResultOf(self.dial()), self.client)
        self.assertEqual(self.answer.peer, "192.0.2.1:9000")
        self.assertEqual(self.answer.times.stages(), [("connect", 0.5)])

    def test_secure(self):
        """
        The TLS handshake is timed, and its session is kept.
        """
        self.assertIs(turn(self.clock, self.dial(self.secure), 3), self.client)
        self.assertEqual(self.answer.times.handshake, 3)
        self.assertIs(self.answer.session, SESSION)

    def test_refused(self):
        """
        The TLS alert is sent before the connection is closed.
        """
        self.failureResultOf(self.dial(self.refuse), CheckError)
        self.assertEqual(self.client.done, ["lose"])

    def test_stubborn(self):
        """
        A server that does not receive the alert is not waited for.
        """

        async def lose():
            await Deferred()

        self.client.lose = lose
        waiting = self.dial(self.refuse)
        self.assertNoResult(waiting)
        self.clock.advance(CLOSE_TIMEOUT)
        self.failureResultOf(waiting, CheckError)
        self.assertEqual(self.client.done, ["abort"])

    def test_given_up(self):
        """
        A canceled connection attempt leaves no connection open.
        """
        waiting = self.dial(self.secure)
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)
        self.assertEqual(self.client.done, ["abort"])

    def test_proxy_header(self):
        """
        The PROXY header is sent first, before TLS.
        """
        turn(self.clock, self.dial(self.secure, "v1", parse_address("198.51.100.7:4711")), 3)
        header = self.successResultOf(Deferred.fromCoroutine(self.server.read()))
        self.assertEqual(header, b"PROXY TCP4 198.51.100.7 192.0.2.1 4711 9000\r\n")

    def test_proxy_header_to_a_path(self):
        """
        For a UNIX socket the PROXY header has no real address.
        """
        self.client.peer = "unix:/run/echod.sock"
        self.successResultOf(self.dial(None, "v1", parse_address("198.51.100.7:4711")))
        header = self.successResultOf(Deferred.fromCoroutine(self.server.read()))
        self.assertEqual(header, b"PROXY TCP4 198.51.100.7 0.0.0.0 4711 0\r\n")
