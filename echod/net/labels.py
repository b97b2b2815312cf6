"""
What Twisted calls a connection: the strings that its constructors make for logs.

The rule of this room: nothing is made before somebody asks for it.  Each function is a
property of a transport.
"""

from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address


def address_type(transport: Any) -> type[IPv4Address] | type[IPv6Address]:
    """
    What the addresses of both ends are, by the form of the peer's.
    """
    return IPv4Address if len(transport.client) == 2 else IPv6Address


def host(transport: Any) -> Any:
    """
    The peer's host.
    """
    return transport.client[0]


def log_prefix(transport: Any) -> str:
    """
    The prefix of what Twisted's older logging logs for this connection.
    """
    prefix = transport._getLogPrefix(getattr(transport, "protocol", None))
    return f"{prefix},{transport.sessionno},{transport.hostname}"


def in_words(transport: Any) -> str:
    """
    This connection in words.
    """
    name = type(getattr(transport, "protocol", None)).__name__
    port = getattr(transport.server, "_realPortNumber", None)
    return f"<{name} #{transport.sessionno} on {port}>"


def keep(transport: Any, words: str) -> None:
    """
    Twisted sets other words for its own transports; these stay.
    """
