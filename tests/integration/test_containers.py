"""
The Kubernetes manifests: what they say is consistent, and their commands do what they are
there for.

The rule of this room: a command is run as it stands in the file, but for the port, which
may be taken on the machine of the tests.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from twisted.trial.unittest import SynchronousTestCase

from echod.check_options import CheckOptions
from echod.options import Options
from tests.integration.support import PATIENCE_SECONDS, Daemon

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
PORT = "9000"


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
