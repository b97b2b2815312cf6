"""
Tests for what a terminal adds.
"""

import io
import os
import pty

from twisted.trial.unittest import SynchronousTestCase

from echod.check.terminal import FIRST_WIDTH, PLOT_COLUMNS, LatencyPlot, columns, uses_color
from tests.support import needs


class Terminal(io.StringIO):
    """
    A terminal without a size.
    """

    def isatty(self):
        return True


class StreamTests(SynchronousTestCase):
    """
    Tests for L{uses_color} and L{columns}.
    """

    def test_color(self):
        """
        A terminal has colors, unless C{NO_COLOR} is set to anything or the terminal is dumb.
        """
        for kind, environ, colors in (
            (Terminal, {}, True),
            (Terminal, {"NO_COLOR": "", "TERM": "xterm"}, True),
            (Terminal, {"NO_COLOR": "0"}, False),
            (Terminal, {"TERM": "dumb"}, False),
            (io.StringIO, {}, False),
        ):
            self.assertIs(uses_color(kind(), environ), colors)

    def test_columns(self):
        """
        The width is that of C{COLUMNS}, else of the terminal; without a terminal it is 0.
        """
        self.assertEqual(columns(Terminal(), {"COLUMNS": "100"}), 100)
        self.assertEqual(columns(Terminal(), {"COLUMNS": "wide"}), 0)
        self.assertEqual(columns(io.StringIO(), {"COLUMNS": "100"}), 0)

    def test_columns_of_a_terminal(self):
        """
        A terminal that has a width has that one.
        """
        needs.terminal()
        descriptors = pty.openpty()
        with os.fdopen(descriptors[0], "rb"), os.fdopen(descriptors[1], "w") as stream:
            self.assertEqual(columns(stream, {}), os.get_terminal_size(stream.fileno()).columns)


class LatencyPlotTests(SynchronousTestCase):
    """
    Tests for L{LatencyPlot}.
    """

    def test_lines(self):
        """
        A column for each bucket reaches from the minimum to the maximum; a lost message marks
        the axis.
        """
        plot = LatencyPlot()
        for elapsed, seconds in ((0.001, 0.001), (0.002, 0.008), (0.011, 0.004), (0.032, 0.001)):
            plot.add(elapsed, seconds)
        plot.add_lost(0.045)
        self.assertEqual(
            plot.lines(),
            [
                "latency over time, from minimum to maximum; x: lost",
                "   8.00 ms ||",
                "           ||",
                "           ||",
                "           ||",
                "   4.00 ms |||",
                "           ||",
                "           ||",
                "           ||  |",
                "      0 ms +----x",
                "           0 s 0.05 s",
            ],
        )

    def test_nothing(self):
        """
        Without a message that came back there is no plot.
        """
        plot = LatencyPlot()
        self.assertEqual(plot.lines(), [])
        plot.add_lost(1.0)
        self.assertEqual(plot.lines(), [])

    def test_long(self):
        """
        However long a run is, the plot has no more columns, and keeps each minimum and maximum.
        """
        plot = LatencyPlot()
        for number in range(1000):
            plot.add(number * 3.6, 0.002 if number == 500 else 0.001)
        plot.add_lost(7.0)
        lines = plot.lines()
        self.assertLessEqual(max(map(len, lines)), 12 + PLOT_COLUMNS)
        self.assertEqual(lines[1].count("|"), 2)
        self.assertEqual(lines[-2].count("x"), 1)
        self.assertTrue(lines[-1].endswith(" s"))
        self.assertGreater(PLOT_COLUMNS * FIRST_WIDTH, 0.5)
