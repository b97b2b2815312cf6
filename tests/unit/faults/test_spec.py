"""
Tests for L{echod.faults.spec}: which faults are understood, and what is said of the others.
"""

from dataclasses import FrozenInstanceError

from twisted.trial.unittest import SynchronousTestCase

from echod.faults.spec import (
    GRAMMAR,
    Bandwidth,
    Corrupt,
    Latency,
    Limit,
    Refuse,
    Reset,
    Slicer,
    SlowClose,
    Timeout,
    parse_fault,
)


class FaultTests(SynchronousTestCase):
    """
    The records of faults.
    """

    def test_kinds(self):
        """
        Each kind is understood, with its value and its other names.
        """
        for text, fault in (
            ("latency=200ms", Latency(text="", seconds=0.2)),
            ("latency=2,jitter=50ms", Latency(text="", seconds=2, jitter=0.05)),
            ("bandwidth=64KiB", Bandwidth(text="", rate=65536)),
            ("slicer=1KiB", Slicer(text="", size=1024)),
            ("slicer=7B,delay=10ms", Slicer(text="", size=7, delay=0.01)),
            ("limit=1MiB", Limit(text="", size=1 << 20)),
            ("reset=1GiB", Reset(text="", size=1 << 30)),
            ("reset=5s", Reset(text="", seconds=5)),
            ("reset=5m", Reset(text="", seconds=300)),
            ("timeout", Timeout(text="")),
            ("slow-close=1.5s", SlowClose(text="", seconds=1.5)),
            ("corrupt=64", Corrupt(text="", size=64)),
            ("refuse", Refuse(text="")),
        ):
            found = parse_fault(text)
            self.assertEqual(vars(found), {**vars(fault), "text": text})
            self.assertIs(type(found), type(fault))
            self.assertEqual(found.kind, text.partition("=")[0])
        self.assertRaises(FrozenInstanceError, setattr, found, "chance", 0)

    def test_chance(self):
        """
        Each kind takes a chance, at any place.
        """
        for grammar in GRAMMAR.values():
            example = grammar.example.partition(" or ")[0]
            self.assertEqual(parse_fault(example).chance, 1)
            self.assertEqual(parse_fault(f"{example},chance=0.5%").chance, 0.005)
        self.assertEqual(parse_fault("latency=1s,chance=100%,jitter=1s").chance, 1)

    def test_examples(self):
        """
        The examples are right.
        """
        for kind, grammar in GRAMMAR.items():
            for example in grammar.example.split(" or "):
                self.assertEqual(parse_fault(example).kind, kind)

    def test_wrong(self):
        """
        A wrong text is refused, with what to give instead.
        """
        for text, said in (
            ("", "no such fault; give latency, bandwidth, slicer, limit, reset, timeout, "
                 "slow-close, corrupt or refuse"),
            ("Latency=1s", "no such fault; give latency, bandwidth, slicer, limit, reset, "
                           "timeout, slow-close, corrupt or refuse"),
            ("latency", "'' is not a time from 1ms to a week; give such as "
                        "latency=200ms,jitter=50ms"),
            ("latency=0", "'0' is not a time from 1ms to a week; give such as "
                          "latency=200ms,jitter=50ms"),
            ("latency=8d", "'8d' is not a time from 1ms to a week; give such as "
                           "latency=200ms,jitter=50ms"),
            ("latency=1s,delay=1s", "latency has no 'delay', or has it already; give such as "
                                    "latency=200ms,jitter=50ms"),
            ("refuse,chance=1%,chance=1%", "refuse has no 'chance', or has it already; give such "
                                           "as refuse"),
            ("refuse,", "refuse has no '', or has it already; give such as refuse"),
            ("refuse,chance=0%", "'0%' is not a chance such as 10%, up to 100%; give such as "
                                 "refuse"),
            ("refuse,chance=0.1", "'0.1' is not a chance such as 10%, up to 100%; give such as "
                                  "refuse"),
            ("refuse,chance=101%", "'101%' is not a chance such as 10%, up to 100%; give such as "
                                   "refuse"),
            ("timeout=", "timeout takes no value; give such as timeout"),
            ("limit=0", "'0' is not a size from 1 byte to 1024 TiB; give such as limit=1MiB"),
            ("limit=1025TiB", "'1025TiB' is not a size from 1 byte to 1024 TiB; give such as "
                              "limit=1MiB"),
            ("limit=1\nB", r"'1\nB' is not a size from 1 byte to 1024 TiB; give such as "
                           "limit=1MiB"),
            ("corrupt=63", "'63' is not a size from 64 bytes to 1024 TiB; give such as "
                           "corrupt=1MiB"),
            ("reset=5", "'5' could be bytes or seconds; give such as reset=1MiB or reset=5s"),
            ("reset=0s", "'0s' is not a time from 1ms to a week; give such as reset=1MiB or "
                         "reset=5s"),
            ("reset=0B", "'0B' is not a size from 1 byte to 1024 TiB; give such as reset=1MiB or "
                         "reset=5s"),
        ):  # fmt: skip
            error = self.assertRaises(ValueError, parse_fault, text)
            self.assertEqual(str(error), said, text)
