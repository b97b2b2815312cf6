"""
The event-loop lag, and the last minutes of the figures.

Invariant: a fixed amount of memory and one timer.
"""

from collections import deque
from collections.abc import Callable
from typing import Any

from twisted.application.service import Service
from twisted.internet.task import LoopingCall

from echod._util.histogram import Histogram
from echod._util.timers import surviving
from echod.stats.snapshot import Sample

TICK_SECONDS = 0.25

LAG_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)


class LoopLag(Service):
    """
    A timer that looks how late it is.

    @ivar histogram: of how late it was, in seconds.
    @ivar last: how late it was the last time.
    """

    _call: Any = None

    def __init__(self, clock: Any):
        self._clock = clock
        self._worst = 0.0
        self.histogram = Histogram(LAG_SECONDS)
        self.last = 0.0

    def startService(self) -> None:
        super().startService()
        self._wait()

    def stopService(self) -> None:
        super().stopService()
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def _wait(self) -> None:
        self._due = self._clock.seconds() + TICK_SECONDS
        self._call = self._clock.callLater(TICK_SECONDS, self._ran)

    def _ran(self) -> None:
        self.last = max(0.0, self._clock.seconds() - self._due)
        self._worst = max(self._worst, self.last)
        self.histogram.add(self.last)
        self._wait()

    def take_worst(self) -> float:
        """
        The worst since this was asked for last.
        """
        worst, self._worst = self._worst, 0.0
        return worst


HISTORY_SECONDS = 300


class History(Service):
    """
    What has been, a sample for each second.

    @ivar samples: the newest last.
    """

    _ticks: LoopingCall | None = None

    def __init__(self, clock: Any, totals: Callable[[], Sample]):
        """
        @param totals: what there is now: the connections, all bytes echoed and all clients
            refused so far, and the worst lag since it was asked for last.
        """
        self._clock = clock
        self._totals = totals
        self._before = Sample(0, 0, 0, 0)
        self.samples: deque[Sample] = deque(maxlen=HISTORY_SECONDS)

    def startService(self) -> None:
        super().startService()
        self._before = self._totals()
        ticks = self._ticks = LoopingCall.withCount(
            surviving("taking a sample", self._seconds_passed)
        )
        ticks.clock = self._clock
        ticks.start(1, now=False)

    def stopService(self) -> None:
        super().stopService()
        if self._ticks is not None and self._ticks.running:
            self._ticks.stop()

    def _seconds_passed(self, seconds: int) -> None:
        now, before = self._totals(), self._before
        self._before = now
        sample = Sample(
            now.connections,
            (now.bytes - before.bytes) / seconds,
            (now.refused - before.refused) / seconds,
            now.lag,
        )
        self.samples.extend([sample] * min(seconds, HISTORY_SECONDS))
