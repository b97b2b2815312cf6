"""
What is measured over time: the event-loop lag, and a sample of the figures each second.

Invariant: each of the two has one timer and a fixed amount of memory.
"""

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from twisted.application.service import Service
from twisted.internet.task import LoopingCall

from echod._util.histogram import Histogram
from echod._util.timers import surviving
from echod.stats.snapshot import Sample

LAG_INTERVAL = 0.25
"""How often the lag is measured, in seconds."""

LAG_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
"""The bounds of its histogram, in seconds."""

MAX_SAMPLES = 300
"""How many samples are kept, one for each second."""


class LoopLag(Service):
    """
    The event-loop lag: how late a timer runs.

    @ivar histogram: of the lag, in seconds.
    @ivar last: the lag when it was last measured, in seconds.
    """

    _call: Any = None

    def __init__(self, clock: Any):
        self._clock = clock
        self._max = 0.0
        self.histogram = Histogram(LAG_BOUNDS)
        self.last = 0.0

    def startService(self) -> None:
        super().startService()
        self._schedule()

    def stopService(self) -> None:
        super().stopService()
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def _schedule(self) -> None:
        self._due = self._clock.seconds() + LAG_INTERVAL
        self._call = self._clock.callLater(LAG_INTERVAL, self._measure)

    def _measure(self) -> None:
        self.last = max(0.0, self._clock.seconds() - self._due)
        self._max = max(self._max, self.last)
        self.histogram.add(self.last)
        self._schedule()

    def take_max(self) -> float:
        """
        The maximum lag since the previous call, in seconds.
        """
        maximum, self._max = self._max, 0.0
        return maximum


class ListenerTotals(NamedTuple):
    """
    The present connections of one listener, and all that it has accepted and echoed so far.
    """

    connections: int
    opened: int
    bytes: int


@dataclass(frozen=True)
class ListenerRates:
    """
    What one listener did in the last second, and its maxima since the start.
    """

    opened: float = 0.0
    bytes: float = 0.0
    connections_peak: int = 0
    opened_peak: float = 0.0
    bytes_peak: float = 0.0

    def after(self, before: ListenerTotals, now: ListenerTotals, seconds: int) -> "ListenerRates":
        """
        The rates some seconds later.
        """
        opened = (now.opened - before.opened) / seconds
        echoed = (now.bytes - before.bytes) / seconds
        return ListenerRates(
            opened,
            echoed,
            max(self.connections_peak, now.connections),
            max(self.opened_peak, opened),
            max(self.bytes_peak, echoed),
        )


Totals = tuple[Sample, Mapping[str, ListenerTotals]]
"""
The present connections, all bytes echoed and all clients refused so far, and the maximum lag since
the previous call; and the totals of each listener, by name.
"""


class History(Service):
    """
    The last minutes: a sample for each second.

    @ivar samples: the samples, the newest last.
    @ivar rates: the rates of each listener, by name.
    """

    _timer: LoopingCall | None = None

    def __init__(self, clock: Any, totals: Callable[[], Totals]):
        self._clock = clock
        self._totals = totals
        self._before: Totals = (Sample(0, 0, 0, 0), {})
        self.samples: deque[Sample] = deque(maxlen=MAX_SAMPLES)
        self.rates: dict[str, ListenerRates] = {}

    def startService(self) -> None:
        super().startService()
        self._before = self._totals()
        timer = self._timer = LoopingCall.withCount(surviving("taking a sample", self._add_samples))
        timer.clock = self._clock
        timer.start(1, now=False)

    def stopService(self) -> None:
        super().stopService()
        if self._timer is not None and self._timer.running:
            self._timer.stop()

    def _add_samples(self, seconds: int) -> None:
        (before, listeners_before), self._before = self._before, self._totals()
        now, listeners = self._before
        sample = Sample(
            now.connections,
            (now.bytes - before.bytes) / seconds,
            (now.refused - before.refused) / seconds,
            now.lag,
        )
        self.samples.extend([sample] * min(seconds, MAX_SAMPLES))
        for name, totals in listeners.items():
            rates = self.rates.get(name, ListenerRates())
            earlier = listeners_before.get(name, ListenerTotals(0, 0, 0))
            self.rates[name] = rates.after(earlier, totals, seconds)
