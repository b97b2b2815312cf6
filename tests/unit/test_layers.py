"""
What importing a module of echod brings with it.
"""

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

import echod
from tests.support.python import run

ROOT = Path(echod.__file__).resolve().parent


def modules():
    """
    Every module of echod, by its dotted name.
    """
    for path in sorted(ROOT.rglob("*.py")):
        parts = ("echod", *path.relative_to(ROOT).with_suffix("").parts)
        yield ".".join(part for part in parts if part != "__init__")


class ReactorTests(SynchronousTestCase):
    """
    Who installs a reactor: nobody, before the daemon is built.
    """

    def test_no_module_imports_the_reactor(self):
        """
        The user's choice of a reactor still counts after any module of echod is imported.
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

    def test_options_are_asked_for(self):
        """
        Asking the plugin for its options imports the daemon, and still no reactor.
        """
        loaded = run(
            "import sys; from twisted.plugins.echod_plugin import echod; "
            "echod.options(); print(*sys.modules)"
        )
        self.assertIn("echod.tap", loaded)
        self.assertNotIn("twisted.internet.reactor", loaded)
