"""
Twisted's own reactor tests, run against L{EagerReactor<echod.net.reactor.EagerReactor>}.

The modules come with Twisted; each class of theirs that tests a reactor is asked for its
test cases with ours.
"""

from collections.abc import Callable
from importlib import import_module
from unittest import SkipTest, TestCase

from echod.net.reactor import EagerReactor

MODULES = (
    "core",
    "endpoints",
    "fdset",
    "posixbase",
    "process",
    "sigchld",
    "socket",
    "tcp",
    "threads",
    "time",
    "tls",
    "udp",
    "unix",
)

NOT_RUN = {
    "test_logPrefix": "no logging context is set up for each event: that is what made it dear",
    "test_lostFileDescriptor": "epoll cannot show it; the test itself skips Twisted's by name",
    "test_changeUID": "wants an interpreter that every user may read, and runs no code of ours",
}
"""
Tests of Twisted's that are not run, each with the reason.
"""


def _skipped(reason: str) -> Callable[[TestCase], None]:
    def test(self: TestCase) -> None:
        raise SkipTest(reason)

    return test


def _cases() -> dict[str, type[TestCase]]:
    cases: dict[str, type[TestCase]] = {}
    reactor = f"{EagerReactor.__module__}.{EagerReactor.__name__}"
    for name in MODULES:
        module = import_module(f"twisted.internet.test.test_{name}")
        for builder in list(vars(module).values()):
            # A builder is a test, and not only a base of some, when Twisted runs it too.
            builder_name = getattr(builder, "__name__", "")
            if not hasattr(module, f"{builder_name}_EPollReactorTests"):
                continue
            ours = type(builder_name, (builder,), {"_reactors": [reactor]})
            for case in ours.makeTestCaseClasses().values():
                for test, reason in NOT_RUN.items():
                    if hasattr(case, test):
                        setattr(case, test, _skipped(reason))
                # By this name, trial's workers find it again.
                case.__name__ = case.__qualname__ = f"{name}_{case.__name__}"
                cases[case.__name__] = case
    return cases


globals().update(_cases())
