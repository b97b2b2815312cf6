"""
Tests for numbers, sizes and times as text.
"""

from twisted.trial.unittest import SynchronousTestCase

from echod._util.text import (
    format_date,
    format_delay,
    format_duration,
    format_number,
    format_size,
    format_timeout,
)


class FiguresTests(SynchronousTestCase):
    """
    The formats.
    """

    def check(self, text, *cases):
        self.assertEqual([text(value) for value, _ in cases], [shown for _, shown in cases])

    def test_number(self):
        """
        Thousands have separators; small numbers have a decimal.
        """
        self.check(
            format_number,
            (0, "0"),
            (7, "7"),
            (0.25, "0.2"),
            (9.96, "10.0"),
            (12.5, "12"),
            (1234567, "1,234,567"),
        )

    def test_size(self):
        """
        A size has the unit that leaves a few digits.
        """
        self.check(
            format_size,
            (0, "0 B"),
            (0.4, "0 B"),
            (1023, "1,023 B"),
            (1023.7, "1 KiB"),
            (1536, "1.5 KiB"),
            (10 << 20, "10 MiB"),
            (3 << 70, "3,145,728 PiB"),
        )

    def test_time(self):
        """
        A time has its two largest units.
        """
        self.check(
            format_duration,
            (0, "0.0 s"),
            (9.94, "9.9 s"),
            (10, "10 s"),
            (60, "1 min"),
            (3723, "1 h 2 min"),
            (90000, "1 d 1 h"),
            (86400 * 400 + 5, "400 d 5 s"),
        )

    def test_delay(self):
        """
        A delay is in milliseconds.
        """
        self.check(format_delay, (0, "0 ms"), (0.00043, "0.4 ms"), (1.5, "1,500 ms"))

    def test_date(self):
        """
        A date is in the format of RFC 3339.
        """
        self.assertEqual(format_date(1_800_000_000.9), "2027-01-15T08:00:00Z")

    def test_timeout(self):
        """
        A time of an option has one unit.
        """
        self.check(
            format_timeout,
            (0.0, "0"),
            (0.5, "500ms"),
            (1.0, "1s"),
            (1.5, "1.5s"),
            (90.0, "90s"),
            (300.0, "5m"),
            (5400.0, "90m"),
            (604800.0, "168h"),
        )
        self.assertEqual(format_timeout(300.0, " "), "5 m")
