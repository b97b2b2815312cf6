"""
The programs that people talk to an echo server with, against a real daemon.
"""

import os
import shutil
import subprocess
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from unittest import SkipTest

from twisted.trial.unittest import SynchronousTestCase

from tests.support import needs
from tests.support.certificates import make_certificate
from tests.support.daemons import LOOPBACK, PATIENCE_SECONDS, Daemon, show
from tests.support.programs import converse

RUNS = {"ncat": 50, "socat": 250, "nc.openbsd": 250, "nc.traditional": 250}
"""How often each runs; C{ncat} takes 60 ms of CPU to start, the others 2 ms."""

AT_A_TIME = 8


class PipedTests(SynchronousTestCase):
    """
    C{printf x | CLIENT}: the client sends one byte, and its end of file right behind it.
    """

    def test_the_byte_comes_back(self) -> None:
        """
        ncat, socat and both kinds of nc print the byte that was piped into them, each time.
        """
        with Daemon(*LOOPBACK) as daemon:
            port = str(daemon.port())
            commands = {
                "ncat": ("127.0.0.1", port),
                # Without -t, it waits for half a second only, as nc.traditional with -q.
                "socat": ("-t60", "-", f"TCP4:127.0.0.1:{port}"),
                "nc.openbsd": ("-N", "127.0.0.1", port),
                "nc.traditional": ("-q30", "127.0.0.1", port),
            }
            installed = {name: path for name in commands if (path := shutil.which(name))}
            if not installed:
                raise SkipTest(f"needs {' or '.join(commands)}")

            runs = {name: RUNS[name] for name in installed}

            def returned(name: str) -> tuple[str, bytes]:
                command = (installed[name], *commands[name])
                done = subprocess.run(
                    command, input=b"x", capture_output=True, timeout=PATIENCE_SECONDS
                )
                return name, done.stdout + done.stderr

            with ThreadPoolExecutor(AT_A_TIME) as pool:
                answers = list(pool.map(returned, Counter(runs).elements()))
            back = {name: answers.count((name, b"x")) for name in installed}
            counted = ", ".join(f"{name} {count} of {runs[name]}" for name, count in back.items())
            missing = ", ".join(f"{name} is not installed" for name in commands.keys() - installed)
            show(f"bytes back: {sum(back.values())} of {len(answers)} ({counted}) {missing}")
            self.assertEqual(back, runs)
            self.assertEqual(daemon.ended("client", len(answers)), len(answers))


class TypedTests(SynchronousTestCase):
    """
    A person types a line and reads it again.
    """

    def test_telnet(self) -> None:
        """
        telnet shows the line that was typed, once.
        """
        telnet = needs.program("telnet", "inetutils-telnet")
        with Daemon(*LOOPBACK) as daemon:
            output, _ = converse((telnet, "127.0.0.1", str(daemon.port())), b"over telnet\n")
            self.assertEqual(output.count(b"over telnet"), 1)

    def test_curl(self) -> None:
        """
        curl shows the line that was typed, and nothing else.
        """
        curl = needs.program("curl")
        with Daemon(*LOOPBACK) as daemon:
            url = f"telnet://127.0.0.1:{daemon.port()}"
            output, _ = converse((curl, "--silent", "--no-buffer", url), b"over curl\n")
            self.assertEqual(output, b"over curl\n")


class SecureTests(SynchronousTestCase):
    """
    C{openssl s_client} against C{--tls-port}.
    """

    def converse(self, version: str) -> tuple[bytes, str]:
        openssl = needs.program("openssl")
        made = make_certificate(names=("localhost",))
        directory = self.mktemp()
        os.mkdir(directory)
        cert, key = (os.path.abspath(f"{directory}/{name}.pem") for name in ("cert", "key"))
        for path, pem in ((cert, made.cert_pem), (key, made.key_pem)):
            with open(path, "wb") as file:
                file.write(pem)
        tls = ("--tls-port", "0", "--tls-cert", cert, "--tls-key", key)
        with Daemon(*tls, "--interface", "127.0.0.1") as daemon:
            where = f"127.0.0.1:{daemon.port('--tls-port')}"
            check = ("-servername", "localhost", "-verify_hostname", "localhost")
            trust = ("-CAfile", cert, "-verify_return_error")
            output, errors = converse(
                (openssl, "s_client", "-connect", where, version, "-brief", *check, *trust),
                b"over TLS\n",
            )
        return output, errors.decode()

    def test_tls_1_3(self) -> None:
        """
        Over TLS 1.3 the line comes back, and the certificate is the one that was given.
        """
        output, errors = self.converse("-tls1_3")
        self.assertEqual(output, b"over TLS\n")
        self.assertIn("TLSv1.3", errors)
        self.assertIn("Verification: OK", errors)

    def test_tls_1_2(self) -> None:
        """
        Over TLS 1.2 the line comes back, and the certificate is the one that was given.
        """
        output, errors = self.converse("-tls1_2")
        self.assertEqual(output, b"over TLS\n")
        self.assertIn("TLSv1.2", errors)
        self.assertIn("Verification: OK", errors)
