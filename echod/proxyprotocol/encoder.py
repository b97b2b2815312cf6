"""
The sender's half of the PROXY protocol (C{doc/proxy-protocol.txt} of HAProxy): making a header.

Invariant: this module only makes bytes; the caller sends them.
"""

import re
from ipaddress import IPv4Address, IPv6Address, ip_address

from echod._util.values import port_number
from echod.proxyprotocol import V2_SIGNATURE

_V2_PROXY = 0x21
_V2_STREAM = {4: 0x11, 6: 0x21}

Address = tuple[IPv4Address | IPv6Address, int]
"""An IP address and a port."""


def parse_address(text: str) -> Address:
    """
    @return: an address and port, from C{192.0.2.1:4711} or C{[2001:db8::1]:4711}.
    @raise ValueError: when it is neither.
    """
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+)):([0-9]+)", text)
    try:
        if match is None:
            raise ValueError
        # IPv6 has brackets.
        address = IPv6Address(match[1]) if match[1] else IPv4Address(match[2])
        return address, port_number(match[3])
    except ValueError:
        raise ValueError(
            "not an address with its port; give one such as 192.0.2.1:4711 or [2001:db8::1]:4711"
        ) from None


def _same_family(source: Address, destination: Address) -> tuple[Address, Address]:
    """
    Both addresses as IPv4, or both as IPv6: a header has one family (sections 2.1, 2.2).
    """
    if source[0].version == destination[0].version:
        return source, destination

    def mapped(pair: Address) -> Address:
        address, port = pair
        return ip_address(f"::ffff:{address}") if address.version == 4 else address, port

    return mapped(source), mapped(destination)


def encode_proxy_header(version: str, source: Address | None, destination: Address) -> bytes:
    """
    Make a header.

    @param version: C{"v1"}, a line of text (section 2.1), or C{"v2"}, binary (section 2.2).
    @param source: the address of the client; C{None} if it is not known (C{UNKNOWN} in v1,
        C{LOCAL} in v2), so that the server uses the address of the connection.
    @param destination: the address to which the client connected.
    """
    if source is None:
        return b"PROXY UNKNOWN\r\n" if version == "v1" else V2_SIGNATURE + b"\x20\0\0\0"
    (address, port), (to, to_port) = _same_family(source, destination)
    if version == "v1":
        return f"PROXY TCP{address.version} {address} {to} {port} {to_port}\r\n".encode("ascii")
    body = address.packed + to.packed + port.to_bytes(2) + to_port.to_bytes(2)
    family = _V2_STREAM[address.version]
    return V2_SIGNATURE + bytes((_V2_PROXY, family)) + len(body).to_bytes(2) + body
