"""
A round of each target, with a seed at random: ten seconds of what C{python -m tests.fuzz} does for
ten minutes.
"""

import random
import traceback

from twisted.trial.unittest import SynchronousTestCase

from tests.fuzz import TARGETS
from tests.fuzz.target import replay
from tests.support.daemons import show


class FuzzTests(SynchronousTestCase):
    """
    One test for each target.
    """

    def play(self, name):
        """
        Play a round, and say how to play it again.
        """
        (target,) = (each() for each in TARGETS if each.name == name)
        number = random.SystemRandom().randrange(2**31)
        show(replay(name, number))
        try:
            with target:
                self.assertGreater(target.round(number), 0)
        except Exception as error:
            # With its notes, which have the example; trial shows neither these nor the output.
            self.fail("".join(traceback.format_exception(error)) + replay(name, number))

    def test_proxy(self):
        """
        The parser of PROXY headers finds what the specification says.
        """
        self.play("proxy")

    def test_options(self):
        """
        Any value of an option, and any name of a server, is accepted or refused by one line.
        """
        self.play("options")

    def test_admin(self):
        """
        Any bytes on a connection of C{--admin} get responses, or the end, and no line of the log.
        """
        self.play("admin")

    def test_clients(self):
        """
        Clients that do anything get their bytes back, in order, until the end that they chose.
        """
        self.play("clients")

    def test_stops(self):
        """
        So do those in the middle of anything when the daemon stops.
        """
        self.play("stops")

    def test_all(self):
        """
        Each target has its test.
        """
        tests = {f"test_{target.name}" for target in TARGETS}
        self.assertEqual(tests - set(dir(self)), set())
