"""
How log events become lines: text for people, JSON for programs.

Invariant: one event is one line, whatever a peer put into it, and no line can
move a cursor, hide a part of itself or be broken for a parser.  (In text, a traceback takes
several lines; those after the first are indented.)
"""

import json
import math
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from twisted.logger import (
    ILogObserver,
    LogEvent,
    LogLevel,
    eventAsText,
    formatEvent,
    formatTime,
)
from zope.interface import implementer, provider

from echod._util.text import PeerText, escape
from echod.logs.writer import ThreadedWriter

Line = Callable[[LogEvent], str | None]

MAX_CHARACTERS = 12288
"""
How much of one text is logged.  What peers choose is cut where it comes from, so that the
longest access record, quoted, is not cut here: the rest of a value without its opening quote
could be taken for fields.  This is for tracebacks.
"""

MAX_INTEGER = 1 << 63
"""Integers from here on are shown as text, since few programs could read them."""

_JSON = (str, int, float, bytes, type(None))
_ENCODER = json.JSONEncoder(allow_nan=False)

# What Twisted's older logging adds to each of its events.
_LEGACY = frozenset(("message", "time", "system", "format", "isError", "failure", "why"))


def text_line(event: LogEvent) -> str | None:
    """
    An event as text for people, with an escape for every character that is not to be seen
    as itself, as L{escape} has it; C{None} when it says nothing.
    """
    text = eventAsText(event, formatTime=formatTime)
    if not text:
        return None
    if not text.isprintable() or len(text) > MAX_CHARACTERS:
        text = "\n    ".join(map(escape, _cut(text).split("\n")))
    return text + "\n"


def json_line(event: LogEvent) -> str | None:
    """
    An event as one JSON object (RFC 8259), in ASCII: C{timestamp} (RFC 3339, UTC),
    C{level}, C{logger}, C{message}, C{traceback} if there is one, and the event's own
    values.  C{None} when it says nothing.
    """
    # JSON has its own quotes.
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
        ours = not name.startswith("log_") and name not in _LEGACY
        if ours and isinstance(value, _JSON):
            record.setdefault(name, _json_value(value))
    return _ENCODER.encode(record) + "\n"


def _cut(text: str) -> str:
    """
    A text without its middle, if it is long: of a traceback, the end says most.
    """
    half = MAX_CHARACTERS // 2
    return text if len(text) <= MAX_CHARACTERS else f"{text[:half]} ... {text[-half:]}"


def _json_value(value: str | int | float | bytes | None) -> str | int | float | None:
    if isinstance(value, bytes):
        value = value.decode("utf-8", "backslashreplace")
    if isinstance(value, str):
        # Half of a surrogate pair is no character, and not every parser takes one.
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
    Puts the line of each event into a sink.
    """

    def __init__(self, writer: ThreadedWriter, line: Line):
        self._writer = writer
        self._line = line

    def __call__(self, event: LogEvent) -> None:
        if line := self._line(event):
            self._writer.put(event.get("log_level", LogLevel.info), line.encode())


def of_worker(worker: str, observer: ILogObserver) -> ILogObserver:
    """
    Let each record name the worker that it comes from.
    """

    @provider(ILogObserver)
    def observe(event: LogEvent) -> None:
        system = event.get("log_system") or f"{event['log_namespace']}#{event['log_level'].name}"
        observer(event | {"worker": worker, "log_system": f"worker {worker} {system}"})

    return observe  # type: ignore[no-any-return]  # the decorator is untyped
