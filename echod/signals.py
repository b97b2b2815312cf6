"""
What the daemon does when it is signalled.

The rule of this room: a signal handler hands the work to the reactor and returns.  It
runs between any two instructions, so it must not log, write or call anything else.
"""

import signal
from collections.abc import Callable
from types import FrameType

from twisted.internet.interfaces import IReactorFromThreads
from twisted.logger import Logger

log = Logger()


def handle(
    reactor: IReactorFromThreads, number: signal.Signals, action: Callable[[], object]
) -> None:
    """
    From now on, call C{action} in the reactor when the signal comes.
    """

    def handler(_: int, frame: FrameType | None) -> None:
        reactor.callFromThread(action)

    signal.signal(number, handler)


def handle_stop(
    reactor: IReactorFromThreads,
    number: signal.Signals,
    again: Callable[[], object] | None = None,
) -> None:
    """
    Let the first such signal do what the reactor has it do, which is to stop, and every
    further one call C{again}, if there is that.  Call this once the reactor runs and has
    its handlers.

    A signal that is ignored, as a shell has it for SIGINT in the background, stays so.
    """
    stop = signal.getsignal(number)
    if not callable(stop):
        return
    stopping = False

    def action() -> None:
        nonlocal stopping
        if not stopping:
            stopping = True
            stop(number, None)
        elif again is not None:
            log.warn(
                "{signal} again: ending every connection now",
                event="stop-again",
                signal=number.name,
            )
            again()

    handle(reactor, number, action)


def note(reactor: IReactorFromThreads, number: signal.Signals) -> None:
    """
    Survive a signal that would end the process by default, and log that it came.
    """
    handle(reactor, number, lambda: noted(number))


def noted(number: signal.Signals) -> None:
    """
    Log that a signal came that asks for nothing here.
    """
    log.info("{signal} came, and there is nothing to do for it", event="signal", signal=number.name)
