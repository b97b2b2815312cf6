"""
Which module of echod imports which, and what an import brings with it.
"""

import ast
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

import echod
from tests.support.python import run

ROOT = Path(echod.__file__).resolve().parent


def modules():
    """
    The dotted names of all modules of echod.
    """
    for path in sorted(ROOT.rglob("*.py")):
        parts = ("echod", *path.relative_to(ROOT).with_suffix("").parts)
        yield ".".join(part for part in parts if part != "__init__")


class ReactorTests(SynchronousTestCase):
    """
    No reactor is installed before the daemon is built.
    """

    def test_no_module_imports_the_reactor(self):
        """
        No module of echod imports the reactor, so the user can still choose one.
        """
        names = ", ".join(modules())
        loaded = run(f"import sys, {names}; print(*sys.modules)")
        self.assertIn("echod.tap", loaded)
        self.assertNotIn("twisted.internet.reactor", loaded)

    def test_plugin_is_lazy(self):
        """
        The plugin, which twistd imports for every command, imports nothing of echod.
        """
        loaded = run("import sys, twisted.plugins.echod_plugin; print(*sys.modules)")
        self.assertIn("twisted.plugins.echod_plugin", loaded)
        self.assertEqual([name for name in loaded if name.split(".")[0] == "echod"], [])
        self.assertNotIn("twisted.internet.reactor", loaded)

    def test_faults_are_lazy(self):
        """
        A daemon without C{--fault} and C{--greet} imports nothing that is only for them.
        """
        for option, expected in ((), False), (("--greet",), True):
            loaded = run(
                "import sys; from twisted.internet.testing import MemoryReactorClock; "
                "from echod.options import Options; from echod.tap.build import build; "
                f"o = Options(); o.parseOptions(['--port', '0', *{option}]); "
                "build(MemoryReactorClock(), o); print(*sys.modules)"
            )
            self.assertIs("echod.faults.factory" in loaded, expected)
            self.assertIs("echod.faults" in loaded, expected)

    def test_options_import_no_reactor(self):
        """
        The options of the plugin import the daemon, but no reactor.
        """
        loaded = run(
            "import sys; from twisted.plugins.echod_plugin import echod; "
            "echod.options(); print(*sys.modules)"
        )
        self.assertIn("echod.tap", loaded)
        self.assertNotIn("twisted.internet.reactor", loaded)


class ContractTests(SynchronousTestCase):
    """
    The contract of import-linter in C{pyproject.toml}, on a copy of the package.
    """

    if find_spec("importlinter") is None:
        skip = "import-linter is not installed"

    def setUp(self):
        self.folder = Path(self.mktemp()).absolute()
        shutil.copytree(ROOT, self.folder / "echod", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT.parent / "pyproject.toml", self.folder)

    def add(self, path, line):
        """
        Add a line to the end of a file.
        """
        with open(self.folder / "echod" / path, "a") as file:
            file.write(f"\n{line}\n")

    def check(self):
        """
        Check the contract in another process, because grimp imports the package by its name.

        @return: the exit status, and what import-linter says.
        """
        code = "import sys; from importlinter.cli import lint_imports; "
        code += "sys.exit(lint_imports(config_filename='pyproject.toml', no_cache=True))"
        checked = subprocess.run(
            [sys.executable, "-c", code],
            cwd=self.folder,
            env=dict(os.environ, PYTHONPATH=str(self.folder), COLUMNS="500"),
            capture_output=True,
            text=True,
            timeout=120,
        )
        return checked.returncode, checked.stdout + checked.stderr

    def test_kept(self):
        """
        The package keeps the contract.
        """
        status, said = self.check()
        self.assertEqual(status, 0, said)
        self.assertIn("Imports go down KEPT", said)

    def test_import_up(self):
        """
        An import up, or of a package on the same level, breaks the contract.
        """
        self.add("_util/text.py", "import echod.logs.writer")
        self.add("net/port.py", "from echod.service import EchodService")
        self.add("protocol.py", "from echod.stats import snapshot")
        status, said = self.check()
        self.assertEqual(status, 1, said)
        self.assertIn("Imports go down BROKEN", said)
        for importer, imported in (
            ("echod._util.text", "echod.logs.writer"),
            ("echod.net.port", "echod.service"),
            ("echod.protocol", "echod.stats.snapshot"),
        ):
            self.assertIn(f"{importer} -> {imported} ", said)

    def test_new_module(self):
        """
        A module without a place in the order breaks the contract.
        """
        self.add("extra.py", "import os")
        status, said = self.check()
        self.assertEqual(status, 1, said)
        self.assertIn("echod.extra", said)


class OptionsTests(SynchronousTestCase):
    """
    The options of the command line are seen in one place.
    """

    def test_seen_by_the_composition_root_only(self):
        """
        Besides their own module, only C{tap} uses C{Options}.
        """
        users = set()
        for path in ROOT.rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                names = [getattr(node, "id", None), getattr(node, "attr", None)]
                if isinstance(node, ast.ImportFrom):
                    names += [each.name for each in node.names if node.module == "echod.options"]
                elif isinstance(node, ast.Import):
                    names += ["Options" for each in node.names if each.name == "echod.options"]
                if "Options" in names:
                    users.add(path.relative_to(ROOT).parts[0])
        self.assertEqual(users, {"tap"})
