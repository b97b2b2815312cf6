"""
What bash and zsh complete for C{echod} and C{echod-check}: C{python -m tests.support.completions}
writes the files of C{deploy/completions/} again.

For zsh, Twisted makes the function (C{twisted.python.usage.Completions}).
"""

import io
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from twisted.python.usage import (
    CompleteFiles,
    CompleteList,
    Completions,
    Options as UsageOptions,
)

from echod.check.options import CheckOptions
from echod.options import Options

FOLDER = Path(__file__).resolve().parents[2] / "deploy" / "completions"

PROGRAMS: dict[str, type[UsageOptions]] = {"echod": Options, "echod-check": CheckOptions}

BASH = """\
# bash completion for {program}; made by tests/support/completions.py
_{function}() {{
    local word=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}}
    # readline splits words at "=".
    if [[ $word == = ]]; then
        word=
    elif [[ $before == = ]]; then
        before=${{COMP_WORDS[COMP_CWORD-2]}}
    fi
    case $before in
{cases}
        {others})
            return ;;
    esac
    COMPREPLY=($(compgen -W '{options}' -- "$word"))
}}
complete -F _{function} {program}
"""


def zsh(program: str) -> str:
    """
    The completion function for zsh.
    """
    options, out, argv = PROGRAMS[program](), io.BytesIO(), sys.argv
    # Twisted takes the name of the program from here.
    sys.argv = [program]
    try:
        options._shellCompFile = out
        with suppress(SystemExit):
            UsageOptions.parseOptions(options, ["", "--_shell-completion", "zsh:2"])
    finally:
        sys.argv = argv
    return out.getvalue().decode()


def _names(options: UsageOptions, name: str) -> Iterator[str]:
    for short, long in options.synonyms.items():
        if len(short) == 1 and long == name:
            yield f"-{short}"
    yield f"--{name}"


def bash(program: str) -> str:
    """
    The completion function for bash.
    """
    options = PROGRAMS[program]()
    actions = getattr(options, "compData", Completions()).optActions
    taking = [name.removesuffix("=") for name in options.longOpt if name.endswith("=")]
    cases, others = [], []
    for name in taking:
        pattern = "|".join(_names(options, name))
        action = actions.get(name)
        if isinstance(action, CompleteList):
            words = " ".join(action._items)
            reply = f"compgen -W '{words}' -- \"$word\""
        elif isinstance(action, CompleteFiles):
            reply = 'compgen -f -- "$word"'
        else:
            others.append(pattern)
            continue
        cases += [
            f"        {pattern})",
            f"            COMPREPLY=($({reply}))",
            "            return ;;",
        ]
    names = " ".join(f"--{name.removesuffix('=')}" for name in options.longOpt)
    return BASH.format(
        program=program,
        function=program.replace("-", "_"),
        cases="\n".join(cases),
        others="|".join(others),
        options=names,
    )


def files() -> dict[str, str]:
    """
    The files by their names, each with its content.
    """
    made = {f"{program}.bash": bash(program) for program in PROGRAMS}
    return made | {f"_{program}": zsh(program) for program in PROGRAMS}


def main() -> None:
    """
    Write the files.
    """
    FOLDER.mkdir(exist_ok=True)
    for name, content in files().items():
        (FOLDER / name).write_text(content)


if __name__ == "__main__":
    main()
