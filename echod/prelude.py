"""
Waiting, before twistd lets the reactor run: for what has to be there before the start can
be said to have succeeded, to a shell, or to whoever waits for a twistd in the background.

The rule of this room: the loop is turned by hand, so that all that happens meanwhile is
written as it is for a loop that runs; and a signal that would stop the daemon ends the wait.
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
    stops = (signal.SIGTERM, signal.SIGINT)
    # To a daemon that runs these do no harm, and here there is nothing to do for them yet.
    others = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
    before = {number: signal.signal(number, signal.SIG_IGN) for number in others}
    before |= {number: signal.signal(number, lambda got, _: came.append(got)) for number in stops}
    deadline = reactor.seconds() + seconds
    try:
        while not (came or done() or reactor.seconds() > deadline):
            reactor.iterate(TURN_SECONDS)
            # Once the reactor runs, it hears of the ends of its children itself.
            reapAllProcesses()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if came:
        return f"{signal.Signals(came[0]).name} came"
    return "" if done() else f"{seconds:.0f} s are over"
