"""
What a person reads who starts the daemon on a terminal: where it listens, how to stop it, and what
to try.

Invariant: it says what the sockets say, not what the options ask for.
"""

import shlex
import socket
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Place:
    """
    Where one listener listens.

    @ivar address: its address, as L{format_address<echod._util.text.format_address>} has it.
    @ivar dual_stack: whether an IPv6 socket accepts IPv4 clients, too.
    """

    address: str
    tls: bool
    dual_stack: bool
    udp: bool = False

    def __str__(self) -> str:
        host, _, port = self.address.rpartition(":")
        families = ""
        if host == "[::]":
            families = "IPv4 and IPv6" if self.dual_stack else "IPv6 only"
        elif host == "0.0.0.0":
            families = "IPv4 only"
        where = f"port {port}" if families else self.address
        kind = "TLS" if self.tls else "UDP" if self.udp else ""
        details = ", ".join(filter(None, (kind, families)))
        return f"{where} ({details})" if details else where

    def command(self, proxied: bool) -> str:
        """
        A command that connects to it.

        @param proxied: whether a connection has to begin with a PROXY header.
        """
        host, _, port = self.address.rpartition(":")
        if host in ("[::]", "0.0.0.0"):
            host = "localhost"
        unix = self.address.startswith("unix:")
        address = shlex.quote(self.address if unix else f"{host}:{port}")
        if self.udp:
            return f"echod-check --udp {address}"
        if proxied:
            return f"echod-check --proxy-header v2 {'--tls -k ' if self.tls else ''}{address}"
        if self.tls:
            connect = f"-unix {address.removeprefix('unix:')}" if unix else f"-connect {address}"
            return f"openssl s_client -quiet {connect}"
        if unix:
            return f"nc -N -U {shlex.quote(self.address.removeprefix('unix:'))}"
        return f"nc -N {host.strip('[]')} {port}"


def is_dual_stack(sock: socket.socket) -> bool:
    """
    Whether a listening socket accepts IPv6 and IPv4 clients (ipv6(7)).
    """
    if sock.family != socket.AF_INET6:
        return False
    return not sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)


def announcement(version: str, places: Sequence[Place], proxied: bool) -> str:
    """
    The line.

    @param places: where the daemon listens, at least one.
    @param proxied: whether a connection has to begin with a PROXY header.
    """
    where = " and ".join(map(str, places))
    command = places[0].command(proxied)
    return f"echod {version} listens on {where}; Ctrl-C stops it; try: {command}"
