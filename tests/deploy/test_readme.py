"""
What C{deploy/README.md} says: its snippets are taken from it and run, but for the addresses.

Invariant: a snippet that is not run here is not in it.
"""

import fnmatch
import random
import re
import shlex
import socket
from collections.abc import Callable
from pathlib import Path

import yaml
from twisted.trial.unittest import SynchronousTestCase

from echod.options import Options
from tests.support.clients import Clients, Connection, StreamClient, TLSClient, context
from tests.support.daemons import (
    Process,
    show,
    tls_daemon,
    wait_until,
)
from tests.support.haproxy import GLOBAL, program
from tests.support.kustomize import build
from tests.support.nginx import Nginx

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
TEXT = (DEPLOY / "README.md").read_text()

SERVER = "10.0.0.9:9000"
"""Where the snippets have echod."""

DATA = random.Random(8).randbytes(8 << 20)

TRUSTING = ("--port", "0", "--proxy-protocol", "require", "--proxy-trust", "127.0.0.1")


def snippet(language: str) -> str:
    """
    The one snippet in this language.
    """
    [found] = re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    assert isinstance(found, str)
    return found


def plain(client: socket.socket) -> bytes:
    """
    Send all of it, close the sending side, and read to the end.
    """
    return Connection(client).exchange(DATA)


def secure(client: socket.socket) -> bytes:
    """
    The same over TLS, closed with a close_notify.
    """
    return TLSClient(client, context("TLS 1.3")).handshake().exchange(DATA)


class HAProxy(Process):
    """
    HAProxy, with the snippet for its configuration.
    """

    def __init__(self, text: str):
        """
        @param text: the snippet, in which C{LISTEN} stands for what is bound.
        """
        super().__init__(program(), "-db", "-f", "haproxy.cfg")
        self._text = text

    def start(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as sock:
            self.place = sock.getsockname()
            text = self._text.replace("LISTEN", f"fd@{sock.fileno()}")
            (self.directory / "haproxy.cfg").write_text(GLOBAL + text)
            self.pass_fds = (sock.fileno(),)
            super().start()

    def connect(self) -> socket.socket:
        """
        Connect to it.
        """
        return socket.create_connection(self.place, 60)


class SnippetTests(SynchronousTestCase):
    """
    The snippets.
    """

    def setUp(self) -> None:
        self.daemon = self.enterContext(tls_daemon(*TRUSTING))

    def passes(
        self,
        proxy: HAProxy | Nginx,
        talk: Callable[[socket.socket], bytes] = plain,
    ) -> None:
        """
        Every byte comes back through the proxy, and the record has the client's address.
        """
        with proxy.connect() as client:
            host, port = client.getsockname()
            self.assertTrue(talk(client) == DATA)
        wait_until(lambda: f" of {host}:{port} to " in self.daemon.log, "the record")
        [line] = [each for each in self.daemon.log.splitlines() if f" of {host}:{port} " in each]
        self.assertIn(f"{len(DATA)} bytes echoed", line)
        self.assertRegex(line, r", client; proxy 127\.0\.0\.1:\d+")

    def fitted(self, language: str, option: str = "--port") -> str:
        """
        The snippet, with the addresses of this test.
        """
        text, places = re.subn(r"(bind|listen) \S*?9000", r"\1 LISTEN", snippet(language))
        self.assertEqual((places, text.count(SERVER)), (1, 1))
        return text.replace(SERVER, self.daemon.address(option))

    def test_command(self) -> None:
        """
        echod takes the options that are recommended.
        """
        program, *arguments = shlex.split(snippet("sh"))
        options = Options()
        options.parseOptions(arguments[arguments.index("echod") + 1 :])
        self.assertEqual((program, options["proxy-protocol"]), ("twistd", "require"))

    def test_haproxy(self) -> None:
        """
        HAProxy says who the client is, loses nothing of a half-closed connection, finds the
        server well, and passes TLS on.
        """
        with HAProxy(self.fitted("haproxy")) as proxy:
            self.passes(proxy)
            self.assertNotIn("DOWN", proxy.stdout + proxy.stderr)
        with HAProxy(self.fitted("haproxy", "--tls-port")) as proxy:
            self.passes(proxy, secure)
        self.assertEqual(self.daemon.refused(), {})

    def test_nginx(self) -> None:
        """
        So does nginx.
        """
        with Nginx(self.fitted("nginx")) as proxy:
            self.passes(proxy)
        with Nginx(self.fitted("nginx", "--tls-port")) as proxy:
            self.passes(proxy, secure)
        self.assertEqual(self.daemon.refused(), {})

    def test_nginx_without_half_close(self) -> None:
        """
        Without the line that the page insists on, nginx loses what is on its way.
        """
        text, changed = re.subn(r" *proxy_half_close on;\n", "", self.fitted("nginx"))
        self.assertEqual(changed, 1)
        with Nginx(text) as proxy:
            clients = [StreamClient(proxy.connect(), limit=size) for size in (1, len(DATA))]
            with Clients(clients) as group:
                group.run(lambda: group.over, "the ends")
            back = [client.received for client in clients]
        show(f"nginx without proxy_half_close: {back[0]} of 1 and {back[1]} of {len(DATA)} bytes")
        self.assertLess(sum(back), 1 + len(DATA))

    def test_kustomization(self) -> None:
        """
        The kustomization builds, with what it changes in its place, and with arguments that
        echod takes.
        """
        folder = Path(self.mktemp()).resolve() / "mine"
        folder.mkdir(parents=True)
        folder.with_name("echod").symlink_to(DEPLOY.parent)
        (folder / "kustomization.yaml").write_text(snippet("yaml"))
        kinds = {each["kind"]: each for each in build(folder)}
        self.assertEqual(
            {each["metadata"].get("namespace", "echo") for each in kinds.values()}, {"echo"}
        )
        self.assertEqual(kinds["Certificate"]["spec"]["dnsNames"], ["echo.example"])
        self.assertEqual(kinds["Service"]["spec"]["type"], "LoadBalancer")
        self.assertEqual(len(kinds["Service"]["metadata"]["annotations"]), 1)
        [container] = kinds["Deployment"]["spec"]["template"]["spec"]["containers"]
        options = Options()
        options.parseOptions(container["args"])
        self.assertEqual(options["proxy-protocol"], "require")
        self.assertEqual(options["proxy-header-timeout"], 0)
        self.assertIn("10.0.0.0/16", map(str, options["proxy-trust"]))


class TableTests(SynchronousTestCase):
    """
    The tables.
    """

    def rows(self, heading: str) -> list[list[str]]:
        """
        The rows of the table that begins with this heading.
        """
        [table] = re.findall(rf"^\| {heading} \|.*\n\|[-|]+\n((?:\|.*\n)+)", TEXT, re.MULTILINE)
        return [[cell.strip() for cell in row.split("|")[1:-1]] for row in table.splitlines()]

    def test_files(self) -> None:
        """
        Every file here is told of, and none that is not here.
        """
        patterns = re.findall(r"`([^`/]+)/?`", str([row[0] for row in self.rows("file")]))
        there = {path.name for path in DEPLOY.iterdir()} - {"README.md", "Dockerfile.dockerignore"}
        for pattern in patterns:
            self.assertTrue(fnmatch.filter(there, pattern), pattern)
        told = {name for pattern in patterns for name in fnmatch.filter(there, pattern)}
        self.assertEqual(told, there)
        for row in self.rows("file"):
            folder = DEPLOY / row[0].strip("`/")
            for name in re.findall(r"`([\w.-]+)`", row[1]) if folder.is_dir() else ():
                self.assertTrue((folder / name).exists(), name)
        components = {path.name for path in (DEPLOY / "kubernetes").iterdir() if path.is_dir()}
        self.assertLessEqual(components, set(re.findall(r"`([\w-]+)`", str(self.rows("file")))))

    def test_alerts(self) -> None:
        """
        The jobs that the alert rules name are those that the page names.
        """
        rules = (DEPLOY / "prometheus" / "echod.rules.yaml").read_text()
        jobs = set(re.findall(r'\b\w+\{job="([^"]+)"\}', rules))
        named = set(re.findall(r"`([\w-]+)`", TEXT.partition("The alert rules expect")[2][:120]))
        self.assertEqual(jobs, named)
        self.assertTrue(yaml.safe_load(rules))
