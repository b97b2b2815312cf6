"""
The log as twistd's own options have it: opened, tried, rotated.

Invariant: where the log goes is twistd's to say, and what its lines look like
is ours; a log that cannot be opened ends the start with one line.
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
)

from echod._util.errors import StartupError
from echod._util.text import escape
from echod.logs.file import IDestination, LogFile, StreamDestination
from echod.logs.formatters import LINES, LineObserver, of_worker
from echod.logs.syslog import SOCKET, SyslogDestination
from echod.logs.writer import ThreadedWriter


def log_name(twistd: Mapping[str, Any]) -> str:
    """
    Where twistd's options have the log go: a file, or C{-} for standard output.
    """
    name: str = twistd["logfile"] or ("-" if twistd["nodaemon"] else "twistd.log")
    return name


class LogError(StartupError):
    """
    The log cannot be opened.
    """

    program = "twistd"


class DaemonLog:
    """
    The daemon's log.

    @ivar file: the log file, if it goes to one.
    @ivar worker: which worker this process is, if it is one.
    """

    file: LogFile | None = None
    _writer: ThreadedWriter | None = None

    def __init__(
        self,
        twistd: Mapping[str, Any] | None,
        format: str | None,
        level: NamedConstant | None,
        worker: str | None = None,
    ):
        """
        @param twistd: twistd's options; C{None} when something else logs for us.
        @param format: C{"text"} or C{"json"}; C{None} for text.
        @param level: the least level that is logged; C{None} for info.
        """
        self._twistd = twistd
        self._line = LINES[format or "text"]
        self._level = level or LogLevel.info
        self.worker = worker

    @property
    def dropped(self) -> int:
        """
        How many records have been dropped because the log did not take them.
        """
        return self._writer.dropped if self._writer else 0

    def open(self) -> ILogObserver | None:
        """
        Make the log observer, if twistd leaves it to us.

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
        observer: ILogObserver = LineObserver(self._writer, self._line)
        observer = FilteringLogObserver(observer, [LogLevelFilterPredicate(self._level)])
        return observer if self.worker is None else of_worker(self.worker, observer)

    def write(self, line: bytes) -> bool:
        """
        Append to the log file, if there is one, a line that a worker has written.

        @return: whether it was not dropped.
        """
        return self.file is None or self._writer is None or self._writer.put(LogLevel.info, line)

    def _destination(self, twistd: Mapping[str, Any]) -> IDestination:
        name = log_name(twistd)
        if twistd["syslog"]:
            return self._syslogger(twistd["prefix"])
        if name != "-":
            self.file = LogFile(name)
            return self.file
        if not twistd["nodaemon"]:
            raise OSError(None, "a daemon in the background has no standard output")
        # Python has none if it was closed; then its number leads nowhere.
        return StreamDestination(1 if sys.stdout is None else sys.stdout.fileno())

    def _syslogger(self, prefix: str) -> SyslogDestination:
        syslogger = SyslogDestination(prefix)
        try:
            syslogger.connect()
        except OSError as error:
            # It may come later, as at a boot.  There is no log to say so in; and of several
            # processes, one says it.
            if self.worker is None:
                print(
                    f"twistd: --syslog: nobody listens on {SOCKET}: {error.strerror}; lines wait "
                    "for it, the newest are dropped; start a syslogd, or give --logfile",
                    file=sys.__stderr__,
                )
        return syslogger

    def check_open(self) -> None:
        """
        Find out whether it can be opened, and leave no file behind.

        @raise LogError: when it cannot.
        """
        existed = self._twistd is None or os.path.exists(log_name(self._twistd))
        self.open()
        if self.file is not None and not existed:
            os.unlink(self.file.path)

    def set_async(self) -> None:
        """
        The reactor runs: from now on nobody waits for the log.
        """
        if self._writer:
            self._writer.set_async()

    def rotate(self) -> None:
        """
        Begin a new file, if it is one.
        """
        if self._writer:
            self._writer.rotate()

    def flush(self) -> None:
        """
        The reactor has stopped: let the last lines out, if the log takes them.
        """
        if self._writer:
            self._writer.flush()
