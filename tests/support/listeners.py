"""
A listener of each kind of transport.
"""

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
