"""
Who is let in with which certificate, and what the access record says of it.
"""

import time
from typing import Any

from cryptography.x509.oid import ExtendedKeyUsageOID
from OpenSSL import SSL
from service_identity import VerificationError
from twisted.trial.unittest import SynchronousTestCase

from tests.support.certificates import make_certificate
from tests.support.daemons import receive_rest, show, wait_until
from tests.support.handshakes import VERSIONS, client_context
from tests.support.tlsfiles import TLSDaemon, authority, certificate, put, trusting

SHORT_SECONDS = 10
"""How long a certificate is valid: long enough for two clients to come with it."""


class MatrixTests(SynchronousTestCase):
    """
    C{--tls-client-auth}, every cell.
    """

    def setUp(self) -> None:
        self.authority = authority()
        stranger = authority()
        for_servers = [ExtendedKeyUsageOID.SERVER_AUTH]
        self.valid = certificate(self.authority, "client")
        self.kinds = {
            "none": None,
            "self-signed": make_certificate(["client"]),
            "wrong authority": certificate(stranger, "client"),
            "expired": certificate(self.authority, "client", days=-1),
            "wrong purpose": make_certificate(["client"], self.authority, usages=for_servers),
            "valid": self.valid,
        }
        self.made = [certificate(self.authority, name) for name in ("localhost", "b.example")]

    def daemon(self, auth: str) -> TLSDaemon:
        options = ("--tls-client-auth", auth, "--tls-client-ca", "{}/ca.pem")
        return TLSDaemon(self.made, *options, files={"ca.pem": self.authority.cert_pem})

    def attempt(
        self,
        daemon: TLSDaemon,
        context: SSL.Context,
        name: bytes | None = None,
        session: SSL.Session | None = None,
    ) -> tuple[bytes, SSL.Session | None]:
        """
        Try to get an echo.

        @return: what came back, and the session to resume.
        """
        try:
            client = daemon.client(context, name, session)
        except SSL.Error:
            return b"", None
        try:
            # A session whose connection was not closed properly would not be resumed.
            return client.exchange(b"ping"), client.tls.get_session()
        except SSL.Error:
            return b"", None
        finally:
            client.close()

    def cells(self, auth: str, welcome: set[str]) -> None:
        count = 0
        with self.daemon(auth) as daemon:
            for kind, shown in self.kinds.items():
                for version in VERSIONS:
                    for name in (None, b"localhost", b"b.example"):
                        context = client_context(version, shown)
                        cell = auth, kind, version, name
                        back, session = self.attempt(daemon, context, name)
                        self.assertEqual(back, b"ping" if kind in welcome else b"", cell)
                        count += 1
                        if session is not None:
                            again, _ = self.attempt(daemon, context, name, session)
                            self.assertEqual(again, b"ping", cell)
                            count += 1
            admit = len(welcome) * len(VERSIONS) * 3 * 2
            echoed = self.echoed(daemon, admit)
            self.assertEqual(len(echoed), admit)
            self.assertEqual(sum(record["tls_resumed"] == "yes" for record in echoed), admit // 2)
            known = [record for record in echoed if "tls_subject" in record]
            self.assertEqual(len(known), len(VERSIONS) * 3 * 2)
            self.refused(daemon, count - admit)
            number = self.valid.certificate.serial_number
            for record in known:
                self.assertEqual(record["tls_subject"], "CN=client")
                self.assertEqual(int(record["tls_serial"], 16), number)
        show(f"--tls-client-auth {auth}: {count} handshakes, {admit} let in")

    def echoed(self, daemon: TLSDaemon, number: int) -> list[dict[str, Any]]:
        """
        The records of who got something back, once there are so many.
        """

        def found() -> list[dict[str, Any]]:
            records = [record for record in daemon.events("access") if record["bytes"]]
            return records if len(records) >= number else []

        return wait_until(found, f"{number} records")

    def refused(self, daemon: TLSDaemon, number: int) -> set[str]:
        """
        Wait until so many handshakes have been told to have failed.

        @return: the words for it.
        """

        def enough() -> list[dict[str, Any]]:
            events = daemon.events("refused")
            return events if sum(event["count"] for event in events) >= number else []

        events = wait_until(enough, f"{number} refusals")
        self.assertEqual({event["reason"] for event in events}, {"handshake"})
        self.assertEqual(sum(event["count"] for event in events), number)
        return {event["detail"] for event in events}

    def test_require(self) -> None:
        """
        With C{require}, not a byte is echoed to who has no valid certificate, whatever the
        version and the name; who has one may resume, and is known then as well.
        """
        self.cells("require", {"valid"})

    def test_request(self) -> None:
        """
        With C{request}, who shows no certificate is let in, and who shows a wrong one is not.
        """
        self.cells("request", {"none", "valid"})

    def test_resumption(self) -> None:
        """
        A session does not outlive the client's certificate, nor the trust in its authority.
        """
        with self.daemon("require") as daemon:
            contexts = []
            short = certificate(self.authority, "client", days=SHORT_SECONDS / 86400)
            end = short.certificate.not_valid_after_utc.timestamp()
            for version in VERSIONS:
                context = client_context(version, short)
                back, session = self.attempt(daemon, context)
                self.assertEqual(back, b"ping")
                contexts.append((context, session))
            wait_until(lambda: time.time() > end + 1, "the certificate's end")
            for context, session in contexts:
                self.assertEqual(self.attempt(daemon, context, session=session)[0], b"")
            ended = "resumed after the end of the client's certificate"
            self.assertEqual(self.refused(daemon, len(VERSIONS)), {ended})
            context = client_context(None, self.valid)
            session = None
            for _ in range(2):
                back, session = self.attempt(daemon, context, session=session)
                self.assertEqual(back, b"ping")
            self.assertEqual(self.echoed(daemon, 4)[-1]["tls_resumed"], "yes")
            put(daemon.directory / "ca.pem", authority().cert_pem)
            wait_until(lambda: len(daemon.events("certificate-loaded")) > 2, "the reload")
            self.assertEqual(self.attempt(daemon, context, session=session)[0], b"")


class FailureTests(SynchronousTestCase):
    """
    Handshakes that fail.
    """

    def test_told(self) -> None:
        """
        However many fail: a line a second at most tells how many, and why in words.
        """
        number = 50
        with TLSDaemon([certificate(authority())]) as daemon:
            start = time.monotonic()
            for _ in range(number):
                with daemon.connect("--tls-port") as client:
                    client.sendall(b"GET / HTTP/1.1\r\n\r\n")
                    receive_rest(client)
            events = wait_until(
                lambda: (
                    sum(event["count"] for event in daemon.events("refused")) >= number
                    and daemon.events("refused")
                ),
                "the refusals",
            )
            self.assertLessEqual(len(events), time.monotonic() - start + 2)
            for event in events:
                self.assertEqual((event["reason"], event["detail"]), ("handshake", "http request"))
            self.assertEqual(daemon.events("access"), [])


class NameTests(SynchronousTestCase):
    """
    Clients that know whom they want to talk to.
    """

    def test_identity(self) -> None:
        """
        A client that verifies the daemon's name finds it right, and any other wrong.
        """
        signer = authority()
        names = ("localhost", "b.example", "*.c.example")
        made = [certificate(signer, name) for name in names]
        with TLSDaemon(made) as daemon:
            for asked, good, wrong in (
                ("localhost", "localhost", "b.example"),
                ("b.example", "b.example", "localhost"),
                ("x.c.example", "y.c.example", "x.y.c.example"),
                ("unknown.example", "localhost", "unknown.example"),
            ):
                for version in VERSIONS.values():
                    client = daemon.client(trusting(signer, version), asked.encode())
                    self.addCleanup(client.close)
                    client.verify(good)
                    self.assertRaises(VerificationError, client.verify, wrong)
                    self.assertEqual(client.exchange(b"ping"), b"ping")
            error = self.assertRaises(SSL.Error, daemon.client, trusting(authority()))
            self.assertIn("certificate verify failed", str(error))

    def test_no_names(self) -> None:
        """
        What is no name gets the first certificate, and nothing of it reaches the log's reader.
        """
        signer = authority()
        made = [certificate(signer, name) for name in ("localhost", "b.example")]
        odd = (b"\xff\xfe", b"\x1b[2J\n", b".", b"a" * 255, b"xn--\xe9", b"a b; tls_sni c")
        with TLSDaemon(made) as daemon:
            for name in odd:
                client = daemon.client(trusting(signer), name)
                client.verify("localhost")
                self.assertEqual(client.exchange(b"ping"), b"ping")
                client.close()
            records = wait_until(
                lambda: (found := daemon.events("access"))[len(odd) - 1 :] and found, "the records"
            )
            shown = [record["tls_sni"] for record in records]
            self.assertEqual(shown[1], r"\x1b[2J\x0a")
            self.assertEqual(shown[5], r"a\x20b\x3b\x20tls_sni\x20c")
            self.assertEqual(daemon.stderr, "")


class RecordTests(SynchronousTestCase):
    """
    The access record of a TLS connection.
    """

    def test_record(self) -> None:
        """
        It names the version, the suite, the group, the name, the protocol, and if it resumed.
        """
        with TLSDaemon([certificate(authority())], "--tls-alpn", "h2,echo") as daemon:
            for number, version in enumerate(VERSIONS):
                context = client_context(version, alpn=(b"echo",))
                client = daemon.client(context, b"localhost")
                self.assertEqual(client.exchange(b"ping"), b"ping")
                suite = client.tls.get_cipher_name()
                client.close()
                (record,) = wait_until(
                    lambda number=number: daemon.events("access")[number:], "the record"
                )
                facts = {n: v for n, v in record.items() if n.startswith("tls_")}
                self.assertIn("25519", facts.pop("tls_group").lower())
                self.assertEqual(
                    facts,
                    {
                        "tls_version": version,
                        "tls_cipher": suite,
                        "tls_sni": "localhost",
                        "tls_alpn": "echo",
                        "tls_resumed": "no",
                    },
                )
                words = f", closed by client; tls_version {version}; tls_cipher {suite}; "
                self.assertIn(words, record["message"])
