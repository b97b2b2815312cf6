"""
Formatters: a log event becomes a line of text for people, or of JSON for programs.

Invariant: one event is one line, whatever a peer put into it.  No line can move a terminal's
cursor, hide a part of itself or confuse a parser.  (In text, a traceback takes several lines;
those after the first are indented.)
"""

import json
import math
from collections.abc import Callable, Container
from datetime import UTC, datetime
from typing import Any

from twisted.logger import ILogObserver, LogEvent, LogLevel, eventAsText, formatEvent
from zope.interface import implementer, provider

from echod._util.text import PeerText, escape
from echod.logs.style import PLAIN, Style
from echod.logs.writer import ThreadedWriter

Line = Callable[[LogEvent, Style], str | None]

MAX_CHARACTERS = 12288
"""
The length at which a text is cut; only tracebacks are this long.  Values that peers choose are
cut where they are received, so that the longest access record, quoted, is shorter: a value that
lost its opening quote here could be read as other fields.
"""

MAX_INTEGER = 1 << 63
"""Integers from here on are written as hexadecimal text: many JSON parsers hold 64 bits."""

_JSON_TYPES = (str, int, float, bytes, type(None))
encode_json = json.JSONEncoder(allow_nan=False).encode

# The keys that Twisted's older twisted.python.log adds to each event.
_LEGACY = frozenset(("message", "time", "system", "format", "isError", "failure", "why"))


def text_line(event: LogEvent, style: Style = PLAIN) -> str | None:
    """
    An event as text.  Characters that are not visible as themselves are escaped, as by
    L{escape}.

    @return: the line; C{None} for an event without text.
    """
    text = eventAsText(event, includeTimestamp=False, includeSystem=False)
    if not text:
        return None
    level = event.get("log_level", LogLevel.info)
    system = style.system(level, f"[{printable(system_of(event))}]")
    priority = style.priority(level)
    # Each line of a traceback is an entry of its own in the journal.
    message = printable(text, f"\n{priority}    ")
    return f"{style.time(event.get('log_time', 0.0))}{priority}{system} {message}\n"


def system_of(event: LogEvent) -> str:
    """
    What an event comes from, as Twisted's C{eventAsText} has it: C{echod.net#info}.
    """
    system = event.get("log_system")
    if system is not None:
        return str(system)
    level = event.get("log_level")
    return f"{event.get('log_namespace', '-')}#{'-' if level is None else level.name}"


def printable(text: str, separator: str = "\n    ") -> str:
    """
    A text for people, without what could move a terminal's cursor, and not too long.

    @param separator: what separates its lines.
    """
    if text.isprintable() and len(text) <= MAX_CHARACTERS:
        return text
    return separator.join(map(escape, _cut(text).split("\n")))


def json_line(event: LogEvent, style: Style = PLAIN) -> str | None:
    """
    An event as one JSON object (RFC 8259), in ASCII: C{timestamp} (RFC 3339, UTC),
    C{level}, C{logger}, C{message}, C{traceback} if there is one, and the event's own
    values.

    @return: the line; C{None} for an event without text.
    """
    # In JSON, the quotes that PeerText adds for text are not needed.
    plain = {name: str(value) for name, value in event.items() if isinstance(value, PeerText)}
    message = formatEvent({**event, **plain} if plain else event)
    if not message and "log_failure" not in event:
        return None
    moment = datetime.fromtimestamp(event["log_time"], UTC)
    record: dict[str, Any] = {
        "timestamp": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "level": event["log_level"].name,
        "logger": event["log_namespace"],
        "message": _json_value(message),
    }
    if "log_failure" in event:
        record["traceback"] = _json_value(event["log_failure"].getTraceback())
    for name, value in event.items():
        added = name.startswith("log_") or name in _LEGACY
        if not added and isinstance(value, _JSON_TYPES):
            record.setdefault(name, _json_value(value))
    return f"{style.priority(event['log_level'])}{encode_json(record)}\n"


def _cut(text: str) -> str:
    """
    Cut the middle out of a long text: the end of a traceback says most.
    """
    half = MAX_CHARACTERS // 2
    return text if len(text) <= MAX_CHARACTERS else f"{text[:half]} ... {text[-half:]}"


def json_string(text: str) -> str:
    """
    A text as a JSON string, with its quotes.
    """
    return encode_json(_json_value(text))


def _json_value(value: str | int | float | bytes | None) -> str | int | float | None:
    if isinstance(value, bytes):
        value = value.decode("utf-8", "backslashreplace")
    if isinstance(value, str):
        # Some parsers reject half of a surrogate pair.
        short = _cut(value)
        return short if short.isascii() else short.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, int) and abs(value) >= MAX_INTEGER:
        return _cut(hex(value))
    return value


LINES: dict[str, Line] = {"text": text_line, "json": json_line}


@implementer(ILogObserver)
class LineObserver:
    """
    The log observer: passes the line of each event to the writer.
    """

    def __init__(self, writer: ThreadedWriter, line: Line, style: Style = PLAIN):
        self._writer = writer
        self._line = line
        self._style = style

    def __call__(self, event: LogEvent) -> None:
        if line := self._line(event, self._style):
            self._writer.put(event.get("log_level", LogLevel.info), line.encode())


def of_worker(worker: str, observer: ILogObserver) -> ILogObserver:
    """
    Add the name of the worker to each event.
    """

    @provider(ILogObserver)
    def observe(event: LogEvent) -> None:
        system = event.get("log_system") or f"{event['log_namespace']}#{event['log_level'].name}"
        observer(event | {"worker": worker, "log_system": f"worker {worker} {system}"})

    return observe  # type: ignore[no-any-return]  # the decorator is untyped


def quieted(observer: ILogObserver, told: Container[object] = ()) -> ILogObserver:
    """
    Give what Twisted says of its own parts (C{Factory starting}, C{Port Closed}) the level debug:
    echod's own events say the same.  The signal that ends the daemon stays, and so does the reason
    for which twistd gives up.

    @param told: events that the reader of the log sees in another way; they are debug, too.
    """

    @provider(ILogObserver)
    def observe(event: LogEvent) -> None:
        if event.get("event") in told or (
            event.get("log_level") is LogLevel.info and _is_routine(event)
        ):
            event = event | {"log_level": LogLevel.debug}
        observer(event)

    return observe  # type: ignore[no-any-return]  # the decorator is untyped


def _is_routine(event: LogEvent) -> bool:
    namespace = event.get("log_namespace", "")
    if namespace != "log_legacy" and not namespace.startswith("twisted."):
        return False
    return not formatEvent(event).startswith(("Received SIG", "failed to set "))
