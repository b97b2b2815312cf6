"""
Counters of connections that have ended or were refused: how many, why, and how much they echoed.

Invariant: memory and log lines are bounded, however many clients connect.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from twisted.logger import Logger, LogLevel

from echod._util.histogram import Histogram
from echod._util.text import PeerText
from echod.connections.connection import Reason

log = Logger(namespace="echod.connections")

K = TypeVar("K")

LIFETIME_BUCKETS = (0.005, 0.025, 0.1, 0.5, 1, 5, 15, 60, 300, 1800, 3600, 21600, 86400)
"""Upper bounds of the histogram of lifetimes, in seconds: from a health check to a day."""


class Counts(dict[K, int]):
    """
    Numbers by key, 0 for a key that is missing.  To assign an item of C{collections.Counter}
    takes four times as long, since that class overrides C{__delitem__}.
    """

    def __missing__(self, key: K) -> int:
        return 0


class ConnectionStats:
    """
    Totals of all listeners: of the connections that have ended, and of TLS handshakes.

    @ivar ended: the number of connections, by listener and reason.
    @ivar bytes_echoed: the bytes that they echoed, by listener.
    @ivar seconds: the histogram of their lifetimes.
    @ivar handshakes: the number of TLS handshakes, by result, C{"ok"} or C{"failed"}, and by
        version, C{""} if none was negotiated.
    @ivar faults: the number of connections that got a fault on purpose, by listener and kind.
    """

    def __init__(self) -> None:
        self.ended: Counts[tuple[str, Reason]] = Counts()
        self.bytes_echoed: Counts[str] = Counts()
        self.seconds = Histogram(LIFETIME_BUCKETS)
        self.handshakes: Counts[tuple[str, str]] = Counts()
        self.faults: Counts[tuple[str, str]] = Counts()

    def add(self, listener: str, reason: Reason, bytes_echoed: int, seconds: float) -> None:
        """
        A connection has ended.
        """
        self.ended[listener, reason] += 1
        self.bytes_echoed[listener] += bytes_echoed
        self.seconds.add(seconds)

    def by_reason(self) -> Counter[Reason]:
        """
        The number of connections that have ended, by reason.
        """
        total: Counter[Reason] = Counter()
        for (_, reason), number in self.ended.items():
            total[reason] += number
        return total


_LEVELS = {Reason.MAX_CONNECTIONS: LogLevel.warn}
"""The level of a reason on which the operator may want to act; the others are logged as info."""


@dataclass(slots=True)
class _Unlogged:
    """
    The refusals for one reason since its last log line, and the last of them.
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

    def __init__(self, describe: Callable[[str], str] = str) -> None:
        """
        @param describe: makes what the log shows of the name of a listener.
        """
        self.counts: Counter[tuple[str, Reason]] = Counter()
        self._describe = describe
        self._unlogged: dict[Reason, _Unlogged] = {}

    def add(self, listener: str, reason: Reason, peer: str, detail: str = "") -> None:
        """
        A connection has been refused.

        @param peer: the client's address as text, free of control characters.
        @param detail: more about the reason, free of control characters.  The log line of
            several refusals has the detail of the last one.
        """
        self.counts[listener, reason] += 1
        entry = self._unlogged.setdefault(reason, _Unlogged())
        entry.count += 1
        entry.listener, entry.peer, entry.detail = listener, peer, detail

    def log_summary(self) -> None:
        """
        Log the refusals since the last call, one line for each reason; called once a second.
        """
        unlogged, self._unlogged = self._unlogged, {}
        for reason, entry in unlogged.items():
            log.emit(
                _LEVELS.get(reason, LogLevel.info),
                "refused {count}: {reason}, the last from {peer} to {listener}"
                + (", {detail}" if entry.detail else ""),
                event="refused",
                reason=reason.value,
                count=entry.count,
                peer=PeerText(entry.peer),
                listener=self._describe(entry.listener),
                detail=entry.detail,
            )
