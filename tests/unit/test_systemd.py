"""
Tests for the notification of L{echod.systemd}, with a real socket and a fake clock.
"""

from twisted.application.service import IService
from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from echod.systemd import (
    STATUS_INTERVAL,
    TIMEOUT_EXTENSION,
    Notifier,
    NotifyConfig,
    StatusLine,
)
from tests.support.servicemanager import ServiceManager

EXTEND = f"EXTEND_TIMEOUT_USEC={int(TIMEOUT_EXTENSION * 1e6)}"


class NotifyConfigTests(SynchronousTestCase):
    """
    The variables of the environment.
    """

    def read(self, pid=7, **environ):
        """
        Read the variables; they are removed, and no others.
        """
        environ["HOME"] = "/"
        notify = NotifyConfig.from_environment(environ, pid)
        self.assertEqual(environ, {"HOME": "/"})
        return notify

    def test_no_service_manager(self):
        """
        Without a service manager there is no address and no watchdog.
        """
        self.assertEqual(self.read(), NotifyConfig(None, 0))
        self.assertEqual(self.read(WATCHDOG_USEC="3000000", WATCHDOG_PID="7"), NotifyConfig())

    def test_address(self):
        """
        The address is a path, or an abstract name with an @ for the first byte.
        """
        self.assertEqual(self.read(NOTIFY_SOCKET="/run/é").address, "/run/é".encode())
        self.assertEqual(self.read(NOTIFY_SOCKET="@a/b@c").address, b"\0a/b@c")

    def test_address_of_another_kind(self):
        """
        An address of another kind is ignored.
        """
        for address in ("", "vsock:2:4711", "vsock-dgram:2:4711", "run/notify"):
            self.assertEqual(self.read(NOTIFY_SOCKET=address, WATCHDOG_USEC="9"), NotifyConfig())

    def test_watchdog(self):
        """
        The timeout of the watchdog is in microseconds.
        """
        for pid in ({}, {"WATCHDOG_PID": ""}, {"WATCHDOG_PID": "7"}):
            read = self.read(NOTIFY_SOCKET="/n", WATCHDOG_USEC="2500000", **pid)
            self.assertEqual(read, NotifyConfig(b"/n", 2.5))

    def test_no_watchdog(self):
        """
        There is no watchdog without a timeout, or for another process.
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
    A notifier, and a service manager that receives.
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
        Let time pass, in steps of a quarter of a second.

        @return: the messages of this time.
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
        The start sends READY=1, then the status line; connecting before that sends nothing.
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
        The status line is made every few seconds, and sent if it has changed.
        """
        self.notifier().startService()
        self.manager.take()
        self.assertEqual(self.advance(STATUS_INTERVAL * 3), [])
        self.status = "better"
        self.assertEqual(self.advance(STATUS_INTERVAL - 0.25), [])
        self.assertEqual(self.advance(0.25), [["STATUS=better"]])
        self.assertEqual(self.advance(STATUS_INTERVAL * 3), [])

    def test_watchdog(self):
        """
        From the start, WATCHDOG=1 is sent twice in each timeout.
        """
        self.notifier(2.0).startService()
        self.assertEqual(self.manager.take()[-1], ["WATCHDOG=1"])
        for _ in range(3):
            self.assertEqual(self.advance(0.75), [])
            self.assertEqual(self.advance(0.25), [["WATCHDOG=1"]])

    def test_reloading(self):
        """
        A reload sends RELOADING=1 with the time in microseconds, and READY=1 at its end.
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
        A reload that fails sends READY=1 at its end, too.
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
        After a stop during a reload, READY=1 is not sent.
        """
        notifier = self.notifier()
        notifier.startService()
        with notifier.reloading():
            notifier.stopping(1.0)
            self.manager.take()
        self.assertEqual(self.manager.take(), [])

    def test_stopping(self):
        """
        A stop sends STOPPING=1 at once, and EXTEND_TIMEOUT_USEC= until its time is over; status
        lines and WATCHDOG=1 go on until the end.
        """
        notifier = self.notifier(TIMEOUT_EXTENSION)
        notifier.startService()
        self.manager.take()
        self.status = "draining"
        notifier.stopping(2 * TIMEOUT_EXTENSION)
        self.assertEqual(self.manager.take(), [["STOPPING=1"], ["STATUS=draining"], [EXTEND]])
        for _ in range(4):
            told = self.advance(TIMEOUT_EXTENSION / 2)
            self.assertEqual(sorted(told), [[EXTEND], ["WATCHDOG=1"]])
        self.assertEqual(self.advance(TIMEOUT_EXTENSION), [["WATCHDOG=1"]] * 2)
        self.assertIsNone(self.successResultOf(notifier.stopService()))
        self.assertEqual((self.advance(60), self.clock.getDelayedCalls()), ([], []))

    def test_stopping_before_ready(self):
        """
        A stop before the start sends STOPPING=1.
        """
        notifier = self.notifier(2.0)
        notifier.privilegedStartService()
        notifier.stopping(5.0)
        self.assertIsNone(self.successResultOf(notifier.stopService()))
        self.assertEqual(self.advance(60), [["STOPPING=1"]])

    def test_full(self):
        """
        While the socket's buffer is full, nothing waits; afterwards, the last message about the
        state and the status line are sent.
        """
        notifier = self.notifier()
        self.manager.fill()
        notifier.startService()
        with notifier.reloading():
            self.status = "reloaded"
        self.assertNotIn(["READY=1"], self.manager.take())
        self.assertEqual(self.advance(STATUS_INTERVAL), [["READY=1"], ["STATUS=reloaded"]])
        self.assertEqual(self.advance(STATUS_INTERVAL), [])

    def test_gone(self):
        """
        A service manager that has gone is no error.
        """
        notifier = self.notifier(2.0)
        notifier.startService()
        self.manager.close()
        with capturedLogs() as events, notifier.reloading():
            self.clock.advance(STATUS_INTERVAL)
        notifier.stopping(1.0)
        self.assertIsNone(self.successResultOf(notifier.stopService()))
        self.assertEqual(list(events), [])

    def test_unreachable(self):
        """
        A service manager that cannot be reached is one warning.
        """
        notify = NotifyConfig(b"\0no\x1bbody", 2.0)
        notifier = Notifier(self.clock, notify, lambda: "well")
        self.addCleanup(notifier.stopService)
        with capturedLogs() as events:
            notifier.privilegedStartService()
            notifier.startService()
            self.clock.advance(STATUS_INTERVAL)
        self.assertEqual(
            [formatEvent(event) for event in events],
            [
                "cannot notify the service manager: \\x00no\\x1bbody: Connection refused",
            ],
        )

    def test_no_service_manager(self):
        """
        Without a service manager no status line is made, and there is no timer.
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
    Tests for L{StatusLine}.
    """

    def test_line(self):
        """
        The rate is that since the line before; the other figures are current.
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

    def test_no_time_between(self):
        """
        Two lines at the same time have a rate of 0.
        """
        line = StatusLine(Clock(), lambda: (1, 9, 0))
        self.assertEqual({line(), line()}, {"1 connection, 0 B/s, 0 refused"})
