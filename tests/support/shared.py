"""
What takes long to make and is made once for all processes of C{trial -j}.

Invariant: the last process that ends removes it; so a new run makes it anew.
"""

import atexit
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def _join(folder: Path) -> None:
    """
    Make the folder, and remove it at the end, unless another process still uses it.
    """
    while True:
        folder.mkdir(mode=0o700, exist_ok=True)
        if folder.lstat().st_uid != os.getuid():
            raise AssertionError(f"{folder} belongs to another user")
        with suppress(FileNotFoundError):
            users = os.open(folder / "users", os.O_CREAT | os.O_RDWR)
            fcntl.flock(users, fcntl.LOCK_SH)
            # Unless the last one has removed it meanwhile.
            if os.fstat(users).st_nlink:
                break
            os.close(users)

    def leave() -> None:
        fcntl.flock(users, fcntl.LOCK_UN)
        with suppress(BlockingIOError):
            fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder)

    atexit.register(leave)


@contextmanager
def shared(name: str) -> Iterator[Path]:
    """
    Lock a folder against the other processes of this run, for the length of the C{with} block.  It
    stays until the last of them ends.  To be called once in a process for each name.

    @param name: of what is made there.
    @return: the folder; empty but for the locks, or with what another process has made there.
    """
    parent = os.getppid()
    # A process ID is used again, but not with the same start time (proc(5)).
    started = Path(f"/proc/{parent}/stat").read_text().rpartition(")")[2].split()[19]
    run = f"{os.getuid()}-{parent}-{started}-{ROOT.stat().st_ino}"
    folder = Path(tempfile.gettempdir(), f"echod-{name}-{run}")
    _join(folder)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder
