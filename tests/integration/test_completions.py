"""
The completions, in the shells that they are for.
"""

import subprocess

from twisted.trial.unittest import SynchronousTestCase

from tests.support import needs
from tests.support.completions import FOLDER, PROGRAMS

COMPLETE = """
. "$1"
shift
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMPREPLY=()
"_${1//-/_}"
printf '%s\n' "${COMPREPLY[@]}"
"""


def complete(program: str, *words: str) -> list[str]:
    """
    What bash offers after some words, of which the last is not complete.
    """
    done = subprocess.run(
        ["bash", "-c", COMPLETE, "sh", str(FOLDER / f"{program}.bash"), program, *words],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    if done.stderr:
        raise AssertionError(done.stderr)
    return done.stdout.split()


class BashTests(SynchronousTestCase):
    """
    bash.
    """

    skip = needs.lacking("bash")

    def test_options(self) -> None:
        """
        The beginning of an option becomes the option.
        """
        for program, word, expected in (
            ("echod", "--log-", ["--log-format", "--log-level"]),
            ("echod", "--tls-self", ["--tls-self-signed"]),
            ("echod-check", "--conf", ["--conformance"]),
        ):
            self.assertEqual(sorted(complete(program, word)), expected)
        self.assertIn("--port", complete("echod", ""))
        self.assertEqual(complete("echod", "--nosuch"), [])

    def test_values(self) -> None:
        """
        After an option come its values, files, or nothing.
        """
        choices = ["debug", "error", "info", "warn"]
        self.assertEqual(sorted(complete("echod", "--log-level", "")), choices)
        self.assertEqual(complete("echod", "--log-level", "w"), ["warn"])
        self.assertEqual(complete("echod", "--log-level", "=", "w"), ["warn"])
        self.assertEqual(sorted(complete("echod", "--log-level", "=")), choices)
        self.assertIn("/dev/null", complete("echod", "--tls-cert", "/dev/nul"))
        for option in ("--port", "-p", "--allow"):
            self.assertEqual(complete("echod", option, ""), [])


class ZshTests(SynchronousTestCase):
    """
    zsh.
    """

    skip = needs.lacking("zsh")

    def test_syntax(self) -> None:
        """
        zsh accepts each function, and finds the command that it is for.
        """
        for program in PROGRAMS:
            path = FOLDER / f"_{program}"
            done = subprocess.run(
                ["zsh", "-f", "-n", str(path)], capture_output=True, text=True, timeout=60
            )
            self.assertEqual((done.returncode, done.stderr), (0, ""))
            self.assertEqual(path.read_text().splitlines()[0], f"#compdef {program}")
        found = subprocess.run(
            [
                *("zsh", "-f", "-c"),
                'fpath=("$1" $fpath); autoload -U compinit; compinit -D -u; print $_comps[echod]',
                *("zsh", str(FOLDER)),
            ],
            capture_output=True,
            text=True,
            timeout=60,
        )
        self.assertEqual((found.stdout, found.stderr), ("_echod\n", ""))
