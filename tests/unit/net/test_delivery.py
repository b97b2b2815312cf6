"""
The end of a TCP connection whose client has not acknowledged all, on real sockets: on a reactor
that does not tell of it, and on ours.
"""

import os
import socket
import time

from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.main import CONNECTION_DONE

from echod.net.reactor import EagerReactor
from echod.net.unix import EagerUNIXTransport
from tests.support.clients import reset
from tests.support.pairs import BIG, Echoing, HalfCloseable, PairTestCase, drained

DATA = bytes(range(250)) * 800
"""More than the client's kernel takes, and less than ours."""


def closing():
    """
    A protocol that closes at the end of the input.
    """
    return HalfCloseable(lambda transport: transport.loseConnection())


class DeliveryTestCase(PairTestCase):
    """
    Clients with a small receive buffer.
    """

    def pair(self, tcp=True):
        if not tcp:
            return super().pair()
        with socket.create_server(("127.0.0.1", 0)) as listening:
            peer = socket.socket()
            self.addCleanup(peer.close)
            # Before the connection, since that fixes the scale of the window (tcp(7)).
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
            peer.settimeout(60)
            peer.connect(listening.getsockname())
            ours, _ = listening.accept()
        self.addCleanup(ours.close)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        return ours, peer

    def unread(self, protocol=None):
        """
        A connection whose client has closed its sending side, and not read what was sent to it.
        """
        protocol = protocol or closing()
        transport, peer = self.connect(protocol, tcp=True)
        transport.write(DATA)
        self.assertTrue(transport._isFlushed())
        peer.shutdown(socket.SHUT_WR)
        self.reactor.until(lambda: protocol.ended)
        self.assert_lost(protocol)
        return protocol, transport, peer


class DeliveryTests(DeliveryTestCase):
    """
    On a reactor that watches nothing of that kind.
    """

    def test_acknowledged(self):
        """
        When the client has acknowledged all, the connection ends in the same turn.
        """
        protocol = closing()
        transport, peer = self.connect(protocol, tcp=True)
        transport.write(b"hello")
        self.assertEqual(peer.recv(5), b"hello")
        peer.shutdown(socket.SHUT_WR)
        self.reactor.until(lambda: protocol.ended)
        self.assert_lost(protocol, ConnectionDone)

    def test_unread(self):
        """
        Otherwise it stays, without any event, until the client has acknowledged all; and the FIN
        does not wait for that.
        """
        protocol, transport, peer = self.unread()
        self.assertEqual((self.reactor.readers, self.reactor.writers), ([], []))
        self.assertFalse(transport.endIfDelivered())
        self.assert_lost(protocol)
        self.assertEqual(self.drain(peer, len(DATA)), DATA)
        self.assertEqual(peer.recv(1), b"")
        self.reactor.until(transport.endIfDelivered)
        self.assert_lost(protocol, ConnectionDone)
        self.assertTrue(transport.endIfDelivered())
        self.assert_lost(protocol, ConnectionDone)

    def test_queued(self):
        """
        The same holds after the transport's own queue is sent.
        """
        protocol = closing()
        transport, peer = self.connect(protocol, tcp=True)
        data = BIG * 8
        transport.write(data)
        self.assertFalse(transport._isFlushed())
        peer.shutdown(socket.SHUT_WR)
        got = bytearray()

        def flushed():
            got.extend(drained(peer, 16384))
            return transport._isFlushed()

        self.reactor.until(flushed)
        self.assertFalse(transport.endIfDelivered())
        self.assertEqual((self.reactor.readers, self.reactor.writers), ([], []))
        self.assertEqual(bytes(got) + self.drain(peer, len(data) - len(got)), data)
        self.reactor.until(transport.endIfDelivered)
        self.assert_lost(protocol, ConnectionDone)

    def test_half_closed_before(self):
        """
        The same holds if our side was closed first.
        """
        protocol = closing()
        transport, peer = self.connect(protocol, tcp=True)
        transport.write(DATA)
        transport.loseWriteConnection()
        self.reactor.turn()
        peer.shutdown(socket.SHUT_WR)
        self.reactor.until(lambda: protocol.ended)
        self.assertFalse(transport.endIfDelivered())
        self.assertEqual(self.drain(peer, len(DATA)), DATA)
        self.reactor.until(transport.endIfDelivered)
        self.assert_lost(protocol, ConnectionDone)

    def test_acknowledged_with_the_fin(self):
        """
        A client that acknowledges the last data together with our FIN is not waited for.
        """
        protocol = closing()
        transport, peer = self.connect(protocol, tcp=True)
        answers = [False, True]
        transport._isDelivered = lambda: answers.pop(0)
        peer.shutdown(socket.SHUT_WR)
        self.reactor.until(lambda: protocol.ended)
        self.assert_lost(protocol, ConnectionDone)
        self.assertEqual(answers, [])

    def test_reset(self):
        """
        If the client resets the connection, it is lost.
        """
        protocol, transport, peer = self.unread()
        reset(peer)
        self.reactor.until(transport.endIfDelivered)
        self.assert_lost(protocol, ConnectionLost)

    def test_reset_before(self):
        """
        If the client closes without reading, and its kernel has reset the connection already, it
        is lost at once.
        """
        protocol = Echoing()
        _, peer = self.connect(protocol, tcp=True)
        peer.sendall(b"hello")
        peer.close()
        self.reactor.until(lambda: protocol.lost)
        self.assertEqual(protocol.data, b"hello")
        self.assert_lost(protocol, ConnectionLost)

    def test_abort(self):
        """
        An abort ends it, once.
        """
        protocol, transport, peer = self.unread()
        transport.abortConnection()
        self.assertFalse(transport.endIfDelivered())
        self.reactor.turn()
        self.assert_lost(protocol, ConnectionAborted)
        self.assertRaises(ConnectionResetError, self.drain, peer, len(DATA))

    def test_no_more(self):
        """
        Whatever else the protocol asks for, nothing is read or written.
        """
        protocol, transport, _ = self.unread()
        transport.write(b"late")
        transport.loseWriteConnection()
        transport.loseConnection()
        transport.resumeProducing()
        self.assertEqual((self.reactor.readers, self.reactor.writers), ([], []))
        self.assert_lost(protocol)

    def test_unknown(self):
        """
        If the system does not tell what is acknowledged, all counts as delivered.
        """
        transport, _ = self.connect(closing(), tcp=True)
        transport.write(DATA)
        self.assertFalse(transport._isDelivered())
        with open(os.devnull) as another:
            transport.fileno = another.fileno
            self.assertTrue(transport._isDelivered())

    def test_unix(self):
        """
        On a UNIX socket, what was sent is with the client already.
        """
        protocol = closing()
        transport, peer = self.connect(protocol, EagerUNIXTransport, tcp=False, client=b"")
        del transport._isDelivered
        transport.write(b"hello")
        peer.shutdown(socket.SHUT_WR)
        self.reactor.turn()
        self.assert_lost(protocol, ConnectionDone)
        self.assertEqual(peer.recv(100), b"hello")

    def test_other_connections(self):
        """
        A connection that does not wait is not ended.
        """
        protocol = HalfCloseable()
        transport, _ = self.connect(protocol, tcp=True)
        self.assertFalse(transport.endIfDelivered())
        transport._awaitDelivery = lambda: CONNECTION_DONE
        transport.loseConnection()
        self.reactor.turn()
        self.assert_lost(protocol, ConnectionDone)
        self.assertFalse(transport.endIfDelivered())


class IteratedReactor(EagerReactor):
    """
    Our reactor, with the names of L{tests.support.fakes.DescriptorReactor}.
    """

    def until(self, condition):
        """
        Turn until a condition holds.
        """
        deadline = time.monotonic() + 60
        while not condition():
            if time.monotonic() > deadline:
                raise AssertionError("what was waited for has not happened")
            self.iterate(0.001)


class WatchedTests(DeliveryTestCase):
    """
    On our reactor.
    """

    number = 50

    def setUp(self):
        self.reactor = IteratedReactor()
        self.addCleanup(self.reactor._poller.close)
        self.addCleanup(lambda: [each.connectionLost(None) for each in internal])
        internal = list(self.reactor._internalReaders)

    def watched(self):
        """
        A connection that waits.

        @return: the same as L{unread}, and a list that grows each time the connection is looked at.
        """
        protocol, transport, peer = self.unread()
        looks = []
        look = transport.doRead

        def counted():
            looks.append(transport)
            return look()

        transport.doRead = counted
        return protocol, transport, peer, looks

    def test_no_events(self):
        """
        However many connections wait, nothing happens while no client reads.
        """
        waiting = [self.watched() for _ in range(self.number)]
        # What was registered is reported once.
        for _ in range(10):
            self.reactor.iterate(0)
        self.assertLessEqual(max(len(looks) for *_, looks in waiting), 1)
        for *_, looks in waiting:
            looks.clear()
        for _ in range(10):
            self.assertEqual(self.reactor._poller.poll(0), [])
            self.reactor.iterate(0)
        for protocol, transport, peer, looks in waiting:
            self.assertEqual(looks, [])
            self.assert_lost(protocol)
            self.assertEqual(self.drain(peer, len(DATA)), DATA)
            self.reactor.until(lambda protocol=protocol: protocol.lost)
            self.assert_lost(protocol, ConnectionDone)
            self.assertEqual(len(looks), 1)
            self.assertTrue(transport.endIfDelivered())
        self.assertEqual(set(self.reactor.getReaders()), self.reactor._internalReaders)

    def test_reset(self):
        """
        A reset is noticed at once.
        """
        protocol, _, peer, looks = self.watched()
        reset(peer)
        self.reactor.until(lambda: protocol.lost)
        self.assert_lost(protocol, ConnectionLost)
        self.assertLessEqual(len(looks), 2)

    def test_abort(self):
        """
        An abort ends it.
        """
        protocol, transport, _, _ = self.watched()
        transport.abortConnection()
        self.reactor.until(lambda: protocol.lost)
        self.assert_lost(protocol, ConnectionAborted)
        self.assertEqual(set(self.reactor.getReaders()), self.reactor._internalReaders)
        self.assertEqual(self.reactor.getWriters(), [])
