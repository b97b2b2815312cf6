"""
Tests for L{echod.workers.worker}.
"""

import gc
import os
import resource
import signal
import socket
from dataclasses import replace

from twisted.internet.defer import Deferred
from twisted.logger import LogLevel, capturedLogs, formatEvent

from echod import udp
from echod.connections.connection import Reason
from echod.net.balance import ABSENT, SharedCounters, make_counters
from echod.stats.snapshot import Snapshot
from echod.tap.build import RESERVED_DESCRIPTORS, build_worker
from echod.udp import Drop
from echod.workers.spawn import InheritedListener, WorkerConfig
from tests.support.certificates import make_certificate
from tests.support.fakeprocesses import ProcessReactor
from tests.support.fakes import FakeConnection
from tests.support.services import ServiceTestCase

FIRST = 900
"""The first of the worker's descriptors; no other file of this process has so high a number."""


class WorkerTestCase(ServiceTestCase):
    """
    The second of two workers, with two sockets, one of which the master has inherited.
    """

    sockets = (
        InheritedListener("tcp", "--port 7", tls=False, borrowed=False, place=0),
        InheritedListener("echo", "--listen systemd:name=echo", tls=False, borrowed=True, place=0),
    )

    def setUp(self):
        super().setUp()
        self.reactor = ProcessReactor()
        self.addCleanup(self.reactor.close)
        self.config = WorkerConfig("1", [5, 3], self.sockets, FIRST)
        for number in range(len(self.sockets)):
            with socket.create_server(("127.0.0.1", 0)) as made:
                os.dup2(made.fileno(), FIRST + number)
        ours, theirs = socket.socketpair()
        self.addCleanup(ours.close)
        with theirs:
            os.dup2(theirs.fileno(), self.config.channel)
        memory = make_counters(2)
        os.dup2(memory, self.config.counters)
        self.counters = SharedCounters(memory, 2)
        os.close(memory)
        self.addCleanup(self.close)

    def close(self):
        # A socket object that is collected later would close a descriptor of the next test.
        self.__dict__.pop("reactor", None)
        self.__dict__.pop("master", None)
        gc.collect()
        for number in range(FIRST, self.config.counters + 1):
            try:
                os.close(number)
            except OSError:
                continue

    def build(self, *args):
        return build_worker(self.reactor, self.options(*args), self.config)

    def start(self, *args):
        service = self.build(*args)
        with capturedLogs() as events:
            service.privilegedStartService()
            service.startService()
        self.started = events
        (self.master,) = self.reactor.far_ends
        return service


class ListenTests(WorkerTestCase):
    """
    The sockets that a worker listens on.
    """

    def test_sockets(self):
        """
        A worker listens on the sockets of its config and not on those of its options, with the
        names that the master gives.
        """
        service = self.start("--port", "1", "--listen", "unix:/x")
        self.assertEqual(
            [(port.factory.listener, each.option) for port, each in self.both(service)],
            [("tcp", "--port 7"), ("echo", "--listen systemd:name=echo")],
        )
        self.assertEqual((self.reactor.tcpServers, self.reactor.unixServers), ([], []))

    def both(self, service):
        return zip(self.reactor.ports, service.listeners, strict=True)

    def test_quiet(self):
        """
        A worker logs at debug where it listens, because the master has logged it at info.
        """
        self.start()
        listening = [each for each in self.started if each.get("event") == "listening"]
        self.assertEqual([each["log_level"] for each in listening], [LogLevel.debug] * 2)

    def test_queues(self):
        """
        At the stop, a worker leaves the accept queue of an inherited socket, and of no other.
        """
        service = self.start()
        self.assertEqual([each.leaves_queue for each in service.listeners], [False, True])

    def test_tls(self):
        """
        A socket for TLS has the certificates.
        """
        made = make_certificate()
        pem = self.file(made.cert_pem + made.key_pem)
        self.sockets = (InheritedListener("tls", "--tls-port 8", True, False, 0), self.sockets[0])
        self.config = WorkerConfig("1", [5, 3], self.sockets, FIRST)
        service = self.start("--tls-port", "8", "--tls-cert", pem)
        factories = [port.factory for port in self.reactor.ports]
        self.assertEqual([each.tls for each in factories], [service.certificates, None])
        self.assertIs(service.certificates.parent, service)

    def test_share(self):
        """
        The limit of connections is the worker's share.
        """
        service = self.start("--max-connections", "8")
        for _ in range(3):
            self.assertFalse(service.admission.is_full())
            service.connections.add(FakeConnection())
        self.assertTrue(service.admission.is_full())

    def test_counters(self):
        """
        A worker publishes its number of connections: at once when a connection ends, twice a
        second, and when it stops.
        """
        service = self.build()
        self.counters[0] = 1000
        self.assertEqual(self.counters.least(), 1000)
        service.startService()
        self.assertEqual(self.counters.least(), 0)
        connection = FakeConnection()
        service.connections.add(connection)
        self.reactor.advance(0.5)
        self.assertEqual(self.counters.least(), 1)
        service.connections.remove(connection, Reason.CLIENT)
        self.assertEqual(self.counters.least(), 0)
        service.connections.add(connection)
        self.counters[0] = ABSENT
        stopping = service.stopService()
        self.assertEqual(self.counters.least(), ABSENT)
        self.assertIsInstance(stopping, Deferred)
        service.connections.remove(connection, Reason.CLIENT)
        self.reactor.advance(0.5)
        self.assertEqual(self.counters.least(), ABSENT)

    def test_rearms(self):
        """
        Twice a second, a worker rearms each port that can be rearmed.
        """
        self.start()
        rearmed = []
        self.reactor.ports[0].rearm = lambda: rearmed.append(self.reactor.seconds())
        self.reactor.pump([0.5] * 3)
        self.assertEqual(rearmed, [0.5, 1.0, 1.5])

    def test_one_balancer(self):
        """
        All listeners of a worker have the same balancer.
        """
        service = self.build()
        one, other = (each.balancer for each in service.listeners)
        self.assertIs(one, other)
        self.assertEqual(one.publish(), 0)

    def test_measures(self):
        """
        A worker measures its event loop for the status page of its master.
        """
        service = self.start("--admin", "tcp:9001")
        self.reactor.pump([0.25] * 12)
        self.assertEqual(len(service.collector.snapshot("0").history), 3)

    def test_measures_nothing(self):
        """
        Without a status page, a worker measures nothing.
        """
        service = self.start()
        self.reactor.pump([0.25] * 12)
        self.assertEqual(len(service.collector.snapshot("0").history), 0)

    def test_few_descriptors(self):
        """
        A worker with too few descriptors for its share does not accept more than it has descriptors
        for.
        """
        limit = RESERVED_DESCRIPTORS + 2
        self.patch(resource, "getrlimit", lambda _: (limit, limit))
        self.patch(resource, "setrlimit", lambda *_: None)
        with capturedLogs() as events:
            service = self.build("--max-connections", "8")
        [event] = [each for each in events if each.get("event") == "descriptor-limit"]
        self.assertEqual((event["asked"], event["share"], event["most"]), (8, 3, 2))
        self.assertEqual(service.collector.max_connections, 2)
        for _ in range(2):
            service.connections.add(FakeConnection())
        self.counters[0] = 1
        self.assertEqual(service.listeners[0].balancer.allowance(), 0)


class MessageTests(WorkerTestCase):
    """
    The messages between master and worker.
    """

    def start(self, *args):
        service = super().start(*args)
        self.assertEqual(self.master.received(), [])
        for function in list(self.hooks):
            function()
        self.assertEqual(self.master.received(), [{"up": True}])
        return service

    def setUp(self):
        super().setUp()
        self.hooks = []
        self.patch(self.reactor, "callWhenRunning", self.hooks.append)

    def test_up(self):
        """
        A worker says that it is up when it handles signals.
        """
        self.start()

    def test_questions(self):
        """
        A worker answers each question, with a snapshot if the master asks for one.
        """
        self.start()
        self.master.send(ask=1)
        self.master.send(ask=2, snapshot=True)
        one, other = self.master.received()
        self.assertEqual(one, {"answer": 1, "totals": [0, 0, 0]})
        self.assertEqual(other["answer"], 2)
        snapshot = Snapshot.from_json(other["snapshot"])
        self.assertEqual((snapshot.worker, snapshot.max_connections), ("1", 3))
        self.assertEqual(snapshot.not_ready(), "")

    def test_stop(self):
        """
        A worker that is told to stop twice stops once.
        """
        self.start()
        self.master.send(do="stop")
        self.master.send(do="stop")
        self.assertEqual(self.reactor.stopped, 1)

    def test_stop_while_stopping(self):
        """
        A worker that is already stopping ignores the message.
        """
        service = self.start()
        service.stopService()
        self.master.send(do="stop")
        self.assertEqual(self.reactor.stopped, 0)

    def test_abort(self):
        """
        A worker that is told to abort aborts all connections.
        """
        service = self.start()
        connection = FakeConnection(service.connections)
        self.master.send(do="abort")
        self.assertEqual([how for how, _ in connection.asked], ["abort"])

    def test_reload(self):
        """
        A worker that is told to reload reads its files again.
        """
        service = self.start()
        reloads = []
        service.reload = lambda: reloads.append(True)
        self.master.send(do="reload")
        self.assertEqual(reloads, [True])

    def test_master_gone(self):
        """
        Without its master, a worker drains and ends, and answers nothing more.
        """
        self.start()
        with capturedLogs() as events:
            self.master.near.connectionLost()
            self.master.send(ask=1)
        self.assertEqual(
            [formatEvent(event) for event in events], ["the master has exited; stopping"]
        )
        self.assertEqual((self.reactor.stopped, self.master.received()), (1, []))

    def test_master_gone_while_stopping(self):
        """
        During a stop, a worker does not log that the master has gone.
        """
        service = self.start()
        service.stopService()
        with capturedLogs() as events:
            self.master.near.connectionLost()
        self.assertEqual((list(events), self.reactor.stopped), ([], 0))

    def test_master_gone_early(self):
        """
        A worker whose master goes before the worker is up sends nothing.
        """
        super().start()
        self.master.near.connectionLost()
        for function in list(self.hooks):
            function()
        self.assertEqual(self.master.received(), [])

    def test_signals(self):
        """
        TERM drains, also if it comes twice; INT, which a terminal sends to the master too, is
        ignored.
        """
        service = self.start()
        connection = FakeConnection(service.connections)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM, signal.SIGINT):
            os.kill(os.getpid(), number)
            self.reactor.advance(0)
        self.master.send(do="stop")
        self.assertEqual((self.reactor.stopped, connection.asked), (1, []))

    def test_stop_and_signal(self):
        """
        TERM does not stop a worker again that the master has told to stop.
        """
        self.start()
        self.master.send(do="stop")
        os.kill(os.getpid(), signal.SIGTERM)
        self.reactor.advance(0)
        self.assertEqual((self.reactor.stopped, self.reactor.stop_signals), (1, []))


class UDPTests(WorkerTestCase):
    """
    A worker that has inherited a UDP socket too.
    """

    sockets = (
        *WorkerTestCase.sockets,
        InheritedListener("udp", "--udp-port 7", tls=False, borrowed=False, datagrams=True),
    )

    def setUp(self):
        super().setUp()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
            made.bind(("127.0.0.1", 0))
            self.port = made.getsockname()[1]
            os.dup2(made.fileno(), self.config.channel - 1)

    def test_socket(self):
        """
        It answers on the socket that the master has bound, within the limits of its options.
        """
        service = self.start("--port=7", "--udp-port=7", "--udp-rate=5")
        listener = service.listeners[-1]
        self.assertEqual(
            (listener.option, listener.address()), ("--udp-port 7", f"127.0.0.1:{self.port}")
        )
        self.assertEqual(len(service.listeners), 3)
        for _ in range(9):
            listener.echo.datagramReceived(b"", ("192.0.2.1", 5000))
        self.assertEqual(listener.echo.dropped[Drop.UDP_RATE], 4)

    def test_kernel_drops(self):
        """
        Of several workers, the first counts what the kernel discards of the socket.
        """
        drops = [2]
        self.patch(udp, "kernel_drops", lambda bound: drops[0])
        listener = self.start("--port=7", "--udp-port=7").listeners[-1]
        drops[0] = 5
        self.assertEqual(listener.dropped()[Drop.RECEIVE_BUFFER], 0)

    def test_kernel_drops_of_the_first(self):
        """
        The first worker counts them from its own start on.
        """
        drops = [2]
        self.patch(udp, "kernel_drops", lambda bound: drops[0])
        self.config = replace(self.config, worker="0")
        listener = self.start("--port=7", "--udp-port=7").listeners[-1]
        drops[0] = 5
        self.assertEqual(listener.dropped()[Drop.RECEIVE_BUFFER], 3)
