"""
Periodic calls, and work that is spread over turns of the loop.

Invariant: an exception ends one call and never the timer.  Twisted's C{TimerService} and
C{LoopingCall} stop at the first exception.
"""

from collections.abc import Callable, Iterator
from typing import Any

from twisted.application.internet import TimerService
from twisted.internet.defer import Deferred
from twisted.internet.task import Cooperator
from twisted.logger import Logger

log = Logger(namespace="echod")


def surviving(doing: str, action: Callable[..., object]) -> Callable[..., None]:
    """
    Wrap an action so that it raises nothing.  A failure is logged if the call before succeeded,
    so an action that always fails does not fill the log.

    @param doing: what the action does, for the log record: C{while DOING}.
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
    A service that calls an action when it starts, and then at an interval.

    @param seconds: the interval.
    @param doing: see L{surviving}.
    """
    timer = TimerService(seconds, surviving(doing, action))
    timer.clock = clock
    return timer


def one_step_a_turn(clock: Any, steps: Iterator[None]) -> Deferred[Any]:
    """
    Take one step of an iterator in each turn of the loop, the first one in the next turn.

    @return: a Deferred that fires after the last step, or with what a step raises.
    """
    cooperator = Cooperator(lambda: lambda: True, lambda work: clock.callLater(0, work))
    return cooperator.coiterate(steps)
