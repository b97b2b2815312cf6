"""
Tests for the TLS client, in memory.
"""

import os

from cryptography.hazmat.primitives.hashes import SHA256
from OpenSSL import SSL

from echod.check.results import CheckError, Outcome
from echod.check.tls import ClientTLS, FileError
from tests.support.certificates import ODD, make_certificate, odd_certificate
from tests.support.checktls import AUTHORITY, GOOD, ClientTLSTestCase, server_context
from tests.support.memory import pair


def fingerprint(made):
    """
    The fingerprint of a certificate.
    """
    return made.certificate.fingerprint(SHA256())


class HandshakeTests(ClientTLSTestCase):
    """
    Tests for L{ClientTLS.secure}.
    """

    def test_session(self):
        """
        The session has what the handshake negotiated.
        """
        context = server_context()
        context.set_alpn_select_callback(lambda _, offered: offered[-1])
        for version in ("1.2", "1.3"):
            self.client_end, self.server_end = pair()
            client = ClientTLS(
                "localhost", authorities=self.ca, alpn=(b"h2", b"echo"), version=version
            )
            session = self.successResultOf(self.connect(client, context)[0]).session()
            self.assertEqual(session.version, f"TLSv{version}")
            self.assertIn("AES_256_GCM" if version == "1.3" else "AES256-GCM", session.cipher)
            self.assertTrue(session.group)
            self.assertEqual(session.alpn, "echo")
            self.assertEqual(session.names, ("localhost", "192.0.2.1"))
            self.assertEqual(session.days_left, 0)
            self.assertTrue(session.verified)

    def test_anonymous(self):
        """
        A server without a certificate has no names and no days left; only a client that
        does not verify connects.
        """
        context = SSL.Context(SSL.TLS_SERVER_METHOD)
        context.set_cipher_list(b"aNULL:@SECLEVEL=0")
        context.set_max_proto_version(SSL.TLS1_2_VERSION)
        client = ClientTLS(None, verify=False, version="1.2")
        client._context.set_cipher_list(b"aNULL:@SECLEVEL=0")
        session = self.successResultOf(self.connect(client, context)[0]).session()
        self.assertEqual((session.names, session.days_left), ((), 0))
        self.assertIsNone(session.alpn)
        self.assertFalse(session.verified)

    def test_odd(self):
        """
        The names of a certificate that the parser rejects are malformed.
        """
        for what in ODD:
            made = make_certificate(["localhost"], AUTHORITY)
            path = self.file(odd_certificate(made, what) + made.key_pem)
            context = SSL.Context(SSL.TLS_SERVER_METHOD)
            context.use_certificate_file(path)
            context.use_privatekey_file(path)
            self.client_end, self.server_end = pair()
            client = ClientTLS("localhost", verify=False)
            session = self.successResultOf(self.connect(client, context)[0]).session()
            bad = what in ("version 4", "duplicate extension", "unsupported name")
            self.assertEqual(session.names, ("malformed",) if bad else ("localhost",))
            self.assertEqual(session.days_left, 0)
            if what not in ("version 4", "unsupported name"):
                continue
            # OpenSSL can verify these.
            self.client_end, self.server_end = pair()
            client = ClientTLS("localhost", authorities=self.ca)
            text = self.refused(client, context, outcome=Outcome.WRONG_NAME)
            self.assertEqual(text, "the certificate is for malformed, not for localhost")

    def test_address(self):
        """
        The certificate may be for an address.
        """
        client = ClientTLS("192.0.2.1", authorities=self.ca)
        self.successResultOf(self.connect(client)[0])

    def test_wrong_name(self):
        """
        A certificate for other names is refused, with these names.
        """
        for name in ("echo.example", "192.0.2.2"):
            self.client_end, self.server_end = pair()
            client = ClientTLS(name, authorities=self.ca)
            text = self.refused(client, outcome=Outcome.WRONG_NAME)
            self.assertEqual(text, f"the certificate is for localhost, 192.0.2.1, not for {name}")

    def test_insecure(self):
        """
        Without verification the session says so.
        """
        client = ClientTLS("echo.example", verify=False)
        self.assertFalse(self.successResultOf(self.connect(client)[0]).session().verified)

    def test_not_trusted(self):
        """
        Each common verification error has a text.
        """
        stranger = make_certificate(("A stranger",), authority=True)
        for made, text, advised in (
            (make_certificate(), "the certificate is self-signed", True),
            (make_certificate(issuer=stranger), "the certificate's issuer is not trusted", True),
            (make_certificate(issuer=AUTHORITY, days=-1), "the certificate has expired", False),
        ):
            self.client_end, self.server_end = pair()
            advice = (
                "; to trust it, add --ca FILE with its issuer or --fingerprint "
                f"{fingerprint(made).hex(':').upper()}; --insecure verifies nothing"
            )
            expected = text + advice if advised else text
            self.assertEqual(self.refused(context=server_context(made)), expected)

    def test_fingerprint(self):
        """
        A certificate with the fingerprint is trusted whatever else it has; another one is not.
        """
        for made in (make_certificate(), make_certificate(issuer=AUTHORITY, days=-1), GOOD):
            self.client_end, self.server_end = pair()
            client = ClientTLS(None, fingerprint=fingerprint(made))
            securing = self.connect(client, server_context(made))[0]
            session = self.successResultOf(securing).session()
            self.assertTrue(session.verified and session.fingerprint)
        self.client_end, self.server_end = pair()
        client = ClientTLS("localhost", fingerprint=bytes(32))
        found = fingerprint(GOOD).hex(":").upper()
        text = f"the certificate has another fingerprint: {found}"
        self.assertEqual(self.refused(client), text)

    def test_no_certificate(self):
        """
        A server without a certificate has no fingerprint.
        """
        context = SSL.Context(SSL.TLS_SERVER_METHOD)
        context.set_cipher_list(b"aNULL:@SECLEVEL=0")
        context.set_max_proto_version(SSL.TLS1_2_VERSION)
        client = ClientTLS(None, fingerprint=bytes(32), version="1.2")
        client._context.set_cipher_list(b"aNULL:@SECLEVEL=0")
        text = "the server has no certificate"
        self.assertEqual(self.refused(client, context), text)

    def test_other_checks(self):
        """
        Another verification error has its number.
        """
        context = server_context(make_certificate(("below.localhost",), GOOD))
        context.add_extra_chain_cert(GOOD.certificate)
        self.assertEqual(self.refused(context=context), "the certificate fails check 79")

    def test_system(self):
        """
        Without a file, the system's authorities are used, which do not trust the test's.
        """
        text = self.refused(ClientTLS("localhost"))
        self.assertTrue(text.startswith("the certificate's issuer is not trusted; "), text)

    def test_alert(self):
        """
        The server's alert is reported.
        """
        context = server_context()
        context.set_min_proto_version(SSL.TLS1_3_VERSION)
        text = self.refused(ClientTLS("localhost", authorities=self.ca, version="1.2"), context)
        self.assertEqual(text, "the server's alert: protocol version")

    def test_not_tls(self):
        """
        A server without TLS is reported, also one that echoes.
        """
        for answer, text in (
            (b"220 mail.example ESMTP\r\n", "the server does not use TLS"),
            (None, "the server does not use TLS, it echoes"),
        ):
            client_end, server_end = pair()
            client = ClientTLS("localhost", authorities=self.ca)
            securing = self.start(client.secure(client_end))
            hello = self.successResultOf(self.start(server_end.read()))
            self.start(server_end.write(answer or hello))
            self.assertEqual(self.failureResultOf(securing, CheckError).value.detail, text)

    def test_closed(self):
        """
        A server that closes during the handshake is reported.
        """
        securing = self.start(ClientTLS("localhost").secure(self.client_end))
        self.start(self.server_end.finish())
        failure = self.failureResultOf(securing, CheckError).value
        self.assertEqual(failure.detail, "the server closed the connection")

    def test_client_certificate(self):
        """
        The client certificate is sent to a server that requests one.
        """
        mine = make_certificate(("me",), AUTHORITY)
        pem, key = self.file(mine.chain + mine.key_pem), self.file(mine.key_pem)
        context = server_context()
        context.load_verify_locations(self.ca)
        context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT)
        for files in ({"certificate": pem}, {"certificate": pem, "key": key}):
            self.client_end, self.server_end = pair()
            client = ClientTLS("localhost", authorities=self.ca, **files)
            securing, serving = self.connect(client, context)
            self.successResultOf(securing)
            self.assertEqual(self.successResultOf(serving).session().names, ("me",))


class FileTests(ClientTLSTestCase):
    """
    Tests for unusable files.
    """

    def test_bad(self):
        """
        Each error is one line that names the option.
        """
        junk = self.file(b"junk")
        made = make_certificate()
        pem = self.file(made.cert_pem)
        locked = self.file(made.encrypted_key_pem(b"secret"))
        other = self.file(GOOD.key_pem)
        for arguments, text in (
            ({"authorities": junk}, f"--ca '{junk}': holds no PEM authorities"),
            ({"authorities": "/nope"}, "--ca '/nope': No such file or directory"),
            ({"certificate": junk}, f"--cert: {junk} holds no PEM certificate"),
            ({"certificate": pem}, f"--cert: {pem} holds no PEM private key; add --key FILE"),
            ({"certificate": pem, "key": locked}, f"--key: the key in {locked} is encrypted"),
            ({"certificate": pem, "key": other}, f"--key: the key in {other} does not belong"),
            ({"certificate": pem, "key": os.sep}, f"--key: cannot read {os.sep}: Is a directory"),
        ):
            error = self.assertRaises(FileError, ClientTLS, "localhost", **arguments)
            self.assertIn(text, str(error))
            self.assertRegex(str(error), "; (give|store|add)")
