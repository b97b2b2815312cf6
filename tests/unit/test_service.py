"""
Tests for L{echod.service}: how the daemon starts, runs, reloads and stops.
"""

import io
import json
import os
import signal
import sys
from itertools import product
from types import SimpleNamespace

import twisted.internet.reactor  # The tests stand in for one that is installed.
from twisted.application.service import Application, IServiceCollection, MultiService
from twisted.internet.defer import Deferred
from twisted.logger import ILogObserver, Logger, LogPublisher, capturedLogs, formatEvent
from twisted.scripts.twistd import ServerOptions

import echod
from echod.connections.connection import Reason
from echod.protocol import EchoFactory
from echod.systemd import Notifier, NotifyConfig
from echod.tap import makeService
from echod.tap.check import check_config
from tests.support.certificates import make_certificate
from tests.support.fakes import FakeConnection
from tests.support.servicemanager import ServiceManager
from tests.support.services import ServiceTestCase, Stuck


class RunTests(ServiceTestCase):
    """
    The timers, and the stop.
    """

    def test_checks_timeouts(self):
        """
        A running daemon checks the timeouts of its connections by the reactor's clock.
        """
        service = self.build(*self.local, "--write-timeout", "2s")
        service.startService()
        Stuck(service.connections)
        with capturedLogs() as events:
            self.reactor.pump([1] * 4)
        self.assertEqual(service.connections.ended, {Reason.WRITE_TIMEOUT: 1})
        self.assertIn("access", [event.get("event") for event in events])

    def test_limits(self):
        """
        Each limit in time has its option, and is checked twice a second.
        """
        tls = ("--tls-port", "0", "--tls-self-signed")
        for option, waiting_for, how, reason in (
            ("--idle-timeout", None, "finish", Reason.IDLE_TIMEOUT),
            ("--max-lifetime", None, "finish", Reason.MAX_LIFETIME),
            ("--handshake-timeout", Reason.HANDSHAKE, "overdue", Reason.HANDSHAKE),
        ):
            service = self.build(*self.local, *tls, option, "3s")
            service.startService()
            connection = FakeConnection(service.connections)
            connection.waiting_for = waiting_for
            self.reactor.pump([0.5] * 5)
            self.assertEqual(connection.asked, [])
            self.reactor.pump([0.5])
            self.assertEqual(connection.asked, [(how, reason)])

    def test_access_log_off(self):
        """
        With C{--access-log off} the end of a connection is not logged.
        """
        service = self.build("--access-log", "off")
        connection = Stuck(service.connections)
        with capturedLogs() as events:
            service.connections.remove(connection, Reason.CLIENT)
        self.assertEqual(list(events), [])

    def test_stop(self):
        """
        A stop closes the ports, then drains the connections, then logs the totals.
        """
        service = self.build(*self.local, "--drain-timeout", "3s")
        service.startService()
        port = self.reactor.ports[0]
        port.closing = Deferred()
        Stuck(service.connections)
        with capturedLogs() as events:
            stopped = service.stopService()
            self.reactor.advance(10)
            # The port is not closed yet, so the drain has not begun.
            self.assertTrue(port.stopped)
            self.assertEqual(len(service.connections), 1)
            port.closing.callback(None)
            self.reactor.advance(2.9)
            self.assertEqual(len(service.connections), 1)
            self.assertNoResult(stopped)
            self.reactor.advance(0.1)
        self.assertIsNone(self.successResultOf(stopped))
        self.assertEqual(service.connections.ended, {Reason.ABORTED: 1})
        self.assertEqual(self.reactor.getDelayedCalls(), [])
        self.assertEqual(
            [formatEvent(event) for event in events][-2:],
            [
                "drained: 0 connections finished, 1 aborted",
                "echod stopped: 1 connections, 7 bytes echoed",
            ],
        )
        self.assertEqual(
            {name: events[-1][name] for name in ("event", "connections", "bytes")},
            {"event": "stopped", "connections": 1, "bytes": 7},
        )

    def test_stop_at_once(self):
        """
        With C{--drain-timeout 0}, which is no limit elsewhere, a stop waits for no connection.
        """
        service = self.build(*self.local, "--drain-timeout", "0")
        service.startService()
        Stuck(service.connections)
        stopped = service.stopService()
        self.reactor.advance(0)
        self.assertIsNone(self.successResultOf(stopped))
        self.assertEqual(service.connections.ended, {Reason.ABORTED: 1})


class SignalTests(ServiceTestCase):
    """
    Real signals to the process of the test.
    """

    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)

    def setUp(self):
        super().setUp()
        self.stops = self.reactor.stop_signals

    def send(self, number):
        with capturedLogs() as events:
            os.kill(os.getpid(), number)
            self.assertEqual(list(events), [])
            self.reactor.advance(0)
        return [formatEvent(event) for event in events]

    def test_not_before_the_reactor_runs(self):
        """
        The signal handlers are set after those of the reactor, which would replace them.
        """
        before = [signal.getsignal(number) for number in self.numbers]
        self.build(*self.local).startService()
        self.assertEqual([signal.getsignal(number) for number in self.numbers], before)

    def test_stop_and_again(self):
        """
        The first TERM or INT stops the daemon; the second, of either kind, aborts all connections.
        """
        stops = (signal.SIGTERM, signal.SIGINT)
        for first, second in product(stops, stops):
            service = self.build(*self.local)
            service.startService()
            self.reactor.run()
            self.reactor.hasRun = False
            Stuck(service.connections)
            self.stops.clear()
            self.assertEqual(self.send(first), [])
            self.assertEqual((self.stops, len(service.connections)), ([first], 1))
            said = self.send(second)
            self.assertEqual(said[0], f"{second.name} again: ending every connection now")
            self.assertEqual((self.stops, len(service.connections)), ([first], 0))
            self.assertEqual(service.connections.ended, {Reason.ABORTED: 1})

    def test_before_the_reactor_runs(self):
        """
        A stop signal that arrives before the reactor runs stops the daemon when it runs; HUP, USR1
        and USR2 do not end it.
        """
        self.patch(twisted.internet, "reactor", self.reactor)
        service = makeService(self.options(*self.local))
        for number in (signal.SIGHUP, signal.SIGUSR1):
            self.assertEqual(self.send(number), [])
        service.startService()
        for number in (signal.SIGINT, signal.SIGUSR2, signal.SIGTERM):
            self.assertEqual(self.send(number), [])
        self.assertEqual(self.stops, [])
        self.reactor.run()
        self.assertEqual(self.stops, [signal.SIGINT])
        with capturedLogs() as events:
            self.reactor.advance(0)
        self.assertEqual(
            [formatEvent(event) for event in events],
            [
                f"{name} ignored: there is no action for it"
                for name in ("SIGHUP", "SIGUSR1", "SIGUSR2")
            ],
        )

    def test_other_signals(self):
        """
        HUP, USR1 and USR2 are logged, and do not stop the daemon.
        """
        self.build(*self.local).startService()
        self.reactor.run()
        for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
            said = self.send(number)
            self.assertEqual(said, [f"{number.name} ignored: there is no action for it"])
        self.assertEqual(self.stops, [])

    def test_reload(self):
        """
        With TLS, HUP reads the certificates again and opens the key log again.
        """
        made = make_certificate(days=90)
        pem, key_log = self.file(made.cert_pem + made.key_pem), self.mktemp()
        os.chmod(pem, 0o600)
        tls = ("--tls-port", "0", "--tls-cert", pem, "--tls-keylog", key_log)
        service = self.build(*tls, "-i", "127.0.0.1")
        self.addCleanup(service.key_log.close)
        service.startService()
        self.reactor.run()
        (said,) = self.send(signal.SIGHUP)
        self.assertTrue(said.startswith("certificate for localhost until "), said)
        os.rename(key_log, self.mktemp())
        self.send(signal.SIGHUP)
        self.assertTrue(os.path.exists(key_log))
        service.key_log = None
        os.unlink(pem)
        (said,) = self.send(signal.SIGHUP)
        self.assertTrue(said.startswith("cannot reload --tls-cert: "), said)

    def test_rotate(self):
        """
        With a log file, USR1 rotates it, as under twistd's own log.
        """
        path = self.mktemp()
        twistd = ServerOptions()
        twistd["logfile"] = path
        service = self.build(*self.local, twistd=twistd)
        application = Application("echod")
        service.setServiceParent(application)
        service.startService()
        self.reactor.run()
        self.assertEqual(self.send(signal.SIGUSR1), [])
        for finish, args, kwargs in self.reactor.triggers["after"]["shutdown"]:
            finish(*args, **kwargs)
        self.assertTrue(os.path.exists(path) and os.path.exists(path + ".1"))

    def test_log_in_the_background(self):
        """
        A daemon in the background writes its first lines itself; as soon as the reactor runs, its
        loop leaves them to a thread.
        """
        path = self.mktemp()
        twistd = ServerOptions()
        twistd.opts.update(nodaemon=0, logfile=path)
        service = self.build(*self.local, twistd=twistd)
        application = Application("echod")
        service.setServiceParent(application)
        threads = []
        service._log._writer._start_thread = threads.append
        log = Logger(observer=application.getComponent(ILogObserver))
        service.startService()
        log.info("one")
        self.assertEqual((threads, os.stat(path).st_size > 0), ([], True))
        size = os.stat(path).st_size
        self.reactor.run()
        log.info("two")
        self.assertEqual((len(threads), os.stat(path).st_size), (1, size))

    def test_log_dropped(self):
        """
        The snapshot has the number of log records that were dropped.
        """
        service = self.build(*self.local)
        service._log._writer = SimpleNamespace(dropped=3)
        self.assertEqual(service.collector.snapshot().log_dropped, 3)


class ServiceManagerTests(ServiceTestCase):
    """
    The notification of a service manager.
    """

    def setUp(self):
        super().setUp()
        self.manager = ServiceManager()
        self.addCleanup(self.manager.close)
        self.patch(twisted.internet, "reactor", self.reactor)
        self.environ = {**self.manager.environment, "WATCHDOG_USEC": "4000000"}
        self.patch(os, "environ", self.environ)
        self.numbers = SignalTests.numbers

    def daemon(self, *args):
        return makeService(self.options(*self.local, *args))

    def test_ready(self):
        """
        READY=1 is sent when the reactor runs; a process that the daemon starts cannot notify for
        it.
        """
        service = self.daemon()
        self.assertEqual(self.environ, {})
        service.privilegedStartService()
        service.startService()
        self.assertEqual(self.manager.take(), [])
        self.reactor.run()
        status = "STATUS=0 connections, 0 B/s, 0 refused"
        self.assertEqual(self.manager.take(), [["READY=1"], [status], ["WATCHDOG=1"]])

    def test_not_before_the_signals(self):
        """
        READY=1 is not sent before the signal handlers are set.
        """
        for number in self.numbers:
            signal.signal(number, signal.default_int_handler)
        before = [signal.getsignal(number) for number in self.numbers]
        handlers = []

        class HandlersSeen(Notifier):
            def startService(self):
                handlers.extend(signal.getsignal(number) for number in SignalTests.numbers)

        service = self.daemon()
        service.notifier = HandlersSeen(self.reactor, NotifyConfig(), str)
        service.startService()
        self.reactor.run()
        self.assertEqual(handlers, [service._signals._handle] * len(self.numbers))
        self.assertNotEqual(handlers, before)

    def test_not_before_the_last_listener(self):
        """
        READY=1 is not sent before the last listener is bound.
        """
        service, bound = self.daemon("--listen", "tcp:0"), Deferred()
        service.listeners[1].when_bound = lambda: bound
        service.startService()
        self.reactor.run()
        self.assertEqual(self.manager.take(), [])
        bound.callback(None)
        self.assertIn(["READY=1"], self.manager.take())

    def test_not_after_a_stop(self):
        """
        READY=1 is not sent if the last listener is bound after a stop.
        """
        service, bound = self.daemon(), Deferred()
        service.listeners[0].when_bound = lambda: bound
        service.startService()
        self.reactor.run()
        stopped = service.stopService()
        bound.callback(None)
        self.reactor.pump([0, 0])
        self.assertIsNone(self.successResultOf(stopped))
        self.assertEqual(self.manager.take(), [])

    def test_figures(self):
        """
        The status line has the live and the refused connections, and the rate.
        """
        service = self.daemon()
        service.startService()
        self.reactor.run()
        connection = FakeConnection(service.connections)
        service.connections.refusals.add("tcp", Reason.DENIED, "192.0.2.7:1")
        self.manager.take()
        self.reactor.pump([1.0] * 3)
        self.assertIn(["STATUS=1 connection, 0 B/s, 1 refused"], self.manager.take())
        connection.bytes_echoed = 3 * 2048
        self.reactor.pump([1.0] * 3)
        self.assertIn(["STATUS=1 connection, 2 KiB/s, 1 refused"], self.manager.take())

    def test_reload(self):
        """
        A reload is notified even if there is nothing to reload, because systemctl waits for the end
        of it.
        """
        service = self.daemon()
        service.startService()
        self.reactor.run()
        self.manager.take()
        os.kill(os.getpid(), signal.SIGHUP)
        self.reactor.advance(0)
        (reloading, ready) = self.manager.take()
        self.assertEqual((reloading[0], ready), ("RELOADING=1", ["READY=1"]))

    def test_stop(self):
        """
        A stop is notified when it begins; status lines and WATCHDOG=1 go on until it ends.
        """
        service = self.daemon("--drain-timeout", "3s")
        service.startService()
        self.reactor.run()
        Stuck(service.connections)
        self.manager.take()
        stopped = service.stopService()
        told = self.manager.take()
        self.assertEqual(told[0], ["STOPPING=1"])
        self.assertIn(["STATUS=draining, 1 connection, 0 B/s, 0 refused"], told)
        self.assertTrue(told[-1][0].startswith("EXTEND_TIMEOUT_USEC="))
        self.reactor.pump([0.1] * 29)
        self.assertNoResult(stopped)
        self.assertIn(["WATCHDOG=1"], self.manager.take())
        self.reactor.pump([0.1] * 2)
        self.assertIsNone(self.successResultOf(stopped))
        self.manager.take()
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_check(self):
        """
        With C{--check} the service manager is not notified.
        """
        self.assertRaises(SystemExit, self.daemon, "--check")
        self.assertEqual((self.manager.take(), self.environ), ([], {}))


class LogObserverTests(ServiceTestCase):
    """
    The log observer that the daemon gives to its application.
    """

    def setUp(self):
        super().setUp()
        self.path = self.file()
        stdout = open(self.path, "w")  # noqa: SIM115 - it is open until the test ends
        self.addCleanup(stdout.close)
        self.patch(sys, "stdout", stdout)

    def observer(self, *args, **twistd):
        """
        The log observer of the daemon's application.
        """
        options = ServerOptions()
        options.opts.update({"nodaemon": 1} | twistd)
        application = Application("echod")
        service = self.build(*args, twistd=options)
        service.setServiceParent(application)
        self.assertEqual(list(IServiceCollection(application)), [service])
        return application.getComponent(ILogObserver, None)

    def written_by(self, observer):
        log = Logger(namespace="echod.test", observer=LogPublisher(observer))
        log.debug("low")
        log.info("middle")
        log.warn("high")
        with open(self.path) as file:
            return file.read().splitlines()

    def test_default(self):
        """
        By default, the log is text, from level info.
        """
        lines = self.written_by(self.observer())
        self.assertEqual([line.split()[-1] for line in lines], ["middle", "high"])

    def test_options(self):
        """
        With C{--log-format json} and C{--log-level}, C{twistd -n} writes JSON from that level.
        """
        lines = self.written_by(self.observer("--log-format", "json", "--log-level", "warn"))
        self.assertEqual([json.loads(line)["message"] for line in lines], ["high"])

    def test_announcement(self):
        """
        On a terminal, the first line says where the daemon listens, when all ports are bound.
        """
        self.patch(os, "isatty", lambda descriptor: True)
        options = ServerOptions()
        options["nodaemon"] = 1
        proxied = ("--proxy-protocol", "require", "--proxy-trust", "::1")
        for args, command in (((), "nc -N 192.0.2.1 9000"), (proxied, "echod-check --proxy")):
            with open(self.path, "w") as stdout:
                self.patch(sys, "stdout", stdout)
                service = self.build(*self.local, *args, twistd=options)
                service.setServiceParent(Application("echod"))
                service.privilegedStartService()
            with open(self.path) as file:
                [line] = file.read().splitlines()
            begin = f"echod {echod.__version__} listens on 192.0.2.1:9000; Ctrl-C stops it; try: "
            self.assertTrue(line.startswith(begin + command), line)

    def test_own_logger(self):
        """
        A C{--logger} of twistd is kept.
        """
        self.assertIsNone(self.observer(logger="some.logger"))

    def test_without_twistd(self):
        """
        Under twist, and under a parent that is no application, no observer is given.
        """
        application = Application("echod")
        self.build().setServiceParent(application)
        self.assertIsNone(application.getComponent(ILogObserver, None))
        parent = MultiService()
        twistd = ServerOptions()
        twistd["nodaemon"] = 1
        service = self.build(twistd=twistd)
        service.setServiceParent(parent)
        self.assertEqual(list(parent), [service])

    def test_unusable_log_file(self):
        """
        A log file that cannot be opened ends the start with one line.
        """
        path = os.path.abspath(os.path.join(self.mktemp(), "log"))
        self.patch(sys, "__stderr__", stderr := io.StringIO())
        error = self.assertRaises(SystemExit, self.observer, logfile=path)
        self.assertEqual(error.code, os.EX_CONFIG)
        self.assertEqual(
            stderr.getvalue(),
            f"twistd: --logfile '{path}': No such file or directory; "
            "give a file that can be written\n",
        )


class SnapshotTests(ServiceTestCase):
    """
    The snapshots of a daemon with C{--admin}.
    """

    def readiness(self, service):
        """
        @return: whether it is ready, or why not.
        """
        return service.collector.snapshot().not_ready() or "ready"

    def test_life(self):
        """
        The daemon is ready when its listeners are bound, until a stop begins; the history goes on
        until the last connection has ended.
        """
        service = self.build(*self.local, "--admin", "tcp:1:interface=127.0.0.1")
        self.assertEqual(self.readiness(service), "not listening: --port 0 --interface 127.0.0.1")
        service.privilegedStartService()
        service.startService()
        self.assertEqual(self.readiness(service), "ready")
        Stuck(service.connections)
        self.reactor.pump([1] * 3)
        self.assertEqual(len(service.collector.snapshot().history), 3)
        echo_port = self.reactor.ports[0]
        echo_port.closing = Deferred()
        stopped = service.stopService()
        self.assertEqual(self.readiness(service), "draining")
        self.reactor.pump([1] * 3)
        echo_port.closing.callback(None)
        self.reactor.advance(1)
        self.assertEqual(len(service.collector.snapshot().history), 7)
        self.assertNoResult(stopped)
        self.reactor.advance(4)
        self.assertIsNone(self.successResultOf(stopped))
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_without_admin(self):
        """
        Without C{--admin} there is no history and no lag, but a snapshot can be taken.
        """
        service = self.build(*self.local)
        service.startService()
        self.reactor.pump([1] * 3)
        now = service.collector.snapshot()
        self.assertEqual((now.history, now.lag.counts[0], now.max_connections), ([], 0, 10000))

    def test_certificates(self):
        """
        The snapshot has the certificates that are served.
        """
        made = make_certificate(["a.example"])
        path = self.file(made.cert_pem + made.key_pem)
        service = self.build("--tls-port", "0", "-i", "127.0.0.1", "--tls-cert", path)
        (served,) = service.collector.snapshot().certificates
        self.assertEqual((served.names, served.path), (["a.example"], path))


class AdminTests(ServiceTestCase):
    """
    C{--admin}.
    """

    def test_listeners(self):
        """
        The listener of the status page is not among the listeners of the echo; C{--check} checks
        both.
        """
        service = self.build(
            "--listen", "tcp:7:interface=127.0.0.1", "--admin", "tcp:1:interface=127.0.0.1"
        )
        self.assertEqual(
            [each.option for each in service.listeners], ["--listen tcp:7:interface=127.0.0.1"]
        )
        self.assertEqual(
            [each.option for each in service.all_listeners()],
            ["--listen tcp:7:interface=127.0.0.1", "--admin tcp:1:interface=127.0.0.1"],
        )
        error = self.assertRaises(SystemExit, check_config, self.reactor, lambda: service)
        self.assertEqual(error.code, 0)
        self.assertIn("  192.0.2.1:9000, --admin tcp:1:inter", self.stdout.getvalue())
        self.assertEqual([port.stopped for port in self.reactor.ports], [True, True])

    def test_order(self):
        """
        The status page goes on until the last connection has ended.
        """
        service = self.build(*self.local, "--admin", "tcp:1:interface=127.0.0.1")
        service.startService()
        admin, echo = sorted(
            self.reactor.ports, key=lambda port: isinstance(port.factory, EchoFactory)
        )
        Stuck(service.connections)
        stopped = service.stopService()
        self.reactor.advance(0)
        self.assertEqual((echo.stopped, admin.stopped), (True, False))
        self.reactor.advance(4.9)
        self.assertFalse(admin.stopped)
        self.reactor.advance(0.1)
        self.assertTrue(admin.stopped)
        self.assertIsNone(self.successResultOf(stopped))

    def test_mode(self):
        """
        A UNIX socket for C{--admin} has mode 660 unless the endpoint names another.
        """
        for endpoint, mode in (("unix:/x", 0o660), ("unix:/x:mode=600", 0o600)):
            service = self.build(*self.local, "--admin", endpoint)
            service.startService()
            self.assertEqual(self.reactor.unixServers[-1][3], mode)

    def test_bad_endpoint(self):
        """
        A wrong endpoint string is one line, without secrets.
        """
        text = "nosuch:1:token=a"
        error = self.assertRaises(SystemExit, self.build, *self.local, "--admin", text)
        line = "echod: --admin nosuch:1:token=[hidden]: not an endpoint ("
        self.assertTrue(str(error.code).startswith(line), error.code)
        self.assertEqual(len(str(error.code).splitlines()), 1)

    def test_not_installed(self):
        """
        Without prometheus_client, one line says what to install.
        """
        names = ("prometheus_client.core", "echod.admin.prometheus")
        loaded = {name: sys.modules.pop(name) for name in names if name in sys.modules}
        self.addCleanup(sys.modules.update, loaded)
        sys.modules[names[0]] = None
        error = self.assertRaises(SystemExit, self.build, *self.local, "--admin", "unix:/x")
        self.assertEqual(
            error.code, "echod: --admin: needs prometheus_client; pip install 'echod[metrics]'"
        )
        # Without --admin it is not needed.
        self.build(*self.local)

    def test_snapshots(self):
        """
        The snapshot is that of this process.
        """
        service = self.build(*self.local, "--admin", "unix:/x")
        (snapshot,) = self.successResultOf(Deferred.fromCoroutine(service.collector.snapshots()))
        self.assertEqual(snapshot.process.pid, os.getpid())
