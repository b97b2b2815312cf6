"""
The composition root: C{makeService} prepares the process, makes typed settings of the options,
builds the parts of the daemon, and passes them to each other's constructors.

Invariant: a wrong option, file or endpoint is found here, and ends the start with one line.
Nothing here opens a socket, starts a timer or forks; the start of the service does.

Open C{build.py} next: which parts there are, and which one gets which.
"""

import gc
import os
import platform
import select
import sys
import time
from collections.abc import Sequence
from typing import Any

import twisted
from twisted.logger import Logger
from twisted.python import runtime
from twisted.python.reflect import fullyQualifiedName

from echod import __version__
from echod._util.errors import exit_on_error
from echod._util.signals import Signals, restore_interrupt
from echod._util.stdio import prepare_standard_streams, print_error
from echod._util.twistd import preflight
from echod.options import Options
from echod.service import DaemonService
from echod.systemd import InheritedSockets, NotifyConfig
from echod.tap.build import build, build_service, build_worker
from echod.tap.check import check_config
from echod.tap.cpus import usable_cpus
from echod.workers.spawn import WorkerConfig

__all__ = ["Options", "makeService"]

log = Logger(namespace="echod")


def makeService(options: Options) -> DaemonService:
    """
    Build the daemon: the entry point of twistd and twist.

    @raise SystemExit: after one line on standard error, if an option, a file or an endpoint is
        wrong.
    """
    prepare_standard_streams()
    with exit_on_error():
        return make_service(options)


def make_service(options: Options) -> DaemonService:
    """
    Prepare the process, and build the daemon for what it is to be: a worker, a check, or the daemon
    itself.

    @raise StartupError: if an option, a file or an endpoint is wrong.
    """
    if "twisted.internet.reactor" not in sys.modules and hasattr(select, "epoll"):
        # No reactor is installed: the user has not chosen one.
        from echod.net.reactor import install

        install()
    # The only place that imports the reactor; all other code gets it as an argument.
    from twisted.internet import reactor

    use_monotonic_clock(reactor)
    # What the start has made lives as long as the process.  A full collection that visits all of
    # it takes 30 ms and more, in which no client is served.
    reactor.callWhenRunning(gc.freeze)
    signals = Signals(reactor)
    if options["check"]:
        # With Python's own handler, the reactor installs its handler, and SIGINT ends the check.
        restore_interrupt()
    else:
        signals.take_over(forks=options.twistd is not None and not options.twistd["nodaemon"])
    preflight(options.twistd)
    # The master passes this to a worker; other processes have none.
    config = WorkerConfig.take_from(os.environ)
    if config is not None:
        return build_worker(reactor, options, config, signals)
    workers = worker_count(options["workers"], options["max-connections"])
    inherited = InheritedSockets.from_process(os.getpid())
    notify = NotifyConfig.from_environment(os.environ, os.getpid())
    if options["check"]:
        # This does not return.  A check does not notify the service manager.
        check_config(reactor, lambda: build_service(reactor, options, inherited, workers), workers)
    service = build(reactor, options, inherited, notify, workers, signals)
    if logs_json_by_default(options, sys.argv):
        # Only when the start has not failed.
        reactor.callWhenRunning(
            print_error,
            "echod: twist logs JSON, because its output is no terminal; "
            "for lines of text: twist --log-format text echod ...",
            priority=6,
        )
    log.info(
        "echod {version} starting, on {reactor}, Twisted {twisted}, Python {python}",
        event="starting",
        version=__version__,
        reactor=fullyQualifiedName(type(reactor)),
        twisted=twisted.__version__,
        python=platform.python_version(),
    )
    return service


def use_monotonic_clock(reactor: Any) -> None:
    """
    Let a reactor of Twisted run its timers by the monotonic clock.  By the wall clock, which can be
    set, a step of an hour fires all timeouts at once, or none of them for an hour.
    """
    if getattr(reactor, "seconds", None) is runtime.seconds and not reactor.getDelayedCalls():
        reactor.seconds = time.monotonic


def logs_json_by_default(options: Options, argv: Sequence[str]) -> bool:
    """
    Whether twist logs Twisted's JSON and has not been asked for it: it does so when its output is
    no terminal.

    @param argv: the command line of the process.
    """
    twist = options.parent if options.twistd is None else None
    # getopt(3) takes abbreviations.
    asked = any(each.startswith("--log-fo") for each in argv)
    return twist is not None and twist.get("logFormat") == "json" and not asked


def worker_count(asked: int, limit: int) -> int:
    """
    The number of processes: what is asked for; for 0, one for each CPU that this process may use,
    but not more than there may be connections.
    """
    return asked or min(usable_cpus(), limit)
