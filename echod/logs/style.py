"""
What stands before the message in a line: the time, the priority, the logger and the level.

Invariant: a line is the same whether it is made of an event or of an access record.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from constantly import NamedConstant
from twisted.logger import LogLevel, formatTime

PRIORITIES = {
    LogLevel.debug: 7,
    LogLevel.info: 6,
    LogLevel.warn: 4,
    LogLevel.error: 3,
    LogLevel.critical: 2,
}
"""The priorities of syslog(3), which the journal of systemd has too."""

_COLORS = {
    LogLevel.debug: "\x1b[2m",
    LogLevel.info: "\x1b[32m",
    LogLevel.warn: "\x1b[33m",
    LogLevel.error: "\x1b[31m",
    LogLevel.critical: "\x1b[1;31m",
}
_END_COLOR = "\x1b[0m"


@dataclass(frozen=True)
class Style:
    """
    How lines look.

    @ivar journal: the lines go to the journal of systemd, which has the time itself: each begins
        with its priority, such as C{<6>} (sd-daemon(3)).
    @ivar colored: levels have a color.
    """

    journal: bool = False
    colored: bool = False

    def time(self, seconds: float) -> str:
        """
        The time, with a space after it; empty for the journal.
        """
        return "" if self.journal else f"{formatTime(seconds)} "

    def priority(self, level: NamedConstant) -> str:
        """
        What the line begins with.
        """
        return f"<{PRIORITIES[level]}>" if self.journal else ""

    def system(self, level: NamedConstant, text: str) -> str:
        """
        Color the level in a text such as C{[echod.net#info]}.
        """
        word = f"#{level.name}]"
        if self.colored and text.endswith(word):
            return f"{text[: -len(word)]}#{_COLORS[level]}{level.name}{_END_COLOR}]"
        return text


PLAIN = Style()
JOURNAL = Style(journal=True)
COLORED = Style(colored=True)


def terminal_style(environ: Mapping[str, str]) -> Style:
    """
    The style for a terminal: with colors, unless C{NO_COLOR} is set (no-color.org), or the terminal
    has none.
    """
    return PLAIN if environ.get("NO_COLOR") or environ.get("TERM") == "dumb" else COLORED
