"""
Tests for plots.
"""

import re

from twisted.trial.unittest import SynchronousTestCase

from echod.admin.html import PLOT_HEIGHT, plot


class PlotTests(SynchronousTestCase):
    """
    Tests for L{plot}.
    """

    def points(self, values, least=10):
        made = plot("Echoed", values, "now", str, least, "note")
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
        self.assertIn('<polygon points="">', plot("Echoed", [], "0", str, 1))

    def test_area(self):
        """
        The area below the line is filled.
        """
        made = plot("Echoed", [0, 10], "0", str, 10)
        self.assertIn(f'<polygon points="299,{PLOT_HEIGHT} 299,59 300,1 300,{PLOT_HEIGHT}">', made)

    def test_said(self):
        """
        Its label says in words what it shows.
        """
        made = plot("Echoed", [1, 7, 2], "2", str, 10)
        self.assertIn('aria-label="Echoed, the last 5 minutes: now 2, at most 7"', made)
        self.assertIn('role="img"', made)
