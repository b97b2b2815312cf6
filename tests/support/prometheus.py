"""
Prometheus' own tools.
"""

import subprocess

from tests.support import needs


def promtool(*arguments: str) -> str:
    """
    Run it.

    @return: what it said.
    @raise AssertionError: when it finds fault with something.
    """
    done = subprocess.run(
        [needs.program("promtool"), *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
    )
    if done.returncode:
        raise AssertionError(done.stdout)
    return done.stdout
