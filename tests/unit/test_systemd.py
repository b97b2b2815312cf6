"""
What the service manager is told, and when: a real socket, and a clock that the test turns.
"""

from twisted.application.service import IService
from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from echod.systemd import (
    EXTENSION_SECONDS,
    STATUS_SECONDS,
    Notifier,
    NotifyConfig,
    StatusLine,
)
from tests.support.servicemanager import ServiceManager

EXTEND = f"EXTEND_TIMEOUT_USEC={int(EXTENSION_SECONDS * 1e6)}"


class SupervisionTests(SynchronousTestCase):
    """
    What the environment says.
    """

    def read(self, pid=7, **environ):
        """
        What is read; nothing of it stays, and what is not of it does.
        """
        environ["HOME"] = "/"
        notify = NotifyConfig.from_environment(environ, pid)
        self.assertEqual(environ, {"HOME": "/"})
        return notify

    def test_nobody(self):
        """
        Without a service manager there is nobody to tell, and nobody who watches.
        """
        self.assertEqual(self.read(), NotifyConfig(None, 0))
        self.assertEqual(self.read(WATCHDOG_USEC="3000000", WATCHDOG_PID="7"), NotifyConfig())

    def test_address(self):
        """
        The socket has a path, or an abstract name that is written with an @.
        """
        self.assertEqual(self.read(NOTIFY_SOCKET="/run/é").address, "/run/é".encode())
        self.assertEqual(self.read(NOTIFY_SOCKET="@a/b@c").address, b"\0a/b@c")

    def test_address_of_another_kind(self):
        """
        A socket of another kind is for others to talk to.
        """
        for address in ("", "vsock:2:4711", "vsock-dgram:2:4711", "run/notify"):
            self.assertEqual(self.read(NOTIFY_SOCKET=address, WATCHDOG_USEC="9"), NotifyConfig())

    def test_watchdog(self):
        """
        The watchdog's time is in microseconds.
        """
        for pid in ({}, {"WATCHDOG_PID": ""}, {"WATCHDOG_PID": "7"}):
            read = self.read(NOTIFY_SOCKET="/n", WATCHDOG_USEC="2500000", **pid)
            self.assertEqual(read, NotifyConfig(b"/n", 2.5))

    def test_no_watchdog(self):
        """
        There is none when it has no time, or is for another process.
        """
        for environ in (
            {},
            {"WATCHDOG_USEC": ""},
            {"WATCHDOG_USEC": "0"},
            {"WATCHDOG_USEC": "-5"},
            {"WATCHDOG_USEC": "soon"},
            {"WATCHDOG_USEC": "2500000", "WATCHDOG_PID": "8"},
            {"WATCHDOG_USEC": "2500000", "WATCHDOG_PID": "me"},
        ):
            self.assertEqual(self.read(NOTIFY_SOCKET="/n", **environ), NotifyConfig(b"/n", 0))


class NotifierTestCase(SynchronousTestCase):
    """
    A notifier, and whom it tells.
    """

    def setUp(self):
        self.clock = Clock()
        self.clock.advance(100)
        self.manager = ServiceManager()
        self.addCleanup(self.manager.close)
        self.status = "well"

    def notifier(self, watchdog_seconds=0.0):
        address = self.manager.address.replace("@", "\0").encode()
        notify = NotifyConfig(address, watchdog_seconds)
        notifier = Notifier(self.clock, notify, lambda: self.status)
        self.addCleanup(notifier.stopService)
        return notifier

    def advance(self, seconds):
        """
        Let time pass, a quarter of a second at a time.

        @return: what was told in the meantime.
        """
        for _ in range(round(seconds * 4)):
            self.clock.advance(0.25)
        return self.manager.take()


class NotifierTests(NotifierTestCase):
    """
    Tests for L{Notifier}.
    """

    def test_ready(self):
        """
        It says READY when it is started and not before, then the status; connecting
        beforehand says nothing.
        """
        notifier = self.notifier()
        verifyObject(IService, notifier)
        self.assertEqual(self.advance(10), [])
        notifier.privilegedStartService()
        self.assertEqual(self.advance(10), [])
        notifier.startService()
        self.assertEqual(self.manager.take(), [["READY=1"], ["STATUS=well"]])

    def test_status(self):
        """
        The status is looked at once in a while, and told when it has changed.
        """
        self.notifier().startService()
        self.manager.take()
        self.assertEqual(self.advance(STATUS_SECONDS * 3), [])
        self.status = "better"
        self.assertEqual(self.advance(STATUS_SECONDS - 0.25), [])
        self.assertEqual(self.advance(0.25), [["STATUS=better"]])
        self.assertEqual(self.advance(STATUS_SECONDS * 3), [])

    def test_watchdog(self):
        """
        It gives a sign of life twice in the time that the watchdog waits, from the start.
        """
        self.notifier(2.0).startService()
        self.assertEqual(self.manager.take()[-1], ["WATCHDOG=1"])
        for _ in range(3):
            self.assertEqual(self.advance(0.75), [])
            self.assertEqual(self.advance(0.25), [["WATCHDOG=1"]])

    def test_reloading(self):
        """
        Around a reload it says so, with the time in microseconds, then that it is ready.
        """
        notifier = self.notifier()
        notifier.startService()
        self.manager.take()
        with notifier.reloading():
            self.assertEqual(
                self.manager.take(), [["RELOADING=1", f"MONOTONIC_USEC={100 * 10**6}"]]
            )
        self.assertEqual(self.manager.take(), [["READY=1"]])

    def test_reloading_fails(self):
        """
        After a reload with a bug it is ready, too.
        """
        notifier = self.notifier()
        notifier.startService()

        def reload():
            with notifier.reloading():
                raise LookupError("a bug")

        self.assertRaises(LookupError, reload)
        self.assertEqual(self.manager.take()[-1], ["READY=1"])

    def test_reloading_is_stopped(self):
        """
        Who is stopped while it reloads is not ready again.
        """
        notifier = self.notifier()
        notifier.startService()
        with notifier.reloading():
            notifier.stopping(1.0)
            self.manager.take()
        self.assertEqual(self.manager.take(), [])

    def test_stopping(self):
        """
        It says STOPPING at once, and asks for time again and again until the stop must be
        over; status and signs of life go on until it is.
        """
        notifier = self.notifier(EXTENSION_SECONDS)
        notifier.startService()
        self.manager.take()
        self.status = "draining"
        notifier.stopping(2 * EXTENSION_SECONDS)
        self.assertEqual(self.manager.take(), [["STOPPING=1"], ["STATUS=draining"], [EXTEND]])
        for _ in range(4):
            told = self.advance(EXTENSION_SECONDS / 2)
            self.assertEqual(sorted(told), [[EXTEND], ["WATCHDOG=1"]])
        self.assertEqual(self.advance(EXTENSION_SECONDS), [["WATCHDOG=1"]] * 2)
        self.assertIsNone(self.successResultOf(notifier.stopService()))
        self.assertEqual((self.advance(60), self.clock.getDelayedCalls()), ([], []))

    def test_stopping_before_ready(self):
        """
        A stop that comes before it was ready is told of.
        """
        notifier = self.notifier(2.0)
        notifier.privilegedStartService()
        notifier.stopping(5.0)
        self.assertIsNone(self.successResultOf(notifier.stopService()))
        self.assertEqual(self.advance(60), [["STOPPING=1"]])

    def test_full(self):
        """
        When the service manager takes nothing, nothing waits for it; the last word on the
        state, and the status, are told when it takes again.
        """
        notifier = self.notifier()
        self.manager.fill()
        notifier.startService()
        with notifier.reloading():
            self.status = "reloaded"
        self.assertNotIn(["READY=1"], self.manager.take())
        self.assertEqual(self.advance(STATUS_SECONDS), [["READY=1"], ["STATUS=reloaded"]])
        self.assertEqual(self.advance(STATUS_SECONDS), [])

    def test_gone(self):
        """
        A service manager that has gone harms nobody.
        """
        notifier = self.notifier(2.0)
        notifier.startService()
        self.manager.close()
        with capturedLogs() as events, notifier.reloading():
            self.clock.advance(STATUS_SECONDS)
        notifier.stopping(1.0)
        self.assertIsNone(self.successResultOf(notifier.stopService()))
        self.assertEqual(list(events), [])

    def test_unreachable(self):
        """
        One that was never there is warned of, once and in a line.
        """
        notify = NotifyConfig(b"\0no\x1bbody", 2.0)
        notifier = Notifier(self.clock, notify, lambda: "well")
        self.addCleanup(notifier.stopService)
        with capturedLogs() as events:
            notifier.privilegedStartService()
            notifier.startService()
            self.clock.advance(STATUS_SECONDS)
        self.assertEqual(
            [formatEvent(event) for event in events],
            [
                "the service manager cannot be told anything: \\x00no\\x1bbody: Connection refused",
            ],
        )

    def test_nobody(self):
        """
        Without a service manager nobody is asked for the status, and there is no timer.
        """
        notifier = Notifier(self.clock, NotifyConfig(), lambda: self.fail("asked"))
        notifier.privilegedStartService()
        notifier.startService()
        with notifier.reloading():
            pass
        notifier.stopping(60.0)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertIsNone(self.successResultOf(notifier.stopService()))


class StatusLineTests(SynchronousTestCase):
    """
    The figures in words.
    """

    def test_line(self):
        """
        The rate is that since the last look, the rest is as it stands.
        """
        clock = Clock()
        totals = [(0, 500, 0), (1, 500, 0), (312, 500 + 1258291 * 4, 5), (311, 5033664, 5)]
        line = StatusLine(clock, lambda: totals.pop(0))
        lines = []
        while totals:
            lines.append(line())
            clock.advance(4)
        self.assertEqual(
            lines,
            [
                "0 connections, 0 B/s, 0 refused",
                "1 connection, 0 B/s, 0 refused",
                "312 connections, 1.2 MiB/s, 5 refused",
                "311 connections, 0 B/s, 5 refused",
            ],
        )

    def test_twice_at_once(self):
        """
        Of no time at all there is no rate.
        """
        line = StatusLine(Clock(), lambda: (1, 9, 0))
        self.assertEqual({line(), line()}, {"1 connection, 0 B/s, 0 refused"})
