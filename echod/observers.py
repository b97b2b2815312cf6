"""
How log events become lines: text for people, JSON for programs, each filtered by level.

The rule of this room: one event is one line, whatever a peer put into it.  (In text, a
traceback takes several; the lines after the first are indented.)
"""

import json
import sys
import syslog
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from constantly import NamedConstant
from twisted.logger import (
    FileLogObserver,
    FilteringLogObserver,
    ILogObserver,
    LogEvent,
    LogLevel,
    LogLevelFilterPredicate,
    eventAsText,
    formatEvent,
    formatTime,
)
from twisted.python.logfile import LogFile
from zope.interface import implementer

Line = Callable[[LogEvent], str | None]

_ESCAPES = {
    code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"
}

# What Twisted's older logging adds to each of its events.
_LEGACY = frozenset(("message", "time", "system", "format", "isError", "failure", "why"))


def text_line(event: LogEvent) -> str | None:
    """
    An event as text for people, control characters escaped; C{None} when it says nothing.
    """
    text = eventAsText(event, formatTime=formatTime)
    if not text:
        return None
    return text.translate(_ESCAPES).replace("\n", "\n\t") + "\n"


def json_line(event: LogEvent) -> str | None:
    """
    An event as one JSON object: C{time} (RFC 3339, UTC), C{level}, C{logger},
    C{message}, C{traceback} if there is one, and the event's own values.  C{None} when
    it says nothing.
    """
    message = formatEvent(event)
    if not message and "log_failure" not in event:
        return None
    moment = datetime.fromtimestamp(event["log_time"], UTC)
    record: dict[str, Any] = {
        "time": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "level": event["log_level"].name,
        "logger": event["log_namespace"],
        "message": message,
    }
    if "log_failure" in event:
        record["traceback"] = event["log_failure"].getTraceback()
    for name, value in event.items():
        ours = not name.startswith("log_") and name not in _LEGACY
        if ours and isinstance(value, str | int | float):
            record.setdefault(name, value)
    return json.dumps(record) + "\n"


LINES: dict[str, Line] = {"text": text_line, "json": json_line}


_PRIORITIES = {
    LogLevel.debug: syslog.LOG_DEBUG,
    LogLevel.info: syslog.LOG_INFO,
    LogLevel.warn: syslog.LOG_WARNING,
    LogLevel.error: syslog.LOG_ERR,
    LogLevel.critical: syslog.LOG_CRIT,
}


@implementer(ILogObserver)
class SyslogObserver:
    """
    Sends lines to syslog(3), each with the priority of its event's level.
    """

    def __init__(self, prefix: str, line: Line):
        """
        @param prefix: the name that syslog puts before each line.
        """
        self._line = line
        syslog.openlog(prefix, syslog.LOG_PID, syslog.LOG_DAEMON)

    def __call__(self, event: LogEvent) -> None:
        for line in (self._line(event) or "").splitlines():
            syslog.syslog(_PRIORITIES[event["log_level"]], line)


def log_name(twistd: Mapping[str, Any]) -> str:
    """
    Where twistd's options have the log go: a file, or C{-} for standard output.
    """
    name: str = twistd["logfile"] or ("-" if twistd["nodaemon"] else "twistd.log")
    return name


def make_observer(
    twistd: Mapping[str, Any], format: str, level: NamedConstant
) -> tuple[ILogObserver, LogFile | None]:
    """
    Make the observer that stands in for twistd's own, with its destinations: standard
    output, C{--logfile}, C{--syslog}, or C{twistd.log} when it runs in the background.

    @param twistd: twistd's own options.
    @param format: C{"text"} or C{"json"}.
    @param level: the least level that is logged.
    @return: the observer, and the log file if it writes to one, which can be rotated.
    @raise OSError: when the log file cannot be opened.
    """
    line = LINES[format]
    name = log_name(twistd)
    file = None
    observer: ILogObserver
    if twistd["syslog"]:
        observer = SyslogObserver(twistd["prefix"], line)
    elif name == "-" and not twistd["nodaemon"]:
        raise OSError(None, "a daemon in the background has no standard output")
    elif name == "-":
        observer = FileLogObserver(sys.stdout, line)
    else:
        file = LogFile.fromFullPath(name)
        observer = FileLogObserver(file, line)
    return FilteringLogObserver(observer, [LogLevelFilterPredicate(level)]), file
