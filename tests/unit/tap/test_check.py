"""
Tests for C{--check}.
"""

import io
import os
import resource
import socket
import sys
from functools import partial

from twisted.internet.address import IPv4Address
from twisted.scripts.twistd import ServerOptions

import echod
from echod.systemd import InheritedSockets
from echod.tap.build import build_service
from echod.tap.check import check_config
from tests.support import needs
from tests.support.certificates import make_certificate
from tests.support.fakes import FakePort
from tests.support.services import BrokenService, ServiceTestCase


class CheckTests(ServiceTestCase):
    """
    C{--check} starts a daemon, prints what would run, and stops it.
    """

    def check_config(self, service):
        """
        @return: the exit status.
        """
        error = self.assertRaises(SystemExit, check_config, self.reactor, lambda: service)
        self.assertTrue(self.reactor.hasRun)
        return error.code

    def test_no_warnings(self):
        """
        Without warnings it prints the listeners and the limit of connections, closes the ports, and
        exits with 0.
        """
        service = self.build(
            *self.local, "--listen", "tcp:7:interface=127.0.0.1", "--max-connections", "50"
        )
        self.assertEqual(self.check_config(service), 0)
        self.assertEqual(
            self.stdout.getvalue().splitlines(),
            [
                f"echod {echod.__version__}: all is well; this would listen on",
                "  192.0.2.1:9000, --port 0 --interface 127.0.0.1",
                "  192.0.2.1:9000, --listen tcp:7:interface=127.0.0.1",
                "for at most 50 connections at once",
            ],
        )
        self.assertEqual([port.stopped for port in self.reactor.ports], [True, True])

    def test_udp(self):
        """
        UDP has no limit of connections.
        """
        service = self.build("--udp-port", "0", "--interface", "127.0.0.1")
        self.assertEqual(self.check_config(service), 0)
        _, *lines = self.stdout.getvalue().splitlines()
        [line] = lines
        self.assertRegex(line, r"^  127\.0\.0\.1:[0-9]+, --udp-port 0 --interface 127\.0\.0\.1$")

    def test_self_signed(self):
        """
        A certificate that is made at the start has its fingerprint below it.
        """
        service = self.build("--tls-port", "0", "-i", "127.0.0.1", "--tls-self-signed")
        self.assertEqual(self.check_config(service), 0)
        pair = service.certificates.self_made
        self.assertIn("localhost", pair.names)
        self.assertEqual(
            self.stdout.getvalue().splitlines()[-1],
            f"  SHA-256 fingerprint {pair.fingerprint}; each start makes a new one",
        )

    def test_unwritable_output(self):
        """
        If standard output cannot be written, that is one line, and the check fails.
        """
        needs.file("/dev/full")
        stderr = io.StringIO()
        with open("/dev/full", "w") as full:
            self.patch(sys, "stdout", full)
            self.patch(sys, "stderr", stderr)
            self.assertEqual(self.check_config(self.build(*self.local)), 1)
        self.assertEqual(
            stderr.getvalue(), "echod: --check: standard output: No space left on device\n"
        )
        self.assertEqual([port.stopped for port in self.reactor.ports], [True])

    def test_warnings(self):
        """
        Each warning of a start is printed once, and the first line has their number.
        """
        made = make_certificate(["a.example"], days=-2)
        path = self.file(made.cert_pem + made.key_pem)
        os.chmod(path, 0o644)
        key_log = self.file()
        os.chmod(key_log, 0o644)
        self.patch(resource, "getrlimit", lambda _: (100, 100))
        self.patch(resource, "setrlimit", lambda *_: None)
        args = ("--tls-port", "0", "--tls-cert", path, "--tls-keylog", key_log)
        args += ("--admin", "tcp:7", "--max-connections", "120", "--workers", "2", "--check")
        make = partial(build_service, self.reactor, self.options(*args), InheritedSockets(), 2)
        self.patch(FakePort, "getHost", lambda _: IPv4Address("TCP", "192.0.2.1", 7))
        error = self.assertRaises(SystemExit, check_config, self.reactor, make, 2)
        self.assertEqual(error.code, 0)
        warnings = self.stderr.getvalue().splitlines()
        self.assertEqual({line.partition("warning: ")[0] for line in warnings}, {"echod: "})
        for word in (
            "--max-connections 120: a worker's share of 60 is limited to 36",
            "--tls-keylog: the secrets of EVERY",
            f"{key_log} is open to users",
            f"the key in {path} can be read by users",
            "the certificate for a.example ended on",
            "other machines can reach it",
        ):
            self.assertEqual([word in line for line in warnings].count(True), 1, word)
        first, *_ = self.stdout.getvalue().splitlines()
        words = f"echod {echod.__version__}: {len(warnings)} warnings; this would listen on"
        self.assertEqual((first, len(warnings)), (words, 6))

    def test_warning(self):
        """
        A certificate that is not valid yet is one warning.
        """
        made = make_certificate(["a.example"], valid_in_days=3, days=90)
        args = ("--tls-port", "0", "--tls-cert", self.file(made.cert_pem + made.key_pem))
        self.assertRaises(SystemExit, check_config, self.reactor, partial(self.build, *args))
        self.assertIn("is not valid before", self.stderr.getvalue())
        self.assertIn(": 1 warning; this would listen on", self.stdout.getvalue())

    def test_workers(self):
        """
        With C{--workers} it prints their number, starts none, and refuses an endpoint that they
        cannot share.
        """
        args = (*self.local, "--check", "--workers", "3")
        service = build_service(self.reactor, self.options(*args), InheritedSockets(), 3)
        error = self.assertRaises(SystemExit, check_config, self.reactor, lambda: service, 3)
        self.assertEqual(error.code, 0)
        self.assertEqual(self.stdout.getvalue().splitlines()[-1], "with 3 workers")
        options = self.options(*args, "--listen", "haproxy:tcp:0")
        error = self.assertRaises(
            SystemExit, build_service, self.reactor, options, InheritedSockets(), 3
        )
        self.assertIn("workers cannot share its layer", error.code)

    def test_workers_and_descriptors(self):
        """
        The limit of descriptors is for each worker.
        """
        self.patch(resource, "getrlimit", lambda _: (100, 100))
        self.patch(resource, "setrlimit", lambda *_: None)
        args = (*self.local, "--check", "--max-connections", "60", "--workers", "2")
        service = build_service(self.reactor, self.options(*args), InheritedSockets(), 2)
        self.assertEqual(service.collector.max_connections, 60)

    def test_certificates(self):
        """
        With TLS it prints the certificates, and leaves no key log behind.
        """
        made = make_certificate(["a.example", "192.0.2.1"])
        path, key_log = self.file(made.cert_pem + made.key_pem), self.mktemp()
        tls = ("--tls-port", "0", "-i", "127.0.0.1", "--tls-cert", path, "--tls-keylog", key_log)
        service = self.build(*tls)
        self.addCleanup(service.key_log.close)
        self.assertEqual(self.check_config(service), 0)
        end = f"{made.certificate.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}"
        self.assertEqual(
            self.stdout.getvalue().splitlines()[3:],
            ["with", f"  a.example, 192.0.2.1, until {end}, {path}"],
        )
        self.assertFalse(os.path.exists(key_log))

    def test_cannot_listen(self):
        """
        If a port is in use, one line says so, the other ports are closed, and the status is 1.
        """
        taken = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(taken.close)
        port, made = str(taken.getsockname()[1]), make_certificate()
        service = self.build(
            *("--port", "0", "-i", "127.0.0.1"),
            *("--listen", "tcp:7:interface=127.0.0.1"),
            *("--tls-port", port, "--tls-cert", self.file(made.cert_pem + made.key_pem)),
        )
        self.assertEqual(self.check_config(service), 1)
        reason = "Address already in use; stop what listens there, or give another"
        self.assertEqual(
            self.stderr.getvalue(), f"echod: --tls-port {port} --interface 127.0.0.1: {reason}\n"
        )
        self.assertEqual(self.stdout.getvalue(), "")
        self.assertEqual([port.stopped for port in self.reactor.ports], [True])

    def twistd(self, logfile):
        twistd = ServerOptions()
        twistd.opts.update({"nodaemon": 1, "logfile": logfile})
        return twistd

    def test_log_file(self):
        """
        The log file is opened for a test, and not left behind.
        """
        path = self.mktemp()
        self.assertEqual(self.check_config(self.build(*self.local, twistd=self.twistd(path))), 0)
        self.assertEqual(os.path.exists(path), False)

    def test_unusable_log_file(self):
        """
        A log file that cannot be opened is one line, and nothing is bound.
        """
        path = os.path.abspath(os.path.join(self.mktemp(), "log"))
        service = self.build(*self.local, twistd=self.twistd(path))
        error = self.assertRaises(SystemExit, check_config, self.reactor, lambda: service)
        self.assertEqual(
            error.code,
            f"twistd: --logfile '{path}': No such file or directory; "
            "give a file that can be written",
        )
        self.assertEqual((self.reactor.hasRun, self.reactor.ports), (False, []))
        self.assertEqual(self.stdout.getvalue(), "")

    def test_bug(self):
        """
        A bug in a service is logged, and the exit status is 1.
        """
        service = self.build(*self.local)
        service.addService(BrokenService())
        self.assertEqual(self.check_config(service), 1)
        self.assertEqual(len(self.flushLoggedErrors(LookupError)), 1)
