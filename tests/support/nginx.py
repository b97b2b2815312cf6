"""
A real nginx with its stream module, in front of real daemons.

Invariant: nginx inherits its listening sockets from this process, so no port is guessed.
"""

import signal
import socket
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.support import needs
from tests.support.daemons import Process

STREAM_MODULE = Path("/usr/lib/nginx/modules/ngx_stream_module.so")

MAIN = f"""
load_module {STREAM_MODULE};
daemon off;
worker_processes 1;
pid nginx.pid;
error_log stderr warn;
events {{ worker_connections 500; }}
"""


class Nginx(Process):
    """
    nginx, with a server on one port.
    """

    def __init__(self, server: str, host: str = "127.0.0.1"):
        """
        @param server: the text of the C{stream} or C{http} block, in which C{LISTEN} stands for the
            address that it listens on.
        @param host: the IP address of that.
        """
        path = needs.program("nginx")
        needs.file(STREAM_MODULE, "nginx's stream module")
        super().__init__()
        self._path = path
        self._server = server
        self._host = host

    def start(self) -> None:
        """
        Start it.  Clients may connect at once, since the socket listens already.
        """
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        with ExitStack() as stack:
            sock = stack.enter_context(socket.create_server((self._host, 0), family=family))
            self.place = sock.getsockname()[:2]
            host = f"[{self._host}]" if ":" in self._host else self._host
            text = MAIN + self._server.replace("LISTEN", f"{host}:{self.place[1]}")
            (self.directory / "nginx.conf").write_text(text)
            self.pass_fds = (sock.fileno(),)
            # How nginx hands its sockets to the binary that takes its place.
            self._command = (
                *("env", f"NGINX={sock.fileno()};"),
                *(self._path, "-p", str(self.directory), "-c", "nginx.conf", "-e", "stderr"),
            )
            super().start()

    def __exit__(self, *raised: Any) -> None:
        # Killed, it would leave its worker behind.
        if self.pid and self.running():
            self.signal(signal.SIGTERM)
            self.wait("the end of nginx")
        super().__exit__(*raised)

    def connect(self) -> socket.socket:
        """
        Connect to it.
        """
        return socket.create_connection(self.place, 60)
