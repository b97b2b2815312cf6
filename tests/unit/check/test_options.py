"""
The command line of C{echod-check}.
"""

import ast
import inspect
import io
import sys

from twisted.python.usage import UsageError
from twisted.trial.unittest import SynchronousTestCase

from echod import __version__
from echod.check import cli, runner
from echod.check.options import GROUPS, CheckOptions
from echod.check.results import Outcome


def parsed(*arguments):
    options = CheckOptions()
    options.parseOptions(arguments)
    return options


class CheckOptionsTests(SynchronousTestCase):
    """
    Tests for L{CheckOptions}.
    """

    def wrong(self, *arguments):
        error = self.assertRaises(UsageError, parsed, *arguments)
        self.assertNotIn("\n", str(error))
        self.assertTrue(str(error).isprintable())
        return str(error)

    def test_defaults(self):
        """
        A target is enough.
        """
        options = parsed("localhost:9000")
        self.assertEqual(options.target, "localhost:9000")
        self.assertEqual(options.host, "localhost")
        self.assertEqual((options["timeout"], options["size"], options["count"]), (5.0, 64, None))
        self.assertEqual((options["interval"], options["connections"]), (1.0, 1))
        self.assertEqual(parsed("--conformance", "localhost:9000")["timeout"], 30.0)

    def test_udp(self):
        """
        C{--udp} needs a host and a port, and a size that fits a datagram; it excludes what there is
        over TCP only.
        """
        options = parsed("--udp", "--size=65507", "[::1]:7")
        self.assertEqual(options.udp_target, ("::1", 7))
        parsed("--udp", "--ping", "--size=16", "--rate=5", "localhost:7")
        for arguments, text in (
            (("--tls",), "--tls: has no effect with --udp; leave it out"),
            (("--conformance",), "--conformance: has no effect with --udp; leave it out"),
            (
                ("--ping", "--connections=2"),
                "--connections: has no effect with --udp; leave it out",
            ),
            (("--proxy-header=v1",), "--proxy-header: has no effect with --udp; leave it out"),
            (("--size=65508",), "--size: does not fit a datagram; give 1 to 65507 with --udp"),
            (
                ("--ping", "--size=15"),
                "--size: does not fit a datagram; give 16 to 65507 with --udp",
            ),
        ):
            self.assertEqual(self.wrong("--udp", *arguments, "localhost:7"), text)
        self.assertIn("give HOST:PORT or [IPv6]:PORT", self.wrong("--udp", "unix:/x"))

    def test_values(self):
        """
        Values may have units.
        """
        options = parsed(
            *("-t", "500ms", "-s", "64KiB", "--count=3", "--ping", "--rate", "2.5"),
            *("--connections", "4", "--tls", "--alpn", "h2,echo", "--tls-version", "1.2"),
            *("--proxy-header", "v2", "--proxy-source", "192.0.2.1:1", "localhost:9000"),
        )
        self.assertEqual((options["timeout"], options["size"]), (0.5, 65536))
        self.assertEqual((options["count"], options["rate"], options["connections"]), (3, 2.5, 4))
        self.assertEqual(options["alpn"], (b"h2", b"echo"))
        self.assertEqual(options["proxy-source"][1], 1)
        for given, name in (("localhost.", "localhost"), ("192.0.2.1", "192.0.2.1")):
            options = parsed("--tls", "--servername", given, "unix:/run/echod.sock")
            self.assertEqual(options["servername"], name)

    def test_sizes(self):
        """
        Units of sizes are those of dd(1).
        """
        for given, size in (
            ("1", 1),
            ("64B", 64),
            ("64K", 65536),
            ("64k", 65536),
            ("64KiB", 65536),
            ("64kB", 64000),
            ("1M", 1 << 20),
            ("1MB", 1_000_000),
            ("1MiB", 1 << 20),
            ("1GB", 10**9),
            ("1G", 1 << 30),
        ):
            self.assertEqual(parsed("-s", given, "localhost:9000")["size"], size)

    def test_targets(self):
        """
        A host and a port may be given as to telnet, and as a URL.
        """
        for arguments, target in (
            (("localhost", "9000"), "localhost:9000"),
            (("::1", "9000"), "[::1]:9000"),
            (("[::1]", "9000"), "[::1]:9000"),
        ):
            self.assertEqual(parsed(*arguments).target, target)
        for target in ("tcp://localhost:9000", "tcp://localhost:9000/"):
            self.assertEqual(parsed(target).host, "localhost")
        self.assertIn("not the URL of an echo server; give HOST", self.wrong("http://localhost:1"))

    def test_fingerprint(self):
        """
        A fingerprint may be given as openssl(1) prints it, and needs no name.
        """
        digits = "0F:" * 31 + "0f"
        for given in (digits, digits.replace(":", ""), f"sha256 Fingerprint={digits}",
                      f"SHA256:{digits}"):  # fmt: skip
            options = parsed("--tls", "--fingerprint", given, "unix:/run/echod.sock")
            self.assertEqual(options["fingerprint"], bytes([15]) * 32)

    def test_any_order(self):
        """
        Options may follow the target, and a target may follow C{--}.
        """
        for arguments in (
            ("localhost:9000", "--quiet", "-t", "2s", "--size=3"),
            ("-qt2s", "localhost:9000", "--size", "3"),
            ("--quiet", "--timeout=2s", "--size=3", "--", "localhost:9000"),
        ):
            options = parsed(*arguments)
            self.assertEqual((options["quiet"], options["timeout"], options["size"]), (1, 2.0, 3))

    def test_own_arguments(self):
        """
        Without arguments, they are those of the process.
        """
        self.patch(sys, "argv", ["echod-check", "localhost:9000"])
        options = CheckOptions()
        options.parseOptions()
        self.assertEqual(options.target, "localhost:9000")

    def test_bad_values(self):
        """
        A bad value is one line with the option's name and the way out.
        """
        for option, value in (
            ("timeout", "0"),
            ("timeout", "soon"),
            ("size", "0"),
            ("size", "2GiB"),
            ("size", "64kx"),
            ("size", "64iB"),
            ("size", "2GB"),
            ("fingerprint", "00:11"),
            ("fingerprint", "0" * 63),
            ("fingerprint", "g" * 64),
            ("count", "0"),
            ("count", "-1"),
            ("connections", "1000000"),
            ("interval", "x"),
            ("rate", "0"),
            ("rate", "fast"),
            ("rate", "900000"),
            ("alpn", "a,,b"),
            ("alpn", "\u00e4"),
            ("tls-version", "1.1"),
            ("proxy-header", "v3"),
            ("proxy-source", "me"),
            ("servername", "a..b"),
            ("servername", ".example.com"),
            ("ca", ""),
        ):
            text = self.wrong(f"--{option}", value, "localhost:9000")
            self.assertTrue(text.startswith(f"--{option} '"), text)
            self.assertIn("; give", text)

    def test_bad_combinations(self):
        """
        An option that needs another one says so.
        """
        for arguments, text in (
            (("--ping", "--conformance"), "--ping and --conformance"),
            (("--rate", "3"), "--rate: has no effect without --ping"),
            (("--connections", "3"), "--connections: has no effect without --ping"),
            (("--insecure",), "--insecure: has no effect without --tls"),
            (("--ca", "x"), "--ca: has no effect without --tls"),
            (("--proxy-source", "192.0.2.1:1"), "--proxy-source: has no effect without"),
            (("--conformance", "--count", "3"), "--count: has no effect with --conformance"),
            (("--conformance", "--interval", "3"), "--interval: has no effect with --conformance"),
            (("--ping", "--rate", "3", "--interval", "1"), "--rate and --interval"),
            (("--key", "x", "--tls"), "--key: has no effect without --cert"),
            (("--fingerprint", "00" * 32), "--fingerprint: has no effect without --tls"),
            (("--tls", "--fingerprint", "00" * 32, "-k"), "--fingerprint and --insecure"),
            (("--tls", "--fingerprint", "00" * 32, "--ca", "x"), "--fingerprint and --ca"),
            (("--size", "3", "-s", "4"), "--size: given twice; give it once"),
        ):
            self.assertIn(text, self.wrong(*arguments, "localhost:9000"))

    def test_servers(self):
        """
        There is one target, and it is valid.
        """
        self.assertIn("no server; give HOST:PORT", self.wrong())
        self.assertIn("unexpected argument 'b:2'", self.wrong("a:1", "b:2"))
        self.assertIn("'a\\x1b': not a server", self.wrong("a\x1b"))
        self.assertIn("--nope", self.wrong("a:1", "--nope"))
        self.assertIn("see --help", self.wrong("a:1", "--nope"))

    def test_whose_certificate(self):
        """
        Without a host, --tls needs a name to verify.
        """
        self.assertIn("--servername NAME", self.wrong("--tls", "unix:/run/echod.sock"))
        parsed("--tls", "--insecure", "unix:/run/echod.sock")
        parsed("--tls", "--servername", "localhost", "unix:/run/echod.sock")

    def test_help(self):
        """
        The help lists every option and every exit status.
        """
        text = str(CheckOptions())
        for each in Outcome:
            self.assertIn(f"{each.status} {each.word}: {each.meaning}", " ".join(text.split()))
        known = {name.rstrip("=") for name in CheckOptions().longOpt}
        self.assertEqual({name for names in GROUPS.values() for name in names}, known)
        for name in known:
            self.assertIn(f"--{name}", text)
        self.assertTrue(text.startswith("Usage: echod-check [options] SERVER\n"), text)
        self.assertLessEqual(max(map(len, text.splitlines())), 80)
        self.assertIn("\nExample:\n  echod-check localhost:9000\n", text)

    def test_every_option_is_read(self):
        """
        No option is ignored.
        """
        reads = set()
        for module in (cli, runner):
            for node in ast.walk(ast.parse(inspect.getsource(module))):
                if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
                    whose = getattr(node.value, "id", getattr(node.value, "attr", ""))
                    if whose in ("options", "_options"):
                        reads.add(node.slice.value)
        self.assertEqual(reads, set(CheckOptions()))

    def test_version(self):
        """
        The version is the package's.
        """
        said = io.StringIO()
        self.patch(sys, "stdout", said)
        self.assertEqual(self.assertRaises(SystemExit, parsed, "--version").code, 0)
        self.assertEqual(said.getvalue(), f"echod-check {__version__}\n")
