"""
The house: what is built from the options, how it starts and how it stops.
"""

import errno
import io
import json
import os
import select
import signal
import socket
import sys
import time

import twisted.internet.reactor  # The tests stand in for one that is installed.
from twisted.application.service import (
    Application,
    IService,
    IServiceCollection,
    MultiService,
    Service,
)
from twisted.internet.defer import Deferred
from twisted.internet.pollreactor import PollReactor
from twisted.logger import ILogObserver, Logger, LogLevel, LogPublisher, capturedLogs, formatEvent
from twisted.python import runtime
from twisted.scripts.twistd import ServerOptions
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

import echod
from echod.connection import Connection, Reason
from echod.endpoint import TCPEndpoint
from echod.reactor import EagerReactor
from echod.service import Options, build, check, keep_steady_time, makeService
from tests.certificates import make_certificate
from tests.fakes import PortReactor


class FakeConnection(Connection):
    """
    A connection that takes nothing and ends only by force.
    """

    listener = "tcp"
    bytes_echoed = 7
    paused = True
    ending = False

    def __init__(self, connections):
        self._connections = connections
        connections.add(self)

    def owed(self):
        return (1, 0, 0)

    def peer(self):
        return "192.0.2.7:40000"

    def abort(self, reason=None):
        self._connections.remove(self, reason)


class BrokenService(Service):
    """
    A part of the daemon with a bug.
    """

    def startService(self):
        raise LookupError("a bug")


class ServiceTestCase(SynchronousTestCase):
    """
    A daemon on a reactor that the test turns.
    """

    local = ("--port", "0", "--interface", "127.0.0.1")

    def setUp(self):
        self.reactor = PortReactor()
        self.addCleanup(self.reactor.close)
        self.stderr = io.StringIO()
        self.patch(sys, "__stderr__", self.stderr)
        self.stdout = io.StringIO()
        self.patch(sys, "stdout", self.stdout)

    def options(self, *args, twistd=None):
        options = Options()
        options.parent = twistd
        options.parseOptions(args)
        return options

    def build(self, *args, twistd=None):
        return build(self.reactor, self.options(*args, twistd=twistd))

    def file(self, content=b""):
        path = self.mktemp()
        with open(path, "wb") as file:
            file.write(content)
        return path


class BuildTests(ServiceTestCase):
    """
    From the options to the services.
    """

    def test_default(self):
        """
        Without options there is one listener, on port 9000, and nothing is opened yet.
        """
        service = self.build()
        verifyObject(IService, service)
        verifyObject(IServiceCollection, service)
        self.assertEqual([each.option for each in service.listeners()], ["--port 9000"])
        self.assertEqual((self.reactor.adoptedPorts, self.reactor.getDelayedCalls()), ([], []))

    def test_listeners(self):
        """
        Each listener has its name, its option and its own TLS or none, in a fixed order.
        """
        made = make_certificate()
        args = ("--listen", "unix:/x", "--listen", "tcp:7", "--tls-port", "0", *self.local)
        args = ("--backlog", "9", *args, "--tls-cert", self.file(made.cert_pem + made.key_pem))
        with capturedLogs() as events:
            service = self.build(*args)
        # Nothing here is to be warned of.
        self.assertEqual(list(events), [])
        service.startService()
        self.assertEqual(
            [each.option for each in service.listeners()],
            [
                "--port 0 --interface 127.0.0.1",
                "--tls-port 0 --interface 127.0.0.1",
                "--listen unix:/x",
                "--listen tcp:7",
            ],
        )
        factories = [port.factory for port in self.reactor.ports]
        self.assertEqual([each.listener for each in factories], ["tcp", "tls", "unix:/x", "tcp:7"])
        self.assertEqual([each.tls is not None for each in factories], [False, True, False, False])
        for factory in factories:
            self.assertIs(factory.connections, service.connections)
        address, _, backlog, mode, locked = self.reactor.unixServers[0]
        # The endpoint of our own: Twisted's locks, and believes a lock left behind.
        self.assertEqual((address, backlog, mode, locked), ("/x", 9, 0o666, 0))
        port, _, backlog, _ = self.reactor.tcpServers[0]
        self.assertEqual((port, backlog), (7, 9))

    def test_sockets(self):
        """
        The address, the queue and the write timeout of the options are those of the socket.
        """
        service = self.build(*self.local, "--backlog", "7", "--write-timeout", "2.5")
        service.startService()
        sock = self.reactor.ports[0].socket
        self.assertEqual(sock.getsockname()[0], "127.0.0.1")
        tcp = socket.IPPROTO_TCP
        self.assertEqual(sock.getsockopt(tcp, socket.TCP_USER_TIMEOUT), 7500)
        # tcpi_sacked of struct tcp_info is a listening socket's queue.
        queue = sock.getsockopt(tcp, socket.TCP_INFO, 64)[28:32]
        self.assertEqual(int.from_bytes(queue, sys.byteorder), 7)

    def refused(self, *args):
        error = self.assertRaises(SystemExit, self.build, *args)
        line = error.code
        self.assertEqual(line.splitlines(), [line])
        return line

    def test_bad_credentials(self):
        """
        A certificate or key that cannot be served is one line with the option and the file.
        """
        one, other = make_certificate(), make_certificate()
        cert, key = self.file(one.cert_pem), self.file(other.key_pem)
        tls = ("--tls-port", "0", "--tls-cert")
        missing = self.mktemp()
        self.assertEqual(
            self.refused(*tls, missing + "\n"),
            f"echod: --tls-cert: cannot read {missing}\\n: No such file or directory; "
            "give a file that can be read",
        )
        self.assertEqual(
            self.refused(*tls, cert, "--tls-key", key),
            f"echod: --tls-key: the key in {key} does not belong to the first certificate "
            f"in {cert}; give its own",
        )

    def test_bad_endpoints(self):
        """
        An endpoint string that Twisted or a plugin does not take is one line with the string.
        """
        for description in (
            "nosuch:1",
            "nosuch:\n",
            "tcp:9000:nosuch=1",
            "tcp:9000:backlog=x",
            "unix:/x:mode=rw",
            "ssl:9000:privateKey=/no/such/file",
            "systemd:domain=INET",
            "haproxy:x",
        ):
            line = self.refused("--listen", description)
            shown = description.replace("\n", "\\n")
            self.assertTrue(line.startswith(f"echod: --listen {shown}: not an endpoint ("), line)
            self.assertTrue(line.endswith("); give one such as tcp:9000 or unix:/run/echod.sock"))

    def test_layers_are_warned_of(self):
        """
        An endpoint that puts a layer around the connection is taken, with a warning.
        """
        made = make_certificate()
        pem = self.file(made.cert_pem + made.key_pem)
        folder = self.mktemp()
        os.mkdir(folder)
        with open(os.path.join(folder, "localhost.pem"), "wb") as file:
            file.write(made.cert_pem + made.key_pem)
        for description in (
            f"ssl:0:privateKey={pem}:certKey={pem}",
            f"tls:{folder}:0",
            "haproxy:tcp:0",
        ):
            with capturedLogs() as events:
                service = self.build("--listen", description)
            (event,) = events
            self.assertIs(event["log_level"], LogLevel.warn)
            self.assertEqual(
                formatEvent(event),
                f"--listen {description}: its layer around the connection loses what is owed "
                "to a client that closes its sending side; for TLS, use --tls-port",
            )
            self.assertEqual(len(service.listeners()), 1)


class RunTests(ServiceTestCase):
    """
    Start, work, stop.
    """

    def test_sweep(self):
        """
        A running daemon looks after its connections by the reactor's clock and the options.
        """
        service = self.build(*self.local, "--write-timeout", "2s")
        service.startService()
        FakeConnection(service.connections)
        with capturedLogs() as events:
            self.reactor.pump([1] * 4)
        self.assertEqual(service.connections.ended, {Reason.WRITE_STALL: 1})
        self.assertIn("access", [event.get("event") for event in events])

    def test_access_log_off(self):
        """
        With C{--access-log off} the end of a connection is not logged.
        """
        service = self.build("--access-log", "off")
        connection = FakeConnection(service.connections)
        with capturedLogs() as events:
            service.connections.remove(connection, Reason.CLIENT)
        self.assertEqual(list(events), [])

    def test_stop(self):
        """
        A stop closes the doors, then waits for the guests, then says what there was.
        """
        service = self.build(*self.local, "--drain-timeout", "3s")
        service.startService()
        port = self.reactor.ports[0]
        port.closing = Deferred()
        FakeConnection(service.connections)
        with capturedLogs() as events:
            stopped = service.stopService()
            self.reactor.advance(10)
            # The door is not closed yet: nobody is sent away.
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


class SignalTests(ServiceTestCase):
    """
    Real signals to this process, handled by the daemon while the test runs.
    """

    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)

    def setUp(self):
        super().setUp()
        self.stops = []
        for number in self.numbers:
            self.addCleanup(signal.signal, number, signal.getsignal(number))
            # What a reactor does once it runs, if only for the first two.
            signal.signal(number, lambda number, frame: self.stops.append(number))

    def send(self, number):
        with capturedLogs() as events:
            os.kill(os.getpid(), number)
            self.assertEqual(list(events), [])
            self.reactor.advance(0)
        return [formatEvent(event) for event in events]

    def test_not_before_the_reactor_runs(self):
        """
        The handlers come after the reactor's own, or those would replace them.
        """
        before = [signal.getsignal(number) for number in self.numbers]
        self.build(*self.local).startService()
        self.assertEqual([signal.getsignal(number) for number in self.numbers], before)

    def test_stop_and_again(self):
        """
        The first TERM or INT stops, the second of its kind ends every connection at once.
        """
        service = self.build(*self.local)
        service.startService()
        self.reactor.run()
        for number in (signal.SIGTERM, signal.SIGINT):
            FakeConnection(service.connections)
            self.stops.clear()
            self.assertEqual(self.send(number), [])
            self.assertEqual((self.stops, len(service.connections)), ([number], 1))
            said = self.send(number)
            self.assertEqual(said[0], f"{number.name} again: ending every connection now")
            self.assertEqual((self.stops, len(service.connections)), ([number], 0))
        self.assertEqual(service.connections.ended, {Reason.ABORTED: 2})

    def test_others_are_survived(self):
        """
        HUP, USR1 and USR2 stop nothing; the log says that they came.
        """
        self.build(*self.local).startService()
        self.reactor.run()
        for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
            said = self.send(number)
            self.assertEqual(said, [f"{number.name} came, and there is nothing to do for it"])
        self.assertEqual(self.stops, [])

    def test_rotate(self):
        """
        With a log file USR1 rotates it, as twistd does.
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
        self.assertTrue(os.path.exists(path) and os.path.exists(path + ".1"))


class ParentTests(ServiceTestCase):
    """
    The log observer that the daemon brings to the application.
    """

    def adopted(self, *args, **twistd):
        """
        The observer of an application that the daemon has become part of.
        """
        options = ServerOptions()
        options.opts.update({"nodaemon": 1} | twistd)
        application = Application("echod")
        service = self.build(*args, twistd=options)
        service.setServiceParent(application)
        self.assertEqual(list(IServiceCollection(application)), [service])
        return application.getComponent(ILogObserver, None)

    def said(self, observer):
        publisher = LogPublisher(observer)
        log = Logger(namespace="echod.test", observer=publisher)
        log.debug("low")
        log.info("middle")
        log.warn("high")
        return self.stdout.getvalue().splitlines()

    def test_text(self):
        """
        By default the log is text, from info up.
        """
        lines = self.said(self.adopted())
        self.assertEqual([line.split()[-1] for line in lines], ["middle", "high"])

    def test_json(self):
        """
        With C{--log-format json} and a level, plain C{twistd -n} writes JSON from that level up.
        """
        lines = self.said(self.adopted("--log-format", "json", "--log-level", "warn"))
        self.assertEqual([json.loads(line)["message"] for line in lines], ["high"])

    def test_logger_of_the_user(self):
        """
        A logger that the user gave to twistd is left in place.
        """
        self.assertIsNone(self.adopted(logger="some.logger"))

    def test_without_twistd(self):
        """
        Under twist, and under a service that is no application, no observer is brought.
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

    def refused(self, logfile, **twistd):
        error = self.assertRaises(SystemExit, self.adopted, logfile=logfile, **twistd)
        self.assertEqual(error.code.splitlines(), [error.code])
        return error.code

    def test_log_file_that_cannot_be(self):
        """
        A log file that cannot be opened is one line with the file, the reason and the way out.
        """
        path = os.path.abspath(os.path.join(self.mktemp(), "log"))
        self.assertEqual(
            self.refused(path),
            f"twistd: --logfile '{path}': No such file or directory; "
            "give a file that can be written",
        )
        self.assertIn(rf" '{path}\y\x1b/log': ", self.refused(path + "\\y\x1b/log"))

    def test_log_file_of_the_background(self):
        """
        In the background twistd.log is the file that is named when it cannot be opened.
        """
        folder = self.mktemp()
        os.mkdir(folder)
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(folder)
        os.mkdir("twistd.log")
        self.assertEqual(
            self.refused(None, nodaemon=0),
            "twistd: --logfile 'twistd.log': Is a directory; give a file that can be written",
        )

    def test_stdout_in_the_background(self):
        """
        C{--logfile -} without C{-n} is one line: the log would go nowhere.
        """
        self.assertEqual(
            self.refused("-", nodaemon=0),
            "twistd: --logfile '-': a daemon in the background has no standard output; "
            "give a file that can be written",
        )

    def test_log_file_that_is_a_pipe(self):
        """
        A log file that is none, but a pipe, is named as well.
        """
        path = os.path.abspath(self.mktemp())
        os.mkfifo(path)
        line = self.refused(path)
        self.assertTrue(line.startswith(f"twistd: --logfile '{path}': "), line)
        self.assertIn(os.strerror(errno.ESPIPE), line)


class CheckTests(ServiceTestCase):
    """
    C{--check}: start, tell, stop.
    """

    def check(self, service):
        """
        @return: the exit status.
        """
        error = self.assertRaises(SystemExit, check, self.reactor, service)
        self.assertTrue(self.reactor.hasRun)
        return error.code

    def test_well(self):
        """
        When all is well it says what would listen where, lets go, and exits with 0.
        """
        service = self.build(*self.local, "--listen", "tcp:7")
        self.assertEqual(self.check(service), 0)
        self.assertEqual(
            self.stdout.getvalue().splitlines(),
            [
                f"echod {echod.__version__}: all is well; this would listen on",
                "  192.0.2.1:9000, --port 0 --interface 127.0.0.1",
                "  192.0.2.1:9000, --listen tcp:7",
            ],
        )
        self.assertEqual([port.stopped for port in self.reactor.ports], [True, True])

    def test_cannot_listen(self):
        """
        When a port is taken it says so, lets go of the others, and exits with 1.
        """
        taken = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(taken.close)
        service = self.build("--listen", "tcp:7", "--listen", "tcp:8")
        endpoint = TCPEndpoint(self.reactor, taken.getsockname()[1], "127.0.0.1", 7)
        service.add_listener("x", "--port", endpoint)
        self.assertEqual(self.check(service), 1)
        reason = "Address already in use; stop what listens there, or give another"
        self.assertEqual(self.stderr.getvalue(), f"echod: --port: {reason}\n")
        self.assertEqual(self.stdout.getvalue(), "")
        self.assertEqual([port.stopped for port in self.reactor.ports], [True, True])

    def twistd(self, logfile):
        twistd = ServerOptions()
        twistd.opts.update({"nodaemon": 1, "logfile": logfile})
        return twistd

    def test_log_file(self):
        """
        That the log file can be opened is tried, and no file is left behind for it.
        """
        path = self.mktemp()
        self.assertEqual(self.check(self.build(*self.local, twistd=self.twistd(path))), 0)
        self.assertEqual(os.path.exists(path), False)

    def test_log_file_of_earlier(self):
        """
        A log file that is there already is left as it is.
        """
        path = self.file(b"earlier\n")
        self.assertEqual(self.check(self.build(*self.local, twistd=self.twistd(path))), 0)
        with open(path, "rb") as file:
            self.assertEqual(file.read(), b"earlier\n")

    def test_log_file_behind_a_link(self):
        """
        A symbolic link to where the log file will be is left in place, and no file behind it.
        """
        target, path = os.path.abspath(self.mktemp()), self.mktemp()
        os.symlink(target, path)
        self.assertEqual(self.check(self.build(*self.local, twistd=self.twistd(path))), 0)
        self.assertEqual((os.path.islink(path), os.path.exists(target)), (True, False))

    def test_log_to_stdout(self):
        """
        In the foreground the log needs no file, and one that is called - is left alone.
        """
        folder = self.mktemp()
        os.mkdir(folder)
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(folder)
        for logfile in (None, "-"):
            self.reactor.hasRun = False
            service = self.build("--listen", "tcp:7", twistd=self.twistd(logfile))
            self.assertEqual(self.check(service), 0)
        self.assertEqual(os.listdir("."), [])

    def test_log_file_that_cannot_be(self):
        """
        A log file that the daemon could not open is one line, and nothing is bound.
        """
        path = os.path.abspath(os.path.join(self.mktemp(), "log"))
        service = self.build(*self.local, twistd=self.twistd(path))
        error = self.assertRaises(SystemExit, check, self.reactor, service)
        self.assertEqual(
            error.code,
            f"twistd: --logfile '{path}': No such file or directory; "
            "give a file that can be written",
        )
        self.assertEqual((self.reactor.hasRun, self.reactor.ports), (False, []))
        self.assertEqual(self.stdout.getvalue(), "")

    def test_bug(self):
        """
        A bug found on the way is logged, and the exit status is 1.
        """
        service = self.build(*self.local)
        service.addService(BrokenService())
        self.assertEqual(self.check(service), 1)
        self.assertEqual(len(self.flushLoggedErrors(LookupError)), 1)


class MakeServiceTests(ServiceTestCase):
    """
    The entry point of twistd and twist.
    """

    def setUp(self):
        super().setUp()
        self.patch(twisted.internet, "reactor", self.reactor)

    def test_make(self):
        """
        The daemon is built on the reactor that is installed, and nothing is opened yet.
        """
        with capturedLogs() as events:
            service = makeService(self.options(*self.local))
        (event,) = events
        self.assertEqual(formatEvent(event), f"echod {echod.__version__} starting")
        self.assertEqual((event["event"], event["version"]), ("starting", echod.__version__))
        self.assertEqual(self.reactor.adoptedPorts, [])
        service.startService()
        self.assertEqual(len(self.reactor.adoptedPorts), 1)

    def no_reactor(self):
        """
        Let it be as if nobody had chosen a reactor yet.
        """
        name = "twisted.internet.reactor"
        self.addCleanup(sys.modules.__setitem__, name, sys.modules[name])
        del sys.modules[name]

    def test_own_reactor(self):
        """
        If nobody has chosen a reactor, echod's own is installed, once.
        """
        self.no_reactor()
        makeService(self.options(*self.local))
        installed = twisted.internet.reactor
        self.assertIsInstance(installed, EagerReactor)
        self.assertIs(sys.modules["twisted.internet.reactor"], installed)
        makeService(self.options(*self.local))
        self.assertIs(twisted.internet.reactor, installed)

    def test_no_epoll(self):
        """
        Where there is no epoll, the reactor is the one that Twisted has for the platform.
        """
        self.no_reactor()
        epoll = select.epoll
        self.addCleanup(setattr, select, "epoll", epoll)
        del select.epoll
        makeService(self.options(*self.local)).startService()
        self.assertEqual(len(self.reactor.adoptedPorts), 1)

    def test_steady_time(self):
        """
        A reactor that would go by the wall clock is given a steady one, unless it has begun.
        """
        reactor = PollReactor()
        self.addCleanup(reactor.disconnectAll)
        began = reactor.callLater(60, self.fail)
        keep_steady_time(reactor)
        self.assertIs(reactor.seconds, runtime.seconds)
        began.cancel()
        reactor.runUntilCurrent()
        keep_steady_time(reactor)
        self.assertIs(reactor.seconds, time.monotonic)

    def test_check(self):
        """
        With C{--check} nothing is made, and the process ends.
        """
        error = self.assertRaises(SystemExit, makeService, self.options(*self.local, "--check"))
        self.assertEqual(error.code, 0)
        self.assertIn("all is well", self.stdout.getvalue())
