"""
What a worker is told.
"""

from twisted.trial.unittest import SynchronousTestCase

from echod.workers.spawn import VARIABLE, InheritedListener, WorkerConfig, shares


class AssignmentTests(SynchronousTestCase):
    """
    On its way to the worker.
    """

    def test_way(self):
        """
        It arrives as it was sent, and is read once.
        """
        handed = [
            InheritedListener("tcp", "--port 7", False, False),
            InheritedListener("ä:\n", "--x", True, True),
        ]
        told = WorkerConfig("1", [5, 4], handed)
        environ = {VARIABLE: told.to_text(), "HOME": "/"}
        self.assertEqual(WorkerConfig.take_from(environ), told)
        self.assertEqual(environ, {"HOME": "/"})
        self.assertIsNone(WorkerConfig.take_from(environ))

    def test_places(self):
        """
        It says which one it is, its share, and where its descriptors are.
        """
        told = WorkerConfig("1", [5, 4], [InheritedListener("tcp", "--port 7", False, False)] * 3)
        self.assertEqual((told.place, told.max_connections), (1, 4))
        self.assertEqual((told.channel, told.table), (6, 7))

    def test_shares(self):
        """
        The shares of a total are as equal as can be, and their sum is the total.
        """
        self.assertEqual(shares(10, 3), [4, 3, 3])
        self.assertEqual(shares(2, 2), [1, 1])
        for total in range(1, 40):
            for count in range(1, total + 1):
                self.assertEqual(sum(shares(total, count)), total)
