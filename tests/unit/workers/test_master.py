"""
Tests for L{echod.workers.master}: what the master binds and passes on, and its snapshots.
"""

import os
import socket
import stat
import sys

from twisted.application.service import Application
from twisted.internet.defer import Deferred, fail
from twisted.logger import capturedLogs, formatEvent
from twisted.scripts.twistd import ServerOptions

from echod.net.balance import ABSENT, SharedCounters
from echod.net.listener import ListenError
from echod.stats.snapshot import Snapshot
from echod.systemd import InheritedSocket, InheritedSockets, NotifyConfig
from echod.tap.build import build
from echod.tls.selfsigned import from_pem
from echod.workers.master import RELOAD_TIMEOUT, HeldListener, MasterService, WorkerSnapshots
from echod.workers.spawn import VARIABLE, WorkerConfig
from tests.support.certificates import make_certificate
from tests.support.descriptors import open_descriptors
from tests.support.fakeprocesses import ProcessReactor
from tests.support.servicemanager import ServiceManager
from tests.support.services import ServiceTestCase
from tests.support.snapshots import make_snapshot


class MasterTestCase(ServiceTestCase):
    """
    A master whose workers are up as soon as they are started.
    """

    def setUp(self):
        super().setUp()
        self.reactor = ProcessReactor()
        self.addCleanup(self.reactor.close)

    def build(self, *args, twistd=None, workers=2, inherited=None, notify=None):
        options = self.options(*args, twistd=twistd)
        service = build(self.reactor, options, inherited, notify, workers)
        self.assertIsInstance(service, MasterService)
        return service

    def up(self):
        for far in self.reactor.far_ends:
            far.send(up=True)

    def start(self, *args, **others):
        """
        @return: a master that has started its workers.
        """
        service = self.build(*(args or self.local), **others)
        self.reactor.balancer = [self.up]
        service.privilegedStartService()
        service.startService()
        for far in self.reactor.far_ends:
            far.received()
        return service

    def config(self, process):
        """
        The config that a worker was started with.
        """
        return WorkerConfig.take_from(dict(process.environment))


class BindTests(MasterTestCase):
    """
    What the master binds and passes on.
    """

    def test_nothing_before(self):
        """
        Before the start, nothing is bound and no process is started.
        """
        service = self.build(*self.local, "--listen", "tcp:7:interface=127.0.0.1")
        self.assertEqual((self.reactor.ports, self.reactor.processes), ([], []))
        service.privilegedStartService()
        self.assertEqual(len(self.reactor.ports), 2)
        self.assertEqual(self.reactor.processes, [])

    def test_unbinds(self):
        """
        If the workers cannot be started, the ports are closed.
        """
        service = self.build(*self.local, "--listen", "tcp:7:interface=127.0.0.1")
        self.reactor.broken = OSError(13, "no")
        service.privilegedStartService()
        self.assertRaises(ListenError, service.startService)
        self.assertEqual([port.stopped for port in self.reactor.ports], [True, True])

    def test_accepts_no_client(self):
        """
        The master accepts no client, not even from the accept queue at the end.
        """
        service = self.start(*self.local, "--listen", "tcp:7:interface=127.0.0.1")
        self.assertEqual([port.reading for port in self.reactor.ports], [False, False])
        self.assertEqual([each.leaves_queue for each in service.listeners], [True, True])

    def test_descriptors(self):
        """
        Each worker has the sockets, the channel and the counters at the descriptors that its config
        names, and the master's standard output.
        """
        made = make_certificate()
        pem = self.file(made.cert_pem + made.key_pem)
        self.start(
            *self.local,
            "--listen",
            "unix:/x",
            "--tls-listen",
            "tcp:8:interface=127.0.0.1",
            "--tls-cert",
            pem,
        )
        one, other = self.reactor.processes
        for worker, process in (("0", one), ("1", other)):
            config = self.config(process)
            self.assertEqual((config.worker, config.shares), (worker, [5000, 5000]))
            self.assertEqual(
                [(each.name, each.option, each.tls, each.borrowed) for each in config.listeners],
                [
                    ("tcp", "--port 0 --interface 127.0.0.1", False, False),
                    ("unix:/x", "--listen unix:/x", False, False),
                    (
                        "tcp:8:interface=127.0.0.1",
                        "--tls-listen tcp:8:interface=127.0.0.1",
                        True,
                        False,
                    ),
                ],
            )
            self.assertEqual(list(process.childFDs), list(range(8)))
            for number, port in zip((3, 4, 5), self.reactor.ports, strict=True):
                self.assertTrue(
                    os.path.samestat(process.inherited[number], os.fstat(port.socket.fileno()))
                )
            self.assertTrue(stat.S_ISSOCK(process.inherited[config.channel].st_mode))
            self.assertTrue(stat.S_ISREG(process.inherited[config.counters].st_mode))
            self.assertTrue(
                os.path.samestat(process.inherited[1], os.fstat(sys.__stdout__.fileno()))
            )
            self.assertEqual(process.childFDs[2], "r")
        self.assertEqual(one.inherited[7].st_ino, other.inherited[7].st_ino)
        self.assertNotEqual(one.inherited[6].st_ino, other.inherited[6].st_ino)

    def test_nothing_leaks(self):
        """
        The master keeps no descriptor of a worker open.
        """
        self.start()
        before = open_descriptors()
        self.reactor.processes[0].end(signal=9)
        self.reactor.advance(0)
        self.assertEqual(len(self.reactor.processes), 3)
        self.reactor.broken = OSError(11, "no")
        self.reactor.processes[1].end(signal=9)
        with capturedLogs():
            self.reactor.advance(0)
        self.assertEqual(open_descriptors(), before)

    def test_no_channel(self):
        """
        If there is no channel for a worker, no process is started that its supervisor would not
        know of, and the supervisor tries again.
        """
        service = self.start()
        before = open_descriptors()

        def fail(*args):
            raise OSError(24, "too many")

        patch = self.patch(self.reactor, "adoptStreamConnection", fail)
        with capturedLogs() as events:
            self.reactor.processes[0].end(signal=9)
            self.reactor.advance(0)
        patch.restore()
        self.assertEqual(len(self.reactor.processes), 2)
        self.assertIn("worker-failed", [each["event"] for each in events])
        self.assertEqual(open_descriptors(), before)
        self.reactor.advance(1)
        self.assertEqual(len(self.reactor.processes), 3)
        self.assertEqual(len(service.workers.live), 2)

    def test_inherited_sockets(self):
        """
        A socket that the master has inherited is passed on, and marked as borrowed.
        """
        listening = socket.create_server(("127.0.0.1", 0))
        inherited = InheritedSockets([InheritedSocket("echo", listening.detach())])
        self.start("--listen", "systemd:name=echo", inherited=inherited)
        (listener,) = self.config(self.reactor.processes[0]).listeners
        self.assertEqual((listener.name, listener.borrowed), ("echo", True))

    def test_no_standard_output(self):
        """
        If the master has no standard output, a worker has none either.
        """

        class Closed:
            def fileno(self):
                raise ValueError("closed")

        null = os.stat(os.devnull)
        for stdout in (None, Closed()):
            self.patch(sys, "__stdout__", stdout)
            self.start()
            self.assertTrue(os.path.samestat(self.reactor.processes[-1].inherited[1], null))
            self.assertTrue(os.path.samestat(self.reactor.processes[-1].inherited[0], null))

    def test_command(self):
        """
        A worker has the options of the master, written in full, and no variable that was for the
        master.
        """
        self.patch(os, "environ", {"HOME": "/h", "NOTIFY_SOCKET": "/run/x"})
        self.start(*self.local, "--idle", "5")
        process = self.reactor.processes[0]
        self.assertEqual(
            process.command[-5:],
            ["--pidfile=", "echod", "--port=0", "--interface=127.0.0.1", "--idle-timeout=5"],
        )
        self.assertEqual(process.command[0], sys.executable)
        self.assertEqual(set(process.environment), {"HOME", "PYTHONPATH", VARIABLE})

    def fault_seed(self, *given):
        """
        Start workers with a fault.

        @return: the seed that the log names.
        """
        with capturedLogs() as events:
            self.start(*self.local, "--fault", "refuse", *given)
        [seed] = [each["seed"] for each in events if each.get("event") == "faults-enabled"]
        for process in self.reactor.processes:
            self.assertEqual(process.command[-1], f"--fault-seed={seed}")
        return seed

    def test_fault_seed(self):
        """
        All workers draw faults with the seed that the log names.
        """
        self.assertEqual(self.fault_seed("--fault-seed", "7"), 7)

    def test_random_fault_seed(self):
        """
        Without the option, that is a random one.
        """
        self.assertGreaterEqual(self.fault_seed(), 0)

    def test_layers(self):
        """
        Workers cannot share an endpoint with a layer of its own.
        """
        for endpoint, advice in (
            ("haproxy:tcp:0", "PROXY headers, use --proxy-protocol"),
            ("tls:keys:0", "TLS, use --tls-listen"),
        ):
            line = self.assertRaises(SystemExit, self.build, "--listen", endpoint).code
            self.assertEqual(
                line,
                f"echod: --listen {endpoint}: workers cannot share its layer around the "
                f"connection; for {advice}",
            )

    def test_unknown_layers(self):
        """
        They cannot share one whose layer is only known when it is bound, either.
        """
        service = self.build("--listen", "tcp:7:interface=127.0.0.1")
        listen = self.reactor.listenTCP
        self.patch(self.reactor, "listenTCP", lambda port, _, **rest: listen(port, None, **rest))
        error = self.assertRaises(SystemExit, service.privilegedStartService)
        self.assertIn(
            "--listen tcp:7:interface=127.0.0.1: workers cannot share its layer", str(error)
        )

    def test_tls(self):
        """
        The master reads the certificates once, so that a bad file is one line; only workers reload
        them.
        """
        made = make_certificate()
        pem = self.file(made.cert_pem + made.key_pem)
        log = self.mktemp()
        tls = ("--tls-port", "0", "-i", "127.0.0.1", "--tls-keylog", log, "--tls-cert")
        self.assertRaises(SystemExit, self.build, *tls, self.mktemp())
        service = self.build(*tls, pem)
        self.assertEqual([type(each) for each in service], [HeldListener])
        # The workers create it.
        self.assertFalse(os.path.exists(log))

    def test_self_signed(self):
        """
        All workers, also one that is started later, inherit the key pair that the master has made.
        """
        service = self.start("--tls-port", "0", "-i", "127.0.0.1", "--tls-self-signed")
        first, second = self.reactor.processes
        first.end(signal=9)
        self.reactor.advance(1)
        third = self.reactor.processes[2]
        found = set()
        for process in (first, second, third):
            self.assertTrue(self.config(process).self_signed)
            memory = process.childFDs[self.config(process).counters + 1]
            found.add(from_pem(os.pread(memory, 1 << 16, 0)).fingerprint)
        self.assertEqual(len(found), 1)
        # Neither an argument nor the environment has the key.
        self.assertNotIn("PRIVATE KEY", str((first.command, first.environment)))
        service.reload()

    def test_shares(self):
        """
        The shares of the workers add up to C{--max-connections}.
        """
        self.start(*self.local, "--max-connections", "8", workers=3)
        self.assertEqual(
            [self.config(process).max_connections for process in self.reactor.processes], [3, 3, 2]
        )


class LogTests(MasterTestCase):
    """
    Where the logs of the workers go.
    """

    def twistd(self, *args):
        options = ServerOptions()
        options.parseOptions([*args, "ftp"])
        return options

    def test_file(self):
        """
        With a log file, the master writes what the workers log, because it rotates the file.
        """
        path = os.path.abspath(self.mktemp())
        service = self.build(*self.local, twistd=self.twistd("-n", "--logfile", path))
        service.setServiceParent(Application("test"))
        self.reactor.balancer = [self.up]
        service.startService()
        process = self.reactor.processes[0]
        self.assertEqual(process.childFDs[1], "r")
        process.protocol.childDataReceived(1, "a line ä\nanother\n".encode())
        with open(path, encoding="utf-8") as file:
            lines = file.read().splitlines()
        self.assertEqual(lines[-2:], ["a line ä", "another"])


class LifeTests(MasterTestCase):
    """
    From start to stop.
    """

    def test_signals(self):
        """
        A reload and an abort go to all workers.
        """
        service = self.start()
        service.reload()
        service.abort_all()
        for far in self.reactor.far_ends:
            self.assertEqual([each["do"] for each in far.received()], ["reload", "abort"])

    def test_stop(self):
        """
        The ports are closed first; then the workers are told to stop; the stop ends when they have
        ended.
        """
        service = self.start()
        early = []
        port = self.reactor.ports[0]
        port.stopListening = lambda: early.extend(self.reactor.far_ends[0].received())
        with capturedLogs() as events:
            stopping = service.stopService()
            self.assertEqual(early, [])
            self.assertEqual(self.reactor.far_ends[0].received(), [{"do": "stop"}])
            for process in self.reactor.processes:
                self.assertNoResult(stopping)
                process.end()
            self.successResultOf(stopping)
        self.assertEqual(
            [formatEvent(event) for event in events][-1], "echod stopped: all workers have ended"
        )
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_worker_exited(self):
        """
        A worker that has died counts as absent in the shared counters.
        """
        self.start()
        memory = self.reactor.processes[0].childFDs[5]
        table = SharedCounters(memory, 2)
        table[0] = table[1] = 5
        self.reactor.processes[1].end(signal=9)
        table[0] = 7
        self.assertEqual(table.least(), 7)
        self.reactor.processes[0].end(signal=9)
        self.assertEqual(table.least(), ABSENT)

    def test_status(self):
        """
        The service manager is notified when all workers are up; the status line adds up the last
        totals of all workers, including those that have died.
        """
        manager = ServiceManager()
        self.addCleanup(manager.close)
        notify = NotifyConfig.from_environment(manager.environment, os.getpid())
        service = self.start(notify=notify)
        self.assertEqual(manager.take(), [])
        self.reactor.run()
        self.assertEqual(manager.take(), [["READY=1"], ["STATUS=0 connections, 0 B/s, 0 refused"]])
        self.reactor.advance(2)
        for far, totals in zip(self.reactor.far_ends, ([3, 500, 1], [4, 70, 0]), strict=True):
            (question,) = far.received()
            far.send(answer=question["ask"], totals=totals)
        self.reactor.advance(10)
        self.assertIn(["STATUS=7 connections, 48 B/s, 1 refused"], manager.take())
        self.reactor.processes[0].end(signal=9)
        self.assertEqual(service.workers.live.totals(), (4, 570, 1))

    def test_reload(self):
        """
        The service manager is notified of the end of a reload when each worker has answered, or
        after a timeout.
        """
        manager = ServiceManager()
        self.addCleanup(manager.close)
        notify = NotifyConfig.from_environment(manager.environment, os.getpid())
        service = self.start(notify=notify)
        self.reactor.run()
        for silent in (False, True):
            manager.take()
            service.reload()
            ((word, _),) = manager.take()
            self.assertEqual(word, "RELOADING=1")
            one, other = self.reactor.far_ends
            one.send(answer=one.received()[0]["ask"])
            self.assertEqual(manager.take(), [])
            if silent:
                self.reactor.advance(RELOAD_TIMEOUT)
            else:
                other.send(answer=other.received()[0]["ask"])
            self.assertEqual(manager.take()[0], ["READY=1"])

    def test_reload_fails(self):
        """
        A bug in a reload is logged.
        """
        service = self.start()
        self.patch(service.workers.live, "ask_all", lambda *_, **__: fail(LookupError("a bug")))
        service.reload()
        self.assertEqual(len(self.flushLoggedErrors(LookupError)), 1)

    service = None

    def snapshots(self, service, *answers):
        """
        Take a snapshot of each worker.

        @param answers: the answer of each worker, C{None} for no answer.
        """
        if service is not self.service:
            self.service = service
            self.take = WorkerSnapshots(service.workers.live, service.collector, [4, 3])
        asked = Deferred.fromCoroutine(self.take())
        for far, answer in zip(self.reactor.far_ends, answers, strict=True):
            *_, question = far.received()
            self.assertTrue(question["snapshot"])
            if answer is not None:
                far.send(answer=question["ask"], snapshot=answer.to_json())
        self.reactor.advance(1)
        return self.successResultOf(asked)

    def test_snapshots(self):
        """
        The snapshot of a worker is its answer.
        """
        service = self.start()
        given = [make_snapshot(worker="0"), make_snapshot(worker="1")]
        self.assertEqual(self.snapshots(service, *given), given)

    def test_log_dropped(self):
        """
        Log records that the master could not write for a worker count as that worker's.
        """
        service = self.start()
        for process in self.reactor.processes:
            process.protocol._write_log = lambda line: False
        self.reactor.processes[1].protocol.childDataReceived(1, b"one\ntwo\n")
        given = [make_snapshot(worker="0"), make_snapshot(worker="1")]
        before = [each.log_dropped for each in given]
        after = [each.log_dropped for each in self.snapshots(service, *given)]
        self.assertEqual(after, [before[0], before[1] + 2])

    def test_admin(self):
        """
        The timers of the collector run with the status page.
        """
        service = self.build(*self.local, "--admin", "tcp:1:interface=127.0.0.1")
        self.assertIs(service.collector.parent, service.admin)

    def test_ended(self):
        """
        A worker that ends after its answer is in the snapshots once more.
        """
        service = self.start()
        given = make_snapshot(worker="0"), make_snapshot(worker="1")
        take = WorkerSnapshots(service.workers.live, service.collector, [1, 1])
        asked = Deferred.fromCoroutine(take())
        for number, far in enumerate(list(self.reactor.far_ends)):
            *_, question = far.received()
            far.send(answer=question["ask"], snapshot=given[number].to_json())
            if number == 0:
                self.reactor.processes[0].end(signal=9)
        self.assertEqual(self.successResultOf(asked), list(given))

    def test_draining(self):
        """
        As soon as a stop begins, all workers count as draining.
        """
        service = self.start()
        given = [make_snapshot(worker="0"), make_snapshot(worker="1")]
        service.collector.draining = True
        why = [each.not_ready() for each in self.snapshots(service, *given)]
        self.assertEqual(why, ["draining", "draining"])

    def test_silent(self):
        """
        A worker that does not answer does not count as listening, and keeps its last figures,
        because a counter must not decrease.  A new worker has no figures yet.
        """
        service = self.start(*self.local, "--max-connections", "7")
        given = make_snapshot(worker="0")
        answered, unknown = self.snapshots(service, given, None)
        self.assertEqual(answered, given)
        self.assertEqual(unknown.worker, "1")
        self.assertEqual(unknown.not_ready(), "does not answer")
        self.assertEqual((unknown.traffic, unknown.max_connections), ([], 3))
        self.assertEqual((set(unknown.lag.counts), unknown.process.pid), ({0}, 0))
        self.assertEqual(Snapshot.from_json(unknown.to_json()), unknown)
        silent, _ = self.snapshots(service, None, None)
        self.assertEqual(silent.traffic, given.traffic)
        self.assertEqual(silent.not_ready(), "does not answer")
        self.reactor.processes[0].end(signal=9)
        self.reactor.far_ends.pop(0)
        gone, _ = self.snapshots(service, None)
        self.assertEqual((gone.traffic, gone.worker), ([], "0"))
