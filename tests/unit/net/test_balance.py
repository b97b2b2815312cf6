"""
Whose turn it is.
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


class TurnsTestCase(SynchronousTestCase):
    """
    Three processes that share a table.

    @ivar numbers: how many connections each has.
    """

    most = 100

    def setUp(self):
        descriptor = make_counters(3)
        self.numbers = [0, 0, 0]
        # Each process has a mapping of its own.
        self.tables = [SharedCounters(descriptor, 3) for _ in self.numbers]
        self.balancer = [self.make(place) for place in range(3)]
        os.close(descriptor)

    def make(self, place):
        return AcceptBalancer(self.tables[place], place, self.most, lambda: self.numbers[place])

    def publish(self, *numbers):
        self.numbers = list(numbers)
        for balancer in self.balancer:
            balancer.publish()


class AheadTests(TurnsTestCase):
    """
    Who steps back.
    """

    def ahead(self, *numbers):
        self.publish(*numbers)
        return [balancer.should_yield() for balancer in self.balancer]

    def test_few(self):
        """
        With a few connections each, nobody does.
        """
        self.assertEqual(self.ahead(0, SLACK, 0), [False] * 3)
        self.assertEqual(self.ahead(0, SLACK + 1, 0), [False, True, False])

    def test_many(self):
        """
        With many, one that has an eighth more than the one that has least.
        """
        self.most = 10**6
        self.setUp()
        self.assertEqual(self.ahead(800, 908, 909), [False, False, True])
        self.assertEqual(self.ahead(0, 900, 900), [False, True, True])

    def test_never_all(self):
        """
        The one that has least never does.
        """
        for numbers in ((0, 0, 0), (50, 60, 70), (99, 99, 98), (100, 100, 100), (5, 100, 100)):
            ahead = self.ahead(*numbers)
            self.assertFalse(ahead[numbers.index(min(numbers))])

    def test_own_number(self):
        """
        Asking tells the others.
        """
        self.publish(0, 0, 0)
        self.numbers = [50, 50, 50]
        self.assertTrue(self.balancer[0].should_yield())
        self.assertTrue(self.balancer[1].should_yield())
        self.assertFalse(self.balancer[2].should_yield())
        self.assertFalse(self.balancer[0].should_yield())

    def test_absent(self):
        """
        One that is not there is waited for by nobody: before it begins, when it leaves, and
        when its parent says so.
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


class AllowanceTests(TurnsTestCase):
    """
    Who has no room, while others have.
    """

    def allowed(self, *numbers):
        self.publish(*numbers)
        return [balancer.allowance() for balancer in self.balancer]

    def test_room(self):
        """
        A turn accepts a few, and no more than there is room for.
        """
        self.assertEqual(self.allowed(0, 92, 97), [MAX_PER_TURN, 8, 3])

    def test_full(self):
        """
        One that is full leaves it to others until they are full too: then somebody has to
        refuse.
        """
        self.assertEqual(self.allowed(100, 99, 100), [0, 1, 0])
        self.assertEqual(self.allowed(100, 100, 100), [MAX_PER_TURN] * 3)

    def test_absent(self):
        """
        One that is full leaves clients in the queue while another is absent: one that has
        not started yet, is being replaced, or died.
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
        Where limits differ, for want of descriptors or since shares are not equal, each is
        full at its own: one that is full refuses only when the others are full too, and no
        process waits for one that cannot accept.
        """
        table = self.tables[0]
        small, large = (
            AcceptBalancer(table, place, most, lambda place=place: self.numbers[place])
            for place, most in enumerate((2, 100))
        )
        table[2] = FULL
        self.balancer = [small, large]
        self.publish(2, 2)
        self.assertEqual((small.allowance(), large.allowance()), (0, MAX_PER_TURN))
        self.publish(2, 50)
        self.assertEqual((small.should_yield(), large.should_yield()), (True, False))
        self.publish(2, 100)
        self.assertEqual((small.allowance(), large.allowance()), (MAX_PER_TURN, MAX_PER_TURN))

    def test_ahead(self):
        """
        One that is full steps back, however little it is ahead.
        """
        self.publish(100, 99, 99)
        self.assertTrue(self.balancer[0].should_yield())
