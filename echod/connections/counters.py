"""
What is remembered of connections that are gone: how many were rejected, and why, and what the
others echoed.

Invariant: memory and log lines stay bounded, however many clients come.
"""

from collections import Counter
from dataclasses import dataclass

from twisted.logger import Logger, LogLevel

from echod._util.histogram import Histogram
from echod._util.text import PeerText
from echod.connections.connection import Reason

log = Logger(namespace="echod.connections")

_LEVELS = {Reason.MAX_CONNECTIONS: LogLevel.warn}
"""What the operator may want to act upon; all else is what the gate is for."""


@dataclass(slots=True)
class _Latest:
    """
    Refusals for one reason that have not been told yet.
    """

    count: int = 0
    listener: str = ""
    peer: str = ""
    detail: str = ""


class Refusals:
    """
    The refusals of all listeners.

    @ivar counts: how many there have been, by listener and reason.
    """

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, Reason]] = Counter()
        self._untold: dict[Reason, _Latest] = {}

    def add(self, listener: str, reason: Reason, peer: str, detail: str = "") -> None:
        """
        A connection has been refused.

        @param peer: its address in words, free of control characters.
        @param detail: more in words, free of control characters too: of several
            refusals that are told in one line, the last one's is.
        """
        self.counts[listener, reason] += 1
        latest = self._untold.setdefault(reason, _Latest())
        latest.count += 1
        latest.listener, latest.peer, latest.detail = listener, peer, detail

    def log_summary(self) -> None:
        """
        Log what has not been told, a line for each reason; to be called once a second.
        """
        untold, self._untold = self._untold, {}
        for reason, latest in untold.items():
            log.emit(
                _LEVELS.get(reason, LogLevel.info),
                "refused {count}: {reason}, the last from {peer} to {listener}"
                + (", {detail}" if latest.detail else ""),
                event="refused",
                reason=reason.value,
                count=latest.count,
                peer=PeerText(latest.peer),
                listener=latest.listener,
                detail=latest.detail,
            )


LIFE_SECONDS = (0.005, 0.025, 0.1, 0.5, 1, 5, 15, 60, 300, 1800, 3600, 21600, 86400)
"""The bounds for how long connections lived: from a health check to a day."""


class ConnectionStats:
    """
    The totals of all listeners.

    @ivar ended: how many ended, by listener and reason.
    @ivar bytes_echoed: what they had echoed, by listener.
    @ivar seconds: how long they lived.
    @ivar handshakes: how many TLS handshakes there have been, by result, C{"ok"} or
        C{"failed"}, and version, C{""} when none was agreed on.
    """

    def __init__(self) -> None:
        self.ended: Counter[tuple[str, Reason]] = Counter()
        self.bytes_echoed: Counter[str] = Counter()
        self.seconds = Histogram(LIFE_SECONDS)
        self.handshakes: Counter[tuple[str, str]] = Counter()

    def add(self, listener: str, reason: Reason, bytes_echoed: int, seconds: float) -> None:
        """
        A connection has ended.
        """
        self.ended[listener, reason] += 1
        self.bytes_echoed[listener] += bytes_echoed
        self.seconds.add(seconds)

    def by_reason(self) -> Counter[Reason]:
        """
        How many ended, for all listeners together.
        """
        total: Counter[Reason] = Counter()
        for (_, reason), number in self.ended.items():
            total[reason] += number
        return total
