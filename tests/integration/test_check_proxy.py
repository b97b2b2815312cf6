"""
The PROXY header that C{echod-check} sends, as HAProxy and echod read it.
"""

import socket
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.support import needs
from tests.support.certificates import make_certificate
from tests.support.daemons import Process, receive, tls_daemon, wait_until
from tests.support.wrong_servers import WrongServer, ask

CONFIG = """
defaults
    mode tcp
    timeout connect 20s
    timeout client 20s
    timeout server 20s
listen plain
    bind unix@{folder}/plain accept-proxy
    server echo 127.0.0.1:{port} send-proxy
listen secured
    bind unix@{folder}/secured accept-proxy ssl crt {folder}/pem
    server echo 127.0.0.1:{port} send-proxy
"""


class HAProxy(Process):
    """
    HAProxy, which believes a PROXY header, and passes on in one of its own what it read.
    """

    def __init__(self, port: int):
        super().__init__(needs.program("haproxy"), "-db", "-f", "haproxy.cfg")
        made = make_certificate()
        (self.directory / "pem").write_bytes(made.cert_pem + made.key_pem)
        config = CONFIG.format(folder=self.directory, port=port)
        (self.directory / "haproxy.cfg").write_text(config)

    def start(self) -> None:
        super().start()
        wait_until(lambda: (self.directory / "secured").exists(), "HAProxy")


class HAProxyTests(SynchronousTestCase):
    """
    What the server behind HAProxy is told, which is what HAProxy understood.
    """

    skip = needs.lacking("haproxy")

    def setUp(self) -> None:
        self.headers: list[str] = []

    def serve(self, client: socket.socket) -> None:
        """
        An echo behind a PROXY header.
        """
        line = b""
        while not line.endswith(b"\r\n"):
            line += receive(client, 1)
        self.headers.append(line.decode())
        while piece := client.recv(65536):
            client.sendall(piece)

    def told(self, *options: str) -> str:
        """
        @return: the client's address and port that the server was told.
        """
        with WrongServer(self.serve) as server, HAProxy(server.port) as proxy:
            listener = "secured" if "--tls" in options else "plain"
            status, answer = ask(*options, f"unix:{proxy.directory}/{listener}")
        self.assertEqual((status, answer["detail"]), (0, None))
        [header] = self.headers
        self.headers.clear()
        if header == "PROXY UNKNOWN\r\n":
            return "unknown"
        _, family, address, _, port, _ = header.split()
        return f"{family} {address} {port}"

    def header(self, version: str, source: str, *more: Any) -> str:
        return self.told("--proxy-header", version, "--proxy-source", source, *more)

    def test_versions(self) -> None:
        """
        HAProxy reads both versions, with addresses of both families.
        """
        for version in ("v1", "v2"):
            for source, told in (
                ("198.51.100.7:4711", "TCP4 198.51.100.7 4711"),
                ("[2001:db8::7]:65535", "TCP6 2001:db8::7 65535"),
            ):
                self.assertEqual(self.header(version, source), told)

    def test_before_tls(self) -> None:
        """
        The header comes before the handshake.
        """
        for version in ("v1", "v2"):
            told = self.header(version, "198.51.100.7:4711", "--tls", "--insecure")
            self.assertEqual(told, "TCP4 198.51.100.7 4711")

    def test_no_source(self) -> None:
        """
        Without a source HAProxy takes the connection for what it is.
        """
        for version in ("v1", "v2"):
            self.assertEqual(self.told("--proxy-header", version), "unknown")


class EchodTests(SynchronousTestCase):
    """
    The same header, read by echod.
    """

    def test_believed(self) -> None:
        """
        The access record names the client that the header named, plain and over TLS.
        """
        trust = ("--proxy-protocol", "require", "--proxy-trust", "127.0.0.0/8")
        with tls_daemon("--port", "0", *trust) as daemon:
            for option, tls in (("--port", ()), ("--tls-port", ("--tls", "--insecure"))):
                for version, source in (("v1", "198.51.100.7:4711"), ("v2", "[2001:db8::7]:1")):
                    header = ("--proxy-header", version, "--proxy-source", source)
                    status, answer = ask(*header, *tls, daemon.address(option))
                    self.assertEqual((status, answer["detail"]), (0, None))
            daemon.ended("client", 4)
            peers = [record[0] for record in daemon.records()]
        self.assertEqual(peers, ["198.51.100.7:4711", "[2001:db8::7]:1"] * 2)
