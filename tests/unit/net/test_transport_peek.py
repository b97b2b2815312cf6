"""
Looking into a connection, on real sockets but without the reactor's loop.
"""

import socket
import struct

from twisted.internet.error import ConnectionAborted, ConnectionLost

from echod.net.transport import EagerTransport
from echod.net.unix import EagerUNIXTransport
from tests.support.pairs import HalfCloseable, PairTestCase, drained


class Looker:
    """
    Who is shown what has come, before the protocol is.

    @ivar seen: what it was shown, a piece for each look.
    @ivar answers: what it answers, in order.
    """

    def __init__(self, *answers):
        self.seen = []
        self.answers = list(answers)

    def __call__(self, data):
        self.seen.append(data)
        return self.answers.pop(0)


class InspectTests(PairTestCase):
    """
    Looking at what has come without taking more of it than belongs to the one who looks.
    """

    def inspected(self, *answers, most=100, **given):
        protocol = HalfCloseable()
        transport, peer = self.connect(protocol, **given)
        look = Looker(*answers)
        transport.startPeek(look, most)
        return protocol, transport, peer, look

    def test_taken(self):
        """
        What is said to be taken is gone, and the rest is shown again, to the byte.
        """
        protocol, _, peer, look = self.inspected((3, None), (4, None), (1, None))
        peer.sendall(b"abcdefgh")
        for _ in range(3):
            self.reactor.turn()
        self.assertEqual(look.seen, [b"abcdefgh", b"defgh", b"h"])
        self.reactor.turn()
        self.assertEqual((len(look.seen), protocol.received), (3, []))

    def test_most(self):
        """
        No more is shown at once than was asked for.
        """
        _, _, peer, look = self.inspected((4, None), (4, None), most=4)
        peer.sendall(b"abcdefgh")
        self.reactor.turn()
        self.reactor.turn()
        self.assertEqual(look.seen, [b"abcd", b"efgh"])

    def test_end(self):
        """
        Afterwards the protocol gets the rest, whoever ended it, and when.
        """
        for take in (0, 3):
            left = []
            ours, peer = self.pair()
            # What is to be called is called when what was taken is gone from the kernel.
            other = ours.dup()
            self.addCleanup(other.close)
            protocol = HalfCloseable()
            transport = EagerTransport(ours, protocol, ("192.0.2.7", 1), None, 0, self.reactor)
            protocol.makeConnection(transport)

            def afterwards(left=left, other=other, transport=transport):
                left.append(drained(other))
                transport.stopPeek()

            look = Looker((take, afterwards))
            transport.startPeek(look, 100)
            peer.sendall(b"abcdefgh")
            self.reactor.turn()
            self.assertEqual(left, [b"abcdefgh"[take:]])
            peer.sendall(b"more")
            self.reactor.turn()
            self.assertEqual((len(look.seen), protocol.data), (1, b"more"))

    def test_rest_is_the_protocols(self):
        """
        What is left when the looking ends comes to the protocol without another byte.
        """
        protocol, transport, peer, _ = self.inspected((3, lambda: transport.stopPeek()))
        peer.sendall(b"abcdefgh")
        self.reactor.turn()
        self.assertEqual(protocol.received, [])
        self.reactor.turn()
        self.assertEqual(protocol.received, [b"defgh"])

    def test_end_without_a_beginning(self):
        """
        To end what has not begun, or has ended, changes nothing.
        """
        protocol, transport, peer, _ = self.inspected()
        for _ in range(2):
            transport.stopPeek()
        peer.sendall(b"abc")
        self.reactor.turn()
        self.assertEqual(protocol.received, [b"abc"])

    def test_for_nothing(self):
        """
        When there is nothing to see, nobody is shown anything.
        """
        protocol, transport, _, look = self.inspected()
        self.assertIsNone(transport.doRead())
        self.assertEqual((look.seen, protocol.lost), ([], []))

    def test_peer_has_sent_all(self):
        """
        The peer's end is the protocol's to know, and nobody is shown it.
        """
        protocol, _, peer, look = self.inspected()
        peer.shutdown(socket.SHUT_WR)
        self.reactor.turn()
        self.assertEqual((look.seen, protocol.ended, protocol.lost), ([], 1, []))

    def test_end_behind_the_rest(self):
        """
        Before the peer's end comes what it has sent.
        """
        protocol, _, peer, look = self.inspected((3, None))
        peer.sendall(b"abc")
        peer.shutdown(socket.SHUT_WR)
        self.reactor.turn()
        self.assertEqual((look.seen, protocol.ended), ([b"abc"], 0))
        self.reactor.turn()
        self.assertEqual(protocol.ended, 1)

    def test_reset(self):
        """
        A connection that breaks is lost to the protocol.
        """
        protocol, _, peer, look = self.inspected(tcp=True)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.close()
        self.reactor.until(lambda: protocol.lost)
        self.assert_lost(protocol, ConnectionLost)
        self.assertEqual(look.seen, [])

    def test_abort(self):
        """
        What is called afterwards may end the connection.
        """
        protocol, transport, peer, _ = self.inspected((0, lambda: transport.abortConnection()))
        peer.sendall(b"abc")
        self.reactor.turn()
        self.reactor.turn()
        self.assert_lost(protocol, ConnectionAborted)

    def test_unix(self):
        """
        It is the same on a UNIX socket.
        """
        protocol, transport, peer, look = self.inspected(
            (3, lambda: transport.stopPeek()), transport_class=EagerUNIXTransport, client=None
        )
        peer.sendall(b"abcdefgh")
        self.reactor.turn()
        self.reactor.turn()
        self.assertEqual((look.seen, protocol.received), ([b"abcdefgh"], [b"defgh"]))
