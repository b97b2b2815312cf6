"""
The ping over UDP.
"""

import socket

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from echod.check import udpping
from echod.check.results import CheckError, Outcome
from echod.check.udp import MIN_PING_BYTES
from echod.check.udpping import HEADER, DatagramPing
from tests.support.udpserver import UDPServer, turn


class PingTests(SynchronousTestCase):
    """
    L{DatagramPing}.
    """

    def setUp(self):
        self.reactor = MemoryReactorClock()
        self.server = UDPServer()
        self.addCleanup(self.server.close)
        self.told, self.notes = [], []

    def ping(self, rate=1.0, count=3, size=64, step=0.125, **more):
        """
        @return: a run that has ended.
        """
        ping = DatagramPing(
            self.reactor,
            None,
            lambda *what: self.told.append(what),
            target=self.server.target,
            note=self.notes.append,
            size=size,
            rate=rate,
            connections=1,
            count=count,
            timeout_seconds=2,
            **more,
        )
        turn(self.reactor, self.server, ping.run(), step)
        self.assertEqual((self.reactor.getReaders(), self.reactor.getDelayedCalls()), ([], []))
        return ping

    def outcomes(self):
        return [
            result.outcome if isinstance(result, CheckError) else "ok" for *_, result in self.told
        ]

    def none(self, **others):
        return dict.fromkeys(("reordered", "duplicates", "late", "wrong"), 0) | others

    def test_all_back(self):
        """
        Each message comes back, in its time.
        """
        for size in (MIN_PING_BYTES, 64, 65507):
            self.told.clear()
            ping = self.ping(size=size)
            peer = f"127.0.0.1:{self.server.target[1]}"
            self.assertEqual([each[:2] for each in self.told], [(n, peer) for n in (1, 2, 3)])
            self.assertEqual((self.outcomes(), ping.lost), (["ok"] * 3, 0))
            self.assertEqual((ping.extra(), ping.failure), (self.none(), None))
        self.assertEqual(HEADER.size, MIN_PING_BYTES)

    def test_messages_differ(self):
        """
        No two messages are equal.
        """
        seen = []
        self.server.answers = lambda datagram: seen.append(datagram) or [datagram]
        self.ping()
        self.assertEqual(len(set(seen)), 3)

    def test_behind(self):
        """
        Messages that are due already are sent at once, and their time starts when they were due.
        """
        ping = self.ping(rate=16.0, count=8, step=0.25)
        self.assertEqual(self.outcomes(), ["ok"] * 8)
        self.assertGreater(ping.latencies.max, ping.latencies.min)

    def test_lost(self):
        """
        A message that does not come back in time is lost; the others are not.
        """
        numbers = iter(range(3))
        self.server.answers = lambda datagram: [] if next(numbers) == 1 else [datagram]
        ping = self.ping()
        self.assertEqual(sorted(map(str, self.outcomes())), ["Outcome.TIMED_OUT", "ok", "ok"])
        self.assertEqual((ping.lost, ping.sent), (1, 3))
        self.assertEqual(str(ping.failure), "timed out: no echo after 2 s")

    def test_duplicates(self):
        """
        An echo that comes again is counted once as an echo.  The run ends with the last echo.
        """
        self.server.answers = lambda datagram: [datagram] * 3
        ping = self.ping()
        self.assertEqual((ping.extra(), ping.sent), (self.none(duplicates=4), 3))
        self.assertEqual(self.notes[:2], ["seq=1 came again"] * 2)
        self.assertIsNone(ping.failure)

    def test_reordered(self):
        """
        An echo that comes after one that was sent later is counted.
        """
        held = []

        def swap(datagram):
            held.append(datagram)
            return held[::-1] if len(held) == 3 else []

        self.server.answers = swap
        ping = self.ping(rate=4.0)
        self.assertEqual([number for number, *_ in self.told], [3, 2, 1])
        self.assertEqual(ping.extra(), self.none(reordered=2))

    def test_late(self):
        """
        An echo after its timeout is late, and lost; one that comes again later is a duplicate.
        """
        held = []

        def hold(datagram):
            held.append(datagram)
            return {4: [held[0]] * 2 + [datagram]}.get(len(held), [datagram] * (len(held) > 1))

        self.server.answers = hold
        ping = self.ping(count=5)
        self.assertEqual(ping.extra(), self.none(late=1, duplicates=1))
        self.assertEqual((ping.lost, ping.sent), (1, 5))
        self.assertEqual(self.notes, ["seq=1 came late", "seq=1 came again"])

    def test_late_is_bounded(self):
        """
        Only so many lost messages are remembered.
        """
        self.patch(udpping, "MAX_LATE", 1)
        held = []

        def hold(datagram):
            held.append(datagram)
            return held[:2] if len(held) == 6 else []

        self.server.answers = hold
        ping = self.ping(count=6)
        self.assertEqual((ping.extra()["duplicates"], ping.lost), (2, 6))

    def test_wrong(self):
        """
        What is no echo is told and no echo: other bytes, another run's, too few.
        """
        for answer in (
            b"",
            b"x" * 64,
            lambda datagram: datagram[:-1],
            lambda datagram: datagram + b"x",
            lambda datagram: datagram[:8] + HEADER.pack(b"", 99)[8:] + datagram[16:],
        ):
            self.notes.clear()
            self.server.answers = lambda each, a=answer: [a(each) if callable(a) else a]
            ping = self.ping(count=1)
            self.assertEqual((ping.extra(), ping.lost), (self.none(wrong=1), 1))
            self.assertIn("bytes that are no echo of a message", self.notes[0])

    def test_wrong_only(self):
        """
        A run with a wrong answer fails, also if every echo came.
        """
        self.server.answers = lambda datagram: [b"x", datagram]
        ping = self.ping(count=1)
        self.assertEqual(self.outcomes(), ["ok"])
        self.assertIs(ping.failure.outcome, Outcome.CORRUPTED)

    def test_refused(self):
        """
        If no one listens, all messages in flight are lost at once.
        """
        target = "127.0.0.1", 9
        ping = self.ping(look_up=lambda *_: succeed([(socket.AF_INET, 0, 0, "", target)]))
        self.assertEqual(self.outcomes(), [Outcome.REFUSED] * 3)
        self.assertIs(ping.failure.outcome, Outcome.REFUSED)

    def test_next_address(self):
        """
        After a refusal, the next address is used, and kept once it has answered.
        """
        addresses = [
            (socket.AF_INET, 0, 0, "", ("255.255.255.255", 9)),
            (socket.AF_INET, 0, 0, "", ("127.0.0.1", 9)),
            (socket.AF_INET, 0, 0, "", self.server.target),
        ]
        ping = self.ping(count=5, look_up=lambda *_: succeed(addresses))
        self.assertEqual(self.outcomes(), [Outcome.UNREACHABLE, Outcome.REFUSED, "ok", "ok", "ok"])
        self.assertEqual(ping.lost, 2)

    def test_unresolved(self):
        """
        A failed lookup costs a message, and is tried again for the next one.
        """
        good = succeed([(socket.AF_INET, 0, 0, "", self.server.target)])
        answers = [fail(OSError("odd")), Deferred(), good]
        self.ping(count=5, look_up=lambda *_: answers.pop(0))
        self.assertEqual(self.outcomes(), [Outcome.UNRESOLVED, Outcome.TIMED_OUT, "ok", "ok", "ok"])

    def test_never_resolved(self):
        """
        A run without a server's address ends, too.
        """
        ping = self.ping(count=1, look_up=lambda *_: fail(OSError("odd")))
        self.assertEqual((self.outcomes(), ping.sent), ([Outcome.UNRESOLVED], 1))

    def test_canceled(self):
        """
        A run that is canceled leaves nothing behind.
        """
        self.server.answers = lambda datagram: []
        for first in (0.0, 0.5):
            ping = DatagramPing(
                *(self.reactor, None, lambda *what: None),
                target=self.server.target,
                note=self.notes.append,
                size=64,
                rate=1.0,
                connections=1,
                count=None,
                timeout_seconds=2,
            )
            running = Deferred.fromCoroutine(ping.run())
            self.reactor.advance(first)
            running.cancel()
            self.failureResultOf(running)
            self.assertEqual((self.reactor.getReaders(), self.reactor.getDelayedCalls()), ([], []))
