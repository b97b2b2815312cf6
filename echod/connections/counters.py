"""
Refusals: who was turned away, counted by reason, and told in a line a second at most.

The rule of this room: a refusal costs an addition.  Whoever wants to fill the log by being
refused gets one line a second for each reason, however often they come.
"""

from collections import Counter
from dataclasses import dataclass

from twisted.logger import Logger, LogLevel

from echod._util.sockets import PeerText
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

    def tell(self) -> None:
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
