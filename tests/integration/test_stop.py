"""
How the daemon stops: each client gets the rest of its echo, and no client waits for long.

A wait that must not be is told from a short one by its length: what it would be for lasts
ten minutes.
"""

import os
import random
import re
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.support.clients import Clients, End, StreamClient
from tests.support.daemons import (
    LOOPBACK,
    ON_A_SOCKET,
    PATIENCE_SECONDS,
    PATIENT_STOP,
    REACTOR,
    Daemon,
    Process,
    connect,
    echo,
    receive,
    refuses,
    show,
    socket_path,
    wait_until,
)

KIB = 1024

STOPS = (signal.SIGTERM, signal.SIGINT)

DRAINED = r"drained: (\d+) connections finished, (\d+) aborted"


def begin_to_stop(daemon: Daemon, number: signal.Signals = signal.SIGTERM) -> None:
    """
    Tell it to stop, and wait until its port is closed.
    """
    address = daemon.address()
    daemon.signal(number)
    wait_until(lambda: refuses(address), "the port to be closed")


def stuck_clients(daemon: Daemon, number: int) -> Clients[StreamClient]:
    """
    Clients that have sent all that fits into the buffers on the way, and read nothing.
    """
    address = daemon.address()
    clients = [StreamClient(connect(address, 64 * KIB), reads=False) for _ in range(number)]
    group = Clients(clients)
    group.run(lambda: all(client.stuck for client in clients), "the clients to be held back")
    return group


class UnderLoadTests(SynchronousTestCase):
    """
    TERM while many clients are busy.
    """

    stops = 20
    at_a_time = 3
    clients = 50
    buffer = 32 * KIB

    def stream_client(self, address: str, turn: int) -> StreamClient:
        """
        A client with small buffers: how much of its echo is to come at its half-close shall not
        depend on how fast the machine happens to be.
        """
        client = connect(address, self.buffer)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self.buffer)
        return StreamClient(client, 997 * turn)

    def stop(self, number: int) -> tuple[int, float]:
        """
        Start a daemon and stop it at a random moment.  Half of the clients stream
        without end; the others close their sending sides around that moment.

        When those have come to their ends, TERM comes again.

        @return: how many of the latter got everything, and how long the exit took.
        """
        rng = random.Random(number)
        daemon = Daemon(*LOOPBACK, "--drain-timeout", "10m")
        daemon.times = PATIENT_STOP
        with daemon:
            address = daemon.address()
            clients = [self.stream_client(address, turn) for turn in range(self.clients)]
            start = time.monotonic()
            term = start + rng.uniform(0, 0.4)
            closes = {client: term + rng.uniform(-0.2, 0.2) for client in clients[::2]}

            def after(moment: float) -> Callable[[], bool]:
                def reached() -> bool:
                    now = time.monotonic()
                    for client, when in closes.items():
                        if now >= when and client.sending and not client.end:
                            client.close_sending()
                    return now >= moment

                return reached

            with Clients(clients) as group:
                group.run(after(term), "the moment")
                daemon.signal(signal.SIGTERM)
                told = time.monotonic()
                group.run(after(max(closes.values())), "the last half-close")
                for client in clients:
                    # Busy enough not to be quiet, and no more.
                    client.piece = KIB
                group.run(lambda: all(each.end for each in closes), "those that half-close")
                self.assertTrue(daemon.running() or group.over)
                daemon.signal(signal.SIGTERM)
                group.run(lambda: group.over, "the end of every connection")
                daemon.wait()
                took = time.monotonic() - told
            for client in clients:
                self.assertTrue(client.exact, "what came back was not what had been sent")
                self.assertLessEqual(client.received, client.sent)
            finished, aborted = map(int, re.findall(DRAINED, daemon.log)[0])
            self.assertLessEqual(finished + aborted, self.clients)
            return sum(client.whole for client in closes), took

    def test_what_came_back_is_a_prefix(self) -> None:
        """
        At 20 random moments under load, every client gets back a prefix of what it sent,
        a client that half-closes gets all, and a second TERM ends the rest.
        """
        with ThreadPoolExecutor(self.at_a_time) as pool:
            outcomes = list(pool.map(self.stop, range(self.stops)))
        whole, expected = sum(whole for whole, _ in outcomes), self.stops * self.clients // 2
        longest = max(took for _, took in outcomes)
        show(
            f"{self.stops} stops under load, {self.clients} clients each: only prefixes came "
            f"back, {whole} of {expected} that half-closed got all, longest exit {longest:.2f} s"
        )
        self.assertEqual(whole, expected)


class StopTests(SynchronousTestCase):
    """
    TERM and INT under twistd.
    """

    program = "twistd"

    def daemon(self, *options: str) -> Daemon:
        return Daemon(*LOOPBACK, *options, program=self.program)

    def test_waiting_clients_are_served(self) -> None:
        """
        Clients whom the daemon has not accepted when it is told to stop get their echo
        and an end of file, and no reset.
        """
        with self.daemon("--drain-timeout", "10m") as daemon:
            self.serves_the_queue(daemon, daemon.address())

    def test_waiting_clients_of_a_unix_socket(self) -> None:
        """
        The same on a UNIX socket, of whose queue the kernel does not tell the length.
        """
        with self.daemon(*ON_A_SOCKET, "--drain-timeout", "10m") as daemon:
            self.serves_the_queue(daemon, f"unix:{socket_path(daemon)}")

    def serves_the_queue(self, daemon: Daemon, address: str) -> None:
        """
        Stop a daemon while clients are in its accept queue.
        """
        number = 600  # more than a few turns of the loop accept
        daemon.signal(signal.SIGSTOP)
        wait_until(lambda: daemon.state("State").startswith("T"), "the daemon to halt")
        clients = []
        for turn in range(number):
            client = connect(address)
            clients.append(client)
            client.sendall(b"client %d waits" % turn)
            if turn % 2:
                client.shutdown(socket.SHUT_WR)
        daemon.signal(signal.SIGTERM)
        daemon.signal(signal.SIGCONT)
        back = []
        for client in clients:
            with client:
                back.append(receive(client, 4 * KIB))
        daemon.wait()
        served = sum(got == b"client %d waits" % turn for turn, got in enumerate(back))
        show(f"{self.program}: {served} of {number} clients in the accept queue served")
        self.assertEqual(back, [b"client %d waits" % turn for turn in range(number)])

    def test_half_closed_client_gets_everything(self) -> None:
        """
        A client that has sent all it will and begins to read after the stop has begun
        still gets all of it.
        """
        with self.daemon("--drain-timeout", "10m") as daemon, stuck_clients(daemon, 3) as group:
            for client in group.clients:
                client.close_sending()
            begin_to_stop(daemon)
            self.assertTrue(daemon.running())
            for client in group.clients:
                client.reads = True
            group.run(lambda: group.over, "the end of every connection")
            self.assertEqual([client.whole for client in group.clients], [True] * 3)
            daemon.wait()

    def test_busy_client_is_served_until_it_is_done(self) -> None:
        """
        A client that is in the middle of its work goes on after the stop has begun.
        """
        daemon = self.daemon("--drain-timeout", "10m")
        daemon.times = PATIENT_STOP
        with daemon:
            client = StreamClient(daemon.connect())
            with Clients([client]) as group:
                group.run(lambda: client.received > 0, "the first bytes")
                daemon.signal(signal.SIGTERM)
                enough = client.received + 8 * 1024 * KIB
                group.run(lambda: refuses(daemon.address()), "the port to be closed")
                group.run(lambda: client.received > enough or bool(client.end), "more bytes")
                client.close_sending()
                group.run(lambda: group.over, "the end")
            self.assertTrue(client.whole)
            daemon.wait()

    def test_quiet_clients_see_the_end_at_once(self) -> None:
        """
        Clients that send nothing see the end of file soon, however long the drain time.
        """
        with self.daemon("--drain-timeout", "10m") as daemon:
            clients = [daemon.connect() for _ in range(20)]
            for client in clients:
                self.assertEqual(echo(client, b"hello"), b"hello")
            daemon.signal(signal.SIGTERM)
            for client in clients:
                with client:
                    self.assertEqual(client.recv(1), b"")
            daemon.wait()
            self.assertIn("drained: 20 connections finished, 0 aborted", daemon.log)

    def test_short_drain_is_polite_too(self) -> None:
        """
        A client that has its echo and is silent sees the end of file, and no reset, when
        the drain time is short.
        """
        with self.daemon("--drain-timeout", "1s") as daemon:
            with daemon.connect() as client:
                self.assertEqual(echo(client, b"hello"), b"hello")
                daemon.signal(signal.SIGTERM)
                self.assertEqual(client.recv(1), b"")
            daemon.wait()

    def test_client_that_stays_is_not_waited_for(self) -> None:
        """
        A quiet client that ignores the end of file holds the exit up a few seconds only.
        """
        with self.daemon("--drain-timeout", "10m") as daemon, daemon.connect() as client:
            self.assertEqual(echo(client, b"hello"), b"hello")
            daemon.signal(signal.SIGTERM)
            self.assertEqual(client.recv(1), b"")
            daemon.wait()

    def test_stuck_clients_are_aborted_in_time(self) -> None:
        """
        Clients that take nothing are aborted when the drain time is over, and one line
        counts them and those that finished.
        """
        with self.daemon("--drain-timeout", "5s") as daemon:
            quiet = [daemon.connect() for _ in range(3)]
            for client in quiet:
                self.assertEqual(echo(client, b"hello"), b"hello")
            with stuck_clients(daemon, 2) as group:
                told = time.monotonic()
                daemon.signal(signal.SIGTERM)
                for client in quiet:
                    with client:
                        self.assertEqual(client.recv(1), b"")
                group.run(lambda: group.over, "the abort")
                daemon.wait()
                took = time.monotonic() - told
                self.assertEqual([client.end for client in group.clients], [End.RESET] * 2)
            self.assertGreater(took, 4.9)
            self.assertEqual(re.findall(DRAINED, daemon.log), [("3", "2")])
            self.assertEqual(daemon.ended("aborted", 2), 2)
            self.assertEqual(daemon.ended("drain", 3), 3)

    def second(self, first: signal.Signals, second: signal.Signals) -> None:
        with self.daemon("--drain-timeout", "10m") as daemon, stuck_clients(daemon, 2) as group:
            begin_to_stop(daemon, first)
            self.assertTrue(daemon.running())
            daemon.signal(second)
            took = daemon.wait()
            group.run(lambda: group.over, "the abort")
            self.assertEqual([client.end for client in group.clients], [End.RESET] * 2)
            show(f"{self.program}: exit {took:.2f} s after the second signal")
            # Clients that asked whether the port is closed may count here or there.
            [(_, aborted)] = re.findall(DRAINED, daemon.log)
            self.assertGreaterEqual(int(aborted), 2)

    def test_second_term_aborts(self) -> None:
        """
        A second TERM ends every connection and the daemon.
        """
        self.second(signal.SIGTERM, signal.SIGTERM)

    def test_second_int_aborts(self) -> None:
        """
        A second INT, too, ends every connection and the daemon.
        """
        self.second(signal.SIGINT, signal.SIGINT)

    def test_int_after_term_aborts(self) -> None:
        """
        So does INT after TERM.
        """
        self.second(signal.SIGTERM, signal.SIGINT)

    def test_term_after_int_aborts(self) -> None:
        """
        So does TERM after INT.
        """
        self.second(signal.SIGINT, signal.SIGTERM)

    def test_many_at_once(self) -> None:
        """
        However many stop signals come, and in whatever order, the first one says how the
        daemon ends, and there is no traceback.
        """
        stops = (signal.SIGTERM, signal.SIGINT)
        for first, second in (stops, stops[::-1]):
            with self.daemon("--drain-timeout", "10m") as daemon, stuck_clients(daemon, 2):
                begin_to_stop(daemon, first)
                for _ in range(20):
                    daemon.signal(second)
                    daemon.signal(first)
                daemon.wait()
                self.assertEqual(daemon.status, -first)

    def status(self, number: signal.Signals) -> int:
        with self.daemon("--drain-timeout", "10m") as daemon:
            with daemon.connect() as client:
                self.assertEqual(echo(client, b"hello"), b"hello")
                daemon.signal(number)
                self.assertEqual(client.recv(1), b"")
            daemon.wait()
            self.assertEqual(re.findall(DRAINED, daemon.log), [("1", "0")])
            return daemon.status

    def test_term_status(self) -> None:
        """
        After TERM and a polite stop the daemon ends by that signal, as is usual.
        """
        self.assertEqual(self.status(signal.SIGTERM), -signal.SIGTERM)

    def test_int_status(self) -> None:
        """
        INT does what TERM does, and the daemon ends by INT.
        """
        self.assertEqual(self.status(signal.SIGINT), -signal.SIGINT)

    def test_other_signals_are_survived(self) -> None:
        """
        HUP, USR1 and USR2 do not end the daemon.
        """
        with self.daemon() as daemon, daemon.connect() as client:
            for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
                self.assertEqual(echo(client, b"before"), b"before")
                daemon.signal(number)
                self.assertEqual(echo(client, b"after"), b"after")
                with daemon.connect() as another:
                    self.assertEqual(echo(another, b"as well"), b"as well")
            self.assertTrue(daemon.running())


class TwistStopTests(StopTests):
    """
    The same under twist.
    """

    program = "twist"


class PathTests(SynchronousTestCase):
    """
    What is removed at the end: what was made at the start, and nothing else.
    """

    def another_takes_over(self, *options: str, reactor: str = REACTOR) -> None:
        """
        Another daemon's sockets are renamed to the paths of the first one's, which ends.
        """
        folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, folder)
        first, other = (
            Daemon(
                *("--listen", f"unix:{folder}/{name}", "--admin", f"unix:{folder}/{name}.admin"),
                *options,
                reactor=reactor,
            )
            for name in ("s", "new")
        )
        with other:
            with first:
                for name in ("", ".admin"):
                    (folder / f"new{name}").rename(folder / f"s{name}")
                first.stop()
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(PATIENCE_SECONDS)
                client.connect(str(folder / "s"))
                self.assertEqual(echo(client, b"hello"), b"hello")
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(folder / "s.admin"))
            other.stop()
        # Those that it bound have other names now.
        self.assertEqual(sorted(os.listdir(folder)), ["s", "s.admin"])

    def test_one_process(self) -> None:
        """
        One process leaves the sockets of another alone.
        """
        self.another_takes_over()

    def test_workers(self) -> None:
        """
        So does a parent of workers.
        """
        self.another_takes_over("--workers", "2")

    def test_other_reactors(self) -> None:
        """
        And so does a daemon on a reactor of Twisted's.
        """
        self.another_takes_over(reactor="poll")

    def test_pidfile(self) -> None:
        """
        A pidfile that names another process by now is left alone, and one that is gone is
        not missed.
        """
        for taken in (True, False):
            with Daemon(*LOOPBACK, background=True) as daemon:
                self.assertEqual(daemon.pidfile.read_text(), str(daemon.pid))
                daemon.pidfile.unlink()
                if taken:
                    daemon.pidfile.write_text("1")
                daemon.stop()
                self.assertEqual(daemon.pidfile.exists(), taken)


class Starting(Daemon):
    """
    A daemon that is ready as soon as a file of its own is there: C{pid}, which twistd writes
    once the daemon has been made, C{echo}, the socket that it binds, or C{log}, if it says
    that it listens.
    """

    files = ("pid", "echo", "admin")

    def __init__(self, file: str, *options: str, background: bool = False):
        super().__init__(
            *("--listen", "unix:{}/echo", "--admin", "unix:{}/admin", *options),
            before=("--pidfile", "{}/pid", "--logfile", "{}/log"),
            background=background,
            ready=lambda daemon: daemon.has_made(file),
        )
        self._log_name = "log"

    @property
    def pidfile(self) -> Path:
        return self.directory / "pid"

    def has_made(self, file: str) -> bool:
        """
        Whether it has come so far.
        """
        return "listening on" in self.log if file == "log" else (self.directory / file).exists()

    def left(self) -> list[str]:
        """
        The files that should be gone when it is.
        """
        return [name for name in self.files if (self.directory / name).exists()]

    def _runs(self) -> bool:
        return True


class Launcher(Starting):
    """
    The process that waits until a daemon in the background has started.  It stops itself as soon
    as it has forked, until it gets SIGCONT.
    """

    stops = """
import os, signal
launcher = os.getpid()
def stop():
    if os.getpid() == launcher:
        os.kill(launcher, signal.SIGSTOP)
os.register_at_fork(after_in_parent=stop)
"""

    def start(self) -> None:
        # The interpreter runs this module when it starts.
        (self.directory / "sitecustomize.py").write_text(self.stops)
        path = os.pathsep.join(filter(None, (str(self.directory), os.environ.get("PYTHONPATH"))))
        self._command = ("env", f"PYTHONPATH={path}", *self._command)
        Process.start(self)
        wait_until(lambda: self.state("State").startswith("T"), "the launcher to fork")


class FirstMomentsTests(SynchronousTestCase):
    """
    Signals to a daemon that starts.
    """

    def test_stop(self) -> None:
        """
        From the moment on that the daemon has been made a stop signal stops it, in whatever
        order they come, and nothing is left behind.
        """
        for file in ("pid", "echo", "log"):
            for options in ((), ("--workers", "2")):
                for numbers in (STOPS[:1], STOPS[1:], STOPS * 2):
                    with Starting(file, *options) as daemon:
                        for number in numbers:
                            daemon.signal(number)
                        daemon.wait()
                        # Of several that wait, the kernel delivers the lowest first; and a
                        # start of workers that is broken off has failed.
                        expected = {-number for number in numbers} | ({1} if options else set())
                        self.assertIn(daemon.status, expected)
                        self.assertEqual(daemon.left(), [])

    def test_background(self) -> None:
        """
        In the background, too, a stop signal right after the start leaves nothing behind.
        """
        for options in ((), ("--workers", "2")):
            with Starting("pid", *options, background=True) as daemon:
                daemon.stop()
                self.assertEqual(daemon.left(), [])

    def test_launcher(self) -> None:
        """
        A stop signal to the process that waits for the start stops the daemon, also when the
        daemon runs already.
        """
        for options in ((), ("--workers", "2")):
            for file in ("pid", "log"):
                with Launcher(file, *options, background=True) as launcher:
                    wait_until(lambda d=launcher, f=file: d.has_made(f), file)
                    launcher.signal(signal.SIGTERM)
                    launcher.signal(signal.SIGCONT)
                    launcher.wait()
                    wait_until(lambda d=launcher: not d.left(), "the daemon to stop")

    def test_others(self) -> None:
        """
        HUP, USR1 and USR2 are survived as soon as it has been made, and told in the log.
        """
        for file in ("pid", "echo", "log"):
            for options in ((), ("--workers", "2")):
                with Starting(file, *options) as daemon:
                    for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
                        daemon.signal(number)
                    told = daemon.directory / "log.1"
                    wait_until(lambda d=daemon, t=told: t.exists() or not d.running(), "USR1")
                    daemon.stop()
                    self.assertEqual(daemon.left(), [])
                    self.assertIn("SIGUSR2 ignored", told.read_text() + daemon.log)
