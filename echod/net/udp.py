"""
UDP ports: datagrams are answered from the address that they were sent to.

Invariant: one turn of the loop takes a bounded number of datagrams, whatever their size, and no
datagram, answer or error ends the port.

A socket that is bound to all addresses does not know which of them a client has asked; the kernel
would answer from the one that its routes prefer, and the client or its firewall would discard the
answer.  The kernel tells the address of each datagram in ancillary data (C{IP_PKTINFO}, ip(7);
C{IPV6_RECVPKTINFO}, RFC 3542 6.2), which Twisted's own port does not ask for.
"""

import errno
import socket
import struct
import sys
from functools import lru_cache
from ipaddress import ip_address
from typing import Any, Protocol

from twisted.internet import base, udp
from twisted.logger import Logger
from twisted.python.failure import Failure

log = Logger(namespace="echod.net")

MAX_DATAGRAMS = 32
"""
How many datagrams a port may take in one turn of the loop: these take less than a millisecond,
for which the connections wait.  Twisted counts bytes (C{maxThroughput}), and empty datagrams
have none: as long as they come, its port reads on.
"""

MAX_DATAGRAM_BYTES = 65536
"""More than the longest datagram: 65,507 bytes of IPv4, 65,527 of IPv6 (RFC 768, RFC 8200)."""

RECEIVE_BUFFER_BYTES = 4 * 1024 * 1024
"""
How much the kernel buffers until echod reads it, at most: it limits the figure to
C{net.core.rmem_max} (socket(7)).  A datagram that does not fit is lost.
"""

MAX_DESTINATIONS = 1024
"""For how many addresses of this machine the ancillary data of an answer is stored."""

# Python's socket module has them since 3.12 or not at all.
_IP_PKTINFO = 8
_IP_RECVERR = 11
_IPV6_RECVERR = 25
_SO_MEMINFO = 55

_ANCILLARY_BYTES = 256
"""
Bytes for an C{in_pktinfo} and an C{in6_pktinfo}, and for what else an inherited socket is set to
tell, such as a timestamp.  For IPv4, a dual-stack socket tells both, in an order that depends on
the kernel; C{in_pktinfo} says more.
"""

Ancillary = list[tuple[int, int, bytes]]


class IDatagramEcho(Protocol):
    """
    What a L{DatagramPort} needs of its protocol, besides Twisted's C{DatagramProtocol}.
    """

    def broadcastReceived(self, datagram: bytes, addr: Any) -> None:
        """
        A datagram has come that was sent to a broadcast or multicast address.
        """


def bind(port: int, interface: str | None, dual_stack: bool | None = None) -> socket.socket:
    """
    Bind a UDP socket, by default for IPv4 and IPv6, or for IPv4 only if the machine has no IPv6.

    @param interface: the IP address to bind to; C{None} for all addresses.
    @param dual_stack: whether the machine has IPv6; C{None} to find out.
    @raise OSError: if that fails.
    """
    if dual_stack is None:
        dual_stack = socket.has_dualstack_ipv6()
    address: Any = ("", port)
    family = socket.AF_INET6 if dual_stack else socket.AF_INET
    if interface is not None:
        family = socket.AF_INET6 if ip_address(interface).version == 6 else socket.AF_INET
        address = socket.getaddrinfo(interface, port, family, socket.SOCK_DGRAM)[0][4]
    bound = socket.socket(family, socket.SOCK_DGRAM)
    try:
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, interface is not None)
        bound.bind(address)
    except BaseException:
        bound.close()
        raise
    return bound


def set_datagram_options(bound: socket.socket) -> list[tuple[str, OSError]]:
    """
    Set the options of a UDP socket.

    @return: the options that the kernel refuses, as in some containers, each with its error.
    """
    options = [
        (socket.SOL_SOCKET, socket.SO_RCVBUF, "SO_RCVBUF", RECEIVE_BUFFER_BYTES),
        # The kernel then refuses answers to broadcast addresses, which only it can know.
        (socket.SOL_SOCKET, socket.SO_BROADCAST, "SO_BROADCAST", 0),
    ]
    if sys.platform == "linux":
        # A queue of errors, as an inherited socket may have, would end the port.
        options.append((socket.IPPROTO_IP, _IP_RECVERR, "IP_RECVERR", 0))
        # On a dual-stack socket both, for in6_pktinfo does not tell an IPv4 broadcast.
        options.append((socket.IPPROTO_IP, _IP_PKTINFO, "IP_PKTINFO", 1))
        if bound.family == socket.AF_INET6:
            v6 = socket.IPPROTO_IPV6
            options.append((v6, socket.IPV6_RECVPKTINFO, "IPV6_RECVPKTINFO", 1))
            options.append((v6, _IPV6_RECVERR, "IPV6_RECVERR", 0))
    refused = []
    for level, option, name, value in options:
        try:
            bound.setsockopt(level, option, value)
        except OSError as error:
            refused.append((name, error))
    return refused


def kernel_drops(bound: socket.socket) -> int:
    """
    How many datagrams the kernel has discarded since the socket was made, modulo 2^32, because its
    buffer was full or the checksum wrong (C{SO_MEMINFO}, C{SK_MEMINFO_DROPS}; Linux 4.12).
    """
    try:
        figures = bound.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 36)
    except OSError:
        return 0
    return int(struct.unpack_from("I", figures, 32)[0]) if len(figures) == 36 else 0


@lru_cache(MAX_DESTINATIONS)
def answer_from(kind: tuple[int, int, bytes]) -> Ancillary | None:
    """
    The ancillary data of the answer to a datagram; C{None} if it was sent to a broadcast or
    multicast address.

    The answer names no interface, unless the address is link-local: the routes decide, as they do
    for TCP.

    @param kind: the ancillary data of the datagram: C{IP_PKTINFO} or C{IPV6_PKTINFO}.
    """
    level, number, data = kind
    if kind[:2] == (socket.IPPROTO_IP, _IP_PKTINFO):
        # struct in_pktinfo: the interface, our address, and the destination in the header.  They
        # differ for broadcast and multicast.
        ours, destination = data[4:8], data[8:12]
        if ours == bytes(4):
            # It came before the option was set, as to an inherited socket.
            ours = destination
        if ours != destination or destination[0] & 0xF0 == 0xE0:
            return None
        return [(level, number, bytes(4) + ours + bytes(4))]
    if kind[:2] != (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO):
        return []
    # struct in6_pktinfo: the destination, and the interface.
    if data[0] == 0xFF:
        return None
    is_link_local = data[0] == 0xFE and data[1] & 0xC0 == 0x80
    return [(level, number, data if is_link_local else data[:16] + bytes(4))]


class DatagramPort(udp.Port):
    """
    A UDP port on a socket that is bound already.

    Its C{write} works as Twisted's.  Called from within C{datagramReceived}, it answers from the
    address that the datagram was sent to.  It raises what the kernel says: C{OSError}.  The
    address of a peer has four parts with IPv6, as the socket gives it: an answer to a link-local
    address needs the last one, the interface (Twisted #6826).
    """

    _source: Ancillary = []
    protocol: Any
    socket: Any

    def __init__(self, reactor: Any, bound: socket.socket, protocol: Any):
        """
        @param bound: the socket, which the port then owns.
        @param protocol: a C{DatagramProtocol} that is an L{IDatagramEcho}.
        """
        bound.setblocking(False)
        super().__init__(None, protocol, bound.getsockname()[0], MAX_DATAGRAM_BYTES, reactor)
        self.socket = bound
        self.fileno = bound.fileno  # type: ignore[method-assign]  # as Twisted's ports do

    def startListening(self) -> None:
        """
        Start to read; without Twisted's line in the log.
        """
        self.connected = True
        self.protocol.makeConnection(self)
        self.startReading()

    def connectionLost(self, reason: Failure | None = None) -> None:
        """
        Close the socket; likewise without a line in the log.

        @param reason: what the reactor has seen; C{None} for C{stopListening}.
        """
        if reason is not None and self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            # An error that is over now, as after ss --kill; a socket without a peer lives on.
            self.startReading()
            return
        base.BasePort.connectionLost(self, reason)
        self.protocol.doStop()
        self.socket.close()
        if hasattr(self, "d"):
            self.d.callback(None)
            del self.d

    def doRead(self) -> None:
        """
        Take up to L{MAX_DATAGRAMS} datagrams.
        """
        receive, protocol = self.socket.recvmsg, self.protocol
        received = protocol.datagramReceived
        for _ in range(MAX_DATAGRAMS):
            try:
                datagram, ancillary, _, addr = receive(MAX_DATAGRAM_BYTES, _ANCILLARY_BYTES)
            except OSError:
                # Nothing is left; or an answer before could not be delivered (ICMP), which says
                # nothing about the next datagram.
                break
            try:
                kind = None
                for each in ancillary:
                    if each[0] != socket.SOL_SOCKET:
                        kind = each
                        if each[0] == socket.IPPROTO_IP:
                            break
                source = [] if kind is None else answer_from(kind)
                if source is None:
                    protocol.broadcastReceived(datagram, addr)
                else:
                    self._source = source
                    received(datagram, addr)
            except Exception:
                log.failure("while answering a datagram", event="unhandled-error")
        # A later write chooses no address.
        self._source = []

    def write(self, datagram: bytes, addr: Any = None) -> None:
        """
        Send a datagram.

        @raise OSError: if the kernel does not take it, as when the send buffer is full.
        """
        self.socket.sendmsg((datagram,), self._source, 0, addr)


SEND_BUFFER_FULL = frozenset((errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM))
"""The errors of a send that needs memory which is not there now."""
