"""
What all targets have in common: a round of examples from one seed.

Invariant: a round that fails ends soon, also when each example that fails waits for a deadline.
"""

import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Protocol

from hypothesis import HealthCheck, given, seed, settings
from hypothesis.strategies import SearchStrategy

SHRINK_SECONDS = 60.0
"""How long after the start of the first example that fails smaller ones are played."""


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
    Make examples, and look for the smallest that fails, for C{SHRINK_SECONDS}.  No example that
    fails is played twice, so a failure that comes only sometimes is reported like any other.

    @param check: called with each; raises an exception if it fails.
    @param number: the seed.
    @return: how many were played.
    """
    played = 0
    failures: dict[str, tuple[Exception, TracebackType | None]] = {}
    end = float("inf")

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
        nonlocal played, end
        if found := failures.get(repr(case)):
            failure, place = found
            raise failure.with_traceback(place)
        start = time.monotonic()
        if start > end:
            # hypothesis takes it for one that passes, and ends with the smallest so far.
            return
        played += 1
        try:
            check(case)
        except Exception as error:
            failures[repr(case)] = error, error.__traceback__
            end = min(end, start + SHRINK_SECONDS)
            raise

    example()
    return played
