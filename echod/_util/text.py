"""
Figures in words, for people.

The rule of this room: three digits are enough to see how much it is.
"""

from collections.abc import Iterator
from datetime import UTC, datetime

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def number_text(number: float) -> str:
    """
    A number with its thousands apart; one below ten with a digit behind the point, unless it
    is whole.
    """
    if number == int(number) or number >= 10:
        return f"{round(number):,}"
    return f"{number:.1f}"


def size_text(size: float) -> str:
    """
    A number of bytes, such as C{1.5 KiB}.
    """
    unit = 0
    while size >= 1023.5 and unit < len(_UNITS) - 1:
        size, unit = size / 1024, unit + 1
    return f"{number_text(round(size, 1) if unit else round(size))} {_UNITS[unit]}"


def _parts(seconds: float) -> Iterator[tuple[int, str]]:
    rest = int(seconds)
    for length, unit in ((86400, "d"), (3600, "h"), (60, "min"), (1, "s")):
        many, rest = divmod(rest, length)
        if many:
            yield many, unit


def time_text(seconds: float) -> str:
    """
    A time by its two largest units, such as C{3 h 12 min}.
    """
    if seconds < 10:
        return f"{seconds:.1f} s"
    return " ".join(f"{many} {unit}" for many, unit in list(_parts(seconds))[:2])


def delay_text(seconds: float) -> str:
    """
    A short time, in milliseconds.
    """
    return f"{number_text(round(seconds * 1000, 1))} ms"


def date_text(moment: float) -> str:
    """
    A moment, from seconds since 1970 (RFC 3339, UTC).
    """
    return f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%dT%H:%M:%SZ}"
