"""
Tests for L{FaultFactory}: which connection gets which fault, and the stop.
"""

from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionDone
from twisted.python.failure import Failure

from echod.faults.greeting import GreetingEcho
from echod.faults.protocol import FaultyEcho
from echod.protocol import Echo
from tests.support.faultechoes import FaultTestCase


class DrawTests(FaultTestCase):
    """
    What is drawn.
    """

    def kinds(self, count=1000, **given):
        """
        The kinds of the faults of the first connections.
        """
        self.make_faulty("latency=1s,chance=30%", "refuse,chance=30%", **given)
        draws = [self.factory.draw(number) for number in range(1, count + 1)]
        return [tuple(fault.kind for fault, _ in drawn) for drawn in draws]

    def test_chance(self):
        """
        Of 1000 connections, so many per cent have a fault, each drawn on its own.
        """
        kinds = self.kinds()
        for kind in ("latency", "refuse"):
            self.assertTrue(260 <= sum(kind in each for each in kinds) <= 340)
        self.assertTrue(60 <= kinds.count(("latency", "refuse")) <= 120)

    def test_repeatable(self):
        """
        The same seed, worker and listener draw the same; others draw something else.
        """
        kinds = self.kinds()
        self.assertEqual(self.kinds(), kinds)
        self.assertEqual(self.kinds(worker="0"), kinds)
        for given in ({"seed": 2}, {"place": 1}, {"worker": "1"}):
            self.assertNotEqual(self.kinds(**given), kinds, given)

    def test_known(self):
        """
        A seed draws the same in all versions of echod.
        """
        numbers = [n for n, kinds in enumerate(self.kinds(20), 1) if "latency" in kinds]
        self.assertEqual(numbers, [4, 5, 8, 11])

    def test_always(self):
        """
        Without a chance, each connection has the fault.
        """
        self.make_faulty("latency=1s")
        self.assertTrue(all(self.factory.draw(number) for number in range(1, 1000)))

    def test_protocols(self):
        """
        A connection without a fault is an ordinary L{Echo}, or one with a greeting.
        """
        drawn = {True: FaultyEcho, False: Echo}
        self.make_faulty("latency=1s,chance=30%")
        expected = [drawn[bool(self.factory.draw(number))] for number in range(1, 21)]
        built = [type(self.factory.buildProtocol(PEER)) for _ in range(20)]
        self.assertEqual(built, expected)
        self.make_faulty(greets=True)
        self.assertIs(type(self.factory.buildProtocol(PEER)), GreetingEcho)

    def test_counts_from_nothing(self):
        """
        Each kind is counted from 0 on.
        """
        self.make_faulty("latency=1s", "refuse", "latency=2s")
        faults = self.connections.totals.faults
        self.assertEqual(dict(faults), {("tcp", "latency"): 0, ("tcp", "refuse"): 0})


class StopTests(FaultTestCase):
    """
    The stop of the daemon.
    """

    def test_stop(self):
        """
        When the port is closed, no connection is delayed any more.
        """
        pairs = [self.misbehave("latency=1s", keep=bool(n)) for n in range(20)]
        for echo, _ in pairs:
            echo.dataReceived(b"one")
        pairs[7][0].connectionLost(Failure(ConnectionDone()))
        self.factory.doStart()
        self.factory.doStop()
        self.clock.pump([0] * 20)
        values = [transport.value() for _, transport in pairs]
        self.assertEqual(values, [b"one"] * 7 + [b""] + [b"one"] * 12)
        pairs[0][0].dataReceived(b"two")
        self.assertEqual(pairs[0][1].value(), b"onetwo")
        echo, transport = self.connect()
        echo.dataReceived(b"late")
        self.assertEqual(transport.value(), b"late")


PEER = IPv4Address("TCP", "192.0.2.7", 40000)
