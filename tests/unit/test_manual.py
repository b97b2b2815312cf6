"""
The manual pages have the options and exit statuses of the two commands.
"""

import re
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

import echod
from echod.check.options import CheckOptions
from echod.check.results import Outcome
from echod.options import Options

MANUAL = Path(echod.__file__).resolve().parents[1] / "deploy" / "man"

PAGES = (("echod.8", Options), ("echod-check.1", CheckOptions))


def section(page, name):
    """
    The lines of a section, in mdoc(7).
    """
    _, found, rest = (MANUAL / page).read_text().partition(f"\n.Sh {name}\n")
    assert found, name
    return rest.partition("\n.Sh ")[0]


def plain(source):
    """
    The words of some lines, without the macros that these pages use.
    """
    text = re.sub(r"^\.Fl (\S+)", r"-\1", source, flags=re.MULTILINE)
    text = re.sub(r"^\.\w\w ", "", text, flags=re.MULTILINE)
    return re.sub(r" ([.,:;])(?= |$)", r"\1", " ".join(text.split()))


def items(source):
    """
    The entries of the lists, each with its heading and its text.
    """
    return [
        (heading, plain(re.split(r"^\.El", text, flags=re.MULTILINE)[0]))
        for heading, text in re.findall(
            r"^\.It (.*)\n((?:(?!\.It ).*\n?)*)", source, flags=re.MULTILINE
        )
    ]


def options(page):
    """
    The options of a page, by their long names: heading and text.
    """
    return {
        name: (heading, text)
        for heading, text in items(section(page, "OPTIONS"))
        for name in re.findall(r"Fl -([\w-]+)", heading)
    }


class ManualTests(SynchronousTestCase):
    """
    C{echod(8)} and C{echod-check(1)}.
    """

    def test_options(self):
        """
        A page has each option once, with its short name, and no other.
        """
        for page, command in PAGES:
            headings = [heading for heading, _ in items(section(page, "OPTIONS"))]
            shown = re.findall(r"Fl -([\w-]+)", " ".join(headings))
            known = command()
            self.assertEqual(sorted(shown), sorted(name.rstrip("=") for name in known.longOpt))
            short = {name: letter for letter, name in known.synonyms.items() if len(letter) == 1}
            shown_short = {
                name: found[1]
                for name, (heading, _) in options(page).items()
                if (found := re.search(r"Fl (\w)\b", heading))
            }
            self.assertEqual(shown_short, short, page)

    def test_defaults(self):
        """
        A page has the default of each option that has one.
        """
        for page, command in PAGES:
            for name, _, default, *_ in command.optParameters:
                if default is not None:
                    shown = default if isinstance(default, str) else f"{default:g}"
                    text = options(page)[name][1]
                    self.assertRegex(text, rf"The default is {re.escape(shown)}\b", name)

    def test_choices(self):
        """
        The values that a page names are accepted.
        """
        checked = 0
        for page, command in PAGES:
            coerce = {parameter[0]: parameter[4] for parameter in command.optParameters}
            for name, (heading, _) in options(page).items():
                for word in heading.partition("Cm ")[2].split(" | "):
                    if word:
                        coerce[name](word)
                        checked += 1
        self.assertGreater(checked, 15)

    def test_statuses(self):
        """
        C{echod-check(1)} has each exit status, with its word and its meaning.
        """
        shown = [
            (heading, text[0].lower() + text[1:])
            for heading, text in items(section("echod-check.1", "EXIT STATUS"))
        ]
        self.assertEqual(
            [(heading, text.lower()) for heading, text in shown],
            [(f"{each.status} Pq {each.word}", f"{each.meaning}.".lower()) for each in Outcome],
        )

    def test_this_test(self):
        """
        The entries and their words are found.
        """
        source = ".Bl -tag\n.It Fl a , Fl -all\nTake all of\n.Fl -x ;\n.Cm no ,\nmore.\n.El\n"
        self.assertEqual(items(source), [("Fl a , Fl -all", "Take all of --x; no, more.")])
