"""
The manifests for Kubernetes: they are valid, what each says of the others is true, and the
pod that they describe is started and stopped as a kubelet does it.

Invariant: what is asked is asked of what a kustomization builds.
"""

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from echod.check.options import CheckOptions
from echod.options import Options
from tests.support import needs
from tests.support.certificates import MadeCertificate, make_certificate
from tests.support.container import DOCKERFILE, Container, image, instructions
from tests.support.daemons import wait_until
from tests.support.kustomize import Resource, build
from tests.support.wrong_servers import PATIENT

FOLDER = DOCKERFILE.parent / "kubernetes"
COMPONENTS = ("tls", "proxy-protocol", "podmonitor")
OLDEST = "1.27"
"""The oldest Kubernetes that the manifests are for."""

CUSTOM = {"Certificate", "PodMonitor"}
"""Kinds that cert-manager and the Prometheus operator bring along."""

POD_ADDRESS = "10.1.2.3"

ASK = """
import sys, urllib.request, urllib.error
try:
    print(urllib.request.urlopen(sys.argv[1], timeout=60).status)
except urllib.error.HTTPError as error:
    print(error.code)
"""


class Manifests(SynchronousTestCase):
    """
    What a kustomization builds, by kind.
    """

    def overlay(self, *components: str, **more: Any) -> Path:
        """
        A kustomization as an operator writes it.

        @return: its folder.
        """
        folder = Path(self.mktemp()).resolve()
        folder.mkdir()
        paths = [os.path.relpath(FOLDER / component, folder) for component in components]
        settings = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "resources": [os.path.relpath(FOLDER, folder)],
            "components": paths,
            **more,
        }
        (folder / "kustomization.yaml").write_text(yaml.safe_dump(settings))
        return folder

    def kinds(self, folder: Path = FOLDER) -> dict[str, Resource]:
        """
        The resources, of each kind one.
        """
        resources = build(folder)
        kinds = {resource["kind"]: resource for resource in resources}
        self.assertEqual(len(kinds), len(resources))
        return kinds

    def pod(self, folder: Path = FOLDER) -> dict[str, Any]:
        """
        The pod that the deployment describes.
        """
        spec: dict[str, Any] = self.kinds(folder)["Deployment"]["spec"]["template"]["spec"]
        return spec

    def container(self, folder: Path = FOLDER) -> dict[str, Any]:
        [container] = self.pod(folder)["containers"]
        assert isinstance(container, dict)
        return container

    def options(self, folder: Path = FOLDER) -> Options:
        options = Options()
        options.parseOptions(self.container(folder)["args"])
        return options


class ManifestTests(Manifests):
    """
    Whether they are valid, and agree with each other.
    """

    def test_every_file(self) -> None:
        """
        There is no file that no kustomization lists.
        """
        for folder in (FOLDER, *(FOLDER / name for name in COMPONENTS)):
            listed = yaml.safe_load((folder / "kustomization.yaml").read_text()).get(
                "resources", []
            )
            there = {path.name for path in folder.glob("*.yaml")}
            self.assertEqual({*listed, "kustomization.yaml"}, there)
        there = {path.name for path in FOLDER.iterdir() if path.is_dir()}
        self.assertEqual(there, set(COMPONENTS))

    def test_valid(self) -> None:
        """
        With and without the components, each resource is what the schemas of Kubernetes
        ask for, in the oldest version that is meant and in the latest.
        """
        latest = kubernetes_validate.latest_version()
        for components in ((), COMPONENTS):
            for resource in build(self.overlay(*components)):
                if resource["kind"] not in CUSTOM:
                    for version in (OLDEST, latest):
                        kubernetes_validate.validate(resource, version, strict=True)

    def test_as_kustomize(self) -> None:
        """
        C{kubectl kustomize} builds the same.
        """
        kubectl = needs.program("kubectl")
        for components in ((), *((each,) for each in COMPONENTS), COMPONENTS):
            folder = self.overlay(*components, namespace="mine")
            done = subprocess.run(
                [kubectl, "kustomize", folder],
                env={**os.environ, "KUBECONFIG": os.devnull},
                capture_output=True,
                text=True,
                timeout=60,
            )
            if "unknown command" in done.stderr or 'unknown field "labels"' in done.stderr:
                raise SkipTest("needs a kubectl that knows components")
            self.assertEqual(done.returncode, 0, done.stderr)
            by_name = {json.dumps(each, sort_keys=True) for each in build(folder)}
            theirs = yaml.safe_load_all(done.stdout)
            self.assertEqual({json.dumps(each, sort_keys=True) for each in theirs}, by_name)

    def test_selectors(self) -> None:
        """
        Each selector selects these pods, and the autoscaler has this deployment.
        """
        kinds = self.kinds(self.overlay("podmonitor"))
        spec = {kind: resource.get("spec", {}) for kind, resource in kinds.items()}
        deployment = spec["Deployment"]
        labels = deployment["template"]["metadata"]["labels"]
        for selector in (
            deployment["selector"],
            spec["PodDisruptionBudget"]["selector"],
            spec["NetworkPolicy"]["podSelector"],
            spec["PodMonitor"]["selector"],
            *(each["labelSelector"] for each in self.pod()["topologySpreadConstraints"]),
            {"matchLabels": spec["Service"]["selector"]},
        ):
            self.assertEqual(selector, {"matchLabels": labels})
        target = spec["HorizontalPodAutoscaler"]["scaleTargetRef"]
        found = kinds["Deployment"]
        self.assertEqual(
            target,
            {
                "apiVersion": found["apiVersion"],
                "kind": "Deployment",
                "name": found["metadata"]["name"],
            },
        )
        self.assertNotIn("replicas", deployment)
        self.assertEqual(labels[spec["PodMonitor"]["jobLabel"]], "echod")
        namespaces = {resource["metadata"].get("namespace") for resource in kinds.values()}
        self.assertEqual(namespaces, {None, kinds["Namespace"]["metadata"]["name"]})

    def test_ports(self) -> None:
        """
        Every port that is named is one of the pod's, and each of those is listened on.
        """
        for components in ((), COMPONENTS):
            folder = self.overlay(*components)
            kinds, options = self.kinds(folder), self.options(folder)
            ports = {
                each["name"]: each["containerPort"] for each in self.container(folder)["ports"]
            }
            expected = {
                "echo": options["port"],
                "admin": int(options["admin"].removeprefix("tcp:")),
            }
            if "tls" in components:
                expected["echo-tls"] = options["tls-port"]
            self.assertEqual(ports, expected)
            offered = kinds["Service"]["spec"]["ports"]
            self.assertEqual({each["targetPort"] for each in offered}, set(ports) - {"admin"})
            annotations = kinds["Deployment"]["spec"]["template"]["metadata"]["annotations"]
            self.assertEqual(int(annotations["prometheus.io/port"]), ports["admin"])
            if "podmonitor" in components:
                [endpoint] = kinds["PodMonitor"]["spec"]["podMetricsEndpoints"]
                self.assertEqual(endpoint["port"], "admin")

    def test_network(self) -> None:
        """
        All may come to the echo, Prometheus' namespace alone to the admin endpoint, and the
        pod may go nowhere.
        """
        for components in ((), COMPONENTS):
            folder = self.overlay(*components)
            spec = self.kinds(folder)["NetworkPolicy"]["spec"]
            self.assertEqual(spec["policyTypes"], ["Ingress", "Egress"])
            self.assertEqual(spec["egress"], [])
            everybody, some = spec["ingress"]
            ports = {each["name"] for each in self.container(folder)["ports"]}
            self.assertEqual({each["port"] for each in everybody["ports"]}, ports - {"admin"})
            self.assertNotIn("from", everybody)
            self.assertEqual([each["port"] for each in some["ports"]], ["admin"])
            [namespace] = some["from"]
            self.assertEqual(list(namespace), ["namespaceSelector"])

    def test_restricted(self) -> None:
        """
        It keeps to the Pod Security Standard "restricted", and its namespace sees to that.
        """
        pod, container = self.pod()["securityContext"], self.container()["securityContext"]
        user = dict(instructions(DOCKERFILE.read_text()))["USER"]
        self.assertIs(pod["runAsNonRoot"], True)
        self.assertEqual(f"{pod['runAsUser']}:{pod['runAsGroup']}", user)
        self.assertEqual(pod["seccompProfile"], {"type": "RuntimeDefault"})
        self.assertIs(container["allowPrivilegeEscalation"], False)
        self.assertIs(container["readOnlyRootFilesystem"], True)
        self.assertEqual(container["capabilities"], {"drop": ["ALL"]})
        self.assertIs(self.pod()["automountServiceAccountToken"], False)
        labels = self.kinds()["Namespace"]["metadata"]["labels"]
        self.assertEqual(labels["pod-security.kubernetes.io/enforce"], "restricted")

    def test_stop_outlasts_drain(self) -> None:
        """
        Kubernetes waits for longer than the pause and the drain take before it kills.
        """
        pause, seconds = self.container()["lifecycle"]["preStop"]["exec"]["command"]
        self.assertEqual(pause, "sleep")
        drain = self.options()["drain-timeout"]
        grace = self.pod()["terminationGracePeriodSeconds"]
        self.assertGreaterEqual(grace, int(seconds) + drain + 5)

    def test_checks_in_time(self) -> None:
        """
        The check gives up before Kubernetes does.
        """
        for components in ((), ("proxy-protocol",)):
            probe = self.container(self.overlay(*components))["startupProbe"]
            options = CheckOptions()
            options.parseOptions(probe["exec"]["command"][1:])
            self.assertGreater(probe["timeoutSeconds"], options["timeout"] + 1)

    def test_certificate(self) -> None:
        """
        What cert-manager writes is what is mounted, as a folder, and what is served.
        """
        folder = self.overlay("tls")
        certificate = self.kinds(folder)["Certificate"]["spec"]
        [volume] = self.pod(folder)["volumes"]
        [mount] = self.container(folder)["volumeMounts"]
        self.assertEqual(volume["secret"]["secretName"], certificate["secretName"])
        self.assertEqual(volume["secret"]["defaultMode"], 0o440)
        self.assertEqual(volume["name"], mount["name"])
        self.assertNotIn("subPath", mount)
        path = mount["mountPath"]
        self.assertLessEqual(
            {f"--tls-cert={path}/tls.crt", f"--tls-key={path}/tls.key"},
            set(self.container(folder)["args"]),
        )


class Secret:
    """
    A secret that is mounted for a pod, as a kubelet does it: files that root owns, in a
    folder that a link leads to, which is replaced by another one.
    """

    def __init__(self, folder: Path, group: int):
        self.folder = folder
        self._group = group
        self._number = 0
        folder.mkdir()

    def write(self, made: MadeCertificate) -> None:
        """
        Put another certificate in the place of the one there is.
        """
        self._number += 1
        data = self.folder / f"..{self._number}"
        data.mkdir()
        for name, content in (("tls.crt", made.cert_pem), ("tls.key", made.key_pem)):
            (data / name).write_bytes(content)
            (data / name).chmod(0o440)
            os.chown(data / name, 0, self._group)
            if not (self.folder / name).is_symlink():
                (self.folder / name).symlink_to(f"..data/{name}")
        link = self.folder / "..data_tmp"
        link.symlink_to(data.name)
        link.rename(self.folder / "..data")


class PodTests(Manifests):
    """
    The pod, in a container of its own.
    """

    def test_probes(self) -> None:
        """
        The probes find it well, at the pod's own address, and when the drain begins it is
        not ready and still alive.
        """
        spec = self.container()
        # The drain lasts until all are asked, however long their programs take to start.
        arguments = [re.sub("^--drain-timeout=.*", "--drain-timeout=10m", a) for a in spec["args"]]
        self.assertNotEqual(arguments, spec["args"])
        with Container(image(), *arguments) as pod:
            pod.give_address(POD_ADDRESS)
            ports = {each["name"]: each["containerPort"] for each in spec["ports"]}

            def answers(probe: str) -> str:
                get = spec[probe]["httpGet"]
                url = f"http://{POD_ADDRESS}:{ports[get['port']]}{get['path']}"
                return pod.execute("python", "-c", ASK, url).stdout.strip()

            pod.wait_for_success(*spec["startupProbe"]["exec"]["command"])
            self.assertEqual(answers("readinessProbe"), "200")
            self.assertEqual(answers("livenessProbe"), "200")
            with pod.busy(ports["echo"]):
                pod.terminate()
                wait_until(lambda: answers("readinessProbe") == "503", "the end of readiness")
                self.assertEqual(answers("livenessProbe"), "200")

    def test_behind_a_load_balancer(self) -> None:
        """
        With the component for the PROXY header, the probe says that it speaks for itself
        and is let in, and who says nothing is not.
        """
        folder = self.overlay("proxy-protocol")
        arguments = self.container(folder)["args"]
        probe = self.container(folder)["startupProbe"]["exec"]["command"]
        with Container(image(), *arguments) as pod:
            pod.wait_for_success(*probe)
            bare = pod.execute(*self.container()["startupProbe"]["exec"]["command"])
            self.assertNotEqual(bare.returncode, 0)

    def test_rotation(self) -> None:
        """
        A certificate that cert-manager renews is served without a restart, and of the key,
        which the pod's group may read, nothing is to be said.
        """
        built, folder = image(), self.overlay("tls")
        group = self.pod(folder)["securityContext"]["fsGroup"]
        [mount] = self.container(folder)["volumeMounts"]
        first, second = make_certificate(), make_certificate()
        secret = Secret(Path(self.mktemp()).resolve(), group)
        secret.write(first)
        arguments = self.container(folder)["args"]
        with Container(built, *arguments, mounts={mount["mountPath"]: secret.folder}) as pod:
            check = (
                "echod-check",
                *PATIENT,
                "--quiet",
                "--tls",
                "--ca",
                f"{mount['mountPath']}/tls.crt",
            )

            def served() -> list[str]:
                return re.findall(r'"serial": ?"(\w+)"', pod.log)

            self.assertEqual(pod.execute(*check, "localhost:9443").returncode, 0)
            self.assertEqual(len(served()), 1)
            secret.write(second)
            wait_until(lambda: len(served()) == 2, "the new certificate")
            self.assertEqual(len(set(served())), 2)
            self.assertEqual(pod.execute(*check, "localhost:9443").returncode, 0)
            self.assertNotIn("key-exposed", pod.log)
