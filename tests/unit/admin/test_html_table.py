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
        self.assertNotIn("wide", made)
        self.assertIn('<section class="wide"', table("Things", ("Name",), [], wide=True))

    def test_text(self):
        """
        Text is escaped, C{td} elements stay, and other markup is put in a cell.
        """
        made = table(HOSTILE, (HOSTILE,), [(HOSTILE, HOSTILE, tag("b", 1), tag("td", 2))])
        seen = Seen(made)
        self.assertEqual(seen.text.count(HOSTILE), 4)
        self.assertNotIn("script", [name for name, _ in seen.tags])
        self.assertTrue(made.endswith("<td><b>1</b></td><td>2</td></tr></tbody></table></section>"))

    def test_nothing(self):
        """
        Zeros are marked, and a size has the exact number in its title.
        """
        self.assertEqual(number(0), '<td class="number zero">0</td>')
        self.assertEqual(size(1536), '<td class="number" title="1,536 bytes">1.5 KiB</td>')
        self.assertEqual(size(0), '<td class="number zero" title="0 bytes">0 B</td>')
