"""
Tests for L{echod.faults.stages}: what each fault does to the bytes, by a fake clock.
"""

import random

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from echod.faults.base import End
from echod.faults.delays import CHUNK_BYTES
from echod.faults.spec import parse_fault
from echod.faults.stages import TIMEOUT_CLOSE, make_stage

DATA = bytes(range(256)) * 40


class Recorder:
    """
    A connection, and the last stage: it records what passes, and when.
    """

    def __init__(self):
        self.clock = Clock()
        self.passed = []
        self.ends = []
        self.held = 0
        self.resets = []

    def receive(self, data):
        assert not self.ends, "bytes after the end"
        self.passed.append((self.clock.seconds(), data))

    def end(self, how):
        self.ends.append((self.clock.seconds(), how))

    def hold(self, size):
        self.held += size
        assert self.held >= 0

    def reset(self):
        self.resets.append(self.clock.seconds())

    @property
    def data(self):
        return b"".join(data for _, data in self.passed)


class StageTestCase(SynchronousTestCase):
    """
    Makes the stage of a fault.
    """

    def stage(self, text, seed=1):
        self.link = Recorder()
        made = make_stage(parse_fault(text), random.Random(seed), self.link, self.link)
        made.begin()
        return made

    def advance(self, seconds, step=0.01):
        self.link.clock.pump([step] * round(seconds / step))

    def assert_quiet(self):
        """
        Nothing is held, and no timer runs.
        """
        self.assertEqual((self.link.held, self.link.clock.getDelayedCalls()), (0, []))


class LatencyTests(StageTestCase):
    """
    C{latency}.
    """

    def test_delays(self):
        """
        Each chunk, and the end, come so much later.
        """
        stage = self.stage("latency=1s")
        stage.receive(b"one")
        self.advance(0.5)
        stage.receive(b"two")
        stage.end(End.INPUT)
        self.assertEqual(self.link.held, 6 + 2 * CHUNK_BYTES)
        self.advance(0.25)
        self.assertEqual(self.link.passed, [])
        self.advance(0.25)
        self.assertEqual([data for _, data in self.link.passed], [b"one"])
        self.assertEqual(self.link.ends, [])
        self.advance(0.5)
        self.assertEqual([data for _, data in self.link.passed], [b"one", b"two"])
        [(when, how)] = self.link.ends
        self.assertAlmostEqual(when, 1.5)
        self.assertIs(how, End.INPUT)
        self.assert_quiet()

    def test_end_later_than_bytes(self):
        """
        An end that comes after the bytes is delayed on its own.
        """
        stage = self.stage("latency=1s")
        stage.receive(b"one")
        self.advance(0.5)
        stage.end(End.INPUT)
        self.advance(0.75)
        self.assertEqual((self.link.data, self.link.ends), (b"one", []))
        self.advance(0.25)
        self.assertEqual(len(self.link.ends), 1)

    def test_jitter(self):
        """
        With a jitter, each delay is drawn, and no chunk passes another.
        """
        stage = self.stage("latency=100ms,jitter=90ms")
        sent = {}
        for number in range(200):
            sent[number] = self.link.clock.seconds()
            stage.receive(bytes([number]))
            self.advance(0.2, 0.001)
        self.assertEqual(self.link.data, bytes(range(200)))
        delays = [when - sent[data[0]] for when, data in self.link.passed]
        self.assertTrue(all(0.0099 <= each <= 0.1911 for each in delays), delays)
        self.assertGreater(max(delays) - min(delays), 0.15)
        for number in range(50):
            stage.receive(bytes([number]))
        self.advance(0.2, 0.001)
        self.assertEqual(self.link.data[200:], bytes(range(50)))

    def test_hurry(self):
        """
        In a hurry, all comes at once, and nothing is delayed any more.
        """
        stage = self.stage("latency=1s")
        stage.receive(b"one")
        stage.end(End.INPUT)
        stage.hurry()
        self.assertEqual(self.link.passed, [(0, b"one")])
        self.assertEqual(self.link.ends, [(0, End.INPUT)])
        self.assert_quiet()
        stage = self.stage("latency=1s")
        stage.hurry()
        stage.receive(b"two")
        stage.end(End.CLOSE)
        self.assertEqual((self.link.data, self.link.ends), (b"two", [(0, End.CLOSE)]))
        self.assert_quiet()

    def test_stop(self):
        """
        When the connection is lost, nothing comes any more.
        """
        stage = self.stage("latency=1s")
        stage.receive(b"one")
        stage.end(End.INPUT)
        stage.stop()
        self.advance(2)
        self.assertEqual((self.link.passed, self.link.ends), ([], []))


class PacedTests(StageTestCase):
    """
    C{bandwidth} and C{slicer}.
    """

    def test_bandwidth(self):
        """
        So many bytes come in a second, also if timers are late, and then the end.
        """
        for step in (0.01, 0.07):
            stage = self.stage("bandwidth=1000")
            stage.receive(DATA[:5000])
            stage.receive(DATA[5000:])
            stage.end(End.INPUT)
            self.assertEqual(self.link.data, DATA[:50])
            self.advance(5, step)
            self.assertLess(abs(len(self.link.data) - 5000), 100)
            self.assertEqual(self.link.ends, [])
            self.advance(6, step)
            self.assertEqual(self.link.data, DATA)
            self.assertLess(abs(self.link.passed[-1][0] - len(DATA) / 1000), 0.15)
            self.assertEqual(len(self.link.ends), 1)
            self.assert_quiet()

    def test_bandwidth_after_a_break(self):
        """
        A pause of the client is not made up for, and one of the process for a second at most.
        """
        stage = self.stage("bandwidth=1000")
        self.advance(10)
        stage.receive(DATA)
        self.advance(1)
        self.assertLess(abs(len(self.link.data) - 1000), 100)
        self.link.clock.advance(5)
        self.advance(1, 0.001)
        self.assertLess(abs(len(self.link.data) - 3000), 200)

    def test_slow_bandwidth(self):
        """
        A bandwidth of less than a byte for each interval gives one byte at a time.
        """
        stage = self.stage("bandwidth=2")
        stage.receive(b"abc")
        self.advance(2)
        self.assertEqual([data for _, data in self.link.passed], [b"a", b"b", b"c"])

    def test_slicer(self):
        """
        Each slice has its size, and comes its delay after the one before.
        """
        stage = self.stage("slicer=4,delay=1s")
        stage.receive(b"0123456789")
        self.assertEqual(self.link.held, 6)
        self.advance(2.5, 0.25)
        stage.receive(b"x")
        self.assertEqual(len(self.link.passed), 3)
        self.advance(1, 0.25)
        times = [when for when, _ in self.link.passed]
        self.assertEqual([data for _, data in self.link.passed], [b"0123", b"4567", b"89", b"x"])
        self.assertEqual(times, [0, 1, 2, 3])
        self.advance(2, 0.25)
        stage.receive(b"y")
        self.assertEqual(self.link.passed[-1][1], b"y")
        stage.end(End.CLOSE)
        self.assertEqual(len(self.link.ends), 1)
        self.assert_quiet()

    def test_slicer_without_delay(self):
        """
        Without a delay, each slice after the first has a turn of the loop of its own.
        """
        stage = self.stage("slicer=1")
        stage.receive(b"abc")
        self.assertEqual(self.link.passed, [(0, b"a")])
        self.link.clock.advance(0)
        self.assertEqual(self.link.passed, [(0, b"a"), (0, b"b"), (0, b"c")])
        self.assert_quiet()

    def test_hurry(self):
        """
        In a hurry, the rest comes at once, and nothing is delayed any more.
        """
        stage = self.stage("slicer=1,delay=1s")
        stage.receive(b"abc")
        stage.end(End.INPUT)
        stage.hurry()
        self.assertEqual([data for _, data in self.link.passed], [b"a", b"bc"])
        self.assertEqual(len(self.link.ends), 1)
        self.assert_quiet()
        stage = self.stage("slicer=1,delay=1s")
        stage.hurry()
        stage.receive(b"abc")
        stage.end(End.INPUT)
        self.assertEqual([data for _, data in self.link.passed], [b"abc"])
        self.assertEqual(len(self.link.ends), 1)

    def test_stop(self):
        """
        When the connection is lost, nothing comes any more.
        """
        stage = self.stage("slicer=1,delay=1s")
        stage.receive(b"abc")
        stage.stop()
        self.advance(3)
        self.assertEqual(self.link.data, b"a")


class CutTests(StageTestCase):
    """
    C{limit} and C{reset}.
    """

    def test_exact(self):
        """
        Exactly so many bytes pass, then an end; nothing passes after it.
        """
        for text, how in (("limit=10", End.CLOSE), ("reset=10B", End.RESET)):
            for sizes in ((10,), (11,), (4, 6), (4, 7), (9, 1, 5)):
                stage = self.stage(text)
                start = 0
                for size in sizes:
                    stage.receive(DATA[start : start + size])
                    start += size
                stage.receive(b"more")
                stage.end(End.INPUT)
                self.assertEqual((self.link.data, self.link.ends), (DATA[:10], [(0, how)]))

    def test_not_reached(self):
        """
        A client that ends before gets its own end.
        """
        stage = self.stage("limit=10")
        stage.receive(DATA[:9])
        stage.hurry()
        stage.end(End.INPUT)
        self.assertEqual((self.link.data, self.link.ends), (DATA[:9], [(0, End.INPUT)]))

    def test_time(self):
        """
        A reset by time comes at its time; bytes pass until then.
        """
        stage = self.stage("reset=5s")
        stage.receive(DATA)
        stage.hurry()
        self.advance(4.9)
        self.assertEqual((self.link.data, self.link.resets), (DATA, []))
        self.advance(0.2)
        self.assertEqual(len(self.link.resets), 1)
        stage = self.stage("reset=5s")
        stage.stop()
        self.assert_quiet()


class EndTests(StageTestCase):
    """
    C{timeout} and C{slow-close}.
    """

    def test_timeout(self):
        """
        Nothing passes; a minute after the client's end there is an end that is not the client's.
        """
        stage = self.stage("timeout")
        stage.receive(DATA)
        stage.end(End.INPUT)
        self.advance(TIMEOUT_CLOSE - 1, 1)
        self.assertEqual(self.link.ends, [])
        self.advance(1, 1)
        self.assertEqual((self.link.data, self.link.ends), (b"", [(60, End.CLOSE)]))
        self.assertEqual(self.link.held, 0)

    def test_timeout_hurry(self):
        """
        In a hurry, the end comes at once.
        """
        for hurry_first in (True, False):
            stage = self.stage("timeout")
            steps = [lambda: stage.end(End.INPUT), stage.hurry]  # noqa: B023
            for step in reversed(steps) if hurry_first else steps:
                step()
            self.assertEqual(self.link.ends, [(0, End.CLOSE)])
            self.assert_quiet()

    def test_timeout_after_a_reset(self):
        """
        The end of another fault stays what it is.
        """
        stage = self.stage("timeout")
        stage.hurry()
        stage.end(End.RESET)
        self.assertEqual(self.link.ends, [(0, End.RESET)])

    def test_slow_close(self):
        """
        The bytes pass at once, and the end later, or in a hurry at once.
        """
        stage = self.stage("slow-close=2s")
        stage.receive(DATA)
        stage.end(End.INPUT)
        self.assertEqual((self.link.data, self.link.ends), (DATA, []))
        self.advance(2, 1)
        self.assertEqual(self.link.ends, [(2, End.INPUT)])
        for hurry_first in (True, False):
            stage = self.stage("slow-close=2s")
            steps = [lambda: stage.end(End.CLOSE), stage.hurry]  # noqa: B023
            for step in reversed(steps) if hurry_first else steps:
                step()
            self.assertEqual(self.link.ends, [(0, End.CLOSE)])
            self.assert_quiet()


class CorruptTests(StageTestCase):
    """
    C{corrupt}.
    """

    def flipped(self, sizes, seed=1):
        """
        Send bytes in pieces of these sizes.

        @return: the numbers of the bits that have changed.
        """
        stage, start = self.stage("corrupt=64", seed), 0
        for size in sizes:
            stage.receive(DATA[start : start + size])
            start += size
        back = self.link.data
        self.assertEqual(len(back), start)
        changed = int.from_bytes(back, "little") ^ int.from_bytes(DATA[:start], "little")
        return [bit for bit in range(start * 8) if changed >> bit & 1]

    def test_one_bit_in_each_block(self):
        """
        In each block one bit is flipped, where the documentation says.
        """
        source = random.Random(1)
        expected = [block * 512 + int(source.random() * 512) for block in range(10)]
        self.assertEqual(self.flipped([640]), expected)

    def test_any_pieces(self):
        """
        The bits are the same, however the bytes come.
        """
        whole = self.flipped([640])
        self.assertEqual(self.flipped([1] * 640), whole)
        self.assertEqual(self.flipped([63, 1, 64, 65, 447]), whole)
        self.assertNotEqual(self.flipped([640], seed=2), whole)


class RefuseTests(StageTestCase):
    """
    A fault that needs no stage.
    """

    def test_passes(self):
        """
        Its stage passes all on.
        """
        stage = self.stage("refuse")
        stage.receive(DATA)
        stage.end(End.INPUT)
        stage.stop()
        self.assertEqual((self.link.data, self.link.ends), (DATA, [(0, End.INPUT)]))
