"""
The container image: its Dockerfile is carried out, and what it makes runs as it would in
Docker, read-only, without a capability, as process number 1.

Invariant: a command is run as it stands in the file.
"""

import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from echod.check.options import CheckOptions
from echod.check.results import Outcome
from echod.options import Options
from tests.support.container import DOCKERFILE, Container, image, instructions
from tests.support.daemons import show, wait_until

MIB = 1 << 20

PAGE = DOCKERFILE.with_name("README.md")
"""The operators' page."""

CAPABILITY_SETS = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")

READ_PLUGINS = """
import sys
from twisted.plugin import IPlugin, getPlugins
from twisted.python import log
log.startLogging(sys.stdout)
print([name for each in getPlugins(IPlugin) if (name := getattr(each, "name", "")) == "echod"])
"""


class DockerfileTests(SynchronousTestCase):
    """
    What C{deploy/Dockerfile} says.
    """

    def setUp(self) -> None:
        self.text = DOCKERFILE.read_text()

    def test_lint(self) -> None:
        """
        hadolint has nothing to say about it.
        """
        hadolint = Path(sys.executable).with_name("hadolint")
        done = subprocess.run([hadolint, DOCKERFILE], capture_output=True, text=True, timeout=60)
        self.assertEqual((done.returncode, done.stdout, done.stderr), (0, "", ""))

    def test_health_in_time(self) -> None:
        """
        The check gives up before Docker does.
        """
        [(limit, command)] = re.findall(
            r'^HEALTHCHECK .*--timeout=(\d+)s.* CMD \["echod-check", (.*)\]$',
            self.text,
            re.MULTILINE,
        )
        options = CheckOptions()
        options.parseOptions([each.strip(' "') for each in command.split(",")])
        self.assertGreater(int(limit), options["timeout"] + 1)

    def test_stop_in_time(self) -> None:
        """
        The signal that asks it to stop is one that makes it drain, and the drain ends
        before C{docker stop} loses its patience, after 10 s.
        """
        self.assertIn(("STOPSIGNAL", "SIGTERM"), instructions(self.text))
        self.assertLess(Options()["drain-timeout"] + 1, 10)

    def test_start(self) -> None:
        """
        The port that is told to Docker is the one that is listened on, and no shell or
        pidfile stands between the daemon and a signal.
        """
        found = dict(instructions(self.text))
        self.assertEqual(found["CMD"], f'["--port", "{found["EXPOSE"]}"]')
        self.assertEqual(found["ENTRYPOINT"], '["twistd", "--nodaemon", "--pidfile=", "echod"]')


class ImageTests(SynchronousTestCase):
    """
    What it makes.
    """

    def test_contents(self) -> None:
        """
        The image has echod in its own environment, and neither pip nor the sources.
        """
        layer = image().layer
        [environment] = (layer / "opt").iterdir()
        self.assertEqual(environment.name, "echod")
        self.assertFalse((layer / "src").exists())
        [packages] = environment.glob("lib/python3*/site-packages")
        found = {path.name.partition("-")[0] for path in packages.glob("*.dist-info")}
        self.assertLessEqual({"echod", "prometheus_client"}, found)
        self.assertEqual(found & {"pip", "setuptools", "hatchling", "trial"}, set())
        size = sum(path.lstat().st_size for path in layer.rglob("*") if path.is_file())
        show(f"the image adds {size / MIB:.0f} MiB to python:slim")
        self.assertLess(size, 100 * MIB)
        self.assertEqual(image().labels["org.opencontainers.image.title"], "echod")

    def test_runs(self) -> None:
        """
        As any unprivileged user, with no capability and no writable directory, it serves; its
        health check finds it well, not when it hangs, and well again.  When it is told to
        stop, it drains, and ends with status 0.
        """
        built = image()
        health = built.commands["HEALTHCHECK"]
        with Container(built) as container:
            self.assertEqual(container.state("NSpid").split()[-1], "1")
            self.assertEqual(container.state("Uid").split(), ["65532"] * 4)
            self.assertEqual(container.state("Gid").split(), ["65532"] * 4)
            self.assertEqual(container.state("Groups"), "")
            self.assertEqual(container.state("NoNewPrivs"), "1")
            for each in CAPABILITY_SETS:
                self.assertEqual((each, int(container.state(each), 16)), (each, 0))
            written = container.execute("python", "-c", "open('/tmp/x', 'w')")
            self.assertIn("Read-only file system", written.stderr)
            container.wait_for_success(*health)
            container.signal(signal.SIGSTOP)
            self.assertEqual(container.execute(*health).returncode, Outcome.TIMED_OUT.status)
            container.signal(signal.SIGCONT)
            container.wait_for_success(*health)
            container.terminate()
            container.wait("the stop")
            self.assertEqual(container.status, 0)
            self.assertRegex(container.log, r"echod stopped: \d+ connections")
            self.assertEqual(container.stderr, "")

    def test_other_options(self) -> None:
        """
        Options behind the image's name take the place of the usual ones, and a wrong one
        ends the container with one line.  The health check of the image then fails; that of the
        operators' page does not.
        """
        [line] = re.findall("^docker run .*--health-cmd.*$", PAGE.read_text(), re.MULTILINE)
        words = shlex.split(line)
        health = words[words.index("--health-cmd") + 1]
        options = words[words.index("echod") + 1 :]
        with Container(image(), *options, "--drain-timeout", "0") as container:
            self.assertIn("listening on [::]:7000", container.log)
            # The engine passes it to a shell.
            done = container.execute("/bin/sh", "-c", health)
            self.assertEqual((done.returncode, done.stdout, done.stderr), (0, "", ""))
            usual = container.execute(*image().commands["HEALTHCHECK"])
            self.assertEqual(usual.returncode, Outcome.REFUSED.status)
            wrong = container.execute("twistd", "-n", "--pidfile=", "echod", "--port", "x")
            self.assertEqual(wrong.returncode, 78)
            self.assertEqual(len((wrong.stdout + wrong.stderr).splitlines()), 1, wrong)

    def test_plugins(self) -> None:
        """
        What is known of the plugins is in the image, and is not out of date: no process tries
        to write it again.
        """
        with Container(image()) as container:
            done = container.execute("python", "-c", READ_PLUGINS)
        self.assertIn("['echod']", done.stdout)
        self.assertNotIn("Unable to write", done.stdout)
        [cache] = image().layer.glob(
            "opt/echod/lib/python3*/site-packages/twisted/plugins/dropin.cache"
        )
        [plugin] = cache.parent.glob("echod_plugin.py")
        self.assertGreaterEqual(cache.stat().st_mtime, plugin.stat().st_mtime)

    def test_signals_of_process_one(self) -> None:
        """
        As process number 1, which the kernel keeps every signal from that it has no handler
        for, it takes those that it takes elsewhere: a second TERM ends a drain that waits.
        """
        with Container(image(), "--port", "9000", "--drain-timeout", "1h") as container:
            with container.busy(9000):
                container.terminate()
                wait_until(lambda: "Received SIGTERM" in container.log, "the drain")
                self.assertTrue(container.running())
                container.terminate()
                container.wait("the end of the drain")
            self.assertIn("1 aborted", container.log)
