"""
Tests for L{echod.options}: which values are accepted, and the line for each that is refused.
"""

import ast
import io
import os
import re
import sys
from pathlib import Path

from twisted.logger import LogLevel
from twisted.python.usage import Options as UsageOptions, UsageError
from twisted.scripts.twistd import ServerOptions
from twisted.trial.unittest import SynchronousTestCase

import echod
from echod.options import Options
from echod.options.parameters import GROUPS, PARAMETERS, OptionValues
from tests.support import needs


class OptionsTestCase(SynchronousTestCase):
    """
    Parses command lines, with or without a parent.
    """

    def parse(self, *args, parent=None):
        options = Options()
        options.parent = parent
        options.parseOptions(args)
        return options

    def refused(self, *args, parent=None):
        """
        Parse arguments that are wrong.

        @return: the line that says so.
        """
        stderr = io.StringIO()
        self.patch(sys, "__stderr__", stderr)
        error = self.assertRaises(SystemExit, self.parse, *args, parent=parent)
        self.assertEqual(error.code, os.EX_CONFIG)
        (line,) = stderr.getvalue().splitlines()
        self.assertTrue(line.isprintable() and line.startswith("echod: "), line)
        return line.removeprefix("echod: ")


class ValuesTests(OptionsTestCase):
    """
    The values that are accepted.
    """

    def test_defaults(self):
        """
        No option is required.  The default is plain TCP on port 9000, with limits for a public
        port.
        """
        self.assertEqual(
            dict(self.parse()),
            {
                "port": 9000,
                "interface": None,
                "listen": [],
                "backlog": 1024,
                "tls-port": None,
                "tls-listen": [],
                "udp-port": None,
                "udp-listen": [],
                "tls-cert": [],
                "tls-self-signed": 0,
                "tls-client-auth": None,
                "tls-client-ca": None,
                "tls-min": None,
                "tls-alpn": None,
                "tls-keylog": None,
                "admin": None,
                "admin-host": [],
                "allow": [],
                "deny": [],
                "max-connections": 10000,
                "max-per-client": 0,
                "connect-rate": None,
                "udp-rate": None,
                "proxy-protocol": "off",
                "proxy-trust": [],
                "proxy-header-timeout": 5.0,
                "handshake-timeout": 10.0,
                "idle-timeout": 0.0,
                "max-lifetime": 0.0,
                "write-timeout": 30.0,
                "drain-timeout": 5.0,
                "log-level": None,
                "log-format": None,
                "workers": 1,
                "access-log": "on",
                "fault": [],
                "fault-seed": None,
                "greet": [],
                "check": 0,
            },
        )

    def test_types(self):
        """
        Each option has its type in L{OptionValues}.
        """
        options = self.parse()
        self.assertIs(options.typed, options)
        self.assertEqual(set(OptionValues.__annotations__), set(options))

    def test_values(self):
        """
        Each option accepts its whole range, and converts it.
        """
        trust = ("--proxy-trust", "192.0.2.1")
        tls = ("--tls-port", "1", "--tls-cert", "/c")
        ca = ("--tls-client-ca", "/a")
        for args, name, expected in (
            (("--port", "0"), "port", 0),
            (("-p", "65535"), "port", 65535),
            (("--backlog", "1"), "backlog", 1),
            (("--backlog", "65535"), "backlog", 65535),
            (("--interface", "127.0.0.1"), "interface", "127.0.0.1"),
            (("-i", "::1"), "interface", "::1"),
            (tls, "tls-port", 1),
            (tls, "tls-cert", [("/c", None)]),
            ((*tls, "--tls-key", "/k"), "tls-cert", [("/c", "/k")]),
            ((*tls, "--tls-client-auth", "off"), "tls-client-auth", "off"),
            ((*tls, *ca, "--tls-client-auth", "request"), "tls-client-auth", "request"),
            ((*tls, *ca, "--tls-client-auth", "require"), "tls-client-auth", "require"),
            ((*tls, *ca, "--tls-client-auth", "require"), "tls-client-ca", "/a"),
            ((*tls, "--tls-min", "1.2"), "tls-min", "1.2"),
            ((*tls, "--tls-min", "1.3"), "tls-min", "1.3"),
            ((*tls, "--tls-alpn", "echo"), "tls-alpn", (b"echo",)),
            ((*tls, "--tls-alpn", "h2,http/1.1"), "tls-alpn", (b"h2", b"http/1.1")),
            ((*tls, "--tls-keylog", "k.log"), "tls-keylog", os.path.abspath("k.log")),
            (("--max-connections", "1"), "max-connections", 1),
            (("--max-per-client", "0"), "max-per-client", 0),
            (("--max-per-client", "20"), "max-per-client", 20),
            (("--connect-rate", "0.5"), "connect-rate", (0.5, 1)),
            (("--connect-rate", "10:50"), "connect-rate", (10.0, 50)),
            (("--proxy-protocol", "off"), "proxy-protocol", "off"),
            (("--proxy-protocol", "optional", *trust), "proxy-protocol", "optional"),
            (("--proxy-protocol", "require", *trust), "proxy-protocol", "require"),
            ((*tls, "--handshake-timeout", "500ms"), "handshake-timeout", 0.5),
            # An endpoint of Twisted's may have a TLS layer.
            (("--listen=ssl:0:privateKey=k", "--handshake-timeout=2s"), "handshake-timeout", 2.0),
            (
                (*trust, "--proxy-protocol=require", "--proxy-header-timeout=0"),
                "proxy-header-timeout",
                0.0,
            ),
            (("--idle-timeout", "5m"), "idle-timeout", 300.0),
            (("--max-lifetime", "1h"), "max-lifetime", 3600.0),
            (("--write-timeout", "0"), "write-timeout", 0.0),
            (("--write-timeout", "1.5"), "write-timeout", 1.5),
            (("--drain-timeout", "168h"), "drain-timeout", 604800.0),
            (("--log-level", "debug"), "log-level", LogLevel.debug),
            (("--log-level", "error"), "log-level", LogLevel.error),
            (("--log-format", "text"), "log-format", "text"),
            (("--log-format", "json"), "log-format", "json"),
            (("--access-log", "off"), "access-log", "off"),
            (("--workers", "0"), "workers", 0),
            (("--workers", "1024"), "workers", 1024),
            (("--check",), "check", 1),
        ):
            self.assertEqual(self.parse(*args)[name], expected, args)

    def test_certificates(self):
        """
        C{--tls-cert} is repeatable; a key is in the same file or in the C{--tls-key} after it.
        """
        args = "--tls-port 1 --tls-cert /a --tls-key /b --tls-cert /c --tls-cert /d --tls-key /e"
        options = self.parse(*args.split())
        self.assertEqual(options["tls-cert"], [("/a", "/b"), ("/c", None), ("/d", "/e")])

    def test_listen(self):
        """
        C{--listen} and C{--tls-listen} are repeatable, accept each form of Twisted's endpoint
        strings, and keep their order.
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
        self.assertFalse(options.serves_tls)
        options = self.parse(
            *(f"--tls-listen={endpoint}" for endpoint in endpoints), "--tls-cert", "c"
        )
        self.assertEqual((options["tls-listen"], options["listen"]), (endpoints, []))
        self.assertTrue(options.serves_tls)
        self.assertEqual(self.parse()["listen"], [])

    def test_admin(self):
        """
        C{--admin} is not repeatable, and its endpoint is checked as that of C{--listen} is.
        """
        self.assertEqual(self.parse("--admin", "unix:/a")["admin"], "unix:/a")
        twice = ("--admin", "tcp:1", "--admin", "tcp:2")
        self.assertEqual(self.refused(*twice), "--admin: given twice; give it once")
        self.assertIn("--admin '9001': not an endpoint; ", self.refused("--admin", "9001"))

    def test_admin_host(self):
        """
        C{--admin-host} is repeatable, and needs C{--admin}.
        """
        hosts = ("--admin-host", "Echod.Example.", "--admin-host", "::ffff:192.0.2.1")
        self.assertEqual(
            self.parse("--admin", "unix:/a", *hosts)["admin-host"], ["echod.example", "192.0.2.1"]
        )
        self.assertEqual(
            self.refused(*hosts), "--admin-host: names nothing without --admin; add one"
        )

    def test_networks(self):
        """
        Networks are repeatable; C{--proxy-trust} also accepts the word unix.
        """
        options = self.parse(
            "--allow", "192.0.2.0/24", "--allow", "::ffff:198.51.100.0/120",
            "--deny", "2001:db8::/32", "--deny", "192.0.2.9",
            "--proxy-trust", "127.0.0.0/8", "--proxy-trust", "unix", "--proxy-trust", "::1",
            "--proxy-protocol", "require",
        )  # fmt: skip
        for name, expected in (
            ("allow", ["192.0.2.0/24", "198.51.100.0/24"]),
            ("deny", ["2001:db8::/32", "192.0.2.9/32"]),
            ("proxy-trust", ["127.0.0.0/8", "unix", "::1/128"]),
        ):
            self.assertEqual([str(each) for each in options[name]], expected)
        self.assertEqual(self.parse()["allow"], [])

    def test_listen_port_last(self):
        """
        A port with its name can be the last part, as in Twisted's own syntax.
        """
        endpoint = "tcp:interface=127.0.0.1:port=9000"
        self.assertEqual(self.parse("--listen", endpoint)["listen"], [endpoint])

    def test_default_port(self):
        """
        The default port is used if there is no other listener.
        """
        for args in (
            ("--listen", "unix:/x"),
            ("--tls-port", "1", "--tls-cert", "c"),
            ("--tls-listen", "unix:/x", "--tls-cert", "c"),
        ):
            self.assertIsNone(self.parse(*args)["port"])
            self.assertEqual(self.parse(*args, "--port", "7")["port"], 7)
        self.assertEqual(self.parse("--interface", "::1")["port"], 9000)


class RefusedTests(OptionsTestCase):
    """
    Wrong options, each refused with one line that says what to give.
    """

    def test_values(self):
        """
        The line for a wrong value has the option, the value, and what to give.
        """
        network = "give one such as 192.0.2.0/24 or 2001:db8::/32"
        for name, values, way_out in (
            ("port", ("", "65536", "9\n"), "give a number from 0 (any free port) to 65535"),
            ("tls-port", ("", "65536"), "give a number from 0 (any free port) to 65535"),
            ("backlog", ("", "0"), "give a number from 1 to 65535"),
            ("interface", ("", "localhost", "::1\x1b[2J"), "give one such as 127.0.0.1 or ::1"),
            (
                "max-connections",
                ("0", "x", "10000001"),
                "not a number in range; give one from 1 to",
            ),
            ("max-per-client", ("-1", "x"), "give one from 0 to"),
            ("connect-rate", ("x", "10:0"), "give connections a second, such as 10, 0.5, or 10:50"),
            ("proxy-protocol", ("", "on"), "give off or optional or require"),
            ("proxy-trust", ("", "UNIX", "proxy.example"), network),
            ("admin-host", ("", "a:1", "a..b", "\x1b[2J"), "give a name or an address, without"),
            ("allow", ("", "unix", "client.example"), network),
            ("deny", ("", "unix", "192.0.2.0/33"), network),
            ("deny", ("192.0.2.7/24",), "give one such as 192.0.2.0/24"),
            ("proxy-header-timeout", ("never",), "give seconds, or such as 500ms, 30s, 5m"),
            ("handshake-timeout", ("never",), "give seconds, or such as 500ms, 30s, 5m"),
            ("idle-timeout", ("never",), "give seconds, or such as 500ms, 30s, 5m"),
            ("max-lifetime", ("never",), "give seconds, or such as 500ms, 30s, 5m"),
            (
                "write-timeout",
                ("", "169h"),
                "give seconds, or such as 500ms, 30s, 5m, up to a week",
            ),
            ("drain-timeout", ("never",), "give seconds, or such as 500ms, 30s, 5m"),
            ("log-level", ("", "INFO"), "give debug, info, warn or error"),
            ("log-format", ("", "xml"), "give text or json"),
            ("access-log", ("", "yes", "1"), "give on or off"),
            ("workers", ("", "x", "-1", "1025"), "give one from 0 to 1024"),
            ("tls-cert", ("", "a\0b"), "give the name of a file"),
            ("tls-key", ("", "a\0b"), "give the name of a file"),
            ("tls-client-ca", ("", "a\0b"), "give the name of a file"),
            ("tls-keylog", ("", "a\0b"), "give the name of a file"),
            ("tls-client-auth", ("", "yes", "optional"), "give off or request or require"),
            ("tls-min", ("", "1", "1.1", "TLSv1.3"), "give 1.2 or 1.3"),
            (
                "tls-alpn",
                ("", ",", "h2,", "h2,,x", "h 2", "h2\n", "\xe9", "x" * 256),
                "give names such as h2,http/1.1",
            ),
        ):
            for value in values:
                line = self.refused(f"--{name}={value}")
                self.assertTrue(line.startswith(f"--{name} '"), line)
                self.assertIn(way_out, line)

    def test_shown_as_given(self):
        """
        A wrong value is shown as it was typed; only its control characters are escaped.
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
        A text that cannot be an endpoint string, or has a wrong port, is refused.
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
        for option in ("listen", "tls-listen", "admin"):
            line = self.refused(f"--{option}=tcp:0:interface=::1")
            self.assertTrue(line.startswith(f"--{option} 'tcp:0:interface=::1': "), line)
            self.assertIn(r"give 'interface=\:\:1'", line)

    def test_udp(self):
        """
        Without a TCP listener there is UDP only.  C{--interface} is for it, too.
        """
        options = self.parse("--udp-port", "7", "--interface", "::1", "--udp-rate", "0")
        self.assertEqual((options["udp-port"], options["port"]), (7, None))
        self.assertEqual(options["udp-rate"], (0.0, 0))
        sockets = [r"udp:9000:interface=\:\:1", "udp:0", "udp:port=9", "systemd:name=echo"]
        options = self.parse(*(f"--udp-listen={each}" for each in sockets), "--udp-rate=5:9")
        self.assertEqual((options["udp-listen"], options["port"]), (sockets, None))
        self.assertEqual(options["udp-rate"], (5.0, 9))
        self.assertIn("datagrams a second", self.refused("--udp-port=1", "--udp-rate=x"))

    def test_udp_listen(self):
        """
        A text that describes no UDP socket is refused.
        """
        for value, words in (
            ("9000", "give one such as udp:9000 or systemd:name=echo"),
            ("tcp:9000", "give one such as udp:9000 or systemd:name=echo"),
            ("udp:", "give one such as udp:9000 or systemd:name=echo"),
            ("udp:x", "give a number from 0"),
            ("udp:interface=127.0.0.1", "give a number from 0"),
            ("udp:9:interface=localhost", "give one such as 127.0.0.1 or ::1"),
            ("udp:9:127.0.0.1:backlog=3", "with a backslash before each colon"),
            ("udp:9:interface=::1", r"give 'interface=\:\:1'"),
        ):
            line = self.refused(f"--udp-listen={value}")
            self.assertTrue(line.startswith(f"--udp-listen '{value}'"), line)
            self.assertIn(words, line)

    def test_dependencies(self):
        """
        An option that needs another one is refused without it.
        """
        for args, expected in (
            (
                ("--tls-port", "1"),
                "--tls-port: needs a certificate; "
                "add --tls-cert FILE, or --tls-self-signed for a test",
            ),
            (
                ("--tls-listen", "tcp:1"),
                "--tls-listen: needs a certificate; "
                "add --tls-cert FILE, or --tls-self-signed for a test",
            ),
            (
                ("--tls-port", "1", "--tls-self-signed", "--tls-cert", "c"),
                "--tls-self-signed: excludes --tls-cert; give one of them",
            ),
            (
                ("--tls-self-signed",),
                "--tls-self-signed: serves nothing without --tls-port; add one",
            ),
            (("--tls-cert", "c"), "--tls-cert: serves nothing without --tls-port; add one"),
            (
                ("--tls-key", "k"),
                "--tls-key: belongs to the --tls-cert before it; give that first",
            ),
            (
                ("--tls-cert", "c", "--tls-key", "k", "--tls-key", "l"),
                "--tls-key: one for each --tls-cert; give the second after its own",
            ),
            (("--tls-min", "1.3"), "--tls-min: serves nothing without --tls-port; add one"),
            (("--tls-keylog", "k"), "--tls-keylog: serves nothing without --tls-port; add one"),
            (
                ("--tls-port", "1", "--tls-cert", "c", "--tls-client-auth", "require"),
                "--tls-client-auth require: needs the authority of the clients' certificates; "
                "add --tls-client-ca FILE",
            ),
            (
                ("--tls-port", "1", "--tls-cert", "c", "--tls-client-ca", "a"),
                "--tls-client-ca: is for --tls-client-auth, which is off; "
                "add --tls-client-auth require, or request",
            ),
            (
                ("--interface", "::1", "--listen", "tcp:1"),
                "--interface: is for --port, --tls-port and --udp-port; "
                "in --listen give tcp:PORT:interface=ADDRESS",
            ),
            (
                ("--udp-rate", "5"),
                "--udp-rate: limits nothing without --udp-port; add one",
            ),
            (
                ("--workers", "3", "--max-connections", "2"),
                "--workers: more than --max-connections; give fewer",
            ),
            (
                ("--proxy-protocol", "optional"),
                "--proxy-protocol: no proxy is trusted; add --proxy-trust with the proxy's address",
            ),
            (
                ("--proxy-trust", "unix"),
                "--proxy-trust: reads no header; add --proxy-protocol require or optional",
            ),
            # Also with their defaults, and abbreviated.
            (
                ("--handshake-timeout", "10"),
                "--handshake-timeout: limits nothing without --tls-port; add one",
            ),
            (
                ("--proxy-header=5s",),
                "--proxy-header-timeout: reads no header; add --proxy-protocol require or optional",
            ),
        ):
            self.assertEqual(self.refused(*args), expected)

    def test_unknown(self):
        """
        An unknown option, a missing value or an argument is refused with a hint at C{--help}.
        """
        for args, words in (
            (("--nosuch",), "option --nosuch not recognized; see --help"),
            (("--port",), "option --port requires argument; see --help"),
            (("9000",), "unexpected argument '9000'; see --help"),
        ):
            self.assertEqual(self.refused(*args), words)

    def test_given_twice(self):
        """
        An option that is not repeatable is given once.
        """
        line = self.refused("--port", "9000", "-p", "9001")
        self.assertEqual(line, "--port: given twice; give it once")
        self.parse("--allow", "192.0.2.1", "--allow", "192.0.2.2")

    def test_options_of_twistd(self):
        """
        An option of twistd stands before the word echod.
        """
        for option in ("--logfile", "--nodaemon", "-n", "-u"):
            self.assertEqual(
                self.refused(option, "x", parent=ServerOptions()),
                f"option {option} not recognized; it is an option of twistd: "
                f"twistd {option} ... echod ...",
            )
        line = self.refused("--nosuch", parent=ServerOptions())
        self.assertEqual(line, "option --nosuch not recognized; see --help")

    def test_unknown_and_unprintable(self):
        """
        An unknown option is named with its control characters escaped.
        """
        for arg, shown in (("\x1b[2J", r"\x1b[2J"), ("--no\x1b[2J\nsuch", r"--no\x1b[2J\nsuch")):
            line = self.refused(arg)
            self.assertIn(shown, line)
            self.assertNotIn("\\\\", line)


class ParentTests(OptionsTestCase):
    """
    Options under twistd, under twist, and without a parent.
    """

    def test_twistd(self):
        """
        Under twistd, the options for the log are accepted.
        """
        twistd = ServerOptions()
        options = self.parse("--log-level", "warn", "--log-format", "json", parent=twistd)
        self.assertIs(options.twistd, twistd)
        self.assertEqual(options["log-format"], "json")

    def test_twist(self):
        """
        Under twist, which has its own log, the options for the log are refused.
        """
        twist = UsageOptions()
        self.assertIsNone(self.parse("--access-log", "off", parent=twist).twistd)
        for args in (("--log-level", "info"), ("--log-format", "text")):
            line = self.refused(*args, parent=twist)
            self.assertEqual(
                line, f"{args[0]}: twist has its own, and logs for us; give it before echod"
            )

    def test_workers(self):
        """
        C{--workers} needs twistd and Linux.
        """
        line = self.refused("--workers", "2", parent=UsageOptions())
        self.assertEqual(line, "--workers: twist runs one process; give it to twistd -n echod")
        self.parse("--workers", "1", parent=UsageOptions())
        self.addCleanup(setattr, os, "memfd_create", os.memfd_create)
        del os.memfd_create
        line = self.refused("--workers", "0")
        self.assertEqual(line, "--workers: needs Linux; start several daemons instead")

    def test_alone(self):
        """
        Without a parent, C{twistd} is C{None}.
        """
        self.assertIsNone(self.parse("--log-level", "info").twistd)


class InformationTests(OptionsTestCase):
    """
    C{--version} and C{--help}.
    """

    def test_version(self):
        """
        C{--version} prints the version of echod, not of Twisted, and exits with 0.
        """
        out = io.StringIO()
        self.patch(sys, "stdout", out)
        error = self.assertRaises(SystemExit, self.parse, "--version")
        self.assertEqual((error.code, out.getvalue()), (0, f"echod {echod.__version__}\n"))

    def test_output_error(self):
        """
        A version or a help that cannot be written is one line, not a traceback.
        """
        needs.file("/dev/full")
        for option in ("--version", "--help"):
            errors = io.StringIO()
            self.patch(sys, "stderr", errors)
            with open("/dev/full", "w") as full:
                self.patch(sys, "stdout", full)
                error = self.assertRaises(SystemExit, self.parse, option)
            self.assertEqual(error.code, 1)
            line = "echod: standard output: No space left on device\n"
            self.assertEqual(errors.getvalue(), line)

    def test_help(self):
        """
        C{--help} has each option once, in a group, with the name of its value and its default, in
        lines of at most 80 columns.
        """
        options = Options()
        grouped = [(name, value) for names in GROUPS.values() for name, value in names.items()]
        self.assertEqual(
            sorted(f"{name}=" if value else name for name, value in grouped),
            sorted(options.longOpt),
        )
        text = str(options)
        self.assertLessEqual(max(map(len, text.splitlines())), 80)
        text = " ".join(text.split())
        for name, value in grouped:
            self.assertRegex(text, rf"--{name}{re.escape(value and ' ' + value)} [A-Z]", name)
        for default in ("1024", "9000, if there is no other listener", "30s", "10000", "0"):
            self.assertIn(f"[default: {default}]", text)
        self.assertNotRegex(text, r"\[default: \d+\.0\]")

    def test_choices(self):
        """
        The names of values that are choices are the values that are accepted.
        """
        coerce = {parameter[0]: parameter[4] for parameter in PARAMETERS}
        checked = 0
        for names in GROUPS.values():
            for name, value in names.items():
                for choice in value.split("|") if "|" in value else ():
                    coerce[name](choice)
                    checked += 1
                if "|" in value:
                    self.assertRaises(UsageError, coerce[name], "other")
        self.assertEqual(checked, 16)

    def test_examples(self):
        """
        The example at the end of the help works.
        """
        for command, _ in Options.examples:
            self.parse(*command.partition("echod ")[2].split())

    def test_examples_of_endpoints(self):
        """
        The endpoints in texts and errors can be given, and those for C{--admin} are not reachable
        from other machines.
        """
        options = Options()
        for name, text in options.docs.items():
            for found in re.findall(r"\b(?:tcp|unix|systemd):[^ ,;]*[^ ,;.]", text):
                args = () if name in ("listen", "tls-listen") else ("--port", "0")
                tls = ("--tls-cert", "/c") if name == "tls-listen" else ()
                self.parse(*args, *tls, f"--{name}", found)
                if name == "admin":
                    self.assertRegex(found, "interface=127|unix:")
        for given, port in (
            ("9001", "9001"),
            ("80", "80"),
            ("localhost", "9001"),
            ("tcp:", "9001"),
        ):
            line = self.refused("--admin", given)
            example = f"tcp:{port}:interface=127.0.0.1"
            self.assertTrue(line.endswith(f"; give one such as {example}"), line)
            self.parse("--admin", example)
        for given, port in (("9001", "9001"), ("localhost", "9000"), ("99999", "9000")):
            line = self.refused("--listen", given)
            self.assertIn(f"give one such as tcp:{port} or unix:/run/echod.sock", line)

    def test_every_option_is_read(self):
        """
        Each option is read by the daemon.
        """
        reads = set()
        for path in Path(echod.__file__).parent.rglob("*.py"):
            # echod-check has options of its own.
            if path.parent.name in ("options", "check"):
                continue
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
                    whose = getattr(node.value, "id", getattr(node.value, "attr", ""))
                    if whose in ("options", "_options"):
                        reads.add(node.slice.value)
        self.assertEqual(reads, set(self.parse()))


class ListenerTests(OptionsTestCase):
    """
    Options that belong to the listener before them.
    """

    def test_order(self):
        """
        Each C{--fault} and C{--greet} belongs to the listener option before it.
        """
        options = self.parse(
            *("-p0", "--fault", "refuse", "--greet", "--drain-timeout", "1s", "--fault=timeout"),
            *("--tls-port", "1", "--fault", "latency=1s", "--listen", "tcp:2", "--listen", "tcp:3"),
            *("--fault", "limit=1", "--tls-listen", "tcp:4", "--gree", "--tls-cert", "x"),
        )
        self.assertEqual(
            options["fault"],
            [
                (("port", 0), "refuse"),
                (("port", 0), "timeout"),
                (("tls-port", 0), "latency=1s"),
                (("listen", 1), "limit=1"),
            ],
        )
        self.assertEqual(options["greet"], [("port", 0), ("tls-listen", 0)])

    def test_default_port(self):
        """
        Without any listener, they belong to the default port.
        """
        options = self.parse("--fault", "refuse", "--fault-seed", "7")
        self.assertEqual(options["fault"], [(("port", 0), "refuse")])
        self.assertEqual((options["port"], options["fault-seed"]), (9000, 7))
        options = self.parse("--port", "1", "--greet", "--greet")
        self.assertEqual((options["port"], options["greet"]), (1, [("port", 0)] * 2))

    def test_too_early(self):
        """
        Before the first listener they are refused, and so is a seed without a fault.
        """
        for name, value in (("fault", ("refuse",)), ("greet", ())):
            self.assertEqual(
                self.refused(f"--{name}", *value, "--port", "1"),
                f"--{name}: belongs to the listener option before it; give it after --port, "
                "--tls-port, --listen or --tls-listen",
            )
        self.assertEqual(
            self.refused("--fault-seed", "1"),
            "--fault-seed: draws nothing without --fault; add one",
        )
        self.assertEqual(
            self.refused("--fault", "refuse", "--fault-seed", "0x1"),
            "--fault-seed '0x1': not a seed; give a number such as 42",
        )
