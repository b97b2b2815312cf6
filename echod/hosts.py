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
from ipaddress import ip_address

from twisted.internet.interfaces import IAddress

from echod.sockets import ip_of

_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+))(?::[0-9]{0,5})?")


def is_ours(host: str, local: IAddress, hostname: str | None = None) -> bool:
    """
    Whether a request for this host is meant for us.

    @param host: what the header says, with or without a port.
    @param local: our address on the connection that the request came by.  On a UNIX
        socket, where no browser comes, any host is ours.
    @param hostname: this machine's own name; C{None} to ask for it.
    """
    ours = ip_of(local)
    if ours is None:
        return True
    match = _HOST.fullmatch(host)
    if match is None:
        return False
    name = match[1] or match[2]
    try:
        ip = ip_address(name)
    except ValueError:
        name = name.lower().rstrip(".")
        hostname = socket.gethostname() if hostname is None else hostname
        # No resolver gives the names below localhost away (RFC 6761 6.3).
        return name in ("localhost", hostname.lower()) or name.endswith(".localhost")
    ip = getattr(ip, "ipv4_mapped", None) or ip
    return ip.is_loopback or ip == ours
