"""
The connection of a client that gets a fault: an L{Echo} with stages between what is received and
what is sent.

Invariant: what the stages delay is bounded by L{MAX_HELD_BYTES} and one read.  When the daemon
closes the connection or stops, all of it is sent at once.
"""

from collections.abc import Sequence
from random import Random
from typing import Any

from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure

from echod.connections.connection import Reason
from echod.faults.base import End, IStage, Stage
from echod.faults.greeting import GreetingEcho
from echod.faults.spec import Fault, Refuse, Timeout
from echod.faults.stages import make_stage
from echod.protocol import Echo

MAX_HELD_BYTES = 128 * 1024
"""
How many bytes are delayed before the connection stops reading.  With the largest read, 96 KiB, and
with the 64 KiB that the transport takes before it pauses us, a connection holds 288 KiB at most.
"""

RESET_INTERVAL = 0.01
"""
Seconds between two looks whether the client has received what comes before a reset.  The kernel
tells nobody when that is so.
"""

Drawn = Sequence[tuple[Fault, Random]]
"""The faults that a connection gets, each with what draws the rest that is left to chance."""


class FaultyEcho(GreetingEcho):
    """
    An echo with faults.  It is itself the last of its stages.

    @ivar faults: their kinds, for logs.
    @ivar clock: C{IReactorTime}, for the stages.
    """

    clock: Any
    bytes_relayed: Any = None
    """The transport must not send anything back by itself."""

    _held = 0
    _full = False
    _at_end = False
    _resetting = False
    _waiting: IDelayedCall | None = None
    _stages: Sequence[Stage] = ()

    def __init__(self, drawn: Drawn):
        """
        @param drawn: the faults, in the order in which the bytes meet them.
        """
        self._drawn = drawn
        kinds = [type(fault) for fault, _ in drawn]
        self.faults = tuple(dict.fromkeys(each.kind for each in kinds))
        self._refused = Refuse in kinds
        self._silent = Timeout in kinds

    def connectionMade(self) -> None:
        factory = self.factory
        self.clock = factory.clock
        stages: list[Stage] = []
        for fault, source in reversed(self._drawn):
            stages.append(make_stage(fault, source, self, stages[-1] if stages else self))
        self._stages = stages[::-1]
        self._first: IStage = self._stages[0]
        factory.add(self)
        super().connectionMade()
        if self._refused:
            self.abort(Reason.FAULT)

    def ready(self) -> None:
        """
        The echo begins, and the faults with it.
        """
        if self._refused:
            return
        if not self._silent:
            super().ready()
        for stage in self._stages:
            stage.begin()

    def dataReceived(self, data: bytes) -> None:
        if not self.ending:
            self._first.receive(data)

    def receive(self, data: bytes) -> None:
        """
        Echo what has passed all stages.
        """
        Echo.dataReceived(self, data)

    def resumeProducing(self) -> None:
        self.paused = False
        self._read_again()

    def hold(self, size: int) -> None:
        """
        So many bytes more are delayed; if negative, less.  Stop reading when they are too many.
        """
        self._held += size
        if self._held >= MAX_HELD_BYTES and not self._full:
            self._full = True
            self.transport.pauseProducing()
        elif self._full and self._held <= MAX_HELD_BYTES // 2:
            self._full = False
            self._read_again()

    def _read_again(self) -> None:
        # After the end of the input, Twisted's transports would read that end once more.
        if not (self.paused or self._full or self._at_end or self.ending):
            self.transport.resumeProducing()

    def readConnectionLost(self) -> None:
        """
        The client has closed its sending side; the end follows the bytes through the stages.
        """
        if self._at_end or self._resetting:
            return
        self._at_end = True
        if self.ending:
            super().readConnectionLost()
        else:
            self._first.end(End.INPUT)

    def end(self, how: End) -> None:
        """
        All bytes have passed the stages.
        """
        if how is End.INPUT:
            super().readConnectionLost()
        elif how is End.RESET:
            self._resetting = True
            self._begin_end(Reason.FAULT)
            self._reset_when_received()
        else:
            self._close(Reason.FAULT)

    def close(self, reason: Reason) -> None:
        """
        End the connection politely: send at once what is delayed, then as an L{Echo} does.
        """
        if not self.ending:
            self.hurry()
        if not self.ending:
            self._close(reason)

    def _close(self, reason: Reason) -> None:
        if self._at_end:
            # There is nothing to wait for.
            self._begin_end(reason)
            self.transport.loseConnection()
        else:
            super().close(reason)

    def hurry(self) -> None:
        """
        Delay nothing from now on.
        """
        for stage in self._stages:
            stage.hurry()

    def reset(self) -> None:
        """
        A fault resets the connection at once.
        """
        self.abort(Reason.FAULT)

    def _reset_when_received(self) -> None:
        if any(self.pending()):
            self._waiting = self.clock.callLater(RESET_INTERVAL, self._reset_when_received)
        else:
            self._waiting = None
            self.reset()

    def abort(self, reason: Reason | None = None) -> None:
        self._stop()
        super().abort(reason)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._stop()
        super().connectionLost(reason)
        self.factory.remove(self)
        # They refer to this object, and would keep it until a garbage collection.
        self._stages, self._drawn = (), ()
        del self._first

    def _stop(self) -> None:
        for stage in self._stages:
            stage.stop()
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def log_fields(self) -> dict[str, str]:
        """
        The faults, and the fields of an L{Echo}.
        """
        return {"fault": "+".join(self.faults), **super().log_fields()}
