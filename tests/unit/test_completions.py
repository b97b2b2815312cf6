"""
The completions are those of the options.
"""

from twisted.trial.unittest import SynchronousTestCase

from echod.options import Options
from tests.support.completions import FOLDER, bash, files


class CompletionsTests(SynchronousTestCase):
    """
    Tests for C{deploy/completions/}.
    """

    def test_files(self):
        """
        The files are up to date: C{python -m tests.support.completions} writes them again.
        """
        self.assertEqual({path.name: path.read_text() for path in FOLDER.iterdir()}, files())

    def test_options(self):
        """
        Each option is completed in both shells.
        """
        made = files()
        for name in Options().longOpt:
            self.assertIn(f"--{name}", made["_echod"])
            self.assertIn(f"--{name.removesuffix('=')}", bash("echod"))
