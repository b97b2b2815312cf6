"""
The thread that writes the log, and the bounded queue before it.

Invariant: the event loop never waits for the log.  What the queue has no place for is dropped
and counted, and the count is logged.
"""

import math
import signal
import time
from collections import deque
from collections.abc import Callable, Sequence
from select import PIPE_BUF
from threading import Condition, RLock, Thread, get_ident

from constantly import NamedConstant
from twisted.logger import Logger

from echod.logs.file import IDestination, Record

log = Logger(namespace="echod.logs")

MAX_BYTES = 1 << 20
"""How much may wait: about five thousand access records."""


class BoundedQueue:
    """
    Lines in the order in which they are to be written.

    @ivar dropped: how many there was no room for.
    @ivar reason: why lines wait, in words.
    """

    def __init__(self, clock: Callable[[], float]):
        """
        @param clock: tells the seconds.
        """
        self.dropped = 0
        self.reason = ""
        self._clock = clock
        self._lines: deque[Record] = deque()
        self._bytes = 0
        self._in_hand: list[Record] = []
        self._untold = 0
        self._since = 0.0

    def __len__(self) -> int:
        return len(self._lines)

    def add(self, level: NamedConstant, line: bytes) -> bool:
        """
        Add a line, or drop it.

        @return: whether it was added.
        """
        size = self._bytes + len(line)
        # Once there was no room, there is none until there is plenty.
        if self._untold or size > MAX_BYTES:
            if not self._untold:
                self._since = self._clock()
            self._untold += 1
            self.dropped += 1
            return False
        self._lines.append((level, line))
        self._bytes = size
        return True

    def batch(self) -> list[Record]:
        """
        The next lines to be written, the same ones until they are.
        """
        if not self._in_hand:
            size = 0
            for record in self._lines:
                size += len(record[1])
                # What is not longer goes into a pipe whole, whoever else writes to it
                # (pipe(7)).
                if self._in_hand and size > PIPE_BUF:
                    break
                self._in_hand.append(record)
        return self._in_hand

    def written(self) -> None:
        """
        The batch is written.
        """
        for _, line in self._in_hand:
            self._lines.popleft()
            self._bytes -= len(line)
        self._in_hand = []
        if not self._untold:
            self.reason = ""
        elif self._bytes <= MAX_BYTES // 2:
            self._tell()

    def _tell(self) -> None:
        # The line that this logs comes back here, to the place of those that are missing.
        untold, self._untold = self._untold, 0
        log.warn(
            "{count} log records dropped in {seconds:.1f} s: {reason}",
            event="log-dropped",
            count=untold,
            seconds=self._clock() - self._since,
            reason=self.reason or "the log was not taken fast enough",
            total=self.dropped,
        )
        self.reason = ""


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


class ThreadedWriter:
    """
    Lines on their way to a log.

    Until the reactor runs, and again when it has stopped, each line is waited for, so that
    the last words of a process that ends are not lost; but for L{PATIENCE_SECONDS} only.
    """

    def __init__(
        self,
        destination: IDestination,
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
        self._backlog = BoundedQueue(clock)
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

    def set_async(self) -> None:
        """
        The reactor runs: from now on nobody waits.
        """
        self._threaded = True
        self._patience = 0
        if self._backlog:
            self._start()

    def flush(self) -> None:
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
