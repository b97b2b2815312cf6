"""
The container image as buildah makes and runs it, an engine for OCI images.

Invariant: nothing is pulled.  A Debian with Python takes the place of the base image, and has the
packages that the Dockerfile installs.
"""

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any
from unittest import SkipTest

from tests.support import needs
from tests.support.container import DOCKERFILE, ROOT
from tests.support.debian import MAX_SECONDS, alone, debian, run

SUITE = "bookworm"
RECIPE = ("--variant=minbase", "--include=python3,python3-venv,python3-pip")

ENTER = ("unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh")
"""Runs a command in a network namespace of its own, with its loopback interface up."""

UNUSED = ("var/cache", "var/lib/apt", "usr/share/doc", "usr/share/locale", "usr/share/i18n")
"""What of the Debian is not copied: the image does without it."""

BASE = "localhost/debian"
"""The name of an image with the rest of it."""

PIP_CONF = "[global]\nno-index = true\nfind-links = /srv/wheels\n"


def _base(tree: Path, program: tuple[str, ...]) -> Path:
    """
    The store of images with the Debian, which is made once, as that takes long.

    @param tree: the Debian, whose name the store is derived from.
    @param program: buildah without a store.
    """
    store = tree.with_name(f"{tree.name}-{hashlib.sha256(repr(UNUSED).encode()).hexdigest()[:12]}")
    with alone():
        if store.exists():
            return store
        with tempfile.TemporaryDirectory(dir=tree.parent, prefix=f"{store.name}.") as unfinished:
            unused = Path(unfinished, "unused")
            unused.write_text("\n".join(UNUSED))
            made = (*program, "--root", f"{unfinished}/store")
            base = run(*made, "from", "scratch").strip()
            add = ("add", "--contextdir", str(tree), "--ignorefile", str(unused))
            run(*made, *add, base, str(tree), "/")
            run(*made, "commit", base, BASE)
            run(*made, "rm", base)
            Path(unfinished, "store").rename(store)
    return store


class Buildah:
    """
    A store of images that is removed at the end.
    """

    def __init__(self) -> None:
        """
        @raise SkipTest: a program or a right is missing, or no Debian can be made.
        """
        program = needs.program("buildah")
        for each in ("debootstrap", "unshare", "ip"):
            needs.program(each)
        namespaces = ["unshare", "--mount", "--net", "true"]
        if subprocess.run(namespaces, capture_output=True, timeout=60).returncode:
            raise SkipTest("needs unshare --mount --net")
        try:
            self._tree, _ = debian(SUITE, RECIPE)
        except (AssertionError, subprocess.TimeoutExpired) as error:
            raise SkipTest(f"needs a Debian: {str(error).splitlines()[0]}") from None
        self._folder = Path(tempfile.mkdtemp(prefix="echod-buildah-"))
        run_root = ("--runroot", f"{self._folder}/run", "--storage-driver", "overlay")
        try:
            base = _base(self._tree, (program, *run_root))
        except BaseException:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise
        self._program = (
            *(program, *run_root, "--root", f"{self._folder}/store"),
            *("--storage-opt", f"overlay.imagestore={base}"),
        )

    def run(self, *command: str) -> str:
        """
        Run a command of buildah.

        @return: its output.
        @raise AssertionError: if it fails.
        """
        return run(*self._program, *command)

    def _wheels(self) -> Path:
        """
        The packages that the Dockerfile installs, for the Python of the Debian.

        @raise SkipTest: there is no package index.
        """
        wheels = self._folder / "wheels"
        needs.package_index()
        version = (self._tree / "usr/bin/python3").readlink().name.removeprefix("python")
        pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
        run(*pip, "wheel", "--no-deps", f"--wheel-dir={wheels}", str(ROOT))
        [echod] = wheels.iterdir()
        fit = ("--only-binary=:all:", f"--python-version={version}", f"--dest={wheels}")
        run(*pip, "download", *fit, f"{echod}[metrics]", "hatchling")
        echod.unlink()
        return wheels

    def build(self, *options: str) -> str:
        """
        Build the image from the Dockerfile.

        @param options: further options of C{buildah build}.
        @return: its name.
        """
        files = self._folder / "files"
        shutil.copytree(self._wheels(), files / "srv/wheels")
        (files / "etc").mkdir()
        (files / "etc/pip.conf").write_text(PIP_CONF)
        (files / "usr/bin").mkdir(parents=True)
        (files / "usr/bin/python").symlink_to("python3")
        base = self.run("from", "--pull=never", BASE).strip()
        self.run("add", base, str(files), "/")
        self.run("config", "--env", "PATH=/usr/bin:/bin:/usr/sbin:/sbin", base)
        self.run("commit", base, "docker.io/library/python:3.11-slim")
        self.run("rm", base)
        run(
            *(*ENTER, *self._program, "build", *options, "--isolation", "chroot", "--pull=never"),
            *("--build-arg", "PYTHON=3.11", "--file", str(DOCKERFILE), "--tag", "echod"),
            str(ROOT),
        )
        return "localhost/echod"

    def inspect(self, image: str) -> dict[str, Any]:
        """
        The configuration of an image, as Docker and podman read it.
        """
        found: dict[str, Any] = json.loads(self.run("inspect", "--type", "image", image))["Docker"]
        return found

    def execute(self, image: str, *command: str) -> subprocess.CompletedProcess[str]:
        """
        Run a command in a container of the image, with a network of its own and without any
        capability.
        """
        container = self.run("from", "--pull=never", image).strip()
        return subprocess.run(
            (
                *(*ENTER, *self._program, "run", "--isolation", "chroot", "--cap-drop", "ALL"),
                *(container, "--", *command),
            ),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=MAX_SECONDS,
        )

    def close(self) -> None:
        """
        Remove all images and containers.
        """
        subprocess.run((*self._program, "rm", "--all"), capture_output=True, timeout=MAX_SECONDS)
        subprocess.run(
            (*self._program, "rmi", "--all", "--force"), capture_output=True, timeout=MAX_SECONDS
        )
        shutil.rmtree(self._folder, ignore_errors=True)
