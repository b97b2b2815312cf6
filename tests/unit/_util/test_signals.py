"""
Tests for signals: real ones, sent to this process, and a fake reactor.
"""

import os
import signal

from twisted.internet.interfaces import IReactorFromThreads
from twisted.logger import capturedLogs, formatEvent
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from echod._util.signals import OTHER_SIGNALS, STOP_SIGNALS, Signals, log_ignored, restore_interrupt
from tests.support.descriptors import open_descriptors


@implementer(IReactorFromThreads)
class FakeReactor:
    """
    Queues the calls of signal handlers until L{turn}, and does not stop by itself.

    @ivar calls: how it was stopped.
    """

    def __init__(self):
        self.handed_over = []
        self.triggers = {}
        self.calls = []
        self.readers = []

    def callFromThread(self, callable, *args, **kwargs):
        self.handed_over.append((callable, args, kwargs))

    def addSystemEventTrigger(self, phase, event, callable):
        self.triggers[phase, event] = callable

    def addReader(self, reader):
        self.readers.append(reader)

    def removeReader(self, reader):
        self.readers.remove(reader)

    def removeWriter(self, writer):
        """
        There are none.
        """

    def read(self):
        """
        Let the one reader read, and end it at the end of its input.
        """
        [reader] = self.readers
        os.fstat(reader.fileno())
        ended = reader.doRead()
        if ended is not None:
            reader.connectionLost(Failure(ended))

    def stop(self):
        self.calls.append("stop")

    def sigTerm(self, number, frame=None):
        self.calls.append(("sigTerm", number))

    def sigInt(self, number, frame=None):
        self.calls.append(("sigInt", number))

    def turn(self):
        """
        Run the queued calls.
        """
        handed_over, self.handed_over = self.handed_over, []
        for callable, args, kwargs in handed_over:
            callable(*args, **kwargs)


class SignalsTests(SynchronousTestCase):
    """
    Real signals to this process; the handlers are restored after each test.
    """

    def setUp(self):
        self.reactor = FakeReactor()
        verifyObject(IReactorFromThreads, self.reactor)
        for number in (*STOP_SIGNALS, *OTHER_SIGNALS):
            self.addCleanup(signal.signal, number, signal.getsignal(number))
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, [])
        self.addCleanup(signal.pthread_sigmask, signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        self.signals = Signals(self.reactor)

    def send(self, *numbers):
        for number in numbers:
            os.kill(os.getpid(), number)

    def run_signals(self, aborts=True):
        """
        Tests for L{Signals}.
        """
        calls = self.reactor.calls
        actions = {number: lambda number=number: calls.append(number) for number in OTHER_SIGNALS}
        self.signals.run(actions, (lambda: calls.append("abort")) if aborts else None)

    def turn(self):
        with capturedLogs() as events:
            self.reactor.turn()
        return [formatEvent(event) for event in events]

    def test_actions(self):
        """
        An action runs in a turn of the reactor, once for each signal, never in the handler.
        """
        self.run_signals()
        for number in OTHER_SIGNALS:
            self.send(number)
            self.assertEqual((self.reactor.calls, len(self.reactor.handed_over)), ([], 1))
            self.reactor.turn()
            self.send(number)
            self.reactor.turn()
            self.assertEqual(self.reactor.calls, [number, number])
            self.reactor.calls.clear()

    def test_noted(self):
        """
        A signal without an action is logged by name.
        """
        with capturedLogs() as events:
            log_ignored(signal.SIGUSR2)
        self.assertEqual(
            [formatEvent(event) for event in events],
            ["SIGUSR2 ignored: there is no action for it"],
        )

    def test_stop(self):
        """
        The first stop signal stops the reactor by its own handler; each further one aborts,
        whether it is the same or the other, in this turn or in a later one.
        """
        for first, second in (STOP_SIGNALS, STOP_SIGNALS[::-1]):
            self.reactor.calls.clear()
            self.signals = Signals(self.reactor)
            self.run_signals()
            self.send(first)
            self.assertEqual(self.reactor.calls, [])
            how = "sigTerm" if first is signal.SIGTERM else "sigInt"
            self.send(second)
            said = self.turn()
            self.send(first)
            said += self.turn()
            self.assertEqual(self.reactor.calls, [(how, first), "abort", "abort"])
            self.assertEqual(
                said,
                [f"{number.name} again: ending every connection now" for number in (second, first)],
            )

    def test_stop_once(self):
        """
        Without an abort action, further stop signals do nothing.
        """
        self.run_signals(aborts=False)
        self.send(signal.SIGTERM, signal.SIGTERM, signal.SIGINT)
        self.assertEqual(self.turn(), [])
        self.assertEqual(self.reactor.calls, [("sigTerm", signal.SIGTERM)])

    def test_stop_otherwise(self):
        """
        The reactor is stopped once, by a signal or by a call.
        """
        self.signals.take_over()
        self.run_signals()
        self.signals.stop()
        self.signals.stop()
        self.send(signal.SIGTERM)
        self.turn()
        self.assertEqual(self.reactor.calls, ["stop", "abort"])
        self.reactor.calls.clear()
        self.signals = Signals(self.reactor)
        self.signals.take_over()
        self.run_signals()
        self.reactor.triggers["before", "shutdown"]()
        self.signals.stop()
        self.send(signal.SIGINT)
        self.turn()
        self.assertEqual(self.reactor.calls, ["abort"])

    def test_stop_ignored(self):
        """
        A stop signal that is ignored, as in a background job of a shell, stays ignored.
        """
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self.signals.take_over()
        self.send(signal.SIGINT)
        self.run_signals()
        self.send(signal.SIGINT)
        self.turn()
        self.assertEqual(
            (signal.getsignal(signal.SIGINT), self.reactor.calls), (signal.SIG_IGN, [])
        )
        self.assertIsNone(self.signals.stop_signal)

    def test_restore_interrupt(self):
        """
        L{restore_interrupt} restores Python's handler, unless SIGINT is ignored.
        """
        for before, after in (
            (signal.SIG_DFL, signal.default_int_handler),
            (signal.SIG_IGN, signal.SIG_IGN),
        ):
            signal.signal(signal.SIGINT, before)
            restore_interrupt()
            self.assertIs(signal.getsignal(signal.SIGINT), after)

    def test_early(self):
        """
        Signals before the reactor runs are acted on when it does: the first stop signal,
        then the others in order.
        """
        self.signals.take_over()
        self.send(signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP)
        self.assertEqual((self.reactor.handed_over, self.reactor.calls), ([], []))
        self.assertIs(self.signals.stop_signal, signal.SIGTERM)
        self.run_signals()
        self.assertEqual(self.reactor.calls, [("sigTerm", signal.SIGTERM)])
        self.turn()
        self.assertEqual(self.reactor.calls[1:], [signal.SIGHUP, signal.SIGUSR1, signal.SIGHUP])

    def launcher(self, *numbers):
        """
        A process that gets signals while it waits for the daemon's start, and ends.
        """
        child = os.fork()
        if not child:
            self.send(*numbers)
            os._exit(0)
        self.assertEqual(os.waitpid(child, 0)[1], 0)

    def test_fork(self):
        """
        A stop signal to the process that waits for the daemon's start stops the daemon, once.
        """
        before = open_descriptors()
        self.signals.take_over(forks=True)
        self.assertIsNone(self.signals.stop_signal)
        self.launcher(signal.SIGINT, signal.SIGTERM)
        self.assertIs(self.signals.stop_signal, signal.SIGINT)
        self.assertIs(self.signals.stop_signal, signal.SIGINT)
        self.run_signals()
        self.assertEqual(self.reactor.calls, [("sigInt", signal.SIGINT)])
        self.reactor.read()
        self.assertEqual(self.reactor.calls, [("sigInt", signal.SIGINT)])
        self.assertEqual(open_descriptors(), before)

    def test_fork_late(self):
        """
        It does so, too, when the daemon runs already, until that process has ended.
        """
        before = open_descriptors()
        self.signals.take_over(forks=True)
        receiver, sender = os.pipe()
        child = os.fork()
        if not child:
            os.close(sender)
            os.read(receiver, 1)
            self.send(signal.SIGTERM)
            os._exit(0)
        os.close(receiver)
        self.run_signals()
        self.assertEqual(self.reactor.calls, [])
        [pipe] = self.reactor.readers
        self.assertEqual(os.fstat(pipe.fileno()).st_mode & 0o170000, 0o010000)
        os.close(sender)
        self.assertEqual(os.waitpid(child, 0)[1], 0)
        self.reactor.read()
        self.assertEqual(self.reactor.calls, [("sigTerm", signal.SIGTERM)])
        self.reactor.read()
        self.assertEqual((self.reactor.readers, open_descriptors()), ([], before))

    def test_fork_both_signalled(self):
        """
        A stop signal to both processes stops the daemon once.
        """
        self.signals.take_over(forks=True)
        self.send(signal.SIGTERM)
        self.launcher()
        self.run_signals()
        self.reactor.read()
        self.assertEqual(self.reactor.calls, [("sigTerm", signal.SIGTERM)])
        self.assertEqual(self.reactor.readers, [])

    def test_handlers_of_the_reactor(self):
        """
        Stop signals are blocked while the reactor replaces the handlers.
        """
        self.signals.take_over()
        self.reactor.triggers["before", "startup"]()
        theirs = []
        for number in STOP_SIGNALS:
            signal.signal(number, lambda *_: theirs.append(True))
        self.send(*STOP_SIGNALS)
        self.run_signals()
        self.assertEqual(theirs, [])
        self.turn()
        self.assertEqual(len(self.reactor.calls), 2)
        self.assertIn("abort", self.reactor.calls)
        self.assertFalse(signal.pthread_sigmask(signal.SIG_BLOCK, []) & set(STOP_SIGNALS))
