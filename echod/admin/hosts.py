"""
Which C{Host} a request over TCP may ask for.

A page in somebody's browser can have the name of its own server resolve to 127.0.0.1, and
then read what is served there as if it were its own (DNS rebinding).  Such a request still
says that name in C{Host}.

The rule of this room: an address cannot be made to mean another machine, a name can.  So
addresses are taken when they are this machine's, and names when nobody else can own them.
"""

import re
import socket
from collections.abc import Container, Iterable
from ipaddress import ip_address

from twisted.internet.interfaces import IAddress

from echod._util.sockets import ip_of
from echod._util.values import host

_HOST = re.compile(
    r"(?:\[([0-9A-Fa-f:.]+)(?:%[A-Za-z0-9%._~-]+)?\]|([A-Za-z0-9._-]+))(?::[0-9]{0,5})?"
)


def names_beside(hostname: str, hosts: Iterable[str]) -> set[str]:
    """
    The names that this machine's own name stands with in hosts(5), such as the fully-qualified
    one.  A resolver is not asked: it could take long, and what it says can be forged.

    @param hosts: the lines of C{/etc/hosts}.
    """
    names: set[str] = set()
    for line in hosts:
        found = [name.rstrip(".") for name in line.lower().partition("#")[0].split()[1:]]
        if hostname.lower() in found:
            names.update(found)
    return names


def is_ours(
    asked: str, local: IAddress, names: Container[str] = (), hostname: str | None = None
) -> bool:
    """
    Whether a request for this host is meant for us.

    @param asked: what the header says, with or without a port.
    @param local: our address on the connection that the request came by.  On a UNIX
        socket, where no browser comes, any host is ours.
    @param names: what else is ours, as L{host} has it.
    @param hostname: this machine's own name; C{None} to ask for it.
    """
    ours = ip_of(local)
    if ours is None:
        return True
    match = _HOST.fullmatch(asked)
    if match is None:
        return False
    try:
        name = host(match[1] or match[2])
    except ValueError:
        return False
    if name in names:
        return True
    try:
        ip = ip_address(name)
    except ValueError:
        hostname = socket.gethostname() if hostname is None else hostname
        # No resolver gives the names below localhost away (RFC 6761 6.3).
        return name in ("localhost", hostname.lower()) or name.endswith(".localhost")
    # A browser leaves out the zone of a link-local address, which means nothing to others.
    return ip.is_loopback or ip.packed == ours.packed
