"""
A Debian with systemd, and echod installed by the commands of its unit.

Invariant: the Debian is never written to.
"""

import atexit
import functools
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.support import needs
from tests.support.debian import alone, debian, run

REPOSITORY = Path(__file__).resolve().parents[2]

ASKED = os.environ.get("ECHOD_TEST_SYSTEM", "")

SUITE = ASKED if ASKED.isalpha() else "bookworm"
RECIPE = ("--variant=minbase", "--include=systemd,systemd-sysv,dbus,python3,python3-venv")

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


def tree() -> tuple[Path, str]:
    """
    The folder with the Debian.

    @return: the folder, and how it was made, in words.
    """
    return debian(SUITE, RECIPE)


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
    @raise SkipTest: there is no package index.
    """
    needs.package_index()
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
