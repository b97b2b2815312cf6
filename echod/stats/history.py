"""
The last minutes, a sample a second, for the plots on the page.

The rule of this room: so many samples and no more, one for each second also when the loop
came too late to take it.
"""

from collections import deque
from collections.abc import Callable
from typing import Any

from twisted.application.service import Service
from twisted.internet.task import LoopingCall

from echod._util.timers import surviving
from echod.stats.snapshot import Sample

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
