"""
A Debian that debootstrap(8) makes once and that is kept in a cache.

Invariant: the name of a cached tree is derived from what it was made of, so it equals a new one.
"""

import fcntl
import functools
import hashlib
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Debian's servers may be slow, and must not be waited for for ever.
MAX_SECONDS = 900.0


def cache() -> Path:
    """
    The folder where tests keep what takes long to make or comes from elsewhere.
    """
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(base) / "echod"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def alone(seconds: float = MAX_SECONDS) -> Iterator[None]:
    """
    Lock the tree against other processes that make or boot it, for the length of the C{with}
    block: systemd-nspawn refuses to share one.
    """
    deadline = time.monotonic() + seconds
    with (cache() / "lock").open("w") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
        yield


def run(*command: str, seconds: float = MAX_SECONDS) -> str:
    """
    Run a command; its output is in the error if it fails.
    """
    # A deprecated call of Debian's own programs is no error.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONWARNINGS"}
    done = subprocess.run(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=seconds,
    )
    if done.returncode:
        raise AssertionError(f"{' '.join(command)}: status {done.returncode}\n{done.stdout}")
    return done.stdout


@functools.cache
def debian(suite: str, recipe: tuple[str, ...]) -> tuple[Path, str]:
    """
    The folder with a Debian.

    @param recipe: the options of debootstrap(8).
    @return: the folder, and how it was made, in words.
    """
    made_of = " ".join((suite, *recipe, os.uname().machine))
    name = f"{suite}-{hashlib.sha256(made_of.encode()).hexdigest()[:12]}"
    folder = cache() / name
    if folder.exists():
        return folder, "from the cache"
    began = time.monotonic()
    with alone():
        if not folder.exists():
            with tempfile.TemporaryDirectory(dir=cache(), prefix=f"{name}.") as unfinished:
                # What debootstrap mounts ends with it, in whatever way that ends.
                run(
                    *("unshare", "--mount", "--propagation", "private"),
                    *("debootstrap", *recipe, suite, f"{unfinished}/tree"),
                )
                Path(unfinished, "tree").rename(folder)
    return folder, f"made in {time.monotonic() - began:.0f} s"
