"""
HTML out of values.
"""

from twisted.trial.unittest import SynchronousTestCase

from echod.admin.html import Markup, joined, tag
from tests.support.markup import HOSTILE, Seen


class MarkupTests(SynchronousTestCase):
    """
    What is markup, and what is text.
    """

    def test_text(self):
        """
        Text stays text, in content and in attributes.
        """
        seen = Seen(tag("p", HOSTILE, title=HOSTILE))
        self.assertEqual((seen.tags, seen.text), ([("p", {"title": HOSTILE})], HOSTILE))

    def test_nested(self):
        """
        What was made here is not escaped again.
        """
        made = tag("tr", tag("td", "a<b"), " ", tag("td", 5))
        self.assertEqual(made, "<tr><td>a&lt;b</td> <td>5</td></tr>")
        self.assertIsInstance(made, Markup)
        self.assertEqual(joined(["<", Markup("<br>")]), "&lt;<br>")

    def test_attributes(self):
        """
        Names that Python does not allow can be given; what is not there is left out.
        """
        self.assertEqual(
            tag("p", class_="x", aria_label="y", a=None, b=False, c=True, tabindex=0),
            '<p class="x" aria-label="y" c tabindex="0"></p>',
        )

    def test_void(self):
        """
        Elements without content have no end.
        """
        self.assertEqual(tag("meta", name="a"), '<meta name="a">')
