"""
The bounded queue of log lines, and the thread that writes them.

Invariant: the event loop never waits for the log.  Lines for which the queue has no space are
dropped and counted, and the count is logged.
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

MAX_QUEUE_BYTES = 1 << 20
"""The size of the queue: about five thousand access records."""

BATCH_DELAY = 0.02
"""
How many seconds the thread sleeps after a write, so that the next one writes many records.
To wake the thread for each record costs the reactor more than the record.
"""

RETRY_DELAY = 1.0
"""How many seconds after a failure the thread writes again, or is started again."""

MAX_BLOCKING_TIME = 0.5
"""How many seconds, in all, the log may add to a start or to a stop."""


class BoundedQueue:
    """
    Lines in the order in which they are to be written.

    @ivar dropped: how many lines were dropped because the queue was full.
    @ivar reason: why writing failed, in words; empty when it works.
    """

    def __init__(self, clock: Callable[[], float]):
        """
        @param clock: returns the time in seconds.
        """
        self.dropped = 0
        self.reason = ""
        self._clock = clock
        self._lines: deque[Record] = deque()
        self._bytes = 0
        self._batch: list[Record] = []
        self._unreported = 0
        self._first_drop = 0.0

    def __len__(self) -> int:
        return len(self._lines)

    def add(self, level: NamedConstant, line: bytes) -> bool:
        """
        Add a line, or drop it.

        @return: whether it was added.
        """
        size = self._bytes + len(line)
        # Once a line is dropped, drop all until the queue is half empty: one report then
        # covers them, and stands where they are missing.
        if self._unreported or size > MAX_QUEUE_BYTES:
            if not self._unreported:
                self._first_drop = self._clock()
            self._unreported += 1
            self.dropped += 1
            return False
        self._lines.append((level, line))
        self._bytes = size
        return True

    def batch(self) -> list[Record]:
        """
        The next lines to write; the same ones until L{written} is called.
        """
        if not self._batch:
            size = 0
            for record in self._lines:
                size += len(record[1])
                # Up to PIPE_BUF bytes go into a pipe whole, also when other processes write
                # to it (pipe(7)).
                if self._batch and size > PIPE_BUF:
                    break
                self._batch.append(record)
        return self._batch

    def written(self) -> None:
        """
        Remove the batch: it is written.
        """
        for _, line in self._batch:
            self._lines.popleft()
            self._bytes -= len(line)
        self._batch = []
        if not self._unreported:
            self.reason = ""
        elif self._bytes <= MAX_QUEUE_BYTES // 2:
            self._report_drops()

    def _report_drops(self) -> None:
        # This record is added to this queue, at the place of the lines that are missing.
        count, self._unreported = self._unreported, 0
        log.warn(
            "{count} log records dropped in {seconds:.1f} s: {reason}",
            event="log-dropped",
            count=count,
            seconds=self._clock() - self._first_drop,
            reason=self.reason or "the log was not taken fast enough",
            total=self.dropped,
        )
        self.reason = ""


def start_thread(work: Callable[[], None]) -> None:
    """
    Start a daemon thread, which does not delay the end of the process.

    @raise RuntimeError: when the system allows no more threads.
    """
    Thread(target=work, name="log", daemon=True).start()


class ThreadedWriter:
    """
    Writes lines to a destination, in a thread.

    Before the reactor runs, and after it has stopped, L{put} waits until its line is written, so
    that the last lines of a process that exits are not lost.  In all it waits for
    L{MAX_BLOCKING_TIME} only.

    If the system allows no thread, L{put} writes the line itself, as long as the destination
    does not block.
    """

    def __init__(
        self,
        destination: IDestination,
        forks: bool = False,
        clock: Callable[[], float] = time.monotonic,
        start: Callable[[Callable[[], None]], None] = start_thread,
    ):
        """
        @param forks: whether the process forks before its reactor runs.  A thread would not
            survive that, so it is started afterwards.
        @param start: starts a thread that calls its argument.
        """
        self._destination = destination
        self._may_start = not forks
        self._clock = clock
        self._start_thread = start
        self._time_left = MAX_BLOCKING_TIME
        self._started = False
        self._start_failed = False
        self._next_start = -math.inf
        self._writing_thread = 0
        self._queue = BoundedQueue(clock)
        self._failed = False
        self._rotation_requested = False
        self._hurry = False
        self._idle = False
        self._lock = RLock()
        self._work_added = Condition(self._lock)
        self._hurry_requested = Condition(self._lock)
        self._write_ended = Condition(self._lock)

    @property
    def dropped(self) -> int:
        """
        How many lines were dropped.
        """
        return self._queue.dropped

    def put(self, level: NamedConstant, line: bytes) -> bool:
        """
        Queue a line, or drop it.

        @return: whether it was queued.
        """
        with self._lock:
            added = self._queue.add(level, line)
            if self._idle:
                self._wake()
        if not self._started and (added or self._start_failed):
            self._start()
        waits = self._start_failed or (added and self._time_left > 0)
        if waits and self._writing_thread != get_ident():
            self._wait()
        return added

    def set_async(self) -> None:
        """
        The reactor runs: from now on, L{put} does not wait.
        """
        self._may_start = True
        self._time_left = 0
        if self._queue:
            self._start()

    def flush(self) -> None:
        """
        The reactor has stopped: wait for the queued lines, and from now on for each line.
        """
        self._time_left = MAX_BLOCKING_TIME
        self._wait()

    def rotate(self) -> None:
        """
        Request a rotation of the log.
        """
        with self._lock:
            self._rotation_requested = True
            self._wake()
            self._request_hurry()
        self._start()
        if self._start_failed:
            self._write()

    def _start(self) -> None:
        """
        Start the thread, unless it runs, the process has yet to fork, or another thread writes.
        """
        with self._lock:
            if not self._may_start or self._started or self._writing_thread:
                return
            if self._clock() < self._next_start:
                return
            try:
                self._start_thread(self._run)
            except RuntimeError as error:
                self._next_start = self._clock() + RETRY_DELAY
                if not self._start_failed:
                    self._start_failed = True
                    log.warn(
                        "no thread for the log: {reason}; the event loop writes it, and a slow "
                        "disk delays clients; raise the limit on processes",
                        event="log-without-thread",
                        reason=str(error),
                    )
            else:
                self._started = True
                self._start_failed = False

    def _wake(self) -> None:
        """
        Wake the thread if it waits for work.
        """
        self._idle = False
        self._work_added.notify()

    def _request_hurry(self) -> None:
        """
        Let the thread write now, without L{BATCH_DELAY}.
        """
        self._hurry = True
        self._hurry_requested.notify()

    def _wait(self) -> None:
        """
        Wait until all is written or a write fails, for the time that is left.
        """
        if not self._started:
            self._write()
            return
        with self._lock:
            start = self._clock()
            self._failed = False
            self._request_hurry()
            self._write_ended.wait_for(
                lambda: self._failed or not self._has_work(), self._time_left
            )
            self._time_left -= self._clock() - start

    def _has_work(self) -> bool:
        return bool(self._queue) or self._rotation_requested

    def _run(self) -> None:
        """
        The thread.
        """
        # Signals must reach the thread of the reactor.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        while True:
            with self._lock:
                while not self._has_work():
                    self._idle = True
                    self._work_added.wait()
                self._idle = False
            written = self._write()
            with self._lock:
                delay = BATCH_DELAY if written else RETRY_DELAY
                self._hurry_requested.wait_for(lambda: self._hurry, delay)
                self._hurry = False

    def _write(self) -> bool:
        """
        Write all queued lines.

        @return: whether that succeeded.
        """
        self._writing_thread = get_ident()
        try:
            while batch := self._next_batch():
                self._destination.write(batch)
                with self._lock:
                    self._queue.written()
        except OSError as error:
            self._queue.reason = error.strerror or str(error)
            self._end_write(failed=True)
            return False
        finally:
            self._writing_thread = 0
        self._end_write(failed=False)
        return True

    def _next_batch(self) -> Sequence[Record]:
        if self._rotation_requested or self._destination.should_rotate():
            self._rotate()
        if self._start_failed and not self._is_writable():
            return ()
        with self._lock:
            return self._queue.batch()

    def _is_writable(self) -> bool:
        start = self._clock()
        writable = self._destination.is_writable(self._time_left)
        self._time_left = max(0, self._time_left - (self._clock() - start))
        return writable

    def _end_write(self, failed: bool) -> None:
        with self._lock:
            self._failed = failed
            self._write_ended.notify_all()

    def _rotate(self) -> None:
        try:
            self._destination.rotate()
        except OSError as error:
            log.warn(
                "cannot rotate the log: {reason}; the old file stays in use",
                event="log-rotation-failed",
                reason=error.strerror,
            )
        self._rotation_requested = False
