"""
A histogram: how many of the values were at most so large.

Invariant: to add a value costs a search among a dozen bounds and two additions.
"""

from bisect import bisect_left
from collections.abc import Sequence


class Histogram:
    """
    Counts of values between bounds, and their sum.

    @ivar bounds: the upper bounds, ascending; a value belongs to the first that it does
        not exceed.
    @ivar counts: how many belong to each, and one more, for those above all of them.
    """

    def __init__(self, bounds: Sequence[float]):
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def add(self, value: float) -> None:
        """
        Count a value.
        """
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value
