"""
UDP ports: what they take in one turn, and from which address they answer.
"""

import contextlib
import errno
import os
import select
import socket
import struct
from ipaddress import ip_address

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionLost
from twisted.internet.interfaces import IListeningPort
from twisted.internet.protocol import DatagramProtocol
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import capturedLogs
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from echod.net import reactor, udp
from echod.net.udp import MAX_DATAGRAMS, DatagramPort, answer_from, bind
from tests.support.arrivals import wait_for_arrival

CLIENT = ("192.0.2.7", 40000)
TIMESTAMP = (socket.SOL_SOCKET, 29, bytes(16))


def pktinfo(ours, destination=None, interface=3):
    """
    The ancillary data of a datagram over IPv4 (C{IP_PKTINFO}).
    """
    addresses = [ip_address(each).packed for each in (ours, destination or ours)]
    return 0, 8, struct.pack("I4s4s", interface, *addresses)


def pktinfo6(destination, interface=3):
    """
    The ancillary data of a datagram over IPv6 (C{IPV6_PKTINFO}).
    """
    return (
        socket.IPPROTO_IPV6,
        socket.IPV6_PKTINFO,
        struct.pack("16sI", ip_address(destination).packed, interface),
    )


class ScriptedSocket:
    """
    A UDP socket whose datagrams and errors come from a list.

    @ivar waiting: for each receive, a datagram and its ancillary data, or an error number.
    @ivar sent: what was sent: data, ancillary data, flags and address.
    """

    closed = False
    error = 0

    def __init__(self, *waiting):
        self.waiting = list(waiting)
        self.sent = []

    def setblocking(self, blocking):
        self.blocking = blocking

    def getsockname(self):
        return "0.0.0.0", 9000

    def fileno(self):
        return 77

    def recvmsg(self, size, ancillary_size):
        answer = self.waiting.pop(0) if self.waiting else errno.EAGAIN
        if isinstance(answer, int):
            raise OSError(answer, os.strerror(answer))
        datagram, *ancillary = answer
        return datagram[:size], ancillary, 0, CLIENT

    def sendmsg(self, buffers, ancillary, flags, address):
        self.sent.append((b"".join(buffers), ancillary, flags, address))

    def getsockopt(self, level, option):
        return self.error

    def close(self):
        self.closed = True


class EchoProtocol(DatagramProtocol):
    """
    Answers, and keeps what was sent to many hosts.

    @ivar broken: whether it fails at each datagram.
    """

    noisy = False
    broken = False

    def __init__(self):
        self.broadcasts = []

    def datagramReceived(self, datagram, addr):
        if self.broken:
            raise LookupError("a bug")
        self.transport.write(datagram, addr)

    def broadcastReceived(self, datagram, addr):
        self.broadcasts.append((datagram, addr))


class PortTests(SynchronousTestCase):
    """
    L{DatagramPort}, on a socket that does what the test says.
    """

    def port(self, *waiting):
        """
        @return: a port that reads.
        """
        self.reactor = MemoryReactorClock()
        self.socket = ScriptedSocket(*waiting)
        self.protocol = EchoProtocol()
        port = DatagramPort(self.reactor, self.socket, self.protocol)
        port.startListening()
        return port

    def test_interface(self):
        """
        It is a listening port that reads, and that our reactor calls directly.
        """
        port = self.port()
        verifyObject(IListeningPort, port)
        self.assertEqual(self.reactor.getReaders(), [port])
        self.assertFalse(self.socket.blocking)
        self.assertIs(self.protocol.transport, port)
        self.assertIn(type(port), reactor.DIRECT)
        self.assertEqual((port.getHost().host, port.getHost().port), ("0.0.0.0", 9000))

    def test_echo(self):
        """
        Each datagram is answered once and to its sender, also an empty one, until none is left.
        """
        port = self.port((b"one",), (b"",), (b"x" * 65507,))
        port.doRead()
        self.assertEqual([each[0] for each in self.socket.sent], [b"one", b"", b"x" * 65507])
        self.assertEqual({each[3] for each in self.socket.sent}, {CLIENT})

    def test_source(self):
        """
        An answer comes from the address that the datagram was sent to; what else the kernel tells
        does not matter, and neither does the order.
        """
        info, info6 = pktinfo("192.0.2.1"), pktinfo6("::ffff:192.0.2.1")
        port = self.port(
            (b"1", info),
            (b"2", info6, info),
            (b"3", TIMESTAMP, info, info6),
            (b"4", pktinfo6("2001:db8::1")),
            (b"5", TIMESTAMP),
        )
        port.doRead()
        answer = [pktinfo("192.0.2.1", "0.0.0.0", 0)]
        self.assertEqual(
            [each[1] for each in self.socket.sent],
            [answer, answer, answer, [pktinfo6("2001:db8::1", 0)], []],
        )

    def test_later_write(self):
        """
        A write after the turn does not use the address of the last datagram.
        """
        port = self.port((b"1", pktinfo("192.0.2.1")))
        port.doRead()
        port.write(b"2", CLIENT)
        self.assertEqual(self.socket.sent[-1], (b"2", [], 0, CLIENT))

    def test_broadcast(self):
        """
        A datagram that was sent to many hosts is told apart.
        """
        info = pktinfo("192.0.2.1", "192.0.2.255")
        port = self.port((b"1", info), (b"2", pktinfo6("::ffff:192.0.2.255"), info))
        port.doRead()
        self.assertEqual(self.protocol.broadcasts, [(b"1", CLIENT), (b"2", CLIENT)])
        self.assertEqual(self.socket.sent, [])

    def test_bounded(self):
        """
        One turn takes a bounded number of datagrams, also of empty ones.
        """
        port = self.port(*[(b"",)] * (MAX_DATAGRAMS + 5))
        port.doRead()
        self.assertEqual(len(self.socket.sent), MAX_DATAGRAMS)
        port.doRead()
        self.assertEqual(len(self.socket.sent), MAX_DATAGRAMS + 5)

    def test_refused(self):
        """
        An error that an earlier answer has caused does not end the port.
        """
        port = self.port(errno.ECONNREFUSED, (b"1",), errno.EHOSTUNREACH, (b"2",))
        for _ in range(3):
            self.assertIsNone(port.doRead())
        self.assertEqual([each[0] for each in self.socket.sent], [b"1", b"2"])

    def test_bug(self):
        """
        A failure of the protocol is logged, and costs no other datagram.
        """
        port = self.port((b"1",), (b"2",))
        self.protocol.broken = True
        with capturedLogs() as events:
            port.doRead()
        self.assertEqual([each["event"] for each in events], ["unhandled-error"] * 2)
        self.assertEqual(len(self.flushLoggedErrors(LookupError)), 2)

    def test_stop(self):
        """
        The socket is closed a turn after the port is told to stop; nothing is logged.
        """
        port = self.port()
        with capturedLogs() as events:
            stopped = port.stopListening()
            self.assertIsInstance(stopped, Deferred)
            self.assertNoResult(stopped)
            self.assertFalse(self.socket.closed)
            self.reactor.advance(0)
        self.successResultOf(stopped)
        self.assertTrue(self.socket.closed)
        self.assertEqual((self.reactor.getReaders(), list(events)), ([], []))
        self.assertIsNone(self.protocol.transport)

    def test_lost(self):
        """
        The reactor can end the port too.
        """
        port = self.port()
        port.connectionLost(Failure(ConnectionLost()))
        self.assertTrue(self.socket.closed)

    def test_error(self):
        """
        An error of the socket does not end the port.
        """
        port = self.port()
        self.socket.error = errno.ECONNABORTED
        self.reactor.removeReader(port)
        port.connectionLost(Failure(ConnectionLost()))
        self.assertFalse(self.socket.closed)
        self.assertEqual(self.reactor.getReaders(), [port])


class SourceTests(SynchronousTestCase):
    """
    L{answer_from}.
    """

    def test_ipv4(self):
        """
        The source is the destination of the datagram; the routes choose the interface.
        """
        self.assertEqual(
            answer_from(pktinfo("127.0.0.9")), [pktinfo("127.0.0.9", "0.0.0.0", interface=0)]
        )

    def test_before_the_option(self):
        """
        For a datagram that was queued before the option was set, the kernel tells no address of
        ours; the one in the header is used.
        """
        self.assertEqual(
            answer_from(pktinfo("0.0.0.0", "192.0.2.1", 0)),
            [pktinfo("192.0.2.1", "0.0.0.0", interface=0)],
        )
        self.assertIsNone(answer_from(pktinfo("0.0.0.0", "224.0.0.1", 0)))

    def test_many_hosts(self):
        """
        No answer to what was sent to a broadcast or multicast address.
        """
        for destination in ("255.255.255.255", "192.0.2.255", "224.0.0.1", "239.1.2.3"):
            self.assertIsNone(answer_from(pktinfo("192.0.2.1", destination)), destination)
        for destination in ("ff02::1", "ff0e::1"):
            self.assertIsNone(answer_from(pktinfo6(destination)), destination)

    def test_ipv6(self):
        """
        Only the answer from a link-local address names its interface.
        """
        for address in ("2001:db8::1", "::1", "fec0::1", "fe00::1"):
            self.assertEqual(answer_from(pktinfo6(address)), [pktinfo6(address, 0)])
        for address in ("fe80::1", "febf::1"):
            self.assertEqual(answer_from(pktinfo6(address)), [pktinfo6(address, 3)])

    def test_unknown(self):
        """
        Other ancillary data chooses no address.
        """
        self.assertEqual(answer_from((socket.IPPROTO_IP, 2, b"\1")), [])


class RefusingSocket:
    """
    A socket whose kernel refuses options.
    """

    family = socket.AF_INET6

    def setsockopt(self, level, option, value):
        raise OSError(errno.EPERM, "no")

    def getsockopt(self, level, option, size):
        raise OSError(errno.ENOPROTOOPT, "no")


class SocketTests(SynchronousTestCase):
    """
    Real sockets.
    """

    def bind(self, *args):
        bound = bind(0, *args)
        self.addCleanup(bound.close)
        return bound

    def test_address(self):
        """
        An interface decides the family, and a socket for an address of IPv6 is for IPv6 only.
        """
        bound = self.bind("127.0.0.1")
        self.assertEqual((bound.family, bound.getsockname()[0]), (socket.AF_INET, "127.0.0.1"))
        self.assertEqual(bound.type, socket.SOCK_DGRAM)
        if socket.has_dualstack_ipv6():
            bound = self.bind("::")
            self.assertEqual(bound.family, socket.AF_INET6)
            self.assertTrue(bound.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY))

    def test_all(self):
        """
        Without an interface, one socket takes IPv4 and IPv6; IPv4 only without IPv6.
        """
        if socket.has_dualstack_ipv6():
            bound = self.bind(None)
            self.assertEqual(bound.family, socket.AF_INET6)
            self.assertFalse(bound.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY))
        self.assertEqual(self.bind(None, False).family, socket.AF_INET)

    def test_in_use(self):
        """
        A port that is taken is an error.
        """
        port = self.bind("127.0.0.1").getsockname()[1]
        error = self.assertRaises(OSError, bind, port, "127.0.0.1")
        self.assertEqual(error.errno, errno.EADDRINUSE)

    def test_options(self):
        """
        The kernel tells the address of each datagram, and refuses broadcasts.
        """
        for bound in (self.bind("127.0.0.1"), self.bind(None)):
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            self.assertEqual(udp.set_datagram_options(bound), [])
            self.assertTrue(bound.getsockopt(socket.IPPROTO_IP, 8))
            self.assertFalse(bound.getsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST))

    def test_queue_of_errors(self):
        """
        An inherited socket may queue errors, such as that a client is gone; then the port goes on.
        """
        bound = self.bind("127.0.0.1")
        bound.setsockopt(socket.IPPROTO_IP, 11, 1)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.bind(("127.0.0.1", 0))
            gone = client.getsockname()
        bound.sendto(b"answer", gone)
        waiting = select.poll()
        waiting.register(bound, 0)
        self.assertTrue(waiting.poll(60_000))
        udp.set_datagram_options(bound)
        with contextlib.suppress(ConnectionRefusedError):
            bound.recv(1, socket.MSG_DONTWAIT | socket.MSG_PEEK)
        self.assertEqual(waiting.poll(0), [])

    def test_refused_options(self):
        """
        Options that the kernel refuses are returned.
        """
        refused = udp.set_datagram_options(RefusingSocket())
        self.assertEqual(
            [name for name, _ in refused],
            [
                *("SO_RCVBUF", "SO_BROADCAST", "IP_RECVERR", "IP_PKTINFO"),
                *("IPV6_RECVPKTINFO", "IPV6_RECVERR"),
            ],
        )
        self.patch(udp.sys, "platform", "freebsd13")
        self.assertEqual(len(udp.set_datagram_options(RefusingSocket())), 2)

    def test_kernel_drops(self):
        """
        What does not fit into the receive buffer is counted.
        """
        bound = self.bind("127.0.0.1")
        self.assertEqual(udp.kernel_drops(bound), 0)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            for _ in range(100):
                client.sendto(bytes(60000), bound.getsockname())
        wait_for_arrival()
        taken, waiting = 0, select.poll()
        waiting.register(bound, select.POLLIN)
        while waiting.poll(0):
            bound.recv(65536)
            taken += 1
        self.assertGreater(taken, 0)
        self.assertEqual(taken + udp.kernel_drops(bound), 100)
        self.assertEqual(udp.kernel_drops(RefusingSocket()), 0)
