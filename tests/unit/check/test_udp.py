"""
The check over UDP.
"""

import errno
import os
import socket

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IReadDescriptor
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from echod.check.probe import Pattern
from echod.check.results import CheckError, DescriptorError, Outcome
from echod.check.udp import (
    DatagramSocket,
    check_datagram,
    compare,
    failure_of,
    udp_target,
)
from tests.support.arrivals import wait_for_arrival
from tests.support.udpserver import UDPServer, turn


def closed_port():
    """
    A port on which no one listens.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        made.bind(("127.0.0.1", 0))
        return made.getsockname()[1]


class TargetTests(SynchronousTestCase):
    """
    L{udp_target}.
    """

    def test_good(self):
        """
        A host and a port.
        """
        for text, target in (
            ("localhost:7", ("localhost", 7)),
            ("echo.example.:7", ("echo.example.", 7)),
            ("[::1]:9000", ("::1", 9000)),
        ):
            self.assertEqual(udp_target(text), target)

    def test_bad(self):
        """
        Nothing else.
        """
        for text in ("unix:/x", "tcp:host=localhost:port=7", "localhost", "::1:7"):
            error = self.assertRaises(ValueError, udp_target, text)
            self.assertIn("give HOST:PORT", str(error))
        self.assertRaises(ValueError, udp_target, "localhost:99999")


class SocketTests(SynchronousTestCase):
    """
    L{DatagramSocket}.
    """

    def setUp(self):
        self.reactor = MemoryReactorClock()
        self.got, self.failures = [], []

    def link(self, address):
        link = DatagramSocket(
            self.reactor, socket.AF_INET, address, self.got.append, self.failures.append
        )
        self.addCleanup(link.close)
        return link

    def test_echo(self):
        """
        It is read until nothing is left.
        """
        server = UDPServer()
        self.addCleanup(server.close)
        link = self.link(server.target)
        verifyObject(IReadDescriptor, link)
        self.assertEqual(link.peer, f"127.0.0.1:{server.target[1]}")
        self.assertEqual(self.reactor.getReaders(), [link])
        for datagram in (b"one", b""):
            link.send(datagram)
        server.serve()
        link.doRead()
        self.assertEqual(self.got, [b"one", b""])
        self.assertEqual(link.logPrefix(), "echod-check")

    def test_closed_meanwhile(self):
        """
        What comes after the end is not read.
        """
        server = UDPServer()
        self.addCleanup(server.close)
        link = self.link(server.target)
        self.got = type("", (), {"append": lambda _, datagram: link.close()})()
        link = self.link(server.target)
        link.send(b"1")
        server.serve()
        link.close()
        link.doRead()
        self.assertEqual((link.fileno(), self.reactor.getReaders()[1:]), (-1, []))

    def test_refused(self):
        """
        That no one listens is told by the next read, or before the next send, and does not end the
        socket.
        """
        link = self.link(("127.0.0.1", closed_port()))
        link.send(b"1")
        wait_for_arrival()
        link.doRead()
        link.send(b"2")
        wait_for_arrival()
        link.send(b"3")
        self.assertEqual([each.outcome for each in self.failures], [Outcome.REFUSED] * 2)
        self.assertEqual(self.reactor.getReaders(), [link])

    def test_reactor(self):
        """
        A reactor that sees the error ends a reader; the socket goes on.  Without an error, the
        reactor stops.
        """
        link = self.link(("127.0.0.1", closed_port()))
        link.send(b"1")
        self.reactor.removeReader(link)
        link.connectionLost(None)
        self.assertEqual([each.outcome for each in self.failures], [Outcome.REFUSED])
        self.assertEqual(self.reactor.getReaders(), [link])
        link.connectionLost(None)
        self.assertEqual((link.fileno(), self.reactor.getReaders()), (-1, []))

    def test_unreachable(self):
        """
        What the kernel does not allow is a failure.
        """
        failure = self.assertRaises(CheckError, self.link, ("255.255.255.255", 7))
        self.assertIs(failure.outcome, Outcome.UNREACHABLE)
        link = self.link(("127.0.0.1", closed_port()))
        failure = self.assertRaises(CheckError, link.send, bytes(70000))
        self.assertEqual(str(failure), f"unreachable: {os.strerror(errno.EMSGSIZE)}")

    def test_no_socket(self):
        """
        Neither is a socket that the kernel does not make; without a descriptor, it is no failure of
        the server.
        """
        failure = self.assertRaises(
            CheckError, DatagramSocket, self.reactor, -2, ("192.0.2.1", 7), None, None
        )
        self.assertIs(failure.outcome, Outcome.UNREACHABLE)
        for number in (errno.EMFILE, errno.ENFILE):
            self.assertRaises(DescriptorError, failure_of, OSError(number, ""))

    def test_no_number(self):
        """
        An error without a number is one, too.
        """
        self.assertIs(failure_of(OSError("?")).outcome, Outcome.UNREACHABLE)


class CheckTests(SynchronousTestCase):
    """
    L{check_datagram}.
    """

    def setUp(self):
        self.reactor = MemoryReactorClock()
        self.server = UDPServer()
        self.addCleanup(self.server.close)

    def check(self, target=None, size=64, **more):
        work = check_datagram(self.reactor, target or self.server.target, size, 2.0, **more)
        result = turn(self.reactor, self.server, work)
        self.assertEqual((self.reactor.getReaders(), self.reactor.getDelayedCalls()), ([], []))
        return result

    def test_ok(self):
        """
        An equal answer passes, also the longest one.
        """
        for size in (1, 64, 65507):
            result = self.check(size=size)
            self.assertIs(result.outcome, Outcome.OK)
            self.assertEqual(result.received, size)
            self.assertEqual(result.peer, f"127.0.0.1:{self.server.target[1]}")
            stages = result.times.stages()
            taken = [name for name, seconds in stages.items() if seconds is not None]
            self.assertEqual(taken, ["resolve", "echo", "first_byte", "total"])
            self.assertEqual(stages["total"], stages["resolve"] + stages["echo"])

    def test_first_answer(self):
        """
        The first answer counts.
        """
        self.server.answers = lambda datagram: [datagram, b"x"]
        self.assertIs(self.check().outcome, Outcome.OK)

    def test_wrong(self):
        """
        Another answer fails, and says how.
        """
        for answer, outcome in (
            (lambda datagram: [datagram[:-1]], Outcome.LOST),
            (lambda datagram: [datagram + b"x"], Outcome.SURPLUS),
            (lambda datagram: [bytes(64)], Outcome.CORRUPTED),
        ):
            self.server.answers = answer
            self.assertIs(self.check().outcome, outcome)

    def test_timed_out(self):
        """
        Without an answer, it fails at the end of the time.
        """
        self.server.answers = lambda datagram: []
        result = self.check()
        self.assertEqual(str(result.failure), "timed out: waiting for the echo, after 2 s")
        self.assertEqual(result.times.total, 2)
        result = self.check(look_up=lambda *_: Deferred())
        self.assertEqual(str(result.failure), "timed out: resolving, after 2 s")

    def test_refused(self):
        """
        If one address refuses, the next is tried; the last failure counts.
        """
        refusing = (socket.AF_INET, 0, 0, "", ("127.0.0.1", closed_port()))
        broadcast = (socket.AF_INET, 0, 0, "", ("255.255.255.255", 7))
        good = (socket.AF_INET, 0, 0, "", self.server.target)
        result = self.check(look_up=lambda *_: succeed([broadcast, refusing, good]))
        self.assertIs(result.outcome, Outcome.OK)
        result = self.check(look_up=lambda *_: succeed([broadcast, refusing]))
        self.assertIs(result.outcome, Outcome.REFUSED)
        self.server.answers = lambda datagram: [b""]
        result = self.check(look_up=lambda *_: succeed([good, refusing]))
        self.assertIs(result.outcome, Outcome.LOST)

    def test_answers_and_errors(self):
        """
        An error after the answer does not count.
        """

        def answers(datagram):
            return [datagram] * 2

        self.server.answers = answers
        result = self.check()
        self.assertIs(result.outcome, Outcome.OK)

    def test_unresolved(self):
        """
        A host without an address.
        """
        for error, words in (
            (socket.gaierror(-2, "Name or service not known"), "Name or service not known"),
            (OSError("odd"), "odd"),
            (UnicodeError(), "not a host name"),
        ):
            result = self.check(look_up=lambda *_, e=error: fail(e))
            self.assertEqual(str(result.failure), f"cannot resolve: {words}")

    def test_lookup_without_descriptor(self):
        """
        A lookup that lacks a file descriptor is no failure of the server.
        """
        error = OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        failure = self.check(look_up=lambda *_: fail(error))
        self.assertIsNotNone(failure.check(DescriptorError))


class CompareTests(SynchronousTestCase):
    """
    L{compare}.
    """

    def test_equal(self):
        """
        An equal answer raises nothing.
        """
        pattern = Pattern.random(10)
        compare(pattern.at(0, 10), pattern, 10)
        self.assertRaises(CheckError, compare, b"", pattern, 10)
