"""
Round-trip times, many of them, in little room.

The rule of this room: a time is kept to one part in a hundred, the shortest and the
longest as they were; so a run of years takes no more memory than one of a minute.
"""

import math

_STEP = math.log(1.01)
BAR_WIDTH = 40


class Latencies:
    """
    Times in seconds, counted in classes that are each 1 % wide.
    """

    def __init__(self) -> None:
        self.count = 0
        self.least = math.inf
        self.most = 0.0
        self._classes: dict[int, int] = {}

    def add(self, seconds: float) -> None:
        """
        Count one.
        """
        self.count += 1
        self.least = min(self.least, seconds)
        self.most = max(self.most, seconds)
        # A clock may be too coarse to see any time pass.
        index = math.ceil(math.log(max(seconds, 1e-9)) / _STEP)
        self._classes[index] = self._classes.get(index, 0) + 1

    def percentile(self, percent: float) -> float:
        """
        The time in seconds that so many percent of them do not exceed; it is never told
        as shorter than it was.
        """
        left = max(1, math.ceil(self.count * percent / 100))
        for index in sorted(self._classes):
            left -= self._classes[index]
            if left <= 0:
                return min(max(math.exp(index * _STEP), self.least), self.most)
        return 0.0

    def histogram(self) -> list[tuple[float, int]]:
        """
        For each power of two of a microsecond, how many were no longer than it and longer
        than the one before; from the shortest to the longest, gaps included.

        @return: pairs of a limit in seconds and a number.
        """
        octaves: dict[int, int] = {}
        for index, number in self._classes.items():
            octave = max(0, math.ceil(index * _STEP / math.log(2) + math.log2(1e6)))
            octaves[octave] = octaves.get(octave, 0) + number
        if not octaves:
            return []
        return [(2**o / 1e6, octaves.get(o, 0)) for o in range(min(octaves), max(octaves) + 1)]
