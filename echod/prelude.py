"""
Waiting, before twistd lets the reactor run: for what has to be there before the start can
be said to have succeeded, to a shell, or to whoever waits for a twistd in the background.

The rule of this room: the loop is turned by hand, so that all that happens meanwhile is
written as it is for a loop that runs; and a signal ends the wait.
"""

import signal
from collections.abc import Callable
from typing import Any

from twisted.internet.process import reapAllProcesses

TURN_SECONDS = 0.1
"""The longest turn of the loop."""


def turn_until(reactor: Any, done: Callable[[], bool], seconds: float) -> str:
    """
    Turn the loop until something is done.

    @param seconds: how long that may take.
    @return: why it was in vain, in words; nothing when it is done.
    """
    came: list[int] = []
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(number, lambda got, _: came.append(got)) for number in numbers]
    deadline = reactor.seconds() + seconds
    try:
        while not (came or done() or reactor.seconds() > deadline):
            reactor.iterate(TURN_SECONDS)
            # Once the reactor runs, it hears of the ends of its children itself.
            reapAllProcesses()
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
    if came:
        return f"{signal.Signals(came[0]).name} came"
    return "" if done() else f"{seconds:.0f} s are over"
