"""
Tests for the configuration of a worker.
"""

import os
from datetime import UTC, datetime

from twisted.trial.unittest import SynchronousTestCase

from echod.tls.selfsigned import make_key_pair, to_pem
from echod.workers.spawn import VARIABLE, InheritedListener, WorkerConfig, shares


class WorkerConfigTests(SynchronousTestCase):
    """
    Tests for L{WorkerConfig} and L{shares}.
    """

    def test_round_trip(self):
        """
        The configuration is read as it was written, once.
        """
        listeners = [
            InheritedListener("tcp", "--port 7", False, False, 0),
            InheritedListener("ä:\n", "--x", True, True, 1),
        ]
        config = WorkerConfig("1", [5, 4], listeners)
        environ = {VARIABLE: config.to_text(), "HOME": "/"}
        self.assertEqual(WorkerConfig.take_from(environ), config)
        self.assertEqual(environ, {"HOME": "/"})
        self.assertIsNone(WorkerConfig.take_from(environ))

    def test_descriptors(self):
        """
        The configuration has the index, the limit and the descriptors of the worker.
        """
        config = WorkerConfig(
            "1", [5, 4], [InheritedListener("tcp", "--port 7", False, False, 0)] * 3
        )
        self.assertEqual((config.index, config.max_connections), (1, 4))
        self.assertEqual((config.channel, config.counters), (6, 7))
        self.assertIsNone(config.key_pair())

    def test_key_pair(self):
        """
        A worker takes the key pair of the master out of memory that all workers share.
        """
        pair = make_key_pair(["localhost"], datetime.now(UTC))
        memory = os.memfd_create("test")
        self.addCleanup(os.close, memory)
        os.write(memory, to_pem(pair))
        # Two processes have the same memory under the same number, one after the other.
        for _ in range(2):
            inherited = os.dup(memory)
            config = WorkerConfig("1", [1, 1], [], inherited - 2, True)
            self.assertEqual(config.key_pair(), to_pem(pair))
            self.assertRaises(OSError, os.fstat, inherited)

    def test_shares(self):
        """
        Shares differ by one at most, and their sum is the total.
        """
        self.assertEqual(shares(10, 3), [4, 3, 3])
        self.assertEqual(shares(2, 2), [1, 1])
        for total in range(1, 40):
            for count in range(1, total + 1):
                self.assertEqual(sum(shares(total, count)), total)
