"""
The house: what is built from the options, how it starts and how it stops.
"""

import io
import json
import os
import resource
import select
import signal
import socket
import sys
import time

import twisted.internet.reactor  # The tests stand in for one that is installed.
from OpenSSL import SSL
from twisted.application.service import (
    Application,
    IService,
    IServiceCollection,
    MultiService,
    Service,
)
from twisted.internet import selectreactor
from twisted.internet.address import IPv4Address, UNIXAddress
from twisted.internet.defer import Deferred
from twisted.internet.pollreactor import PollReactor
from twisted.internet.selectreactor import SelectReactor
from twisted.internet.testing import StringTransport
from twisted.logger import ILogObserver, Logger, LogLevel, LogPublisher, capturedLogs, formatEvent
from twisted.python import runtime
from twisted.scripts.twistd import ServerOptions
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

import echod
from echod.assignment import VARIABLE, Assignment
from echod.connection import Reason
from echod.daemon import EchodService
from echod.endpoint import TCPEndpoint
from echod.factory import Refused
from echod.inherited import InheritedSocket, InheritedSockets
from echod.parent import ParentService
from echod.protocol import Echo
from echod.proxy import ProxyHeader
from echod.reactor import EagerReactor
from echod.service import (
    Options,
    build,
    check,
    fill_standard_streams,
    keep_steady_time,
    makeService,
    most_connections,
    worker_count,
)
from echod.systemd import Supervision, SystemdNotifier
from echod.turns import make_table
from echod.worker import WorkerService
from tests.certificates import make_certificate
from tests.fakes import FakeConnection, PortReactor
from tests.handshakes import client_context, shake_hands
from tests.servicemanager import ServiceManager


class Stuck(FakeConnection):
    """
    A connection that takes nothing and ends only by force.
    """

    bytes_echoed = 7
    paused = True

    def __init__(self, connections):
        super().__init__(connections)
        self.not_taken = (1, 0, 0)

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

    def build(self, *args, twistd=None, inherited=None):
        return build(self.reactor, self.options(*args, twistd=twistd), inherited)

    def file(self, content=b""):
        path = os.path.abspath(self.mktemp())
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
        missing = os.path.abspath(self.mktemp())
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

    def test_bad_authorities(self):
        """
        A file that holds nobody who could sign for clients is one line.
        """
        made = make_certificate()
        path = self.file(made.cert_pem + made.key_pem)
        empty = self.file()
        tls = ("--tls-port", "0", "--tls-cert", path, "--tls-client-auth", "require")
        self.assertEqual(
            self.refused(*tls, "--tls-client-ca", empty),
            f"echod: --tls-client-ca: {empty} holds no PEM certificate; give one that does",
        )

    def test_bad_key_log(self):
        """
        A key log that cannot be written is one line.
        """
        made = make_certificate()
        path = self.file(made.cert_pem + made.key_pem)
        self.assertEqual(
            self.refused("--tls-port", "0", "--tls-cert", path, "--tls-keylog", "no/such\n"),
            f"echod: --tls-keylog '{os.getcwd()}/no/such\\n': No such file or directory; "
            "give a file that can be written",
        )

    def test_no_memory_for_callbacks(self):
        """
        Where memory may not be both written and executed, what takes such memory is
        refused in one line.
        """

        def forbidden(context, callback):
            raise MemoryError("Cannot allocate write+execute memory for ffi.callback()")

        self.patch(SSL.Context, "set_alpn_select_callback", forbidden)
        made = make_certificate()
        path = self.file(made.cert_pem + made.key_pem)
        self.assertEqual(
            self.refused("--tls-port", "0", "--tls-cert", path, "--tls-alpn", "echo"),
            "echod: several --tls-cert, --tls-alpn and --tls-keylog take memory that is both "
            "written and executed; give the service MemoryDenyWriteExecute=no",
        )

    def test_tls_policy(self):
        """
        What the options say of TLS is what is spoken.
        """
        authority = make_certificate(["authority"], authority=True)
        shown = make_certificate(["client"], authority)
        one, other = (make_certificate([name]) for name in ("localhost", "b.example"))
        service = self.build(
            *("--tls-port", "0", "--tls-min", "1.3", "--tls-alpn", "x,echo"),
            *("--tls-cert", self.file(one.cert_pem), "--tls-key", self.file(one.key_pem)),
            *("--tls-cert", self.file(other.key_pem + other.cert_pem)),
            *("--tls-client-auth", "require", "--tls-client-ca", self.file(authority.cert_pem)),
        )
        context = service.certificates.getContext()
        hands = shake_hands(context, client_context(None, shown, alpn=(b"echo",)), b"b.example")
        self.assertEqual((hands.heard, hands.shown), (b"word", ["CN=b.example"]))
        self.assertEqual(hands.client.get_alpn_proto_negotiated(), b"echo")
        for version, certificate in (("TLSv1.2", shown), ("TLSv1.3", None)):
            hands = shake_hands(context, client_context(version, certificate))
            self.assertEqual(hands.heard, b"")

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


class InheritedTests(ServiceTestCase):
    """
    A daemon whose sockets listen already when it is started.
    """

    def setUp(self):
        super().setUp()
        self.sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
        for each in self.sockets:
            self.addCleanup(each.close)
        names = ("echo", "secure", "echo")
        self.inherited = InheritedSockets(
            [
                InheritedSocket(name, os.dup(each.fileno()))
                for name, each in zip(names, self.sockets, strict=True)
            ]
        )

    def test_listeners(self):
        """
        Each socket of the name becomes a listener that is called by it, plain or with TLS.
        """
        made = make_certificate()
        pem = self.file(made.cert_pem + made.key_pem)
        with capturedLogs() as events:
            service = self.build(
                "--tls-listen", "systemd:name=secure", "--listen", "systemd:INET:name=echo",
                "--tls-cert", pem, inherited=self.inherited,
            )  # fmt: skip
        self.assertEqual(list(events), [])
        service.startService()
        factories = [port.factory for port in self.reactor.ports]
        self.assertEqual(
            [(factory.listener, factory.tls is not None) for factory in factories],
            [("echo", False), ("echo", False), ("secure", True)],
        )
        self.assertEqual(
            [listener.option for listener in service.listeners()],
            ["--listen systemd:INET:name=echo"] * 2 + ["--tls-listen systemd:name=secure"],
        )

    def test_left(self):
        """
        A socket that no option asks for is told of, with the option that would.
        """
        with capturedLogs() as events:
            self.build("--listen", "systemd:name=echo", inherited=self.inherited)
        self.assertEqual(
            [(event["log_level"], formatEvent(event)) for event in events],
            [
                (
                    LogLevel.warn,
                    "a socket was handed over that no option listens on; "
                    "add --listen systemd:name=secure",
                )
            ],
        )

    def test_none(self):
        """
        A socket that was not handed over is one line.
        """
        options = self.options("--listen", "systemd:name=other")
        error = self.assertRaises(SystemExit, build, self.reactor, options, self.inherited)
        self.assertEqual(
            str(error),
            "echod: --listen systemd:name=other: no such socket was handed over; "
            "give one of echo, secure, echo",
        )


class MostConnectionsTests(ServiceTestCase):
    """
    How many connections there may be, with a kernel that answers what the test says.
    """

    def setUp(self):
        super().setUp()
        # Another test may have imported it.
        self.patch(sys, "modules", dict(sys.modules))
        sys.modules.pop("twisted.internet.selectreactor", None)

    def most(self, asked, limit, reactor=None):
        """
        @return: how many there may be, and the warnings.
        """
        self.patch(resource, "getrlimit", lambda _: (min(limit, 1024), limit))
        self.patch(resource, "setrlimit", lambda *_: None)
        with capturedLogs() as events:
            most = most_connections(reactor, asked)
        self.assertTrue(all(event["log_level"] is LogLevel.warn for event in events))
        return most, [formatEvent(event) for event in events]

    def warning(self, asked, most):
        return [
            f"--max-connections {asked}: {most} it is, for want of descriptors; raise the hard "
            "limit (ulimit -Hn, LimitNOFILE=)"
        ]

    def test_enough(self):
        """
        There may be as many as are asked for, when there are descriptors for them and a few more.
        """
        self.assertEqual(self.most(10000, 10064), (10000, []))
        self.assertEqual(self.most(1, 65), (1, []))
        self.assertEqual(self.most(10**7, resource.RLIM_INFINITY), (10**7, []))

    def test_too_few(self):
        """
        There may be no more than there are descriptors for, and that is warned of.
        """
        self.assertEqual(self.most(10000, 10063), (9999, self.warning(10000, 9999)))
        self.assertEqual(self.most(10000, 1024), (960, self.warning(10000, 960)))

    def test_hardly_any(self):
        """
        There may be one in any case, and the warning says so.
        """
        for limit in (64, 10, 0):
            self.assertEqual(self.most(10000, limit), (1, self.warning(10000, 1)))

    def test_select(self):
        """
        The reactor that uses select(2) has no more than 1024 descriptors.
        """
        # Not begun: it would wait for signals.
        reactor = SelectReactor.__new__(SelectReactor)
        sys.modules["twisted.internet.selectreactor"] = selectreactor
        self.assertEqual(self.most(10000, 65536, reactor), (960, self.warning(10000, 960)))
        self.assertEqual(self.most(960, 65536, reactor), (960, []))
        self.assertEqual(self.most(960, 1000, reactor), (936, self.warning(960, 936)))
        self.assertEqual(self.most(10000, 65536, self.reactor), (10000, []))

    def test_built(self):
        """
        The daemon lets in no more than that.
        """
        self.patch(resource, "getrlimit", lambda _: (66, 66))
        self.patch(resource, "setrlimit", lambda *_: None)
        with capturedLogs():
            service = self.build("--max-connections", "5")
        service.connections.add(FakeConnection())
        self.assertFalse(service.admission.is_full())
        service.connections.add(FakeConnection())
        self.assertTrue(service.admission.is_full())


class GateTests(ServiceTestCase):
    """
    Who may come in, as the options have it.
    """

    def factory(self, *args):
        """
        The factory of the one listener, as far as its port asks it.
        """
        self.service = self.build(*self.local, *args)
        self.service.startService()
        self.assertTrue(self.reactor.ports[-1].factory.outermost)
        return self.reactor.ports[-1].factory

    def connect(self, factory, host="192.0.2.7"):
        protocol = factory.buildProtocol(IPv4Address("TCP", host, 1))
        if protocol is not None:
            protocol.makeConnection(StringTransport(peerAddress=IPv4Address("TCP", host, 1)))
        return protocol

    def counts(self):
        return {
            reason.value: n for (_, reason), n in self.service.connections.refusals.counts.items()
        }

    def test_rules(self):
        """
        C{--allow} and C{--deny} say whose address may.
        """
        factory = self.factory("--allow", "192.0.2.0/24", "--deny", "192.0.2.9")
        self.assertIsInstance(self.connect(factory), Echo)
        for host in ("192.0.2.9", "198.51.100.1"):
            self.assertIsNone(self.connect(factory, host))
        self.assertEqual(self.counts(), {"address": 2})

    def test_numbers(self):
        """
        C{--max-connections} and C{--max-per-client} say how many may.
        """
        factory = self.factory("--max-connections", "3", "--max-per-client", "2")
        for _ in range(2):
            self.assertIsInstance(self.connect(factory), Echo)
        self.assertIsNone(self.connect(factory))
        self.assertIsInstance(self.connect(factory, "192.0.2.8"), Echo)
        self.assertIsNone(self.connect(factory, "192.0.2.9"))
        self.assertEqual(self.counts(), {"max-per-client": 1, "max-connections": 1})

    def test_rate(self):
        """
        C{--connect-rate} says how often, by the reactor's clock; and nobody is remembered
        for longer than it takes.
        """
        factory = self.factory("--connect-rate", "0.5:2")
        admission = self.service.admission
        for _ in range(2):
            self.assertIsInstance(self.connect(factory), Echo)
        self.assertIsNone(self.connect(factory))
        self.assertEqual((self.counts(), admission.clients()), ({"rate": 1}, 1))
        self.reactor.pump([0.5] * 4)
        self.assertIsInstance(self.connect(factory), Echo)
        self.assertIsNone(self.connect(factory))
        self.reactor.pump([0.5] * 7)
        self.assertEqual(admission.clients(), 1)
        self.reactor.pump([0.5])
        self.assertEqual(admission.clients(), 0)

    def test_no_limits(self):
        """
        Without options anybody may, and nobody is counted.
        """
        factory = self.factory()
        for _ in range(100):
            self.assertIsInstance(self.connect(factory), Echo)
        self.assertEqual((self.counts(), self.service.admission.clients()), ({}, 0))
        self.assertIsNone(factory.proxies)

    def test_one_gate(self):
        """
        The limits are those of all listeners together.
        """
        service = self.build(*self.local, "--listen", "tcp:7", "--max-per-client", "1")
        service.startService()
        one, other = (port.factory for port in self.reactor.ports)
        self.assertIsInstance(self.connect(one), Echo)
        self.assertIsNone(self.connect(other))
        self.assertEqual(service.connections.refusals.counts, {("tcp:7", Reason.MAX_PER_CLIENT): 1})

    def test_proxies(self):
        """
        C{--proxy-protocol} and C{--proxy-trust} say whose header is believed, and whether
        there has to be one.
        """
        trust = ("--proxy-trust", "192.0.2.7", "--proxy-trust", "unix")
        for mode, required, otherwise in (("require", True, Refused), ("optional", False, Echo)):
            factory = self.factory("--proxy-protocol", mode, *trust)
            factory.outermost = False
            self.assertIs(factory.proxies.required, required)
            for address, expected in (
                (IPv4Address("TCP", "192.0.2.7", 1), ProxyHeader),
                (UNIXAddress(None), ProxyHeader),
                (IPv4Address("TCP", "192.0.2.8", 1), otherwise),
            ):
                self.assertIsInstance(factory.buildProtocol(address), expected)
        factory = self.factory("--proxy-protocol", "optional", "--proxy-trust", "192.0.2.7")
        self.assertIsInstance(factory.buildProtocol(UNIXAddress(None)), Echo)

    def test_refusals_are_told(self):
        """
        Refusals have a line a second for each reason, and what is left at the stop has its own.
        """
        factory = self.factory("--deny", "192.0.2.7", "--max-connections", "1")
        with capturedLogs() as events:
            self.reactor.pump([0.25] * 4)
            for _ in range(30):
                self.connect(factory)
                self.reactor.advance(0.1)
        lines = [formatEvent(event) for event in events]
        self.assertEqual(len(lines), 3)
        self.assertTrue(
            all(line.endswith("address, the last from 192.0.2.7:1 to tcp") for line in lines)
        )
        self.assertEqual(sum(event["count"] for event in events), 30)
        self.connect(factory)
        with capturedLogs() as events:
            self.successResultOf(self.service.stopService())
        self.assertEqual(
            [event.get("event") for event in events], ["drained", "refused", "stopped"]
        )


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
        Stuck(service.connections)
        with capturedLogs() as events:
            self.reactor.pump([1] * 4)
        self.assertEqual(service.connections.ended, {Reason.WRITE_STALL: 1})
        self.assertIn("access", [event.get("event") for event in events])

    def test_limits(self):
        """
        Each limit in time is that of its own option, kept to within half a second.
        """
        for option, awaited, how, reason in (
            ("--idle-timeout", None, "finish", Reason.IDLE),
            ("--max-lifetime", None, "finish", Reason.LIFETIME),
            ("--handshake-timeout", Reason.HANDSHAKE, "overdue", Reason.HANDSHAKE),
        ):
            service = self.build(*self.local, option, "3s")
            service.startService()
            connection = FakeConnection(service.connections)
            connection.awaited = awaited
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
        A stop closes the doors, then waits for the guests, then says what there was.
        """
        service = self.build(*self.local, "--drain-timeout", "3s")
        service.startService()
        port = self.reactor.ports[0]
        port.closing = Deferred()
        Stuck(service.connections)
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
            Stuck(service.connections)
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

    def test_reload(self):
        """
        With TLS, HUP has the certificates read again and the key log opened anew.
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
        for finish, args, kwargs in self.reactor.triggers["after"]["shutdown"]:
            finish(*args, **kwargs)
        self.assertTrue(os.path.exists(path) and os.path.exists(path + ".1"))
        self.assertEqual(service.log_dropped, 0)


class ServiceManagerTests(ServiceTestCase):
    """
    What the daemon tells a service manager, where there is one.
    """

    def setUp(self):
        super().setUp()
        self.manager = ServiceManager()
        self.addCleanup(self.manager.close)
        self.patch(twisted.internet, "reactor", self.reactor)
        self.environ = {**self.manager.environment, "WATCHDOG_USEC": "4000000"}
        self.patch(os, "environ", self.environ)
        self.numbers = SignalTests.numbers
        for number in self.numbers:
            self.addCleanup(signal.signal, number, signal.getsignal(number))
            signal.signal(number, lambda number, frame: None)

    def daemon(self, *args):
        return makeService(self.options(*self.local, *args))

    def test_ready(self):
        """
        It is ready when it listens and the reactor runs; what it then starts cannot speak
        for it.
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
        It does not say that it is ready until it has taken over the signals.
        """
        before = [signal.getsignal(number) for number in self.numbers]
        handlers = []

        class Notifier(SystemdNotifier):
            def startService(self):
                handlers.extend(signal.getsignal(number) for number in SignalTests.numbers)

        service = self.daemon()
        service.notifier = Notifier(self.reactor, Supervision(), str)
        service.startService()
        self.reactor.run()
        self.assertEqual(len(set(handlers) - set(before)), len(self.numbers))

    def test_not_before_the_last_listener(self):
        """
        It is not ready as long as one listener is not bound.
        """
        service, bound = self.daemon("--listen", "tcp:0"), Deferred()
        service.listeners()[1].when_bound = lambda: bound
        service.startService()
        self.reactor.run()
        self.assertEqual(self.manager.take(), [])
        bound.callback(None)
        self.assertIn(["READY=1"], self.manager.take())

    def test_not_after_a_stop(self):
        """
        A listener that is bound after a stop does not make it ready.
        """
        service, bound = self.daemon(), Deferred()
        service.listeners()[0].when_bound = lambda: bound
        service.startService()
        self.reactor.run()
        stopped = service.stopService()
        bound.callback(None)
        self.reactor.pump([0, 0])
        self.assertIsNone(self.successResultOf(stopped))
        self.assertEqual(self.manager.take(), [])

    def test_figures(self):
        """
        The status has the live connections and those that were refused.
        """
        service = self.daemon()
        service.startService()
        self.reactor.run()
        connection = FakeConnection(service.connections)
        service.connections.refusals.add("tcp", Reason.ADDRESS, "192.0.2.7:1")
        self.manager.take()
        self.reactor.pump([1.0] * 3)
        self.assertIn(["STATUS=1 connection, 0 B/s, 1 refused"], self.manager.take())
        connection.bytes_echoed = 3 * 2048
        self.reactor.pump([1.0] * 3)
        self.assertIn(["STATUS=1 connection, 2.0 KiB/s, 1 refused"], self.manager.take())

    def test_reload(self):
        """
        A reload is told of, also when there is nothing to reload: who asks by a signal
        waits for the answer.
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
        A stop is told of when it begins, and until it has ended the status and signs of
        life go on.
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
        With C{--check} the service manager is told nothing.
        """
        self.assertRaises(SystemExit, self.daemon, "--check")
        self.assertEqual((self.manager.take(), self.environ), ([], {}))


class ParentTests(ServiceTestCase):
    """
    The log observer that the daemon brings to the application.
    """

    def setUp(self):
        super().setUp()
        self.written = self.file()
        stdout = open(self.written, "w")  # noqa: SIM115 - it is open until the test ends
        self.addCleanup(stdout.close)
        self.patch(sys, "stdout", stdout)

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
        log = Logger(namespace="echod.test", observer=LogPublisher(observer))
        log.debug("low")
        log.info("middle")
        log.warn("high")
        with open(self.written) as file:
            return file.read().splitlines()

    def test_default(self):
        """
        By default the log is text, from info up.
        """
        lines = self.said(self.adopted())
        self.assertEqual([line.split()[-1] for line in lines], ["middle", "high"])

    def test_options(self):
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

    def test_log_file_that_cannot_be(self):
        """
        A log file that cannot be opened ends the start with one line.
        """
        path = os.path.abspath(os.path.join(self.mktemp(), "log"))
        error = self.assertRaises(SystemExit, self.adopted, logfile=path)
        self.assertEqual(
            error.code,
            f"twistd: --logfile '{path}': No such file or directory; "
            "give a file that can be written",
        )


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
        When all is well it says what would listen where, and for how many, lets go, and exits
        with 0.
        """
        service = self.build(*self.local, "--listen", "tcp:7", "--max-connections", "50")
        self.assertEqual(self.check(service), 0)
        self.assertEqual(
            self.stdout.getvalue().splitlines(),
            [
                f"echod {echod.__version__}: all is well; this would listen on",
                "  192.0.2.1:9000, --port 0 --interface 127.0.0.1",
                "  192.0.2.1:9000, --listen tcp:7",
                "for at most 50 connections at once",
            ],
        )
        self.assertEqual([port.stopped for port in self.reactor.ports], [True, True])

    def test_workers(self):
        """
        With several workers it says how many, starts none, and refuses what they cannot do.
        """
        args = (*self.local, "--check", "--workers", "3")
        service = build(self.reactor, self.options(*args), workers=3)
        error = self.assertRaises(SystemExit, check, self.reactor, service, 3)
        self.assertEqual(error.code, 0)
        self.assertEqual(self.stdout.getvalue().splitlines()[-1], "with 3 workers")
        options = self.options(*args, "--listen", "haproxy:tcp:0")
        error = self.assertRaises(SystemExit, build, self.reactor, options, workers=3)
        self.assertIn("workers cannot share its layer", error.code)

    def test_certificates(self):
        """
        With TLS it tells which certificates would be served, and leaves no key log behind.
        """
        made = make_certificate(["a.example", "192.0.2.1"])
        path, key_log = self.file(made.cert_pem + made.key_pem), self.mktemp()
        tls = ("--tls-port", "0", "-i", "127.0.0.1", "--tls-cert", path, "--tls-keylog", key_log)
        service = self.build(*tls)
        self.addCleanup(service.key_log.close)
        self.assertEqual(self.check(service), 0)
        end = f"{made.certificate.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}"
        self.assertEqual(
            self.stdout.getvalue().splitlines()[3:],
            ["with", f"  a.example, 192.0.2.1, until {end}, {path}"],
        )
        self.assertFalse(os.path.exists(key_log))

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

    def test_workers(self):
        """
        With C{--workers} it is the parent of so many; with 0, of one for each CPU that this
        process may use, and no more than there may be connections.
        """
        cpus = set(range(3))
        self.patch(os, "sched_getaffinity", lambda _: cpus)
        for args, kind in (
            (("--workers", "2"), ParentService),
            (("--workers", "1"), EchodService),
            (("--workers", "0"), ParentService),
            (("--workers", "0", "--max-connections", "1"), EchodService),
        ):
            self.assertIs(type(makeService(self.options(*self.local, *args))), kind)
        self.assertEqual(worker_count(0, 10), 3)
        self.assertEqual(worker_count(0, 2), 2)
        self.assertEqual(worker_count(5, 10), 5)

    def test_worker(self):
        """
        In a process that its parent made a worker, it is one.
        """
        assignment = Assignment("0", [1], [], 900)
        memory = make_table(1)
        os.dup2(memory, assignment.table)
        os.close(memory)
        self.patch(os, "environ", {VARIABLE: assignment.to_text()})
        self.assertIsInstance(makeService(self.options("--workers", "2")), WorkerService)
        self.assertEqual(os.environ, {})

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

    def test_closed_streams(self):
        """
        In the place of a standard stream that was closed, there is nothing to be misled to.
        """
        found, opened = os.fstat, []

        def fstat(descriptor):
            if descriptor in (0, 2):
                raise OSError
            return found(descriptor)

        self.patch(os, "fstat", fstat)
        self.patch(os, "open", lambda *args: opened.append(args))
        fill_standard_streams()
        self.assertEqual(opened, [(os.devnull, os.O_RDWR)] * 2)

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
