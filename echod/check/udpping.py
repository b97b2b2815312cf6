"""
The ping over UDP (C{--ping --udp}): each message is a datagram with its number in it.

Invariant: an answer counts as an echo only if each of its bytes is equal, and a message is lost
only after its timeout, or when the network reports that it was not delivered.
"""

import os
import struct
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.task import deferLater

from echod.check.connect import resolve, timeout_after
from echod.check.ping import Ping
from echod.check.probe import Pattern
from echod.check.results import CheckError, CheckResult, Outcome
from echod.check.udp import DatagramSocket, LookUp, Target, look_up_server

HEADER = struct.Struct("!8sQ")
"""What a message of the ping starts with: a random text, for this run, and its number."""

MAX_LATE = 10_000
"""How many lost messages are remembered, to tell a late echo from a duplicate."""


class DatagramPing(Ping):
    """
    One run of C{--ping --udp}.

    @ivar reordered: how many echoes came after one that was sent later (RFC 4737 3.3).
    @ivar duplicates: how many echoes came again.
    @ivar late: how many came after their timeout; they are lost all the same.
    @ivar wrong: how many answers were no echo of a message.
    """

    def __init__(
        self,
        *args: Any,
        target: Target,
        note: Callable[[str], object],
        look_up: LookUp = resolve,
        **more: Any,
    ):
        """
        @param args: as for L{Ping}, as C{more}.
        @param note: called with a line about each answer that is no echo in time.
        """
        super().__init__(*args, **more)
        self.reordered = self.duplicates = self.late = self.wrong = 0
        self._target = target
        self._note = note
        self._look_up = look_up
        self._token = os.urandom(8)
        self._pattern = Pattern.random(max(self.size, 1024))
        self._addresses: list[tuple[int, Any]] = []
        self._link: DatagramSocket | None = None
        self._in_flight: dict[int, float] = {}
        self._gone: dict[int, None] = {}
        self._highest = -1
        self._next = 0
        self._idle: Deferred[None] | None = None
        self._timer: Any = None

    def extra(self) -> dict[str, int]:
        """
        The counts besides those of L{Ping}, by name.
        """
        names = ("reordered", "duplicates", "late", "wrong")
        return {name: getattr(self, name) for name in names}

    async def run(self) -> None:
        """
        Send C{count} messages, or until this is canceled, and wait for the last echoes.
        """
        self._start = self.clock.seconds()
        try:
            while self.has_message(self._next):
                start = await self._until_due()
                await self._send(start)
            if self._in_flight:
                self._idle = Deferred()
                await self._idle
        finally:
            if self._timer is not None and self._timer.active():
                self._timer.cancel()
            if self._link is not None:
                self._link.close()

    async def _until_due(self) -> float:
        due = self.due(self._next)
        wait = due - self.clock.seconds()
        if wait <= 0:
            return due
        await deferLater(self.clock, wait, lambda: None)
        # As in PingConnection: epoll_wait(2) wakes late, which is not the server's delay.
        return float(self.clock.seconds())

    async def _send(self, start: float) -> None:
        number = self._next
        self._next += 1
        try:
            link = await self._connect()
            self._in_flight[number] = start
            if self._timer is None or not self._timer.active():
                self._timer = self.clock.callLater(self.timeout_seconds, self._check_timeouts)
            link.send(self._message(number))
        except CheckError as failure:
            self._in_flight.pop(number, None)
            self.message_lost(number, self._peer(), failure)

    def _peer(self) -> str:
        return self._link.peer if self._link is not None else ""

    async def _connect(self) -> DatagramSocket:
        if self._link is None:
            if not self._addresses:
                looking = look_up_server(self.clock, self._target, CheckResult(), self._look_up)
                try:
                    self._addresses = await timeout_after(self.clock, self.timeout_seconds, looking)
                except TimeoutError:
                    text = f"resolving, after {self.timeout_seconds:g} s"
                    raise CheckError(Outcome.TIMED_OUT, text) from None
            # Of several addresses, the next one after a failure.
            family, address = self._addresses[0]
            self._addresses.append(self._addresses.pop(0))
            self._link = DatagramSocket(
                self.clock, family, address, self._received, self._link_failed
            )
        return self._link

    def _message(self, number: int) -> bytes:
        body = self.size - HEADER.size
        return HEADER.pack(self._token, number) + self._pattern.at(number, body)

    def _link_failed(self, failure: CheckError) -> None:
        peer, lost = self._peer(), list(self._in_flight)
        self._in_flight.clear()
        for number in lost:
            self.message_lost(number, peer, failure)
        if not self.latencies.count and len(self._addresses) > 1 and self._link is not None:
            self._link.close()
            self._link = None
        self._check_idle()

    def _check_timeouts(self) -> None:
        now, failure = self.clock.seconds(), None
        for number, start in list(self._in_flight.items()):
            if now - start < self.timeout_seconds:
                wait = start + self.timeout_seconds - now
                self._timer = self.clock.callLater(wait, self._check_timeouts)
                break
            failure = CheckError(Outcome.TIMED_OUT, f"no echo after {self.timeout_seconds:g} s")
            del self._in_flight[number]
            self._gone[number] = None
            if len(self._gone) > MAX_LATE:
                del self._gone[next(iter(self._gone))]
            self.message_lost(number, self._peer(), failure)
        self._check_idle()

    def _check_idle(self) -> None:
        if self._idle is not None and not self._in_flight and not self._idle.called:
            self._idle.callback(None)

    def _received(self, datagram: bytes) -> None:
        number = self._number_of(datagram)
        if number is None:
            self.wrong += 1
            text = f"{len(datagram)} bytes that are no echo of a message"
            self.failure = CheckError(Outcome.CORRUPTED, text)
            self._note(text)
        elif number in self._in_flight:
            start = self._in_flight.pop(number)
            self.reordered += number < self._highest
            self._highest = max(self._highest, number)
            self.message_received(number, self._peer(), start)
        elif number in self._gone:
            del self._gone[number]
            self.late += 1
            self._note(f"seq={number + 1} came late")
        else:
            self.duplicates += 1
            self._note(f"seq={number + 1} came again")
        self._check_idle()

    def _number_of(self, datagram: bytes) -> int | None:
        """
        The number of the message that an answer is the echo of; C{None} if it is none.
        """
        if len(datagram) < HEADER.size:
            return None
        token, number = HEADER.unpack_from(datagram)
        known = token == self._token and number < self._next
        return number if known and datagram == self._message(number) else None
