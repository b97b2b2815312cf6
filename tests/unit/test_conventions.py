"""
What the tests import of each other.

Invariant: a package of tests works without the others, and a test module without any other.
"""

import ast
import functools
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

import tests

FOLDER = Path(tests.__file__).parent

MAY_IMPORT = {
    "unit": {"support"},
    "integration": {"support", "soak"},
    "deploy": {"support"},
    "system": {"support"},
    "fuzz": {"support"},
    "soak": {"support"},
    "bench": {"support"},
    "support": set(),
}
"""Each package, and which others it may import; C{integration} runs a short soak."""


def imported(path):
    """
    What a module imports of C{tests}.

    @return: dotted names; of C{from a import b}, C{a.b}.
    """
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [each.name for each in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: imports are absolute"
            names += [f"{node.module}.{each.name}" for each in node.names]
    return [name for name in names if name.startswith("tests.")]


@functools.cache
def arrows():
    """
    Each import of C{tests} by C{tests}: the importing file, in this folder, and the name.
    """
    paths = sorted(FOLDER.rglob("*.py"))
    return [(path.relative_to(FOLDER), name) for path in paths for name in imported(path)]


class ImportTests(SynchronousTestCase):
    """
    Who imports whom.
    """

    def test_packages(self):
        """
        A package of tests imports C{support}, which imports none of the others.
        """
        wrong = []
        for path, name in arrows():
            package, other = path.parts[0], name.split(".")[1]
            if other not in {package, *MAY_IMPORT.get(package, ())}:
                wrong.append(f"{path}: {name}")
        self.assertEqual(wrong, [])

    def test_test_modules(self):
        """
        Nothing imports a test module: what two of them need is in C{support}.
        """
        wrong = [
            f"{path}: {name}"
            for path, name in arrows()
            if any(part.startswith("test_") for part in name.split("."))
        ]
        self.assertEqual(wrong, [])

    def test_all_packages(self):
        """
        Each package is named here, and has imports of C{support} to judge.
        """
        found = {path.parent.name for path in FOLDER.glob("*/__init__.py")}
        self.assertEqual(found, set(MAY_IMPORT))
        importers = {path.parts[0] for path, name in arrows() if name.startswith("tests.support")}
        self.assertEqual(importers, found)
