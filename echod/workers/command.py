"""
The command line of a worker: that of its parent, without what only the parent does.

The rule of this room: it is made from what was parsed, so that nothing is read in two
ways; and it names every path in full, since twistd may have changed its directory.
"""

import getopt
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from twisted.python.reflect import fullyQualifiedName

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


def rewritten(given: Sequence[str], short: str, long: Sequence[str]) -> list[str]:
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
