"""
The container image, made and run by a real engine, as with podman.
"""

import re

from twisted.trial.unittest import SynchronousTestCase

from tests.support.buildah import Buildah
from tests.support.container import DOCKERFILE, ROOT
from tests.support.daemons import show

SERVE = """
"$@" & daemon=$!
for second in $(seq 60); do
    if HEALTH; then healthy=yes; break; fi
    sleep 1
done
echo "healthy: ${healthy:-no}"
grep CapEff "/proc/$daemon/status"
kill -TERM "$daemon"
wait "$daemon"
echo "status: $?"
"""
"""Runs a command until its health check passes, and stops it."""


class EngineTests(SynchronousTestCase):
    """
    The image of buildah.
    """

    def test_built_and_run(self) -> None:
        """
        The Dockerfile builds without a network but for the packages; the image keeps its health
        check with C{--format docker}; a container of it gets healthy, and stops when it is asked.
        """
        buildah = Buildah()
        self.addCleanup(buildah.close)
        image = buildah.build("--format", "docker")
        config = buildah.inspect(image)["config"]
        kind, *health = config["Healthcheck"]["Test"]
        self.assertEqual((kind, health[0]), ("CMD", "echod-check"))
        self.assertEqual((config["User"], config["StopSignal"]), ("65532:65532", "SIGTERM"))
        command = [*config["Entrypoint"], *config["Cmd"]]
        script = SERVE.replace("HEALTH", " ".join(health))
        done = buildah.execute(image, "/bin/sh", "-c", script, "sh", *command)
        said = done.stdout + done.stderr
        self.assertIn("healthy: yes\n", said)
        self.assertRegex(said, r"CapEff:\s+0{16}\n")
        # 128 and SIGTERM: only as process 1 it ends with 0.
        self.assertIn("status: 143\n", said)
        self.assertIn("echod stopped: ", said)
        wrong = buildah.execute(image, *config["Entrypoint"], "--port", "x")
        self.assertNotEqual(wrong.returncode, 0)
        self.assertRegex(wrong.stderr.splitlines()[0], "^echod: --port 'x': not a port")
        show(f"buildah has built {image}, and it ran")

    def test_commands(self) -> None:
        """
        The Dockerfile and the operators' page name the format for podman: without it, the image
        has no health check.
        """
        for path in (DOCKERFILE, ROOT / "deploy" / "README.md"):
            found = re.findall(r"podman build (.*)", path.read_text())
            self.assertTrue(found, path)
            for options in found:
                self.assertIn("--format docker", options)
