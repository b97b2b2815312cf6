"""
The house: C{makeService} prepares the process, reads the options once, and has built from
them the daemon, the parent of several, or one of those.

Invariant: what concerns the process as a whole is set right here, before
anything else is made: its standard streams, its reactor, its clock.
"""

import os
import select
import sys
import time
from typing import Any

from twisted.logger import Logger
from twisted.python import runtime

from echod import __version__
from echod._util.signals import Signals, restore_interrupt
from echod._util.stdio import prepare_standard_streams
from echod.assembly import build, build_worker
from echod.options import Options
from echod.rehearsal import check_config
from echod.service import EchodService
from echod.systemd import InheritedSockets, NotifyConfig
from echod.whereabouts import preflight
from echod.workers.spawn import WorkerConfig

__all__ = ["EchodService", "Options", "makeService"]

log = Logger(namespace="echod")


def worker_count(asked: int, most: int) -> int:
    """
    How many workers are meant: for 0, one for each CPU that this process may use.
    """
    return asked or min(len(os.sched_getaffinity(0)), most)


def reserve_standard_fds() -> None:
    """
    Let each standard stream be one that can be written to, or lead nowhere.
    """
    prepare_standard_streams()


def use_monotonic_clock(reactor: Any) -> None:
    """
    Let a reactor of Twisted's tell its timers the time by a clock that cannot step.  By
    the wall clock, a step of an hour fires every timeout at once, or none for an hour.
    """
    if getattr(reactor, "seconds", None) is runtime.seconds and not reactor.getDelayedCalls():
        reactor.seconds = time.monotonic


def makeService(options: Options) -> EchodService:
    """
    Build the daemon; the entry point of twistd and twist.
    """
    reserve_standard_fds()
    if "twisted.internet.reactor" not in sys.modules and hasattr(select, "epoll"):
        # Nobody has chosen one yet.
        from echod.net.reactor import install

        install()
    # The one place where the reactor is imported; all else is handed it.
    from twisted.internet import reactor

    use_monotonic_clock(reactor)
    signals = Signals(reactor)
    if options["check"]:
        # As Python has it, so that the reactor takes it, and a check ends as a whole.
        restore_interrupt()
    else:
        signals.take_over(forks=options.twistd is not None and not options.twistd["nodaemon"])
    preflight(options.twistd)
    config = WorkerConfig.take_from(os.environ)
    if config is not None:
        return build_worker(reactor, options, config, signals)
    workers = worker_count(options["workers"], options["max-connections"])
    inherited = InheritedSockets.from_process(os.getpid())
    notify = NotifyConfig.from_environment(os.environ, os.getpid())
    if options["check"]:
        # It is not the daemon, and speaks for nobody.
        check_config(reactor, lambda: build(reactor, options, inherited, workers=workers), workers)
    service = build(reactor, options, inherited, notify, workers, signals)
    log.info("echod {version} starting", event="starting", version=__version__)
    return service
