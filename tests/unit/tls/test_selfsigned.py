"""
Tests for the certificate that the daemon makes for itself.
"""

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from OpenSSL import SSL, crypto
from twisted.trial.unittest import SynchronousTestCase

from echod.tls.context import TLSPolicy, server_context
from echod.tls.credentials import SELF_SIGNED
from echod.tls.selfsigned import (
    LIFETIME,
    MAX_ADDRESSES,
    from_pem,
    local_addresses,
    local_names,
    make_for_host,
    make_key_pair,
    to_pem,
)
from tests.support.handshakes import client_context, shake_hands

NOW = datetime(2026, 1, 1, tzinfo=UTC)

FIB_TRIE = """\
Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 0.0.0.0
        /0 universe UNICAST
     +-- 127.0.0.0/8 2 0 2
           |-- 127.0.0.0
              /8 host LOCAL
           |-- 127.0.0.1
              /32 host LOCAL
        |-- 127.255.255.255
           /32 link BROADCAST
           |-- 192.0.2.2
              /32 host LOCAL
Local:
           |-- 127.0.0.1
              /32 host LOCAL
           |-- 192.0.2.2
              /32 host LOCAL
"""

IF_INET6 = """\
fe8000000000000000fc00fffe000001 04 40 20 80     eth0
20010db8000000000000000000000002 04 40 00 82     eth0
00000000000000000000000000000001 01 80 10 80       lo
"""


class NamesTests(SynchronousTestCase):
    """
    Which names the certificate has.
    """

    def write(self, text):
        path = self.mktemp()
        with open(path, "w") as file:
            file.write(text)
        return path

    def test_addresses(self):
        """
        The addresses are those of all interfaces, without those of a link.
        """
        found = list(local_addresses(self.write(FIB_TRIE), self.write(IF_INET6)))
        expected = ("127.0.0.1", "192.0.2.2", "2001:db8::2", "::1")
        self.assertEqual(found, list(map(ip_address, expected)))

    def test_no_tables(self):
        """
        Where the kernel has no such tables, there are no addresses.
        """
        self.assertEqual(list(local_addresses(self.mktemp(), self.mktemp())), [])

    def test_names(self):
        """
        The names are localhost, the host name in lower case and as DNS has it, and the addresses,
        each once.
        """
        found = local_names("192.0.2.9", "Bücher.Example", [ip_address("192.0.2.2")])
        self.assertEqual(
            list(map(str, found)),
            ["localhost", "xn--bcher-kva.example", "127.0.0.1", "::1", "192.0.2.9", "192.0.2.2"],
        )
        found = local_names("fe80::1%eth0", "localhost", [ip_address("127.0.0.1")])
        self.assertEqual(list(map(str, found)), ["localhost", "127.0.0.1", "::1", "fe80::1"])

    def test_odd_host_name(self):
        """
        A host name that DNS cannot have is left out.
        """
        self.assertEqual(
            list(map(str, local_names(None, "a b", [])))[:2], ["localhost", "127.0.0.1"]
        )

    def test_many(self):
        """
        A machine with very many addresses gets a certificate of a usable size.
        """
        addresses = [ip_address("2001:db8::") + number for number in range(1000)]
        self.assertEqual(len(local_names(None, "a", addresses)), 4 + MAX_ADDRESSES)


class KeyPairTests(SynchronousTestCase):
    """
    The key and the certificate.
    """

    def setUp(self):
        self.pair = make_key_pair(["localhost", ip_address("192.0.2.2")], NOW)

    def test_certificate(self):
        """
        The certificate is for servers, signs no other one, and is valid for a client whose clock
        is late.
        """
        self.assertEqual(
            (self.pair.names, self.pair.path), (("localhost", "192.0.2.2"), SELF_SIGNED)
        )
        self.assertTrue(self.pair.self_made)
        self.assertIsNone(self.pair.exposed)
        self.assertEqual(self.pair.not_before, NOW - timedelta(hours=1))
        self.assertEqual(self.pair.not_after - self.pair.not_before, LIFETIME)
        extensions = self.pair.chain[0].extensions
        self.assertFalse(extensions.get_extension_for_class(x509.BasicConstraints).value.ca)
        usage = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        self.assertEqual(list(usage), [ExtendedKeyUsageOID.SERVER_AUTH])
        self.pair.chain[0].verify_directly_issued_by(self.pair.chain[0])

    def test_fingerprint(self):
        """
        The fingerprint is that of the certificate, in the format of C{openssl}.
        """
        self.assertRegex(self.pair.fingerprint, r"\A(?:[0-9A-F]{2}:){31}[0-9A-F]{2}\Z")
        other = make_key_pair(["localhost"], NOW)
        self.assertNotEqual(other.fingerprint, self.pair.fingerprint)

    def test_pem(self):
        """
        A worker reads the key pair that the master has written.
        """
        read = from_pem(to_pem(self.pair))
        self.assertEqual(read.fingerprint, self.pair.fingerprint)
        self.assertEqual(read.key.private_numbers(), self.pair.key.private_numbers())
        self.assertTrue(read.self_made)

    def test_handshake(self):
        """
        A client that trusts this certificate accepts it for its names.
        """
        pair = make_for_host(None, datetime.now(UTC))
        self.assertEqual(pair.names[0], "localhost")
        context = client_context()
        context.get_cert_store().add_cert(crypto.X509.from_cryptography(pair.chain[0]))
        context.set_verify(SSL.VERIFY_PEER)
        done = shake_hands(server_context(TLSPolicy(), [pair]), context)
        self.assertEqual(done.shown, ["CN=echod\\, self-signed"])
