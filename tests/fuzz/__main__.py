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
    with ExitStack() as stack:
        targets = [
            stack.enter_context(target())
            for target in TARGETS
            if options.target in (None, target.name)
        ]
        examples = dict.fromkeys(targets, 0)
        spent = dict.fromkeys(targets, 0.0)
        rounds = 0
        while options.rounds != rounds and (options.rounds or time.monotonic() < end):
            # Each has the same share of the time.
            target = min(targets, key=lambda each: spent[each])
            start = time.monotonic()
            try:
                examples[target] += target.round(number)
            except Exception:
                traceback.print_exc(file=sys.stdout)
                print(replay(target.name, number))
                sys.exit(1)
            spent[target] += time.monotonic() - start
            rounds += 1
            number += 1
    for target in targets:
        print(f"{target.name}: {examples[target]} examples in {spent[target]:.0f} s")
    print(f"{rounds} rounds, the last with seed {number - 1}: no failure")


if __name__ == "__main__":
    main()
