"""
A reactor that hands input straight to the connection that it is for.

Invariant: one lean case, and Twisted's own code for everything else.  The
case is plain readability of one of our transports; there is no logging context to set up
and no descriptor to ask for, so what is left is a table from descriptor to C{doRead}.
"""

import socket
import sys
import time
from collections import OrderedDict
from collections.abc import Callable
from select import EPOLLEXCLUSIVE, EPOLLIN
from typing import Any

from twisted.internet.epollreactor import EPollReactor
from twisted.internet.error import UnsupportedAddressFamily
from twisted.internet.main import installReactor
from twisted.logger import Logger
from twisted.python.log import callWithLogger

from echod.net.port import EagerPort
from echod.net.transport import EagerTLSTransport, EagerTransport
from echod.net.unix import (
    EagerUNIXPort,
    EagerUNIXTLSTransport,
    EagerUNIXTransport,
    InheritedUNIXPort,
)

log = Logger(namespace="echod.net")

DIRECT = frozenset(
    (
        InheritedUNIXPort,
        EagerPort,
        EagerTransport,
        EagerUNIXPort,
        EagerUNIXTransport,
        EagerTLSTransport,
        EagerUNIXTLSTransport,
    )
)
"""The classes whose input is dispatched directly."""

MAX_EVENTS = 128
"""
How many events one poll may give.  Twisted asks for one for each open descriptor, and
CPython allocates room for all that are asked for, at each poll; and timers and signals wait
until all are served.  What is left over keeps its place in the kernel's queue (epoll(7)).
"""

TURN_SECONDS = 0.005
"""
How long one turn may serve those whose reading was put off, and how long it may look for
others before that.
"""


class EagerReactor(EPollReactor):
    """
    Twisted's epoll reactor with direct dispatch, our ports, and a clock that cannot
    step.
    """

    seconds = staticmethod(time.monotonic)

    def __init__(self) -> None:
        self._last: OrderedDict[Any, None] = OrderedDict()
        super().__init__()

    def doPoll(self, timeout: float | None) -> None:
        """
        Wait for events, and dispatch them; then let those read who come last, as many as
        there is time for.
        """
        selectables, polls, until = self._selectables, 1, 0.0
        if self._last:
            # These have input all the while, and may fill many a poll before the others'.
            polls += 1 + len(self._last) // MAX_EVENTS
            timeout, until = 0, time.monotonic() + TURN_SECONDS
        for _ in range(polls):
            try:
                events = self._poller.poll(
                    -1 if timeout is None else timeout, min(len(selectables), MAX_EVENTS)
                )
            except InterruptedError:
                return
            for fd, event in events:
                selectable: Any = selectables.get(fd)
                if type(selectable) not in DIRECT:
                    if selectable is not None:
                        callWithLogger(selectable, self._doReadOrWrite, selectable, fd, event)
                elif event == EPOLLIN:
                    try:
                        why = selectable.doRead()
                    except BaseException:
                        why = sys.exc_info()[1]
                        log.failure("while receiving", event="unhandled-error")
                    if why is not None:
                        self._guard(self._disconnectSelectable, selectable, why, True)
                else:
                    self._guard(self._doReadOrWrite, selectable, fd, event)
            if len(events) < MAX_EVENTS or time.monotonic() >= until:
                break
        if self._last:
            self._read_last()

    def putOff(self, transport: Any) -> None:
        """
        There is input for one of our transports, and it may take long: let it read when all
        others that have input have been served, in the order in which they are put off.

        The transport's C{readLate} is called then, if it still reads, and returns what
        C{doRead} does.
        """
        self._last[transport] = None

    def _read_last(self) -> None:
        until = time.monotonic() + TURN_SECONDS
        while self._last:
            transport, _ = self._last.popitem(last=False)
            # Meanwhile it may have paused or ended, and its descriptor be another one's.
            if not transport.connected or transport.fileno() not in self._reads:
                continue
            try:
                why = transport.readLate()
            except BaseException:
                why = sys.exc_info()[1]
                log.failure("while receiving", event="unhandled-error")
            if why is not None:
                self._guard(self._disconnectSelectable, transport, why, True)
            if time.monotonic() >= until:
                break

    def _guard(self, call: Callable[..., None], *args: Any) -> None:
        """
        Let a fault in one connection's end be that connection's alone.
        """
        try:
            call(*args)
        except BaseException:
            log.failure("while ending a connection", event="unhandled-error")

    doIteration = doPoll

    def rearm_exclusive(self, reader: Any) -> None:
        """
        Let a port stand last in the kernel's queue of those, in several processes, who wait
        for the same socket, and of whom one is woken for each client (C{EPOLLEXCLUSIVE},
        epoll_ctl(2)).  Left where it stands, the first one would be woken each time.
        """
        self.removeReader(reader)
        fileno = reader.fileno()
        self._poller.register(fileno, EPOLLIN | EPOLLEXCLUSIVE)
        self._reads.add(fileno)
        self._selectables[fileno] = reader

    def listenTCP(
        self, port: Any, factory: Any, backlog: int = 50, interface: str = ""
    ) -> EagerPort:
        """
        Listen on a TCP port.
        """
        listening = EagerPort(port, factory, backlog, interface, self)
        listening.startListening()
        return listening

    def listenUNIX(
        self, address: Any, factory: Any, backlog: int = 50, mode: int = 0o666, wantPID: Any = 0
    ) -> EagerUNIXPort:
        """
        Listen on a UNIX socket.
        """
        listening = EagerUNIXPort(address, factory, backlog, mode, self, wantPID)
        listening.startListening()
        return listening

    def adoptStreamPort(self, fileDescriptor: int, addressFamily: Any, factory: Any) -> Any:
        """
        Listen on a socket that listens already.
        """
        if addressFamily not in self._supportedAddressFamilies:
            raise UnsupportedAddressFamily(addressFamily)
        listening: EagerPort | EagerUNIXPort
        if addressFamily == socket.AF_UNIX:
            listening = EagerUNIXPort._fromListeningDescriptor(self, fileDescriptor, factory)
        else:
            listening = EagerPort._fromListeningDescriptor(
                self, fileDescriptor, addressFamily, factory
            )
        listening.startListening()
        return listening


def install() -> None:
    """
    Make it the reactor of this process.

    @raise ReactorAlreadyInstalledError: when there is one.
    """
    installReactor(EagerReactor())
