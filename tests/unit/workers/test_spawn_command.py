"""
Tests for the command line of a worker.
"""

import os
import sys

from twisted.python.usage import UsageError
from twisted.scripts.twistd import ServerOptions
from twisted.trial.unittest import SynchronousTestCase

from echod.options import Options
from echod.options.parameters import PARAMETERS
from echod.workers.spawn import (
    PATH_OPTIONS,
    WORKER_PROGRAM,
    absolute_argv,
    twistd_options,
    worker_command,
    worker_environment,
)


def logger():
    """
    A log observer of the operator's own.
    """


class ArgvTests(SynchronousTestCase):
    """
    Tests for L{absolute_argv}.
    """

    def rewrite(self, *given):
        options = Options()
        options.parseOptions(given)
        return absolute_argv(options.given, options.shortOpt, options.longOpt)

    def test_names(self):
        """
        Abbreviated names become full names, and values stay.
        """
        self.assertEqual(
            self.rewrite("-p7", "-i", "::1", "--idle", "5m", "--listen=unix:a b", "--deny", "::/0"),
            ["-p7", "-i::1", "--idle-timeout=5m", "--listen=unix:a b", "--deny=::/0"],
        )
        self.assertEqual(self.rewrite(), [])
        self.assertEqual(self.rewrite("--check"), ["--check"])

    def test_the_same(self):
        """
        The new options are parsed to the same values.
        """
        given = ("--port", "7", "--tls-port=8", "--tls-cert", "a", "--tls-key", "b", "--allow=::/0")
        given += ("--max-connections", "9", "--workers", "0", "--log-format", "json")
        one, other = Options(), Options()
        one.parseOptions(given)
        other.parseOptions(self.rewrite(*given))
        self.assertEqual(one, other)

    def test_paths(self):
        """
        A path is absolute: twistd may change its directory.
        """
        here = os.getcwd()
        self.assertEqual(
            self.rewrite("--tls-port", "0", "--tls-cert", "a/b", "--tls-key=/c"),
            ["--tls-port=0", f"--tls-cert={here}/a/b", "--tls-key=/c"],
        )

    def test_every_path(self):
        """
        Every option with a path is known.
        """
        options = Options()
        taken = {f"--{name}" for name, _, _, _, coerce in PARAMETERS if self.is_path(coerce)}
        for name in ("tls-cert", "tls-key"):
            getattr(options, f"opt_{name.replace('-', '_')}")("x")
            taken.add(f"--{name}")
        self.assertEqual(options["tls-cert"], [(os.path.abspath("x"), os.path.abspath("x"))])
        self.assertEqual(taken, PATH_OPTIONS)

    def is_path(self, coerce):
        try:
            return coerce("x") == os.path.abspath("x")
        except UsageError:
            return False


class CommandTests(SynchronousTestCase):
    """
    Tests for L{worker_command} and the environment.
    """

    def twistd(self, *args):
        options = ServerOptions()
        options["reactor"] = None
        for name, value in args:
            options[name] = value
        return options

    def test_plain(self):
        """
        A worker runs in the foreground, without a pidfile, and logs to standard output,
        whatever the master's options are.
        """
        for args in ((), (("logfile", "x"), ("uid", 7), ("pidfile", "y"), ("nodaemon", 0))):
            self.assertEqual(
                worker_command(self.twistd(*args), ["--port=7"]),
                [
                    sys.executable,
                    "-P",
                    "-c",
                    WORKER_PROGRAM,
                    "--nodaemon",
                    "--pidfile=",
                    "echod",
                    "--port=7",
                ],
            )

    def test_handed_on(self):
        """
        A worker gets the master's reactor, syslog and logger.
        """
        self.assertEqual(
            twistd_options(
                self.twistd(
                    ("reactor", "poll"), ("syslog", True), ("prefix", "x y"), ("logger", logger)
                )
            )[2:],
            [
                "--syslog",
                "--prefix=x y",
                "--logger=tests.unit.workers.test_spawn_command.logger",
                "--reactor=poll",
            ],
        )

    def test_parsed(self):
        """
        twistd accepts the options.
        """
        options = ServerOptions()
        options.parseOptions([*twistd_options(self.twistd(("logger", logger))), "ftp"])
        self.assertTrue(options["nodaemon"])
        self.assertEqual((options["pidfile"], options["logger"]), ("", logger))

    def test_environment(self):
        """
        A worker gets the import path of the master, and none of systemd's variables.
        """
        environ = {"HOME": "/h", "LISTEN_FDS": "2", "LISTEN_PID": "7", "LISTEN_FDNAMES": "a:b"}
        environ |= {"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "1", "WATCHDOG_PID": "7"}
        here = os.getcwd()
        self.assertEqual(
            worker_environment(environ | {"PYTHONPATH": "x"}, ["", "lib", "/usr/lib"]),
            {"HOME": "/h", "PYTHONPATH": f"{here}/lib:/usr/lib"},
        )
