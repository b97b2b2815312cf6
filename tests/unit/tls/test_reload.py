"""
Which certificates are served, and how they are reloaded.
"""

import os
from datetime import UTC, datetime, timedelta

from OpenSSL import SSL
from twisted.application.service import IService
from twisted.internet.interfaces import IOpenSSLContextFactory
from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from echod.tls._openssl import is_resumed
from echod.tls.context import TLSPolicy
from echod.tls.credentials import CredentialsError
from echod.tls.reload import (
    EXPIRY_CHECK_INTERVAL,
    TICKET_KEY_INTERVAL,
    WATCH_INTERVAL,
    CertificateStore,
    format_time,
)
from echod.tls.selfsigned import make_key_pair
from tests.support.certificates import ODD, make_certificate, odd_certificate
from tests.support.handshakes import client_context, shake_hands


class CertificateStoreTests(SynchronousTestCase):
    """
    Files that change while they are served.
    """

    def setUp(self):
        self.clock = Clock()
        self.late = timedelta()
        self.cert, self.key = self.mktemp(), self.mktemp()
        self.made = self.replace()
        self.certificates = self.load()

    def load(self, policy=None, pairs=None, client_ca=None):
        certificates = CertificateStore(
            self.clock,
            policy or TLSPolicy(),
            pairs or [(self.cert, self.key)],
            client_ca,
            lambda: datetime.now(UTC) + self.late,
        )
        certificates.load()
        return certificates

    def write(self, path, content):
        """
        Replace a file atomically.
        """
        new = self.mktemp()
        with open(new, "wb") as file:
            file.write(content)
        os.chmod(new, 0o600)
        os.replace(new, path)

    def replace(self, *names, **dates):
        made = make_certificate(names or ["localhost"], **({"days": 90} | dates))
        self.write(self.cert, made.cert_pem)
        self.write(self.key, made.key_pem)
        return made

    def start(self):
        with capturedLogs() as events:
            self.certificates.startService()
        self.addCleanup(self.certificates.stopService)
        return self.texts(events)

    def said(self, call, *args):
        with capturedLogs() as events:
            call(*args)
        return self.texts(events)

    def texts(self, events):
        return [(event["log_level"].name, formatEvent(event)) for event in events]

    def described(self, made, path=None):
        end = format_time(made.certificate.not_valid_after_utc)
        serial = f"{made.certificate.serial_number:X}"
        serial = serial.zfill(len(serial) + len(serial) % 2)
        text = f"certificate for localhost until {end}, serial {serial}, {path or self.cert}"
        return ("info", text)

    def assert_served(self, made, name=None):
        hands = shake_hands(self.certificates.getContext(), client_context(), name)
        shown = hands.client.get_peer_certificate(as_cryptography=True)
        self.assertEqual((hands.heard, shown), (b"word", made.certificate))

    def test_interfaces(self):
        """
        It is a service, and a context factory for Twisted's C{startTLS}.
        """
        verifyObject(IService, self.certificates)
        verifyObject(IOpenSSLContextFactory, self.certificates)

    def test_start(self):
        """
        At the start the certificates are logged.
        """
        with capturedLogs() as events:
            self.certificates.startService()
        self.addCleanup(self.certificates.stopService)
        self.assertEqual(self.texts(events), [self.described(self.made)])
        expected = {
            "event": "certificate-loaded",
            "names": "localhost",
            "not_after": format_time(self.made.certificate.not_valid_after_utc),
            "path": self.cert,
        }
        self.assertEqual({name: events[0][name] for name in expected}, expected)
        self.assertEqual(format_time(datetime(2027, 1, 2, 3, 4, 5, 6, UTC)), "2027-01-02T03:04:05Z")
        self.assert_served(self.made)

    def test_reload(self):
        """
        A reload serves what the files contain now, and logs it.
        """
        self.start()
        new = self.replace()
        self.assertEqual(self.said(self.certificates.reload), [self.described(new)])
        self.assert_served(new)
        # It has been taken over; the watch finds nothing new.
        self.assertEqual(self.said(self.clock.pump, [WATCH_INTERVAL] * 3), [])

    def test_live_connections(self):
        """
        A connection that began with the old certificate goes on.
        """
        hands = shake_hands(self.certificates.getContext(), client_context())
        self.replace()
        self.certificates.reload()
        hands.client.send(b"more")
        hands.server.bio_write(hands.client.bio_read(1000))
        self.assertEqual(hands.server.recv(10), b"more")

    def test_wrong(self):
        """
        Any error in a file is logged in one line, and the old certificates are still served.
        """
        self.start()
        other = make_certificate()
        for path, content, option, words in (
            (self.cert, self.made.cert_pem[:300], "cert", "holds no PEM certificate"),
            (self.cert, b"", "cert", "holds no PEM certificate"),
            (self.key, self.made.key_pem[:60], "key", "holds no PEM private key"),
            (self.key, other.key_pem, "key", "does not belong"),
            (self.cert, other.cert_pem, "key", "does not belong"),
            (self.key, None, "key", "No such file"),
            (self.cert, None, "cert", "No such file"),
        ):
            with open(path, "rb") as file:
                before = file.read()
            os.unlink(path) if content is None else self.write(path, content)
            ((level, text),) = self.said(self.certificates.reload)
            self.assertEqual(level, "error")
            self.assertTrue(text.startswith(f"cannot reload --tls-{option}: "), text)
            self.assertTrue(text.endswith("; the old certificates stay in use"), text)
            self.assertIn(words, text)
            self.assert_served(self.made)
            self.write(path, before)
        self.assertEqual(self.said(self.certificates.reload), [self.described(self.made)])

    def test_one_of_several(self):
        """
        As long as one of several is wrong, none is replaced.
        """
        cert, key = self.cert, self.key
        self.cert = self.mktemp()
        other = make_certificate(["b.example"], days=90)
        self.write(self.cert, other.cert_pem + other.key_pem)
        self.certificates = self.load(pairs=[(cert, key), (self.cert, None)])
        self.start()
        new = make_certificate(days=90)
        self.write(cert, new.cert_pem)
        self.write(key, new.key_pem)
        self.write(self.cert, b"")
        self.assertEqual([level for level, _ in self.said(self.certificates.reload)], ["error"])
        self.assert_served(self.made)
        self.assert_served(other, b"b.example")
        self.write(self.cert, other.cert_pem + other.key_pem)
        said = self.said(self.certificates.reload)
        self.assertEqual([level for level, _ in said], ["info", "info"])
        self.assert_served(new)
        self.assert_served(other, b"b.example")

    def test_self_made(self):
        """
        A key pair that the daemon has made itself is served, and stays when all is read again.  Its
        fingerprint is logged, and what to do when it ends.
        """
        pair = make_key_pair(["localhost"], datetime.now(UTC))
        self.certificates = CertificateStore(
            self.clock,
            TLSPolicy(),
            [],
            now=lambda: datetime.now(UTC) + self.late,
            self_made=pair,
        )
        self.certificates.load()
        self.assertEqual(self.certificates.served, [pair])
        loaded = (
            f"certificate for localhost until {format_time(pair.not_after)}, SHA-256 fingerprint "
            f"{pair.fingerprint}, --tls-self-signed"
        )
        self.assertEqual(self.start(), [("info", loaded)])
        self.assertEqual(self.said(self.certificates.reload), [("info", loaded)])
        self.assertEqual(self.certificates.served, [pair])
        self.late = timedelta(days=390)
        self.assertEqual(
            self.said(self.certificates.reload)[1:],
            [
                (
                    "warn",
                    f"the certificate for localhost ends on {format_time(pair.not_after)}; "
                    "restart echod, which makes a new one",
                )
            ],
        )

    def test_watch(self):
        """
        New files are served after two checks at most, without a signal.
        """
        self.start()
        self.clock.pump([WATCH_INTERVAL] * 2)
        new = self.replace()
        self.assertEqual(self.said(self.clock.advance, WATCH_INTERVAL), [])
        self.assert_served(self.made)
        self.assertEqual(self.said(self.clock.advance, WATCH_INTERVAL), [self.described(new)])
        self.assert_served(new)

    def test_watch_and_wrong(self):
        """
        Files that stay wrong are logged once; the next good ones are loaded.
        """
        self.start()
        self.write(self.cert, b"junk")
        said = self.said(self.clock.pump, [WATCH_INTERVAL] * 10)
        self.assertEqual([level for level, _ in said], ["error"])
        new = self.replace()
        said = self.said(self.clock.pump, [WATCH_INTERVAL] * 2)
        self.assertEqual(said, [self.described(new)])
        self.assert_served(new)

    def test_authorities(self):
        """
        The client authorities are read again too.
        """
        one, other = (make_certificate(["authority"], authority=True) for _ in "ab")
        path = self.mktemp()
        self.write(path, one.cert_pem)
        self.certificates = self.load(TLSPolicy(client_auth="require"), client_ca=path)
        self.start()
        clients = [client_context(None, make_certificate(["client"], ca)) for ca in (one, other)]

        def admit():
            context = self.certificates.getContext()
            return [shake_hands(context, client).heard for client in clients]

        self.assertEqual(admit(), [b"word", b""])
        self.write(path, other.cert_pem)
        self.said(self.clock.pump, [WATCH_INTERVAL] * 2)
        self.assertEqual(admit(), [b"", b"word"])
        self.write(path, b"")
        ((_, text),) = self.said(self.certificates.reload)
        self.assertTrue(text.startswith("cannot reload --tls-client-ca: "), text)
        self.assertEqual(admit(), [b"", b"word"])

    def test_wrong_at_first(self):
        """
        At the start a wrong file raises.
        """
        self.write(self.key, b"")
        self.assertRaises(CredentialsError, self.load)

    def test_exposed(self):
        """
        A key that others can read is warned of, at the start and at each reload.
        """
        os.chmod(self.key, 0o640)
        self.certificates = self.load()
        warning = ("warn", f"the key in {self.key} can be read by users other than its owner; ")
        warning = (warning[0], warning[1] + "chmod 600 it")
        self.assertEqual(self.start(), [self.described(self.made), warning])
        os.chmod(self.key, 0o644)
        self.assertIn(warning, self.said(self.certificates.reload))
        os.chmod(self.key, 0o600)
        self.assertNotIn(warning, self.said(self.certificates.reload))

    def test_ends(self):
        """
        A certificate is warned of in its last 14 days, at the start and once a day, and after its
        end.
        """
        made = self.replace(days=16, valid_in_days=-74)
        self.certificates = self.load()
        self.assertEqual(self.start(), [self.described(made)])
        days = []
        for _ in range(18):
            self.late += timedelta(days=1)
            with capturedLogs() as events:
                self.clock.advance(TICKET_KEY_INTERVAL)
            days.append([event["days"] for event in events if "days" in event])
        self.assertEqual(days, [[], *([left] for left in range(13, -4, -1))][:18])
        end = format_time(made.certificate.not_valid_after_utc)
        ((level, text),) = self.texts(events)
        self.assertEqual(level, "warn")
        self.assertEqual(text, f"the certificate for localhost ended on {end}; renew {self.cert}")
        soon = self.replace(days=13, valid_in_days=-74)
        said = self.said(self.certificates.reload)
        self.assertEqual(len(said), 2)
        self.late = timedelta()
        text = self.said(self.certificates.reload)[1][1]
        end = format_time(soon.certificate.not_valid_after_utc)
        self.assertEqual(text, f"the certificate for localhost ends on {end}; renew {self.cert}")

    def test_short_lives(self):
        """
        One with a short life is warned of in the last third of it; the dates are checked once an
        hour.
        """
        for days, hours in ((1, 8), (6, 48), (90, 14 * 24), (365, 14 * 24)):
            self.late = timedelta()
            self.replace(days=days, valid_in_days=0)
            self.certificates = self.load()
            self.assertEqual(len(self.start()), 1)
            for left, count in ((hours + 1, 0), (hours, 1), (hours - 1, 0)):
                self.late = timedelta(days=days) - timedelta(hours=left)
                said = self.said(self.clock.advance, EXPIRY_CHECK_INTERVAL)
                self.assertEqual((days, left, len(said)), (days, left, count))
            # That it has expired is a new warning.
            self.late = timedelta(days=days)
            ((_, text),) = self.said(self.clock.advance, EXPIRY_CHECK_INTERVAL)
            self.assertIn("ended on", text)
            self.successResultOf(self.certificates.stopService())

    def test_not_yet_valid(self):
        """
        One that is not valid yet is served at the start, with a warning once a day.
        """
        made = self.replace(valid_in_days=3)
        self.certificates = self.load()
        begin = format_time(made.certificate.not_valid_before_utc)
        text = f"the certificate for localhost is not valid before {begin}; "
        text += f"check the clock, or replace {self.cert}"
        self.assertEqual(self.start(), [self.described(made), ("warn", text)])
        said = []
        for _ in range(72):
            self.late += timedelta(hours=1)
            said += self.said(self.clock.advance, EXPIRY_CHECK_INTERVAL)
        self.assertEqual(said, [("warn", text)] * 2)

    def test_issuers(self):
        """
        An issuer's certificate in the chain that is not valid now is warned of.
        """
        root = make_certificate(["root"], authority=True, days=90)
        for dates, fault in (({"days": -2}, "ended on"), ({"valid_in_days": 2}, "is not valid")):
            above = make_certificate(["above"], root, authority=True, days=90)
            upper = make_certificate(["upper"], above, authority=True, **({"days": 90} | dates))
            leaf = make_certificate(["localhost"], upper, days=90)
            self.write(self.cert, leaf.chain)
            self.write(self.key, leaf.key_pem)
            self.certificates = self.load()
            _, (level, text) = self.start()
            self.assertEqual(level, "warn")
            beginning = f"an issuer's certificate in {self.cert}, CN=upper, {fault}"
            self.assertTrue(text.startswith(beginning), text)

    def test_authorities_not_valid(self):
        """
        Client authorities that are not valid now are warned of.
        """
        path = self.mktemp()
        good, ended = (make_certificate(["ca"], authority=True, days=days) for days in (90, -1))
        self.write(path, good.cert_pem + ended.cert_pem)
        self.certificates = self.load(TLSPolicy(client_auth="request"), client_ca=path)
        _, (level, text) = self.start()
        self.assertEqual(level, "warn")
        beginning = f"1 of 2 certificates in {path} are not valid now, such as CN=ca; "
        self.assertTrue(text.startswith(beginning), text)

    def test_valid_is_kept(self):
        """
        A valid certificate is not replaced by one that has expired, or whose issuer's has.
        """
        self.start()
        root = make_certificate(["root"], authority=True, days=90)
        upper = make_certificate(["upper"], root, authority=True, days=-1)
        below = make_certificate(["localhost"], upper, days=90)
        for new, words in (
            (make_certificate(days=-1), "the certificate in"),
            (below, "an issuer's certificate in"),
        ):
            self.write(self.cert, new.chain)
            self.write(self.key, new.key_pem)
            ((level, text),) = self.said(self.clock.pump, [WATCH_INTERVAL] * 9)
            self.assertEqual(level, "error")
            self.assertTrue(
                text.startswith(f"cannot reload --tls-cert: {words} {self.cert} ended on "), text
            )
            self.assertIn("Z, and the one that is served is valid; the old", text)
            self.assert_served(self.made)

    def test_valid_is_kept_until_the_next_is(self):
        """
        One that is not valid yet is loaded when it becomes valid, and at the latest when the old
        one expires.
        """
        for days, due in ((3, 3), (300, 90)):
            self.late = timedelta()
            self.replace(valid_in_days=None)
            self.certificates = self.load()
            self.start()
            new = self.replace(valid_in_days=days, days=400)
            ((level, text),) = self.said(self.clock.pump, [WATCH_INTERVAL] * 2)
            self.assertEqual(level, "error")
            self.assertIn("is not valid before", text)
            self.late = timedelta(days=due, minutes=-1)
            self.assertEqual(self.said(self.clock.advance, WATCH_INTERVAL), [])
            self.late = timedelta(days=due, minutes=1)
            said = self.said(self.clock.pump, [WATCH_INTERVAL] * 2)
            self.assertEqual(said[0], self.described(new))
            self.assert_served(new)
            self.successResultOf(self.certificates.stopService())

    def test_invalid_is_replaced(self):
        """
        An expired certificate is replaced by any other.
        """
        self.replace(days=-1)
        self.certificates = self.load()
        self.start()
        new = self.replace(days=-1)
        self.said(self.certificates.reload)
        self.assert_served(new)

    def test_malformed(self):
        """
        After any error of the parser the files are still watched, and the next good ones are
        loaded.
        """
        self.start()
        for what in set(ODD) - {"bit string as common name"}:
            odd = make_certificate(days=90)
            self.write(self.cert, odd_certificate(odd, what))
            self.write(self.key, odd.key_pem)
            said = self.said(self.clock.pump, [WATCH_INTERVAL] * 4)
            self.assertEqual([level for level, _ in said], ["error"], what)
            self.assertIn("malformed", said[0][1])
            new = self.replace()
            said = self.said(self.clock.pump, [WATCH_INTERVAL] * 2)
            self.assertEqual(said, [self.described(new)])
            self.assert_served(new)

    def test_new_keys_for_tickets(self):
        """
        Once a day there are new ticket keys: older tickets do not resume.
        """
        self.start()
        client = client_context("TLSv1.3")
        first = shake_hands(self.certificates.getContext(), client)
        session = first.client.get_session()
        self.assertIsInstance(session, SSL.Session)
        again = shake_hands(self.certificates.getContext(), client, session=session)
        self.assertTrue(is_resumed(again.server))
        self.said(self.clock.advance, TICKET_KEY_INTERVAL)
        again = shake_hands(self.certificates.getContext(), client, session=session)
        self.assertFalse(is_resumed(again.server))
        self.assertEqual(again.heard, b"word")

    def test_nameless(self):
        """
        A certificate without names is served as the default.
        """
        made = make_certificate([], common_name="x")
        self.write(self.cert, made.cert_pem + made.key_pem)
        self.certificates = self.load(pairs=[(self.cert, None)])
        ((_, text),) = self.start()
        self.assertTrue(text.startswith("certificate for no name until "), text)
        self.assert_served(made)
