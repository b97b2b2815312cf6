"""
axe-core, which finds faults of accessibility in a page that a browser shows.

Invariant: it is taken from npm once, into the cache folder of these tests, and never checked in.
"""

import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Any
from unittest import SkipTest

from tests.support import needs
from tests.support.browser import Browser
from tests.support.debian import cache

VERSION = "4.14.1"

NPM_SECONDS = 60


def source() -> str:
    """
    The script.

    @raise SkipTest: it is not in the cache, and npm does not give it.
    """
    path = cache() / f"axe-{VERSION}.js"
    if not path.exists():
        npm = needs.program("npm")
        with tempfile.TemporaryDirectory(dir=cache(), prefix="axe-") as folder:
            command = (npm, "pack", "--silent", f"axe-core@{VERSION}")
            try:
                subprocess.run(
                    command, cwd=folder, check=True, capture_output=True, timeout=NPM_SECONDS
                )
            except (subprocess.SubprocessError, OSError) as error:
                raise SkipTest(f"needs axe-core from npm: {error}") from None
            [archive] = Path(folder).glob("*.tgz")
            with tarfile.open(archive) as packed:
                packed.extract("package/axe.min.js", folder, filter="data")
            # At once: other processes of these tests read it.
            Path(folder, "package", "axe.min.js").replace(path)
    return path.read_text()


def violations(browser: Browser) -> list[Any]:
    """
    The faults in the page that the browser shows: the rule, what it says, and where.
    """
    browser.window.execute_script(source())
    found: dict[str, Any] = browser.window.execute_async_script(
        "axe.run(document, {resultTypes: ['violations']}).then(arguments[0])"
    )
    if len(found["passes"]) < 10:
        raise AssertionError(f"axe-core has checked nothing: {found['passes']}")
    return [
        (each["id"], each["help"], [node["html"][:200] for node in each["nodes"]])
        for each in found["violations"]
    ]
