"""
What C{--fault} asks for: a record for each kind of fault, and the parser of its text.

Invariant: a bad text raises C{ValueError}, which says what to give instead; a record that exists
is right.

The kinds and their words are Toxiproxy's where it has them.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from echod._util.text import escape
from echod._util.values import seconds

MIN_CORRUPT_BYTES = 64
"""
The least for C{corrupt}: with it, the bits of one read of 96 KiB are flipped in half a millisecond.
"""

MAX_BYTES = 1 << 50
"""The largest size: a PiB."""

_SIZES = {"": 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}


@dataclass(frozen=True, kw_only=True)
class Fault:
    """
    One fault of a listener.

    @cvar kind: its word in the option, the log and the metrics.
    @ivar text: the value of C{--fault}.
    @ivar chance: the share of connections that have it, from 0 to 1.
    """

    kind: ClassVar[str]

    text: str
    chance: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Latency(Fault):
    """
    Each byte comes back later.

    @ivar seconds: how much.
    @ivar jitter: by how many seconds it may be more or less than that, drawn for each read.
    """

    kind = "latency"
    seconds: float
    jitter: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Bandwidth(Fault):
    """
    No more than so many bytes come back in a second.
    """

    kind = "bandwidth"
    rate: int


@dataclass(frozen=True, kw_only=True)
class Slicer(Fault):
    """
    The echo is sent in slices.

    @ivar size: the bytes of each.
    @ivar delay: the seconds between two of them.
    """

    kind = "slicer"
    size: int
    delay: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Limit(Fault):
    """
    After exactly so many bytes, the connection is closed politely.
    """

    kind = "limit"
    size: int


@dataclass(frozen=True, kw_only=True)
class Reset(Fault):
    """
    The connection is reset.

    @ivar size: when the client has received exactly so many bytes; 0 if it depends on the time.
    @ivar seconds: when the connection is so many seconds old; 0 if it depends on the bytes.
    """

    kind = "reset"
    size: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Timeout(Fault):
    """
    The daemon takes everything and answers nothing.
    """

    kind = "timeout"


@dataclass(frozen=True, kw_only=True)
class SlowClose(Fault):
    """
    After the last byte, the daemon waits before it closes.
    """

    kind = "slow-close"
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Corrupt(Fault):
    """
    In each so many bytes, one bit is flipped.
    """

    kind = "corrupt"
    size: int


@dataclass(frozen=True, kw_only=True)
class Refuse(Fault):
    """
    The connection is accepted, and reset at once.
    """

    kind = "refuse"


def _size(text: str) -> dict[str, Any]:
    return {"size": _bytes(text)}


def _rate(text: str) -> dict[str, Any]:
    return {"rate": _bytes(text)}


def _bytes(text: str, least: int = 1) -> int:
    match = re.fullmatch(r"([0-9]{1,16})(B|KiB|MiB|GiB|TiB|)", text)
    size = int(match[1]) * _SIZES[match[2]] if match else 0
    if not least <= size <= MAX_BYTES:
        raise ValueError(
            f"'{escape(text)}' is not a size from {least} byte{'s' * (least > 1)} to 1024 TiB"
        )
    return size


def _time(text: str) -> float:
    try:
        found = seconds(text)
    except ValueError:
        found = 0.0
    if not found:
        raise ValueError(f"'{escape(text)}' is not a time from 1ms to a week")
    return found


def _size_or_time(text: str) -> dict[str, Any]:
    # A number without a unit could be either.
    if re.fullmatch(r"[0-9.]+(ms|s|m|h)", text):
        return {"seconds": _time(text)}
    if re.fullmatch("[0-9]*", text):
        raise ValueError(f"'{escape(text)}' could be bytes or seconds")
    return _size(text)


def _chance(text: str) -> float:
    match = re.fullmatch(r"([0-9]{1,3}(?:\.[0-9]{1,6})?)%", text)
    chance = float(match[1]) / 100 if match else 0.0
    if not 0 < chance <= 1:
        raise ValueError(f"'{escape(text)}' is not a chance such as 10%, up to 100%")
    return chance


@dataclass(frozen=True)
class _Grammar:
    """
    How a kind is written.

    @ivar value: makes fields of the text after the kind's C{=}; C{None} if there is none.
    @ivar more: makes the fields of the other names.
    """

    make: Callable[..., Fault]
    example: str
    value: Callable[[str], dict[str, Any]] | None = None
    more: Mapping[str, Callable[[str], float]] = field(default_factory=dict)


GRAMMAR: Mapping[str, _Grammar] = {
    "latency": _Grammar(
        Latency,
        "latency=200ms,jitter=50ms",
        lambda text: {"seconds": _time(text)},
        {"jitter": _time},
    ),
    "bandwidth": _Grammar(Bandwidth, "bandwidth=64KiB", _rate),
    "slicer": _Grammar(Slicer, "slicer=1KiB,delay=10ms", _size, {"delay": _time}),
    "limit": _Grammar(Limit, "limit=1MiB", _size),
    "reset": _Grammar(Reset, "reset=1MiB or reset=5s", _size_or_time),
    "timeout": _Grammar(Timeout, "timeout"),
    "slow-close": _Grammar(SlowClose, "slow-close=2s", lambda text: {"seconds": _time(text)}),
    "corrupt": _Grammar(
        Corrupt, "corrupt=1MiB", lambda text: {"size": _bytes(text, MIN_CORRUPT_BYTES)}
    ),
    "refuse": _Grammar(Refuse, "refuse"),
}
"""The kinds, in the order of the documentation."""


def parse_fault(text: str) -> Fault:
    """
    Parse the value of C{--fault}: C{KIND[=VALUE][,NAME=VALUE...]}.

    @raise ValueError: if it is wrong; it says what to give.
    """
    first, *others = text.split(",")
    kind, given, value = first.partition("=")
    grammar = GRAMMAR.get(kind)
    if grammar is None:
        *kinds, last = GRAMMAR
        raise ValueError(f"no such fault; give {', '.join(kinds)} or {last}")
    names = {"chance": _chance, **grammar.more}
    fields: dict[str, Any] = {"text": text}
    try:
        if grammar.value is not None:
            fields |= grammar.value(value)
        elif given:
            raise ValueError(f"{kind} takes no value")
        for other in others:
            name, _, value = other.partition("=")
            if name not in names:
                raise ValueError(f"{kind} has no '{escape(name)}', or has it already")
            fields[name] = names.pop(name)(value)
    except ValueError as error:
        raise ValueError(f"{error}; give such as {grammar.example}") from None
    return grammar.make(**fields)
