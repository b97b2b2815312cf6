"""
A listener of each kind of transport, and a port for one.
"""

import contextlib
import socket
from collections.abc import Iterator

from tests.support import needs

TRANSPORTS = {
    "IPv4": "tcp:0:interface=127.0.0.1",
    "IPv6": r"tcp:0:interface=\:\:1",
    "unix": "unix:{}/echo.sock",
}


def listener(transport: str) -> tuple[str, str]:
    """
    The options of a daemon for one kind of transport.
    """
    if transport == "IPv6":
        needs.ipv6()
    return "--listen", TRANSPORTS[transport]


@contextlib.contextmanager
def held_port() -> Iterator[int]:
    """
    A TCP port of 127.0.0.1 where nothing listens, for the length of a C{with} block.  The system
    gives it to no other process, and a daemon may listen there (SO_REUSEADDR, socket(7)).
    """
    with socket.socket() as bound:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]
