"""
Tests for the options in force.
"""

from twisted.trial.unittest import SynchronousTestCase

from echod._util.endpoints import HIDDEN
from echod.options import Options
from echod.stats.snapshot import OptionInfo
from echod.tap.in_force import options_in_force


class InForceTests(SynchronousTestCase):
    """
    Tests for L{options_in_force}.
    """

    def shown(self, *arguments):
        """
        @return: the options that are given, and the values of the others by name.
        """
        options = Options()
        options.parseOptions(arguments)
        shown = options_in_force(options)
        given = [(each.option, each.value) for each in shown if each.given]
        return given, {each.option: each.value for each in shown if not each.given}

    def test_given(self):
        """
        The options of the command line are shown by their long names, in their order and as they
        stand there.
        """
        given, others = self.shown("-p", "7", "--idle", "5m", "--allow=::/0", "--allow", "::1")
        self.assertEqual(
            given,
            [("--port", "7"), ("--idle-timeout", "5m"), ("--allow", "::/0"), ("--allow", "::1")],
        )
        self.assertEqual(set(others) & {"--port", "--idle-timeout", "--allow"}, set())

    def test_defaults(self):
        """
        All other options are shown with their defaults.
        """
        given, others = self.shown()
        self.assertEqual(given, [])
        expected = {
            "--port": "9000",
            "--interface": "all",
            "--listen": "none",
            "--backlog": "1024",
            "--connect-rate": "0",
            "--drain-timeout": "5s",
            "--idle-timeout": "0",
            "--log-level": "info",
            "--tls-min": "1.2",
            "--tls-cert": "none",
            "--tls-key": "none",
        }
        self.assertEqual({name: others[name] for name in expected}, expected)
        self.assertNotIn("--check", others)

    def test_secrets(self):
        """
        Keys and secrets are not shown, nor where they are.
        """
        given, _ = self.shown(
            *("--tls-port", "1", "--tls-cert", "/c.pem", "--tls-key", "/secret.pem"),
            *("--tls-keylog", "/secret.log"),
            *("--listen", r"x:1:privateKey=/se\:cret.pem:password=secret:interface=lo"),
        )
        self.assertEqual(
            given[1:],
            [
                ("--tls-cert", "/c.pem"),
                ("--tls-key", HIDDEN),
                ("--tls-keylog", HIDDEN),
                ("--listen", f"x:1:privateKey={HIDDEN}:password={HIDDEN}:interface=lo"),
            ],
        )
        self.assertNotIn("secret", str(given))

    def test_escaped(self):
        """
        Text that could move the cursor is escaped.
        """
        options = Options()
        options.given = ["--listen", "unix:/a\x1b"]
        shown = options_in_force(options)
        self.assertEqual(shown[0], OptionInfo("--listen", "unix:/a\\x1b", True))

    def test_level(self):
        """
        A constant is shown by its name.
        """
        options = Options()
        options.parseOptions(["--log-level", "debug"])
        options.given = []
        [level] = [each for each in options_in_force(options) if each.option == "--log-level"]
        self.assertEqual(level.value, "debug")

    def test_flag(self):
        """
        A flag that is given is on.
        """
        given, _ = self.shown("--check")
        self.assertEqual(given, [("--check", "on")])
