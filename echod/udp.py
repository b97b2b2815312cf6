"""
The echo over UDP: L{UDPEcho}, the protocol of one socket, and L{UDPListener}, the service that
opens the socket and closes it.

Invariant: each datagram that a client sends is answered once, whole, and to its sender, or is
counted with the reason why not.  An answer is never larger than the question.  Two servers that
answer each other never stop, so what comes from a system port, or from a port with the number of
echod's own, is not answered; between others, the rate of each client is the limit.
"""

import errno
import select
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from enum import Enum
from functools import lru_cache
from ipaddress import ip_address
from typing import Any

from twisted.application.service import MultiService
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.protocol import DatagramProtocol
from twisted.logger import Logger

from echod._util.text import format_address
from echod._util.timers import one_step_a_turn, periodic
from echod.connections.admission import AccessRules, Client, RateLimiter, client_of
from echod.connections.timeouts import CHECK_INTERVAL
from echod.net.announcement import Place, is_dual_stack
from echod.net.listener import listen_failed, log_listening, log_refused_option
from echod.net.udp import (
    SEND_BUFFER_FULL,
    DatagramPort,
    kernel_drops,
    set_datagram_options,
)

log = Logger(namespace="echod.udp")

FIRST_USER_PORT = 1024
"""
The lowest source port that is answered.  The ports below are those of system services (RFC 6335
6), such as echo, chargen, DNS and NTP, which answer in their turn.
"""

SUMMARY_INTERVAL = 60.0
"""How often, in seconds, the totals are logged while there is traffic."""

MAX_HOSTS = 4096
"""For how many addresses it is stored whether the access rules admit them."""

MAX_DRAIN_TURNS = 1024
"""How many turns of the loop a stop takes for what is queued, at most."""


class Drop(Enum):
    """
    Why a datagram is not answered.
    """

    DENIED = "denied"
    UDP_RATE = "udp-rate"
    LOW_PORT = "low-port"
    OWN_PORT = "own-port"
    BROADCAST = "broadcast"
    RECEIVE_BUFFER = "receive-buffer"
    SEND_BUFFER = "send-buffer"
    SEND_FAILED = "send-failed"


class DatagramAdmission:
    """
    Which datagrams are answered; for all UDP listeners.

    @ivar own_ports: the ports of these listeners.
    """

    def __init__(self, rules: AccessRules | None = None, rate: RateLimiter | None = None):
        """
        @param rate: how many datagrams of one client are answered; C{None} for no limit.
        """
        self.own_ports: set[int] = set()
        self._rules = rules
        self._rate = rate
        # Rules do not change, and to parse an address takes as long as the rest of an echo.
        self._look_up = lru_cache(MAX_HOSTS)(self._judge)

    def _judge(self, host: str) -> tuple[Client, Drop | None]:
        ip = ip_address(host)
        ip = getattr(ip, "ipv4_mapped", None) or ip
        drop = None
        if ip.is_multicast or ip.is_unspecified or str(ip) == "255.255.255.255":
            drop = Drop.BROADCAST
        elif self._rules and not self._rules.admit(ip):
            drop = Drop.DENIED
        return client_of(ip), drop

    def refusal(self, host: str, port: int) -> Drop | None:
        """
        Why a datagram from this address is not answered; C{None} if it is.
        """
        if port < FIRST_USER_PORT:
            return Drop.LOW_PORT
        if port in self.own_ports:
            return Drop.OWN_PORT
        client, drop = self._look_up(host)
        if drop is None and self._rate is not None and not self._rate.take(client):
            return Drop.UDP_RATE
        return drop

    def clients(self) -> int:
        """
        How many entries are stored about clients.
        """
        return self._look_up.cache_info().currsize + (0 if self._rate is None else len(self._rate))

    def expire(self) -> None:
        """
        Remove what no longer changes a decision.
        """
        if self._rate is not None:
            self._rate.expire()


class UDPEcho(DatagramProtocol):
    """
    Sends each datagram back to where it came from.  There are no connections: one object serves
    all clients of a socket.

    @ivar received: how many datagrams have come.
    @ivar bytes_echoed: the bytes in those that were answered.
    @ivar dropped: how many were not answered, by reason.
    """

    noisy = False
    transport: DatagramPort

    def __init__(self, admission: DatagramAdmission):
        self._refusal = admission.refusal
        self.received = 0
        self.bytes_echoed = 0
        self.dropped: Counter[Drop] = Counter()

    def datagramReceived(self, datagram: bytes, addr: Any) -> None:
        self.received += 1
        drop = self._refusal(addr[0], addr[1])
        if drop is not None:
            self.dropped[drop] += 1
            return
        try:
            self.transport.write(datagram, addr)
        except OSError as error:
            self.dropped[drop_of(error)] += 1
        else:
            self.bytes_echoed += len(datagram)

    def broadcastReceived(self, datagram: bytes, addr: Any) -> None:
        """
        A datagram has come that was sent to many hosts: if each answered, a client with a forged
        address would get many answers for one question (as RFC 1122 3.2.2.6 has it for ICMP's
        echo).
        """
        self.received += 1
        self.dropped[Drop.BROADCAST] += 1

    @property
    def echoed(self) -> int:
        """
        How many datagrams were answered.
        """
        return self.received - self.dropped.total()


def drop_of(error: OSError) -> Drop:
    """
    Which reason an error of a send is.
    """
    if error.errno in SEND_BUFFER_FULL:
        return Drop.SEND_BUFFER
    # EACCES: the sender's address is the broadcast address of a network (udp(7)).
    return Drop.BROADCAST if error.errno == errno.EACCES else Drop.SEND_FAILED


class UDPListener(MultiService):
    """
    One UDP socket, from bind to close.

    @ivar option: the option that asks for it, with its value.
    @ivar listener_name: its name, for logs and metrics.
    @ivar echo: the protocol, with its counters.
    """

    _socket: socket.socket | None = None
    _port: DatagramPort | None = None

    def __init__(
        self,
        option: str,
        name: str,
        open_socket: Callable[[], socket.socket],
        admission: DatagramAdmission,
        reactor: Any,
        leaves_queue: bool = False,
        shared: bool = False,
        counts_kernel_drops: bool = True,
    ):
        """
        @param open_socket: returns the bound socket; may raise C{OSError} or C{ValueError}.
        @param leaves_queue: whether a stop leaves what is queued to another process.
        @param shared: whether other processes read from the same socket.
        @param counts_kernel_drops: whether what the kernel discards counts here; one process only
            counts it.
        """
        super().__init__()
        self.option = option
        self.listener_name = name
        self.echo = UDPEcho(admission)
        self._open = open_socket
        self._admission = admission
        self._reactor = reactor
        self._leaves_queue = leaves_queue
        self._shared = shared
        self._counts_kernel_drops = counts_kernel_drops
        self._kernel_drops_before = self._kernel_drops = 0
        self._logged: tuple[int, int, Counter[Drop]] = (0, 0, Counter())
        for seconds, doing, action in (
            (SUMMARY_INTERVAL, "logging datagrams", self.log_summary),
            (CHECK_INTERVAL, "expiring clients", admission.expire),
        ):
            periodic(reactor, seconds, doing, action).setServiceParent(self)

    def privilegedStartService(self) -> None:
        """
        Bind, before the process gives up its privileges.

        @raise ListenError: if that fails.
        """
        try:
            bound = self._open()
        except (OSError, ValueError) as error:
            raise listen_failed(self.option, error) from None
        self._socket = bound
        if self._counts_kernel_drops:
            # An inherited socket, as from systemd, has dropped for the processes before this one.
            self._kernel_drops_before = kernel_drops(bound)
        for name, refusal in set_datagram_options(bound):
            log_refused_option(self.option, name, refusal)
        self._admission.own_ports.add(bound.getsockname()[1])
        log_listening(self.option, self.address(), not self._shared)

    def startService(self) -> None:
        """
        Start to answer; bind, unless C{privilegedStartService} has done so.
        """
        if self._socket is None:
            self.privilegedStartService()
        super().startService()
        self.start_reading()

    def start_reading(self) -> None:
        """
        Answer datagrams from now on.
        """
        self._port = DatagramPort(self._reactor, self._socket, self.echo)
        self._port.startListening()
        self.rearm()

    def stopService(self) -> Deferred[None]:
        """
        Answer what is queued, then close the socket.

        @return: a Deferred that fires when the socket is closed.
        """
        # Before the start there are no timers to stop.
        stopping: Deferred[Any] = super().stopService() if self.running else succeed(None)
        stopping.addCallback(self._drain)
        return stopping.addCallback(self._close)

    def _drain(self, _: object) -> Deferred[Any] | None:
        if self._port is None or self._leaves_queue:
            return None
        return one_step_a_turn(self._reactor, self._queued_turns(self._port))

    def _queued_turns(self, port: DatagramPort) -> Iterator[None]:
        waiting = select.poll()
        waiting.register(port.fileno(), select.POLLIN)
        # A client that sends on and on must not hold up the stop.
        for _ in range(MAX_DRAIN_TURNS):
            if not waiting.poll(0):
                return
            port.doRead()
            yield

    def _close(self, _: object) -> Deferred[Any] | None:
        self._kernel_drops = self._count_kernel_drops()
        bound, self._socket = self._socket, None
        port, self._port = self._port, None
        closing = None
        if port is not None:
            self.log_summary()
            closing = maybeDeferred(port.stopListening)
        elif bound is not None:
            bound.close()
        return closing

    def _count_kernel_drops(self) -> int:
        if self._socket is None or not self._counts_kernel_drops:
            return self._kernel_drops
        # The kernel's counter has 32 bits.
        return (kernel_drops(self._socket) - self._kernel_drops_before) % 2**32

    def dropped(self) -> Counter[Drop]:
        """
        How many datagrams were not answered, by reason; also those that the kernel has discarded.
        """
        # Each reason is there from 0 on, so that Prometheus sees its first rise.
        dropped = Counter(dict.fromkeys(Drop, 0))
        dropped.update(self.echo.dropped)
        dropped[Drop.RECEIVE_BUFFER] = self._count_kernel_drops()
        return dropped

    def log_summary(self) -> None:
        """
        Log the totals since the last call, if there was traffic.
        """
        echoed, size, dropped = self.echo.echoed, self.echo.bytes_echoed, self.dropped()
        echoed_before, size_before, dropped_before = self._logged
        self._logged = echoed, size, dropped
        new = dropped - dropped_before
        if echoed == echoed_before and not new:
            return
        log.info(
            "{listener}: {count} datagrams echoed, {bytes} bytes; {dropped} dropped{reasons}",
            event="datagrams-echoed",
            listener=self.listener_name,
            count=echoed - echoed_before,
            bytes=size - size_before,
            dropped=new.total(),
            reasons="".join(f", {reason.value} {number}" for reason, number in new.items()),
        )

    @property
    def bound(self) -> bool:
        """
        Whether it listens.
        """
        return self._socket is not None

    def when_bound(self) -> Deferred[None]:
        """
        @return: a Deferred that has fired: a bind that fails ends the start.
        """
        return succeed(None)

    def rearm(self) -> None:
        """
        With several workers, let the kernel wake only one of them for each datagram; called again
        and again, also take what another worker was woken for and has not taken.
        """
        rearm = getattr(self._reactor, "rearmExclusive", None)
        if self._shared and rearm is not None and self._port is not None:
            rearm(self._port)

    def fileno(self) -> int:
        """
        The descriptor of the socket; -1 when it is not open.
        """
        return -1 if self._socket is None else self._socket.fileno()

    def address(self) -> str:
        """
        The address that it listens on, as text.
        """
        if self._socket is None:
            return "nowhere"
        host, port = self._socket.getsockname()[:2]
        kind = IPv6Address if self._socket.family == socket.AF_INET6 else IPv4Address
        return format_address(kind("UDP", host, port))

    def place(self) -> Place:
        """
        Where it listens, for a person.
        """
        dual_stack = self._socket is not None and is_dual_stack(self._socket)
        return Place(self.address(), False, dual_stack, udp=True)
