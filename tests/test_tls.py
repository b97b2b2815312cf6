"""
How certificates and keys are read, and what TLS is then spoken.
"""

import contextlib
import os

from cryptography.hazmat.primitives.asymmetric import rsa
from OpenSSL import SSL
from twisted.internet.interfaces import IOpenSSLContextFactory
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from echod.tls import BadCredentials, server_context, start_tls
from tests.certificates import make_certificate


def shake_hands(factory, client_context):
    """
    Let a client and a server with the factory's context shake hands in memory.

    @return: the client's connection.
    @raise SSL.Error: when they do not agree.
    """
    client = SSL.Connection(client_context, None)
    client.set_connect_state()
    server = SSL.Connection(factory.getContext(), None)
    server.set_accept_state()
    for _ in range(10):
        for one, other in ((client, server), (server, client)):
            with contextlib.suppress(SSL.WantReadError):
                one.do_handshake()
            with contextlib.suppress(SSL.WantReadError):
                other.bio_write(one.bio_read(1 << 16))
    return client


class ServerContextTests(SynchronousTestCase):
    """
    From PEM files to a context for serving.
    """

    def file(self, *parts):
        path = self.mktemp()
        with open(path, "wb") as file:
            file.write(b"".join(parts))
        return path

    def assert_serves(self, factory, *certificates):
        """
        The context serves exactly these certificates.
        """
        verifyObject(IOpenSSLContextFactory, factory)
        client = shake_hands(factory, SSL.Context(SSL.TLS_METHOD))
        served = [c.to_cryptography() for c in client.get_peer_cert_chain()]
        self.assertEqual(served, [c.certificate for c in certificates])

    def assert_refused(self, kind, words, way_out, cert_path, key_path=None):
        """
        The files are refused with one line that names the right one and ends in the way out.
        """
        error = self.assertRaises(BadCredentials, server_context, cert_path, key_path)
        self.assertEqual(error.kind, kind)
        self.assertIn(words, str(error))
        self.assertTrue(str(error).endswith("; " + way_out), error)
        self.assertIn(cert_path if kind == "cert" or key_path is None else key_path, str(error))
        self.assertNotIn("\n", str(error))

    def test_key_in_its_own_file(self):
        """
        The key may have its own file.
        """
        made = make_certificate()
        factory = server_context(self.file(made.cert_pem), self.file(made.key_pem))
        self.assert_serves(factory, made)

    def test_key_in_the_same_file(self):
        """
        The key may stand in the certificate's file, before it or behind it.
        """
        made = make_certificate()
        for parts in ((made.cert_pem, made.key_pem), (made.key_pem, made.cert_pem)):
            self.assert_serves(server_context(self.file(*parts), None), made)

    def test_chain(self):
        """
        The whole chain in the file is sent to the client, in order.
        """
        root = make_certificate(["root"], authority=True)
        upper = make_certificate(["upper"], root, authority=True)
        lower = make_certificate(["lower"], upper, authority=True)
        leaf = make_certificate(["localhost"], lower)
        factory = server_context(self.file(leaf.chain), self.file(leaf.key_pem))
        self.assert_serves(factory, leaf, lower, upper)

    def test_key_of_another(self):
        """
        A key that belongs to another certificate, or to none in first place, is refused.
        """
        one, other = make_certificate(), make_certificate()
        says = ("key", "does not belong to the first certificate", "give its own")
        self.assert_refused(*says, self.file(one.cert_pem), self.file(other.key_pem))
        both = self.file(other.cert_pem, one.cert_pem, one.key_pem)
        self.assert_refused(*says, both)

    def test_encrypted_key(self):
        """
        An encrypted key is refused, since nobody is there to type the password.
        """
        made = make_certificate()
        key = self.file(made.encrypted_key_pem(b"password"))
        says = ("key", "is encrypted", "store it decrypted, for its owner only")
        self.assert_refused(*says, self.file(made.cert_pem), key)

    def test_missing(self):
        """
        A file that is not there is named.
        """
        there = self.file(make_certificate().cert_pem)
        says = ("No such file or directory", "give a file that can be read")
        self.assert_refused("cert", *says, self.mktemp())
        self.assert_refused("key", *says, there, self.mktemp())

    def test_unreadable(self):
        """
        A file that cannot be read is named.
        """
        folder = self.mktemp()
        os.mkdir(folder)
        self.assert_refused("cert", "Is a directory", "give a file that can be read", folder)

    def test_not_pem(self):
        """
        A file that holds nothing of the kind is named.
        """
        made = make_certificate()
        says = ("cert", "holds no PEM certificate", "give one that does")
        for junk in (b"", b"hello", os.urandom(100), made.key_pem, made.cert_pem[:200]):
            self.assert_refused(*says, self.file(junk))
        says = ("key", "holds no PEM private key", "give one that does")
        for junk in (b"", b"hello", os.urandom(100), made.cert_pem, made.key_pem[:60]):
            self.assert_refused(*says, self.file(made.cert_pem), self.file(junk))
        self.assert_refused(*says, self.file(made.cert_pem))

    def test_weak_key(self):
        """
        A key too weak for OpenSSL to serve is refused in one line as well.
        """
        weak = rsa.generate_private_key(public_exponent=65537, key_size=1024)
        made = make_certificate(key=weak)
        path = self.file(made.cert_pem, made.key_pem)
        self.assert_refused("cert", "OpenSSL refuses", "give another", path)


class PolicyTests(SynchronousTestCase):
    """
    Which versions and suites are spoken.
    """

    def setUp(self):
        made = make_certificate()
        path = self.mktemp()
        with open(path, "wb") as file:
            file.write(made.cert_pem + made.key_pem)
        self.server = server_context(path, None)

    def client(self, version, suites="DEFAULT"):
        """
        A client that speaks nothing newer than the version, with these suites only.
        """
        context = SSL.Context(SSL.TLS_METHOD)
        context.set_max_proto_version(version)
        context.set_cipher_list(suites.encode())
        return context

    def test_versions(self):
        """
        TLS 1.2 and 1.3 are spoken, and nothing older.
        """
        options = self.server.getContext().set_options(0)
        for refused in (SSL.OP_NO_SSLv3, SSL.OP_NO_TLSv1, SSL.OP_NO_TLSv1_1):
            self.assertTrue(options & refused)
        for version, name in ((SSL.TLS1_2_VERSION, "TLSv1.2"), (SSL.TLS1_3_VERSION, "TLSv1.3")):
            agreed = shake_hands(self.server, self.client(version))
            self.assertEqual(agreed.get_protocol_version_name(), name)

    def test_suites(self):
        """
        In TLS 1.2 only forward secrecy with authenticated encryption is spoken.
        """
        for suite in ("ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-CHACHA20-POLY1305"):
            agreed = shake_hands(self.server, self.client(SSL.TLS1_2_VERSION, suite))
            self.assertEqual(agreed.get_cipher_name(), suite)
        for suite in ("ECDHE-ECDSA-AES256-SHA384", "ECDHE-ECDSA-AES128-SHA"):
            client = self.client(SSL.TLS1_2_VERSION, suite)
            self.assertRaises(SSL.Error, shake_hands, self.server, client)


class StartTLSTests(SynchronousTestCase):
    """
    The seam to the transport.
    """

    def test_start(self):
        """
        TLS is started on the connection's own transport, without a buffer in between.
        """
        started = []
        transport = StringTransport()
        transport.startTLS = lambda *args, **kwargs: started.append((args, kwargs))
        context = object()
        start_tls(transport, context)
        self.assertEqual(started, [((context,), {})])
