"""
Calls that are made again and again, for as long as a service runs.

Invariant: an exception ends one call and never the timer.  Twisted's C{TimerService} and
C{LoopingCall} stop for good at the first one.
"""

from collections.abc import Callable
from typing import Any

from twisted.application.internet import TimerService
from twisted.logger import Logger

log = Logger(namespace="echod")


def surviving(doing: str, action: Callable[..., object]) -> Callable[..., None]:
    """
    Make an action that raises nothing.  A failure is logged when the call before it went
    well, so an action that always fails does not fill the log.

    @param doing: what the action does, for the log: C{while DOING}.
    """
    failing = False

    def call(*args: Any) -> None:
        nonlocal failing
        try:
            action(*args)
        except Exception:
            if not failing:
                log.failure("while {doing}; it goes on", event="unhandled-error", doing=doing)
            failing = True
        else:
            failing = False

    return call


def periodic(clock: Any, seconds: float, doing: str, action: Callable[[], object]) -> TimerService:
    """
    A service that does something at once when it is started, and then every so many seconds.

    @param doing: as L{surviving} takes it.
    """
    timer = TimerService(seconds, surviving(doing, action))
    timer.clock = clock
    return timer
