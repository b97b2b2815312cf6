"""
What a terminal adds to the output: colors, and a plot of the latency over time.

Invariant: without a terminal the output has no escape sequence and no plot.
"""

import os
from collections.abc import Mapping
from typing import TextIO

from echod.check.report import duration

MIN_PLOT_COLUMNS = 80
"""How many columns a terminal needs for the plot."""

PLOT_COLUMNS = 60
PLOT_ROWS = 8

FIRST_WIDTH = 0.01
"""The width of a bucket at first, in seconds."""


def uses_color(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """
    Whether to color the output: on a terminal, unless C{NO_COLOR} is set (no-color.org) or the
    terminal is C{dumb}.
    """
    return stream.isatty() and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"


def columns(stream: TextIO, environ: Mapping[str, str]) -> int:
    """
    The width of the terminal; 0 if the stream is none.
    """
    if not stream.isatty():
        return 0
    if (given := environ.get("COLUMNS", "")).isdecimal():
        return int(given)
    try:
        return os.get_terminal_size(stream.fileno()).columns
    except (OSError, ValueError):
        return 0


class LatencyPlot:
    """
    Latencies over time, in L{PLOT_COLUMNS} buckets: when a run is longer than all of them, each
    becomes twice as wide.
    """

    def __init__(self) -> None:
        self._width = FIRST_WIDTH
        self._buckets: dict[int, tuple[float, float]] = {}
        self._lost: set[int] = set()

    def _bucket(self, elapsed: float) -> int:
        while elapsed >= self._width * PLOT_COLUMNS:
            self._width *= 2
            self._lost = {index // 2 for index in self._lost}
            before, self._buckets = self._buckets, {}
            for index, (low, high) in before.items():
                self._extend(index // 2, low, high)
        return int(elapsed / self._width)

    def _extend(self, index: int, low: float, high: float) -> None:
        before = self._buckets.get(index, (low, high))
        self._buckets[index] = min(low, before[0]), max(high, before[1])

    def add(self, elapsed: float, seconds: float) -> None:
        """
        A message came back.

        @param elapsed: when, in seconds since the start.
        @param seconds: how long it took.
        """
        self._extend(self._bucket(elapsed), seconds, seconds)

    def add_lost(self, elapsed: float) -> None:
        """
        A message was lost.
        """
        # Before the set is looked up: it is replaced when the buckets become wider.
        index = self._bucket(elapsed)
        self._lost.add(index)

    def lines(self) -> list[str]:
        """
        The plot; no lines if no message came back.
        """
        if not self._buckets:
            return []
        top = max(high for _, high in self._buckets.values())
        number = max(*self._buckets, *self._lost, 0) + 1
        rows = ["latency over time, from minimum to maximum; x: lost"]
        for row in range(PLOT_ROWS, 0, -1):
            lower, upper = top * (row - 1) / PLOT_ROWS, top * row / PLOT_ROWS
            label = duration(upper) if row in (PLOT_ROWS, PLOT_ROWS // 2) else ""
            bars = "".join(
                "|" if low <= upper and high > lower else " "
                for low, high in (self._buckets.get(each, (top + 1, 0)) for each in range(number))
            )
            rows.append(f"{label:>10} |{bars}".rstrip())
        axis = "".join("x" if each in self._lost else "-" for each in range(number))
        end = f"{self._width * number:.3g} s"
        rows.append(f"{'0 ms':>10} +{axis}")
        rows.append(f"{'':>11}0 s{end:>{max(len(end) + 1, number - 2)}}")
        return rows
