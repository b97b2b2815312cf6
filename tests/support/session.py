"""
What the tests of one run need once, whichever of trial's processes they run in (C{trial -j}).

Invariant: it is in a folder of the run, which trial's own process makes when it loads the tests,
names to its workers in their environment, and removes at its end.
"""

import atexit
import fcntl
import functools
import os
import pickle
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

_NAME = "ECHOD_TEST_SESSION"

if _NAME not in os.environ:
    os.environ[_NAME] = tempfile.mkdtemp(prefix="echod-")
    # A container's process may look into it.
    os.chmod(os.environ[_NAME], 0o755)
    atexit.register(shutil.rmtree, os.environ[_NAME], ignore_errors=True)


def once(make: Callable[[Path], T]) -> Callable[[], T]:
    """
    A function that is called once in all of the run.

    @param make: makes it, in an empty folder; the result must be one for L{pickle}.
    """

    @functools.cache
    def made() -> T:
        folder = Path(os.environ[_NAME], make.__name__)
        result = folder.with_suffix(".pickle")
        with folder.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if result.exists():
                found: T = pickle.loads(result.read_bytes())
                return found
            # Another process may have failed with it.
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            value = make(folder)
            result.write_bytes(pickle.dumps(value))
        return value

    return made
