"""
The check over UDP (C{--udp}): one datagram, whose answer has to be equal.

Invariant: an error that the network reports does not end the socket: it is about a datagram that
was sent before, and other datagrams may come back.
"""

import errno
import os
import socket
from collections.abc import Awaitable, Callable
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.interfaces import IReadDescriptor
from zope.interface import implementer

from echod._util.text import format_address
from echod._util.values import port_number, server_name
from echod.check.connect import Addresses, resolve, timeout_after
from echod.check.probe import Comparison, Pattern
from echod.check.results import CheckError, CheckResult, DescriptorError, Outcome
from echod.check.target import HOST_PORT

MAX_DATAGRAM_BYTES = 65507
"""The longest datagram over IPv4: 65,535 bytes less two headers (RFC 791, RFC 768)."""

MIN_PING_BYTES = 16
"""The shortest message of the ping: a random text of 8 bytes, and a number of 8."""

Target = tuple[str, int]
LookUp = Callable[[Any, str, int], Awaitable[Addresses]]


def udp_target(text: str) -> Target:
    """
    @return: host and port of a target.
    @raise ValueError: when it is no C{HOST:PORT}.
    """
    match = HOST_PORT.fullmatch(text)
    if match is None:
        raise ValueError("not a server for --udp; give HOST:PORT or [IPv6]:PORT")
    host, port = match[1] or match[2], port_number(match[3])
    return (f"{server_name(host)}." if host.endswith(".") else server_name(host)), port


def failure_of(error: OSError) -> CheckError:
    """
    Why a datagram could not be sent, or was not delivered.

    @raise DescriptorError: if there was no descriptor to send it on.
    """
    DescriptorError.raise_for(error.errno)
    text = os.strerror(error.errno or 0)
    refused = error.errno == errno.ECONNREFUSED
    return CheckError(Outcome.REFUSED if refused else Outcome.UNREACHABLE, text)


@implementer(IReadDescriptor)
class DatagramSocket:
    """
    A UDP socket that is connected to one server, so that the kernel reports ICMP errors.  Twisted's
    C{connect} for UDP reports one of them only, and ends at the others.

    @ivar peer: the server's address.
    """

    def __init__(
        self,
        reactor: Any,
        family: int,
        address: Any,
        received: Callable[[bytes], object],
        failed: Callable[[CheckError], object],
    ):
        """
        @param address: the server's, as C{getaddrinfo} returns it.
        @param received: called with each datagram.
        @param failed: called when the server's host, or a router, says that it was not delivered.
        @raise CheckError: when there is no route.
        """
        kind = IPv6Address if family == socket.AF_INET6 else IPv4Address
        self.peer = format_address(kind("UDP", *address[:2]))
        self._reactor = reactor
        self._received = received
        self._failed = failed
        try:
            self._socket = socket.socket(family, socket.SOCK_DGRAM)
        except OSError as error:
            raise failure_of(error) from None
        try:
            self._socket.setblocking(False)
            self._socket.connect(address)
        except OSError as error:
            self._socket.close()
            raise failure_of(error) from None
        reactor.addReader(self)

    def send(self, datagram: bytes) -> None:
        """
        Send a datagram.

        @raise CheckError: when the kernel does not take it.
        """
        try:
            number = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if number:
                # A datagram before was not delivered; send() would report it in place of sending.
                self._failed(failure_of(OSError(number, "")))
            self._socket.send(datagram)
        except OSError as error:
            raise failure_of(error) from None

    def doRead(self) -> None:
        """
        Pass on what has come.
        """
        while self._socket.fileno() >= 0:
            try:
                datagram = self._socket.recv(65536)
            except BlockingIOError:
                return
            except OSError as error:
                self._failed(failure_of(error))
            else:
                self._received(datagram)

    def fileno(self) -> int:
        """
        The descriptor; -1 when it is closed.
        """
        return int(self._socket.fileno())

    def logPrefix(self) -> str:
        """
        For Twisted's log.
        """
        return "echod-check"

    def connectionLost(self, reason: object) -> None:
        """
        The reactor has seen an error, which a datagram before has caused, and goes on; or it stops.
        """
        number = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if not number:
            self.close()
            return
        self._reactor.addReader(self)
        self._failed(failure_of(OSError(number, "")))

    def close(self) -> None:
        """
        Close the socket; again does nothing.
        """
        if self._socket.fileno() >= 0:
            self._reactor.removeReader(self)
            self._socket.close()


async def look_up_server(
    reactor: Any, target: Target, result: CheckResult, look_up: LookUp
) -> list[tuple[int, Any]]:
    """
    Look up the server's addresses, each with its family, in the order that the system prefers.

    @raise CheckError: when there is none.
    """
    result.stage = "resolving"
    result.times.begin(reactor.seconds())
    try:
        found = await look_up(reactor, *target)
    except OSError as error:
        DescriptorError.raise_for(error.errno)
        raise CheckError(Outcome.UNRESOLVED, error.strerror or str(error)) from None
    except UnicodeError:
        raise CheckError(Outcome.UNRESOLVED, "not a host name") from None
    result.times.complete("resolve", reactor.seconds())
    return [(each[0], each[4]) for each in found]


async def check_datagram(
    reactor: Any,
    target: Target,
    size: int,
    timeout_seconds: float,
    look_up: LookUp = resolve,
) -> CheckResult:
    """
    Check a server once, with one datagram.  If an address of the server refuses it, the next
    address is tried.

    @param size: how many random bytes to send.
    """
    result = CheckResult()

    async def run() -> None:
        addresses = await look_up_server(reactor, target, result, look_up)
        while True:
            family, address = addresses.pop(0)
            try:
                await _exchange(reactor, family, address, Pattern.random(size), size, result)
                return
            except CheckError as failure:
                refused = failure.outcome in (Outcome.REFUSED, Outcome.UNREACHABLE)
                if not refused or not addresses:
                    raise

    try:
        await timeout_after(reactor, timeout_seconds, run())
    except CheckError as failure:
        result.failure = failure
    except TimeoutError:
        text = f"{result.stage}, after {timeout_seconds:g} s"
        result.failure = CheckError(Outcome.TIMED_OUT, text)
    result.times.end(reactor.seconds())
    return result


async def _exchange(
    reactor: Any, family: int, address: Any, pattern: Pattern, size: int, result: CheckResult
) -> None:
    # The first answer, or the first error, closes the socket: there is no second call.
    answer: Deferred[bytes] = Deferred()
    link = DatagramSocket(reactor, family, address, answer.callback, answer.errback)
    try:
        result.peer, result.stage = link.peer, "waiting for the echo"
        start = reactor.seconds()
        link.send(pattern.at(0, size))
        datagram = await answer
        result.times.first_byte = reactor.seconds() - start
        result.times.complete("echo", reactor.seconds())
    finally:
        link.close()
    result.received = len(datagram)
    compare(datagram, pattern, size)


def compare(datagram: bytes, pattern: Pattern, size: int) -> None:
    """
    Compare an answer with the start of a pattern.

    @raise CheckError: when it is not equal.
    """
    comparison = Comparison(pattern, size)
    comparison.feed(datagram)
    if comparison.differs:
        raise comparison.difference()
    if not comparison.complete:
        raise CheckError(Outcome.LOST, comparison.progress())
