"""
What scanners and other people's TLS libraries say about the daemon.
"""

import os
import subprocess

from twisted.trial.unittest import SynchronousTestCase

from tests.support import needs
from tests.support.certificates import MadeCertificate
from tests.support.daemons import PATIENCE_SECONDS
from tests.support.programs import converse
from tests.support.tlsfiles import TLSDaemon, authority, certificate

SCAN_SECONDS = 120.0


class ScannerTestCase(SynchronousTestCase):
    """
    A daemon with a proper certificate.
    """

    def setUp(self) -> None:
        self.authority = authority()
        self.made = certificate(self.authority, "localhost", "127.0.0.1")

    def daemon(self, *options: str, made: MadeCertificate | None = None) -> TLSDaemon:
        files = {"ca.pem": self.authority.cert_pem}
        return TLSDaemon([made or self.made], *options, files=files)

    def run_program(self, *command: str) -> tuple[int, str]:
        """
        @return: its status and all that it said.
        """
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=SCAN_SECONDS,
            text=True,
        )
        return done.returncode, done.stdout


class SslyzeTests(ScannerTestCase):
    """
    C{sslyze}, which needs a virtual environment of its own: C{ECHOD_TEST_SSLYZE} names the
    program in it.
    """

    def scan(self, profile: str, *options: str) -> tuple[int, str]:
        # One that is named there has a virtual environment of its own.
        sslyze = os.environ.get("ECHOD_TEST_SSLYZE") or needs.program("sslyze")
        with self.daemon(*options) as daemon:
            ca = str(daemon.directory / "ca.pem")
            where = f"localhost:{daemon.port('--tls-port')}"
            against = ("--mozilla_config", profile, "--certinfo_ca_file", ca)
            return self.run_program(sslyze, *against, where)

    def test_intermediate(self) -> None:
        """
        By default it complies with Mozilla's I{intermediate}, and not with I{modern}.
        """
        status, said = self.scan("intermediate")
        self.assertEqual(status, 0, said)
        self.assertIn("OK - Compliant", said)
        status, said = self.scan("modern")
        self.assertNotEqual(status, 0, said)

    def test_modern(self) -> None:
        """
        With TLS 1.3 alone it complies with I{modern}.
        """
        status, said = self.scan("modern", "--tls-min", "1.3")
        self.assertEqual(status, 0, said)
        self.assertIn("OK - Compliant", said)


class NmapTests(ScannerTestCase):
    """
    C{nmap}, which grades each suite.
    """

    def test_grades(self) -> None:
        """
        No suite is graded lower than A.
        """
        nmap = needs.program("nmap")
        with self.daemon() as daemon:
            port = str(daemon.port("--tls-port"))
            scan = ("-Pn", "-p", port, "--script", "ssl-enum-ciphers", "127.0.0.1")
            status, said = self.run_program(nmap, *scan)
        self.assertEqual(status, 0, said)
        for line in ("TLSv1.2:", "TLSv1.3:", "least strength: A", "cipher preference: server"):
            self.assertIn(line, said)


class GnuTLSTests(ScannerTestCase):
    """
    C{gnutls-cli}.
    """

    def converse(self, version: str) -> None:
        gnutls = needs.program("gnutls-cli")
        with self.daemon() as daemon:
            ca, port = daemon.directory / "ca.pem", daemon.port("--tls-port")
            only = f"NORMAL:-VERS-ALL:+VERS-TLS{version}"
            command = (gnutls, f"--x509cafile={ca}", f"--priority={only}", f"--port={port}")
            output, errors = converse((*command, "localhost"), b"over GnuTLS\n")
        self.assertIn(b"over GnuTLS\n", output, errors)
        self.assertIn(f"(TLS{version}-".encode(), output)

    def test_tls_1_3(self) -> None:
        """
        Over TLS 1.3 the line comes back.
        """
        self.converse("1.3")

    def test_tls_1_2(self) -> None:
        """
        Over TLS 1.2 the line comes back.
        """
        self.converse("1.2")


class OpenSSLTests(ScannerTestCase):
    """
    C{openssl s_client}.
    """

    def s_client(self, daemon: TLSDaemon, *options: str) -> str:
        """
        @return: what it says about a connection that it closes at once.
        """
        where = f"127.0.0.1:{daemon.port('--tls-port')}"
        trust = ("-CAfile", str(daemon.directory / "ca.pem"))
        command = (needs.program("openssl"), "s_client", "-connect", where, *trust, *options)
        done = subprocess.run(command, input=b"Q\n", capture_output=True, timeout=PATIENCE_SECONDS)
        return (done.stdout + done.stderr).decode("utf-8", "replace")

    def test_tickets(self) -> None:
        """
        A ticket that was sent resumes, in TLS 1.2 and 1.3.
        """
        with self.daemon() as daemon:
            openssl = needs.program("openssl")
            where = f"127.0.0.1:{daemon.port('--tls-port')}"
            for version in ("-tls1_2", "-tls1_3"):
                kept = str(daemon.directory / f"session{version}")
                # Its tickets of TLS 1.3 come behind the handshake: so wait for an echo.
                output, _ = converse(
                    (openssl, "s_client", "-connect", where, version, "-quiet", "-sess_out", kept),
                    b"word\n",
                )
                self.assertEqual(output, b"word\n")
                self.assertIn("Reused, TLSv1.", self.s_client(daemon, version, "-sess_in", kept))

    def test_alpn(self) -> None:
        """
        It is told what was agreed on; with nothing in common it is told that, by the right
        alert (RFC 7301 3.2); and without ALPN it is served.
        """
        with self.daemon("--tls-alpn", "h2,echo") as daemon:
            for version in ("-tls1_2", "-tls1_3"):
                said = self.s_client(daemon, version, "-alpn", "x,echo")
                self.assertIn("ALPN protocol: echo", said)
                said = self.s_client(daemon, version, "-alpn", "x")
                self.assertIn("alert no application protocol", said)
                self.assertIn("SSL alert number 120", said)
                said = self.s_client(daemon, version)
                self.assertIn("No ALPN negotiated", said)
                self.assertIn("Verify return code: 0 (ok)", said)

    def test_minimum(self) -> None:
        """
        With C{--tls-min 1.3}, TLS 1.2 is answered with an alert that says why.
        """
        with self.daemon("--tls-min", "1.3") as daemon:
            self.assertIn("alert protocol version", self.s_client(daemon, "-tls1_2"))
            self.assertIn("Verify return code: 0 (ok)", self.s_client(daemon, "-tls1_3"))

    def test_renegotiation(self) -> None:
        """
        A client that asks to renegotiate is refused.
        """
        with self.daemon() as daemon:
            where = f"127.0.0.1:{daemon.port('--tls-port')}"
            done = subprocess.run(
                (needs.program("openssl"), "s_client", "-connect", where, "-tls1_2"),
                input=b"R\n",
                capture_output=True,
                timeout=PATIENCE_SECONDS,
            )
        self.assertIn(b"no renegotiation", done.stderr)
