"""
A histogram: how many values fall between each pair of bounds.

Invariant: adding a value costs a binary search among a dozen bounds and two additions.
"""

from bisect import bisect_left
from collections.abc import Sequence


class Histogram:
    """
    Counts of values between bounds, and their sum.

    @ivar bounds: the upper bounds, ascending; a value is counted at the first bound that it
        does not exceed.
    @ivar counts: the values at each bound, and last those above all bounds.
    @ivar sum: the sum of all values.
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
