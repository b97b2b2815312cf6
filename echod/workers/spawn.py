"""
What a worker is started with: its configuration, command line and environment.

Invariant: the configuration is one environment variable, which the worker reads once and removes.
The command line has the options as the master has parsed them, so that a worker parses them in
the same way.
"""

import getopt
import json
import os
import sys
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from twisted.python.reflect import fullyQualifiedName

VARIABLE = "ECHOD_WORKER"
"""The environment variable with the configuration."""

FIRST_DESCRIPTOR = 3
"""The first socket of a worker, after standard input, output and error."""

WORKER_PROGRAM = (
    "from signal import SIG_IGN, SIGHUP, SIGINT, SIGUSR1, SIGUSR2, signal; "
    "[signal(each, SIG_IGN) for each in (SIGHUP, SIGINT, SIGUSR1, SIGUSR2)]; "
    "from twisted.scripts.twistd import run; run()"
)
"""
The Python program of a worker: twistd, after signals are ignored that would end the process until
twistd handles them.  A terminal sends SIGINT to the worker as well as to the master.
"""

PATH_OPTIONS = frozenset(("--tls-cert", "--tls-key", "--tls-client-ca", "--tls-keylog"))
"""The options whose value is a path."""

_MASTER_VARIABLES = frozenset(
    (
        *("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"),
        *("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC"),
    )
)
"""systemd's variables, which are for the master only (sd_listen_fds(3), sd_notify(3))."""


@dataclass(frozen=True)
class InheritedListener:
    """
    A socket that a worker inherits from the master.

    @ivar name: the name of the listener in logs and figures.
    @ivar option: the option that asked for it.
    @ivar tls: whether it is for TLS.
    @ivar borrowed: whether the master itself inherited the socket, as from systemd.
    @ivar datagrams: whether it is for UDP.
    @ivar place: the place of its settings among those of all listeners, from 0.
    """

    name: str
    option: str
    tls: bool
    borrowed: bool
    datagrams: bool = False
    place: int = 0


@dataclass(frozen=True)
class WorkerConfig:
    """
    The configuration of one worker.

    @ivar worker: its name, a number from 0 on.
    @ivar shares: the limit on connections of each worker.
    @ivar listeners: its listeners.
    @ivar first: the descriptor of the first listener; the others follow.
    @ivar self_signed: whether it inherits the key pair that the master has made.
    """

    worker: str
    shares: Sequence[int]
    listeners: Sequence[InheritedListener]
    first: int = FIRST_DESCRIPTOR
    self_signed: bool = False

    @property
    def index(self) -> int:
        """
        The index of this worker.
        """
        return int(self.worker)

    @property
    def max_connections(self) -> int:
        """
        The limit on connections of this worker.
        """
        return self.shares[self.index]

    @property
    def channel(self) -> int:
        """
        The descriptor of its end of the channel.
        """
        return self.first + len(self.listeners)

    @property
    def counters(self) -> int:
        """
        The descriptor of the memory with the counters that all workers share.
        """
        return self.channel + 1

    def key_pair(self) -> bytes | None:
        """
        Take the key pair that the master has made, as PEM, out of the memory that it has passed
        on, and close the descriptor; C{None} without one.
        """
        if not self.self_signed:
            return None
        with open(self.counters + 1, "rb") as memory:
            # All workers share the offset of the descriptor.
            return os.pread(memory.fileno(), os.fstat(memory.fileno()).st_size, 0)

    def to_text(self) -> str:
        """
        The value of the environment variable.
        """
        return json.dumps(asdict(self))

    @classmethod
    def take_from(cls, environ: MutableMapping[str, str]) -> Self | None:
        """
        Read the configuration from the environment, and remove it there.

        @return: C{None} in a process that is not a worker.
        """
        text = environ.pop(VARIABLE, None)
        if text is None:
            return None
        fields = json.loads(text)
        fields["listeners"] = [InheritedListener(**each) for each in fields["listeners"]]
        return cls(**fields)


def shares(total: int, count: int) -> list[int]:
    """
    Divide a total into shares that differ by one at most.
    """
    smallest, rest = divmod(total, count)
    return [smallest + (index < rest) for index in range(count)]


def absolute_argv(given: Sequence[str], short: str, long: Sequence[str]) -> list[str]:
    """
    The options of a command line with full names and absolute paths.

    @param short: the short options, as C{getopt} takes them.
    @param long: the long options, as C{getopt} takes them.
    """
    argv = []
    for name, value in getopt.getopt(list(given), short, list(long))[0]:
        text = os.path.abspath(value) if name in PATH_OPTIONS else value
        separator = "=" if f"{name[2:]}=" in long else ""
        argv.append(f"{name}{separator}{text}")
    return argv


def twistd_options(twistd: Mapping[str, Any]) -> list[str]:
    """
    The twistd options of a worker.  It inherits the user, directory and file mask of the master,
    and the master writes its standard output to the log.
    """
    options = ["--nodaemon", "--pidfile="]
    if twistd.get("syslog"):
        options += ["--syslog", f"--prefix={twistd['prefix']}"]
    if logger := twistd.get("logger"):
        options.append(f"--logger={fullyQualifiedName(logger)}")
    if reactor := twistd.get("reactor"):
        options.append(f"--reactor={reactor}")
    return options


def worker_command(twistd: Mapping[str, Any], options: Sequence[str]) -> list[str]:
    """
    The command line of a worker.

    @param options: the options of echod.
    """
    # -P: do not import modules from the current directory.
    program = [sys.executable, "-P", "-c", WORKER_PROGRAM]
    return [*program, *twistd_options(twistd), "echod", *options]


def worker_environment(environ: Mapping[str, str], path: Sequence[str]) -> dict[str, str]:
    """
    The environment of a worker, which imports its modules from the paths of the master.

    @param environ: the environment of the master.
    @param path: C{sys.path}.
    """
    kept = {name: value for name, value in environ.items() if name not in _MASTER_VARIABLES}
    return kept | {"PYTHONPATH": os.pathsep.join(os.path.abspath(each) for each in path if each)}
