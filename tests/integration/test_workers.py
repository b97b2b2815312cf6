"""
Several processes on the same sockets: who gets the clients, and what happens to them when
a process dies, is stuck, is replaced, or all are stopped.
"""

import json
import os
import re
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from twisted.trial.unittest import TestCase

from echod.tls.credentials import serial_text
from tests.support.activation import ActivatedDaemon
from tests.support.admin import ADMIN, ask, samples, shown
from tests.support.certificates import make_certificate
from tests.support.clients import TLSClient, context
from tests.support.daemons import (
    LOOPBACK,
    ON_A_SOCKET,
    PATIENT_STOP,
    Daemon,
    connect,
    echo,
    many_descriptors,
    receive,
    receive_rest,
    show,
    socket_path,
    wait_until,
)
from tests.support.shortclients import many
from tests.support.workers import ClientLoop, WorkersDaemon, lives


class SpreadTests(TestCase):
    """
    Who gets the clients.
    """

    def spread(
        self, master: WorkersDaemon, clients: list[socket.socket], before: dict[str, int]
    ) -> float:
        """
        Wait until all have been accepted.

        @return: the share of the worker that has most.
        """

        def got() -> dict[str, int]:
            return {name: now - before[name] for name, now in master.sockets().items()}

        wait_until(lambda: sum(got().values()) >= len(clients), "all to be accepted")
        self.assertEqual(sum(got().values()), len(clients))
        return max(got().values()) / len(clients)

    def test_thousand(self) -> None:
        """
        1000 connections are shared by the workers, whether they come all at once or one
        after the other.  How evenly depends on which worker the machine lets run; who is
        ahead steps back, by C{tests/test_turns.py}.
        """
        with many_descriptors(2000), WorkersDaemon(2) as master:
            for how in ("at once", "one after the other"):
                before = master.sockets()
                if how == "at once":
                    clients = many(master.address(), 1000)
                else:
                    clients = [master.connect() for _ in range(1000)]
                share = self.spread(master, clients, before)
                show(f"1000 connections {how}: {share:.1%} to one of 2 workers")
                for client in clients:
                    client.close()
                self.assertLess(share, 1)
                wait_until(lambda b=before: master.sockets() == b, "all to be gone")

    def test_in_turn(self) -> None:
        """
        Clients who come when there is time for them are served in turn.
        """
        with WorkersDaemon(3) as master, ExitStack() as stack:
            before = master.sockets()
            for _ in range(90):
                client = stack.enter_context(master.connect())
                self.assertEqual(echo(client, b"hello"), b"hello")
            got = [now - before[name] for name, now in master.sockets().items()]
            show(f"90 connections in turn: {got}")
            self.assertGreater(min(got), 0)

    def test_other_reactors(self) -> None:
        """
        On a reactor of Twisted's, too, all clients are served.
        """
        with WorkersDaemon(2, *LOOPBACK, *ON_A_SOCKET, reactor="poll") as master:
            for number in range(50):
                address = f"unix:{socket_path(master)}" if number % 2 else master.address()
                with connect(address) as client:
                    self.assertEqual(echo(client, b"hello"), b"hello")
            self.assertEqual(master.ended("client", 50), 50)


class DeathTests(TestCase):
    """
    A worker that goes.
    """

    def test_killed_under_load(self) -> None:
        """
        When a worker is killed under load, clients of the others notice nothing, none is
        refused, and soon it is back.
        """
        with WorkersDaemon(2) as master, ExitStack() as stack:
            before = master.sockets()
            residents = []
            for _ in range(20):
                residents.append(stack.enter_context(master.connect()))
                self.assertEqual(echo(residents[-1], b"hello"), b"hello")
            # Those that the other worker has, and the sockets of the channel and the listener.
            kept = master.sockets()["1"] - before["1"]
            self.assertTrue(0 < kept < 20)
            loops = [ClientLoop(master.address()) for _ in range(2)]
            wait_until(lambda: all(each.ends["ok"] > 50 for each in loops), "some load")
            killed = time.monotonic()
            old = master.signal_worker("0", signal.SIGKILL)
            master.wait_for_another("0", old)
            back = time.monotonic() - killed
            alive = 0
            for client in residents:
                try:
                    alive += echo(client, b"hello") == b"hello"
                except ConnectionError:
                    continue
            for each in loops:
                so_far = each.ends["ok"]
                wait_until(lambda e=each, n=so_far: e.ends["ok"] > n + 50, "more load")
                each.stop()
            ends = loops[0].ends + loops[1].ends
            slowest = max(each.slowest for each in loops)
            show(f"worker back {back:.2f} s after kill -9; slowest visit {slowest:.3f} s; {ends}")
            self.assertEqual(alive, kept)
            self.assertEqual(ends["ConnectionRefusedError"] + ends["TimeoutError"], 0)
            # What it was in the middle of is lost: one visit of each visitor at most.
            self.assertLessEqual(ends.total() - ends["ok"], 2)
            self.assertRegex(master.log, rf"worker 0, process {old}, was ended by SIGKILL")

    def test_all_killed(self) -> None:
        """
        While there is no worker at all no client is refused: clients wait until there is one.
        """
        with WorkersDaemon(2) as master:
            for name in ("0", "1"):
                master.signal_worker(name, signal.SIGKILL)
            clients = [master.connect() for _ in range(20)]
            for client in clients:
                with client:
                    self.assertEqual(echo(client, b"hello"), b"hello")

    def test_real_time_signal(self) -> None:
        """
        A worker that ends by a signal without a name of its own is replaced as well, and TERM still
        ends all.
        """
        with WorkersDaemon(2) as master:
            old = master.signal_worker("0", signal.SIGRTMIN + 1)
            new = master.wait_for_another("0", old)
            self.assertIn(f"process {old}, was ended by SIGRTMIN+1; restarting it", master.log)
            master.stop()
            self.assertFalse(lives(new))

    def test_replaced(self) -> None:
        """
        A worker that is sent TERM drains: its quiet clients see the end of file, and another
        takes its place; no client is refused meanwhile.
        """
        with WorkersDaemon(2) as master:
            clients = []
            for _ in range(10):
                clients.append(master.connect())
                self.assertEqual(echo(clients[-1], b"hello"), b"hello")
            loop = ClientLoop(master.address())
            old = master.signal_worker("1", signal.SIGTERM)
            # However often.
            os.kill(old, signal.SIGTERM)
            master.wait_for_another("1", old)
            loop.stop()
            self.assertEqual(set(loop.ends), {"ok"})
            ended = 0
            for client in clients:
                with client:
                    client.settimeout(0.1)
                    try:
                        ended += client.recv(1) == b""
                    except TimeoutError:
                        self.assertEqual(echo(client, b"hello"), b"hello")
            self.assertTrue(0 < ended < 10)

    def test_full_while_another_is_replaced(self) -> None:
        """
        While a worker is replaced, the other, which is full, refuses no client: clients wait in
        the accept queue, and the replacement serves them.
        """
        limits = ("--max-connections", "8", "--drain-timeout", "10m")
        with (
            # Twisted's line about a closed port is at that level.
            WorkersDaemon(2, *LOOPBACK, *limits, "--log-level", "debug") as master,
            ExitStack() as stack,
        ):
            residents = [stack.enter_context(stuck(master)) for _ in range(8)]
            old = master.signal_worker("1", signal.SIGTERM)
            wait_until(lambda: re.search(r"\[worker 1 .*Closed\)", master.log), "its port to close")
            waiting = [stack.enter_context(master.connect()) for _ in range(4)]
            for client in waiting:
                client.sendall(b"hello")
            for client in residents:
                client.close()
            for client in waiting:
                self.assertEqual(receive(client, 5), b"hello")
            master.wait_for_another("1", old)
            master.stop()
            self.assertNotIn("max-connections", master.log)

    def test_stuck(self) -> None:
        """
        A worker that stands still is killed after some ten seconds and replaced; clients are
        served by the other all the time.
        """
        with WorkersDaemon(2) as master:
            stopped = time.monotonic()
            master.signal_worker("0", signal.SIGSTOP)
            old = master.pids()["0"]
            loop = ClientLoop(master.address())
            master.wait_for_another("0", old)
            took = time.monotonic() - stopped
            loop.stop()
            show(
                f"stuck worker replaced after {took:.1f} s; "
                f"slowest visit {loop.slowest:.2f} s; {loop.ends}"
            )
            self.assertEqual(set(loop.ends), {"ok"})
            # One that waited for the killed one would have been the only one so far.
            self.assertGreater(loop.ends["ok"], 20)
            self.assertGreater(took, 8)
            self.assertIn("worker 0 has not answered for 10 s; it is killed", master.log)
            self.assertFalse(lives(old))


@contextmanager
def first_in_workers(directory: Path, *lines: str) -> Iterator[None]:
    """
    Run code in each worker before its program.

    @param directory: a directory to make, where the interpreter finds the code.
    """
    directory.mkdir()
    code = ["import os, signal", "if 'ECHOD_WORKER' in os.environ:"]
    code += [f"    {line}" for line in lines]
    (directory / "sitecustomize.py").write_text("\n".join(code))
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = str(directory)
    try:
        yield
    finally:
        del os.environ["PYTHONPATH"]
        if before is not None:
            os.environ["PYTHONPATH"] = before


class BrokenStartTests(TestCase):
    """
    Workers that cannot start.
    """

    @contextmanager
    def broken(self) -> Iterator[None]:
        """
        Let no worker get further than its interpreter.
        """
        with first_in_workers(
            Path(self.mktemp()).absolute(),
            "os.write(2, b'echod: --port 7: broken\\n')",
            "os._exit(3)",
        ):
            yield

    def test_foreground(self) -> None:
        """
        The daemon ends with status 1 and the worker's one line.
        """
        master = WorkersDaemon(2)
        with self.broken(), self.assertRaises(AssertionError):
            master.start()
        self.addCleanup(master.__exit__, None, None, None)
        self.assertEqual(master.status, 1)
        self.assertRegex(master.stderr, r"\Aechod: worker [01]: --port 7: broken\n\Z")

    def test_background(self) -> None:
        """
        The command that sends the daemon to the background reports a start that fails.
        """
        master = WorkersDaemon(2, background=True)
        with self.broken(), self.assertRaises(AssertionError):
            master.start()
        self.assertEqual(master.status, 1)
        self.assertIn("--port 7: broken", master.stderr)
        self.assertFalse(master.pidfile.exists())


class StopTests(TestCase):
    """
    The end of all.
    """

    def test_drain(self) -> None:
        """
        TERM lets every worker drain; when the last has gone, the parent ends as one process
        would, and its port is closed.
        """
        with WorkersDaemon(2, "--drain-timeout", "10m") as master:
            address = master.address()
            clients = [master.connect() for _ in range(10)]
            for client in clients:
                self.assertEqual(echo(client, b"hello"), b"hello")
            clients[0].sendall(b"x" * 500_000)
            master.signal(signal.SIGTERM)
            self.assertEqual(receive_rest(clients[0]), b"x" * 500_000)
            for client in clients[1:]:
                self.assertEqual(client.recv(1), b"")
            for client in clients:
                client.close()
            master.wait()
            self.assertEqual(master.status, -signal.SIGTERM)
            self.assertEqual(master.living(), [])
            self.assertRaises(ConnectionRefusedError, connect, address)
            drained = re.findall(r"drained: (\d+) connections finished, (\d+) aborted", master.log)
            self.assertEqual(sum(int(finished) for finished, _ in drained), 10)
            self.assertEqual(len(drained), 2)
            self.assertIn("all workers have ended", master.log)

    def test_clients_in_the_queue(self) -> None:
        """
        Clients who came just before the stop are served.
        """
        with WorkersDaemon(2) as master:
            clients = many(master.address(), 100)
            for client in clients:
                client.setblocking(True)
                client.settimeout(60)
                client.sendall(b"hello")
            master.signal(signal.SIGTERM)
            for client in clients:
                with client:
                    self.assertEqual(receive_rest(client), b"hello")
            master.wait()

    def test_whole_group(self) -> None:
        """
        A terminal's Ctrl-C, which reaches every process, and a second one for the workers,
        are a drain like any other.
        """
        with WorkersDaemon(2, "--drain-timeout", "10m", *LOOPBACK) as master:
            clients = [master.connect() for _ in range(6)]
            for client in clients:
                self.assertEqual(echo(client, b"hello"), b"hello")
            for name in ("0", "1", "0", "1"):
                master.signal_worker(name, signal.SIGINT)
            for client in clients:
                self.assertEqual(echo(client, b"hello"), b"hello")
            master.signal(signal.SIGINT)
            for client in clients:
                with client:
                    self.assertEqual(client.recv(1), b"")
            master.wait()
            self.assertEqual(master.status, -signal.SIGINT)
            self.assertNotIn("aborted: 1", master.log)
            self.assertEqual(len(master.ups()), 2)

    def test_term_to_the_group(self) -> None:
        """
        TERM to every process at once, as systemd's KillMode=control-group has it, is a drain;
        sent again, it aborts, and no process logs a traceback.
        """
        for _ in range(3):
            with (
                WorkersDaemon(2, "--drain-timeout", "10m", *LOOPBACK) as master,
                ExitStack() as stack,
            ):
                for _ in range(4):
                    stack.enter_context(stuck(master))
                quiet = stack.enter_context(master.connect())
                self.assertEqual(echo(quiet, b"hello"), b"hello")
                signal_all(master, signal.SIGTERM)
                self.assertEqual(quiet.recv(1), b"")
                self.assertTrue(master.running())
                signal_all(master, signal.SIGTERM)
                master.wait()
                self.assertEqual((master.status, master.living()), (-signal.SIGTERM, []))
                self.assertEqual(len(master.ups()), 2)

    def test_second_term(self) -> None:
        """
        A second TERM ends every connection and every process at once.
        """
        with WorkersDaemon(2, "--drain-timeout", "10m", *LOOPBACK) as master, ExitStack() as stack:
            for _ in range(4):
                stack.enter_context(stuck(master))
            master.signal(signal.SIGTERM)
            wait_until(lambda: not listens(master.address()), "the port to be closed")
            self.assertTrue(master.running())
            master.signal(signal.SIGTERM)
            took = master.wait()
            show(f"2 workers: exit {took:.2f} s after the second signal")
            self.assertEqual(master.living(), [])

    def test_while_a_worker_starts(self) -> None:
        """
        TERM also ends a worker whose start takes long: the stop waits neither for the end of the
        start nor for the drain timeout.
        """
        directory = Path(self.mktemp()).absolute()
        slow, reached = directory / "slow", directory / "reached"
        with (
            first_in_workers(
                directory,
                f"if os.path.exists({str(slow)!r}):",
                f"    open({str(reached)!r}, 'w').close()",
                "    signal.pause()",
            ),
            WorkersDaemon(2, "--drain-timeout", "10m", *LOOPBACK) as master,
        ):
            slow.touch()
            master.signal_worker("0", signal.SIGKILL)
            wait_until(reached.exists, "the start of another worker")
            master.signal(signal.SIGTERM)
            master.wait()
            self.assertEqual((master.status, master.living()), (-signal.SIGTERM, []))
            self.assertNotIn("it is killed", master.log)

    def test_parent_killed(self) -> None:
        """
        Workers whose parent was killed drain and end.
        """
        with WorkersDaemon(2) as master:
            pids = list(master.pids().values())
            with master.connect() as client:
                self.assertEqual(echo(client, b"hello"), b"hello")
                master.signal(signal.SIGKILL)
                self.assertEqual(client.recv(1), b"")
            wait_until(lambda: not any(map(lives, pids)), "the workers to end")
            self.assertIn("the master has exited; stopping", master.log)


def signal_all(master: WorkersDaemon, number: signal.Signals) -> None:
    """
    Signal the parent and its workers, those first.
    """
    for name, pid in master.pids().items():
        if lives(pid):
            master.signal_worker(name, number)
    master.signal(number)


def stuck(master: WorkersDaemon) -> socket.socket:
    """
    An accepted client that does not read, and whose echo is more than the kernel takes.
    """
    client = master.connect(receive_buffer=4096)
    if echo(client, b"hello") != b"hello":
        raise AssertionError("the echo is not what was sent")
    client.setblocking(False)
    try:
        while client.send(bytes(65536)):
            time.sleep(0.001)
    except BlockingIOError:
        pass
    return client


def listens(address: str) -> bool:
    """
    Whether anybody listens there.
    """
    try:
        connect(address).close()
    except ConnectionRefusedError:
        return False
    return True


class SocketsTests(TestCase):
    """
    All that one process can listen on, several can.
    """

    def test_every_kind(self) -> None:
        """
        Plain, TLS and UNIX sockets work together; HUP lets all workers serve a new
        certificate; and the UNIX socket's file outlives a worker, and not the daemon.
        """
        master = WorkersDaemon(
            *(2, *LOOPBACK, "--tls-port", "0", "--tls-cert", "{}/pem"),
            *("--listen", "unix:{}/echo.sock:mode=600"),
        )
        pem, path = master.directory / "pem", master.directory / "echo.sock"

        def renew() -> int:
            made = make_certificate(["localhost"])
            pem.write_bytes(made.cert_pem + made.key_pem)
            pem.chmod(0o600)
            return made.certificate.serial_number

        def serial() -> int:
            with master.connect("--tls-port") as sock:
                client = TLSClient(sock, context("TLS 1.3")).handshake()
                certificate = client.tls.get_peer_certificate()
                assert certificate is not None
                return certificate.get_serial_number()

        old = renew()
        with master:
            self.assertEqual(path.stat().st_mode & 0o777, 0o600)
            for option in ("--port", "--listen"):
                with master.connect(option) as client:
                    self.assertEqual(echo(client, b"x" * 100_000), b"x" * 100_000)
            self.assertEqual({serial() for _ in range(6)}, {old})
            new = renew()
            master.signal(signal.SIGHUP)
            wait_until(
                lambda: master.log.count(f"serial {serial_text(new)}") >= 2, "both to read it"
            )
            self.assertEqual({serial() for _ in range(6)}, {new})
            killed = master.signal_worker("0", signal.SIGTERM)
            master.wait_for_another("0", killed)
            with master.connect("--listen") as client:
                self.assertEqual(echo(client, b"hello"), b"hello")
            names = {name for _, name, *_ in master.records()}
            self.assertEqual(names, {master.address("--port"), f"unix:{path}:mode=600"})
            master.stop()
            self.assertFalse(path.exists())

    def test_lent_sockets(self) -> None:
        """
        Sockets that are lent to the parent are handed on, and a restart refuses no client.
        """
        lent = socket.create_server(("127.0.0.1", 0), backlog=1000)
        self.addCleanup(lent.close)
        address = f"127.0.0.1:{lent.getsockname()[1]}"
        options = ("--listen", "systemd:name=echo", "--workers", "2")
        daemon = ActivatedDaemon({"echo": [lent]}, *options)
        daemon.times = PATIENT_STOP
        with daemon:
            loop = ClientLoop(address)
            wait_until(lambda: loop.ends["ok"] > 20, "some load")
            daemon.stop()
            so_far = loop.ends["ok"]
            with ActivatedDaemon({"echo": [lent]}, *options):
                wait_until(lambda: loop.ends["ok"] > so_far + 20, "more load")
                loop.stop()
        show(f"restart with lent sockets: {loop.ends}")
        self.assertEqual(loop.ends["ConnectionRefusedError"], 0)
        self.assertEqual(set(loop.ends), {"ok"})


class LimitsTests(TestCase):
    """
    What holds for all workers together.
    """

    def test_max_connections(self) -> None:
        """
        However many come at once, there are never more than --max-connections; all places
        are taken; and a place that becomes free is taken again, at all workers.
        """
        with WorkersDaemon(3, "--max-connections", "20", *LOOPBACK) as master:
            for _ in range(2):
                before = sum(master.sockets().values())
                clients = many(master.address(), 200)
                most = 0

                def served(clients: list[socket.socket] = clients) -> int:
                    nonlocal most
                    found = 0
                    for client in clients:
                        try:
                            client.send(b"x")
                            found += client.recv(100) != b""
                        except OSError:
                            continue
                    most = max(most, found)
                    return found

                wait_until(lambda: served() == 20, "every place to be taken")
                for _ in range(10):
                    served()
                show(f"--max-connections 20, 3 workers, 200 clients: at most {most}")
                self.assertEqual(most, 20)
                for client in clients:
                    client.close()
                wait_until(lambda n=before: sum(master.sockets().values()) == n, "all to be gone")


class SeenTests(TestCase):
    """
    What can be seen of them all.
    """

    def test_log_file(self) -> None:
        """
        A log file has the records of all workers, each with its name, in whole lines, and is
        rotated by the parent alone.
        """
        options = (*LOOPBACK, "--log-format", "json")
        with WorkersDaemon(2, *options, before=("--logfile", "{}/twistd.log")) as master:
            loops = [ClientLoop(master.address()) for _ in range(2)]
            wait_until(lambda: all(each.ends["ok"] > 100 for each in loops), "some records")
            master.signal(signal.SIGUSR1)
            rotated = master.directory / "twistd.log.1"
            wait_until(rotated.exists, "the old log")
            so_far = [each.ends["ok"] for each in loops]
            wait_until(
                lambda: all(v.ends["ok"] > n + 50 for v, n in zip(loops, so_far, strict=True)),
                "more records",
            )
            for each in loops:
                each.stop()
            master.stop()
            lines = rotated.read_text().splitlines() + master.log.splitlines()
            records = [json.loads(line) for line in lines]
            access = [each for each in records if each.get("event") == "access"]
            self.assertEqual(len(access), sum(each.ends["ok"] for each in loops))
            self.assertEqual({each["worker"] for each in access}, {"0", "1"})
            self.assertEqual(master.stdout, "")

    def test_standard_output(self) -> None:
        """
        On standard output, too, every record of every worker is a line of its own.
        """
        with WorkersDaemon(2, *LOOPBACK, "--log-format", "json") as master:
            loops = [ClientLoop(master.address()) for _ in range(3)]
            wait_until(lambda: all(each.ends["ok"] > 200 for each in loops), "some records")
            for each in loops:
                each.stop()
            master.stop()
            records = [json.loads(line) for line in master.log.splitlines()]
            access = [each for each in records if each.get("event") == "access"]
            self.assertEqual(len(access), sum(each.ends["ok"] for each in loops))

    def test_admin(self) -> None:
        """
        The metrics of all workers are those of the clients, each with its worker; ready is
        who has all workers; and a counter never goes back while a worker lives.
        """
        with WorkersDaemon(2, *LOOPBACK, *ADMIN) as master:
            for _ in range(20):
                with master.connect() as client:
                    self.assertEqual(echo(client, b"hello"), b"hello")
            self.assertEqual(master.ended("client", 20), 20)
            found = samples(master)
            for name, sum_of_all in (("connections_accepted", 20), ("echoed_bytes", 100)):
                each = [found[f"echod_{name}_total", "tcp", worker] for worker in "01"]
                self.assertEqual(sum(each), sum_of_all)
                self.assertGreater(min(each), 0)
            self.assertEqual(ask(master, "/readyz"), (200, "ready\n"))
            with master.connect() as client:
                self.assertEqual(echo(client, b"hello"), b"hello")
                self.assertEqual(shown(master)["traffic"][0]["connections"], 1)
            master.signal_worker("0", signal.SIGSTOP)
            status, why = ask(master, "/readyz")
            self.assertEqual(status, 503)
            self.assertEqual(why.strip(), "worker 0: does not answer")
            now = samples(master)
            for key, value in found.items():
                if key[0].endswith(("_total", "_count", "_sum")) and "0" in key:
                    self.assertGreaterEqual(now[key], value, key)
            master.signal_worker("0", signal.SIGCONT)
            wait_until(lambda: ask(master, "/readyz")[0] == 200, "it to be ready again")

    def test_background(self) -> None:
        """
        In the background the workers are up when twistd returns, log to the daemon's file,
        and go with it.
        """
        with WorkersDaemon(2, background=True) as master:
            self.assertEqual(len(master.pids()), 2)
            with master.connect() as client:
                self.assertEqual(echo(client, b"hello"), b"hello")
            self.assertEqual(master.ended("client", 1), 1)
            master.stop()
            self.assertEqual(master.living(), [])
            self.assertEqual((master.stdout, master.stderr), ("", ""))

    def test_check(self) -> None:
        """
        --check says how many workers there would be, and starts none.
        """
        daemon = Daemon(*LOOPBACK, "--check", "--workers", "2", ready=lambda _: False)
        self.assertRaises(AssertionError, daemon.start)
        self.addCleanup(daemon.__exit__, None, None, None)
        self.assertEqual(daemon.status, 0)
        self.assertIn("with 2 workers", daemon.stdout)
        self.assertNotIn("worker 0", daemon.stdout)
