"""
What C{echod-check} finds on listeners that misbehave on purpose.

Invariant: daemon and client are the real ones, each in a process of its own.
"""

import json
import os
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tests.support import prefork
from tests.support.daemons import LOOPBACK, PATIENCE_SECONDS, Daemon, tls_daemon

PROGRAM = str(Path(sys.executable).with_name("echod-check"))

FAULTS = (
    ("latency=5ms,jitter=1ms", "60s"),
    ("bandwidth=64KiB", "500ms"),
    ("slicer=16KiB", "60s"),
    ("limit=16KiB", "60s"),
    ("reset=16KiB", "60s"),
    ("timeout", "300ms"),
    ("slow-close=100ms", "60s"),
    ("corrupt=16KiB", "60s"),
    ("refuse", "60s"),
)
"""Each fault, and the timeout of a case: short only if nothing can come in time."""


def find(fault: str, timeout: str, tls: bool) -> Iterator[tuple[str, str]]:
    """
    Run C{echod-check --conformance} against a listener with this fault.

    @param timeout: of each case.
    @return: for each case its name, and how it ended.
    """
    daemon = tls_daemon("--fault", fault) if tls else Daemon(*LOOPBACK, "--fault", fault)
    with daemon:
        address = daemon.address("--tls-port" if tls else "--port")
        options = ("--tls", "--insecure") if tls else ()
        done = prefork.shared().run(
            [PROGRAM, "--conformance", "--json", "--timeout", timeout, *options, address],
            daemon.directory,
            os.environ,
            PATIENCE_SECONDS * 5,
        )
    for case in json.loads(done.stdout)["cases"]:
        yield case["case"], case["outcome"]


def finding(fault: str, timeout: str, tls: bool) -> str:
    """
    The finding in words: how the cases ended that did not pass, or C{ok}.
    """
    counts = Counter(outcome for _, outcome in find(fault, timeout, tls))
    ends = ("reset", "closed early")
    if all(counts[end] for end in ends):
        # On a busy machine some cases show the one as the other: poll(2) can see the hang-up of a
        # reset before the error; and a close with linger has a time limit, after which it resets.
        del counts[min(ends, key=counts.__getitem__)]
    return ", ".join(sorted(set(counts) - {"ok"})) or "ok"
