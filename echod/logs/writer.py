"""
What stands between the daemon and its log: lines wait here, and a thread writes them.

The rule of this room: nobody who is owed an echo waits for a log.  A pipe that nobody reads,
a stopped terminal, a full disk or a slow one keep the thread alone.

A thread, since no non-blocking write is had for a file, and what makes a pipe or a terminal
non-blocking would make it so for the shell and all others who share it.  Where there can be no
thread (RLIMIT_NPROC in getrlimit(2), pids.max of a control group), the reactor's writes, but
only while there is room.
"""

import math
import signal
import time
from collections.abc import Callable, Sequence
from threading import Condition, RLock, Thread, get_ident

from constantly import NamedConstant
from twisted.logger import Logger

from echod.logs.backlog import Backlog
from echod.logs.destination import Destination, Record

log = Logger(namespace="echod.logs")

PAUSE_SECONDS = 0.02
"""
How long the thread rests when it has written.  A wakening for each record would cost the
reactor more than the record.
"""

RETRY_SECONDS = 1.0
"""How long it rests when it could not write, and until a thread is asked for again."""

PATIENCE_SECONDS = 0.5
"""How long, in all, a start or a stop may take longer for the sake of the log."""


def start_thread(work: Callable[[], None]) -> None:
    """
    Start a thread that no end of the process waits for.

    @raise RuntimeError: when there can be no more threads.
    """
    Thread(target=work, name="log", daemon=True).start()


class Sink:
    """
    Lines on their way to a log.

    Until the reactor runs, and again when it has stopped, each line is waited for, so that
    the last words of a process that ends are not lost; but for L{PATIENCE_SECONDS} only.
    """

    def __init__(
        self,
        destination: Destination,
        forks: bool = False,
        clock: Callable[[], float] = time.monotonic,
        start: Callable[[Callable[[], None]], None] = start_thread,
    ):
        """
        @param forks: whether this process goes to the background before its reactor runs.
            No thread would come with it, so until then there is none.
        @param start: starts a thread that calls what it is given.
        """
        self._destination = destination
        self._threaded = not forks
        self._clock = clock
        self._start_thread = start
        self._patience = PATIENCE_SECONDS
        self._started = False
        self._threadless = False
        self._next_start = -math.inf
        self._writer = 0
        self._backlog = Backlog(clock)
        self._failed = False
        self._rotation_asked = False
        self._hurried = False
        self._lock = RLock()
        self._filled = Condition(self._lock)
        self._hurry = Condition(self._lock)
        self._settled = Condition(self._lock)

    @property
    def dropped(self) -> int:
        """
        How many lines have been dropped.
        """
        return self._backlog.dropped

    def put(self, level: NamedConstant, line: bytes) -> bool:
        """
        Have a line written, or drop it.

        @return: whether there was room for it.
        """
        with self._lock:
            added = self._backlog.add(level, line)
            self._filled.notify()
        if not self._started and (added or self._threadless):
            self._start()
        if (self._threadless or (added and self._patience > 0)) and self._writer != get_ident():
            self._wait()
        return added

    def run(self) -> None:
        """
        The reactor runs: from now on nobody waits.
        """
        self._threaded = True
        self._patience = 0
        if self._backlog:
            self._start()

    def finish(self) -> None:
        """
        The reactor has stopped: wait for what has not been written, and for all that is
        to come.
        """
        self._patience = PATIENCE_SECONDS
        self._wait()

    def rotate(self) -> None:
        """
        Have the log rotated.
        """
        with self._lock:
            self._rotation_asked = True
            self._filled.notify()
            self._wake()
        self._start()
        if self._threadless:
            self._write()

    def _start(self) -> None:
        """
        Start the thread, if there is to be one and is none, and while nobody else writes.
        """
        with self._lock:
            if not self._threaded or self._started or self._writer:
                return
            if self._clock() < self._next_start:
                return
            try:
                self._start_thread(self._write_on)
            except RuntimeError as error:
                self._next_start = self._clock() + RETRY_SECONDS
                if not self._threadless:
                    self._threadless = True
                    log.warn(
                        "no thread for the log: {reason}; the event loop writes it, and a slow "
                        "disk delays clients; raise the limit on processes",
                        event="log-without-thread",
                        reason=str(error),
                    )
            else:
                self._started = True
                self._threadless = False

    def _wake(self) -> None:
        self._hurried = True
        self._hurry.notify()

    def _wait(self) -> None:
        if not self._started:
            self._write()
            return
        with self._lock:
            start = self._clock()
            self._failed = False
            self._wake()
            self._settled.wait_for(lambda: self._failed or not self._has_work(), self._patience)
            self._patience -= self._clock() - start

    def _has_work(self) -> bool:
        return bool(self._backlog) or self._rotation_asked

    def _write_on(self) -> None:
        # Signals are the reactor's.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        while True:
            with self._lock:
                self._filled.wait_for(self._has_work)
            written = self._write()
            with self._lock:
                pause = PAUSE_SECONDS if written else RETRY_SECONDS
                self._hurry.wait_for(lambda: self._hurried, pause)
                self._hurried = False

    def _write(self) -> bool:
        """
        Write all that waits.

        @return: whether that went well.
        """
        self._writer = get_ident()
        try:
            while batch := self._next():
                self._destination.write(batch)
                with self._lock:
                    self._backlog.written()
        except OSError as error:
            self._backlog.reason = error.strerror or str(error)
            self._settle(failed=True)
            return False
        finally:
            self._writer = 0
        self._settle(failed=False)
        return True

    def _next(self) -> Sequence[Record]:
        if self._rotation_asked or self._destination.is_due():
            self._rotate()
        if self._threadless and not self._has_room():
            return ()
        with self._lock:
            return self._backlog.batch()

    def _has_room(self) -> bool:
        start = self._clock()
        room = self._destination.has_room(self._patience)
        self._patience = max(0, self._patience - (self._clock() - start))
        return room

    def _settle(self, failed: bool) -> None:
        with self._lock:
            self._failed = failed
            self._settled.notify_all()

    def _rotate(self) -> None:
        try:
            self._destination.rotate()
        except OSError as error:
            log.warn(
                "cannot rotate the log: {reason}; the old file goes on",
                event="log-rotation-failed",
                reason=error.strerror,
            )
        self._rotation_asked = False
