"""
The command line of a program, as its help and a shell's completion show it: options in groups, each
with the name of its value.

Invariant: what is printed is at most 80 columns wide, and each option is in one group.
"""

import shutil
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from getopt import GetoptError, getopt
from typing import NoReturn

from twisted.python.usage import (
    CompleteFiles,
    CompleteList,
    Completer,
    Completions,
    Options as UsageOptions,
    UsageError,
)

from echod._util.stdio import report_output_error
from echod._util.text import format_timeout

MIN_COLUMNS = 40
MAX_COLUMNS = 80
TEXT_COLUMN = 26
"""The column at which the text of an option begins."""

Groups = Mapping[str, Mapping[str, str]]
"""
The options of each group, by its title: for each option, the name of its value, such as C{PORT}, or
an empty text for a flag.  C{a|b} names all values, and a shell completes those and C{FILE}.
"""


class CommandOptions(UsageOptions):
    """
    The options of a program.

    @cvar program: the name of the program.
    @cvar synopsis: what follows the name of the program.
    @cvar groups: the options as the help shows them, in this order.
    @cvar examples: command lines, each with what it does; the help ends with them.
    @cvar repeatable: the options that may be given several times.
    @cvar output_error_status: the exit status if the help or the version cannot be written.
    """

    program = ""
    synopsis = "[options]"
    longdesc = ""
    groups: Groups = {}
    examples: Sequence[tuple[str, str]] = ()
    repeatable: frozenset[str] = frozenset()
    output_error_status = 1
    compData: Completions

    given_names: frozenset[str] = frozenset()
    """The options that stand on the command line."""

    def __init_subclass__(cls) -> None:
        # What Twisted reads when a shell completes the options.
        super().__init_subclass__()
        cls.compData = completions(cls.groups, cls.repeatable)

    def __init__(self) -> None:
        super().__init__()
        # Join the lines of each docstring.  Under python -OO there are no docstrings.
        self.docs = {name: " ".join((text or "").split()) for name, text in self.docs.items()}

    def opt_help(self) -> None:
        """
        Print this help and exit.
        """
        self.print_and_exit(str(self))

    opt_h = opt_help

    def print_and_exit(self, text: str) -> NoReturn:
        """
        Print the answer to an option that asks for nothing else.

        @raise SystemExit: always; after one line on standard error if standard output cannot be
            written, such as after C{| head}.
        """
        try:
            # Python itself flushes only at exit, and would print a traceback.
            print(text, flush=True)
        except OSError as error:
            report_output_error(self.program, error, sys.stdout, sys.stderr)
            raise SystemExit(self.output_error_status) from None
        raise SystemExit(0)

    def getSynopsis(self) -> str:
        """
        The line with the name of the program.
        """
        if self.parent is None:
            return f"Usage: {self.program} {self.synopsis}"
        parent = self.parent.getSynopsis().removesuffix(" plugin [plugin_options]")
        return f"{parent} {self.program} {self.synopsis}"

    def getUsage(self, width: int | None = None) -> str:
        """
        The help without its first line.

        @param width: in columns; C{None} for that of the terminal, and at most 80.
        """
        columns = width or min(MAX_COLUMNS, shutil.get_terminal_size((MAX_COLUMNS, 0)).columns)
        return "\n".join(self._help(max(columns, MIN_COLUMNS))) + "\n"

    def _help(self, columns: int) -> Iterator[str]:
        yield ""
        yield from _wrap(self.longdesc, columns)
        for title, names in self.groups.items():
            yield f"\n{title}:"
            for name, value in names.items():
                yield from self._option(name, value, columns)
        for title, lines in self.epilog():
            yield f"\n{title}:"
            for line in lines:
                yield from _wrap(line, columns, "  ", "      ")
        if self.examples:
            yield "\nExamples:" if len(self.examples) > 1 else "\nExample:"
            for command, purpose in self.examples:
                # A command is never broken, so that it can be copied.
                yield f"  {command}"
                yield from _wrap(purpose, columns, "      ")

    def epilog(self) -> Sequence[tuple[str, Sequence[str]]]:
        """
        Further sections after the options: a title, and lines.
        """
        return ()

    def _option(self, name: str, value: str, columns: int) -> Iterator[str]:
        short = next((each for each in self.synonyms if self._is_short_of(each, name)), "")
        left = (f"  -{short}, --{name}" if short else f"  --{name}") + (value and f" {value}")
        lines = _wrap(self._text(name), columns - TEXT_COLUMN)
        if len(left) > TEXT_COLUMN - 2:
            yield left
        else:
            yield f"{left:{TEXT_COLUMN}}{lines.pop(0)}"
        yield from (f"{'':{TEXT_COLUMN}}{line}" for line in lines)

    def _is_short_of(self, synonym: str, name: str) -> bool:
        return len(synonym) == 1 and self.synonyms[synonym] == name

    def _text(self, name: str) -> str:
        text: str = self.docs[name]
        default = self.defaults.get(name)
        if default is None or "[default" in text or f"{name}=" not in self.longOpt:
            return text
        shown = format_timeout(default) if isinstance(default, float) else default
        # With a no-break space, so that the default stays on one line.
        return f"{text} [default:\xa0{shown}]"

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """
        Parse the command line.

        @raise UsageError: also if an option that is not repeatable is given twice with a value.
        """
        self.given_names = self._names(sys.argv[1:] if options is None else options)
        super().parseOptions(options)

    def _names(self, given: Sequence[str]) -> frozenset[str]:
        try:
            pairs = getopt(list(given), self.shortOpt, self.longOpt)[0]
        except GetoptError:
            # Twisted's own parser reports it.
            return frozenset()
        seen = set()
        for option, _ in pairs:
            name = self.synonyms[option.lstrip("-")]
            has_value = f"{name}=" in self.longOpt
            if name in seen and has_value and name not in self.repeatable:
                raise UsageError(f"--{name}: given twice; give it once")
            seen.add(name)
        return frozenset(seen)


def completions(groups: Groups, repeatable: frozenset[str] = frozenset()) -> Completions:
    """
    What a shell needs to complete the options, for C{compData} of Twisted's options.
    """
    actions = {
        name: _completer(value)
        for names in groups.values()
        for name, value in names.items()
        if value
    }
    return Completions(optActions=actions, multiUse=sorted(repeatable))


def _completer(value: str) -> Completer:
    if "|" in value:
        return CompleteList(value.split("|"), descr="value")
    return CompleteFiles(descr=value) if value == "FILE" else Completer(descr=value)


def _wrap(text: str, columns: int, first: str = "", other: str | None = None) -> list[str]:
    lines = textwrap.wrap(
        text,
        columns,
        initial_indent=first,
        subsequent_indent=first if other is None else other,
        # What looks like a long word is an address or an option, which is copied whole.
        break_long_words=False,
        break_on_hyphens=False,
    )
    return [line.replace("\xa0", " ") for line in lines] or [""]
