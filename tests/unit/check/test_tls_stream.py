"""
Tests for the stream with TLS, in memory.
"""

import datetime
import os

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from OpenSSL import SSL
from twisted.trial.unittest import SynchronousTestCase

from echod.check.results import CheckError, Outcome
from echod.check.tls import ClientTLS, certificate_names, reason_text
from tests.support.checktls import GOOD, ClientTLSTestCase
from tests.support.memory import pair


class SecureStreamTests(ClientTLSTestCase):
    """
    Tests for L{TLSStream} after the handshake.
    """

    def secured(self, version=None):
        client = ClientTLS("localhost", authorities=self.ca, version=version)
        securing, serving = self.connect(client)
        return self.successResultOf(securing), self.successResultOf(serving)

    def result(self, work):
        return self.successResultOf(self.start(work))

    def failed(self, work):
        failure = self.failureResultOf(self.start(work), CheckError).value
        return failure.outcome

    def all_of(self, stream, size):
        came = b""
        while len(came) < size:
            came += self.result(stream.read())
        return came

    def test_half_close(self):
        """
        In both versions, bytes after the client's close_notify still arrive, and then the
        server's.
        """
        message = os.urandom(100_000)
        for version in ("1.2", "1.3"):
            self.client_end, self.server_end = pair()
            client, server = self.secured(version)
            self.result(client.write(message))
            self.result(client.finish())
            self.assertEqual(self.all_of(server, len(message)), message)
            self.assertEqual(self.result(server.read()), b"")
            self.result(server.write(message))
            self.result(server.finish())
            self.assertEqual(self.all_of(client, len(message)), message)
            self.assertEqual(self.result(client.read()), b"")

    def test_cut(self):
        """
        An end without a close_notify is an error.
        """
        client, _ = self.secured()
        self.result(self.server_end.finish())
        self.assertIs(self.failed(client.read()), Outcome.CLOSED_EARLY)

    def test_broken_record(self):
        """
        A corrupt record is an error, and so is each later call.
        """
        client, _ = self.secured()
        self.result(self.server_end.write(b"\x17\x03\x03\0\x20" + bytes(32)))
        self.assertIs(self.failed(client.read()), Outcome.TLS_REFUSED)
        self.assertIs(self.failed(client.write(b"a")), Outcome.TLS_REFUSED)
        self.assertIs(self.failed(client.finish()), Outcome.TLS_REFUSED)

    def test_ends(self):
        """
        Abort and close are those of the plain stream.
        """
        client, _ = self.secured()
        client.pause()
        self.result(client.lose())
        client.abort()
        self.assertEqual(self.client_end.done, ["pause", "lose", "abort"])


class WordTests(SynchronousTestCase):
    """
    Tests for the texts of reasons and names.
    """

    def test_reasons(self):
        """
        OpenSSL's errors have texts.
        """
        for error, text in (
            (SSL.SysCallError(-1, "Unexpected EOF"), "the server closed the connection"),
            (SSL.Error([("ssl", "", "wrong version number")]), "the server does not use TLS"),
            (
                SSL.Error([("ssl", "", "tls alert handshake failure")]),
                "the server's alert: handshake failure",
            ),
            (
                SSL.Error([("ssl", "", "tlsv1 unrecognized name")]),
                "the server's alert: unrecognized name",
            ),
            (SSL.Error([("a", "", "b"), ("c", "", "d")]), "b, d"),
            (SSL.Error(), "OpenSSL gives no reason"),
        ):
            self.assertEqual(reason_text(error), text)

    def test_names(self):
        """
        A certificate without names has none.
        """
        self.assertEqual(certificate_names(None), ())
        nameless = x509.Name([])
        builder = x509.CertificateBuilder(nameless, nameless, GOOD.key.public_key(), 1)
        now = datetime.datetime.now(datetime.UTC)
        builder = builder.not_valid_before(now).not_valid_after(now)
        self.assertEqual(certificate_names(builder.sign(GOOD.key, hashes.SHA256())), ())
        self.assertEqual(certificate_names(GOOD.certificate), ("localhost", "192.0.2.1"))
