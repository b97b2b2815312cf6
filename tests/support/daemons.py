"""
Real daemons for the integration tests.  Each is a process on a free port with a temporary
directory, and ends with its C{with} block.

Invariant: every wait has a deadline, and only processes that were started here get signals.
"""

import json
import os
import re
import resource
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from echod.connections import tracker
from echod.logs import writer
from tests.support import needs, prefork
from tests.support.certificates import make_certificate
from tests.support.phrases import PHRASE, reason_of
from tests.support.prefork import Forked

T = TypeVar("T")

REACTOR = os.environ.get("ECHOD_TEST_REACTOR", "")
"""The reactor of all daemons; empty for echod's choice."""

LOOPBACK = ("--port", "0", "--interface", "127.0.0.1")
"""The options of a daemon on a free port of the loopback interface."""

ON_A_SOCKET = ("--listen", "unix:{}/echo.sock")
"""A listener whose address is known although nothing is logged."""

PATIENCE_SECONDS = 120.0
"""The deadline for what must happen, also on a busy machine."""

POLL_SECONDS = 0.005

PATIENT_LOG = {writer.__name__: {"MAX_BLOCKING_TIME": PATIENCE_SECONDS / 2}}
"""
L{Daemon.times} of a daemon that waits for its last lines when it exits, however slow the disk is.
"""

PATIENT_STOP = {**PATIENT_LOG, tracker.__name__: {"QUIET_INTERVAL": PATIENCE_SECONDS}}
"""
L{Daemon.times} of one that takes no client for quiet while it stops: on a busy machine, a client
that goes on sending may send nothing for a while.
"""

_LISTENING = re.compile(r"listening on (\S+), (--[^\n\"]+)")
TEXT_VALUE = r"""(?:[^\s"\\;=,]+|"(?:[^"\\]|\\.)*")"""
"""A value from a peer in a line of the text log: bare, or in quotes."""

_LISTENERS = (
    *("--port", "--tls-port", "--listen", "--tls-listen", "--admin"),
    *("--udp-port", "--udp-listen"),
)

# What a failure, or a log record that could not be written, looks like in the log.
_TROUBLE = re.compile(r"Traceback|Unhandled|Unable to format|Temporarily disabling observer")


def wait_until(condition: Callable[[], T], what: str, seconds: float = PATIENCE_SECONDS) -> T:
    """
    Call a condition until it is true.

    @param what: what is waited for, for the error.
    @return: its true value.
    @raise AssertionError: the deadline has passed.
    """
    deadline = time.monotonic() + seconds
    while not (answer := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds} s in vain for {what}")
        time.sleep(POLL_SECONDS)
    return answer


class Process:
    """
    A program in a temporary directory, with its output in two files there.

    @cvar stdin: its input, as in L{subprocess}.
    @ivar output: its output; C{None} for the file.
    @ivar pass_fds: the descriptors that it inherits, as in L{subprocess}.
    """

    stdin = subprocess.DEVNULL
    output: int | None = None
    pass_fds: Sequence[int] = ()

    def __init__(self, *command: str):
        self._command = command
        self._temporary = tempfile.TemporaryDirectory(prefix="echod-")
        self.directory = Path(self._temporary.name)
        # A daemon that drops root must be able to write there.
        self.directory.chmod(0o777)
        self.pid = 0
        self._pidfd = -1

    def start(self) -> None:
        """
        Start the program.  Signals go through a descriptor (pidfd_open(2)), so they cannot
        reach another process.
        """
        with (self.directory / "out").open("wb") as out, (self.directory / "err").open("wb") as err:
            output = out.fileno() if self.output is None else self.output
            self._child = self._spawn(output, err.fileno())
        self._watch(self._child.pid)

    def _spawn(self, output: int, errors: int) -> "subprocess.Popen[bytes] | Forked":
        return subprocess.Popen(
            self._command,
            cwd=self.directory,
            stdin=self.stdin,
            stdout=output,
            stderr=errors,
            pass_fds=self.pass_fds,
            env=self._environment(),
        )

    def _environment(self) -> Mapping[str, str]:
        return os.environ

    def _watch(self, pid: int) -> None:
        self.pid = pid
        self._pidfd = os.pidfd_open(pid)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException as error:
            self.__exit__(type(error), error, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if self._pidfd >= 0:
                if self.running():
                    self.signal(signal.SIGKILL)
                    self.wait("the killed process")
                os.close(self._pidfd)
                self._child.wait()
            if error is None:
                self._look_for_trouble()
            elif self._pidfd >= 0:
                print(f"the last of its log:\n{self.log[-4000:]}{self.stderr[-4000:]}")
        finally:
            self._temporary.cleanup()

    def _look_for_trouble(self) -> None:
        text = self.log + self.stderr
        if found := _TROUBLE.search(text):
            raise AssertionError(f"trouble in the log: {text[found.start() - 500 :][:4000]}")

    @property
    def stdout(self) -> str:
        return (self.directory / "out").read_text()

    @property
    def stderr(self) -> str:
        return (self.directory / "err").read_text()

    @property
    def log(self) -> str:
        """
        The log so far.
        """
        return self.stdout

    def running(self) -> bool:
        ended = select.poll()
        ended.register(self._pidfd, select.POLLIN)
        return not ended.poll(0)

    def signal(self, number: signal.Signals) -> None:
        signal.pidfd_send_signal(self._pidfd, number)

    def wait(self, what: str = "the exit", seconds: float = PATIENCE_SECONDS) -> float:
        """
        Wait until it has ended.

        @return: how many seconds that took.
        """
        start = time.monotonic()
        ended = select.poll()
        ended.register(self._pidfd, select.POLLIN)
        if not ended.poll(seconds * 1000):
            raise AssertionError(f"waited {seconds} s in vain for {what}")
        return time.monotonic() - start

    @property
    def status(self) -> int:
        """
        The exit status; a signal that ended it counts negative, as in L{subprocess}.
        """
        return self._child.wait(PATIENCE_SECONDS)

    def rss(self) -> int:
        """
        The memory that the process occupies now, in bytes (statm in proc(5)).
        """
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * resource.getpagesize()

    def cpu(self) -> float:
        """
        The CPU time, in seconds, that its first thread has used (schedstat in proc(5)).
        """
        return int(Path(f"/proc/{self.pid}/schedstat").read_text().split()[0]) / 1e9

    def descriptors(self) -> int:
        """
        How many descriptors it has open.
        """
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def state(self, field: str) -> str:
        """
        A line of C{/proc/PID/status} (proc(5)).
        """
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            name, _, value = line.partition(":")
            if name == field:
                return value.strip()
        raise AssertionError(f"no {field} in /proc/PID/status")


class Daemon(Process):
    """
    echod under C{twistd} or C{twist}.

    It is ready when the log names each listener and the reactor runs, which handles SIGCHLD
    then.  Its workers are up by then.

    As its imports take most of the time of its start, it is forked from a process that has them
    (L{tests.support.prefork}), if its command line is C{twistd -n} or C{twist}, and no other
    program runs that.

    @cvar anew: whether it is started anew all the same.
    @ivar times: constants of its modules, and of its workers', that differ in this test:
        C{{module: {constant: seconds}}}.
    """

    anew = False
    times: Mapping[str, Mapping[str, float]] = PATIENT_LOG

    def __init__(
        self,
        *options: str,
        program: str = "twistd",
        before: Sequence[str] = (),
        background: bool = False,
        reactor: str = REACTOR,
        ready: Callable[["Daemon"], bool] | None = None,
    ):
        """
        @param options: for echod.  C{{}} in one stands for the daemon's directory.
        @param program: C{"twistd"} or C{"twist"}.
        @param before: options for that program; C{{}} as above.
        @param background: whether twistd goes to the background, with C{twistd.pid} and
            C{twistd.log}.
        @param reactor: the reactor's name; empty for echod's choice.
        @param ready: what to wait for instead of the log's lines.
        """
        super().__init__()
        self._background = background
        self._log_name = "twistd.log" if background or "--logfile" in before else "out"
        command = [str(Path(sys.executable).with_name(program))]
        if reactor:
            command.append(f"--reactor={reactor}")
        if background:
            command += ["--pidfile", "{}/twistd.pid", "--logfile", "{}/twistd.log"]
        elif program == "twistd":
            command += ["-n", "--pidfile="]
        else:
            command.append("--log-format=text")
        if program == "twistd":
            command += ["--rundir", "{}"]
        command += [*before, "echod", *options]
        self._command = tuple(part.replace("{}", str(self.directory)) for part in command)
        self._ready = ready or Daemon._all_listen
        self._expected = sum(options.count(name) for name in _LISTENERS)

    def start(self) -> None:
        """
        Start it and wait until it is ready.
        """
        super().start()
        if self._background:
            launcher = self._pidfd
            self.wait("twistd to go to the background")
            os.close(launcher)
            self._pidfd = -1
            if self.status != 0:
                raise AssertionError(f"twistd ended with {self.status}: {self.stderr}")
            self._watch(int(self.pidfile.read_text()))
        wait_until(
            lambda: not self.running() or (self._runs() and self._ready(self)),
            "the daemon to be ready",
        )
        if not self.running():
            raise AssertionError(f"the daemon ended at once: {self.log}{self.stderr}")

    def _spawn(self, output: int, errors: int) -> "subprocess.Popen[bytes] | Forked":
        other = Path(self._command[0]).name not in prefork.PROGRAMS
        if self.anew or self._background or self.pass_fds or other:
            return super()._spawn(output, errors)
        with open(os.devnull, "rb") as null:
            streams = (null.fileno(), output, errors)
            environment = self._environment()
            return prefork.shared().spawn(self._command, self.directory, environment, streams)

    def _environment(self) -> Mapping[str, str]:
        environment = dict(os.environ)
        if self.times:
            # A test's own module of that name goes first.
            folders = (os.environ.get("PYTHONPATH"), str(prefork.STARTUP))
            environment["PYTHONPATH"] = os.pathsep.join(filter(None, folders))
            environment["ECHOD_TEST_TIMES"] = json.dumps(self.times)
        return environment

    def _runs(self) -> bool:
        caught = int(self.state("SigCgt"), 16)
        return all(caught >> number - 1 & 1 for number in (signal.SIGTERM, signal.SIGCHLD))

    def _all_listen(self) -> bool:
        return len(self.addresses) >= self._expected

    @property
    def pidfile(self) -> Path:
        return self.directory / "twistd.pid"

    @property
    def log(self) -> str:
        path = self.directory / self._log_name
        return path.read_text() if path.exists() else ""

    @property
    def addresses(self) -> list[tuple[str, str]]:
        """
        Each address that it listens on, and the option for it, as logged.
        """
        return _LISTENING.findall(self.log)

    def address(self, option: str = "--port") -> str:
        """
        The address of the first listener of this option.
        """
        for address, asked in self.addresses:
            if asked.startswith(option):
                return address
        raise AssertionError(f"nothing listens for {option}")

    def port(self, option: str = "--port") -> int:
        """
        The TCP port of that listener.
        """
        return int(self.address(option).rpartition(":")[2])

    def connect(self, option: str = "--port", receive_buffer: int = 0) -> socket.socket:
        """
        Connect to that listener.

        @param receive_buffer: C{SO_RCVBUF} of the new socket; 0 for the system's default.
        """
        return connect(self.address(option), receive_buffer)

    def datagrams(self) -> Counter[str]:
        """
        The totals of UDP that are logged so far: C{echoed}, C{bytes}, and the reasons of those
        that were dropped.
        """
        total: Counter[str] = Counter()
        for echoed, size, rest in re.findall(
            r": (\d+) datagrams echoed, (\d+) bytes; \d+ dropped(.*)", self.log
        ):
            total.update(echoed=int(echoed), bytes=int(size))
            for reason, number in re.findall(r", ([\w-]+) (\d+)", rest):
                total[reason] += int(number)
        return total

    def stop(self) -> float:
        """
        Send TERM, and wait until it has ended.

        @return: how many seconds that took.
        """
        self.signal(signal.SIGTERM)
        return self.wait()

    def records(self) -> list[tuple[str, str, int, float, str]]:
        """
        The access records logged so far: peer, listener, bytes, seconds and reason.
        """
        found = re.findall(
            rf"connection \d+ of ({TEXT_VALUE}) to (\S+): "
            rf"(\d+) bytes echoed in ([\d.]+) s, ({PHRASE})",
            self.log,
        )
        return [(p, where, int(n), float(s), reason_of(end)) for p, where, n, s, end in found]

    def refusals(self) -> list[tuple[int, str, str]]:
        """
        The lines about refusals logged so far: how many, the reason, and the last peer.
        """
        found = re.findall(rf"refused (\d+): ([\w-]+), the last from ({TEXT_VALUE}) to ", self.log)
        return [(int(number), reason, peer) for number, reason, peer in found]

    def refused(self) -> Counter[str]:
        """
        How many clients the log says were refused, by reason.
        """
        total: Counter[str] = Counter()
        for number, reason, _ in self.refusals():
            total[reason] += number
        return total

    def turned_away(self, expected: Mapping[str, int]) -> None:
        """
        Wait until the log says that this many clients were refused, by reason, and no more.
        """
        try:
            wait_until(lambda: self.refused().total() >= sum(expected.values()), "the refusals")
        finally:
            if self.refused() != expected:
                raise AssertionError(f"refused {dict(self.refused())}, not {dict(expected)}")

    def ended(self, reason: str, number: int) -> int:
        """
        Wait until the log has this many connections that ended for this reason.

        @return: how many it has.
        """

        def enough() -> int:
            found = sum(record[4] == reason for record in self.records())
            return found if found >= number else 0

        return wait_until(enough, f"{number} connections to end with {reason}")


class FreshDaemon(Daemon):
    """
    A daemon that is started anew, for tests of the start, of twistd, and of memory: the pages
    that a forked process shares with others are counted when it touches them.
    """

    anew = True


def tls_daemon(
    *options: str, program: str = "twistd", reactor: str = REACTOR, anew: bool = False
) -> Daemon:
    """
    A daemon with a TLS listener and a new certificate.
    """
    listener = ("--tls-port", "0", "--tls-cert", "{}/pem", "--interface", "127.0.0.1")
    kind = FreshDaemon if anew else Daemon
    daemon = kind(*listener, *options, program=program, reactor=reactor)
    made = make_certificate()
    (daemon.directory / "pem").write_bytes(made.cert_pem + made.key_pem)
    return daemon


def connect(address: str, receive_buffer: int = 0) -> socket.socket:
    """
    Connect to an address as echod logs it: C{127.0.0.1:9000}, C{[::1]:9000},
    C{unix:/run/echod.sock}.
    """
    place: str | tuple[str, int]
    if address.startswith("unix:"):
        family, place = socket.AF_UNIX, address.removeprefix("unix:")
    else:
        host, _, port = address.rpartition(":")
        family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
        place = host.strip("[]"), int(port)
    client = socket.socket(family, socket.SOCK_STREAM)
    try:
        client.settimeout(PATIENCE_SECONDS)
        if receive_buffer:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        client.connect(place)
    except BaseException:
        client.close()
        raise
    return client


def refuses(address: str) -> bool:
    """
    Whether connections to this address are refused.
    """
    try:
        connect(address).close()
    except ConnectionRefusedError:
        return True
    except ConnectionResetError:
        # The connection was made between the last accept and the close.
        return False
    return False


def socket_path(daemon: Daemon) -> Path:
    return daemon.directory / "echo.sock"


def socket_listens(daemon: Daemon) -> bool:
    """
    Whether a client can connect to it.
    """
    try:
        connect(f"unix:{socket_path(daemon)}").close()
    except (FileNotFoundError, ConnectionRefusedError):
        return False
    return True


def receive(client: socket.socket, size: int) -> bytes:
    """
    Receive this many bytes, or fewer if the stream ends before.
    """
    data = bytearray()
    while len(data) < size and (piece := client.recv(size - len(data))):
        data += piece
    return bytes(data)


def receive_rest(client: socket.socket) -> bytes:
    """
    Receive until the stream ends or the connection breaks.
    """
    data = bytearray()
    with suppress(ConnectionError):
        while piece := client.recv(65536):
            data += piece
    return bytes(data)


def server_side(client: socket.socket) -> tuple[int, int, int]:
    """
    The server's socket of a connection, from C{/proc/net/tcp} (proc(5)).

    @return: its state, and the bytes in its send and receive queues; the state is 0 if there is
        no such socket.
    """
    server_port, client_port = client.getpeername()[1], client.getsockname()[1]
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, state, queues, *_ = line.split()
        ports = [int(place.rpartition(":")[2], 16) for place in (local, remote)]
        if ports == [server_port, client_port]:
            sending, _, receiving = queues.partition(":")
            return int(state, 16), int(sending, 16), int(receiving, 16)
    return 0, 0, 0


def echo(client: socket.socket, data: bytes) -> bytes:
    """
    Send, and receive as much as was sent.
    """
    client.sendall(data)
    return receive(client, len(data))


def ping_pong(
    client: socket.socket, goes_on: Callable[[int], bool], message: bytes = bytes(64)
) -> list[float]:
    """
    Send a message and wait for its echo, repeatedly.

    @param goes_on: called with the number of echoes so far; whether to continue.
    @return: how long each took, in seconds, sorted.
    """
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    times: list[float] = []
    while goes_on(len(times)):
        start = time.perf_counter()
        if echo(client, message) != message:
            raise AssertionError("the echo is not what was sent")
        times.append(time.perf_counter() - start)
    return sorted(times)


def percentile(ordered: Sequence[float], percent: float) -> float:
    """
    A percentile of a sorted sequence.
    """
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


class Worker(threading.Thread):
    """
    A function in a thread; C{result()} waits for it, and raises its exception.
    """

    def __init__(self, function: Callable[[], object]):
        super().__init__(daemon=True)
        self._function = function
        self._answer: object = None
        self._error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self._answer = self._function()
        except BaseException as error:
            self._error = error

    def result(self, seconds: float = PATIENCE_SECONDS) -> object:
        self.join(seconds)
        if self.is_alive():
            raise AssertionError(f"waited {seconds} s in vain for a thread")
        if self._error is not None:
            raise self._error
        return self._answer


@contextmanager
def many_descriptors(number: int) -> Iterator[None]:
    """
    Let this process and its children have this many descriptors open.

    @raise SkipTest: the system does not allow that.
    """
    needs.descriptors(number)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < number:
        resource.setrlimit(resource.RLIMIT_NOFILE, (number, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def show(figures: str) -> None:
    """
    Print the figures of a test on a line of their own.
    """
    print(f"\n  {figures}")
