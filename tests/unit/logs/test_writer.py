"""
Tests for the bounded queue and the writer thread.
"""

import errno
import os
import signal
from threading import Event, Thread

from twisted.internet.task import Clock
from twisted.logger import LogLevel, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from echod.logs import writer
from echod.logs.writer import MAX_BLOCKING_TIME, MAX_QUEUE_BYTES, ThreadedWriter

LINE = b"x" * 1023 + b"\n"


class FakeDestination:
    """
    A destination that records what is written, and fails as the test says.

    @ivar error: what it fails with.
    @ivar batches: the lines of each write.
    @ivar due: whether it says that it is to be rotated.
    @ivar writable: whether it is writable, and C{waited}: the times that it was asked to wait.
    """

    def __init__(self):
        self.error = self.failed = None
        self.rotation_error = None
        self.batches = []
        self.due = False
        self.rotated = 0
        self.writable = True
        self.waited = []

    @property
    def lines(self):
        return [line for batch in self.batches for line in batch]

    def write(self, records):
        batch = [line for _, line in records]
        if self.failed not in (None, batch):
            raise AssertionError("it was to be the same lines")
        self.failed = None
        if self.error is not None:
            self.failed = batch
            raise self.error
        self.batches.append(batch)

    def is_writable(self, seconds):
        self.waited.append(seconds)
        return self.writable

    def should_rotate(self):
        return self.due

    def rotate(self):
        self.due = False
        if self.rotation_error is not None:
            raise self.rotation_error
        self.rotated += 1


def full():
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class WriterTestCase(SynchronousTestCase):
    """
    A writer; the records that it logs itself come back to it, as in the daemon.
    """

    def setUp(self):
        self.clock = Clock()
        self.destination = FakeDestination()
        self.threads = []
        self.reports = []
        globalLogPublisher.addObserver(self.hear)
        self.addCleanup(globalLogPublisher.removeObserver, self.hear)

    def writer(self, **given):
        self.writer = ThreadedWriter(
            self.destination, clock=self.clock.seconds, **{"start": self.threads.append} | given
        )
        return self.writer

    def hear(self, event):
        if event.get("event") == "log-without-thread":
            self.reports.append(event)
            self.writer.put(event["log_level"], b"no thread\n")
        if event.get("event") == "log-dropped":
            self.reports.append(event)
            self.writer.put(event["log_level"], f"dropped {event['count']}\n".encode())

    def put(self, *lines):
        for line in lines:
            self.writer.put(LogLevel.info, line)


class FakeWait:
    """
    What a caller waits on for the thread, which writes nothing: only time passes.

    @ivar waited: how many seconds each caller would have waited.
    """

    def __init__(self, clock, *takes):
        """
        @param takes: how many seconds each wait takes; after these, as long as it may.
        """
        self.waited = []
        self._clock = clock
        self._takes = list(takes)

    def wait_for(self, done, seconds):
        self.waited.append(seconds)
        self._clock.advance(self._takes.pop(0) if self._takes else seconds)


class AtOnceTests(WriterTestCase):
    """
    Before the process goes to the background, no thread runs, and each line is written at once.
    """

    def setUp(self):
        super().setUp()
        self.writer(forks=True)

    def test_order(self):
        """
        Lines are written one by one, in order.
        """
        self.put(b"a\n", b"b\n")
        self.assertEqual(self.destination.batches, [[b"a\n"], [b"b\n"]])
        self.assertEqual((self.writer.dropped, self.threads, self.reports), (0, [], []))

    def test_failure(self):
        """
        Lines of a failed write are written later, and no record reports a loss.
        """
        self.destination.error = full()
        self.put(b"a\n", b"b\n")
        self.destination.error = None
        self.put(b"c\n")
        self.assertEqual(self.destination.lines, [b"a\n", b"b\n", b"c\n"])
        self.assertEqual((self.writer.dropped, self.reports), (0, []))

    def test_batches(self):
        """
        Queued lines are written in batches that a pipe takes whole; a failed batch is
        passed again.
        """
        self.destination.error = full()
        self.put(LINE, LINE, LINE, LINE, b"short\n", LINE * 5)
        self.destination.error = None
        self.put(b"end\n")
        self.assertEqual(
            self.destination.batches,
            [[LINE], [LINE, LINE, LINE, b"short\n"], [LINE * 5], [b"end\n"]],
        )

    def test_bound(self):
        """
        When the queue is full, lines are dropped until it is half empty; then one record
        reports how many, at their place.
        """
        self.destination.error = full()
        fitting = MAX_QUEUE_BYTES // len(LINE)
        self.put(*[LINE] * fitting)
        self.assertEqual(self.writer.dropped, 0)
        self.assertFalse(self.writer.put(LogLevel.info, LINE))
        self.clock.advance(2)
        self.put(b"short\n")
        self.assertEqual(self.writer.dropped, 2)
        self.clock.advance(1.5)
        self.destination.error = None
        self.writer.flush()
        self.put(b"after\n")
        lines = self.destination.lines
        self.assertEqual(lines, [LINE] * fitting + [b"dropped 2\n", b"after\n"])
        (event,) = self.reports
        self.assertEqual(event["log_level"], LogLevel.warn)
        self.assertEqual(event["event"], "log-dropped")
        self.assertEqual((event["count"], event["seconds"], event["total"]), (2, 3.5, 2))
        self.assertEqual(event["reason"], "No space left on device")

    def test_total(self):
        """
        Each period of drops is reported on its own, with its reason and the total.
        """
        for reason in (full(), OSError("odd")):
            self.destination.error = reason
            self.put(*[LINE] * (MAX_QUEUE_BYTES // len(LINE) + 3))
            self.destination.error = None
            self.writer.flush()
        self.assertEqual([(e["count"], e["total"]) for e in self.reports], [(3, 3), (3, 6)])
        self.assertEqual(
            [event["reason"] for event in self.reports], ["No space left on device", "odd"]
        )

    def test_rotation_when_due(self):
        """
        A destination that is due is rotated before the next line.
        """
        self.destination.due = True
        self.put(b"a\n")
        self.assertEqual((self.destination.rotated, self.destination.lines), (1, [b"a\n"]))

    def test_rotation_that_fails(self):
        """
        A failed rotation is reported in the old file.
        """
        self.destination.due = True
        self.destination.rotation_error = OSError(errno.EACCES, "Permission denied")
        heard = []
        globalLogPublisher.removeObserver(self.hear)
        globalLogPublisher.addObserver(heard.append)
        self.put(b"a\n")
        globalLogPublisher.removeObserver(heard.append)
        globalLogPublisher.addObserver(self.hear)
        self.assertEqual(self.destination.lines, [b"a\n"])
        (event,) = heard
        self.assertEqual(event["event"], "log-rotation-failed")
        self.assertEqual(event["reason"], "Permission denied")


class ThreadTests(WriterTestCase):
    """
    While the reactor runs, a thread writes, and no caller waits.
    """

    def started(self, seconds=60):
        """
        Start the thread that the writer has asked for.

        @param seconds: how long a stop waits for it, on the clock of the system.
        """
        self.patch(writer, "MAX_BLOCKING_TIME", seconds)
        (work,) = self.threads
        thread = Thread(target=work, daemon=True)
        thread.start()
        self.addCleanup(self.end, thread)
        return thread

    def end(self, thread):
        """
        End the thread, by an exception of its destination.
        """
        self.destination.error = SystemExit()
        self.writer.set_async()
        self.put(b"the end\n")
        self.writer.rotate()
        thread.join(60)
        self.assertFalse(thread.is_alive())

    def test_nobody_waits(self):
        """
        A caller does not wait for its line.
        """
        self.writer().set_async()
        self.put(b"a\n", b"b\n")
        self.assertEqual(self.destination.lines, [])
        self.assertEqual(len(self.threads), 1)
        self.started()
        self.writer.flush()
        self.assertEqual(self.destination.lines, [b"a\n", b"b\n"])

    def test_waiting_for_the_last(self):
        """
        Before the reactor runs and after it has stopped, callers wait for their lines.
        """
        self.writer().set_async()
        self.put(b"a\n")
        self.started()
        self.writer.flush()
        for line in (b"b\n", b"c\n", b"d\n"):
            self.put(line)
            self.assertEqual(self.destination.lines[-1], line)

    def test_signals(self):
        """
        The thread blocks all signals.
        """
        masks = []
        self.destination.write = lambda records: masks.append(
            signal.pthread_sigmask(signal.SIG_BLOCK, [])
        )
        self.writer().set_async()
        self.put(b"a\n")
        thread = self.started()
        self.writer.flush()
        self.assertIn(signal.SIGTERM, masks[0])
        del self.destination.write
        self.assertTrue(thread.is_alive())

    def test_blocked(self):
        """
        A destination that blocks delays no caller: lines are queued, then dropped, and a
        stop waits for a limited time.
        """
        writes, goes_on = Event(), Event()
        self.addCleanup(goes_on.set)
        take = self.destination.write

        def write(records):
            writes.set()
            goes_on.wait(60)
            take(records)

        self.destination.write = write
        self.writer().set_async()
        self.put(b"a\n")
        self.started(MAX_BLOCKING_TIME)
        self.assertTrue(writes.wait(60))
        self.put(*[LINE] * (MAX_QUEUE_BYTES // len(LINE) + 10))
        self.assertEqual(self.writer.dropped, 11)
        self.writer._clock = iter((0, MAX_BLOCKING_TIME, 0, 0)).__next__
        self.writer.flush()
        self.put(b"not waited for\n")
        self.assertEqual((self.destination.lines, self.writer.dropped), ([], 12))
        self.patch(writer, "MAX_BLOCKING_TIME", 60)
        goes_on.set()
        self.writer._clock = self.clock.seconds
        self.writer.flush()
        self.assertEqual([event["count"] for event in self.reports], [12])
        self.assertEqual(self.reports[0]["reason"], "the log was not taken fast enough")
        self.assertEqual(self.destination.lines[-1], b"dropped 12\n")

    def wait(self, *takes):
        """
        A writer whose thread writes nothing, and what its callers wait on.
        """
        waiting = self.writer()._write_ended = FakeWait(self.clock, *takes)
        return waiting

    def test_half_a_second_at_the_start(self):
        """
        Before the reactor runs, the waits for a blocked destination last half a second in all.
        """
        waiting = self.wait(0.125)
        self.put(b"a\n", b"b\n", b"c\n")
        self.assertEqual(waiting.waited, [0.5, 0.375])

    def test_half_a_second_at_the_stop(self):
        """
        So do those after it has stopped, whatever was left of the first half second; between them,
        no caller waits.
        """
        waiting = self.wait(0.125)
        self.put(b"a\n")
        self.writer.set_async()
        self.put(b"b\n")
        self.assertEqual(waiting.waited, [0.5])
        for _ in range(2):
            self.writer.flush()
            self.put(b"c\n", b"d\n")
        self.assertEqual(waiting.waited, [0.5] * 3)

    def test_half_a_second_without_a_reactor(self):
        """
        If the reactor never ran, the stop waits for half a second, too, and not for the rest of
        the start besides.
        """
        waiting = self.wait(0.125)
        self.put(b"a\n")
        self.writer.flush()
        self.assertEqual(waiting.waited, [0.5, 0.5])

    def test_failing(self):
        """
        A stop does not wait for a destination that fails; it lets the thread try once.
        """
        self.writer().set_async()
        self.destination.error = full()
        self.put(b"a\n")
        self.started()
        self.writer.flush()
        self.put(b"b\n")
        self.assertEqual(self.destination.lines, [])
        self.destination.error = None
        self.put(b"c\n")
        self.assertEqual(self.destination.lines, [b"a\n", b"b\n", b"c\n"])

    def test_rotation(self):
        """
        The thread rotates without a line, and a stop waits for it.
        """
        self.writer().set_async()
        self.writer.rotate()
        self.started()
        self.writer.flush()
        self.assertEqual(self.destination.rotated, 1)
        self.writer.rotate()
        self.writer.flush()
        self.assertEqual((self.destination.rotated, len(self.threads)), (2, 1))

    def test_lines_from_before(self):
        """
        Lines that could not be written before the fork are written by the thread.
        """
        self.writer(forks=True)
        self.destination.error = full()
        self.put(b"a\n")
        self.assertEqual(self.threads, [])
        self.writer.set_async()
        self.destination.error = None
        self.started()
        self.writer.flush()
        self.assertEqual(self.destination.lines, [b"a\n"])

    def without_threads(self, **given):
        """
        A writer while the system allows no threads.

        @return: when each was asked for; a list to be emptied when there can be again.
        """
        asked = [0.0]

        def start(work):
            if not asked:
                self.threads.append(work)
                return
            asked.append(self.clock.seconds())
            raise RuntimeError("can't start new thread")

        self.writer(start=start, **given)
        return asked

    def test_no_thread(self):
        """
        Without a thread, lines are written by the caller, with one warning; a second later
        a line starts the thread.
        """
        asked = self.without_threads()
        self.put(b"a\n", b"b\n")
        self.writer.set_async()
        self.put(b"c\n")
        self.clock.advance(1)
        self.put(b"d\n", b"e\n")
        lines = [b"a\n", b"no thread\n", b"b\n", b"c\n", b"d\n", b"e\n"]
        self.assertEqual(self.destination.lines, lines)
        self.assertEqual((asked, len(self.reports)), ([0.0, 0.0, 1.0], 1))
        self.assertEqual(self.reports[0]["reason"], "can't start new thread")
        asked.clear()
        self.clock.advance(1)
        self.put(b"f\n")
        self.assertEqual(self.destination.lines, lines)
        self.started()
        self.writer.flush()
        self.put(b"g\n")
        self.assertEqual(self.destination.lines, [*lines, b"f\n", b"g\n"])

    def test_no_thread_in_the_background(self):
        """
        The same holds for lines from before the fork.
        """
        self.without_threads(forks=True)
        self.destination.error = full()
        self.put(b"a\n")
        self.destination.error = None
        self.writer.set_async()
        self.assertEqual(self.destination.lines, [b"a\n", b"no thread\n"])

    def test_no_thread_and_no_room(self):
        """
        Without a thread, the loop does not wait for a full destination: it tries at each
        line, and a stop waits for a limited time.
        """
        asked = self.without_threads()
        self.writer.set_async()
        self.put(b"a\n")
        self.destination.writable = False
        fitting = MAX_QUEUE_BYTES // len(LINE)
        self.put(*[LINE] * (fitting + 3))
        self.assertEqual((self.writer.dropped, len(self.destination.lines)), (3, 2))
        self.assertEqual(set(self.destination.waited), {0})
        self.destination.writable = True
        # None is started in the middle of writing.
        told = self.reports[:]
        asked.clear()
        self.clock.advance(0.5)
        self.put(LINE)
        self.assertEqual(self.destination.lines[2:], [LINE] * fitting + [b"dropped 4\n"])
        self.assertEqual((self.threads, len(self.reports)), ([], len(told) + 1))
        asked.append(0.0)
        self.destination.writable = False
        self.put(b"last\n")
        self.destination.waited.clear()
        self.destination.is_writable = lambda seconds: (
            self.destination.waited.append(seconds) or (self.clock.advance(seconds))
        )
        self.writer.flush()
        self.put(b"very last\n")
        self.assertEqual(self.destination.waited, [MAX_BLOCKING_TIME, 0])

    def test_no_thread_to_rotate(self):
        """
        Without a thread, the caller rotates.
        """
        self.without_threads()
        self.writer.set_async()
        self.writer.rotate()
        self.assertEqual((self.destination.rotated, self.destination.lines), (1, [b"no thread\n"]))

    def test_real_thread(self):
        """
        By default the writer starts a daemon thread.
        """
        threads = []
        take = self.destination.write

        def write(records):
            from threading import current_thread

            threads.append(current_thread())
            take(records)

        self.destination.write = write
        self.patch(writer, "MAX_BLOCKING_TIME", 60)
        self.writer = ThreadedWriter(self.destination)
        self.put(b"a\n")
        self.assertEqual(self.destination.lines, [b"a\n"])
        (thread,) = threads
        self.assertTrue(thread.daemon)
        del self.destination.write
        self.end(thread)
        self.assertEqual(self.writer.dropped, 0)
