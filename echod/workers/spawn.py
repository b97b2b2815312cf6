"""
What a worker is started with: its configuration, its command line and its environment.

Invariant: the configuration is one environment variable, read once and removed; the command line
is made of what was parsed, so that nothing is read in two ways.
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

FIRST_DESCRIPTOR = 3
"""Where a worker's sockets begin, after standard input, output and error."""


@dataclass(frozen=True)
class InheritedListener:
    """
    A listening socket that a worker is handed.

    @ivar name: what logs and totals call the listener.
    @ivar option: the option that asked for it.
    @ivar borrowed: whether the parent itself was lent the socket.
    """

    name: str
    option: str
    tls: bool
    borrowed: bool


@dataclass(frozen=True)
class WorkerConfig:
    """
    What one worker is told.

    @ivar worker: its name.
    @ivar shares: how many connections each worker may have at once.
    @ivar listeners: its sockets.
    @ivar first: the descriptor of the first of them; the others follow.
    """

    worker: str
    shares: Sequence[int]
    listeners: Sequence[InheritedListener]
    first: int = FIRST_DESCRIPTOR

    @property
    def place(self) -> int:
        """
        Which one it is, from 0.
        """
        return int(self.worker)

    @property
    def max_connections(self) -> int:
        """
        How many connections it may have.
        """
        return self.shares[self.place]

    @property
    def channel(self) -> int:
        """
        The descriptor of its end of the lifeline.
        """
        return self.first + len(self.listeners)

    @property
    def table(self) -> int:
        """
        The descriptor of the memory that all workers share.
        """
        return self.channel + 1

    def to_text(self) -> str:
        """
        The value of the variable.
        """
        return json.dumps(asdict(self))

    @classmethod
    def take_from(cls, environ: MutableMapping[str, str]) -> Self | None:
        """
        Take it from the environment.

        @return: C{None} in a process that is no worker.
        """
        text = environ.pop(VARIABLE, None)
        if text is None:
            return None
        fields = json.loads(text)
        fields["listeners"] = [InheritedListener(**each) for each in fields["listeners"]]
        return cls(**fields)


def shares(total: int, count: int) -> list[int]:
    """
    Divide a total into so many shares that differ by one at most.
    """
    least, over = divmod(total, count)
    return [least + (index < over) for index in range(count)]


RUN = (
    "from signal import SIG_IGN, SIGHUP, SIGINT, SIGUSR1, SIGUSR2, signal; "
    "[signal(each, SIG_IGN) for each in (SIGHUP, SIGINT, SIGUSR1, SIGUSR2)]; "
    "from twisted.scripts.twistd import run; run()"
)
"""
The program of a worker: twistd, on which signals that are harmless later are so from the
beginning.  Among them is SIGINT, which a terminal sends to the parent, too.
"""

PATHS = frozenset(("--tls-cert", "--tls-key", "--tls-client-ca", "--tls-keylog"))
"""The options whose value is a path."""

_OTHERS = frozenset(
    (
        *("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"),
        *("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC"),
    )
)
"""Variables that are for one process only, which is the parent."""


def absolute_argv(given: Sequence[str], short: str, long: Sequence[str]) -> list[str]:
    """
    The same options, each with its whole name and its path in full.

    @param short: the short options, as C{getopt} has them, and C{long} the long ones.
    """
    written = []
    for name, value in getopt.getopt(list(given), short, list(long))[0]:
        text = os.path.abspath(value) if name in PATHS else value
        separator = "=" if f"{name[2:]}=" in long else ""
        written.append(f"{name}{separator}{text}")
    return written


def twistd_options(twistd: Mapping[str, Any]) -> list[str]:
    """
    Those of twistd's options that are a worker's, too.  User, directory and file mask it
    has from its parent already, and its standard output is the parent's log.
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
    The program and its arguments.

    @param options: those of echod.
    """
    # -P: nothing is imported from the directory that it happens to run in.
    return [sys.executable, "-P", "-c", RUN, *twistd_options(twistd), "echod", *options]


def worker_environment(environ: Mapping[str, str], path: Sequence[str]) -> dict[str, str]:
    """
    The environment of a worker: its modules come from where the parent's do.

    @param path: C{sys.path}.
    """
    kept = {name: value for name, value in environ.items() if name not in _OTHERS}
    return kept | {"PYTHONPATH": os.pathsep.join(os.path.abspath(each) for each in path if each)}
