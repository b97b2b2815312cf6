"""
C{python -m tests.fuzz [--seconds N] [--target NAME] [--seed N [--rounds N]]}: fuzz all targets in
turn, and stop at the first failure.

Invariant: the last line of a failure is the command that plays it again.
"""

import argparse
import random
import sys
import time
import traceback
from contextlib import ExitStack

from tests.fuzz import TARGETS
from tests.fuzz.target import replay


def main() -> None:
    names = [target.name for target in TARGETS]
    parser = argparse.ArgumentParser(description="Fuzz echod.")
    parser.add_argument("--seconds", type=float, default=600, help="for how long (600)")
    parser.add_argument("--target", choices=names, help="this one only")
    parser.add_argument("--seed", type=int, help="of the first round (at random)")
    parser.add_argument("--rounds", type=int, help="how many rounds, however long they take")
    options = parser.parse_args()
    number = random.SystemRandom().randrange(2**31) if options.seed is None else options.seed
    print(f"the first seed is {number}", flush=True)
    end = time.monotonic() + options.seconds
    played: list[str] = []
    examples: dict[str, int] = dict.fromkeys(names, 0)
    spent = {name: 0.0 for name in names if options.target in (None, name)}
    try:
        with ExitStack() as stack:
            targets = {
                target.name: stack.enter_context(target())
                for target in TARGETS
                if target.name in spent
            }
            while options.rounds != len(played) and (options.rounds or time.monotonic() < end):
                # Each has the same share of the time.
                name = min(spent, key=lambda each: spent[each])
                played.append(replay(name, number))
                start = time.monotonic()
                examples[name] += targets[name].round(number)
                spent[name] += time.monotonic() - start
                number += 1
    except Exception:
        traceback.print_exc(file=sys.stdout)
        print(played[-1] if played else "no round was played")
        sys.exit(1)
    for name, seconds in spent.items():
        print(f"{name}: {examples[name]} examples in {seconds:.0f} s")
    print(f"{len(played)} rounds, the last with seed {number - 1}: no failure")


if __name__ == "__main__":
    main()
