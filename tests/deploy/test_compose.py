"""
The Compose file, and the Prometheus, the blackbox exporter and the Grafana that it puts
beside echod: what each says of the others is true, and the programs take it.

Invariant: what a program can be had for is asked of the program.
"""

import re
import shutil
import urllib.request
from typing import Any

import yaml
from twisted.trial.unittest import SynchronousTestCase

from echod.options import Options
from tests.support import needs
from tests.support.certificates import make_certificate
from tests.support.container import DOCKERFILE, Container, command_of, image, instructions
from tests.support.daemons import Daemon, Process, tls_daemon, wait_until
from tests.support.prometheus import promtool
from tests.support.wrong_servers import WrongServer

DEPLOY = DOCKERFILE.parent
PROMETHEUS = DEPLOY / "prometheus"
BLACKBOX = shutil.which("prometheus-blackbox-exporter")


def read(name: str) -> dict[str, Any]:
    """
    A YAML file of C{deploy/}.
    """
    content: dict[str, Any] = yaml.safe_load((DEPLOY / name).read_text())
    return content


def seconds(duration: str) -> int:
    """
    A duration as Compose has it.
    """
    [number] = re.findall(r"^(\d+)s$", duration)
    return int(number)


class ComposeTests(SynchronousTestCase):
    """
    Tests for C{deploy/compose.yaml}.
    """

    def setUp(self) -> None:
        self.compose = read("compose.yaml")
        self.services = self.compose["services"]
        self.echod = self.services["echod"]

    def test_locked_in(self) -> None:
        """
        No service has a capability, or a way to get one; echod can write to its /tmp alone,
        and to little of that.
        """
        for name, service in self.services.items():
            self.assertEqual(service["cap_drop"], ["ALL"], name)
            self.assertEqual(service["security_opt"], ["no-new-privileges:true"], name)
            self.assertNotIn("privileged", service)
        self.assertIs(self.echod["read_only"], True)
        self.assertNotIn("volumes", self.echod)
        [temporary] = self.echod["tmpfs"]
        self.assertRegex(temporary, r"^/tmp:size=\d+m,.*noexec")

    def test_published(self) -> None:
        """
        The echo alone is there for other machines; its admin endpoint is not published, and
        is reached on a network without a way out.
        """
        options = self.options()
        published = {name: service.get("ports", []) for name, service in self.services.items()}
        self.assertEqual(published.pop("echod"), [f"{options['port']}:{options['port']}"])
        for ports in published.values():
            for port in ports:
                self.assertRegex(port, r"^127\.0\.0\.1:")
        self.assertIs(self.compose["networks"]["monitoring"]["internal"], True)
        for name, service in self.services.items():
            self.assertIn("monitoring", service["networks"], name)
            self.assertLessEqual(set(service["networks"]), set(self.compose["networks"]))

    def options(self) -> Options:
        options = Options()
        options.parseOptions(self.echod["command"])
        return options

    def test_monitoring_is_extra(self) -> None:
        """
        Unless asked for, echod alone is started.
        """
        usual = [name for name, each in self.services.items() if "profiles" not in each]
        self.assertEqual(usual, ["echod"])

    def test_health(self) -> None:
        """
        The check is that of the image.
        """
        [health] = [
            text for name, text in instructions(DOCKERFILE.read_text()) if name == "HEALTHCHECK"
        ]
        settings, _, command = health.partition(" CMD ")
        check = self.echod["healthcheck"]
        self.assertEqual(check["test"], ["CMD", *command_of(command)])
        for name, value in re.findall(r"--([a-z-]+)=(\S+)", settings):
            self.assertEqual(check[name.replace("-", "_")], value)

    def test_stop_outlasts_drain(self) -> None:
        """
        Docker waits for longer than the drain takes before it kills.
        """
        grace = seconds(self.echod["stop_grace_period"])
        self.assertGreaterEqual(grace, Options()["drain-timeout"] + 5)

    def test_files(self) -> None:
        """
        Each file that is mounted is there, and each that a program is pointed to is in what
        is mounted.
        """
        volumes = set()
        for name, service in self.services.items():
            mounts = {}
            for mount in service.get("volumes", []):
                source, target = mount.split(":")[:2]
                if source.startswith("."):
                    self.assertTrue((DEPLOY / source).exists(), mount)
                    mounts[target] = DEPLOY / source
                    self.assertTrue(mount.endswith(":ro"), mount)
                else:
                    volumes.add(source)
            for argument in service.get("command", []):
                for path in re.findall(r"--config\.file=(\S+)", argument):
                    folder, _, file = path.rpartition("/")
                    self.assertTrue((mounts[folder] / file).exists(), (name, path))
        self.assertEqual(volumes, set(self.compose["volumes"]))

    def test_runs(self) -> None:
        """
        With the options that it is given here, the image serves and is healthy.
        """
        with Container(image(), *self.echod["command"]) as container:
            container.wait_for_success(*self.echod["healthcheck"]["test"][1:])

    def test_scraped(self) -> None:
        """
        Prometheus asks those services that there are, on the ports where they listen, in
        jobs of the names that the alerts count on.
        """
        admin = self.options()["admin"]
        jobs = {
            each["job_name"]: each for each in read("prometheus/prometheus.yaml")["scrape_configs"]
        }
        rules = (PROMETHEUS / "echod.rules.yaml").read_text()
        self.assertEqual(set(re.findall(r'\b\w+\{job="([^"]+)"\}', rules)), set(jobs))
        [found] = jobs["echod"]["dns_sd_configs"]
        self.assertEqual(found["names"], ["echod"])
        self.assertEqual(f"tcp:{found['port']}", admin)
        probe = jobs["echod-probe"]
        self.assertIn(probe["params"]["module"][0], read("prometheus/blackbox.yaml")["modules"])
        [target] = probe["static_configs"][0]["targets"]
        self.assertEqual(f"echod:{self.options()['port']}", target)
        places = [each.get("replacement") for each in probe["relabel_configs"]]
        self.assertIn("blackbox:9115", places)

    def test_grafana(self) -> None:
        """
        Grafana asks the Prometheus that there is, and finds the dashboard where it looks.
        """
        [source] = read("grafana/datasources.yaml")["datasources"]
        self.assertEqual(source["url"], "http://prometheus:9090")
        self.assertIn("127.0.0.1:9090:9090", self.services["prometheus"]["ports"])
        [provider] = read("grafana/dashboards.yaml")["providers"]
        mount = f"./grafana/echod.json:{provider['options']['path']}/echod.json:ro"
        self.assertIn(mount, self.services["grafana"]["volumes"])


class PrometheusTests(SynchronousTestCase):
    """
    Tests for C{deploy/prometheus/prometheus.yaml}.
    """

    skip = needs.lacking("promtool")

    def test_check(self) -> None:
        """
        C{promtool check config} finds no fault with it, nor with the rules that it names.
        """
        said = promtool("check", "config", str(PROMETHEUS / "prometheus.yaml"))
        self.assertIn("1 rule files found", said)


class Blackbox(Process):
    """
    Prometheus' blackbox exporter.
    """

    def __init__(self, authority: bytes = b""):
        """
        @param authority: a certificate to trust, in PEM.
        """
        blackbox = needs.program("prometheus-blackbox-exporter")
        super().__init__(
            *("env", "SSL_CERT_FILE=ca.pem", blackbox),
            f"--config.file={PROMETHEUS / 'blackbox.yaml'}",
            "--web.listen-address=127.0.0.1:0",
        )
        (self.directory / "ca.pem").write_bytes(authority)

    def start(self) -> None:
        super().start()
        wait_until(lambda: "Listening on" in self.stderr, "the exporter")
        [address] = re.findall(r'"Listening on" address=(\S+)', self.stderr)
        self._address = address

    def finds(self, module: str, target: str) -> bool:
        """
        Whether a probe succeeds.
        """
        url = f"http://{self._address}/probe?module={module}&target={target}"
        with urllib.request.urlopen(url, timeout=60) as answer:
            text = answer.read().decode()
        [success] = re.findall(r"^probe_success ([01])$", text, re.MULTILINE)
        return success == "1"


class BlackboxTests(SynchronousTestCase):
    """
    Tests for C{deploy/prometheus/blackbox.yaml}.
    """

    def test_plain(self) -> None:
        """
        The probe succeeds with echod, and not with an echo that is wrong, nor where nothing
        listens.
        """
        with Blackbox() as blackbox:
            with Daemon("--port", "0", "--interface", "127.0.0.1") as daemon:
                address = daemon.address()
                self.assertTrue(blackbox.finds("echo", address))
            self.assertFalse(blackbox.finds("echo", address))
            with WrongServer(lambda client: client.sendall(client.recv(100).upper())) as wrong:
                self.assertFalse(blackbox.finds("echo", f"127.0.0.1:{wrong.port}"))

    def test_tls(self) -> None:
        """
        Over TLS the certificate counts as well.
        """
        with tls_daemon() as daemon:
            place = f"localhost:{daemon.port('--tls-port')}"
            with Blackbox((daemon.directory / "pem").read_bytes()) as blackbox:
                self.assertTrue(blackbox.finds("echo_tls", place))
            with Blackbox(make_certificate().cert_pem) as blackbox:
                self.assertFalse(blackbox.finds("echo_tls", place))
