"""
Tests for the question whether a server speaks TLS.
"""

from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from echod.check.results import Outcome
from echod.check.tlsprobe import CLIENT_HELLO, tls_answer
from tests.support.checktls import serve, server_context
from tests.support.memory import Dials, echo, fails, turn


def says(data):
    """
    A server that sends some data and closes.
    """

    async def server(end):
        await end.read()
        await end.write(data)
        await end.finish()

    return server


class AnswerTests(SynchronousTestCase):
    """
    Tests for L{tls_answer}.
    """

    def setUp(self):
        self.clock = Clock()

    def ask(self, dial):
        return turn(self.clock, tls_answer(self.clock, dial))

    def test_tls(self):
        """
        OpenSSL answers the ClientHello, with each version.
        """
        for version in (SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION):
            context = server_context()
            context.set_min_proto_version(version)
            context.set_max_proto_version(version)
            dials = Dials(lambda end, context=context: serve(end, context))
            self.assertEqual(self.ask(dials), "a TLS handshake")
            self.assertEqual(dials.ends[0].done, ["abort"])

    def test_alert(self):
        """
        A server that refuses the ClientHello speaks TLS as well.
        """
        self.assertEqual(self.ask(Dials(says(b"\x15\3\1\0\2\2\x28"))), "a TLS alert")

    def test_not_tls(self):
        """
        Other servers do not: those that echo, close, hang, refuse or speak first.
        """

        async def hangs(end):
            await Deferred()

        for dial in (
            Dials(echo),
            Dials(says(b"")),
            Dials(says(b"HTTP/1.0 400 Bad Request")),
            Dials(says(CLIENT_HELLO[:5] + b"\1")),
            Dials(says(b"\x17\3\3\0\2xx")),
            Dials(hangs),
            fails(Outcome.REFUSED),
        ):
            self.assertIsNone(self.ask(dial))
