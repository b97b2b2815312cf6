"""
The command line: what is taken, and what is refused with which words.
"""

import ast
import io
import sys
from pathlib import Path

from twisted.logger import LogLevel
from twisted.python.usage import Options as UsageOptions
from twisted.scripts.twistd import ServerOptions
from twisted.trial.unittest import SynchronousTestCase

import echod
from echod.options import Options


class OptionsTestCase(SynchronousTestCase):
    """
    A command line, under whoever parses it.
    """

    def parse(self, *args, parent=None):
        options = Options()
        options.parent = parent
        options.parseOptions(args)
        return options

    def refused(self, *args, parent=None):
        """
        @return: the one line with which the arguments are refused.
        """
        error = self.assertRaises(SystemExit, self.parse, *args, parent=parent)
        line = error.code
        self.assertIsInstance(line, str)  # a text means exit status 1
        self.assertEqual(line.splitlines(), [line])
        self.assertTrue(line.isprintable() and line.startswith("echod: "), line)
        return line.removeprefix("echod: ")


class ValuesTests(OptionsTestCase):
    """
    What a good value is.
    """

    def test_defaults(self):
        """
        Nothing is required: plain TCP on port 9000, safe for a public port.
        """
        self.assertEqual(
            dict(self.parse()),
            {
                "port": 9000,
                "interface": None,
                "listen": [],
                "backlog": 1024,
                "tls-port": None,
                "tls-cert": None,
                "tls-key": None,
                "write-timeout": 30.0,
                "drain-timeout": 5.0,
                "log-level": None,
                "log-format": None,
                "access-log": "on",
                "check": 0,
            },
        )

    def test_values(self):
        """
        Each option takes its whole range, and turns it into what the daemon works with.
        """
        tls = ("--tls-port", "1", "--tls-cert", "c")
        for args, name, expected in (
            (("--port", "0"), "port", 0),
            (("-p", "65535"), "port", 65535),
            (("--backlog", "1"), "backlog", 1),
            (("--backlog", "65535"), "backlog", 65535),
            (("--interface", "127.0.0.1"), "interface", "127.0.0.1"),
            (("-i", "::1"), "interface", "::1"),
            (tls, "tls-port", 1),
            (tls, "tls-cert", "c"),
            ((*tls, "--tls-key", "k"), "tls-key", "k"),
            (("--write-timeout", "0"), "write-timeout", 0.0),
            (("--write-timeout", "500ms"), "write-timeout", 0.5),
            (("--write-timeout", "1.5"), "write-timeout", 1.5),
            (("--drain-timeout", "30s"), "drain-timeout", 30.0),
            (("--drain-timeout", "5m"), "drain-timeout", 300.0),
            (("--drain-timeout", "168h"), "drain-timeout", 604800.0),
            (("--log-level", "debug"), "log-level", LogLevel.debug),
            (("--log-level", "info"), "log-level", LogLevel.info),
            (("--log-level", "warn"), "log-level", LogLevel.warn),
            (("--log-level", "error"), "log-level", LogLevel.error),
            (("--log-format", "text"), "log-format", "text"),
            (("--log-format", "json"), "log-format", "json"),
            (("--access-log", "off"), "access-log", "off"),
            (("--check",), "check", 1),
        ):
            self.assertEqual(self.parse(*args)[name], expected, args)

    def test_listen(self):
        """
        C{--listen} may come several times, in any form that Twisted knows, in order.
        """
        endpoints = [
            "tcp:9000",
            "tcp:port=9000:interface=127.0.0.1",
            "tcp6:0",
            "unix:/run/echod.sock",
            "systemd:domain=INET:index=0",
        ]
        options = self.parse(*(f"--listen={endpoint}" for endpoint in endpoints))
        self.assertEqual(options["listen"], endpoints)
        self.assertEqual(self.parse()["listen"], [])

    def test_listen_port_behind(self):
        """
        The port need not come first when it is named, as in Twisted's own syntax.
        """
        endpoint = "tcp:interface=127.0.0.1:port=9000"
        self.assertEqual(self.parse("--listen", endpoint)["listen"], [endpoint])

    def test_default_port(self):
        """
        The default port is for a daemon that would listen nowhere else.
        """
        for args in (("--listen", "unix:/x"), ("--tls-port", "1", "--tls-cert", "c")):
            self.assertIsNone(self.parse(*args)["port"])
            self.assertEqual(self.parse(*args, "--port", "7")["port"], 7)
        self.assertEqual(self.parse("--interface", "::1")["port"], 9000)


class RefusedTests(OptionsTestCase):
    """
    What is wrong, in one line with the way out.
    """

    def test_values(self):
        """
        A bad value is refused with its option, itself, and what would be good.
        """
        for name, values, way_out in (
            (
                "port",
                ("", "x", "-1", "65536", "99999", "100000", "9000 ", "9\n", "0x10", "\u0661"),
                "give a number from 0 (any free port) to 65535",
            ),
            ("tls-port", ("", "65536"), "give a number from 0 (any free port) to 65535"),
            ("backlog", ("", "0", "65536", "100000", "-1"), "give a number from 1 to 65535"),
            (
                "interface",
                ("", "localhost", "127.0.0.1:80", "300.0.0.1", "::1\x1b[2J"),
                "give one such as 127.0.0.1 or ::1",
            ),
            (
                "write-timeout",
                ("", "x", "-1", "1d", "nan", "inf", "1e3", ".5", "5 s", "169h", "604801"),
                "give seconds, or such as 500ms, 30s, 5m, up to a week",
            ),
            ("drain-timeout", ("never",), "give seconds, or such as 500ms, 30s, 5m"),
            ("log-level", ("", "INFO", "critical", "all"), "give debug, info, warn or error"),
            ("log-format", ("", "xml"), "give text or json"),
            ("access-log", ("", "yes", "1"), "give on or off"),
            ("tls-cert", ("", "a\0b"), "give the name of a PEM file"),
            ("tls-key", ("", "a\0b"), "give the name of a PEM file"),
        ):
            for value in values:
                line = self.refused(f"--{name}={value}")
                self.assertTrue(line.startswith(f"--{name} '"), line)
                self.assertIn(way_out, line)

    def test_shown_as_given(self):
        """
        A bad value is shown as it was typed, with control characters, and those alone, escaped.
        """
        for args, shown in (
            (("--port", "a\\b"), r"--port 'a\b': "),
            (("--port", "it's"), "--port 'it's': "),
            (("--port", "9\n"), r"--port '9\n': "),
            (("--port", "\u0661"), "--port '\u0661': "),
            (("--interface", "::1\x1b[2J\u202e"), r"--interface '::1\x1b[2J\u202e': "),
            (("--tls-cert", "a\\\0b"), r"--tls-cert 'a\\x00b': "),
            (("--listen", "a\\b\n"), r"--listen 'a\b\n': "),
            (("--listen", "tcp:9\\9\r"), r"--listen 'tcp:9\9\r': "),
            (("a\\b\t",), r"unexpected argument 'a\b\t'; "),
        ):
            line = self.refused(*args)
            self.assertTrue(line.startswith(shown), line)

    def test_listen(self):
        """
        What cannot be an endpoint, or names a port that is none, is refused at once.
        """
        for value in ("", "9000", "tcp", "tcp:", ":9000", "a\nb"):
            line = self.refused(f"--listen={value}")
            self.assertTrue(line.startswith("--listen '"), line)
            self.assertIn("give one such as tcp:9000 or unix:/run/echod.sock", line)
        for value in (
            "tcp:99999",
            "tcp:port=99999",
            "tcp6:x",
            "tcp:interface=127.0.0.1:port=99999",
            "ssl:-1:privateKey=k",
        ):
            line = self.refused(f"--listen={value}")
            self.assertTrue(line.startswith(f"--listen '{value}'"), line)
            self.assertIn("give a number from 0", line)

    def test_dependencies(self):
        """
        An option that needs another, or serves nothing, says so.
        """
        for args, expected in (
            (("--tls-port", "1"), "--tls-port: needs a certificate; add --tls-cert FILE"),
            (("--tls-cert", "c"), "--tls-cert: serves nothing without --tls-port; add one"),
            (("--tls-key", "k"), "--tls-key: serves nothing without --tls-port; add one"),
            (
                ("--interface", "::1", "--listen", "tcp:1"),
                "--interface: is for --port and --tls-port; "
                "in --listen give tcp:PORT:interface=ADDRESS",
            ),
        ):
            self.assertEqual(self.refused(*args), expected)

    def test_unknown(self):
        """
        What is no option at all is refused with a hint at the help.
        """
        for args, words in (
            (("--nosuch",), "option --nosuch not recognized; see --help"),
            (("--port",), "option --port requires argument; see --help"),
            (("9000",), "unexpected argument '9000'; see --help"),
        ):
            self.assertEqual(self.refused(*args), words)

    def test_unknown_and_unprintable(self):
        """
        What is no option is named without the control characters in it.
        """
        for arg, shown in (("\x1b[2J", r"\x1b[2J"), ("--no\x1b[2J\nsuch", r"--no\x1b[2J\nsuch")):
            line = self.refused(arg)
            self.assertIn(shown, line)
            self.assertNotIn("\\\\", line)


class ParentTests(OptionsTestCase):
    """
    Under twistd, under twist, and alone.
    """

    def test_twistd(self):
        """
        Under twistd echod logs by itself.
        """
        twistd = ServerOptions()
        options = self.parse("--log-level", "warn", "--log-format", "json", parent=twistd)
        self.assertIs(options.twistd, twistd)
        self.assertEqual(options["log-format"], "json")

    def test_twist(self):
        """
        Under twist, which logs for its services, options about that are refused.
        """
        twist = UsageOptions()
        self.assertIsNone(self.parse("--access-log", "off", parent=twist).twistd)
        for args in (("--log-level", "info"), ("--log-format", "text")):
            line = self.refused(*args, parent=twist)
            self.assertEqual(
                line, f"{args[0]}: twist has its own, and logs for us; give it before echod"
            )

    def test_alone(self):
        """
        Without a parent there is no twistd.
        """
        self.assertIsNone(self.parse("--log-level", "info").twistd)


class InformationTests(OptionsTestCase):
    """
    What the command line tells about itself.
    """

    def test_version(self):
        """
        C{--version} prints the version of echod, not of Twisted, and exits with 0.
        """
        out = io.StringIO()
        self.patch(sys, "stdout", out)
        error = self.assertRaises(SystemExit, self.parse, "--version")
        self.assertEqual((error.code, out.getvalue()), (0, f"echod {echod.__version__}\n"))

    def test_help(self):
        """
        C{--help} names every option and says something about it.
        """
        text = " ".join(str(Options()).split())
        for name in self.parse():
            self.assertRegex(text, rf"--{name}[= ]\s*\S+ \S+")
        self.assertIn("[default: 1024]", text)
        self.assertIn("[default: 9000, when no other listener is given]", text)

    def test_every_option_is_read(self):
        """
        No option is taken and then ignored.
        """
        reads = set()
        for path in Path(echod.__file__).parent.glob("*.py"):
            if path.name == "options.py":
                continue
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
                    whose = getattr(node.value, "id", getattr(node.value, "attr", ""))
                    if whose in ("options", "_options"):
                        reads.add(node.slice.value)
        self.assertEqual(reads, set(self.parse()))
