"""
Whose turn it is to accept: what several processes, which wait for the same sockets, know
of how many connections each of them has.

Invariant: a process writes its own number alone, into memory that all share,
and nobody waits for anybody: who is ahead steps back for a moment, and then goes on.
"""

import mmap
import os
from array import array
from collections.abc import Callable

ABSENT = 2**31 - 1
"""The number of a process that is not there; none has less to do than it."""

FULL = ABSENT - 1
"""
The number of a process that is at its limit, which differs from process to process.  It is
not behind anybody, since it cannot accept.
"""

SLACK = 8
SLACK_SHARE = 1.125
"""
Who has more connections than so many times those of the one that has least, and so many
more, is ahead.
"""

MAX_PER_TURN = 8
"""
How many clients may be accepted in one turn of the loop.  While one process is not
scheduled, the other would take all of a burst.
"""

YIELD_DELAY = 0.02
"""How long one that is ahead leaves it to others, should they be stuck."""


def make_counters(count: int) -> int:
    """
    Make the memory for so many processes (memfd_create(2)), all of them absent.

    @return: its descriptor.
    """
    descriptor = os.memfd_create("echod")
    os.write(descriptor, array("i", [ABSENT] * count).tobytes())
    return descriptor


class SharedCounters:
    """
    The memory that the processes share.
    """

    def __init__(self, descriptor: int, count: int):
        """
        @param descriptor: as L{make_counters} makes it; it may be closed afterwards.
        """
        numbers = array("i")
        self._numbers = memoryview(mmap.mmap(descriptor, count * numbers.itemsize)).cast("i")

    def __setitem__(self, place: int, number: int) -> None:
        self._numbers[place] = number

    def least(self) -> int:
        """
        The least number of all who are there.
        """
        return min(self._numbers)

    def all_full(self) -> bool:
        """
        Whether all processes are there, and each is at its limit.
        """
        return min(self._numbers) == max(self._numbers) == FULL


class AcceptBalancer:
    """
    The turns of one process.
    """

    _left = False

    def __init__(self, table: SharedCounters, place: int, most: int, count: Callable[[], int]):
        """
        @param place: whose number is ours.
        @param most: how many connections each may have.
        @param count: tells how many there are here.
        """
        self._table = table
        self._place = place
        self._most = most
        self._count = count

    def publish(self) -> int:
        """
        Let the others know how many there are.

        @return: how many.
        """
        number = self._count()
        if not self._left:
            self._table[self._place] = number if number < self._most else FULL
        return number

    def leave(self) -> None:
        """
        From now on none will be accepted here.
        """
        self._left = True
        self._table[self._place] = ABSENT

    def allowance(self) -> int:
        """
        How many clients may be accepted in this turn of the loop: none when this process is
        full and another is not, or is absent, since that one, or the one that replaces it,
        will accept them.  When all are full, clients have to be refused.
        """
        room = self._most - self._count()
        if room > 0:
            return min(room, MAX_PER_TURN)
        return MAX_PER_TURN if self._table.all_full() else 0

    def should_yield(self) -> bool:
        """
        Whether others should accept for a moment.
        """
        return self.publish() > self._table.least() * SLACK_SHARE + SLACK or not self.allowance()
