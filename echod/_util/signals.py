"""
The signals of the daemon, from the moment it is built.

Invariant: a signal handler records the signal, or passes it to the reactor, and returns.  It runs
between any two instructions, so it must not log, write or call anything else.  All causes of a
stop, signals or not, share one state: the first one stops the daemon, and each stop signal after
it aborts the connections.
"""

import os
import select
import signal
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import FrameType
from typing import Any

from twisted.internet.abstract import FileDescriptor
from twisted.internet.fdesc import readFromFD
from twisted.logger import Logger
from twisted.python.failure import Failure

log = Logger(namespace="echod")

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
OTHER_SIGNALS = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)

Action = Callable[[], object]


class _LauncherPipe(FileDescriptor):
    """
    Reads the stop signals that the waiting process gets until it ends, a byte each.
    """

    def __init__(self, descriptor: int, act: Callable[[signal.Signals], None], reactor: Any):
        super().__init__(reactor)
        self._descriptor = descriptor
        self._act = act

    def fileno(self) -> int:
        return self._descriptor

    def doRead(self) -> Failure | None:
        return readFromFD(self._descriptor, self._received)  # type: ignore[no-any-return]

    def connectionLost(self, reason: Failure) -> None:
        super().connectionLost(reason)
        os.close(self._descriptor)

    def _received(self, data: bytes) -> None:
        for number in data:
            self._act(signal.Signals(number))


class Signals:
    """
    The signals of one process.
    """

    _stop_signal: signal.Signals | None = None
    _pipe: tuple[int, int] | None = None
    _stopping = False
    _abort: Action | None = None
    _actions: Mapping[signal.Signals, Action] | None = None
    _mask: set[signal.Signals] | None = None

    def __init__(self, reactor: Any):
        """
        @param reactor: one of Twisted's reactors.  Beside the methods of its interfaces, it has
            C{sigTerm} and C{sigInt}, which stop it and record the signal, so that twistd ends
            the process by the same one.
        """
        self._reactor = reactor
        self._early: list[signal.Signals] = []

    def take_over(self, forks: bool = False) -> None:
        """
        Install handlers that record signals until L{run} acts on them.  Their default action
        would leave behind what the start has created, such as a pidfile or the file of a UNIX
        socket.

        A stop signal that is ignored stays ignored: a shell sets that for SIGINT in a background
        job.

        @param forks: whether the daemon will run in a child of this process, which then waits
            until the child has started.  A stop signal to the waiting process stops the child,
            until the waiting process has ended.
        """
        if forks:
            self._pipe = os.pipe()
            for end in self._pipe:
                os.set_blocking(end, False)
        self._set_handlers()
        reactor = self._reactor
        # The reactor installs its own handlers at startup; block the signals until run()
        # has replaced them.
        reactor.addSystemEventTrigger("before", "startup", self._block)
        reactor.addSystemEventTrigger("before", "shutdown", self._note_stop)

    @property
    def stop_signal(self) -> signal.Signals | None:
        """
        The first stop signal; C{None} while none has arrived.
        """
        if self._stop_signal is None and self._pipe is not None:
            with suppress(BlockingIOError):
                self._stop_signal = signal.Signals(os.read(self._pipe[0], 1)[0])
        return self._stop_signal

    def run(self, actions: Mapping[signal.Signals, Action], abort: Action | None) -> None:
        """
        Act on signals from now on, and on those that were recorded.  Call this when the reactor
        runs and has installed its handlers.

        @param actions: called for each signal that does not stop the daemon.
        @param abort: called for each stop signal after the first.
        """
        self._abort = abort
        self._actions = actions
        self._set_handlers()
        if self._mask is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
        stop_signal = self.stop_signal
        if self._pipe is not None:
            receiver, sender = self._pipe
            self._pipe = None
            os.close(sender)
            if stop_signal is not None:
                # This process has written its own signals to the pipe, too.
                with suppress(BlockingIOError):
                    os.read(receiver, select.PIPE_BUF)
            _LauncherPipe(receiver, self._act, self._reactor).startReading()
        if stop_signal is not None:
            self._act(stop_signal)
        for number in self._early:
            # In the next turn of the loop, after the daemon has told systemd READY=1.
            self._reactor.callFromThread(self._act, number)

    def stop(self) -> None:
        """
        Stop the reactor, unless it is stopping already.
        """
        if not self._stopping:
            self._stopping = True
            self._reactor.stop()

    def _set_handlers(self) -> None:
        for number in STOP_SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._handle)
        for number in OTHER_SIGNALS:
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._actions is not None:
            self._reactor.callFromThread(self._act, signal.Signals(number))
        elif number in OTHER_SIGNALS:
            self._early.append(signal.Signals(number))
        elif self._stop_signal is None:
            self._stop_signal = signal.Signals(number)
            if self._pipe is not None:
                os.write(self._pipe[1], bytes([number]))

    def _block(self) -> None:
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)  # type: ignore[assignment]  # of Signals

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
    Let SIGINT raise C{KeyboardInterrupt} until a reactor handles it, unless it is ignored.
    """
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def log_ignored(number: signal.Signals) -> None:
    """
    Log a signal that this daemon has no action for.
    """
    log.info(
        "{signal} ignored: there is no action for it",
        event="signal-ignored",
        signal=number.name,
    )
