"""
Tests for elements.
"""

from twisted.trial.unittest import SynchronousTestCase

from echod.admin.html import Markup, join, tag
from tests.support.markup import HOSTILE, Seen


class MarkupTests(SynchronousTestCase):
    """
    Tests for L{tag} and L{join}.
    """

    def test_text(self):
        """
        Text is escaped, in content and in attributes.
        """
        seen = Seen(tag("p", HOSTILE, title=HOSTILE))
        self.assertEqual((seen.tags, seen.text), ([("p", {"title": HOSTILE})], HOSTILE))

    def test_nested(self):
        """
        Markup is not escaped again.
        """
        made = tag("tr", tag("td", "a<b"), " ", tag("td", 5))
        self.assertEqual(made, "<tr><td>a&lt;b</td> <td>5</td></tr>")
        self.assertIsInstance(made, Markup)
        self.assertEqual(join(["<", Markup("<br>")]), "&lt;<br>")

    def test_attributes(self):
        """
        Attribute names with underscores are converted; C{None} and C{False} are left out.
        """
        self.assertEqual(
            tag("p", class_="x", aria_label="y", a=None, b=False, c=True, tabindex=0),
            '<p class="x" aria-label="y" c tabindex="0"></p>',
        )

    def test_void(self):
        """
        Void elements have no end tag.
        """
        self.assertEqual(tag("meta", name="a"), '<meta name="a">')
