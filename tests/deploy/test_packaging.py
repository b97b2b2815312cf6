"""
Installing echod and taking it away again, the ways that people do it.

Invariant: the checkout is copied first, and the copy says that it has a
version that no release has; so whatever shows that version comes from the copy, and not
from an echod that the interpreter of the tests can import.
"""

import functools
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from collections.abc import Sequence
from email.parser import Parser
from importlib.metadata import Distribution, distribution
from pathlib import Path
from unittest import SkipTest

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from twisted.trial.unittest import SynchronousTestCase

from tests.support import needs
from tests.support.privileges import unprivileged_command
from tests.support.shared import shared

CHECKOUT = Path(__file__).resolve().parents[2]
VERSION = "97.5.3"
PATIENCE_SECONDS = 60.0

IMPORTS = """
import sys
import twisted.plugins.echod_plugin
assert twisted.plugins.echod_plugin.echod.tapname == "echod"
reactor = "twisted.internet.reactor"
print(sorted(m for m in sys.modules if m.split(".")[0] == "echod" or m == reactor))
"""


def run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """
    Run a command that must succeed, with no trace of the environment of the tests.
    """
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTHON", "PIP_", "GIT_", "VIRTUAL_ENV", "COVERAGE"))
    }
    done = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )
    if done.returncode:
        raise AssertionError(f"{command} ended with {done.returncode}: {done}")
    return done


def copy_checkout(to: Path) -> None:
    """
    Copy what git knows of, and what is new, and change the version where it stands.
    Then run the copy, so that it holds what running leaves behind.
    """
    listed = run(
        *(needs.program("git"), "-c", "safe.directory=*", "ls-files", "-z"),
        *("--cached", "--others", "--exclude-standard"),
        cwd=CHECKOUT,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (CHECKOUT / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(CHECKOUT / name, to / name)
    init = to / "echod" / "__init__.py"
    text, count = re.subn(
        '(?m)^__version__ = ".*"$', f'__version__ = "{VERSION}"', init.read_text()
    )
    if count != 1:
        raise AssertionError("echod/__init__.py does not say its version once")
    init.write_text(text)
    run(sys.executable, "-c", "import echod.tap", cwd=to)
    (to / "twisted" / "plugins" / "dropin.cache").touch()


@functools.cache
def built() -> tuple[Path, Path, Path]:
    """
    Build once for all tests, also in other processes of C{trial -j}.

    @return: the copied checkout, the sdist, and the wheel that was built from the sdist.
    """
    with shared("packages") as folder:
        found = list(folder.glob("*/done"))
        if not found:
            source = Path(tempfile.mkdtemp(dir=folder), "echod")
            source.mkdir()
            copy_checkout(source)
            dist = source.with_name("dist")
            run(
                sys.executable,
                "-m",
                "build",
                "--no-isolation",
                "--outdir",
                dist,
                source,
                cwd=source,
            )
            found = [source.with_name("done")]
            found[0].touch()
    source, dist = (found[0].with_name(name) for name in ("echod", "dist"))
    [sdist], [wheel] = dist.glob("*.tar.gz"), dist.glob("*.whl")
    return source, sdist, wheel


def needed(*names: str) -> dict[str, Distribution]:
    """
    The distributions of these names and all that they require, as installed here.
    """
    found: dict[str, Distribution] = {}
    waiting = [Requirement(name) for name in names]
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if name in found and not requirement.extras:
            continue
        found[name] = distribution(name)
        for text in found[name].requires or ():
            further = Requirement(text)
            extras = requirement.extras or {""}
            if any(not further.marker or further.marker.evaluate({"extra": e}) for e in extras):
                waiting.append(further)
    return found


class Environment:
    """
    A virtual environment with all that echod requires, and without echod.

    Twisted is copied, since it is about to share its folder; the rest is linked.  What
    is not listed by the distributions, such as the link to an editable echod, stays out.

    @ivar packages: its site-packages.
    """

    def __init__(self, root: Path):
        self.root = root
        self.elsewhere = root / "elsewhere"
        venv.create(root / "v", symlinks=True)
        self.python = root / "v" / "bin" / "python"
        [self.packages] = (root / "v").glob("lib/python*/site-packages")
        self.elsewhere.mkdir()
        for name, found in needed("Twisted[tls]", "hatchling", "pip").items():
            files = [file for file in found.files or () if file.parts[0] != ".."]
            if name == "twisted":
                for file in files:
                    (self.packages / file).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy2(str(file.locate()), self.packages / file)
                continue
            for top in {file.parts[0] for file in files} - {"__pycache__"}:
                link = self.packages / top
                if not link.is_symlink():
                    link.symlink_to(str(found.locate_file(top)))
        self._script = self.python.with_name("twistd")
        self._script.write_text("from twisted.scripts.twistd import run\n\nrun()\n")

    def run(self, *command: str | Path) -> subprocess.CompletedProcess[str]:
        """
        Run a command in a folder that has nothing to do with the checkout.
        """
        return run(*command, cwd=self.elsewhere)

    def twistd(
        self, *arguments: str, before: Sequence[str] = ()
    ) -> subprocess.CompletedProcess[str]:
        """
        Run this environment's twistd.

        @param before: what to put before the command.
        """
        return self.run(*before, self.python, self._script, *arguments)

    def pip(self, *arguments: str | Path) -> None:
        """
        Run pip, which finds nothing on a network and builds with what is here.
        """
        self.run(
            *(self.python, "-m", "pip", "--disable-pip-version-check", "--no-cache-dir"), *arguments
        )

    def install(self, *what: str | Path) -> None:
        self.pip("install", "--no-deps", "--no-index", "--no-build-isolation", *what)

    def python_says(self, code: str) -> str:
        return self.run(self.python, "-c", code).stdout.strip()

    def plugins(self) -> set[str]:
        """
        The files of C{twisted/plugins} that are code.
        """
        return {path.name for path in (self.packages / "twisted" / "plugins").glob("*.py")}


class PackagingTests(SynchronousTestCase):
    """
    Tests for what is built from the checkout, and for installing it.
    """

    if not (CHECKOUT / ".git").exists():
        skip = "git has to say what belongs to the checkout"

    def environment(self) -> Environment:
        root = Path(self.mktemp()).resolve()
        root.mkdir()
        return Environment(root)

    def assert_works(self, environment: Environment) -> None:
        """
        twistd lists the plugin and runs it, and it is the one of the copied checkout.
        """
        listed = environment.twistd("--help")
        self.assertRegex(listed.stdout, r"(?m)^ +echod +A TCP and UDP echo daemon")
        shown = environment.twistd("echod", "--version")
        self.assertEqual(f"echod {VERSION}\n", shown.stdout)
        self.assertEqual("", shown.stderr + listed.stderr)
        self.assertEqual("[]", environment.python_says(IMPORTS))
        echod = environment.python.with_name("echod")
        for command in ((echod,), (environment.python, "-m", "echod")):
            self.assertEqual(environment.run(*command, "--version").stdout, f"echod {VERSION}\n")

    def assert_gone(self, environment: Environment, plugins_before: set[str]) -> None:
        """
        Twisted works as it did before echod came, and knows nothing of it.
        """
        listed = environment.twistd("--help")
        self.assertNotIn("echod", listed.stdout)
        self.assertRegex(listed.stdout, r"(?m)^ +web +")
        self.assertEqual("", listed.stderr)
        self.assertEqual(plugins_before, environment.plugins())
        spec = "import importlib.util as u, twisted.web; print(u.find_spec('echod'))"
        self.assertEqual("None", environment.python_says(spec))

    def test_wheel(self) -> None:
        """
        After installing the wheel, twistd has echod; after removing it, twistd is as it
        was before.
        """
        environment = self.environment()
        before = environment.plugins()
        environment.install(built()[2])
        self.assertEqual(before | {"echod_plugin.py"}, environment.plugins())
        self.assert_works(environment)
        environment.pip("uninstall", "--yes", "echod")
        self.assert_gone(environment, before)

    def test_manual(self) -> None:
        """
        After installing the wheel, man finds the manual pages, and mandoc finds no fault in
        them.
        """
        if shutil.which("mandoc") is None:
            raise SkipTest("mandoc is not installed")
        environment = self.environment()
        environment.install(built()[2])
        manual = environment.root / "v" / "share" / "man"
        pages = sorted(path for path in manual.rglob("*") if path.is_file())
        self.assertEqual([page.name for page in pages], ["echod-check.1", "echod.8"])
        linted = environment.run("mandoc", "-T", "lint", *pages)
        self.assertEqual("", linted.stdout + linted.stderr)
        environment.pip("uninstall", "--yes", "echod")
        self.assertEqual([page for page in pages if page.exists()], [])

    def test_sdist(self) -> None:
        """
        The sdist has all it takes to install echod, and it can be removed again.
        """
        environment = self.environment()
        before = environment.plugins()
        environment.install(built()[1])
        self.assert_works(environment)
        environment.pip("uninstall", "--yes", "echod")
        self.assert_gone(environment, before)

    def test_editable(self) -> None:
        """
        A checkout can be installed editable: twistd finds the plugin in the checkout, and
        after removing it the checkout is still there and Twisted is as it was before.
        """
        source = built()[0]
        environment = self.environment()
        before = environment.plugins()
        environment.install("--editable", source)
        self.assertEqual(before, environment.plugins())
        self.assert_works(environment)
        where = environment.python_says("import echod; print(echod.__file__)")
        self.assertEqual(str(source / "echod" / "__init__.py"), where)
        environment.pip("uninstall", "--yes", "echod")
        self.assert_gone(environment, before)
        self.assertTrue((source / "twisted" / "plugins" / "echod_plugin.py").exists())

    def test_read_only(self) -> None:
        """
        Where no user may write to site-packages, so that Twisted cannot keep its list of
        plugins, twistd has echod all the same and shows no traceback.
        """
        environment = self.environment()
        environment.install(built()[2])
        folders = [path for path in environment.packages.rglob("*") if not path.is_symlink()]
        for path in (environment.packages, *folders):
            path.chmod(path.stat().st_mode & 0o7555)
            self.addCleanup(path.chmod, path.stat().st_mode | 0o200)
        for arguments, expected in (
            (("--help",), r"(?m)^ +echod +A TCP and UDP echo daemon"),
            (("echod", "--version"), rf"\Aechod {VERSION}\n\Z"),
        ):
            done = environment.twistd(*arguments, before=unprivileged_command())
            self.assertRegex(done.stdout, expected)
            self.assertNotIn("Traceback", done.stderr)
        caches = list(environment.packages.rglob("dropin.cache"))
        self.assertEqual([], caches, "it was not read-only at all")

    def test_wheel_content(self) -> None:
        """
        The wheel has the package, the plugin, manual pages, completions and its own records, and
        nothing else; it is the same whether built from the sdist or from the checkout.
        """
        source, _, wheel = built()
        records = f"echod-{VERSION}.dist-info"
        with zipfile.ZipFile(wheel) as archive:
            names = set(archive.namelist())
            content = {name: archive.read(name) for name in names if records not in name}
        data = f"echod-{VERSION}.data/data/share"
        for there, installed in (
            ("man/echod.8", "man/man8/echod.8"),
            ("man/echod-check.1", "man/man1/echod-check.1"),
            ("completions/echod.bash", "bash-completion/completions/echod"),
            ("completions/echod-check.bash", "bash-completion/completions/echod-check"),
            ("completions/_echod", "zsh/site-functions/_echod"),
            ("completions/_echod-check", "zsh/site-functions/_echod-check"),
        ):
            shipped = content.pop(f"{data}/{installed}")
            self.assertEqual((source / "deploy" / there).read_bytes(), shipped)
        package = {
            str(path.relative_to(source))
            for pattern in ("echod/**/*.py", "echod/admin/static/*")
            for path in source.glob(pattern)
        }
        self.assertIn("echod/admin/static/page.css", package)
        self.assertEqual(
            package | {"echod/py.typed", "twisted/plugins/echod_plugin.py"}, set(content)
        )
        about = ("METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE")
        self.assertEqual(
            {f"{records}/{name}" for name in about}, {each for each in names if records in each}
        )
        for name, code in content.items():
            self.assertEqual((source / name).read_bytes(), code, name)
        direct = source.with_name("direct")
        options = ("--no-isolation", "--wheel", "--outdir")
        run(sys.executable, "-m", "build", *options, direct, source, cwd=source)
        [from_checkout] = direct.glob("*.whl")
        self.assertEqual(wheel.read_bytes(), from_checkout.read_bytes())

    def test_sdist_content(self) -> None:
        """
        The sdist holds everything that git has in the folders of the project, the tests
        with it, and nothing that running them left behind.
        """
        source, sdist, _ = built()
        with tarfile.open(sdist) as archive:
            names = {name.partition("/")[2] for name in archive.getnames()}
        for part in ("echod/__init__.py", "twisted/plugins/echod_plugin.py", "pyproject.toml"):
            self.assertIn(part, names)
        for folder in ("tests", "deploy"):
            held = {
                str(path.relative_to(source))
                for path in (source / folder).rglob("*")
                if path.is_file()
            }
            self.assertNotEqual(set(), held)
            self.assertEqual(set(), held - names)
        self.assertEqual([], [n for n in names if n.endswith((".pyc", "dropin.cache"))])

    def test_metadata(self) -> None:
        """
        The version is written in one place, C{echod.__version__}; the package says that
        it is typed, and asks for what it imports at run time, each with a lowest version.
        """
        _, sdist, wheel = built()
        self.assertEqual(f"echod-{VERSION}.tar.gz", sdist.name)
        self.assertEqual(f"echod-{VERSION}-py3-none-any.whl", wheel.name)
        with zipfile.ZipFile(wheel) as archive:
            text = archive.read(f"echod-{VERSION}.dist-info/METADATA").decode()
        metadata = Parser().parsestr(text)
        self.assertEqual(("echod", VERSION), (metadata["Name"], metadata["Version"]))
        self.assertEqual(">=3.11", metadata["Requires-Python"])
        self.assertIn("Typing :: Typed", metadata.get_all("Classifier") or ())
        required = [Requirement(text) for text in metadata.get_all("Requires-Dist") or ()]
        always = {canonicalize_name(need.name): need for need in required if not need.marker}
        self.assertEqual(
            {"twisted", "zope-interface", "pyopenssl", "service-identity"}, set(always)
        )
        self.assertEqual({"tls"}, always["twisted"].extras)
        for need in always.values():
            self.assertIn(">=", str(need.specifier), "has no lowest version")
