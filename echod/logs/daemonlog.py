"""
The daemon's log, built from twistd's own options.

Invariant: twistd's options decide where the log goes, and echod's decide the format of its lines.
A log that cannot be opened stops the start with one line.
"""

import os
import sys
from collections.abc import Mapping
from typing import Any

from constantly import NamedConstant
from twisted.logger import (
    FilteringLogObserver,
    ILogObserver,
    LogLevel,
    LogLevelFilterPredicate,
    LogPublisher,
    globalLogPublisher,
)

from echod._util.errors import StartupError
from echod._util.stdio import is_journal, print_error
from echod._util.text import escape
from echod.logs.access import AccessLog
from echod.logs.file import IDestination, LogFile, StreamDestination
from echod.logs.formatters import LINES, LineObserver, of_worker, quieted, text_line
from echod.logs.style import JOURNAL, PLAIN, terminal_style
from echod.logs.syslog import SOCKET, SyslogDestination
from echod.logs.writer import ThreadedWriter


def log_name(twistd: Mapping[str, Any]) -> str:
    """
    The log file that twistd's options name, or C{-} for standard output.
    """
    name: str = twistd["logfile"] or ("-" if twistd["nodaemon"] else "twistd.log")
    return name


ANNOUNCED = ("starting", "listening")
"""The events of which a person on a terminal is told in one line."""

WRITTEN = ("listen-failed", "workers-failed")
"""The events that are written to standard error, too."""


class LogError(StartupError):
    """
    The log cannot be opened.
    """

    program = "twistd"


class DaemonLog:
    """
    The daemon's log.

    @ivar file: the log file; C{None} when the log goes elsewhere.
    @ivar announces: whether a person reads the log on a terminal, and is told where the daemon
        listens.
    @ivar worker: the name of this worker; C{None} in a process that is not a worker.
    @ivar access: writes the access records.
    """

    file: LogFile | None = None
    announces = False
    _told: tuple[str, ...] = ()
    _style = PLAIN
    _writer: ThreadedWriter | None = None

    def __init__(
        self,
        twistd: Mapping[str, Any] | None,
        format: str | None,
        level: NamedConstant | None,
        worker: str | None = None,
        publisher: LogPublisher = globalLogPublisher,
    ):
        """
        @param twistd: twistd's options; C{None} when the process has a log already.
        @param format: C{"text"} or C{"json"}; C{None} for text.
        @param level: the lowest level that is logged; C{None} for info.
        @param worker: the name of this worker; C{None} in a process that is not a worker.
        @param publisher: where twistd adds the observer of this log.
        """
        self._twistd = twistd
        self._line = LINES[format or "text"]
        self._level = level or LogLevel.info
        self.worker = worker
        self.access = AccessLog(format or "text", self._level, worker, publisher)

    @property
    def dropped(self) -> int:
        """
        How many records were dropped because the log output was blocked.
        """
        return self._writer.dropped if self._writer else 0

    def open(self) -> ILogObserver | None:
        """
        Open the log.

        @return: its observer; C{None} when twistd's C{--logger} names another one.
        @raise LogError: when the log file cannot be opened.
        """
        twistd = self._twistd
        if twistd is None or twistd["logger"] is not None:
            return None
        try:
            destination = self._destination(twistd)
        except OSError as error:
            raise LogError(
                f"--logfile '{escape(log_name(twistd))}': "
                f"{error.strerror}; give a file that can be written"
            ) from None
        self._writer = ThreadedWriter(destination, forks=not twistd["nodaemon"])
        observer: ILogObserver = LineObserver(self._writer, self._line, self._style)
        observer = FilteringLogObserver(observer, [LogLevelFilterPredicate(self._level)])
        observer = quieted(observer, self._told)
        if self.worker is not None:
            observer = of_worker(self.worker, observer)
        self.access.open(observer, self._writer.put, self._style)
        return observer

    def announce(self, line: str) -> None:
        """
        Write a line for the person who has started the daemon on this terminal.
        """
        if self._writer is not None and self.announces:
            self._writer.put(LogLevel.info, f"{escape(line)}\n".encode())

    def write(self, line: bytes) -> bool:
        """
        Append a line that a worker has written to the log file, if there is one.

        @return: C{False} when the line was dropped.
        """
        return self.file is None or self._writer is None or self._writer.put(LogLevel.info, line)

    def _destination(self, twistd: Mapping[str, Any]) -> IDestination:
        name = log_name(twistd)
        if twistd["syslog"]:
            return self._syslog_destination(twistd["prefix"])
        if name != "-":
            self.file = LogFile(name)
            return self.file
        if not twistd["nodaemon"]:
            raise OSError(None, "a daemon in the background has no standard output")
        # sys.stdout is None if it was closed at the start; descriptor 1 is /dev/null then.
        descriptor = 1 if sys.stdout is None else sys.stdout.fileno()
        if is_journal(descriptor):
            self._style = JOURNAL
        elif os.isatty(descriptor):
            self._style = terminal_style(os.environ)
            self.announces = self._line is text_line and self.worker is None
        if self.announces:
            self._told = ANNOUNCED
            if os.isatty(2):
                # Most likely the same terminal.
                self._told += WRITTEN
        return StreamDestination(descriptor)

    def _syslog_destination(self, prefix: str) -> SyslogDestination:
        destination = SyslogDestination(prefix)
        try:
            destination.connect()
        except OSError as error:
            # Not fatal: at boot, syslogd may start later.  There is no log yet, so this goes
            # to standard error; with workers, the master alone prints it.
            if self.worker is None:
                print_error(
                    f"twistd: --syslog: no program listens on {SOCKET}: {error.strerror}; lines "
                    "wait for it, the newest are dropped; start a syslogd, or give --logfile",
                    priority=4,
                )
        return destination

    def check_open(self) -> None:
        """
        Check that the log can be opened, without leaving a new file behind.

        @raise LogError: when it cannot be opened.
        """
        existed = self._twistd is None or os.path.exists(log_name(self._twistd))
        self.open()
        if self.file is not None and not existed:
            os.unlink(self.file.path)

    def set_async(self) -> None:
        """
        The reactor runs: from now on, no caller waits for the log.
        """
        if self._writer:
            self._writer.set_async()

    def rotate(self) -> None:
        """
        Start a new log file, if the log goes to a file.
        """
        if self._writer:
            self._writer.rotate()

    def flush(self) -> None:
        """
        The reactor has stopped: write the last lines, unless the output is blocked.
        """
        if self._writer:
            self._writer.flush()
