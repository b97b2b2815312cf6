"""
Prometheus' own tools.
"""

import subprocess

from tests.support import needs

TEST_SECONDS = 120.0
"""The deadline; the rules' tests take three seconds of CPU time."""


def promtool(*arguments: str) -> str:
    """
    Run C{promtool}.

    @return: its output.
    @raise AssertionError: it has failed.
    """
    done = subprocess.run(
        [needs.program("promtool"), *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TEST_SECONDS,
    )
    if done.returncode:
        raise AssertionError(done.stdout)
    return done.stdout
