"""
The TLS policy, client certificates, and which certificate is sent.
"""

import gc
from unittest import SkipTest

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID
from OpenSSL import SSL
from twisted.trial.unittest import SynchronousTestCase

from echod.tls._openssl import is_resumed, set_groups
from echod.tls.context import CLIENT_AUTH, TLSPolicy, server_context
from echod.tls.credentials import CredentialsError, KeyPair
from tests.support.certificates import make_certificate
from tests.support.handshakes import VERSIONS, Handshake, client_context, shake_hands


def credentials(made):
    """
    A key pair as if it had been read from a file.
    """
    chain = [made.certificate]
    above = made.issuer
    while above is not None and above.issuer is not None:
        chain.append(above.certificate)
        above = above.issuer
    found = made.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    names = tuple(found.value.get_values_for_type(x509.DNSName))
    return KeyPair("made.pem", tuple(chain), made.key, names, None)


class PolicyTests(SynchronousTestCase):
    """
    The settings of every connection.
    """

    def setUp(self):
        self.server = server_context(TLSPolicy(), [credentials(make_certificate())])

    def refused(self, server, client):
        """
        @return: the errors of the client and the server.
        """
        hands = shake_hands(server, client)
        self.assertEqual(hands.heard, b"")
        self.assertIsNotNone(hands.server_error)
        return str(hands.client_error), str(hands.server_error)

    def test_versions(self):
        """
        TLS 1.2 and 1.3 are spoken, or 1.3 only, and nothing older.
        """
        for version in VERSIONS:
            hands = shake_hands(self.server, client_context(version))
            self.assertEqual(hands.heard, b"word")
            self.assertEqual(hands.client.get_protocol_version_name(), version)
        old = SSL.Context(SSL.TLS_CLIENT_METHOD)
        old.set_min_proto_version(SSL.TLS1_1_VERSION)
        old.set_max_proto_version(SSL.TLS1_1_VERSION)
        old.set_cipher_list(b"ALL:@SECLEVEL=0")
        self.assertIn("protocol version", self.refused(self.server, old)[0])
        newest = server_context(TLSPolicy(minimum="1.3"), [credentials(make_certificate())])
        self.assertIn("protocol version", self.refused(newest, client_context("TLSv1.2"))[0])
        self.assertEqual(shake_hands(newest, client_context("TLSv1.3")).heard, b"word")

    def test_suites(self):
        """
        In TLS 1.2 only suites with forward secrecy and authenticated encryption are spoken, in the
        server's order.
        """
        for suite in ("ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-CHACHA20-POLY1305"):
            session_fields = shake_hands(
                self.server, client_context("TLSv1.2", suites=suite)
            ).client
            self.assertEqual(session_fields.get_cipher_name(), suite)
        for suite in ("ECDHE-ECDSA-AES256-SHA384", "ECDHE-ECDSA-AES128-SHA"):
            says = self.refused(self.server, client_context("TLSv1.2", suites=suite))
            self.assertIn("no shared cipher", says[1])
        both = "ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-ECDSA-AES128-GCM-SHA256"
        session_fields = shake_hands(self.server, client_context("TLSv1.2", suites=both)).client
        self.assertEqual(session_fields.get_cipher_name(), "ECDHE-ECDSA-AES128-GCM-SHA256")
        session_fields = shake_hands(self.server, client_context("TLSv1.3")).client
        self.assertEqual(session_fields.get_cipher_name(), "TLS_AES_128_GCM_SHA256")

    def test_groups(self):
        """
        The groups are those of the policy, and no others.
        """
        for group, known in (
            ("X25519MLKEM768", "X25519MLKEM768"),
            ("X25519", "x25519"),
            ("P-256", "secp256r1"),
            ("P-384", "secp384r1"),
            ("P-521", None),
        ):
            client = client_context("TLSv1.3")
            if set_groups(client, [group]) != (group,):
                continue
            if known is None:
                self.assertIn("suitable key share", self.refused(self.server, client)[1])
            else:
                hands = shake_hands(self.server, client)
                self.assertEqual((hands.server.get_group_name(), hands.heard), (known, b"word"))

    def test_renegotiation(self):
        """
        A client that tries to renegotiate is refused.
        """
        hands = shake_hands(self.server, client_context("TLSv1.2"))
        hands.client.renegotiate()
        hands.step()
        self.assertRaises(SSL.WantReadError, hands.server.recv, 100)
        hands.step()
        hands.step()
        self.assertIn("no renegotiation", str(hands.client_error))
        self.assertIsNone(hands.server_error)

    def test_refused_by_openssl(self):
        """
        A key that OpenSSL finds too weak is refused with the file and OpenSSL's reason.
        """
        weak = rsa.generate_private_key(public_exponent=65537, key_size=1024)
        made = credentials(make_certificate(key=weak))
        error = self.assertRaises(CredentialsError, server_context, TLSPolicy(), [made])
        self.assertEqual(
            (error.kind, str(error)),
            ("cert", "OpenSSL refuses made.pem: ee key too small; give another"),
        )

    def test_chain(self):
        """
        The chain is sent as it is in the file; nothing is added from the client authorities.
        """
        root = make_certificate(["root"], authority=True)
        upper = make_certificate(["upper"], root, authority=True)
        leaf = credentials(make_certificate(["localhost"], upper))
        hands = shake_hands(server_context(TLSPolicy(), [leaf]), client_context())
        self.assertEqual(hands.shown, ["CN=localhost", "CN=upper"])
        alone = KeyPair(leaf.path, leaf.chain[:1], leaf.key, leaf.names, None)
        policy = TLSPolicy(client_auth="request")
        context = server_context(policy, [alone], [upper.certificate, root.certificate])
        self.assertEqual(shake_hands(context, client_context()).shown, ["CN=localhost"])

    def test_key_log(self):
        """
        The secrets of each connection are passed on, line by line, if there is a key log.
        """
        lines = []
        server = server_context(TLSPolicy(log_keys=lines.append), [credentials(make_certificate())])
        hands = shake_hands(server, client_context("TLSv1.2"))
        (line,) = lines
        self.assertEqual(line.split()[0], b"CLIENT_RANDOM")
        self.assertEqual(line.split()[1], hands.client.client_random().hex().encode())
        shake_hands(server, client_context("TLSv1.3"))
        self.assertIn(b"SERVER_TRAFFIC_SECRET_0", {line.split()[0] for line in lines[1:]})


class TicketTests(SynchronousTestCase):
    """
    Resuming sessions.
    """

    def setUp(self):
        self.authority = make_certificate(["authority"], authority=True)
        self.made = credentials(make_certificate())

    def server(self, **policy):
        return server_context(TLSPolicy(**policy), [self.made], [self.authority.certificate])

    def again(self, server, client, first, other=None):
        """
        @return: the handshake in which the client tries to resume its session.
        """
        return shake_hands(other or server, client, session=first.client.get_session())

    def test_resumption(self):
        """
        A ticket resumes its session, in TLS 1.2 and 1.3, with a client's certificate and without.
        """
        shown = make_certificate(["client"], self.authority)
        for auth, certificate in (("off", None), ("request", None), ("require", shown)):
            server = self.server(client_auth=auth)
            for version in VERSIONS:
                client = client_context(version, certificate)
                first = shake_hands(server, client)
                self.assertEqual(is_resumed(first.server), False)
                second = self.again(server, client, first)
                self.assertEqual((second.heard, is_resumed(second.server)), (b"word", True))
                peer = second.server.get_peer_certificate(as_cryptography=True)
                self.assertEqual(peer, certificate and certificate.certificate)

    def test_renewal(self):
        """
        New contexts have new ticket keys: an old ticket leads to a full handshake, with all its
        checks.
        """
        for version in VERSIONS:
            shown = make_certificate(["client"], self.authority)
            client = client_context(version, shown)
            server = self.server(client_auth="require")
            first = shake_hands(server, client)
            second = self.again(server, client, first, self.server(client_auth="require"))
            self.assertEqual((second.heard, is_resumed(second.server)), (b"word", False))
            other = make_certificate(["other"], authority=True)
            changed = server_context(
                TLSPolicy(client_auth="require"), [self.made], [other.certificate]
            )
            third = self.again(server, client, first, changed)
            self.assertEqual(third.heard, b"")
            self.assertIn("certificate verify failed", str(third.server_error))

    def test_not_without_certificate(self):
        """
        A session without a client certificate cannot be resumed where one is required.
        """
        for version in VERSIONS:
            client = client_context(version)
            first = shake_hands(self.server(client_auth="request"), client)
            second = self.again(None, client, first, self.server(client_auth="require"))
            self.assertEqual(second.heard, b"")
            self.assertIn("did not return a certificate", str(second.server_error))

    def test_for_each_name(self):
        """
        A ticket also resumes if a name leads to another certificate's context.
        """
        other = credentials(make_certificate(["other.example"]))
        server = server_context(TLSPolicy(), [self.made, other])
        for version in VERSIONS:
            client = client_context(version)
            for name in (None, b"localhost", b"other.example"):
                first = shake_hands(server, client, name)
                second = shake_hands(server, client, name, first.client.get_session())
                self.assertEqual((second.heard, is_resumed(second.server)), (b"word", True))


class ClientTests(SynchronousTestCase):
    """
    Client certificates.
    """

    def setUp(self):
        authority = make_certificate(["authority"], authority=True)
        stranger = make_certificate(["authority"], authority=True)
        middle = make_certificate(["middle"], authority, authority=True)
        self.authority = authority
        self.shown = {
            "none": None,
            "self-signed": make_certificate(["client"]),
            "of another authority": make_certificate(["client"], stranger),
            "expired": make_certificate(["client"], authority, days=-1),
            "for servers": make_certificate(
                ["client"], authority, usages=[ExtendedKeyUsageOID.SERVER_AUTH]
            ),
            "valid": make_certificate(["client"], authority),
            "valid, with a chain": make_certificate(["client"], middle),
        }
        self.why = {
            "none": "peer did not return a certificate",
            "self-signed": "certificate verify failed",
            "of another authority": "certificate verify failed",
            "expired": "certificate verify failed",
            "for servers": "certificate verify failed",
        }

    def test_matrix(self):
        """
        With any version and name, no client connects without the certificate that is required.
        """
        made = [credentials(make_certificate([name])) for name in ("localhost", "b.example")]
        for auth in CLIENT_AUTH:
            server = server_context(TLSPolicy(client_auth=auth), made, [self.authority.certificate])
            for kind, certificate in self.shown.items():
                good = auth == "off" or kind not in self.why or (auth, kind) == ("request", "none")
                for version in VERSIONS:
                    for name in (None, b"localhost", b"b.example"):
                        hands = shake_hands(server, client_context(version, certificate), name)
                        cell = auth, kind, version, name
                        self.assertEqual(hands.heard, b"word" if good else b"", cell)
                        if good:
                            self.assertIsNone(hands.server_error, cell)
                        else:
                            self.assertIn(self.why[kind], str(hands.server_error), cell)
                            self.assertIsNotNone(hands.client_error, cell)

    def test_authorities(self):
        """
        Clients get the names of the trusted authorities, so that they can choose a certificate.
        """
        server = server_context(
            TLSPolicy(client_auth="request"),
            [credentials(make_certificate())],
            [self.authority.certificate],
        )
        for version in VERSIONS:
            hands = shake_hands(server, client_context(version))
            (name,) = hands.client.get_client_ca_list()
            self.assertEqual(name.commonName, "authority")


class NameTests(SynchronousTestCase):
    """
    The certificate for the name that a client sends.
    """

    def setUp(self):
        names = (["first"], ["a.example", "*.b.example"], ["*.a.b.example", "x.b.example"])
        made = [credentials(make_certificate(each)) for each in names]
        self.server = server_context(TLSPolicy(), made)

    def shown(self, name):
        """
        The first name in the certificate that is sent for a name.
        """
        hands = shake_hands(self.server, client_context(), name)
        self.assertEqual(hands.heard, b"word")
        return hands.shown[0].removeprefix("CN=")

    def test_names(self):
        """
        An exact name comes before a wildcard, and a wildcard matches one label.
        """
        for name, shown in (
            (None, "first"),
            (b"first", "first"),
            (b"a.example", "a.example"),
            (b"A.Example", "a.example"),
            (b"a.example.", "a.example"),
            (b"x.a.b.example.", "*.a.b.example"),
            (b"a.example..", "first"),
            (b"y.b.example", "a.example"),
            (b"x.b.example", "*.a.b.example"),
            (b"X.A.B.EXAMPLE", "*.a.b.example"),
            (b"b.example", "first"),
            (b"x.y.b.example", "first"),
            (b"x.a.example", "first"),
            (b"unknown.example", "first"),
        ):
            self.assertEqual(self.shown(name), shown, name)

    def test_other_names(self):
        """
        Anything else gets the first certificate.
        """
        for name in (
            b".",
            b"..",
            b"*",
            b"\xff\xfe",
            b"\x1b[2J\n",
            b"a" * 255,
            b"xn--\xe9",
            b"." * 255,
        ):
            self.assertEqual(self.shown(name), "first", name)

    def test_the_same_twice(self):
        """
        Of two certificates for a name, the first one is sent.
        """
        made = [
            credentials(make_certificate(["x", "twice"])),
            credentials(make_certificate(["twice"])),
        ]
        hands = shake_hands(server_context(TLSPolicy(), made), client_context(), b"twice")
        self.assertEqual(hands.shown, ["CN=x"])

    def test_replaced_in_the_middle(self):
        """
        A handshake that has chosen its certificate, and calls back once more after a reload,
        completes.
        """
        client = client_context("TLSv1.3")
        # Its key share is for a group that the server has not.
        if set_groups(client, ["P-521", "P-384"]) != ("P-521", "P-384"):
            raise SkipTest("this OpenSSL has not the groups for it")
        hands = Handshake(self.server, client, b"a.example")
        hands.step()
        self.server = None
        gc.collect()
        hands.run()
        self.assertEqual((hands.heard, hands.shown), (b"word", ["CN=a.example"]))


class ProtocolTests(SynchronousTestCase):
    """
    ALPN.
    """

    def setUp(self):
        made = [credentials(make_certificate([name])) for name in ("localhost", "b.example")]
        self.server = server_context(TLSPolicy(alpn=(b"h2", b"echo")), made)

    def hands(self, version, name, *offered):
        return shake_hands(self.server, client_context(version, alpn=offered), name)

    def test_choice(self):
        """
        Of what the client offers, the server chooses by its own order of preference.
        """
        for version in VERSIONS:
            for name in (None, b"b.example"):
                hands = self.hands(version, name, b"x", b"echo", b"h2")
                self.assertEqual(hands.client.get_alpn_proto_negotiated(), b"h2")
                hands = self.hands(version, name, b"echo")
                self.assertEqual(hands.client.get_alpn_proto_negotiated(), b"echo")

    def test_nothing_in_common(self):
        """
        A client that offers none of the protocols gets the alert for that.
        """
        for version in VERSIONS:
            for name in (None, b"b.example"):
                hands = self.hands(version, name, b"x", b"h")
                self.assertIn("alert no application protocol", str(hands.client_error))
                self.assertIn("no application protocol", str(hands.server_error))
                self.assertEqual(hands.heard, b"")

    def test_without(self):
        """
        A client without ALPN is served, and a server without protocols ignores ALPN.
        """
        for version in VERSIONS:
            hands = self.hands(version, None)
            self.assertEqual(
                (hands.heard, hands.client.get_alpn_proto_negotiated()), (b"word", b"")
            )
        self.server = server_context(TLSPolicy(), [credentials(make_certificate())])
        hands = self.hands(None, None, b"h2")
        self.assertEqual((hands.heard, hands.client.get_alpn_proto_negotiated()), (b"word", b""))
