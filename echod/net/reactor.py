"""
A reactor that calls C{doRead} of a readable connection directly.

Invariant: one short case, and Twisted's own code for everything else.  The case is plain
readability (C{EPOLLIN}) of one of our transports or ports: it needs no logging context and no
check of its descriptor, only a table from the descriptor to the object.
"""

import socket
import sys
import time
from collections import OrderedDict
from collections.abc import Callable
from select import EPOLLERR, EPOLLET, EPOLLEXCLUSIVE, EPOLLHUP, EPOLLIN
from typing import Any

from twisted.internet.epollreactor import EPollReactor
from twisted.internet.error import UnsupportedAddressFamily
from twisted.internet.main import CONNECTION_DONE, installReactor
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.python.log import callWithLogger

from echod.net.port import EagerPort
from echod.net.splice import SPLICE, Splicer
from echod.net.transport import EagerTLSTransport, EagerTransport
from echod.net.udp import DatagramPort
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
        DatagramPort,
    )
)
"""The classes whose C{doRead} is called directly."""

MAX_EVENTS = 128
"""
How many events one poll may return.  Twisted asks for one for each open descriptor; CPython
allocates memory for all of them at each poll, and timers and signals wait until all are served.
The events that are not returned stay in the kernel's queue, in their order (epoll(7)).
"""

HANGUP = EPOLLHUP | EPOLLERR
"""
The events of a connection that is reset.  The kernel sets the state of the socket before it ends
its input (C{tcp_done} in net/ipv4/tcp.c), and so a poll in between finds no C{EPOLLIN}.
"""

LONGEST_POLL = 86400.0
"""Seconds.  For a timer that is further away, Twisted's C{timeout} finds what a poll may take."""

LATE_READS_LIMIT = 0.005
"""
Seconds for which one turn of the loop may serve the transports whose reading was put off, and
for which it may poll for other events before that.
"""


_DONE = Failure(CONNECTION_DONE)


class EagerReactor(EPollReactor):
    """
    Twisted's epoll reactor with direct dispatch, our ports, and a clock that never jumps.

    @ivar splicer: what our transports relay bulk data with; C{None} where splice(2) is missing.
    """

    seconds = staticmethod(time.monotonic)

    def __init__(self) -> None:
        self._late: OrderedDict[Any, None] = OrderedDict()
        self.splicer = Splicer(SPLICE) if SPLICE else None
        super().__init__()

    def mainLoop(self) -> None:
        """
        Poll until the reactor has stopped.  Twisted's own loop looks for timers and for calls of
        other threads before each poll, in nine calls of Python; here a poll follows at once while
        there are none.
        """
        while self._started:
            try:
                self.runUntilCurrent()
                timeout = self.running and self.timeout()
                self.doPoll(timeout)
                while self.running and not (
                    self._newTimedCalls or self.threadCallQueue or self._justStopped
                ):
                    if timers := self._pendingTimedCalls:
                        timeout = timers[0].time - self.seconds()
                        if not 0 < timeout < LONGEST_POLL:
                            break
                    else:
                        timeout = None
                    self.doPoll(timeout)
            except BaseException:
                log.failure("in the event loop", event="unhandled-error")
        # It logs the end.
        super().mainLoop()

    def doPoll(self, timeout: float | None) -> None:
        """
        Wait for events, and dispatch them; then let the transports read that were put off, as
        many as there is time for.
        """
        selectables, polls, deadline = self._selectables, 1, 0.0
        if self._late:
            # These stay readable, so their events may fill several polls before the others'.
            polls += 1 + len(self._late) // MAX_EVENTS
            timeout, deadline = 0, time.monotonic() + LATE_READS_LIMIT
        while polls:
            polls -= 1
            try:
                events = self._poller.poll(-1 if timeout is None else timeout, MAX_EVENTS)
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
                        self._ended(selectable, why)
                else:
                    if event & HANGUP and fd in self._reads:
                        # The read tells a reset from a close.  Without EPOLLIN, which may be
                        # there only at the next poll, Twisted takes each hang-up for a close.
                        event |= EPOLLIN
                    self._guard(self._doReadOrWrite, selectable, fd, event)
            if len(events) < MAX_EVENTS or time.monotonic() >= deadline:
                break
        if self._late:
            self._readLast()

    def putOff(self, transport: Any) -> None:
        """
        One of our transports is readable, and its read may take long: let it read after all
        other readable connections, in the order of these calls.

        If the transport still reads then, its C{readLate} is called, which returns what
        C{doRead} returns.
        """
        self._late[transport] = None

    def _readLast(self) -> None:
        deadline = time.monotonic() + LATE_READS_LIMIT
        while self._late:
            transport, _ = self._late.popitem(last=False)
            # It may have paused or ended since, and its descriptor may be another connection's.
            if not transport.connected or transport.fileno() not in self._reads:
                continue
            try:
                why = transport.readLate()
            except BaseException:
                why = sys.exc_info()[1]
                log.failure("while receiving", event="unhandled-error")
            if why is not None:
                self._ended(transport, why)
            if time.monotonic() >= deadline:
                break

    def _ended(self, transport: Any, why: Any) -> None:
        """
        A read has found why the connection, or its input, ends.
        """
        try:
            if why is CONNECTION_DONE:
                # It is still registered, so that an end takes one call of epoll_ctl(2).
                transport.readConnectionLost(_DONE)
            else:
                self._disconnectSelectable(transport, why, True)
        except BaseException:
            log.failure("while ending a connection", event="unhandled-error")

    def _guard(self, call: Callable[..., None], *args: Any) -> None:
        """
        Keep an error at the end of one connection from stopping the loop.
        """
        try:
            call(*args)
        except BaseException:
            log.failure("while ending a connection", event="unhandled-error")

    doIteration = doPoll

    def addReader(self, reader: Any) -> None:
        """
        Report when a descriptor is readable.
        """
        fileno = reader.fileno()
        if type(reader) not in DIRECT or fileno in self._selectables:
            super().addReader(reader)
            return
        self._poller.register(fileno, EPOLLIN)
        self._reads.add(fileno)
        self._selectables[fileno] = reader

    def forget(self, fileno: int) -> None:
        """
        Report nothing more of a descriptor, which is about to be closed.
        """
        if self._selectables.pop(fileno, None) is not None:
            # close(2) would do the same, unless a child process has the descriptor too.
            self._poller.unregister(fileno)
            self._reads.discard(fileno)
            self._writes.discard(fileno)

    def rearmExclusive(self, reader: Any) -> None:
        """
        Put a port at the end of the kernel's queue of the processes that wait for the same
        socket.  The kernel wakes one of them for each client (C{EPOLLEXCLUSIVE}, epoll_ctl(2));
        if none moved, it would wake the first one each time.
        """
        self.removeReader(reader)
        self._register(reader, EPOLLIN | EPOLLEXCLUSIVE)

    def watchEnd(self, transport: Any) -> None:
        """
        Call C{doRead} of one of our transports, which does not read or write any more, when the
        kernel has ended its connection: the peer has acknowledged all, has reset it, or is gone.

        A connection with both directions closed hangs up at each poll, so it is registered
        edge-triggered (epoll(7)).  The first call comes at once; the next one when the state of
        the connection changes (C{tcp_done} in net/ipv4/tcp.c), so it costs nothing until then.
        """
        self._register(transport, EPOLLIN | EPOLLET)

    def _register(self, reader: Any, events: int) -> None:
        fileno = reader.fileno()
        self._poller.register(fileno, events)
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
        Accept on a socket that already listens.
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
    Make this the reactor of the process.

    @raise ReactorAlreadyInstalledError: when there is one already.
    """
    installReactor(EagerReactor())
