"""
A real HAProxy, in front of real daemons.

Invariant: HAProxy inherits its listening sockets from this process, so no port is guessed.
"""

import socket
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from tests.support import needs
from tests.support.certificates import make_certificate
from tests.support.daemons import Process

GLOBAL = """
global
    nbthread 1
    maxconn 500
    ssl-server-verify none
defaults
    mode tcp
    option log-health-checks
    timeout connect 20s
    timeout client 60s
    timeout server 60s
"""


@dataclass(frozen=True)
class Way:
    """
    One frontend of HAProxy, and its backend with one server.

    @ivar name: its name.
    @ivar server: the server's address, C{HOST:PORT}, and the options for it.
    @ivar bind: the options for the frontend's socket; C{{}} stands for the directory.
    @ivar more: further lines for the frontend.
    @ivar host: the address that the frontend listens on.
    """

    name: str
    server: str
    bind: str = ""
    more: str = ""
    host: str = "127.0.0.1"


def program() -> str:
    """
    @return: the path of HAProxy.
    @raise SkipTest: it is not installed.
    """
    return needs.program("haproxy")


class HAProxy(Process):
    """
    HAProxy with these frontends.
    """

    def __init__(self, ways: Sequence[Way]):
        super().__init__(program(), "-db", "-f", "haproxy.cfg")
        self._ways = ways
        self.places: dict[str, tuple[str, int]] = {}

    def start(self) -> None:
        """
        Start it.  Clients may connect at once, since the sockets listen already; they are
        closed if the configuration is wrong.
        """
        made = make_certificate()
        (self.directory / "pem").write_bytes(made.cert_pem + made.key_pem)
        text = GLOBAL
        with ExitStack() as stack:
            listening = []
            for way in self._ways:
                family = socket.AF_INET6 if ":" in way.host else socket.AF_INET
                sock = stack.enter_context(socket.create_server((way.host, 0), family=family))
                sock.set_inheritable(True)
                self.places[way.name] = sock.getsockname()[:2]
                listening.append(sock.fileno())
                bind = way.bind.replace("{}", str(self.directory))
                text += (
                    f"frontend {way.name}\n"
                    f"    bind fd@{sock.fileno()} {bind}\n"
                    f"    {way.more}\n"
                    f"    default_backend to-{way.name}\n"
                    f"backend to-{way.name}\n"
                    f"    server echod {way.server}\n"
                )
            (self.directory / "haproxy.cfg").write_text(text)
            self.pass_fds = listening
            super().start()

    def connect(self, name: str) -> socket.socket:
        """
        Connect to a frontend.
        """
        place = self.places[name]
        client = socket.socket(socket.AF_INET6 if ":" in place[0] else socket.AF_INET)
        try:
            client.settimeout(60)
            client.connect(place)
        except BaseException:
            client.close()
            raise
        return client
