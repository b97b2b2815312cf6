"""
What is remembered of connections that are gone: how they ended, what they echoed, how long
they lived; and how TLS handshakes came out.

The rule of this room: it is written to once in a connection's life, and holds a few numbers
for a listener, however many connections there have been.
"""

from collections import Counter

from echod._util.histogram import Histogram
from echod.connections.connection import Reason

LIFE_SECONDS = (0.005, 0.025, 0.1, 0.5, 1, 5, 15, 60, 300, 1800, 3600, 21600, 86400)
"""The bounds for how long connections lived: from a health check to a day."""


class Totals:
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
