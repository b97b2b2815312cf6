"""
The echo over UDP: which datagrams are answered, and the life of its listener.
"""

import errno
import io
import os
import socket
import sys

from twisted.application.service import IService
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import LogLevel, capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from echod import udp
from echod._util.values import network
from echod.connections.admission import AccessRules, RateLimiter
from echod.net.listener import ListenError
from echod.net.udp import bind
from echod.udp import DatagramAdmission, Drop, UDPEcho, UDPListener
from tests.support import needs
from tests.support.arrivals import wait_for_arrival


class FakeTransport:
    """
    Keeps what is written to it, or fails.

    @ivar error: the number of the error with which it fails; 0 for none.
    """

    error = 0

    def __init__(self):
        self.written = []

    def write(self, datagram, addr):
        if self.error:
            raise OSError(self.error, os.strerror(self.error))
        self.written.append((datagram, addr))


class AdmissionTests(SynchronousTestCase):
    """
    L{DatagramAdmission}.
    """

    def test_default(self):
        """
        Clients of IPv4 and IPv6 are answered.
        """
        admission = DatagramAdmission()
        for host in ("192.0.2.1", "::ffff:192.0.2.1", "2001:db8::1", "fe80::1", "127.0.0.1"):
            self.assertIsNone(admission.refusal(host, 1024), host)
        self.assertEqual(admission.clients(), 5)
        admission.expire()

    def test_low_port(self):
        """
        Ports below 1024 are those of services that may answer in their turn.
        """
        admission = DatagramAdmission()
        for port in (0, 7, 19, 53, 1023):
            self.assertIs(admission.refusal("192.0.2.1", port), Drop.LOW_PORT)

    def test_own_port(self):
        """
        Another echo on a port of ours, on whatever host, would answer without end.
        """
        admission = DatagramAdmission()
        admission.own_ports.update((9000, 9007))
        for port in (9000, 9007):
            self.assertIs(admission.refusal("192.0.2.1", port), Drop.OWN_PORT)
        self.assertIsNone(admission.refusal("192.0.2.1", 9001))

    def test_many_hosts(self):
        """
        No answer goes to many hosts, or to none.
        """
        admission = DatagramAdmission()
        for host in (
            *("255.255.255.255", "224.0.0.1", "0.0.0.0"),
            *("::ffff:255.255.255.255", "::ffff:239.0.0.1", "ff02::1", "::"),
        ):
            self.assertIs(admission.refusal(host, 5000), Drop.BROADCAST, host)

    def test_rules(self):
        """
        The access rules are those of connections; an IPv4-mapped address is one of IPv4.
        """
        rules = AccessRules([network("192.0.2.0/24"), network("2001:db8::/32")])
        admission = DatagramAdmission(rules)
        for host in ("192.0.2.1", "::ffff:192.0.2.1", "2001:db8::1"):
            self.assertIsNone(admission.refusal(host, 5000), host)
        for host in ("198.51.100.1", "::ffff:198.51.100.1", "2001:db9::1"):
            self.assertIs(admission.refusal(host, 5000), Drop.DENIED, host)

    def test_rate(self):
        """
        The rate is that of a client, an IPv4 address or an IPv6 /64.  What is refused for another
        reason takes no token.
        """
        clock = Clock()
        admission = DatagramAdmission(rate=RateLimiter(clock, 1.0, 2))
        for host, other in (
            ("192.0.2.1", "::ffff:192.0.2.1"),
            ("2001:db8::1", "2001:db8::2"),
        ):
            admission.refusal(host, 7)
            self.assertIsNone(admission.refusal(host, 5000))
            self.assertIsNone(admission.refusal(other, 5000))
            self.assertIs(admission.refusal(host, 5000), Drop.UDP_RATE)
        self.assertIsNone(admission.refusal("2001:db8:0:1::", 5000))
        self.assertEqual(admission.clients(), 5 + 3)
        clock.advance(1)
        self.assertIsNone(admission.refusal("192.0.2.1", 5000))
        self.assertIs(admission.refusal("192.0.2.1", 5000), Drop.UDP_RATE)
        clock.advance(10)
        admission.expire()
        self.assertEqual(admission.clients(), 5)

    def test_bounded(self):
        """
        However many senders there are, what is stored about them is bounded.
        """
        admission = DatagramAdmission()
        for number in range(udp.MAX_HOSTS + 10):
            admission.refusal(f"10.0.{number >> 8}.{number & 255}", 5000)
        self.assertEqual(admission.clients(), udp.MAX_HOSTS)


class EchoTests(SynchronousTestCase):
    """
    L{UDPEcho}.
    """

    def setUp(self):
        self.admission = DatagramAdmission()
        self.echo = UDPEcho(self.admission)
        self.transport = self.echo.transport = FakeTransport()

    def test_echo(self):
        """
        Each datagram goes back as it is, also an empty one.
        """
        for datagram in (b"one", b"", b"x" * 65507):
            self.echo.datagramReceived(datagram, ("192.0.2.1", 5000))
        self.assertEqual(
            self.transport.written,
            [(each, ("192.0.2.1", 5000)) for each in (b"one", b"", b"x" * 65507)],
        )
        self.assertEqual((self.echo.received, self.echo.echoed), (3, 3))
        self.assertEqual(self.echo.bytes_echoed, 65510)

    def test_dropped(self):
        """
        What is not answered is counted.
        """
        self.echo.datagramReceived(b"one", ("192.0.2.1", 7))
        self.echo.broadcastReceived(b"two", ("192.0.2.1", 5000))
        self.assertEqual(self.transport.written, [])
        self.assertEqual((self.echo.received, self.echo.echoed), (2, 0))
        self.assertEqual(self.echo.dropped, {Drop.LOW_PORT: 1, Drop.BROADCAST: 1})

    def test_send_fails(self):
        """
        An answer that the kernel does not take is counted, and not sent later.
        """
        for number, drop in (
            (errno.EAGAIN, Drop.SEND_BUFFER),
            (errno.ENOBUFS, Drop.SEND_BUFFER),
            (errno.EACCES, Drop.BROADCAST),
            (errno.EPERM, Drop.SEND_FAILED),
            (errno.ENETUNREACH, Drop.SEND_FAILED),
        ):
            self.transport.error = number
            before = self.echo.dropped[drop]
            self.echo.datagramReceived(b"one", ("192.0.2.1", 5000))
            self.assertEqual(self.echo.dropped[drop], before + 1)
        self.assertEqual((self.echo.received, self.echo.echoed, self.echo.bytes_echoed), (5, 0, 0))


class ListenerTests(SynchronousTestCase):
    """
    L{UDPListener}, on a real socket and a fake reactor.
    """

    def setUp(self):
        self.reactor = MemoryReactorClock()
        self.admission = DatagramAdmission()
        self.rearmed = []
        self.client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.client.bind(("127.0.0.1", 0))
        self.client.settimeout(60)
        self.addCleanup(self.client.close)

    def listener(self, host="127.0.0.1", **more):
        """
        A listener that has not started.
        """
        return UDPListener(
            "--udp-port 0", "udp", lambda: bind(0, host), self.admission, self.reactor, **more
        )

    def start(self, **more):
        """
        A listener that listens; the client is connected to it.
        """
        listener = self.listener(**more)
        listener.privilegedStartService()
        listener.startService()
        self.addCleanup(self.stop, listener)
        self.client.connect(("127.0.0.1", int(listener.address().rpartition(":")[2])))
        return listener

    def stop(self, listener):
        """
        Stop a listener.
        """
        wait_for_arrival()
        stopping = listener.stopService()
        self.reactor.advance(0)
        self.successResultOf(stopping)

    def test_life(self):
        """
        It is bound first, then reads, then is closed.
        """
        listener = self.listener()
        verifyObject(IService, listener)
        self.assertEqual(
            (listener.bound, listener.address(), listener.fileno()), (False, "nowhere", -1)
        )
        self.assertEqual(str(listener.place()), "nowhere (UDP)")
        with capturedLogs() as events:
            listener.privilegedStartService()
        self.assertTrue(listener.bound)
        self.successResultOf(listener.when_bound())
        self.assertEqual(self.reactor.getReaders(), [])
        [listening] = events
        self.assertEqual(listening["log_level"], LogLevel.info)
        self.assertEqual(formatEvent(listening), f"listening on {listener.address()}, --udp-port 0")
        self.assertGreater(listener.fileno(), 0)
        self.assertEqual(str(listener.place()), f"{listener.address()} (UDP)")
        listener.startService()
        self.assertEqual(len(self.reactor.getReaders()), 1)
        self.stop(listener)
        self.assertEqual((listener.bound, self.reactor.getReaders()), (False, []))
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_unprivileged(self):
        """
        The start binds what is not bound yet, as under twist.
        """
        listener = self.listener()
        listener.startService()
        self.assertTrue(listener.bound)
        self.stop(listener)

    def test_ipv6(self):
        """
        The address of a socket for IPv6.
        """
        needs.ipv6()
        listener = self.listener("::1")
        listener.privilegedStartService()
        self.assertRegex(listener.address(), r"^\[::1\]:\d+$")
        self.stop(listener)

    def test_cannot_bind(self):
        """
        A bind that fails ends the start with one line.
        """
        stderr = io.StringIO()
        self.patch(sys, "__stderr__", stderr)

        def fail():
            raise OSError(errno.EADDRINUSE, "in use")

        listener = UDPListener("--udp-port 9", "udp", fail, self.admission, self.reactor)
        with capturedLogs() as events:
            error = self.assertRaises(ListenError, listener.startService)
        self.assertEqual(error.code, 1)
        self.assertEqual([each["event"] for each in events], ["listen-failed"])
        self.assertEqual(
            stderr.getvalue(),
            "echod: --udp-port 9: Address already in use; stop what listens there, or give "
            "another\n",
        )
        self.successResultOf(listener.stopService())

    def test_refused_option(self):
        """
        Options that the kernel refuses are logged.
        """
        self.patch(udp, "set_datagram_options", lambda bound: [("IP_PKTINFO", OSError(1, "no"))])
        with capturedLogs() as events:
            self.start()
        self.assertEqual(events[0]["event"], "socket-option-refused")

    def test_echo(self):
        """
        A datagram comes back; one from a port of ours does not.
        """
        listener = self.start()
        self.client.send(b"hello")
        wait_for_arrival()
        [port] = self.reactor.getReaders()
        port.doRead()
        self.assertEqual(self.client.recv(100), b"hello")
        self.admission.own_ports.add(self.client.getsockname()[1])
        self.client.send(b"hello")
        wait_for_arrival()
        port.doRead()
        self.assertEqual(listener.dropped()[Drop.OWN_PORT], 1)
        self.assertEqual(set(listener.dropped()), set(Drop))

    def test_own_port(self):
        """
        Its own port is one of those that are not answered.
        """
        listener = self.start()
        self.assertEqual(self.admission.own_ports, {int(listener.address().rpartition(":")[2])})

    def test_drain(self):
        """
        What is queued when the stop begins is answered, in turns.
        """
        listener = self.start()
        for number in range(100):
            self.client.send(b"%d" % number)
        self.stop(listener)
        self.assertEqual([self.client.recv(9) for _ in range(100)], [b"%d" % n for n in range(100)])
        self.assertEqual(listener.echo.echoed, 100)

    def test_drain_is_bounded(self):
        """
        A client that sends on does not hold up the stop.
        """
        self.patch(udp, "MAX_DRAIN_TURNS", 3)
        listener = self.start()
        for _ in range(200):
            self.client.send(b"x")
        self.stop(listener)
        self.assertEqual(listener.echo.echoed, 96)

    def test_leaves_queue(self):
        """
        The queue of an inherited socket is left to the next process.
        """
        listener = self.start(leaves_queue=True)
        self.client.send(b"x")
        self.stop(listener)
        self.assertEqual(listener.echo.received, 0)

    def test_summary(self):
        """
        The totals are logged once a minute while there is traffic, and at the end.
        """
        listener = self.start()
        [port] = self.reactor.getReaders()
        with capturedLogs() as events:
            self.reactor.advance(60)
            self.assertEqual(list(events), [])
            self.client.send(b"hello")
            wait_for_arrival()
            port.doRead()
            listener.echo.broadcastReceived(b"", ("192.0.2.1", 5000))
            self.assertEqual(list(events), [])
            self.reactor.advance(60)
            self.reactor.advance(60)
            self.assertEqual(len(events), 1)
            self.client.send(b"bye")
            self.stop(listener)
        self.assertEqual(
            [formatEvent(each) for each in events],
            [
                "udp: 1 datagrams echoed, 5 bytes; 1 dropped, broadcast 1",
                "udp: 1 datagrams echoed, 3 bytes; 0 dropped",
            ],
        )

    def test_kernel_drops(self):
        """
        What the kernel discards is counted, also after the end, and by one process only.
        """
        drops = [0]
        self.patch(udp, "kernel_drops", lambda bound: drops[0])
        listener = self.start()
        drops[0] = 2
        self.assertEqual(listener.dropped()[Drop.RECEIVE_BUFFER], 2)
        drops[0] = 3
        self.stop(listener)
        self.assertEqual(listener.dropped()[Drop.RECEIVE_BUFFER], 3)
        other = self.start(counts_kernel_drops=False)
        self.assertEqual(other.dropped()[Drop.RECEIVE_BUFFER], 0)

    def test_kernel_drops_before(self):
        """
        What the kernel has discarded before the bind, as of a socket that systemd keeps, is not
        counted and not logged again; the counter of the kernel may start anew.
        """
        drops = [2**32 - 3]
        self.patch(udp, "kernel_drops", lambda bound: drops[0])
        with capturedLogs() as events:
            listener = self.start()
            self.assertEqual(listener.dropped()[Drop.RECEIVE_BUFFER], 0)
            drops[0] = 2
            self.stop(listener)
        self.assertEqual(
            [formatEvent(each) for each in events if each["event"] != "listening"],
            ["udp: 0 datagrams echoed, 0 bytes; 5 dropped, receive-buffer 5"],
        )
        self.assertEqual(listener.dropped()[Drop.RECEIVE_BUFFER], 5)

    def test_expires(self):
        """
        What is stored about clients is removed in time.
        """
        self.admission = DatagramAdmission(rate=RateLimiter(self.reactor, 1.0, 1))
        self.start()
        self.admission.refusal("192.0.2.1", 5000)
        self.assertEqual(self.admission.clients(), 2)
        self.reactor.pump([1, 1])
        self.assertEqual(self.admission.clients(), 1)

    def test_shared(self):
        """
        With several workers, the kernel wakes one of them; the master has logged the address.
        """
        with capturedLogs() as events:
            listener = self.start(shared=True)
        self.assertEqual([each["log_level"] for each in events], [LogLevel.debug])
        # This reactor cannot do that.
        listener.rearm()
        self.reactor.rearmExclusive = self.rearmed.append
        listener.rearm()
        self.assertEqual(self.rearmed, self.reactor.getReaders())
        other = self.start()
        other.rearm()
        self.assertEqual(len(self.rearmed), 1)
        self.stop(listener)
        listener.rearm()
        self.assertEqual(len(self.rearmed), 1)
