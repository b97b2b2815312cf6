"""
The factory of a listener with C{--fault} or C{--greet}: it draws which connection gets which fault.

Invariant: with the same seed, the same connection gets the same faults.  What is drawn depends on
the seed, the worker, the listener, the number of the connection on it, and the place of the fault,
and on nothing else.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from twisted.internet.task import Cooperator

from echod.connections.admission import Admission
from echod.faults.greeting import GreetingEcho
from echod.faults.protocol import Drawn, FaultyEcho
from echod.faults.spec import Fault
from echod.protocol import Echo, EchoFactory
from echod.proxyprotocol.protocol import ProxyPolicy
from echod.tls.context import ServerContext


@dataclass(frozen=True)
class Misbehavior:
    """
    What a listener does besides the echo.

    @ivar faults: in the order of the command line.
    @ivar greets: whether it sends the first line of C{--greet}.
    @ivar seed: of C{--fault-seed}.
    @ivar place: the place of the listener among all, from 0.
    @ivar worker: the name of this worker; C{None} in a process that is not a worker.
    """

    faults: Sequence[Fault]
    greets: bool
    seed: int
    place: int
    worker: str | None = None


class FaultFactory(EchoFactory):
    """
    Makes an L{Echo}, a L{GreetingEcho} or a L{FaultyEcho} for each connection.

    @ivar greets: whether the listener has a greeting.
    @ivar worker: the name of this worker.
    @ivar clock: C{IReactorTime}.
    @ivar now: returns the seconds since 1970.
    """

    _stopping = False

    def __init__(
        self,
        listener: str,
        admission: Admission,
        tls: ServerContext | None,
        proxies: ProxyPolicy | None,
        misbehavior: Misbehavior,
        clock: Any,
        now: Callable[[], float] = time.time,
    ):
        super().__init__(listener, admission, tls, proxies)
        self.greets = misbehavior.greets
        self.worker = misbehavior.worker
        self.clock = clock
        self.now = now
        self.protocol = self._make
        self._misbehavior = misbehavior
        self._number = 0
        self._faulty: set[FaultyEcho] = set()
        # Each kind is there from 0 on, so that Prometheus sees its first rise.
        for fault in misbehavior.faults:
            self.connections.totals.faults[listener, fault.kind] += 0

    def _make(self) -> Echo:
        self._number += 1
        if drawn := self.draw(self._number):
            return FaultyEcho(drawn)
        return GreetingEcho() if self.greets else Echo()

    def draw(self, number: int) -> Drawn:
        """
        Draw the faults of a connection.

        @param number: its number among those of this listener and worker, from 1.
        """
        given = self._misbehavior
        key = f"{given.seed} {given.worker or 0} {given.place} {number}"
        sources = (Random(f"{key} {place}") for place in range(len(given.faults)))
        return [
            (fault, source)
            for fault, source in zip(given.faults, sources, strict=True)
            if source.random() < fault.chance
        ]

    def add(self, echo: FaultyEcho) -> None:
        """
        A connection with faults begins.
        """
        self._faulty.add(echo)
        for kind in echo.faults:
            self.connections.totals.faults[self.listener, kind] += 1
        if self._stopping:
            echo.hurry()

    def remove(self, echo: FaultyEcho) -> None:
        """
        It has ended.
        """
        self._faulty.discard(echo)

    def stopFactory(self) -> None:
        """
        The port is closed, so the daemon stops: delay nothing from now on, so that a drain waits
        for the clients only.
        """
        self._stopping = True

        def hurry_all() -> Iterator[None]:
            for echo in list(self._faulty):
                echo.hurry()
                yield

        # Some at once, the others in the next turns of the loop.
        Cooperator(scheduler=lambda call: self.clock.callLater(0, call)).coiterate(hurry_all())
