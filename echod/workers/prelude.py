"""
Waiting, before twistd lets the reactor run: for what has to be there before the start can
be said to have succeeded, to a shell, or to whoever waits for a twistd in the background.

The rule of this room: the loop is turned by hand, so that all that happens meanwhile is
written as it is for a loop that runs; and a signal that would stop the daemon ends the wait.
"""

from collections.abc import Callable
from typing import Any

from twisted.internet.process import reapAllProcesses

from echod._util.signals import Signals

TURN_SECONDS = 0.1
"""The longest turn of the loop."""


def turn_until(
    reactor: Any, done: Callable[[], bool], seconds: float, signals: Signals | None = None
) -> str:
    """
    Turn the loop until something is done.

    @param seconds: how long that may take.
    @param signals: what knows whether this process is to stop, which ends the wait.
    @return: why it was in vain, in words; nothing when it is done.
    """
    deadline = reactor.seconds() + seconds
    while True:
        if signals is not None and signals.stop_signal is not None:
            return f"{signals.stop_signal.name} came"
        if done() or reactor.seconds() > deadline:
            break
        reactor.iterate(TURN_SECONDS)
        # Once the reactor runs, it hears of the ends of its children itself.
        reapAllProcesses()
    return "" if done() else f"{seconds:.0f} s are over"
