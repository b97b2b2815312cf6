"""
A Debian with systemd, and echod installed by the commands of its unit.  It is made once, kept in a
cache, and never written to again.

Invariant: the name of the cache is derived from what it was made of, so a cached tree equals a new
one.
"""

import atexit
import fcntl
import functools
import hashlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support import needs

REPOSITORY = Path(__file__).resolve().parents[2]

ASKED = os.environ.get("ECHOD_TEST_SYSTEM", "")

SUITE = ASKED if ASKED.isalpha() else "bookworm"
RECIPE = ("--variant=minbase", "--include=systemd,systemd-sysv,dbus,python3,python3-venv")

# Debian's servers may be slow, and must not be waited for for ever.
MAX_SECONDS = 900.0

PROGRAMS = ("debootstrap", "systemd-nspawn", "nsenter", "unshare")


def missing() -> str | None:
    """
    Why the system tests are skipped; C{None} if they are not.
    """
    if not ASKED:
        return "boots a Debian of its own: set ECHOD_TEST_SYSTEM=1, as root, to run it"
    if os.geteuid() != 0:
        return "needs root"
    if lacking := needs.lacking(*PROGRAMS):
        return lacking
    namespaces = ["unshare", "--mount", "--net", "--pid", "--fork", "true"]
    if subprocess.run(namespaces, capture_output=True).returncode:
        return "needs unshare --mount --net --pid"
    return None


def cache() -> Path:
    """
    The folder where trees are kept.
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
def tree() -> tuple[Path, str]:
    """
    The folder with the Debian.

    @return: the folder, and how it was made, in words.
    """
    made_of = " ".join((SUITE, *RECIPE, os.uname().machine))
    name = f"{SUITE}-{hashlib.sha256(made_of.encode()).hexdigest()[:12]}"
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
                    *("debootstrap", *RECIPE, SUITE, f"{unfinished}/tree"),
                )
                Path(unfinished, "tree").rename(folder)
    return folder, f"made in {time.monotonic() - began:.0f} s"


def container(folder: Path, *arguments: str) -> list[str]:
    """
    The command that runs a program in the Debian.  What the program writes is dropped at its
    end.
    """
    return [
        *("systemd-nspawn", "--quiet", f"--directory={folder}", f"--machine=echod-{os.getpid()}"),
        *("--volatile=overlay", "--register=no", "--keep-unit", "--private-network"),
        *arguments,
    ]


@functools.cache
def installation() -> Path:
    """
    Make the virtual environment C{/opt/echod}, by the commands of C{deploy/echod.service},
    with the interpreter of the Debian, from wheels that were fetched outside it.

    @return: the folder, which is removed when this process ends.
    """
    made = tempfile.TemporaryDirectory(prefix="echod-system-")
    atexit.register(made.cleanup)
    folder, _ = tree()
    environment, wheels = Path(made.name, "opt"), Path(made.name, "wheels")
    environment.mkdir()
    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
    run(*pip, "wheel", "--no-deps", f"--wheel-dir={wheels}", str(REPOSITORY))
    [wheel] = wheels.iterdir()
    version = (folder / "usr/bin/python3").readlink().name.removeprefix("python")
    fit = ("--only-binary=:all:", f"--python-version={version}")
    run(*pip, "download", *fit, f"--dest={wheels}", f"{wheel}[metrics]")
    steps = (
        "python3 -m venv /opt/echod",
        "/opt/echod/bin/pip install --quiet --no-index --find-links=/wheels 'echod[metrics]'",
        "/opt/echod/bin/twistd --help >/dev/null",
    )
    with alone():
        binds = (f"--bind={environment}:/opt/echod", f"--bind-ro={wheels}:/wheels", "--pipe")
        run(*container(folder, *binds, "/bin/sh", "-ec", "\n".join(steps)))
    return environment
