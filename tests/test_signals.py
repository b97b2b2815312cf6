"""
What signals do: real ones, sent to this process, and a reactor that the test turns.
"""

import os
import signal

from twisted.internet.interfaces import IReactorFromThreads
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from echod.signals import handle, handle_stop, note


@implementer(IReactorFromThreads)
class FakeReactor:
    """
    Keeps what a signal handler hands over until L{turn}.
    """

    def __init__(self):
        self.handed_over = []

    def callFromThread(self, callable, *args, **kwargs):
        self.handed_over.append((callable, args, kwargs))

    def turn(self):
        """
        Do what was handed over.
        """
        handed_over, self.handed_over = self.handed_over, []
        for callable, args, kwargs in handed_over:
            callable(*args, **kwargs)


class SignalsTests(SynchronousTestCase):
    """
    Each way to handle a signal.  The signal is SIGUSR2, so that a handler that is not
    there would show; what it does is put back when the test ends.
    """

    number = signal.SIGUSR2

    def setUp(self):
        self.reactor = FakeReactor()
        verifyObject(IReactorFromThreads, self.reactor)
        self.calls = []
        self.addCleanup(signal.signal, self.number, signal.getsignal(self.number))

    def send(self):
        os.kill(os.getpid(), self.number)

    def test_handle(self):
        """
        The action is called in the reactor's turn, once for each signal, never in the handler.
        """
        handle(self.reactor, self.number, lambda: self.calls.append("action"))
        self.send()
        self.assertEqual((self.calls, len(self.reactor.handed_over)), ([], 1))
        self.reactor.turn()
        self.send()
        self.reactor.turn()
        self.assertEqual(self.calls, ["action", "action"])

    def test_note(self):
        """
        A signal that means nothing here is logged by name, from the reactor, and survived.
        """
        note(self.reactor, self.number)
        with capturedLogs() as events:
            self.send()
            self.assertEqual(list(events), [])
            self.reactor.turn()
        self.assertEqual(
            [formatEvent(event) for event in events],
            ["SIGUSR2 came, and there is nothing to do for it"],
        )

    def test_stop(self):
        """
        The first signal stops the daemon as it would have; each further one aborts.
        """
        signal.signal(self.number, lambda *args: self.calls.append(("stop", *args)))
        handle_stop(self.reactor, self.number, lambda: self.calls.append("again"))
        self.send()
        self.assertEqual(self.calls, [])
        with capturedLogs() as events:
            self.reactor.turn()
        self.assertEqual((self.calls, list(events)), ([("stop", self.number, None)], []))
        with capturedLogs() as events:
            for _ in range(2):
                self.send()
                self.reactor.turn()
        self.assertEqual(self.calls[1:], ["again", "again"])
        self.assertEqual(
            [formatEvent(event) for event in events],
            ["SIGUSR2 again: ending every connection now"] * 2,
        )

    def test_stop_ignored(self):
        """
        A signal that is ignored, as in a background job of a shell, stays ignored.
        """
        signal.signal(self.number, signal.SIG_IGN)
        handle_stop(self.reactor, self.number, lambda: self.calls.append("again"))
        self.send()
        self.reactor.turn()
        self.assertEqual((signal.getsignal(self.number), self.calls), (signal.SIG_IGN, []))

    def test_stop_once(self):
        """
        Where the first says it all, further ones change nothing.
        """
        signal.signal(self.number, lambda *_: self.calls.append("stop"))
        handle_stop(self.reactor, self.number)
        with capturedLogs() as events:
            for _ in range(3):
                self.send()
                self.reactor.turn()
        self.assertEqual((self.calls, list(events)), (["stop"], []))
