"""
The documentation pages: their links, their tables, and the command that runs the tests.
"""

import os
import re
import shlex
from collections import Counter
from pathlib import Path

from twisted.plugins.echod_plugin import echod as maker
from twisted.trial.unittest import SynchronousTestCase

import echod
from echod.connections.connection import REFUSED, Reason
from echod.connections.timeouts import Timeouts
from echod.options import Options

ROOT = Path(echod.__file__).resolve().parents[1]
PAGES = (
    "README.md",
    "deploy/README.md",
    "deploy/CHANGES.md",
    "deploy/SECURITY.md",
    "tests/README.md",
    "tests/bench/README.md",
)
README = (ROOT / "README.md").read_text()
DEPLOY = (ROOT / "deploy" / "README.md").read_text()
TESTS = (ROOT / "tests" / "README.md").read_text()


def anchors(text):
    """
    The anchors of the headings of a page, as GitHub makes them.
    """
    text = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^##+ (.+)$", text, re.MULTILINE)
    return [re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings]


def section(text, heading):
    """
    The text below a heading of the second level.
    """
    _, found, rest = text.partition(f"\n## {heading}\n")
    assert found, heading
    return rest.partition("\n## ")[0]


def rows(text, heading):
    """
    The rows of all tables with this first heading, as lists of cells.
    """
    tables = re.findall(rf"^\| {heading} \|.*\n\|[-|]+\n((?:\|.*\n?)+)", text, re.MULTILINE)
    return [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]]
        for table in tables
        for row in table.splitlines()
    ]


class PagesTests(SynchronousTestCase):
    """
    All pages.
    """

    def test_links(self):
        """
        Each link of a page to a file or a heading has a target.
        """
        for page in PAGES:
            text, folder = (ROOT / page).read_text(), (ROOT / page).parent
            for path, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", text):
                there = folder / path if path else ROOT / page
                self.assertTrue(there.exists(), f"{page}: {path}")
                if anchor:
                    self.assertIn(anchor, anchors(there.read_text()), page)

    def test_contents(self):
        """
        A table of contents has all sections, in their order, and each heading once.
        """
        for page in ("README.md", "deploy/README.md", "tests/bench/README.md"):
            text = (ROOT / page).read_text()
            linked = re.findall(r"\]\(#([^)]+)\)", text[: text.index("\n## ")])
            sections = re.findall(r"^## (.+)$", text, re.MULTILINE)
            wanted = anchors("".join(f"## {each}\n" for each in sections))
            self.assertEqual([each for each in linked if each in wanted], wanted)
            twice = [each for each, count in Counter(anchors(text)).items() if count > 1]
            self.assertEqual(twice, [], page)


class DescriptionTests(SynchronousTestCase):
    """
    What echod is, in one line.
    """

    def test_same_everywhere(self):
        """
        Each description has the same words: a TCP and UDP echo daemon.
        """
        self.assertIn("A TCP and UDP echo daemon (RFC 862)", Options.longdesc)
        self.assertEqual(maker.description, "A TCP and UDP echo daemon (RFC 862).")
        for path in (
            "README.md",
            "deploy/Dockerfile",
            "deploy/echod.service",
            "deploy/grafana/echod.json",
            "deploy/man/echod.8",
            "echod/__init__.py",
            "pyproject.toml",
        ):
            text = (ROOT / path).read_text()
            self.assertIn("TCP and UDP echo daemon", text, path)
            self.assertNotRegex(text, "TCP echo daemon", path)


class ReadmeTests(SynchronousTestCase):
    """
    The README.
    """

    def test_length(self):
        """
        The README has 300 lines at most.
        """
        self.assertLessEqual(len(README.splitlines()), 300)

    def test_commands(self):
        """
        One command runs echod and one runs the tests; each is marked for scripts.
        """
        for mark, program in (("run", ".venv/bin/twistd"), ("test", ".venv/bin/trial")):
            [command] = re.findall(rf"^<!-- {mark} -->\n```sh\n(.+)\n```$", README, re.MULTILINE)
            self.assertIn(program, shlex.split(command))

    def test_options(self):
        """
        The tables have each option with its default, and no other.
        """
        defaults = {}
        for names, default, _ in rows(section(README, "Options"), "option"):
            defaults |= dict.fromkeys(re.findall(r"--([\w-]+)", names), default)
        self.assertEqual(sorted(defaults), sorted(name.rstrip("=") for name in Options().longOpt))
        for name, _, default, *_ in Options.optParameters:
            if default is not None:
                shown = default if isinstance(default, str) else f"{default:g}"
                self.assertEqual(defaults[name].split(" ")[0], shown, name)

    def test_map(self):
        """
        The table of packages has all of C{echod/}.
        """
        told = {
            name.rstrip("/")
            for row in rows(section(README, "How it works"), r"package or module of `echod/`")
            for name in re.findall(r"`([\w/]+)`", row[0])
        }
        there = {
            entry.name.removesuffix(".py")
            for entry in os.scandir(ROOT / "echod")
            if entry.name.endswith(".py") or (Path(entry.path) / "__init__.py").exists()
        }
        self.assertEqual(told, there - {"__init__"})


class DeployTests(SynchronousTestCase):
    """
    The page for operators.
    """

    def test_reasons(self):
        """
        The tables of reasons have each, with those for which clients are refused apart.
        """
        ends, refusals = re.findall(
            r"^\| reason \| the connection .*\n\|[-|]+\n((?:\|.*\n)+)", DEPLOY, re.MULTILINE
        )
        for table, reasons in ((ends, set(Reason) - REFUSED), (refusals, REFUSED)):
            self.assertEqual(
                sorted(re.findall(r"^\| `([\w-]+)`", table, re.MULTILINE)), sorted(reasons)
            )

    def test_phrases(self):
        """
        The table of ends has what an access record in text says for each reason.
        """
        endings = Timeouts(idle=300, lifetime=3600, write=30).endings()
        told = {
            row[0].strip("`"): row[2].strip("`")
            for row in rows(section(DEPLOY, "Reasons"), "reason")
            if len(row) == 3
        }
        self.assertEqual(told, {each.value: endings[each].text for each in set(Reason) - REFUSED})

    def test_signals(self):
        """
        The signals are those of the manual page, and KILL.
        """
        told = {word for row in rows(DEPLOY, "signal") for word in re.findall("[A-Z0-9]+", row[0])}
        page = (ROOT / "deploy" / "man" / "echod.8").read_text()
        self.assertEqual(told, set(re.findall(r"Dv SIG([A-Z0-9]+)", page)) | {"KILL"})

    def test_drop_ins(self):
        """
        The table of drop-ins has each.
        """
        told = {re.findall("`(.+?)`", row[0])[0] for row in rows(DEPLOY, "drop-in")}
        self.assertEqual(told, set(os.listdir(ROOT / "deploy" / "echod.service.d")))


class TestsTests(SynchronousTestCase):
    """
    The page on tests.
    """

    def test_programs(self):
        """
        The programs that the tests need are those that C{.ci/run} installs.
        """
        [installed] = re.findall(r'^packages="(.+)"$', (ROOT / ".ci" / "run").read_text(), re.M)
        self.assertIn(f"`{installed}`", " ".join(TESTS.split()))
