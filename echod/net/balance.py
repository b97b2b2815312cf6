"""
Accept balancing: processes that accept from the same sockets share the clients evenly.

Each process publishes how many connections it has.  One that has clearly more than the process
with the fewest stops accepting for a moment.

Invariant: a process writes only its own number, into memory that all share, and no process ever
waits for a lock.
"""

import mmap
import os
from array import array
from collections.abc import Callable

ABSENT = 2**31 - 1
"""The number of a process that does not run; larger than any other, so never the least."""

FULL = ABSENT - 1
"""
The number of a process that is at its limit of connections, which may differ from process to
process.  It cannot accept, so the others do not wait for it.
"""

SLACK = 8
SLACK_SHARE = 1.125
"""
A process yields when it has more connections than this multiple of the least number, plus
C{SLACK}.
"""

MAX_PER_TURN = 8
"""
How many clients a process may accept in one turn of the loop.  Without a bound, one process
takes a whole burst while the others are not scheduled.
"""

YIELD_DELAY = 0.02
"""Seconds for which a process that yields does not accept."""


def make_counters(count: int) -> int:
    """
    Make the shared memory (memfd_create(2)), with every process absent.

    @param count: the number of processes.
    @return: the descriptor of the memory.
    """
    descriptor = os.memfd_create("echod")
    os.write(descriptor, array("i", [ABSENT] * count).tobytes())
    return descriptor


class SharedCounters:
    """
    The numbers of all processes, in memory that they share.
    """

    def __init__(self, descriptor: int, count: int):
        """
        @param descriptor: what L{make_counters} returned; it may be closed afterwards.
        @param count: the number of processes.
        """
        numbers = array("i")
        self._numbers = memoryview(mmap.mmap(descriptor, count * numbers.itemsize)).cast("i")

    def __setitem__(self, index: int, number: int) -> None:
        self._numbers[index] = number

    def least(self) -> int:
        """
        The least of the numbers.
        """
        return min(self._numbers)

    def all_full(self) -> bool:
        """
        Whether all processes run, and each is at its limit.
        """
        return min(self._numbers) == max(self._numbers) == FULL


class AcceptBalancer:
    """
    Decides when this process accepts, and how many clients.
    """

    _left = False

    def __init__(
        self,
        counters: SharedCounters,
        index: int,
        max_connections: int,
        count: Callable[[], int],
    ):
        """
        @param index: the index of this process in C{counters}.
        @param max_connections: the limit of this process.
        @param count: returns the number of connections that this process has.
        """
        self._counters = counters
        self._index = index
        self._max_connections = max_connections
        self._count = count

    def publish(self) -> int:
        """
        Tell the other processes how many connections this one has.

        @return: that number.
        """
        number = self._count()
        if not self._left:
            self._counters[self._index] = number if number < self._max_connections else FULL
        return number

    def leave(self) -> None:
        """
        Tell the other processes that this one does not accept any more.
        """
        self._left = True
        self._counters[self._index] = ABSENT

    def allowance(self) -> int:
        """
        How many clients this process may accept in this turn of the loop.

        It is 0 if this process is full and another one is not, or does not run: that process,
        or its replacement, will accept them.  If all are full, the clients have to be accepted
        in order to be refused.
        """
        free = self._max_connections - self._count()
        if free > 0:
            return min(free, MAX_PER_TURN)
        return MAX_PER_TURN if self._counters.all_full() else 0

    def should_yield(self) -> bool:
        """
        Whether other processes should accept for a moment.
        """
        number, least = self.publish(), self._counters.least()
        return number > least * SLACK_SHARE + SLACK or not self.allowance()
