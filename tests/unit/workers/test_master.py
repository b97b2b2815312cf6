"""
The parent of workers: what it binds, what it hands on, and what it says of them all.
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
from echod.tap import build
from echod.workers.master import RELOAD_TIMEOUT, HeldListener, MasterService, WorkerSnapshots
from echod.workers.spawn import VARIABLE, WorkerConfig
from tests.support.certificates import make_certificate
from tests.support.fakeprocesses import ProcessReactor
from tests.support.servicemanager import ServiceManager
from tests.support.services import ServiceTestCase
from tests.support.snapshots import make_snapshot


class ParentTestCase(ServiceTestCase):
    """
    A parent whose workers are up as soon as they are started.
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
        @return: a parent that has started its workers.
        """
        service = self.build(*(args or self.local), **others)
        self.reactor.balancer = [self.up]
        service.privilegedStartService()
        service.startService()
        for far in self.reactor.far_ends:
            far.messageReceived()
        return service

    def told(self, process):
        """
        What a worker was told.
        """
        return WorkerConfig.take_from(dict(process.environment))


class BindTests(ParentTestCase):
    """
    What it binds and hands on.
    """

    def test_nothing_before(self):
        """
        Nothing is bound and no process started before it is.
        """
        service = self.build(*self.local, "--listen", "tcp:7:interface=127.0.0.1")
        self.assertEqual((self.reactor.ports, self.reactor.processes), ([], []))
        service.privilegedStartService()
        self.assertEqual(len(self.reactor.ports), 2)
        self.assertEqual(self.reactor.processes, [])

    def test_bound_for_nothing(self):
        """
        When the workers cannot be started, what was bound is let go.
        """
        service = self.build(*self.local, "--listen", "tcp:7:interface=127.0.0.1")
        self.reactor.broken = OSError(13, "no")
        service.privilegedStartService()
        self.assertRaises(ListenError, service.startService)
        self.assertEqual([port.stopped for port in self.reactor.ports], [True, True])

    def test_accepts_nobody(self):
        """
        It accepts from none of its sockets, and takes nobody from their queues at the end.
        """
        service = self.start(*self.local, "--listen", "tcp:7:interface=127.0.0.1")
        self.assertEqual([port.reading for port in self.reactor.ports], [False, False])
        self.assertEqual([each.leaves_queue for each in service.listeners], [True, True])

    def test_descriptors(self):
        """
        Each worker has its sockets, the lifeline and the table where it is told, and the
        parent's standard output.
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
            told = self.told(process)
            self.assertEqual((told.worker, told.shares), (worker, [5000, 5000]))
            self.assertEqual(
                [(each.name, each.option, each.tls, each.borrowed) for each in told.listeners],
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
            self.assertTrue(stat.S_ISSOCK(process.inherited[told.channel].st_mode))
            self.assertTrue(stat.S_ISREG(process.inherited[told.table].st_mode))
            self.assertTrue(
                os.path.samestat(process.inherited[1], os.fstat(sys.__stdout__.fileno()))
            )
            self.assertEqual(process.childFDs[2], "r")
        self.assertEqual(one.inherited[7].st_ino, other.inherited[7].st_ino)
        self.assertNotEqual(one.inherited[6].st_ino, other.inherited[6].st_ino)

    def test_nothing_leaks(self):
        """
        What a worker is started with is not left open here.
        """
        self.start()
        before = os.listdir("/proc/self/fd")
        self.reactor.processes[0].end(signal=9)
        self.reactor.advance(0)
        self.assertEqual(len(self.reactor.processes), 3)
        self.reactor.broken = OSError(11, "no")
        self.reactor.processes[1].end(signal=9)
        with capturedLogs():
            self.reactor.advance(0)
        self.assertEqual(len(os.listdir("/proc/self/fd")), len(before))

    def test_lent_sockets(self):
        """
        A socket that the parent was handed over is handed on, and said to be lent.
        """
        lent = socket.create_server(("127.0.0.1", 0))
        inherited = InheritedSockets([InheritedSocket("echo", lent.detach())])
        self.start("--listen", "systemd:name=echo", inherited=inherited)
        (handed,) = self.told(self.reactor.processes[0]).listeners
        self.assertEqual((handed.name, handed.borrowed), ("echo", True))

    def test_no_standard_output(self):
        """
        Where the parent has no standard output, a worker has none either.
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
        A worker's command line says what the parent's said, in full, and its environment
        nothing that was for the parent.
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

    def test_layers(self):
        """
        An endpoint with a layer of its own cannot be shared.
        """
        line = self.assertRaises(SystemExit, self.build, "--listen", "haproxy:tcp:0").code
        self.assertEqual(
            line,
            "echod: --listen haproxy:tcp:0: workers cannot share its layer around the "
            "connection; for TLS, use --tls-listen",
        )

    def test_unknown_layers(self):
        """
        Nor can one whose layer shows only when it is bound.
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
        What is served with is read at once, so that a bad file is one line, and the workers
        look after it themselves.
        """
        made = make_certificate()
        pem = self.file(made.cert_pem + made.key_pem)
        log = self.mktemp()
        tls = ("--tls-port", "0", "-i", "127.0.0.1", "--tls-keylog", log, "--tls-cert")
        self.assertRaises(SystemExit, self.build, *tls, self.mktemp())
        service = self.build(*tls, pem)
        self.assertEqual([type(each) for each in service], [HeldListener])
        # The workers make it.
        self.assertFalse(os.path.exists(log))

    def test_shares(self):
        """
        The shares of the workers are those of C{--max-connections}, to the last one.
        """
        self.start(*self.local, "--max-connections", "8", workers=3)
        self.assertEqual(
            [self.told(process).max_connections for process in self.reactor.processes], [3, 3, 2]
        )


class LogTests(ParentTestCase):
    """
    Where the workers' logs go.
    """

    def twistd(self, *args):
        options = ServerOptions()
        options.parseOptions([*args, "ftp"])
        return options

    def test_file(self):
        """
        With a log file, what the workers log comes through the parent, which rotates it.
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


class LifeTests(ParentTestCase):
    """
    From start to stop.
    """

    def test_signals(self):
        """
        HUP goes to all workers, and a second TERM lets them abort.
        """
        service = self.start()
        service.reload()
        service.abort_all()
        for far in self.reactor.far_ends:
            self.assertEqual([each["do"] for each in far.messageReceived()], ["reload", "abort"])

    def test_stop(self):
        """
        The ports are closed first; then the workers are told; and the stop ends when they have.
        """
        service = self.start()
        heard = []
        port = self.reactor.ports[0]
        port.stopListening = lambda: heard.extend(self.reactor.far_ends[0].messageReceived())
        with capturedLogs() as events:
            stopping = service.stopService()
            self.assertEqual(heard, [])
            self.assertEqual(self.reactor.far_ends[0].messageReceived(), [{"do": "stop"}])
            for process in self.reactor.processes:
                self.assertNoResult(stopping)
                process.end()
            self.successResultOf(stopping)
        self.assertEqual(
            [formatEvent(event) for event in events][-1], "echod stopped: all workers have gone"
        )
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_bury(self):
        """
        A worker that has died is waited for by nobody.
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
        The service manager is told that all are up, and of all of them together, as they
        have said last; what one that died had echoed is not forgotten.
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
            (question,) = far.messageReceived()
            far.send(answer=question["ask"], totals=totals)
        self.reactor.advance(10)
        self.assertIn(["STATUS=7 connections, 48 B/s, 1 refused"], manager.take())
        self.reactor.processes[0].end(signal=9)
        self.assertEqual(service.workers.live.totals(), (4, 570, 1))

    def test_reload(self):
        """
        A reload is over, for the service manager, when each worker has read its files, or
        when one has not for so long.
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
            one.send(answer=one.messageReceived()[0]["ask"])
            self.assertEqual(manager.take(), [])
            if silent:
                self.reactor.advance(RELOAD_TIMEOUT)
            else:
                other.send(answer=other.messageReceived()[0]["ask"])
            self.assertEqual(manager.take()[0], ["READY=1"])

    def test_reload_fails(self):
        """
        A bug in it is logged.
        """
        service = self.start()
        self.patch(service.workers.live, "ask_all", lambda *_, **__: fail(LookupError("a bug")))
        service.reload()
        self.assertEqual(len(self.flushLoggedErrors(LookupError)), 1)

    service = None

    def snapshots(self, service, *answers):
        """
        Take snapshots of all, with these answers of the workers, C{None} for none.
        """
        if service is not self.service:
            self.service = service
            self.take = WorkerSnapshots(service.workers.live, service.collector, [4, 3])
        asked = Deferred.fromCoroutine(self.take())
        for far, answer in zip(self.reactor.far_ends, answers, strict=True):
            *_, question = far.messageReceived()
            self.assertTrue(question["snapshot"])
            if answer is not None:
                far.send(answer=question["ask"], snapshot=answer.to_json())
        self.reactor.advance(1)
        return self.successResultOf(asked)

    def test_snapshots(self):
        """
        A snapshot of each worker is what that worker answers.
        """
        service = self.start()
        given = [make_snapshot(worker="0"), make_snapshot(worker="1")]
        self.assertEqual(self.snapshots(service, *given), given)

    def test_log_dropped(self):
        """
        Log records that the parent could not write for a worker count as that worker's.
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
        The clocks of the page run with it.
        """
        service = self.build(*self.local, "--admin", "tcp:1:interface=127.0.0.1")
        self.assertIs(service.collector.parent, service.admin)

    def test_ended(self):
        """
        One that ends when it has answered is shown by its answer, for the last time.
        """
        service = self.start()
        given = make_snapshot(worker="0")
        asked = Deferred.fromCoroutine(
            WorkerSnapshots(service.workers.live, service.collector, [1, 1])()
        )
        *_, question = self.reactor.far_ends[0].messageReceived()
        self.reactor.far_ends[0].send(answer=question["ask"], snapshot=given.to_json())
        self.reactor.processes[0].end(signal=9)
        self.reactor.advance(1)
        self.assertEqual(self.successResultOf(asked)[0], given)

    def test_draining(self):
        """
        From the first moment of a stop all drain, also who has not heard of it yet.
        """
        service = self.start()
        given = [make_snapshot(worker="0"), make_snapshot(worker="1")]
        service.collector.draining = True
        why = [each.not_ready() for each in self.snapshots(service, *given)]
        self.assertEqual(why, ["draining", "draining"])

    def test_silent(self):
        """
        One that does not answer does not listen, and has what it had last: a counter that
        went back would count twice.  One that has just begun has nothing yet.
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
