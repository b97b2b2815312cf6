"""
A client and a server of TLS, connected in memory.
"""

from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from echod.check.results import CheckError, Outcome
from echod.check.tls import ClientTLS, TLSStream
from tests.support.certificates import make_certificate
from tests.support.memory import pair

AUTHORITY = make_certificate(("An authority",), authority=True)
GOOD = make_certificate(("localhost", "192.0.2.1"), AUTHORITY)


def server_context(made=GOOD):
    """
    A server's context, with a certificate for it.
    """
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.use_certificate(made.certificate)
    context.use_privatekey(made.key)
    return context


async def serve(end, context):
    """
    Do the handshake as a server.
    """
    connection = SSL.Connection(context, None)
    connection.set_accept_state()
    secured = TLSStream(end, connection, False)
    await secured.handshake()
    return secured


class ClientTLSTestCase(SynchronousTestCase):
    """
    A client and a server.
    """

    def file(self, content):
        name = self.mktemp()
        with open(name, "wb") as file:
            file.write(content)
        return name

    def setUp(self):
        self.ca = self.file(AUTHORITY.cert_pem)
        self.client_end, self.server_end = pair()

    def start(self, work):
        return Deferred.fromCoroutine(work)

    def connect(self, client=None, context=None):
        """
        @return: the client's and the server's handshake, each a Deferred.
        """
        client = client or ClientTLS("localhost", authorities=self.ca)
        securing = self.start(client.secure(self.client_end))
        serving = self.start(serve(self.server_end, context or server_context()))
        return securing, serving

    def refused(self, client=None, context=None, outcome=Outcome.TLS_REFUSED):
        """
        @return: the detail of the client's error.
        """
        securing, serving = self.connect(client, context)
        serving.addErrback(lambda _: None)
        failure = self.failureResultOf(securing, CheckError).value
        self.assertIs(failure.outcome, outcome)
        return failure.detail
