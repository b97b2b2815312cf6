"""
The log as twistd's own options have it: opened, tried, rotated.

The rule of this room: where the log goes is twistd's to say, and what its lines look like
is ours; a log that cannot be opened ends the start with one line.
"""

import os
from collections.abc import Mapping
from typing import Any

from constantly import NamedConstant
from twisted.logger import ILogObserver, LogLevel
from twisted.python.logfile import LogFile

from echod.observers import log_name, make_observer
from echod.sockets import printable


class TwistdLog:
    """
    The daemon's log.

    @ivar file: the log file, if it goes to one.
    """

    def __init__(
        self, twistd: Mapping[str, Any] | None, format: str | None, level: NamedConstant | None
    ):
        """
        @param twistd: twistd's options; C{None} when something else logs for us.
        @param format: as L{make_observer} takes it; C{None} for text.
        @param level: the least level that is logged; C{None} for info.
        """
        self._twistd = twistd
        self._format = format or "text"
        self._level = level or LogLevel.info
        self.file: LogFile | None = None

    def open(self) -> ILogObserver | None:
        """
        Make the log observer, if twistd leaves it to us.

        @raise SystemExit: with one line, when the log file cannot be opened.
        """
        twistd = self._twistd
        if twistd is None or twistd["logger"] is not None:
            return None
        try:
            observer, self.file = make_observer(twistd, self._format, self._level)
        except OSError as error:
            raise SystemExit(
                f"twistd: --logfile '{printable(log_name(twistd))}': "
                f"{error.strerror}; give a file that can be written"
            ) from None
        return observer

    def try_open(self) -> None:
        """
        Find out whether it can be opened, and leave no file behind.

        @raise SystemExit: when it cannot.
        """
        existed = self._twistd is None or os.path.exists(log_name(self._twistd))
        self.open()
        if self.file is not None and not existed:
            os.unlink(os.path.realpath(self.file.path))
