"""
Tests for patterns and comparisons.
"""

import random

from hypothesis import given, settings, strategies as st
from twisted.trial.unittest import SynchronousTestCase

from echod.check.probe import PERIOD, WINDOW, Comparison, Pattern
from echod.check.results import Outcome

SENT = random.Random(6).randbytes(1000)


def named(came, sent=SENT, piece=0):
    """
    @return: the outcome and the detail of the difference.
    """
    comparison = Comparison(Pattern(sent), len(sent))
    piece = piece or max(1, len(came))
    for start in range(0, len(came), piece):
        comparison.feed(came[start : start + piece])
    failure = comparison.difference()
    return failure.outcome, failure.detail


class PatternTests(SynchronousTestCase):
    """
    Tests for L{Pattern}.
    """

    def test_repeats(self):
        """
        Any part of the repeated block is returned.
        """
        pattern = Pattern(b"abcde", 7)
        endless = b"abcde" * 20
        for offset in range(12):
            for size in range(15):
                start = 7 + offset
                self.assertEqual(pattern.at(offset, size), endless[start : start + size])

    def test_random(self):
        """
        A random block is as long as the message, up to a limit, and new each time.
        """
        self.assertEqual(len(Pattern.random(64).block), 64)
        self.assertEqual(len(Pattern.random(1 << 30).block), PERIOD)
        self.assertNotEqual(Pattern.random(64).block, Pattern.random(64).block)


class ComparisonTests(SynchronousTestCase):
    """
    Tests for L{Comparison}.
    """

    def test_exact(self):
        """
        An exact echo is complete, in pieces of any size.
        """
        for piece in (1, 7, 1000):
            comparison = Comparison(Pattern(SENT), 1000)
            for start in range(0, 1000, piece):
                self.assertFalse(comparison.complete)
                comparison.feed(SENT[start : start + piece])
            self.assertTrue(comparison.complete)
            self.assertFalse(comparison.differs)
            self.assertEqual((comparison.lost, comparison.received), (0, 1000))

    def test_missing(self):
        """
        Missing bytes are counted as lost.
        """
        comparison = Comparison(Pattern(SENT), 1000)
        comparison.feed(SENT[:300])
        self.assertEqual(comparison.lost, 700)
        self.assertEqual(comparison.progress(), "300 of 1000 bytes came back")

    def test_corrupted(self):
        """
        A changed byte is named, with its offset and both values.
        """
        for at in (0, 500, 999):
            came = bytearray(SENT)
            came[at] ^= 4
            text = f"offset {at} of 1000: sent 0x{SENT[at]:02x}, got 0x{came[at]:02x}"
            self.assertEqual(named(bytes(came)), (Outcome.CORRUPTED, text))

    def test_swapped(self):
        """
        Two exchanged bytes are corrupted, not lost.
        """
        came = SENT[:10] + SENT[11:12] + SENT[10:11] + SENT[12:]
        self.assertEqual(named(came)[0], Outcome.CORRUPTED)

    def test_dropped(self):
        """
        A gap is distinguished from corruption, and counted, at any offset.
        """
        for at, size in ((0, 1), (500, 1), (990, 1), (990, 8), (100, 800)):
            came = SENT[:at] + SENT[at + size :]
            count = "1 byte" if size == 1 else f"{size} bytes"
            self.assertEqual(
                named(came, piece=50), (Outcome.LOST, f"{count} at offset {at} of 1000")
            )

    def test_behind_a_gap(self):
        """
        All bytes after a difference count as lost.
        """
        comparison = Comparison(Pattern(SENT), 1000)
        comparison.feed(SENT[1:] + b"x")
        self.assertEqual((comparison.exact, comparison.lost), (0, 1000))
        self.assertTrue(comparison.decided)

    def test_more(self):
        """
        Bytes after the end were never sent.
        """
        text = "3 more than the 1000 bytes sent"
        self.assertEqual(named(SENT + b"abc"), (Outcome.SURPLUS, text))
        self.assertEqual(named(SENT + b"abc", piece=1), (Outcome.SURPLUS, text))
        self.assertEqual(Comparison(Pattern(b"a"), 1).lost, 1)

    def test_twice(self):
        """
        Repeated bytes are named.
        """
        came = SENT[:300] + SENT[200:]
        text = "100 bytes came back twice, from offset 300"
        self.assertEqual(named(came), (Outcome.SURPLUS, text))

    def test_never_sent(self):
        """
        Added bytes are named, also at the start, by a server that sends first.
        """
        for at in (0, 400):
            came = SENT[:at] + b"hello" + SENT[at:]
            text = f"5 bytes at offset {at} never sent"
            self.assertEqual(named(came), (Outcome.SURPLUS, text))

    def test_short(self):
        """
        If too few bytes follow, the difference is a changed byte.
        """
        self.assertEqual(
            named(b"b", b"a"), (Outcome.CORRUPTED, "offset 0 of 1: sent 0x61, got 0x62")
        )
        self.assertEqual(named(b"xa", b"a"), (Outcome.SURPLUS, "1 byte at offset 0 never sent"))

    @settings(deadline=None, max_examples=200, database=None, derandomize=True)
    @given(st.integers(0, 999), st.integers(1, 999), st.integers(1, 200))
    def test_any_gap(self, at, size, piece):
        """
        Any gap is found, with pieces of any size.
        """
        size = min(size, 1000 - at)
        comparison = Comparison(Pattern(SENT), 1000)
        came = SENT[:at] + SENT[at + size :]
        for start in range(0, len(came), piece):
            comparison.feed(came[start : start + piece])
        self.assertFalse(comparison.complete)
        self.assertEqual(comparison.received, 1000 - size)
        if comparison.differs:
            self.assertIs(comparison.difference().outcome, Outcome.LOST)
        else:
            # It was at the end, or a byte there happens to be the one that was lost.
            self.assertEqual(comparison.lost, size)
        self.assertLessEqual(len(comparison._window), WINDOW)
