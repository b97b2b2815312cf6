"""
Tests for plots.
"""

import re

from twisted.trial.unittest import SynchronousTestCase

from echod.admin.html import BYTES, COUNT, PLOT_HEIGHT, RATE, SECONDS, plot


class PlotTests(SynchronousTestCase):
    """
    Tests for L{plot}.
    """

    def points(self, values, least=10):
        made = plot("Echoed", values, "now", COUNT, least, "note")
        line = re.search(r'<polyline points="([^"]*)">', made)[1]
        return [tuple(map(float, point.split(","))) for point in line.split()]

    def test_place(self):
        """
        The newest value is at the right edge, one unit for each second; a larger value is
        higher.
        """
        self.assertEqual(self.points([0, 20, 10]), [(298, 59), (299, 1), (300, 30)])
        self.assertEqual(len(self.points([1] * 300)), 300)
        self.assertEqual(self.points([1] * 300)[0][0], 1)

    def test_small(self):
        """
        Values below the minimum of the top stay small.
        """
        self.assertEqual([y for _, y in self.points([0, 1])], [59, 53.2])

    def test_nothing(self):
        """
        Without values the plot is empty.
        """
        self.assertEqual(self.points([]), [])
        self.assertIn('<polygon points="">', plot("Echoed", [], "0", COUNT, 1))

    def test_area(self):
        """
        The area below the line is filled.
        """
        made = plot("Echoed", [0, 10], "0", COUNT, 10)
        self.assertIn(f'<polygon points="299,{PLOT_HEIGHT} 299,59 300,1 300,{PLOT_HEIGHT}">', made)

    def test_said(self):
        """
        Its label says in words what it shows.
        """
        made = plot("Echoed", [1, 7, 2], "2", COUNT, 10)
        self.assertIn('aria-label="Echoed, the last 5 minutes: now 2, at most 7"', made)
        self.assertIn('role="img"', made)
        self.assertNotIn("warning", made)
        self.assertIn('<figure class="warning">', plot("Echoed", [1], "2", COUNT, 10, warns=True))

    def test_scale(self):
        """
        The top of the scale is a round number, and the scale has labels.
        """
        for unit, maximum, top in (
            (COUNT, 44, 50),
            (COUNT, 50, 50),
            (RATE, 51, 100),
            (RATE, 100, 100),
            (SECONDS, 0.406, 0.5),
            (SECONDS, 0.05, 0.05),
            (BYTES, 5000, 8192),
            (BYTES, 1024, 1024),
        ):
            self.assertAlmostEqual(unit.top(maximum), top)
        for unit, values, labels in (
            (COUNT, [44], ["50", "25", "0"]),
            (RATE, [8], ["10/s", "5/s", "0/s"]),
            (BYTES, [5000], ["8 KiB/s", "4 KiB/s", "0 B/s"]),
            (SECONDS, [0.406], ["500 ms", "250 ms", "0 ms"]),
        ):
            made = plot("Echoed", values, "now", unit, values[0])
            scale = re.search('<p class="scale">(.*?)</p>', made)[1]
            self.assertEqual(re.findall("<span>(.*?)</span>", scale), labels)

    def test_values(self):
        """
        The script gets the values and their unit.
        """
        made = plot("Echoed", [1, 7.25, 0.0004567], "2", SECONDS, 10)
        self.assertIn('data-unit="seconds" data-values="1 7.25 0.0004567"', made)
