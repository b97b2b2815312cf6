"""
What all targets have in common: a round of examples from one seed.
"""

from collections.abc import Callable
from typing import Any, Protocol

from hypothesis import HealthCheck, given, seed, settings
from hypothesis.strategies import SearchStrategy


class ITarget(Protocol):
    """
    Something to fuzz, for the length of a C{with} block.

    @cvar name: its name, for the command line.
    """

    name: str

    def __enter__(self) -> "ITarget": ...
    def __exit__(self, *error: Any) -> None: ...

    def round(self, number: int) -> int:
        """
        Play a round.

        @param number: its seed.
        @return: how many examples there were.
        @raise Exception: if one fails; its notes have the smallest example that was found.
        """


def replay(name: str, number: int) -> str:
    """
    The command that plays a round again.
    """
    return f"python -m tests.fuzz --target {name} --seed {number} --rounds 1"


def play(
    strategy: SearchStrategy[Any], check: Callable[[Any], None], number: int, examples: int
) -> int:
    """
    Make examples, and look for the smallest that fails.

    @param check: called with each; raises an exception if it fails.
    @param number: the seed.
    @return: how many were played.
    """
    played = 0

    @seed(number)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def example(case: Any) -> None:
        nonlocal played
        played += 1
        check(case)

    example()
    return played
