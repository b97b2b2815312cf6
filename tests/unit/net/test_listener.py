"""
Tests for L{echod.net.listener}: a listener from bind to close.
"""

import errno
import gc
import io
import os
import socket
import sys
from functools import partial

from twisted.application.service import IService
from twisted.internet import reactor
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IListeningPort, IReadDescriptor, IStreamServerEndpoint
from twisted.logger import LogLevel, capturedLogs, formatEvent
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from echod.connections.admission import Admission
from echod.connections.connection import Reason
from echod.connections.timeouts import Timeouts
from echod.connections.tracker import Connections
from echod.net import listener
from echod.net.endpoints import InheritedEndpoint, TCPEndpoint
from echod.net.listener import ListenError, ListenerService
from echod.net.port import MAX_ACCEPTS
from echod.net.transport import EagerTransport
from echod.protocol import EchoFactory
from echod.proxyprotocol.protocol import ProxyPolicy
from echod.systemd import InheritedSocket
from tests.support.arrivals import wait_for_arrival
from tests.support.descriptors import open_descriptors
from tests.support.fakes import AcceptingPort, FakePort, PortReactor


def make_factory(clock, proxies=None):
    """
    A factory that admits all clients.
    """
    connections = Connections(clock, Timeouts(), access_log=None)
    return EchoFactory("tcp", Admission(connections, 1000), proxies=proxies)


@implementer(IStreamServerEndpoint)
class FakeEndpoint:
    """
    Returns what the test gives, and remembers the factories.
    """

    def __init__(self, *answers):
        self._answers = list(answers)
        self.factories = []

    def listen(self, protocolFactory):
        self.factories.append(protocolFactory)
        return self._answers.pop(0)


class FakeBalancer:
    """
    A balancer with the allowances that the test gives.
    """

    def __init__(self, allowances):
        self._allowances = iter(allowances)

    def allowance(self):
        return next(self._allowances)


class ListenerServiceTests(SynchronousTestCase):
    """
    The service, on fake endpoints and a fake clock.
    """

    def setUp(self):
        self.clock = PortReactor()
        self.factory = make_factory(self.clock)
        self.stderr = io.StringIO()
        self.patch(sys, "__stderr__", self.stderr)

    def port(self, factory=None):
        sock = socket.socket()
        self.addCleanup(sock.close)
        return FakePort(sock, factory)

    def service(self, *answers):
        self.endpoint = FakeEndpoint(*answers)
        service = ListenerService("--port 1", self.endpoint, self.factory, self.clock, 30.0)
        verifyObject(IService, service)
        return service

    def test_start(self):
        """
        Under twistd the privileged start binds the port, sets its options and logs it; the start
        does not bind it again.
        """
        port = self.port()
        service = self.service(succeed(port))
        self.assertEqual(service.address(), "nowhere")
        with capturedLogs() as events:
            service.privilegedStartService()
            service.startService()
        self.assertEqual(self.endpoint.factories, [self.factory])
        self.assertTrue(service.running)
        (event,) = events
        self.assertEqual(formatEvent(event), "listening on 192.0.2.1:9000, --port 1")
        self.assertEqual(event["event"], "listening")
        self.assertEqual(service.address(), "192.0.2.1:9000")
        keepalive = port.socket.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        timeout = port.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
        self.assertEqual((bool(keepalive), timeout), (True, 120_000))

    def test_option_refused(self):
        """
        If the kernel refuses a socket option, the listener warns, and works without it.
        """

        class Refusing(socket.socket):
            def setsockopt(self, *args):
                raise OSError(errno.EPERM, "Operation not permitted")

        port = FakePort(Refusing())
        self.addCleanup(port.socket.close)
        with capturedLogs() as events:
            self.service(succeed(port)).startService()
        *warnings, listening = events
        self.assertEqual(listening["event"], "listening")
        self.assertEqual({event["event"] for event in warnings}, {"socket-option-refused"})
        text = "--port 1: the kernel refuses SO_SNDBUF: Operation not permitted; "
        self.assertEqual(formatEvent(warnings[0]), text + "the listener works without it")

    def test_start_unprivileged(self):
        """
        Under twist, which does not call the privileged start, the start binds the port.
        """
        service = self.service(succeed(self.port()))
        service.startService()
        self.assertEqual(service.address(), "192.0.2.1:9000")

    def assert_fails(self, failing, reason):
        """
        The start fails with the reason: in the log, on standard error, and in the exception.
        """
        with capturedLogs() as events:
            error = self.assertRaises(ListenError, failing)
        self.assertEqual((str(error), error.code), (f"--port 1: {reason}", 1))
        self.assertEqual(self.stderr.getvalue(), f"echod: --port 1: {reason}\n")
        self.assertEqual(
            [(event["log_level"], formatEvent(event)) for event in events],
            [(LogLevel.error, f"cannot listen, --port 1: {reason}")],
        )
        # Before the reactor runs, the exception ends the daemon.
        self.assertFalse(self.clock.hasStopped)

    def test_cannot_bind(self):
        """
        A bind that fails ends the daemon with one line and status 1.
        """
        service = self.service(fail(PermissionError(errno.EPERM, "no")))
        reason = "Operation not permitted; give another"
        self.assert_fails(service.privilegedStartService, reason)
        # twistd exits with the status of a SystemExit; in the background, it reports an Exception
        # to its parent process.
        self.assertTrue(issubclass(ListenError, SystemExit) and issubclass(ListenError, Exception))

    def test_raises(self):
        """
        An endpoint that raises instead of returning a Deferred ends the daemon with one line, too.
        """
        service = self.service(succeed(self.port()))

        def listen(protocolFactory):
            raise ValueError("not here")

        self.endpoint.listen = listen
        reason = "not here; give one such as tcp:9000 or unix:/run/echod.sock"
        self.assert_fails(service.privilegedStartService, reason)

    def test_no_socket(self):
        """
        An endpoint without a socket, such as stdio:, is refused.
        """
        port = self.port()
        del port.socket
        service = self.service(succeed(port))
        reason = "this endpoint does not listen on a socket"
        reason += "; give one such as tcp:9000 or unix:/run/echod.sock"
        self.assert_fails(service.privilegedStartService, reason)
        self.assertEqual(service.address(), "nowhere")

    def test_outermost(self):
        """
        The factory knows whether the port calls it directly, or through a layer.
        """
        for factory, outermost in ((self.factory, True), (object(), False), (None, False)):
            self.service(succeed(self.port(factory))).startService()
            self.assertIs(self.factory.outermost, outermost)
        # The port of a plugin, without the attribute.
        port = self.port()
        del port.factory
        self.service(succeed(port)).startService()
        self.assertIs(self.factory.outermost, False)

    def test_layer_before_a_proxy_header(self):
        """
        With PROXY headers, an endpoint with a layer of its own is refused.
        """
        self.factory = make_factory(self.clock, ProxyPolicy(False, []))
        port = self.port(object())
        service = self.service(succeed(port))
        reason = "this endpoint's own layer stands before a PROXY header"
        reason += "; give one such as tcp:9000 or unix:/run/echod.sock"
        self.assert_fails(service.privilegedStartService, reason)
        self.successResultOf(service.stopService())
        self.assertTrue(port.stopped)

    def test_layer_before_tls(self):
        """
        With TLS, an endpoint with a layer of its own is refused.
        """
        self.factory.tls = object()
        service = self.service(succeed(self.port(object())))
        reason = "this endpoint's own layer stands before TLS"
        reason += "; give one such as tcp:9000 or unix:/run/echod.sock"
        self.assert_fails(service.privilegedStartService, reason)

    def test_proxy_header(self):
        """
        With PROXY headers, an endpoint without a layer is accepted.
        """
        self.factory = make_factory(self.clock, ProxyPolicy(True, []))
        service = self.service(succeed(self.port(self.factory)))
        service.startService()
        self.assertEqual(service.address(), "192.0.2.1:9000")

    def test_late(self):
        """
        An endpoint that binds later is not asked to bind twice.
        """
        listening = Deferred()
        service = self.service(listening, Deferred())
        service.privilegedStartService()
        service.startService()
        self.assertEqual(service.address(), "nowhere")
        listening.callback(self.port())
        self.assertEqual(service.address(), "192.0.2.1:9000")
        self.assertEqual(len(self.endpoint.factories), 1)

    def test_bound(self):
        """
        C{when_bound} fires when the listener is bound, or at once if it is bound already.
        """
        listening = Deferred()
        service = self.service(listening)
        self.assertNoResult(service.when_bound())
        service.privilegedStartService()
        asked = [service.when_bound(), service.when_bound()]
        self.assertNoResult(asked[0])
        listening.callback(self.port())
        for bound in (*asked, service.when_bound()):
            self.assertIsNone(self.successResultOf(bound))

    def test_never_bound(self):
        """
        C{when_bound} does not fire if the bind fails.
        """
        listening = Deferred()
        service = self.service(listening)
        service.privilegedStartService()
        bound = service.when_bound()
        listening.errback(Failure(OSError(errno.EADDRINUSE, "busy")))
        self.assertNoResult(bound)

    def test_late_failure(self):
        """
        A bind that fails later is logged and written to standard error, and stops the reactor.
        """
        listening = Deferred()
        service = self.service(listening, Deferred())
        service.privilegedStartService()
        service.startService()
        self.assertFalse(self.clock.hasStopped)
        reason = "Address already in use; stop what listens there, or give another"
        with capturedLogs() as events:
            listening.errback(Failure(OSError(errno.EADDRINUSE, "busy")))
        self.assertEqual(
            [(event["log_level"], formatEvent(event)) for event in events],
            [(LogLevel.error, f"cannot listen, --port 1: {reason}")],
        )
        self.assertEqual(self.stderr.getvalue(), f"echod: --port 1: {reason}\n")
        self.assertTrue(self.clock.hasStopped)
        self.assertIsNone(self.successResultOf(service.stopService()))

    def test_stop_before_late(self):
        """
        A stop cancels a bind that is still going on, without a log line.
        """
        given_up = []
        listening = Deferred(given_up.append)
        service = self.service(listening)
        service.privilegedStartService()
        with capturedLogs() as events:
            stopped = service.stopService()
        self.assertIsNone(self.successResultOf(stopped))
        self.assertEqual(given_up, [listening])
        self.assertEqual((list(events), self.stderr.getvalue()), ([], ""))
        self.assertFalse(self.clock.hasStopped)
        self.assertEqual(service.address(), "nowhere")

    def test_stop(self):
        """
        A stop waits until the port is closed; the listener then has no address.
        """
        port = self.port()
        port.closing = Deferred()
        service = self.service(succeed(port))
        service.startService()
        stopped = service.stopService()
        self.assertEqual((service.running, service.address()), (False, "nowhere"))
        self.clock.advance(0)
        self.assertNoResult(stopped)
        port.closing.callback(None)
        self.assertIsNone(self.successResultOf(stopped))

    def test_stop_before_start(self):
        """
        A listener that is not bound stops at once.
        """
        service = self.service(succeed(self.port()))
        self.assertIsNone(self.successResultOf(service.stopService()))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def accepting(self, clients, port_class=AcceptingPort):
        """
        A listener on a real socket, with clients in the accept queue that have sent data.
        """
        listening = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(listening.close)
        port = port_class(listening, self.clock)
        verifyObject(IListeningPort, port)
        verifyObject(IReadDescriptor, port)
        service = self.service(succeed(port))
        service.startService()
        for n in range(clients):
            self.come(port, n + 1)
        return service, port

    def come(self, port, size=1):
        """
        Connect to a port and send some bytes.
        """
        client = socket.socket(port.socket.family)
        self.addCleanup(client.close)
        client.settimeout(60)
        client.connect(port.socket.getsockname())
        client.sendall(bytes(size))
        wait_for_arrival()

    def stopped(self, service):
        """
        Let a listener stop.
        """
        stopped = service.stopService()
        self.clock.advance(0)
        self.successResultOf(stopped)

    def turn(self):
        """
        Make the delayed calls as a reactor does: not those that are added by others.
        """
        for call in list(self.clock.getDelayedCalls()):
            act = partial(call.func, *call.args, **call.kw)
            call.cancel()
            act()

    def test_waiting_clients(self):
        """
        A stop accepts all clients in the accept queue before it closes the port, and those that
        come in the meantime as long as they are few.
        """
        service, port = self.accepting(3)
        stopped = service.stopService()
        self.assertEqual(port.done, [])
        self.come(port, 4)
        for turn in range(1, 5):
            self.turn()
            self.assertFalse(port.reading)
            self.assertEqual(port.done, [1, 2, 3, 4][:turn])
        self.turn()
        self.come(port, 5)
        self.turn()
        self.successResultOf(stopped)
        self.assertEqual(port.done, [1, 2, 3, 4, 5, "closed"])

    def test_clients_without_end(self):
        """
        Clients that come one after the other do not hold up a stop: it accepts as many as waited
        when it began, and one more turn.
        """
        service, port = self.accepting(5)
        port.on_accept = lambda: self.come(port)
        self.stopped(service)
        self.assertEqual(port.done, [1, 2, 3, 4, 5, 1, "closed"])

    def test_many_in_a_turn(self):
        """
        A port that can accept many clients in a turn is told how many.
        """

        class ManyPort(AcceptingPort):
            numberAccepts = 100

            def doRead(self):
                told.append(self.numberAccepts)
                for _ in range(self.numberAccepts):
                    super().doRead()

        told = []
        service, port = self.accepting(MAX_ACCEPTS + 2, ManyPort)
        self.stopped(service)
        self.assertEqual(told, [MAX_ACCEPTS, 2])
        self.assertEqual((len(port.done), port.done[-1]), (MAX_ACCEPTS + 3, "closed"))

    def test_bound_of_the_factory(self):
        """
        A stop accepts no more clients in a turn than the factory takes, and none if that takes
        none.
        """
        for most, expected in ((1, [1, 2, 3, "closed"]), (0, ["closed"])):
            self.factory.acceptsAtOnce = most
            service, port = self.accepting(3)
            port.numberAccepts = 100
            self.stopped(service)
            self.assertEqual(port.done, expected)
            if most:
                self.assertEqual(port.numberAccepts, 1)

    def test_unknown_queue(self):
        """
        On a UNIX socket the kernel does not say how many clients wait: a stop accepts as many as
        an accept queue has at most.
        """
        for backlog, accepted in ((None, 4), (2, 4), (6, 6)):
            self.patch(listener, "MAX_QUEUE", 4)
            service, port = self.accepting(0)
            port.socket = socket.socket(socket.AF_UNIX)
            self.addCleanup(port.socket.close)
            port.socket.bind(self.mktemp())
            port.socket.listen(50)
            port.backlog = backlog
            port.on_accept = lambda port=port: self.come(port)
            self.come(port)
            self.stopped(service)
            self.assertEqual(port.done, [1] * (accepted + 1) + ["closed"])

    def test_inherited_socket(self):
        """
        A stop leaves the clients in the accept queue of an inherited socket to the next process.
        """
        listening = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(listening.close)
        inherited = InheritedSocket("echo", os.dup(listening.fileno()))
        endpoint = InheritedEndpoint(self.clock, inherited)
        service = ListenerService("--port 1", endpoint, self.factory, self.clock, 30.0)
        port = AcceptingPort(listening, self.clock)
        self.patch(self.clock, "adoptStreamPort", lambda *_: port)
        service.startService()
        client = socket.create_connection(listening.getsockname(), timeout=60)
        self.addCleanup(client.close)
        wait_for_arrival()
        stopped = service.stopService()
        self.clock.advance(0)
        self.successResultOf(stopped)
        self.assertEqual(port.done, ["closed"])
        listening.settimeout(60)
        listening.accept()[0].close()

    def test_left_to_others(self):
        """
        A worker at its limit leaves the clients in the accept queue to the others.
        """
        service, port = self.accepting(3)
        service.balancer = FakeBalancer([1, 1, 0, 0])
        self.stopped(service)
        self.assertEqual(port.done, [1, 2, "closed"])

    def test_port_that_cannot_accept(self):
        """
        A port that cannot accept, for lack of descriptors, does not hold up the stop: it tries
        twice if it says so, else once for each client.
        """
        for paused, calls in ((True, 2), (False, 5)):
            service, port = self.accepting(4)
            port.broken, port.acceptingPaused = True, paused
            self.stopped(service)
            self.assertEqual((port.calls, port.done), (calls, ["closed"]))

    def test_port_that_fails(self):
        """
        A port that raises something is closed all the same.
        """
        service, port = self.accepting(1)
        port.on_accept = lambda: 1 / 0
        self.stopped(service)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual(port.done, [1, "closed"])


class AcceptQueueTests(TestCase):
    """
    The accept queue of a port, on the real reactor.
    """

    timeout = 30

    async def test_waiting_clients_are_served(self):
        """
        Clients that connect before a stop, and just after it began, are served and not reset.
        """
        factory = make_factory(reactor)
        endpoint = TCPEndpoint(reactor, 0, "127.0.0.1", 1024)
        service = ListenerService("--port 0", endpoint, factory, reactor, 30.0)
        service.startService()
        host, port = service.address().split(":")
        clients = []

        def connect(count):
            # The kernel does this alone: the reactor does not run in between.
            for _ in range(count):
                client = socket.create_connection((host, int(port)), timeout=60)
                self.addCleanup(client.close)
                client.sendall(b"x")
                client.shutdown(socket.SHUT_WR)
                clients.append(client)
            wait_for_arrival()

        connect(75)
        stopped = service.stopService()
        connect(75)
        await stopped
        await factory.connections.drain(20)
        self.assertEqual(factory.connections.ended, {Reason.CLIENT: 150})
        self.assertEqual([client.recv(10) for client in clients], [b"x"] * 150)
        with self.assertRaises(ConnectionRefusedError):
            socket.create_connection((host, int(port)), timeout=60)


class TransportTests(TestCase):
    """
    The transport, on a reactor that the user has chosen.
    """

    timeout = 30

    async def test_own_transport(self):
        """
        On another reactor, connections have echod's transport, too, which sends at once.
        """
        made = Deferred()
        factory = make_factory(reactor)
        build = factory.buildProtocol

        def build_and_tell(addr):
            protocol = build(addr)
            reactor.callLater(0, made.callback, protocol)
            return protocol

        factory.buildProtocol = build_and_tell
        endpoint = TCPEndpoint(reactor, 0, "127.0.0.1", 7)
        service = ListenerService("--port 0", endpoint, factory, reactor, 30.0)
        service.startService()
        self.assertTrue(factory.outermost)
        host, port = service.address().split(":")
        with socket.create_connection((host, int(port)), timeout=60):
            protocol = await made
            self.assertIs(type(protocol.transport), EagerTransport)
        await service.stopService()
        await factory.connections.drain(20)


class DescriptorTests(SynchronousTestCase):
    """
    The descriptors of a listener.
    """

    def test_none_left(self):
        """
        A listener has one descriptor, and none after its port is closed.
        """
        clock = PortReactor()
        gc.collect()
        before = open_descriptors()
        service = ListenerService(
            "--port 0", TCPEndpoint(clock, 0, "127.0.0.1", 7), make_factory(clock), clock, 0.0
        )
        service.startService()
        self.assertEqual(open_descriptors(), before + 1)
        clock.close()
        self.assertEqual(open_descriptors(), before)
