"""
Tests for the help of a program, and for what a shell completes.
"""

import io
import os
import sys

from twisted.python.usage import CompleteFiles, CompleteList, Options, UsageError
from twisted.scripts.twistd import ServerOptions
from twisted.trial.unittest import SynchronousTestCase

from echod._util.help import CommandOptions, completions
from echod._util.values import named, parameter, seconds
from tests.support import needs


class Example(CommandOptions):
    """
    A program with one option of each kind.
    """

    program = "example"
    synopsis = "[options] TARGET"
    longdesc = "A program whose description is longer than one line of forty columns."
    optParameters = [
        parameter("port", "p", 9000, "Port to listen on.", int),
        parameter("wait", None, 300.0, "How long to wait.", seconds),
        parameter("mode", None, None, "What to do. [default: fast]", str),
        parameter("a-name-that-is-very-long", None, None, "Has a line of its own.", str),
    ]
    optFlags = [["quiet", "q", "Print nothing."]]
    groups = {
        "First": {"port": "PORT", "wait": "SECONDS", "mode": "fast|slow"},
        "Others": {
            "a-name-that-is-very-long": "FILE",
            "many": "WORD",
            "quiet": "",
            "help": "",
            "version": "",
        },
    }
    repeatable = frozenset(("many",))
    examples = (("example --port 1 --mode fast tcp:host=localhost:port=9000", "Does it."),)

    def __init__(self):
        super().__init__()
        self["many"] = []

    def opt_many(self, word):
        """
        A word; the lines of this text
        are joined.
        """
        self["many"].append(named("many", word, str))

    def opt_version(self):
        """
        Print the version.
        """

    def parseArgs(self, *args):
        """
        Take all.
        """


HELP = """\
Usage: example [options] TARGET

A program whose description is longer
than one line of forty columns.

First:
  -p, --port PORT         Port to listen
                          on.
                          [default: 9000]
  --wait SECONDS          How long to
                          wait.
                          [default: 5m]
  --mode fast|slow        What to do.
                          [default:
                          fast]

Others:
  --a-name-that-is-very-long FILE
                          Has a line of
                          its own.
  --many WORD             A word; the
                          lines of this
                          text are
                          joined.
  -q, --quiet             Print nothing.
  -h, --help              Print this
                          help and exit.
  --version               Print the
                          version.

Example:
  example --port 1 --mode fast tcp:host=localhost:port=9000
      Does it.
"""


class HelpTests(SynchronousTestCase):
    """
    What C{--help} prints.
    """

    def test_layout(self):
        """
        Options stand in their groups, each with the name of its value and its default in the unit
        that people use.
        """
        self.patch(os, "environ", {"COLUMNS": "10"})
        self.assertEqual(str(Example()), HELP)

    def test_width(self):
        """
        The help is as wide as the terminal, and at most 80 columns.
        """
        for columns, widest in (("60", 60), ("500", 80), ("wide", 80)):
            self.patch(os, "environ", {"COLUMNS": columns})
            self.patch(sys, "__stdout__", None)
            lines = Example().getUsage().splitlines()
            self.assertLessEqual(max(map(len, lines)), widest)
            self.assertGreater(max(map(len, lines)), 57)
        self.assertLessEqual(max(map(len, Example().getUsage(50).splitlines()[:-2])), 50)

    def test_without_examples(self):
        """
        A program may have several examples, or none, and sections of its own.
        """
        options = Example()
        options.examples = ()
        self.assertNotIn("Example", str(options))
        options.examples = (("a", "First."), ("b", "Second."))
        self.assertTrue(str(options).endswith("Examples:\n  a\n      First.\n  b\n      Second.\n"))
        options.epilog = lambda: [("Exit status", ["0  ok: all is well", "1  bad: it is not"])]
        self.assertIn("\n\nExit status:\n  0  ok: all is well\n  1  bad:", str(options))

    def test_short(self):
        """
        C{-h} is C{--help}.
        """
        for given in ("-h", "--help"):
            out = io.StringIO()
            self.patch(sys, "stdout", out)
            error = self.assertRaises(SystemExit, Example().parseOptions, [given])
            self.assertEqual(error.code, 0)
            self.assertTrue(out.getvalue().startswith("Usage: example [options] TARGET\n"))

    def test_output_error(self):
        """
        Help that cannot be written is one line and a status, not a traceback.
        """
        needs.file("/dev/full")
        for status in (1, 2):
            errors = io.StringIO()
            self.patch(sys, "stderr", errors)
            self.patch(Example, "output_error_status", status)
            with open("/dev/full", "w") as full:
                self.patch(sys, "stdout", full)
                error = self.assertRaises(SystemExit, Example().parseOptions, ["--help"])
            self.assertEqual(error.code, status)
            line = "example: standard output: No space left on device\n"
            self.assertEqual(errors.getvalue(), line)

    def test_under_another_program(self):
        """
        Under twistd or twist, the first line is the whole command.
        """
        options = Example()
        options.parent = ServerOptions()
        self.assertEqual(options.getSynopsis(), "Usage: twistd [options] example [options] TARGET")
        options.parent = Options()
        options.parent.synopsis = "Usage: twist [options] plugin [plugin_options]"
        self.assertEqual(options.getSynopsis(), "Usage: twist [options] example [options] TARGET")

    def test_without_docstrings(self):
        """
        Under C{python -OO} there are no docstrings.
        """
        self.patch(Example.opt_many, "__doc__", None)
        self.assertIn("\n  --many WORD", str(Example()))


class ParseTests(SynchronousTestCase):
    """
    What is refused for all programs.
    """

    def test_given_twice(self):
        """
        An option that takes one value is given once, under whichever name.
        """
        for args in (("--port", "1", "-p2"), ("-p1", "-p1"), ("-p1", "--port=2", "x")):
            error = self.assertRaises(UsageError, Example().parseOptions, args)
            self.assertEqual(str(error), "--port: given twice; give it once")

    def test_repeatable(self):
        """
        A flag, and an option that is repeatable, may be given several times.
        """
        options = Example()
        options.parseOptions(["-qq", "--many", "a", "--many=b"])
        self.assertEqual((options["many"], options["quiet"]), (["a", "b"], 1))

    def test_unknown(self):
        """
        An unknown option is reported by Twisted's parser.
        """
        error = self.assertRaises(UsageError, Example().parseOptions, ["--nosuch"])
        self.assertEqual(str(error), "option --nosuch not recognized")


class CompletionsTests(SynchronousTestCase):
    """
    What a shell completes.
    """

    def test_actions(self):
        """
        The name of a value says what completes it.
        """
        found = completions(Example.groups, Example.repeatable)
        self.assertEqual(found.multiUse, ["many"])
        self.assertEqual(
            sorted(found.optActions),
            ["a-name-that-is-very-long", "many", "mode", "port", "wait"],
        )
        self.assertIsInstance(found.optActions["a-name-that-is-very-long"], CompleteFiles)
        self.assertIsInstance(found.optActions["mode"], CompleteList)

    def test_zsh(self):
        """
        Twisted makes a completion function for zsh of it.
        """
        out = io.BytesIO()
        options = Example()
        options._shellCompFile = out
        self.assertRaises(SystemExit, options.parseOptions, ["", "--_shell-completion", "zsh:2"])
        text = out.getvalue().decode()
        self.assertIn("'--mode=[What to do. \\[default: fast\\]]:value:(fast slow)'", text)
        self.assertIn("'*--many=[A word; the lines of this text are joined.]:WORD:'", text)
