"""
Peeking at a connection's input, on real sockets but without the reactor's loop.
"""

import socket
import struct

from twisted.internet.error import ConnectionAborted, ConnectionLost

from echod.net.transport import EagerTransport
from echod.net.unix import EagerUNIXTransport
from tests.support.pairs import HalfCloseable, PairTestCase, drained


class Peeker:
    """
    A callback for C{startPeek}.

    @ivar seen: what it got, one piece for each call.
    @ivar answers: what it returns, in order.
    """

    def __init__(self, *answers):
        self.seen = []
        self.answers = list(answers)

    def __call__(self, data):
        self.seen.append(data)
        return self.answers.pop(0)


class PeekTests(PairTestCase):
    """
    Peeking without receiving more than the callback asks for.
    """

    def inspected(self, *answers, size=100, **given):
        protocol = HalfCloseable()
        transport, peer = self.connect(protocol, **given)
        peek = Peeker(*answers)
        transport.startPeek(peek, size)
        return protocol, transport, peer, peek

    def test_dropped(self):
        """
        Bytes that are dropped are gone, and the rest is handed to the callback again.
        """
        protocol, _, peer, peek = self.inspected((3, None), (4, None), (1, None))
        peer.sendall(b"abcdefgh")
        for _ in range(3):
            self.reactor.turn()
        self.assertEqual(peek.seen, [b"abcdefgh", b"defgh", b"h"])
        self.reactor.turn()
        self.assertEqual((len(peek.seen), protocol.received), (3, []))

    def test_size(self):
        """
        The callback never gets more than was asked for.
        """
        _, _, peer, peek = self.inspected((4, None), (4, None), size=4)
        peer.sendall(b"abcdefgh")
        self.reactor.turn()
        self.reactor.turn()
        self.assertEqual(peek.seen, [b"abcd", b"efgh"])

    def test_end(self):
        """
        After C{stopPeek} the protocol gets the rest, wherever the call came from.
        """
        for take in (0, 3):
            left = []
            ours, peer = self.pair()
            # The function is called after the dropped bytes have left the kernel.
            other = ours.dup()
            self.addCleanup(other.close)
            protocol = HalfCloseable()
            transport = EagerTransport(ours, protocol, ("192.0.2.7", 1), None, 0, self.reactor)
            protocol.makeConnection(transport)

            def afterwards(left=left, other=other, transport=transport):
                left.append(drained(other))
                transport.stopPeek()

            peek = Peeker((take, afterwards))
            transport.startPeek(peek, 100)
            peer.sendall(b"abcdefgh")
            self.reactor.turn()
            self.assertEqual(left, [b"abcdefgh"[take:]])
            peer.sendall(b"more")
            self.reactor.turn()
            self.assertEqual((len(peek.seen), protocol.data), (1, b"more"))

    def test_rest_is_the_protocols(self):
        """
        The rest reaches the protocol without another byte from the peer.
        """
        protocol, transport, peer, _ = self.inspected((3, lambda: transport.stopPeek()))
        peer.sendall(b"abcdefgh")
        self.reactor.turn()
        self.assertEqual(protocol.received, [])
        self.reactor.turn()
        self.assertEqual(protocol.received, [b"defgh"])

    def test_stop_without_start(self):
        """
        C{stopPeek} without C{startPeek}, or a second one, changes nothing.
        """
        protocol, transport, peer, _ = self.inspected()
        for _ in range(2):
            transport.stopPeek()
        peer.sendall(b"abc")
        self.reactor.turn()
        self.assertEqual(protocol.received, [b"abc"])

    def test_nothing_there(self):
        """
        When nothing has come, the callback is not called.
        """
        protocol, transport, _, peek = self.inspected()
        self.assertIsNone(transport.doRead())
        self.assertEqual((peek.seen, protocol.lost), ([], []))

    def test_peer_closed(self):
        """
        The peer's FIN is reported to the protocol and not to the callback.
        """
        protocol, _, peer, peek = self.inspected()
        peer.shutdown(socket.SHUT_WR)
        self.reactor.turn()
        self.assertEqual((peek.seen, protocol.ended, protocol.lost), ([], 1, []))

    def test_end_after_the_rest(self):
        """
        What the peer sent comes before its FIN.
        """
        protocol, _, peer, peek = self.inspected((3, None))
        peer.sendall(b"abc")
        peer.shutdown(socket.SHUT_WR)
        self.reactor.turn()
        self.assertEqual((peek.seen, protocol.ended), ([b"abc"], 0))
        self.reactor.turn()
        self.assertEqual(protocol.ended, 1)

    def test_reset(self):
        """
        A connection that breaks is lost to the protocol.
        """
        protocol, _, peer, peek = self.inspected(tcp=True)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.close()
        self.reactor.until(lambda: protocol.lost)
        self.assert_lost(protocol, ConnectionLost)
        self.assertEqual(peek.seen, [])

    def test_abort(self):
        """
        The function that is called afterwards may end the connection.
        """
        protocol, transport, peer, _ = self.inspected((0, lambda: transport.abortConnection()))
        peer.sendall(b"abc")
        self.reactor.turn()
        self.reactor.turn()
        self.assert_lost(protocol, ConnectionAborted)

    def test_unix(self):
        """
        The same holds on a UNIX socket.
        """
        protocol, transport, peer, peek = self.inspected(
            (3, lambda: transport.stopPeek()), transport_class=EagerUNIXTransport, client=None
        )
        peer.sendall(b"abcdefgh")
        self.reactor.turn()
        self.reactor.turn()
        self.assertEqual((peek.seen, protocol.received), ([b"abcdefgh"], [b"defgh"]))
