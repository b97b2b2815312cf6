"""
The server's side of a connection, on real sockets: what a protocol for Twisted relies on, and that
nothing waits without need.
"""

import ast
import gc
import os
import socket
import struct
import weakref
from pathlib import Path

from twisted.internet import posixbase, tcp, unix
from twisted.internet.abstract import FileDescriptor
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.epollreactor import EPollReactor
from twisted.internet.error import (
    ConnectionAborted,
    ConnectionDone,
    ConnectionLost,
)
from twisted.internet.interfaces import (
    IConsumer,
    IHalfCloseableDescriptor,
    ILoggingContext,
    IPushProducer,
    IReadWriteDescriptor,
    ISSLTransport,
    ISystemHandle,
    ITCPTransport,
    ITLSTransport,
    IUNIXTransport,
)
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from echod import net
from echod.net.transport import MAX_READ, MIN_READ, EagerTransport
from echod.net.unix import EagerUNIXTransport
from tests.support import needs
from tests.support.fakes import DescriptorReactor
from tests.support.pairs import (
    BIG,
    HalfCloseable,
    PairTestCase,
    Puller,
    Pusher,
    Recorder,
    drained,
    tcp_pair,
)


class InterfaceTests(PairTestCase):
    """
    What a transport provides.
    """

    def test_interfaces(self):
        """
        It provides the interfaces of a TCP transport, and not yet those of TLS.
        """
        transport, _ = self.connect(Recorder(), tcp=True)
        for interface in (
            ITCPTransport,
            ITLSTransport,
            IConsumer,
            IPushProducer,
            IHalfCloseableDescriptor,
            IReadWriteDescriptor,
            ISystemHandle,
            ILoggingContext,
        ):
            verifyObject(interface, transport)
        self.assertFalse(ISSLTransport.providedBy(transport))

    def test_unix_interfaces(self):
        """
        On a UNIX socket, it provides the interface of such a transport.
        """
        transport, _ = self.connect(Recorder(), EagerUNIXTransport, client=b"")
        verifyObject(IUNIXTransport, transport)
        verifyObject(IHalfCloseableDescriptor, transport)

    def test_addresses(self):
        """
        It knows the client's address and its own.
        """
        transport, peer = self.connect(Recorder(), tcp=True, client=("192.0.2.7", 40000))
        self.assertEqual(transport.getPeer(), IPv4Address("TCP", "192.0.2.7", 40000))
        self.assertEqual(transport.getHost(), IPv4Address("TCP", *peer.getpeername()))
        self.assertEqual(transport.hostname, "192.0.2.7")

    def test_addresses_of_ipv6(self):
        """
        With IPv6, the addresses are IPv6 addresses.
        """
        needs.ipv6()
        ours, peer = tcp_pair("::1")
        self.addCleanup(ours.close)
        self.addCleanup(peer.close)
        client = peer.getsockname()
        transport = EagerTransport(ours, Recorder(), client, None, 0, self.reactor)
        self.assertEqual(transport.getPeer(), IPv6Address("TCP", *client))
        self.assertEqual(transport.getHost(), IPv6Address("TCP", *peer.getpeername()))

    def test_addresses_on_a_unix_socket(self):
        """
        On a UNIX socket, the peer's address is the name that it bound itself to, if any.
        """
        transport, _ = self.connect(Recorder(), EagerUNIXTransport, client=b"/run/one")
        self.assertEqual(transport.getPeer(), UNIXAddress(b"/run/one"))
        transport, _ = self.connect(Recorder(), EagerUNIXTransport, client=b"")
        self.assertEqual(transport.getPeer(), UNIXAddress(None))
        self.assertEqual(transport.getHost(), UNIXAddress(b""))

    def test_log_prefix(self):
        """
        The log prefix has the protocol, the number of the connection and the client.
        """
        ours, _ = self.pair()
        client = ("192.0.2.7", 40000)
        transport = EagerTransport(ours, Recorder(), client, None, 12, self.reactor)
        self.assertEqual(transport.logPrefix(), "Recorder,12,192.0.2.7")
        self.assertEqual(transport.logstr, "Recorder,12,192.0.2.7")

    def test_log_prefix_after_the_end(self):
        """
        There is a log prefix after the end too, as in Twisted.
        """
        transport, peer = self.connect(Recorder())
        peer.close()
        self.reactor.turn()
        self.assertFalse(transport.connected)
        self.assertIn("192.0.2.7", transport.logPrefix())

    def test_repr(self):
        """
        Its C{repr} has its protocol and port; after the end, its number.
        """
        transport, peer = self.connect(Recorder())
        self.assertEqual(repr(transport), "<Recorder #0 on None>")
        transport.server = self
        self._realPortNumber = 9000
        self.assertEqual(repr(transport), "<Recorder #0 on 9000>")
        peer.close()
        self.reactor.turn()
        self.assertIn("#0 on 9000", repr(transport))

    def test_from_a_connected_socket(self):
        """
        Twisted's way to adopt a connected socket works: the protocol is connected.
        """
        ours, peer = self.pair(tcp=True)
        ours.setblocking(False)
        protocol = Recorder()
        factory = Factory.forProtocol(lambda: protocol)
        transport = EagerTransport._fromConnectedSocket(
            ours.fileno(), socket.AF_INET, factory, self.reactor
        )
        self.addCleanup(transport.socket.close)
        peer.sendall(b"hello")
        self.reactor.until(lambda: protocol.received)
        self.assertEqual(protocol.received, [b"hello"])
        self.assertIn("Recorder", repr(transport))

    def test_handle(self):
        """
        Its handle is its non-blocking socket.
        """
        transport, peer = self.connect(Recorder(), tcp=True)
        self.assertEqual(transport.getHandle().getsockname(), peer.getpeername())
        self.assertFalse(transport.getHandle().getblocking())

    def test_socket_options(self):
        """
        The options that Twisted offers are set on the socket.
        """
        transport, _ = self.connect(Recorder(), tcp=True)
        for value in (True, False):
            transport.setTcpNoDelay(value)
            transport.setTcpKeepAlive(value)
            self.assertEqual((transport.getTcpNoDelay(), transport.getTcpKeepAlive()), (value,) * 2)


class WriteTests(PairTestCase):
    """
    Sending.
    """

    def test_at_once(self):
        """
        When nothing is queued, the peer has the data before the reactor's next turn.
        """
        for tcp_too in (False, True):
            transport, peer = self.connect(Recorder(), tcp=tcp_too)
            transport.write(b"one")
            transport.write(b"two")
            self.assertEqual(peer.recv(6, socket.MSG_WAITALL), b"onetwo")
            self.assertEqual(self.reactor.writers, [])

    def test_sequence_at_once(self):
        """
        Several pieces are sent at once too, from any iterable.
        """
        transport, peer = self.connect(Recorder())
        transport.writeSequence([b"one", b"two"])
        transport.writeSequence(iter((b"three",)))
        transport.writeSequence([])
        self.assertEqual(drained(peer), b"onetwothree")
        self.assertEqual(self.reactor.writers, [])

    def test_not_bytes(self):
        """
        Text is refused, and nothing of its sequence is sent.
        """
        transport, peer = self.connect(Recorder())
        self.assertRaises(TypeError, transport.write, "text")
        error = self.assertRaises(TypeError, transport.writeSequence, [b"one", "text"])
        self.assertEqual(str(error), "Data must be bytes")
        self.assertEqual(drained(peer), b"")

    def test_nothing(self):
        """
        Writing nothing sends nothing, and does not wait for writability.
        """
        transport, peer = self.connect(Recorder())
        transport.write(b"")
        self.assertEqual(self.reactor.writers, [])
        self.assertEqual(drained(peer), b"")
        self.assertTrue(transport.connected)

    def test_more_than_the_kernel_takes(self):
        """
        What the kernel does not take at once is sent later, before what is written after it.
        """
        transport, peer = self.connect(Recorder())
        transport.write(BIG)
        transport.write(b"and more")
        transport.writeSequence([b", and", b" more"])
        self.assertEqual(self.reactor.writers, [transport])
        expected = BIG + b"and more, and more"
        self.assertEqual(self.drain(peer, len(expected)), expected)
        self.reactor.turn()
        self.assertEqual(self.reactor.writers, [])

    def test_no_overtaking(self):
        """
        While something is queued, a write is queued behind it, even if the send buffer has space.
        """
        transport, peer = self.connect(Recorder())
        transport.write(BIG)
        got = drained(peer)
        transport.write(b"last")
        self.assertEqual(drained(peer), b"")
        got += self.drain(peer, len(BIG) + 4 - len(got))
        self.assertEqual(got, BIG + b"last")

    def test_nothing_taken(self):
        """
        When the kernel takes nothing at all, everything is sent later.
        """
        transport, peer = self.connect(Recorder())
        filling = 0
        try:
            while True:
                filling += transport.socket.send(b"-" * 1024)
        except BlockingIOError:
            transport.write(b"hello")
        self.assertEqual(self.drain(peer, filling + 5)[filling:], b"hello")

    def test_at_once_again(self):
        """
        Once the queue is empty, writes are sent at once again.
        """
        for producer in (None, Pusher()):
            transport, peer = self.connect(Recorder())
            if producer is not None:
                transport.registerProducer(producer, True)
            transport.write(BIG)
            self.drain(peer, len(BIG))
            self.reactor.until(lambda: not self.reactor.writers)
            transport.write(b"hello")
            self.assertEqual(drained(peer), b"hello")

    def test_peer_gone(self):
        """
        Writing to a peer that has gone raises nothing and calls nothing; the reactor reports the
        end.
        """
        protocol = Recorder()
        transport, peer = self.connect(protocol)
        transport.pauseProducing()
        peer.close()
        transport.write(b"hello")
        self.assert_lost(protocol)
        self.reactor.turn()
        self.assert_lost(protocol, ConnectionLost)

    def test_after_the_end(self):
        """
        What is written after the connection is lost is dropped silently.
        """
        protocol = Recorder()
        transport, peer = self.connect(protocol)
        transport.write(BIG)
        peer.close()
        self.reactor.turn()
        self.assert_lost(protocol, ConnectionLost)
        transport.write(b"hello")
        transport.writeSequence([b"hello"])
        self.assertEqual(self.reactor.removeAll(), [])

    def test_no_cycle(self):
        """
        A connection that has ended leaves no reference cycle, also after a late write.
        """
        self.addCleanup(gc.enable)
        gc.disable()
        for register in (False, True):
            transport, peer = self.connect(Recorder())
            transport.write(BIG)
            peer.close()
            self.reactor.turn()
            self.assertFalse(transport.connected)
            transport.write(b"late")
            if register:
                transport.registerProducer(Pusher(), False)
            left = weakref.ref(transport)
            del transport
            self.assertIsNone(left())

    def test_another_owner(self):
        """
        A late write does not reach the new owner of the descriptor's number.
        """
        transport, peer = self.connect(Recorder())
        number = transport.fileno()
        peer.close()
        self.reactor.turn()
        other, other_peer = self.pair()
        if number not in (other.fileno(), other_peer.fileno()):
            os.dup2(other.fileno(), number)
            self.addCleanup(os.close, number)
        transport.write(b"hello")
        self.assertEqual(drained(other_peer) + drained(other), b"")


class ProducerTests(PairTestCase):
    """
    Producers and back-pressure.
    """

    def test_paused_and_resumed(self):
        """
        A producer is paused when too much is queued, and resumed when nothing is left.
        """
        transport, peer = self.connect(Recorder())
        pusher = Pusher()
        transport.registerProducer(pusher, True)
        transport.write(b"hello")
        self.assertEqual(drained(peer), b"hello")
        self.assertEqual(pusher.told, [])
        transport.write(BIG)
        self.assertEqual(pusher.told, ["pause"])
        drained(peer)
        self.reactor.turn()
        self.assertEqual(pusher.told, ["pause"])
        self.reactor.until(lambda: drained(peer) == b"" and not self.reactor.writers)
        self.assertEqual(pusher.told, ["pause", "resume"])

    def test_write_while_paused(self):
        """
        What a producer writes while it is being paused comes after what it wrote before.
        """
        transport, peer = self.connect(Recorder())
        got = []

        def write_more():
            if not got:
                got.append(drained(peer))
                transport.write(b"last")

        transport.registerProducer(Pusher(write_more), True)
        transport.write(BIG)
        transport.unregisterProducer()
        got.append(self.drain(peer, len(BIG) + 4 - len(got[0])))
        self.assertEqual(b"".join(got)[-8:], BIG[-4:] + b"last")

    def test_pull_producer(self):
        """
        A pull producer is asked for one piece at a time, each after the one before was sent.
        """
        transport, peer = self.connect(Recorder())
        puller = Puller(transport, [BIG, b"second", b"third"])
        transport.registerProducer(puller, False)
        self.assertEqual(puller.pieces, [b"second", b"third"])
        self.reactor.turn()
        self.assertEqual(puller.pieces, [b"second", b"third"])
        expected = BIG + b"secondthird"
        self.assertEqual(self.drain(peer, len(expected)), expected)
        self.reactor.until(lambda: transport.producer is None)
        self.reactor.until(lambda: not self.reactor.writers)
        transport.write(b"hello")
        self.assertEqual(drained(peer), b"hello")

    def test_pull_little(self):
        """
        A pull producer is asked for the next piece also when the kernel takes each at once.
        """
        transport, peer = self.connect(Recorder())
        puller = Puller(transport, [b"one", b"two", b"three"])
        transport.registerProducer(puller, False)
        self.assertEqual(self.drain(peer, 11), b"onetwothree")
        self.reactor.until(lambda: transport.producer is None)

    def test_one_at_a_time(self):
        """
        A second producer is refused, and later writes are still sent.
        """
        transport, peer = self.connect(Recorder())
        transport.registerProducer(Pusher(), True)
        self.assertRaises(RuntimeError, transport.registerProducer, Pusher(), False)
        transport.write(b"hello")
        self.drain(peer, 5)

    def test_lost(self):
        """
        A producer is stopped when the connection is lost, and one that is registered later at once.
        """
        transport, peer = self.connect(Recorder())
        pusher = Pusher()
        transport.registerProducer(pusher, True)
        peer.close()
        self.reactor.turn()
        self.assertEqual(pusher.told, ["stop"])
        puller = Puller(transport, [b"hello"])
        transport.registerProducer(puller, False)
        self.assertTrue(puller.stopped)
        self.assertEqual(puller.pieces, [b"hello"])
        self.assertEqual(self.reactor.removeAll(), [])

    def test_stop_producing(self):
        """
        C{stopProducing} on the transport closes it.
        """
        protocol = Recorder()
        transport, _ = self.connect(protocol)
        transport.stopProducing()
        self.reactor.turn()
        self.assert_lost(protocol, ConnectionDone)


class ReadTests(PairTestCase):
    """
    Receiving.
    """

    def test_receive(self):
        """
        What the peer sends reaches the protocol.
        """
        protocol = Recorder()
        _, peer = self.connect(protocol)
        peer.send(b"hello")
        self.reactor.turn()
        self.assertEqual(protocol.received, [b"hello"])

    def test_nothing_to_read(self):
        """
        A read that finds nothing changes nothing.
        """
        protocol = Recorder()
        transport, _ = self.connect(protocol)
        self.assertIsNone(transport.doRead())
        self.assertEqual(protocol.received, [])
        self.assertEqual(self.reactor.readers, [transport])

    def test_pause(self):
        """
        Nothing is received while the transport is paused, and all of it afterwards.
        """
        protocol = Recorder()
        transport, peer = self.connect(protocol)
        transport.pauseProducing()
        peer.send(b"hello")
        self.reactor.turn()
        self.assertEqual(protocol.received, [])
        transport.resumeProducing()
        self.reactor.turn()
        self.assertEqual(protocol.received, [b"hello"])

    def test_end(self):
        """
        The peer's FIN ends the connection if the protocol has no half-close.
        """
        for transport_class in (EagerTransport, EagerUNIXTransport):
            protocol = Recorder()
            _, peer = self.connect(protocol, transport_class)
            peer.send(b"hello")
            peer.close()
            self.reactor.until(lambda protocol=protocol: protocol.lost)
            self.assertEqual(protocol.received, [b"hello"])
            self.assert_lost(protocol, ConnectionDone)

    def test_reset(self):
        """
        A reset is not a clean end, also for a protocol with half-close.
        """
        protocol = HalfCloseable()
        _, peer = self.connect(protocol, tcp=True)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.close()
        self.reactor.until(lambda: protocol.lost)
        self.assert_lost(protocol, ConnectionLost)
        self.assertEqual(protocol.ended, 0)

    def one_read(self, protocol, peer, size=4 * MAX_READ):
        """
        How many bytes one read returns when much is there; the rest is drained.
        """
        peer.sendall(b"-" * size)
        protocol.received.clear()
        self.reactor.turn()
        got = len(protocol.data)
        drained(protocol.transport.socket)
        return got

    def busy_pair(self):
        """
        A connection with large buffers.
        """
        protocol = Recorder()
        transport, peer = self.connect(protocol)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8 * MAX_READ)
        return protocol, transport, peer

    def test_growing_reads(self):
        """
        While reads come back full, each asks for more, up to the limit.
        """
        protocol, _, peer = self.busy_pair()
        sizes = [self.one_read(protocol, peer) for _ in range(8)]
        self.assertEqual(sizes[0], MIN_READ)
        self.assertEqual(sizes, sorted(sizes))
        self.assertLess(sizes[1], sizes[2])
        self.assertEqual(sizes[-2:], [MAX_READ] * 2)

    def test_shrinking_reads(self):
        """
        After small reads, reads ask for less again, down to the limit.
        """
        protocol, _, peer = self.busy_pair()
        for _ in range(8):
            self.one_read(protocol, peer)
        self.one_read(protocol, peer, 1)
        self.assertEqual(self.one_read(protocol, peer), MAX_READ // 2)
        for _ in range(20):
            self.one_read(protocol, peer, 1)
        self.assertEqual(self.one_read(protocol, peer), MIN_READ)

    def test_steady_reads(self):
        """
        A read that is neither small nor full does not change the size of the next.
        """
        protocol, _, peer = self.busy_pair()
        self.one_read(protocol, peer)
        for _ in range(3):
            self.one_read(protocol, peer, MIN_READ)
        self.assertEqual(self.one_read(protocol, peer), 4 * MIN_READ)


class CloseTests(PairTestCase):
    """
    Closing from our side.
    """

    def test_lose_connection(self):
        """
        With nothing queued, the connection is closed in the next turn, once.
        """
        protocol = Recorder()
        transport, peer = self.connect(protocol)
        transport.loseConnection()
        transport.loseConnection()
        self.assert_lost(protocol)
        self.reactor.turn()
        self.assert_lost(protocol, ConnectionDone)
        self.assertEqual(peer.recv(1), b"")
        self.assertEqual(self.reactor.removeAll(), [])

    def test_closed_already(self):
        """
        The protocol is told of the end even if the kernel refuses to close the descriptor.
        """
        protocol = Recorder()
        transport, _ = self.connect(protocol)
        transport.pauseProducing()
        os.close(transport.fileno())
        transport.connectionLost(Failure(ConnectionDone()))
        self.assert_lost(protocol, ConnectionDone)

    def test_lose_connection_queued(self):
        """
        Queued data is sent first; input is not delivered any more.
        """
        protocol = Recorder()
        transport, peer = self.connect(protocol)
        transport.write(BIG)
        transport.loseConnection()
        peer.send(b"hello")
        self.assertEqual(self.drain(peer, len(BIG)), BIG)
        self.reactor.until(lambda: protocol.lost)
        self.assertRaises(ConnectionResetError, peer.recv, 1)
        self.assertEqual(protocol.received, [])
        self.assert_lost(protocol, ConnectionDone)

    def test_abort(self):
        """
        An abort drops queued data, and over TCP the peer gets a reset.
        """
        protocol = Recorder()
        transport, peer = self.connect(protocol, tcp=True)
        transport.write(b"hello")
        self.assertEqual(peer.recv(5), b"hello")
        transport.abortConnection()
        self.assert_lost(protocol)
        self.reactor.turn()
        self.assert_lost(protocol, ConnectionAborted)
        self.assertRaises(ConnectionResetError, peer.recv, 1)
        self.assertEqual(self.reactor.removeAll(), [])

    def test_abort_queued(self):
        """
        An abort does not wait for a peer that reads nothing.
        """
        protocol = Recorder()
        transport, peer = self.connect(protocol)
        transport.write(BIG)
        transport.loseConnection()
        transport.abortConnection()
        self.reactor.turn()
        self.assert_lost(protocol, ConnectionAborted)
        self.assertLess(len(drained(peer)), len(BIG))

    def test_abort_in_between(self):
        """
        Nothing more is delivered after a protocol aborts in C{dataReceived}.
        """
        protocol = Recorder(lambda: protocol.transport.abortConnection())
        _, peer = self.connect(protocol)
        peer.send(b"-" * 2 * MIN_READ)
        self.reactor.turn()
        self.reactor.turn()
        self.assertEqual(len(protocol.data), MIN_READ)
        self.assert_lost(protocol, ConnectionAborted)

    def test_lose_write_connection(self):
        """
        A half-close is done after the queued data is sent; the other direction stays open.
        """
        protocol = HalfCloseable()
        transport, peer = self.connect(protocol)
        transport.write(BIG)
        transport.loseWriteConnection()
        self.assertEqual(self.drain(peer, len(BIG)), BIG)
        self.reactor.until(lambda: protocol.write_ended)
        self.assertEqual(peer.recv(1), b"")
        transport.write(b"dropped")
        transport.writeSequence([b"dropped"])
        peer.send(b"hello")
        self.reactor.turn()
        self.assertEqual(protocol.received, [b"hello"])
        self.assertEqual(self.reactor.writers, [])
        self.assert_lost(protocol)

    def test_lose_both_halves(self):
        """
        After a half-close, C{loseConnection} closes at once.
        """
        protocol = HalfCloseable()
        transport, _ = self.connect(protocol)
        transport.loseWriteConnection()
        self.reactor.turn()
        transport.loseConnection()
        self.assert_lost(protocol, ConnectionDone)
        self.assertEqual(self.reactor.removeAll(), [])

    def test_write_ends_once(self):
        """
        After a half-close, the peer's FIN is reported once, without an error, and the protocol
        decides what comes next.
        """
        protocol = HalfCloseable()
        transport, peer = self.connect(protocol)
        transport.loseWriteConnection()
        self.reactor.turn()
        peer.close()
        self.reactor.until(lambda: protocol.ended)
        for _ in range(3):
            self.reactor.turn()
        self.assertEqual(protocol.write_ended, 1)
        self.assert_lost(protocol)
        self.assertEqual(self.reactor.removeAll(), [])


class EndOfInputTests(PairTestCase):
    """
    The peer's FIN, for a protocol with half-close.
    """

    def test_lose_connection(self):
        """
        When it closes with nothing queued, the end is in the same turn, without waiting for
        writability.
        """
        protocol = HalfCloseable(lambda transport: transport.loseConnection())
        _, peer = self.connect(protocol)
        added = []
        self.patch(self.reactor, "addWriter", added.append)
        peer.shutdown(socket.SHUT_WR)
        self.reactor.turn()
        self.assert_lost(protocol, ConnectionDone)
        self.assertEqual(protocol.ended, 1)
        self.assertEqual(added, [])
        self.assertEqual(self.reactor.removeAll(), [])
        self.assertEqual(peer.recv(1), b"")

    def test_lose_connection_queued(self):
        """
        When it closes with data queued, the end comes after that is sent.
        """
        for late in (b"", b"late"):

            def close(transport, late=late):
                transport.write(late)
                transport.loseConnection()

            protocol = HalfCloseable(close)
            transport, peer = self.connect(protocol)
            transport.write(BIG)
            peer.shutdown(socket.SHUT_WR)
            self.reactor.turn()
            self.assert_lost(protocol)
            self.assertEqual(self.drain(peer, len(BIG + late)), BIG + late)
            self.reactor.until(lambda protocol=protocol: protocol.lost)
            self.assertEqual(peer.recv(1), b"")
            self.assert_lost(protocol, ConnectionDone)

    def test_lose_connection_partial_write(self):
        """
        When it closes after one write that the kernel takes in part, the rest is sent first.
        """

        def close(transport):
            transport.write(BIG)
            transport.loseConnection()

        protocol = HalfCloseable(close)
        _, peer = self.connect(protocol)
        peer.shutdown(socket.SHUT_WR)
        self.assertEqual(self.drain(peer, len(BIG)), BIG)
        self.reactor.until(lambda: protocol.lost)
        self.assert_lost(protocol, ConnectionDone)

    def test_lose_connection_with_producer(self):
        """
        When it closes with a registered producer, the producer may write until the next turn.
        """
        protocol = HalfCloseable(lambda transport: transport.loseConnection())
        transport, peer = self.connect(protocol)
        pusher = Pusher()
        transport.registerProducer(pusher, True)
        peer.shutdown(socket.SHUT_WR)
        transport.doRead()
        self.reactor._disconnectSelectable(transport, ConnectionDone(), True)
        self.assert_lost(protocol)
        transport.write(b"last")
        self.reactor.turn()
        self.assert_lost(protocol, ConnectionDone)
        self.assertEqual(peer.recv(100), b"last")
        self.assertEqual(pusher.told, ["stop"])

    def test_half_closed_with_producer(self):
        """
        When it closes with a registered producer after a half-close, the producer can write no
        more, and the end is in the same turn.
        """
        protocol = HalfCloseable(lambda transport: transport.loseConnection())
        transport, peer = self.connect(protocol)
        pusher = Pusher()
        transport.registerProducer(pusher, True)
        transport.loseWriteConnection()
        self.reactor.turn()
        peer.shutdown(socket.SHUT_WR)
        self.reactor.turn()
        self.assert_lost(protocol, ConnectionDone)
        self.assertEqual(pusher.told, ["stop"])

    def test_stay(self):
        """
        When it does nothing, it may go on writing, and is not told of the FIN again.
        """
        protocol = HalfCloseable()
        transport, peer = self.connect(protocol)
        peer.shutdown(socket.SHUT_WR)
        self.reactor.turn()
        self.assertEqual(self.reactor.removeAll(), [])
        transport.pauseProducing()
        transport.resumeProducing()
        self.assertEqual(self.reactor.readers, [])
        self.reactor.turn()
        self.assertEqual(protocol.ended, 1)
        transport.write(b"hello")
        self.assertEqual(drained(peer), b"hello")
        self.assert_lost(protocol)

    def test_stay_queued(self):
        """
        When it does nothing with data queued, that is sent.
        """
        protocol = HalfCloseable(lambda transport: transport.write(b"last"))
        transport, peer = self.connect(protocol)
        transport.write(BIG)
        peer.shutdown(socket.SHUT_WR)
        self.reactor.until(lambda: protocol.ended)
        self.assertEqual(self.drain(peer, len(BIG) + 4), BIG + b"last")
        self.assert_lost(protocol)

    def test_stay_partial_write(self):
        """
        When it only makes a write that the kernel takes in part, all of it is sent.
        """
        protocol = HalfCloseable(lambda transport: transport.write(BIG))
        _, peer = self.connect(protocol)
        peer.shutdown(socket.SHUT_WR)
        self.assertEqual(self.drain(peer, len(BIG)), BIG)
        self.assert_lost(protocol)

    def test_lose_write_connection(self):
        """
        When it closes its own side, the peer gets a FIN, and the protocol may close the rest.
        """
        protocol = HalfCloseable(lambda transport: transport.loseWriteConnection())
        _, peer = self.connect(protocol)
        peer.shutdown(socket.SHUT_WR)
        self.reactor.turn()
        self.reactor.turn()
        self.assertEqual(peer.recv(1), b"")
        self.assertEqual(protocol.write_ended, 1)
        self.assert_lost(protocol)

    def test_abort(self):
        """
        When it aborts, the connection is aborted, though it had begun to close.
        """

        def give_up(transport):
            transport.loseConnection()
            transport.abortConnection()

        protocol = HalfCloseable(give_up)
        _, peer = self.connect(protocol)
        peer.shutdown(socket.SHUT_WR)
        self.reactor.turn()
        self.reactor.turn()
        self.assert_lost(protocol, ConnectionAborted)

    def test_error(self):
        """
        When it fails, that is logged once, and the connection ends.
        """
        protocol = HalfCloseable(lambda transport: 1 / 0)
        _, peer = self.connect(protocol)
        peer.shutdown(socket.SHUT_WR)
        self.reactor.turn()
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assert_lost(protocol, ZeroDivisionError)
        self.assertEqual(self.reactor.removeAll(), [])


ENGINE = sorted(Path(net.__file__).parent.glob("*.py"))


class PrivateNamesTests(SynchronousTestCase):
    """
    Twisted's private names that C{echod.net} uses.
    """

    def twisted_objects(self):
        """
        The objects on which each name is looked up, made as Twisted makes them.
        """
        fake = DescriptorReactor()
        ours, peer = socket.socketpair()
        self.addCleanup(ours.close)
        self.addCleanup(peer.close)
        epoll = EPollReactor()
        self.addCleanup(epoll._poller.close)
        self.addCleanup(lambda: [each.connectionLost(None) for each in epoll._internalReaders])
        return {
            "tcp": tcp,
            "FileDescriptor": FileDescriptor(fake),
            "Server": tcp.Server(*constructor_arguments(self), fake),
            "unix.Server": unix.Server(ours, Recorder(), b"", None, 0, fake),
            "Port": tcp.Port(0, Factory(), reactor=fake),
            "unix.Port": unix.Port(b"name", Factory(), reactor=fake),
            "reservation": tcp._reservedFD,
            "EPollReactor": epoll,
            "_DisconnectSelectableMixin": posixbase._DisconnectSelectableMixin,
        }

    USED = {
        "_aborting": "Server",
        "_addressType": "Server",
        "_buildAddr": "Port unix.Port",
        "_closeSocket": "Server",
        "_closeWriteConnection": "FileDescriptor Server",
        "_disconnectSelectable": "EPollReactor _DisconnectSelectableMixin",
        "_doReadOrWrite": "EPollReactor",
        "_fromListeningDescriptor": "Port unix.Port",
        "_getLogPrefix": "Server",
        "_getrealname": "tcp",
        "_justStopped": "EPollReactor",
        "_newTimedCalls": "EPollReactor",
        "_pendingTimedCalls": "EPollReactor",
        "_poller": "EPollReactor",
        "_postLoseConnection": "FileDescriptor Server",
        "_realPortNumber": "Port",
        "_reservedFD": "tcp",
        "_reads": "EPollReactor",
        "_selectables": "EPollReactor",
        "_sendmsgQueue": "unix.Server",
        "_shouldShutdown": "Server",
        "_started": "EPollReactor",
        "_supportedAddressFamilies": "EPollReactor",
        "_tempDataBuffer": "FileDescriptor Server",
        "_tempDataLen": "FileDescriptor Server",
        "_writeDisconnected": "FileDescriptor Server",
        "_writeDisconnecting": "FileDescriptor Server",
        "_writes": "EPollReactor",
    }
    """
    Each name, and where Twisted must have it.
    """

    PUBLIC = {
        "SEND_LIMIT": "Server unix.Server",
        "available": "reservation",
        "connected": "Server Port",
        "dataBuffer": "Server",
        "disconnected": "Server",
        "disconnecting": "Server Port",
        "numberAccepts": "Port",
        "offset": "Server",
        "producer": "Server",
        "reserve": "reservation",
        "sessionno": "Server Port",
        "streamingProducer": "Server",
        "threadCallQueue": "EPollReactor",
        "transport": "Port unix.Port",
    }
    """
    Names that are not private, but that no interface of Twisted's promises.
    """

    def test_there(self):
        """
        Twisted has each name where C{echod.net} looks for it.
        """
        objects = self.twisted_objects()
        objects["Port"].startListening()
        self.addCleanup(objects["Port"].socket.close)
        missing = [
            f"{place}.{name}"
            for name, places in [*self.USED.items(), *self.PUBLIC.items()]
            for place in places.split()
            if not hasattr(objects[place], name)
        ]
        self.assertEqual(missing, [])

    def test_complete(self):
        """
        The list is complete: no other private name of Twisted's is used.
        """
        used, ours = set(), set()
        for module in ENGINE:
            for node in ast.walk(ast.parse(module.read_text())):
                if isinstance(node, ast.Attribute):
                    names = {node.attr}
                    stored = isinstance(node.ctx, ast.Store)
                    (ours if stored and node.attr not in self.USED else used).update(names)
                elif isinstance(node, ast.ImportFrom | ast.Import):
                    used.update(alias.name for alias in node.names)
                elif isinstance(node, ast.FunctionDef | ast.ClassDef):
                    ours.add(node.name)
                elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                    ours.add(node.id)
                elif isinstance(node, ast.keyword) and node.arg:
                    ours.add(node.arg)
        private = {name for name in used if name.startswith("_") and not name.endswith("__")}
        self.assertEqual(private - ours - set(self.USED), set())


def constructor_arguments(case):
    """
    The arguments of Twisted's own transport, without its reactor.
    """
    ours, peer = tcp_pair()
    case.addCleanup(ours.close)
    case.addCleanup(peer.close)
    return ours, Recorder(), peer.getsockname(), None, 0
