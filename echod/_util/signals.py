"""
What the daemon does when it is signalled, from the first moment on that it is made.

Invariant: a signal handler notes the signal, or hands the work to the reactor,
and returns.  It runs between any two instructions, so it must not log, write or call
anything else.  And there is one state for all signals that stop the daemon, and all else
that does: the first one stops it, each further one aborts.
"""

import os
import signal
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import FrameType
from typing import Any

from twisted.logger import Logger

log = Logger(namespace="echod")

STOPS = (signal.SIGTERM, signal.SIGINT)
OTHERS = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)

Action = Callable[[], object]


class Signals:
    """
    The signals of one process.
    """

    _stop_signal: signal.Signals | None = None
    _launched: tuple[int, int] | None = None
    _stopping = False
    _abort: Action | None = None
    _actions: Mapping[signal.Signals, Action] | None = None
    _mask: set[signal.Signals] | None = None

    def __init__(self, reactor: Any):
        """
        @param reactor: any of Twisted's: besides its interfaces, it has C{sigTerm} and
            C{sigInt}, which stop it, and have it known which signal ended the process.
        """
        self._reactor = reactor
        self._early: list[signal.Signals] = []

    def take_over(self, forks: bool = False) -> None:
        """
        Note from now on what comes, and let L{run} do what it asks for.  Nothing that has
        been begun, such as a pidfile or the file of a UNIX socket, is left behind by a
        signal's default action.

        A stop signal that is ignored, as a shell has it for SIGINT in the background, stays so.

        @param forks: whether the process that runs will be a child of this one, which waits
            until that has started: a stop signal to the one that waits stops the child.
        """
        if forks:
            self._launched = os.pipe()
            for end in self._launched:
                os.set_blocking(end, False)
        self._set_handlers()
        reactor = self._reactor
        # Its own handlers replace ours for a moment, which is hidden from the signals.
        reactor.addSystemEventTrigger("before", "startup", self._block)
        reactor.addSystemEventTrigger("before", "shutdown", self._note_stop)

    @property
    def stop_signal(self) -> signal.Signals | None:
        """
        The first signal that asked the process to stop, C{None} before.
        """
        if self._stop_signal is None and self._launched is not None:
            with suppress(BlockingIOError):
                self._stop_signal = signal.Signals(os.read(self._launched[0], 1)[0])
        return self._stop_signal

    def run(self, actions: Mapping[signal.Signals, Action], abort: Action | None) -> None:
        """
        Do what signals ask for, those also that have come so far.  Call this once the
        reactor runs and has its handlers.

        @param actions: what to do for each signal that does not stop the daemon.
        @param abort: what to do for each stop signal after the first.
        """
        self._abort = abort
        self._actions = actions
        self._set_handlers()
        if self._mask is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
        stop_signal = self.stop_signal
        for end in self._launched or ():
            os.close(end)
        self._launched = None
        if stop_signal is not None:
            self._act(stop_signal)
        for number in self._early:
            # In the next turn: the service manager has heard by then that the daemon is ready.
            self._reactor.callFromThread(self._act, number)

    def stop(self) -> None:
        """
        Stop the reactor, unless something has stopped it before.
        """
        if not self._stopping:
            self._stopping = True
            self._reactor.stop()

    def _set_handlers(self) -> None:
        for number in STOPS:
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._handle)
        for number in OTHERS:
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._actions is not None:
            self._reactor.callFromThread(self._act, signal.Signals(number))
        elif number in OTHERS:
            self._early.append(signal.Signals(number))
        elif self._stop_signal is None:
            self._stop_signal = signal.Signals(number)
            if self._launched is not None:
                os.write(self._launched[1], bytes([number]))

    def _block(self) -> None:
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)  # type: ignore[assignment]  # of Signals

    def _note_stop(self) -> None:
        self._stopping = True

    def _act(self, number: signal.Signals) -> None:
        assert self._actions is not None
        if number in self._actions:
            self._actions[number]()
        elif not self._stopping:
            self._stopping = True
            stop = self._reactor.sigTerm if number is signal.SIGTERM else self._reactor.sigInt
            stop(number)
        elif self._abort is not None:
            log.warn(
                "{signal} again: ending every connection now",
                event="stop-again",
                signal=number.name,
            )
            self._abort()


def restore_interrupt() -> None:
    """
    Let SIGINT raise KeyboardInterrupt until a reactor handles it, unless it is ignored.
    """
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def log_ignored(number: signal.Signals) -> None:
    """
    Log that a signal came that asks for nothing here.
    """
    log.info(
        "{signal} came, and there is nothing to do for it",
        event="signal-ignored",
        signal=number.name,
    )
