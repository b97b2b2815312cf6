"""
Access records as lines, without an event for each.

A daemon logs little but access records.  Through C{Logger}, C{LogPublisher}, the filter and
C{eventAsText}, one costs more CPU than the connection itself.  So while the daemon's own log is
the only observer, the line is formed from the values and goes straight to the writer.

Invariant: a line is the same to the byte as the one that L{formatters} makes of the event, and an
observer that is not ours gets every event.
"""

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from constantly import NamedConstant
from twisted.logger import ILogObserver, LogLevel, LogPublisher, globalLogPublisher

from echod._util.access import AccessRecord
from echod._util.text import quoted
from echod.logs.formatters import MAX_CHARACTERS, encode_json, json_string, printable
from echod.logs.style import PLAIN, Style

NAMESPACE = "echod.connections"
"""The namespace of the logger of access records."""

LEVELS = (LogLevel.info, LogLevel.debug)
"""The levels of a record: of a connection, and of one that is only a probe."""

Put = Callable[[NamedConstant, bytes], object]
"""Queues a line of a level, as L{ThreadedWriter.put<echod.logs.writer.ThreadedWriter.put>}."""


def is_only_observer(publisher: LogPublisher, observer: ILogObserver | None) -> bool:
    """
    Whether this observer, and no other, gets the events of a publisher.

    Twisted has no public way to ask this.  C{LogPublisher._observers} is private: without it the
    answer is C{False}, and each record is emitted as an event.
    """
    observers: Sequence[object] = getattr(publisher, "_observers", ())
    return len(observers) == 1 and observers[0] is observer


class TextLines:
    """
    Access records as lines of text.
    """

    def __init__(self, worker: str | None, style: Style):
        """
        @param worker: the name of this worker; C{None} in a process that is not a worker.
        """
        prefix = "" if worker is None else f"worker {worker} "
        self._systems = [
            f"{style.priority(level)}{style.system(level, f'[{prefix}{NAMESPACE}#{level.name}]')} "
            for level in LEVELS
        ]
        self._separators = [f"\n{style.priority(level)}    " for level in LEVELS]
        self._format_time = style.time
        self._second = -1
        self._time = ""

    def line(self, nanoseconds: int, record: AccessRecord) -> str:
        """
        Form a line.

        @param nanoseconds: the time of the record, since 1970.
        """
        probe, number, listener, peer, bytes_echoed, seconds, reason, fields = record
        second = nanoseconds // 1_000_000_000
        if second != self._second:
            self._second, self._time = second, self._format_time(second)
        text = (
            f"connection {number} of {quoted(peer)} to {listener.text}: "
            f"{bytes_echoed} bytes echoed in {seconds:.3f} s, {reason.text}"
        )
        if fields:
            text += "".join([f"; {name} {quoted(value)}" for name, value in fields.items()])
        # What is quoted is printable, and the rest is ours but for the listener's name.
        if not (listener.text.isprintable() and len(text) <= MAX_CHARACTERS):
            text = printable(text, self._separators[probe])
        return f"{self._time}{self._systems[probe]}{text}\n"


class JSONLines:
    """
    Access records as lines of JSON.
    """

    def __init__(self, worker: str | None, style: Style):
        """
        @param worker: the name of this worker; C{None} in a process that is not a worker.
        """
        self._begins = [style.priority(level) + '{"timestamp": "' for level in LEVELS]
        self._systems = [
            f'", "level": "{level.name}", "logger": "{NAMESPACE}", ' for level in LEVELS
        ]
        # The names of the listeners, of which there are few, as JSON.
        self._names: dict[str, str] = {}
        self._end = "}\n" if worker is None else f', "worker": {json_string(worker)}}}\n'
        self._second = -1
        self._time = ""

    def line(self, nanoseconds: int, record: AccessRecord) -> str:
        """
        Form a line.

        @param nanoseconds: the time of the record, since 1970.
        """
        probe, number, listener, peer, bytes_echoed, seconds, reason, fields = record
        second, rest = divmod(nanoseconds, 1_000_000_000)
        if second != self._second:
            moment = datetime.fromtimestamp(second, UTC).replace(tzinfo=None)
            self._second, self._time = second, moment.isoformat(timespec="seconds")
        message = (
            f"connection {number} of {peer} to {listener.text}: "
            f"{bytes_echoed} bytes echoed in {seconds:.3f} s, {reason.text}"
        )
        if fields:
            message += "".join([f"; {name} {value}" for name, value in fields.items()])
        told, more = encode_json(message), ""
        # If nothing in the message needs an escape or a cut, nothing in its parts does.
        if len(message) + 2 == len(told) <= MAX_CHARACTERS:
            of = f'"{peer}"'
            if fields:
                more = "".join([f', "{n}": "{v}"' for n, v in fields.items()])
        else:
            told, of = json_string(message), json_string(peer)
            if fields:
                more = "".join([f', "{n}": {json_string(v)}' for n, v in fields.items()])
        name = self._names.get(listener.word) or self._name(listener.word)
        return (
            f"{self._begins[probe]}{self._time}.{rest // 1_000_000:03}Z{self._systems[probe]}"
            f'"message": {told}, "event": "access", "connection": {number}, '
            f'"listener": {name}, "peer": {of}, '
            f'"bytes": {bytes_echoed}, "seconds": {seconds!r}, "reason": "{reason.word}"'
            f"{more}{self._end}"
        )

    def _name(self, listener: str) -> str:
        self._names[listener] = name = json_string(listener)
        return name


LINES: dict[str, type[TextLines] | type[JSONLines]] = {"text": TextLines, "json": JSONLines}


class AccessLog:
    """
    Writes access records to the daemon's log.  Before L{open}, and while there is another
    observer, each record is left to be emitted as an event.
    """

    _observer: ILogObserver | None = None
    _put: Put
    _line: Callable[..., str]

    def __init__(
        self,
        format: str,
        level: NamedConstant,
        worker: str | None = None,
        publisher: LogPublisher = globalLogPublisher,
        clock: Callable[[], int] = time.time_ns,
    ):
        """
        @param format: C{"text"} or C{"json"}.
        @param level: the lowest level that is logged.
        @param worker: the name of this worker; C{None} in a process that is not a worker.
        @param publisher: where a record goes that is emitted as an event.
        @param clock: returns the nanoseconds since 1970.
        """
        self._format = format
        self._worker = worker
        self._wanted = [each >= level for each in LEVELS]
        self._publisher = publisher
        self._clock = clock

    def open(self, observer: ILogObserver, put: Put, style: Style = PLAIN) -> None:
        """
        The log has been opened.

        @param observer: what makes lines of events.
        @param put: queues a line.
        @param style: that of the lines.
        """
        self._line = LINES[self._format](self._worker, style).line
        self._observer = observer
        self._put = put

    def wants(self, probe: bool) -> bool:
        """
        Whether a record goes anywhere.
        """
        return self._wanted[probe] or not is_only_observer(self._publisher, self._observer)

    def write(self, record: AccessRecord) -> bool:
        """
        Write a record.

        @return: C{False} if the record has to be emitted as an event instead.
        """
        if not is_only_observer(self._publisher, self._observer):
            return False
        self._put(LEVELS[record[0]], self._line(self._clock(), record).encode())
        return True
