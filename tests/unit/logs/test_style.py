"""
Tests for what stands before the message in a line.
"""

from twisted.logger import LogLevel, formatTime
from twisted.trial.unittest import SynchronousTestCase

from echod.logs.style import COLORED, JOURNAL, PLAIN, PRIORITIES, terminal_style


class StyleTests(SynchronousTestCase):
    """
    Tests for L{Style<echod.logs.style.Style>}.
    """

    def test_plain(self):
        """
        A plain line has a time and no color.
        """
        self.assertEqual(PLAIN.time(1.0), f"{formatTime(1.0)} ")
        self.assertEqual(PLAIN.priority(LogLevel.warn), "")
        self.assertEqual(PLAIN.system(LogLevel.warn, "[echod#warn]"), "[echod#warn]")

    def test_journal(self):
        """
        In the journal, a priority stands in place of the time.
        """
        self.assertEqual(JOURNAL.time(1.0), "")
        found = [JOURNAL.priority(level) for level in LogLevel.iterconstants()]
        self.assertEqual(found, ["<7>", "<6>", "<4>", "<3>", "<2>"])
        self.assertEqual(set(PRIORITIES), set(LogLevel.iterconstants()))

    def test_colors(self):
        """
        Each level has a color of its own; only the level has it.
        """
        found = set()
        for level in LogLevel.iterconstants():
            text = COLORED.system(level, f"[#{level.name}]x#{level.name}]")
            self.assertTrue(text.startswith(f"[#{level.name}]x#\x1b["), text)
            self.assertTrue(text.endswith(f"m{level.name}\x1b[0m]"), text)
            found.add(text.partition("\x1b")[2].partition("m")[0])
        self.assertEqual(len(found), 5)
        self.assertEqual(COLORED.system(LogLevel.info, "[-]"), "[-]")

    def test_terminal(self):
        """
        A terminal has colors, unless a person or the terminal says no.
        """
        for environ, style in (
            ({"TERM": "xterm"}, COLORED),
            ({}, COLORED),
            ({"NO_COLOR": ""}, COLORED),
            ({"NO_COLOR": "1", "TERM": "xterm"}, PLAIN),
            ({"TERM": "dumb"}, PLAIN),
        ):
            self.assertEqual(terminal_style(environ), style)
