"""
The container image and the Kubernetes manifests: what they say is consistent, and their
commands do what they are there for.

The rule of this room: a command is run as it stands in the file, but for the port, which
may be taken on the machine of the tests.
"""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from twisted.trial.unittest import SynchronousTestCase

from echod.check_options import CheckOptions
from echod.options import Options
from echod.outcome import Outcome
from tests.integration.support import PATIENCE_SECONDS, Daemon, Process, wait_until

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
PORT = "9000"


class Commanded(Process):
    """
    A command of a file, with the programs of this environment.
    """

    def __init__(self, command: list[str]):
        super().__init__(str(Path(sys.executable).with_name(command[0])), *command[1:])

    def start(self) -> None:
        super().start()
        wait_until(lambda: "listening on" in self.log, "the daemon")

    @property
    def port(self) -> str:
        return re.findall(r"listening on \S+:(\d+),", self.log)[0]


def run(command: list[str], port: str | int) -> int:
    """
    Run a check.

    @return: its exit status.
    """
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [part.replace(PORT, str(port)) for part in command],
        env={**os.environ, "PATH": path},
        capture_output=True,
        timeout=PATIENCE_SECONDS,
    )
    if done.stdout or done.stderr:
        raise AssertionError(done)
    return done.returncode


class ImageTests(SynchronousTestCase):
    """
    Tests for C{deploy/Dockerfile}.
    """

    def setUp(self) -> None:
        self.text = (DEPLOY / "Dockerfile").read_text()

    def command(self, instruction: str) -> list[str]:
        """
        The command of an instruction, in the form that needs no shell.
        """
        [found] = re.findall(rf"^{instruction}.*?(\[.*\])$", self.text, re.MULTILINE)
        command: list[str] = json.loads(found)
        return command

    def test_health(self) -> None:
        """
        The daemon of the image starts, is healthy, and is not when it hangs or is gone.
        """
        command = [*self.command("ENTRYPOINT"), *self.command("CMD")]
        health = self.command("HEALTHCHECK")
        with Commanded([part.replace(PORT, "0") for part in command]) as daemon:
            port = daemon.port
            self.assertEqual(run(health, port), 0)
            daemon.signal(signal.SIGSTOP)
            self.assertEqual(run(health, port), Outcome.TIMED_OUT.status)
            daemon.signal(signal.SIGCONT)
        self.assertEqual(run(health, port), Outcome.REFUSED.status)

    def test_health_in_time(self) -> None:
        """
        The check gives up before Docker does.
        """
        options = CheckOptions()
        options.parseOptions(self.command("HEALTHCHECK")[1:])
        [limit] = re.findall(r"^HEALTHCHECK .*--timeout=(\d+)s", self.text, re.MULTILINE)
        self.assertGreater(int(limit), options["timeout"] + 1)

    def test_unprivileged(self) -> None:
        """
        It runs as nobody in particular, and leaves no pidfile to trip over.
        """
        [user] = re.findall(r"^USER (\d+):\d+$", self.text, re.MULTILINE)
        self.assertGreater(int(user), 0)
        self.assertIn("--pidfile=", self.command("ENTRYPOINT"))

    def test_plugins(self) -> None:
        """
        What fills the plugin cache runs, and leaves it.
        """
        program, *arguments = self.command("RUN")
        self.assertTrue(program.endswith("/bin/python"))
        code = f"{arguments[1]}; import twisted.plugins, os; print(*twisted.plugins.__path__)"
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE_SECONDS
        )
        self.assertEqual(done.returncode, 0, done.stderr)
        caches = [Path(folder, "dropin.cache") for folder in done.stdout.split()]
        self.assertTrue(any(cache.exists() for cache in caches), caches)


class KubernetesTests(SynchronousTestCase):
    """
    Tests for C{deploy/kubernetes.yaml}.
    """

    def setUp(self) -> None:
        documents = list(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text()))
        kinds = {document["kind"]: document for document in documents}
        self.assertEqual(set(kinds), {"Deployment", "Service"})
        self.deployment, self.service = kinds["Deployment"]["spec"], kinds["Service"]["spec"]
        self.pod = self.deployment["template"]["spec"]
        [self.container] = self.pod["containers"]

    def probes(self) -> dict[str, Any]:
        return {name: probe for name, probe in self.container.items() if name.endswith("Probe")}

    def test_probes(self) -> None:
        """
        Each probe succeeds with a daemon that is well, and fails without one.
        """
        self.assertEqual(set(self.probes()), {"startupProbe", "readinessProbe", "livenessProbe"})
        commands = [probe["exec"]["command"] for probe in self.probes().values()]
        arguments = ["0" if argument == PORT else argument for argument in self.container["args"]]
        with Daemon(*arguments) as daemon:
            port = daemon.port()
            self.assertEqual([run(command, port) for command in commands], [0, 0, 0])
        self.assertNotIn(0, [run(command, port) for command in commands])

    def test_in_time(self) -> None:
        """
        A probe gives up before Kubernetes does.
        """
        for probe in self.probes().values():
            options = CheckOptions()
            options.parseOptions(probe["exec"]["command"][1:])
            self.assertGreater(probe["timeoutSeconds"], options["timeout"] + 1)

    def test_stop_outlasts_drain(self) -> None:
        """
        Kubernetes waits for longer than the pause and the drain take before it kills.
        """
        pause, seconds = self.container["lifecycle"]["preStop"]["exec"]["command"]
        self.assertEqual(pause, "sleep")
        drain = Options()["drain-timeout"]
        self.assertGreaterEqual(self.pod["terminationGracePeriodSeconds"], int(seconds) + drain + 5)

    def test_restricted(self) -> None:
        """
        It keeps to the Pod Security Standard "restricted".
        """
        pod, container = self.pod["securityContext"], self.container["securityContext"]
        self.assertTrue(pod["runAsNonRoot"])
        self.assertGreater(pod["runAsUser"], 0)
        self.assertEqual(pod["seccompProfile"], {"type": "RuntimeDefault"})
        self.assertIs(container["allowPrivilegeEscalation"], False)
        self.assertEqual(container["capabilities"], {"drop": ["ALL"]})

    def test_service(self) -> None:
        """
        The service finds the pods, and their port.
        """
        labels = self.deployment["template"]["metadata"]["labels"]
        self.assertEqual(self.service["selector"], labels)
        self.assertEqual(self.deployment["selector"]["matchLabels"], labels)
        [port], [to] = self.container["ports"], self.service["ports"]
        self.assertEqual(to["targetPort"], port["name"])
        self.assertEqual(str(port["containerPort"]), PORT)
        self.assertIn(PORT, self.container["args"])
