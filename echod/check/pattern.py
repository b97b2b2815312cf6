"""
What is sent, and what came back held against it.

The rule of this room: a stream of any length costs the memory of one block, for both its
making and its comparing.
"""

import os
from dataclasses import dataclass

from echod.check.results import Failed, Outcome

PERIOD = 1_048_573
"""
The longest block.  The number is prime, so no lost run of whole pieces, pages or buffers
falls in step with the repetition and goes unseen.
"""

WINDOW = 64
"""How many bytes behind a difference are looked at to tell what it is."""

HEAD = 16
"""How many bytes are looked for elsewhere.  Behind them there may be the next difference."""

SURE = 8
"""So many random bytes stand in one place only; fewer may be there by accident."""

SEARCH = 1_048_576
"""How far away the place is looked for at which the stream goes on."""


@dataclass(frozen=True)
class Pattern:
    """
    An endless stream: a block, over and over.

    @ivar start: where in the block this stream begins.  Streams with a place of their own
        show an echo that went to the wrong client.
    """

    block: bytes
    start: int = 0

    @classmethod
    def random(cls, size: int) -> "Pattern":
        """
        A stream of random bytes, for messages of this size.
        """
        return cls(os.urandom(max(1, min(size, PERIOD))))

    def at(self, offset: int, size: int) -> bytes:
        """
        A part of the stream.
        """
        block = self.block
        offset = (self.start + offset) % len(block)
        if offset + size > len(block):
            block *= (offset + size) // len(block) + 1
        return block[offset : offset + size]


class Comparison:
    """
    A stream as it was to come back, and as it did.

    @ivar size: how long the stream is.
    @ivar received: how many bytes have come.
    @ivar exact: how many of them, from the start on, were the right ones.
    """

    def __init__(self, pattern: Pattern, size: int):
        self.size = size
        self.received = 0
        self.exact = 0
        self._pattern = pattern
        self._differs = b""

    def feed(self, piece: bytes) -> None:
        """
        Compare what has come next.
        """
        self.received += len(piece)
        if not self._differs:
            due = min(len(piece), self.size - self.exact)
            expected = self._pattern.at(self.exact, due)
            if piece[:due] == expected:
                self.exact += due
            else:
                due = _common(piece, expected)
                self.exact += due
            piece = piece[due:]
        self._differs += piece[: WINDOW - len(self._differs)]

    @property
    def complete(self) -> bool:
        """
        Whether all has come back as it was.
        """
        return self.exact == self.size

    @property
    def differs(self) -> bool:
        """
        Whether something came that was not due.
        """
        return bool(self._differs)

    @property
    def decided(self) -> bool:
        """
        Whether enough is known of a difference to name it.
        """
        return len(self._differs) == WINDOW

    @property
    def lost(self) -> int:
        """
        How many bytes have not come back as they were.  Behind a difference nothing
        counts that merely has the right length.
        """
        return self.size - (self.exact if self._differs else min(self.received, self.size))

    def difference(self) -> Failed:
        """
        What the difference is.  One byte less shifts all that follows: so the place is
        looked for at which the stream goes on.
        """
        window, at, pattern = self._differs, self.exact, self._pattern
        if at >= self.size:
            more = self.received - self.size
            return Failed(Outcome.SURPLUS, f"{more} more than the {self.size} bytes sent")
        missing = self.size - self.received
        head = window[:HEAD]
        sure = len(head) >= SURE
        if sure:
            ahead = pattern.at(at + 1, min(SEARCH + len(head), self.size - at - 1))
            behind = min(at, SEARCH)
            shift = ahead.find(head) + 1
            again = pattern.at(at - behind, behind + len(head) - 1).rfind(head)
        else:
            to_the_end = missing > 0 and pattern.at(at + missing, len(window)) == window
            shift, again = missing if to_the_end else 0, -1
        if shift:
            return Failed(Outcome.LOST, f"{_bytes(shift)} at offset {at} of {self.size}")
        if again >= 0:
            text = f"{_bytes(behind - again)} came back twice, from offset {at}"
            return Failed(Outcome.SURPLUS, text)
        for more in range(1, len(window)):
            goes_on = window[more : more + HEAD]
            enough = len(goes_on) >= SURE or more == -missing
            if enough and goes_on == pattern.at(at, len(goes_on)):
                return Failed(Outcome.SURPLUS, f"{_bytes(more)} at offset {at} never sent")
        sent, got = pattern.at(at, 1)[0], window[0]
        text = f"offset {at} of {self.size}: sent 0x{sent:02x}, got 0x{got:02x}"
        return Failed(Outcome.CORRUPTED, text)

    def progress(self) -> str:
        """
        How far it has come, in words.
        """
        return f"{self.received} of {_bytes(self.size)} came back"


def _common(one: bytes, other: bytes) -> int:
    """
    How long the two are the same, from their start on.
    """
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[:middle] == other[:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _bytes(number: int) -> str:
    return f"{number} byte{'s' * (number != 1)}"
