"""
What stands between the daemon and its log: lines wait here, and a thread writes them.

The rule of this room: nobody who is owed an echo waits for a log.  A pipe that nobody reads,
a stopped terminal, a full disk or a slow one keep the thread alone; what does not fit in here
meanwhile is dropped and counted, and the count is logged in the place of what is missing.

A thread, since no non-blocking write is had for a file, and what makes a pipe or a terminal
non-blocking would make it so for the shell and all others who share it.
"""

import signal
import time
from collections import deque
from collections.abc import Callable
from select import PIPE_BUF
from threading import Condition, RLock, Thread, get_ident

from constantly import NamedConstant
from twisted.logger import Logger

from echod.destination import Destination, Record

log = Logger()

MOST_BYTES = 1 << 20
"""How much may wait: about five thousand access records."""

PAUSE_SECONDS = 0.02
"""
How long the thread rests when it has written.  A wakening for each record would cost the
reactor more than the record.
"""

RETRY_SECONDS = 1.0
"""How long it rests when it could not write."""

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

    @ivar dropped: how many have been dropped.
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
        self.dropped = 0
        self._destination = destination
        self._threaded = not forks
        self._clock = clock
        self._start_thread = start
        self._patience = PATIENCE_SECONDS
        self._started = False
        self._writer = 0
        self._lines: deque[Record] = deque()
        self._bytes = 0
        self._untold = 0
        self._since = 0.0
        self._reason = ""
        self._failed = False
        self._rotation_asked = False
        self._hurried = False
        self._lock = RLock()
        self._filled = Condition(self._lock)
        self._hurry = Condition(self._lock)
        self._settled = Condition(self._lock)

    def put(self, level: NamedConstant, line: bytes) -> None:
        """
        Have a line written, or drop it.
        """
        with self._lock:
            size = self._bytes + len(line)
            # Once there was no room, there is none until there is plenty: so what is
            # missing is missing in one place, and told in one line.
            if self._untold or size > MOST_BYTES:
                self._drop()
                return
            self._lines.append((level, line))
            self._bytes = size
            self._filled.notify()
            if self._threaded and not self._started:
                self._start()
        if self._patience > 0 and self._writer != get_ident():
            self._wait()

    def run(self) -> None:
        """
        The reactor runs: from now on nobody waits.
        """
        with self._lock:
            self._threaded = True
            self._patience = 0
            if self._lines and not self._started:
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
            if not self._started:
                self._start()

    def _drop(self) -> None:
        if not self._untold:
            self._since = self._clock()
        self._untold += 1
        self.dropped += 1

    def _tell(self) -> None:
        untold, self._untold = self._untold, 0
        log.warn(
            "{count} log records dropped in {seconds:.1f} s: {reason}",
            event="log-dropped",
            count=untold,
            seconds=self._clock() - self._since,
            reason=self._reason or "the log was not taken fast enough",
            total=self.dropped,
        )
        self._reason = ""

    def _start(self) -> None:
        try:
            self._start_thread(self._write_on)
        except RuntimeError as error:
            # There are as many as may be; the next line tries again.
            self._reason = str(error)
        else:
            self._started = True

    def _wake(self) -> None:
        self._hurried = True
        self._hurry.notify()

    def _wait(self) -> None:
        if not self._threaded:
            self._write()
            return
        with self._lock:
            if not self._started:
                return
            start = self._clock()
            self._failed = False
            self._wake()
            self._settled.wait_for(lambda: self._failed or not self._has_work(), self._patience)
            self._patience -= self._clock() - start

    def _has_work(self) -> bool:
        return bool(self._lines) or self._rotation_asked

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
                self._written(batch)
        except OSError as error:
            self._reason = error.strerror or str(error)
            self._settle(failed=True)
            return False
        finally:
            self._writer = 0
        self._settle(failed=False)
        return True

    def _next(self) -> list[Record]:
        if self._rotation_asked or self._destination.is_due():
            self._rotate()
        batch: list[Record] = []
        size = 0
        with self._lock:
            for record in self._lines:
                size += len(record[1])
                # What is not longer goes into a pipe whole, whoever else writes to it
                # (pipe(7)).
                if batch and size > PIPE_BUF:
                    break
                batch.append(record)
        return batch

    def _written(self, batch: list[Record]) -> None:
        with self._lock:
            for _, line in batch:
                self._lines.popleft()
                self._bytes -= len(line)
            if not self._untold:
                self._reason = ""
            elif self._bytes <= MOST_BYTES // 2:
                self._tell()

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
