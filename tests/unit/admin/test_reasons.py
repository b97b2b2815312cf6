"""
Tests for the page of the reasons.
"""

import re
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from echod.admin.reasons import ENDED, REFUSED, reasons_page
from echod.connections import connection
from tests.support.markup import Seen

README = Path(__file__).resolve().parents[3] / "deploy" / "README.md"


class ReasonsTests(SynchronousTestCase):
    """
    Tests for L{reasons_page}.
    """

    def test_every_reason(self):
        """
        Each reason is there, among the ends or the refusals.
        """
        refused = {each.value for each in connection.REFUSED}
        self.assertEqual(set(REFUSED), refused)
        self.assertEqual(set(ENDED), {each.value for each in connection.Reason} - refused)

    def test_readme(self):
        """
        The texts are those of the operators' page.
        """
        part = README.read_text().partition("## Reasons")[2].partition("## Limits")[0]
        rows = re.findall(r"^\| `([a-z-]+)` \| ([^|]*) \|", part, re.MULTILINE)
        plain = {reason: re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", text) for reason, text in rows}
        self.assertEqual(plain, ENDED | REFUSED)

    def test_links(self):
        """
        Each reason can be linked to, and options are set as code.
        """
        made = reasons_page()
        ids = [attributes["id"] for _, attributes in Seen(made).tags if "id" in attributes]
        self.assertEqual(ids, [*ENDED, *REFUSED])
        self.assertIn("for <code>--write-timeout</code></td>", made)
        self.assertIn('<a href="./">status page</a>', made)
