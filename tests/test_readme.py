"""
What the README says of itself, of the options, and of how to run the tests.
"""

import re
from collections import Counter
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

import echod
from echod.options import Options

ROOT = Path(echod.__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
DEPLOY = (ROOT / "deploy" / "README.md").read_text()


def anchors(text):
    """
    What the headings of a page can be linked to by, as GitHub makes it of them.
    """
    text = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^##+ (.+)$", text, re.MULTILINE)
    return [re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings]


class ReadmeTests(SynchronousTestCase):
    """
    The README, and the page in C{deploy/}.
    """

    def test_links(self):
        """
        What is linked to is there.
        """
        for folder, text in ((ROOT, README), (ROOT / "deploy", DEPLOY)):
            links = re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", text)
            self.assertGreater(len(links), 1)
            for path, anchor in links:
                there = folder / path if path else folder / "README.md"
                self.assertTrue(there.exists(), path)
                if anchor:
                    self.assertIn(anchor, anchors(there.read_text()))

    def test_contents(self):
        """
        The table of contents leads to each section, in their order, and each has a heading
        of its own.
        """
        contents = README[: README.index("\n## ")]
        linked = re.findall(r"\]\(#([^)]+)\)", contents)
        sections = re.findall(r"^## (.+)$", README, re.MULTILINE)
        wanted = anchors("".join(f"## {section}\n" for section in sections))
        self.assertEqual([each for each in linked if each in wanted], wanted)
        self.assertEqual(
            [each for each, count in Counter(anchors(README)).items() if count > 1], []
        )

    def test_options(self):
        """
        The table of options has each, and no other.
        """
        section = README.partition("\n## Options\n")[2].partition("\n## ")[0]
        told = re.findall(r"--([\w-]+)", str(re.findall(r"^\| (`-.*?) \|", section, re.MULTILINE)))
        self.assertEqual(sorted(told), sorted(name.rstrip("=") for name in Options().longOpt))

    def test_packages(self):
        """
        The programs that the tests want are those that C{.ci/run} installs.
        """
        [installed] = re.findall(r'^packages="(.+)"$', (ROOT / ".ci" / "run").read_text(), re.M)
        self.assertIn(f"`{installed}`", " ".join(README.split()))
