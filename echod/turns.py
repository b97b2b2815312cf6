"""
Whose turn it is to accept: what several processes, which wait for the same sockets, know
of how many connections each of them has.

The rule of this room: a process writes its own number alone, into memory that all share,
and nobody waits for anybody: who is ahead steps back for a moment, and then goes on.
"""

import mmap
import os
from array import array
from collections.abc import Callable

ABSENT = 2**31 - 1
"""The number of a process that is not there; none has less to do than it."""

LEAD = 8
LEAD_SHARE = 1.125
"""
Who has more connections than so many times those of the one that has least, and so many
more, is ahead.
"""

MOST_AT_ONCE = 8
"""
How many clients may be accepted in one turn of the loop.  While one process is not
scheduled, the other would take all of a burst.
"""

STEP_BACK_SECONDS = 0.02
"""How long one that is ahead leaves it to others, should they be stuck."""


def make_table(count: int) -> int:
    """
    Make the memory for so many processes (memfd_create(2)), all of them absent.

    @return: its descriptor.
    """
    descriptor = os.memfd_create("echod")
    os.write(descriptor, array("i", [ABSENT] * count).tobytes())
    return descriptor


class Table:
    """
    The memory that the processes share.
    """

    def __init__(self, descriptor: int, count: int):
        """
        @param descriptor: as L{make_table} makes it; it may be closed afterwards.
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


class Turns:
    """
    The turns of one process.
    """

    def __init__(self, table: Table, place: int, most: int, count: Callable[[], int]):
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
        number = self._table[self._place] = self._count()
        return number

    def leave(self) -> None:
        """
        From now on none will be accepted here.
        """
        self._table[self._place] = ABSENT

    def allowance(self) -> int:
        """
        How many clients may be accepted in this turn of the loop: none, when there is no
        room here and some elsewhere.  When there is none anywhere, they have to be refused.
        """
        room = self._most - self._count()
        if room > 0:
            return min(room, MOST_AT_ONCE)
        return 0 if self._table.least() < self._most else MOST_AT_ONCE

    def is_ahead(self) -> bool:
        """
        Whether others should accept for a moment.
        """
        return self.publish() > self._table.least() * LEAD_SHARE + LEAD or not self.allowance()
