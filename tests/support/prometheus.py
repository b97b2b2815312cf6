"""
Prometheus' own tools.
"""

import subprocess

from tests.support import needs


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
        # It takes ten seconds of CPU, and many threads.
        timeout=600,
    )
    if done.returncode:
        raise AssertionError(done.stdout)
    return done.stdout
