"""
What is known of a handshake.
"""

from cryptography import x509
from OpenSSL import SSL
from twisted.trial.unittest import SynchronousTestCase

from echod.tls.context import TLSPolicy, server_context
from echod.tls.credentials import KeyPair, serial_text
from echod.tls.info import (
    MAX_CHARACTERS,
    client_certificate_expired,
    failure_text,
    has_said_hello,
    is_complete,
    session_fields,
)
from tests.support.certificates import ODD, make_certificate, odd_certificate
from tests.support.handshakes import VERSIONS, Handshake, client_context, shake_hands


class HandshakeTestCase(SynchronousTestCase):
    """
    A server that asks for client certificates.
    """

    def setUp(self):
        self.authority = make_certificate(["authority"], authority=True)
        self.made = make_certificate()

    def server(self, **policy):
        own = KeyPair("made.pem", (self.made.certificate,), self.made.key, (), None)
        return server_context(TLSPolicy(**policy), [own, own], [self.authority.certificate])


class HelloTests(HandshakeTestCase):
    """
    Whether a client has begun a handshake.
    """

    def test_hello(self):
        """
        It has once its whole ClientHello has come, and not before.
        """
        for version in VERSIONS:
            hands = Handshake(self.server(), client_context(version))
            self.assertFalse(has_said_hello(hands.server))
            self.assertRaises(SSL.WantReadError, hands.client.do_handshake)
            hello = hands.client.bio_read(65536)
            for piece, said in ((hello[:50], False), (hello[50:], True)):
                hands.server.bio_write(piece)
                self.assertRaises(SSL.WantReadError, hands.server.do_handshake)
                self.assertIs(has_said_hello(hands.server), said)

    def test_dropped(self):
        """
        It has not if the connection was dropped.
        """
        self.assertFalse(has_said_hello(None))


class SessionFieldsTests(HandshakeTestCase):
    """
    The fields for the access record.
    """

    def test_least(self):
        """
        The fields that every handshake has.
        """
        for version in VERSIONS:
            hands = shake_hands(self.server(), client_context(version))
            facts = session_fields(hands.server)
            self.assertIn("25519", facts.pop("tls_group").lower())
            self.assertEqual(
                facts,
                {
                    "tls_version": version,
                    "tls_cipher": hands.client.get_cipher_name(),
                    "tls_resumed": "no",
                },
            )

    def test_all(self):
        """
        The name, the protocol and the client are included if there are any, also in a resumed
        session.
        """
        shown = make_certificate(["client"], self.authority)
        for version in VERSIONS:
            server = self.server(client_auth="require", alpn=(b"echo",))
            client = client_context(version, shown, alpn=(b"echo",))
            first = shake_hands(server, client, b"a.example")
            again = shake_hands(server, client, b"a.example", first.client.get_session())
            for hands, resumed in ((first, "no"), (again, "yes")):
                facts = session_fields(hands.server)
                expected = {
                    "tls_resumed": resumed,
                    "tls_sni": "a.example",
                    "tls_alpn": "echo",
                    "tls_subject": "CN=client",
                    "tls_serial": serial_text(shown.certificate.serial_number),
                }
                self.assertEqual({name: facts[name] for name in expected}, expected)

    def test_unprintable(self):
        """
        What a client sends cannot move a cursor, end a line or fill the log.
        """
        subject = "\x1b[2J\n\u202e" + "x" * 50
        shown = make_certificate(["client"], self.authority, common_name=subject)
        hands = shake_hands(
            self.server(client_auth="require"), client_context(None, shown), b"\x1b]\n; \xff" * 40
        )
        facts = session_fields(hands.server)
        self.assertTrue(facts["tls_sni"].startswith(r"\x1b]\x0a\x3b\x20\xff"), facts)
        for name in ("tls_sni", "tls_subject"):
            self.assertTrue(facts[name].isprintable(), facts[name])
            self.assertLessEqual(len(facts[name]), MAX_CHARACTERS)

    def test_before_the_end(self):
        """
        Before the end of the handshake, only the name that the client asked for is included.
        """
        self.assertEqual(session_fields(None), {})
        client = client_context("TLSv1.2")
        hands = Handshake(self.server(), client, b"a.example")
        self.assertEqual((session_fields(hands.server), is_complete(hands.server)), ({}, False))
        hands.step()
        self.assertEqual(session_fields(hands.server), {"tls_sni": "a.example"})
        hands.run()
        self.assertTrue(is_complete(hands.server))

    def test_malformed(self):
        """
        A client certificate that OpenSSL accepts and the parser rejects does not spoil the record.
        """
        for what in ODD:
            shown = make_certificate(["client"], self.authority)
            pem = odd_certificate(shown, what)
            path = self.mktemp()
            with open(path, "wb") as file:
                file.write(pem + shown.key_pem)
            context = client_context()
            context.use_certificate_file(path)
            context.use_privatekey_file(path)
            hands = shake_hands(self.server(client_auth="request"), context)
            if hands.heard:
                facts = session_fields(hands.server)
                bad = what in ("version 4", "bit string as common name")
                subject = "malformed" if bad else "CN=client"
                self.assertEqual((what, facts["tls_subject"]), (what, subject))
                self.assertEqual("tls_serial" in facts, what != "version 4")
            else:
                # OpenSSL rejects these itself.
                self.assertTrue("year 0" in what or what == "duplicate extension", what)

    def test_malformed_subject(self):
        """
        A subject that has no text does not spoil the record.
        """

        class Malformed:
            serial_number = 10

            @property
            def subject(self):
                raise ValueError

        class Connection:
            def __getattr__(self, name):
                if name.startswith("_"):
                    raise AttributeError(name)
                return lambda **kwargs: Malformed() if kwargs else b"x"

        facts = session_fields(Connection())
        self.assertEqual((facts["tls_subject"], facts["tls_serial"]), ("malformed", "0A"))


class ExpiredTests(HandshakeTestCase):
    """
    Client certificates that expire between two handshakes of one session.
    """

    def test_valid(self):
        """
        A client whose certificate is still valid may resume.
        """
        shown = make_certificate(["client"], self.authority)
        for certificate in (None, shown):
            server, client = self.server(client_auth="request"), client_context(None, certificate)
            first = shake_hands(server, client)
            again = shake_hands(server, client, session=first.client.get_session())
            self.assertEqual(session_fields(again.server)["tls_resumed"], "yes")
            self.assertFalse(client_certificate_expired(first.server))
            self.assertFalse(client_certificate_expired(again.server))

    def test_expired(self):
        """
        A client whose certificate has expired may not.
        """
        shown = make_certificate(["client"], self.authority)
        server, client = self.server(client_auth="require"), client_context(None, shown)
        first = shake_hands(server, client)
        again = shake_hands(server, client, session=first.client.get_session())

        class Later:
            """
            The same connection, after the certificate's end.
            """

            _ssl = again.server._ssl

            def __init__(self, pem):
                self._pem = pem

            def get_peer_certificate(self, *, as_cryptography):
                return x509.load_pem_x509_certificate(self._pem)

        self.assertFalse(client_certificate_expired(Later(shown.cert_pem)))
        ended = make_certificate(["client"], self.authority, days=-1)
        self.assertTrue(client_certificate_expired(Later(ended.cert_pem)))
        # What is not known may have ended.
        for what in ("ends in year 0", "version 4"):
            self.assertTrue(client_certificate_expired(Later(odd_certificate(shown, what))))


class FailureTests(HandshakeTestCase):
    """
    Why a handshake failed.
    """

    def test_text(self):
        """
        OpenSSL's text, and what is wrong with the certificate if that is the cause.
        """
        shown = make_certificate(["client"], self.authority, days=-1)
        for certificate, suites, words in (
            (shown, "DEFAULT", "certificate verify failed: certificate has expired"),
            (None, "DEFAULT", "peer did not return a certificate"),
            (None, "AES256-SHA", "no shared cipher"),
        ):
            client = client_context("TLSv1.2", certificate, suites)
            hands = shake_hands(self.server(client_auth="require"), client)
            self.assertEqual(failure_text(hands.server, hands.server_error), words)

    def test_no_text(self):
        """
        Another kind of error, or one without a text, is described as well as possible.
        """
        for error, words in (
            (SSL.Error(), "no reason given"),
            (SSL.Error([]), "no reason given"),
            (SSL.Error([("lib", "function", "")]), "no reason given"),
            (SSL.Error([("", "", "one"), ("", "", "two")]), "one, two"),
            (TypeError("of another kind"), "of another kind"),
        ):
            self.assertEqual(failure_text(None, error), words)
