"""
The lines that wait for a log.

The rule of this room: there is a bound, and what is beyond it is counted.  What is missing is
missing in one place, and told there in one line.
"""

from collections import deque
from collections.abc import Callable
from select import PIPE_BUF

from constantly import NamedConstant
from twisted.logger import Logger

from echod.logs.destination import Record

log = Logger(namespace="echod.logs")

MOST_BYTES = 1 << 20
"""How much may wait: about five thousand access records."""


class Backlog:
    """
    Lines in the order in which they are to be written.

    @ivar dropped: how many there was no room for.
    @ivar reason: why lines wait, in words.
    """

    def __init__(self, clock: Callable[[], float]):
        """
        @param clock: tells the seconds.
        """
        self.dropped = 0
        self.reason = ""
        self._clock = clock
        self._lines: deque[Record] = deque()
        self._bytes = 0
        self._in_hand: list[Record] = []
        self._untold = 0
        self._since = 0.0

    def __len__(self) -> int:
        return len(self._lines)

    def add(self, level: NamedConstant, line: bytes) -> bool:
        """
        Add a line, or drop it.

        @return: whether it was added.
        """
        size = self._bytes + len(line)
        # Once there was no room, there is none until there is plenty.
        if self._untold or size > MOST_BYTES:
            if not self._untold:
                self._since = self._clock()
            self._untold += 1
            self.dropped += 1
            return False
        self._lines.append((level, line))
        self._bytes = size
        return True

    def batch(self) -> list[Record]:
        """
        The next lines to be written, the same ones until they are.
        """
        if not self._in_hand:
            size = 0
            for record in self._lines:
                size += len(record[1])
                # What is not longer goes into a pipe whole, whoever else writes to it
                # (pipe(7)).
                if self._in_hand and size > PIPE_BUF:
                    break
                self._in_hand.append(record)
        return self._in_hand

    def written(self) -> None:
        """
        The batch is written.
        """
        for _, line in self._in_hand:
            self._lines.popleft()
            self._bytes -= len(line)
        self._in_hand = []
        if not self._untold:
            self.reason = ""
        elif self._bytes <= MOST_BYTES // 2:
            self._tell()

    def _tell(self) -> None:
        # The line that this logs comes back here, to the place of those that are missing.
        untold, self._untold = self._untold, 0
        log.warn(
            "{count} log records dropped in {seconds:.1f} s: {reason}",
            event="log-dropped",
            count=untold,
            seconds=self._clock() - self._since,
            reason=self.reason or "the log was not taken fast enough",
            total=self.dropped,
        )
        self.reason = ""
