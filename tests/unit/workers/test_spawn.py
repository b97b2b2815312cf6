"""
What a worker is config.
"""

from twisted.trial.unittest import SynchronousTestCase

from echod.workers.spawn import VARIABLE, InheritedListener, WorkerConfig, shares


class WorkerConfigTests(SynchronousTestCase):
    """
    On its way to the worker.
    """

    def test_round_trip(self):
        """
        It arrives as it was sent, and is read once.
        """
        handed = [
            InheritedListener("tcp", "--port 7", False, False),
            InheritedListener("ä:\n", "--x", True, True),
        ]
        config = WorkerConfig("1", [5, 4], handed)
        environ = {VARIABLE: config.to_text(), "HOME": "/"}
        self.assertEqual(WorkerConfig.take_from(environ), config)
        self.assertEqual(environ, {"HOME": "/"})
        self.assertIsNone(WorkerConfig.take_from(environ))

    def test_descriptors(self):
        """
        It says which one it is, its share, and where its descriptors are.
        """
        config = WorkerConfig("1", [5, 4], [InheritedListener("tcp", "--port 7", False, False)] * 3)
        self.assertEqual((config.place, config.max_connections), (1, 4))
        self.assertEqual((config.channel, config.table), (6, 7))

    def test_shares(self):
        """
        The shares of a total are as equal as can be, and their sum is the total.
        """
        self.assertEqual(shares(10, 3), [4, 3, 3])
        self.assertEqual(shares(2, 2), [1, 1])
        for total in range(1, 40):
            for count in range(1, total + 1):
                self.assertEqual(sum(shares(total, count)), total)
