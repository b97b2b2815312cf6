"""
The exactness suite: every case, one after the other.

The rule of this room: each case has its own connections and its own deadline, and leaves
nothing behind, whatever the server does to it.
"""

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import TimeoutError

from echod.check.cases import CASES, Case, Steps
from echod.check.connect import Dial, within
from echod.check.pattern import PERIOD, Pattern
from echod.check.results import CaseResult, Failed, Outcome


async def run_case(
    name: str, steps: Steps, clock: Any, dial: Dial, timeout_seconds: float
) -> CaseResult:
    """
    Run one case, however it ends.
    """
    case = Case(clock, dial, timeout_seconds, Pattern.random(PERIOD))
    start = clock.seconds()
    failure = None
    try:
        await within(clock, timeout_seconds, steps(case))
    except Failed as error:
        failure = error
    except TimeoutError:
        failure = Failed(Outcome.TIMED_OUT, f"after {timeout_seconds:g} s")
    finally:
        case.end()
    lost = sum(each.comparison.lost for each in case.exchanges)
    sent = sum(each.comparison.size for each in case.exchanges)
    return CaseResult(name, sent, lost, clock.seconds() - start, failure)


async def conformance(
    clock: Any, dial: Dial, timeout_seconds: float, told: Callable[[CaseResult], None]
) -> bool:
    """
    Run the suite.

    @param timeout_seconds: for each case.
    @param told: told each result as it is known.
    @return: whether all passed.
    """
    passed = True
    for name, steps in CASES:
        result = await run_case(name, steps, clock, dial, timeout_seconds)
        told(result)
        passed = passed and result.passed
    return passed
