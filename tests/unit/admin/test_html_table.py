"""
Tests for tables.
"""

from twisted.trial.unittest import SynchronousTestCase

from echod.admin.html import number, size, table, tag
from tests.support.markup import HOSTILE, Seen


class TableTests(SynchronousTestCase):
    """
    Tests for L{table} and its cells.
    """

    def test_headers(self):
        """
        A table has a caption, and headers for rows and columns; the header of numbers is
        aligned like them.
        """
        made = table("Things", ("Name", "Many", "Note"), [("a", number(5), "x")])
        for part in (
            "<caption>Things</caption>",
            '<th scope="col">Name</th><th scope="col" class="number">Many</th>'
            '<th scope="col">Note</th>',
            '<tr><th scope="row">a</th><td class="number">5</td><td>x</td></tr>',
            'aria-label="Things"',
        ):
            self.assertIn(part, made)
        for word in ("wide", "sortable"):
            self.assertNotIn(word, made)
            self.assertIn(f'class="{word}"', table("Things", ("Name",), [], **{word: True}))

    def test_scrolls(self):
        """
        A table that is too wide scrolls in a region that the keyboard reaches.
        """
        made = table("Things", ("Name",), [])
        self.assertIn(
            '<div class="scroll" tabindex="0" aria-label="Things" role="region"><table>', made
        )

    def test_text(self):
        """
        Text is escaped, C{td} elements stay, and other markup is put in a cell.
        """
        made = table(HOSTILE, (HOSTILE,), [(HOSTILE, HOSTILE, tag("b", 1), tag("td", 2))])
        seen = Seen(made)
        self.assertEqual(seen.text.count(HOSTILE), 4)
        self.assertNotIn("script", [name for name, _ in seen.tags])
        self.assertTrue(
            made.endswith("<td><b>1</b></td><td>2</td></tr></tbody></table></div></section>")
        )

    def test_nothing(self):
        """
        Zeros are marked, and a size has the exact number in its title.
        """
        self.assertEqual(number(0), '<td class="number zero">0</td>')
        self.assertEqual(
            size(1536), '<td class="number" title="1,536 bytes" data-sort="1536">1.5 KiB</td>'
        )
        self.assertEqual(
            size(0, "/s"), '<td class="number zero" title="0 bytes/s" data-sort="0">0 B/s</td>'
        )

    def test_sorted_by_number(self):
        """
        A number that is shown as other text is sorted by the number.
        """
        self.assertEqual(
            number(70.5, "1 min 10 s"), '<td class="number" data-sort="70.5">1 min 10 s</td>'
        )
