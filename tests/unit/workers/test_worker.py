"""
A worker: the daemon on sockets that it is handed.
"""

import os
import resource
import signal
import socket

from twisted.internet.defer import Deferred
from twisted.logger import LogLevel, capturedLogs, formatEvent

from echod.connections.connection import Reason
from echod.net.balance import ABSENT, SharedCounters, make_counters
from echod.settings import RESERVED_DESCRIPTORS
from echod.stats.snapshot import Snapshot
from echod.tap import build_worker
from echod.workers.spawn import InheritedListener, WorkerConfig
from tests.support.certificates import make_certificate
from tests.support.fakeprocesses import ProcessReactor
from tests.support.fakes import FakeConnection
from tests.support.services import ServiceTestCase

FIRST = 900
"""Descriptors that nothing else in this process has."""


class WorkerTestCase(ServiceTestCase):
    """
    A worker, the second of two, that was handed two sockets, one of which was lent.
    """

    handed = (
        InheritedListener("tcp", "--port 7", tls=False, borrowed=False),
        InheritedListener("echo", "--listen systemd:name=echo", tls=False, borrowed=True),
    )

    def setUp(self):
        super().setUp()
        self.reactor = ProcessReactor()
        self.addCleanup(self.reactor.close)
        self.config = WorkerConfig("1", [5, 3], self.handed, FIRST)
        for place in range(len(self.handed)):
            with socket.create_server(("127.0.0.1", 0)) as made:
                os.dup2(made.fileno(), FIRST + place)
        ours, theirs = socket.socketpair()
        self.addCleanup(ours.close)
        with theirs:
            os.dup2(theirs.fileno(), self.config.channel)
        memory = make_counters(2)
        os.dup2(memory, self.config.table)
        self.table = SharedCounters(memory, 2)
        os.close(memory)
        self.addCleanup(self.close)

    def close(self):
        for number in range(FIRST, self.config.table + 1):
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
        (self.parent,) = self.reactor.far_ends
        return service


class ListenTests(WorkerTestCase):
    """
    What it listens on.
    """

    def test_handed(self):
        """
        It listens on what it was handed, whatever its options say, under the names that its
        parent gave them.
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
        What the parent has said already it says for who wants to know everything.
        """
        self.start()
        listening = [each for each in self.started if each.get("event") == "listening"]
        self.assertEqual([each["log_level"] for each in listening], [LogLevel.debug] * 2)

    def test_queues(self):
        """
        At its end it takes who waits in a queue that is the daemon's, and leaves a lent one.
        """
        service = self.start()
        self.assertEqual([each.leaves_queue for each in service.listeners], [False, True])

    def test_tls(self):
        """
        A socket that is to speak TLS does.
        """
        made = make_certificate()
        pem = self.file(made.cert_pem + made.key_pem)
        self.handed = (InheritedListener("tls", "--tls-port 8", True, False), self.handed[0])
        self.config = WorkerConfig("1", [5, 3], self.handed, FIRST)
        service = self.start("--tls-port", "8", "--tls-cert", pem)
        factories = [port.factory for port in self.reactor.ports]
        self.assertEqual([each.tls for each in factories], [service.certificates, None])
        self.assertIs(service.certificates.parent, service)

    def test_share(self):
        """
        It lets in as many as are its share.
        """
        service = self.start("--max-connections", "8")
        for _ in range(3):
            self.assertFalse(service.admission.is_full())
            service.connections.add(FakeConnection())
        self.assertTrue(service.admission.is_full())

    def test_table(self):
        """
        The others know how many connections it has, at once when there are fewer, twice a
        second in any case, and when it has gone.
        """
        service = self.build()
        self.table[0] = 1000
        self.assertEqual(self.table.least(), 1000)
        service.startService()
        self.assertEqual(self.table.least(), 0)
        connection = FakeConnection()
        service.connections.add(connection)
        self.reactor.advance(0.5)
        self.assertEqual(self.table.least(), 1)
        service.connections.remove(connection, Reason.CLIENT)
        self.assertEqual(self.table.least(), 0)
        service.connections.add(connection)
        self.table[0] = ABSENT
        stopping = service.stopService()
        self.assertEqual(self.table.least(), ABSENT)
        self.assertIsInstance(stopping, Deferred)
        service.connections.remove(connection, Reason.CLIENT)
        self.reactor.advance(0.5)
        self.assertEqual(self.table.least(), ABSENT)

    def test_looks_again(self):
        """
        Twice a second it looks whether somebody waits whom another should have accepted,
        where its ports know how.
        """
        self.start()
        looked = []
        self.reactor.ports[0].rearm = lambda: looked.append(self.reactor.seconds())
        self.reactor.pump([0.5] * 3)
        self.assertEqual(looked, [0.5, 1.0, 1.5])

    def test_turns(self):
        """
        All its listeners accept in turn with those of the others.
        """
        service = self.build()
        one, other = (each.balancer for each in service.listeners)
        self.assertIs(one, other)
        self.assertEqual(one.publish(), 0)

    def test_few_descriptors(self):
        """
        One that may have fewer connections than its share, for want of descriptors, leaves
        clients to the others as soon as it has those.
        """
        limit = RESERVED_DESCRIPTORS + 2
        self.patch(resource, "getrlimit", lambda _: (limit, limit))
        self.patch(resource, "setrlimit", lambda *_: None)
        service = self.build()
        self.assertEqual(service.collector.max_connections, 2)
        for _ in range(2):
            service.connections.add(FakeConnection())
        self.table[0] = 1
        self.assertEqual(service.listeners[0].balancer.allowance(), 0)


class ToldTests(WorkerTestCase):
    """
    What its parent says to it, and it to its parent.
    """

    def start(self, *args):
        service = super().start(*args)
        self.assertEqual(self.parent.messageReceived(), [])
        for function in list(self.hooks):
            function()
        self.assertEqual(self.parent.messageReceived(), [{"up": True}])
        return service

    def setUp(self):
        super().setUp()
        self.hooks = []
        self.patch(self.reactor, "callWhenRunning", self.hooks.append)

    def test_up(self):
        """
        It says that it is up when it takes signals.
        """
        self.start()

    def test_questions(self):
        """
        It answers each question, and with a snapshot if that is wanted.
        """
        self.start()
        self.parent.send(ask=1)
        self.parent.send(ask=2, snapshot=True)
        one, other = self.parent.messageReceived()
        self.assertEqual(one, {"answer": 1, "totals": [0, 0, 0]})
        self.assertEqual(other["answer"], 2)
        snapshot = Snapshot.from_json(other["snapshot"])
        self.assertEqual((snapshot.worker, snapshot.max_connections), ("1", 3))
        self.assertEqual(snapshot.not_ready(), "")

    def test_stop(self):
        """
        Told to stop, it stops once.
        """
        self.start()
        self.parent.send(do="stop")
        self.parent.send(do="stop")
        self.assertEqual(self.reactor.stopped, 1)

    def test_stopping_already(self):
        """
        One that is stopping already is not stopped again.
        """
        service = self.start()
        service.stopService()
        self.parent.send(do="stop")
        self.assertEqual(self.reactor.stopped, 0)

    def test_abort(self):
        """
        Told to abort, it ends all connections at once.
        """
        service = self.start()
        connection = FakeConnection(service.connections)
        self.parent.send(do="abort")
        self.assertEqual([how for how, _ in connection.asked], ["abort"])

    def test_reload(self):
        """
        Told to reload, it reads its files again.
        """
        service = self.start()
        reloads = []
        service.reload = lambda: reloads.append(True)
        self.parent.send(do="reload")
        self.assertEqual(reloads, [True])

    def test_parent_gone(self):
        """
        Without its parent it drains and ends, and is asked nothing any more.
        """
        self.start()
        with capturedLogs() as events:
            self.parent.near.connectionLost()
            self.parent.send(ask=1)
        self.assertEqual([formatEvent(event) for event in events], ["the master is gone; stopping"])
        self.assertEqual((self.reactor.stopped, self.parent.messageReceived()), (1, []))

    def test_parent_gone_at_the_end(self):
        """
        While it stops, a parent that goes is nothing to tell.
        """
        service = self.start()
        service.stopService()
        with capturedLogs() as events:
            self.parent.near.connectionLost()
        self.assertEqual((list(events), self.reactor.stopped), ([], 0))

    def test_parent_gone_early(self):
        """
        A parent that is gone before the worker is up is told nothing.
        """
        super().start()
        self.parent.near.connectionLost()
        for function in list(self.hooks):
            function()
        self.assertEqual(self.parent.messageReceived(), [])

    def test_signals(self):
        """
        TERM, however often it comes, is a drain; INT, which a terminal sends to all of its
        processes, is the parent's.
        """
        service = self.start()
        connection = FakeConnection(service.connections)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM, signal.SIGINT):
            os.kill(os.getpid(), number)
            self.reactor.advance(0)
        self.parent.send(do="stop")
        self.assertEqual((self.reactor.stopped, connection.asked), (1, []))

    def test_told_and_signalled(self):
        """
        One that its parent has told to stop is not stopped again by TERM.
        """
        self.start()
        self.parent.send(do="stop")
        os.kill(os.getpid(), signal.SIGTERM)
        self.reactor.advance(0)
        self.assertEqual((self.reactor.stopped, self.reactor.stop_signals), (1, []))
