"""
Accept balancing between processes.
"""

import os

from twisted.trial.unittest import SynchronousTestCase

from echod.net.balance import (
    ABSENT,
    FULL,
    MAX_PER_TURN,
    SLACK,
    AcceptBalancer,
    SharedCounters,
    make_counters,
)


class BalanceTestCase(SynchronousTestCase):
    """
    Three processes that share counters.

    @ivar numbers: how many connections each has.
    """

    limit = 100

    def setUp(self):
        descriptor = make_counters(3)
        self.numbers = [0, 0, 0]
        # Each process has a mapping of its own.
        self.tables = [SharedCounters(descriptor, 3) for _ in self.numbers]
        self.balancer = [self.make(index) for index in range(3)]
        os.close(descriptor)

    def make(self, index):
        return AcceptBalancer(self.tables[index], index, self.limit, lambda: self.numbers[index])

    def publish(self, *numbers):
        self.numbers = list(numbers)
        for balancer in self.balancer:
            balancer.publish()


class YieldTests(BalanceTestCase):
    """
    When a process yields to others.
    """

    def ahead(self, *numbers):
        self.publish(*numbers)
        return [balancer.should_yield() for balancer in self.balancer]

    def test_few(self):
        """
        With a few connections each, no process yields.
        """
        self.assertEqual(self.ahead(0, SLACK, 0), [False] * 3)
        self.assertEqual(self.ahead(0, SLACK + 1, 0), [False, True, False])

    def test_many(self):
        """
        With many connections, a process yields when it has an eighth, and 8, more than the least.
        """
        self.limit = 10**6
        self.setUp()
        self.assertEqual(self.ahead(800, 908, 909), [False, False, True])
        self.assertEqual(self.ahead(0, 900, 900), [False, True, True])

    def test_least(self):
        """
        The process with the fewest connections never yields.
        """
        for numbers in ((0, 0, 0), (50, 60, 70), (99, 99, 98), (100, 100, 100), (5, 100, 100)):
            ahead = self.ahead(*numbers)
            self.assertFalse(ahead[numbers.index(min(numbers))])

    def test_own_number(self):
        """
        Asking publishes the process's own number.
        """
        self.publish(0, 0, 0)
        self.numbers = [50, 50, 50]
        self.assertTrue(self.balancer[0].should_yield())
        self.assertTrue(self.balancer[1].should_yield())
        self.assertFalse(self.balancer[2].should_yield())
        self.assertFalse(self.balancer[0].should_yield())

    def test_absent(self):
        """
        No process yields to an absent one: before it starts, after it leaves, or when the master
        says so.
        """
        self.numbers = [50, 50, 0]
        self.balancer[0].publish()
        self.assertFalse(self.balancer[0].should_yield())
        self.balancer[2].publish()
        self.assertTrue(self.balancer[0].should_yield())
        self.balancer[2].leave()
        self.balancer[2].publish()
        self.assertFalse(self.balancer[0].should_yield())
        self.make(2).publish()
        self.assertTrue(self.balancer[0].should_yield())
        self.tables[0][2] = ABSENT
        self.assertFalse(self.balancer[0].should_yield())


class AllowanceTests(BalanceTestCase):
    """
    How many clients a process may accept.
    """

    def allowed(self, *numbers):
        self.publish(*numbers)
        return [balancer.allowance() for balancer in self.balancer]

    def test_free(self):
        """
        A turn accepts a few clients, and no more than the limit allows.
        """
        self.assertEqual(self.allowed(0, 92, 97), [MAX_PER_TURN, 8, 3])

    def test_full(self):
        """
        A full process accepts nothing until all are full; then one has to refuse the clients.
        """
        self.assertEqual(self.allowed(100, 99, 100), [0, 1, 0])
        self.assertEqual(self.allowed(100, 100, 100), [MAX_PER_TURN] * 3)

    def test_absent(self):
        """
        A full process leaves clients in the queue while another process is absent: not started yet,
        being replaced, or dead.
        """
        self.publish(100, 100, 100)
        self.assertEqual(self.balancer[0].allowance(), MAX_PER_TURN)
        self.balancer[2].leave()
        self.assertEqual([balancer.allowance() for balancer in self.balancer], [0] * 3)
        self.assertTrue(self.balancer[0].should_yield())
        self.make(2).publish()
        self.assertEqual(self.balancer[0].allowance(), MAX_PER_TURN)
        self.assertFalse(self.balancer[0].should_yield())
        self.tables[0][1] = ABSENT
        self.assertEqual(self.balancer[0].allowance(), 0)

    def test_unequal(self):
        """
        If limits differ, each process is full at its own: it refuses only when the others are full
        too, and no process waits for one that cannot accept.
        """
        table = self.tables[0]
        small, large = (
            AcceptBalancer(table, index, limit, lambda index=index: self.numbers[index])
            for index, limit in enumerate((2, 100))
        )
        table[2] = FULL
        self.balancer = [small, large]
        self.publish(2, 2)
        self.assertEqual((small.allowance(), large.allowance()), (0, MAX_PER_TURN))
        self.publish(2, 50)
        self.assertEqual((small.should_yield(), large.should_yield()), (True, False))
        self.publish(2, 100)
        self.assertEqual((small.allowance(), large.allowance()), (MAX_PER_TURN, MAX_PER_TURN))

    def test_full_yields(self):
        """
        A full process yields, however little it is ahead.
        """
        self.publish(100, 99, 99)
        self.assertTrue(self.balancer[0].should_yield())
