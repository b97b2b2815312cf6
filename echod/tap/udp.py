"""
The settings of UDP, and how its listeners are built.

Invariant: a description that names no socket is found here; the socket is opened when the service
starts.
"""

import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from echod._util.endpoints import endpoint_settings
from echod._util.errors import StartupError
from echod._util.text import escape
from echod.connections.admission import AccessRules, RateLimiter
from echod.net.udp import bind
from echod.options.parameters import DEFAULT_UDP_RATE, OptionValues
from echod.systemd import InheritedSocket, InheritedSockets
from echod.udp import DatagramAdmission, UDPListener
from echod.workers.master import HeldUDPListener
from echod.workers.spawn import InheritedListener


@dataclass(frozen=True)
class UDPSettings:
    """
    Settings of UDP.

    @ivar port: the port of C{--udp-port}; C{None} without it.
    @ivar interface: the address for this port; C{None} for all addresses, IPv4 and IPv6.
    @ivar descriptions: the values of C{--udp-listen}.
    @ivar rate: datagrams a second, and burst, of one client; 0 for no limit.
    """

    port: int | None
    interface: str | None
    descriptions: Sequence[str]
    rules: AccessRules
    rate: tuple[float, int]

    @classmethod
    def from_options(cls, options: OptionValues) -> "UDPSettings":
        """
        Make the settings of the options.
        """
        return cls(
            options["udp-port"],
            options["interface"],
            options["udp-listen"],
            AccessRules(options["allow"], options["deny"]),
            options["udp-rate"] or DEFAULT_UDP_RATE,
        )

    def admission(self, clock: Any) -> DatagramAdmission:
        """
        Build what decides which datagrams are answered, for all listeners of this process.
        """
        limiter = RateLimiter(clock, *self.rate) if self.rate[0] else None
        return DatagramAdmission(self.rules, limiter)

    def listeners(self, reactor: Any, inherited: InheritedSockets) -> list[UDPListener]:
        """
        Build the listeners of a process that opens the sockets and answers on them.

        @raise StartupError: if a description names no socket.
        """
        admission = self.admission(reactor)
        return [
            UDPListener(option, name, opener, admission, reactor, leaves_queue=borrowed)
            for option, name, opener, borrowed in self._sockets(inherited)
        ]

    def held_listeners(self, reactor: Any, inherited: InheritedSockets) -> list[HeldUDPListener]:
        """
        Build the listeners of the master, which opens the sockets for its workers.

        @raise StartupError: if a description names no socket.
        """
        admission = self.admission(reactor)
        return [
            HeldUDPListener(option, name, opener, admission, reactor, borrowed)
            for option, name, opener, borrowed in self._sockets(inherited)
        ]

    def _sockets(
        self, inherited: InheritedSockets
    ) -> list[tuple[str, str, Callable[[], socket.socket], bool]]:
        """
        The option, the name and the opener of each socket, and whether it is inherited.
        """
        found: list[tuple[str, str, Callable[[], socket.socket], bool]] = []
        if self.port is not None:
            at = f" --interface {self.interface}" if self.interface else ""
            opener = partial(bind, self.port, self.interface)
            found.append((f"--udp-port {self.port}{at}", "udp", opener, False))
        for text in self.descriptions:
            option = f"--udp-listen {escape(text)}"
            if text.startswith("systemd:"):
                try:
                    taken = inherited.take(text, datagrams=True)
                except ValueError as error:
                    raise StartupError(f"{option}: {error}") from None
                found += [(option, each.name, each.take_socket, True) for each in taken]
            else:
                fields = endpoint_settings(text, "port", "interface")
                opener = partial(bind, int(fields["port"]), fields.get("interface"))
                found.append((option, text, opener, False))
        return found


def worker_listener(
    reactor: Any,
    admission: DatagramAdmission,
    listener: InheritedListener,
    descriptor: int,
    counts_kernel_drops: bool,
) -> UDPListener:
    """
    Build a listener of a worker, which answers on a socket that the master has opened.

    @param admission: that of all listeners of this worker.
    @param counts_kernel_drops: see L{UDPListener}; true for one of the workers.
    """
    return UDPListener(
        listener.option,
        listener.name,
        InheritedSocket(listener.name, descriptor).take_socket,
        admission,
        reactor,
        leaves_queue=listener.borrowed,
        shared=True,
        counts_kernel_drops=counts_kernel_drops,
    )
