"""
How late the loop runs a timer.

There is one thread, so a callback that blocks makes all that is due wait.  A timer that
notes how late it is called measures what a client would have waited.

The rule of this room: it measures four times a second, whatever else goes on, and holds
nothing but counts.
"""

from typing import Any

from twisted.application.service import Service

from echod._util.histogram import Histogram

TICK_SECONDS = 0.25

LAG_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)


class Lag(Service):
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
