"""
How a connection with TLS ends, on real sockets but without the reactor's loop.
"""

import gc
import os
import socket
import struct
import weakref

from OpenSSL import SSL
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.main import CONNECTION_LOST
from twisted.python.failure import Failure

from tests.support.pairs import BIG, Pusher, Recorder, drained
from tests.support.tlsclient import VERSIONS
from tests.support.tlspairs import Secured, SecureTestCase


class EndTests(SecureTestCase):
    """
    How it ends.
    """

    def test_close_notify(self):
        """
        A client's close_notify ends its side only: what is written then reaches it, and so
        does our close_notify.
        """
        for version in VERSIONS:
            protocol = Secured()
            transport, client, peer = self.secured(protocol, version)
            self.deliver(client, b"last")
            client.tls.shutdown()
            self.reactor.until(lambda protocol=protocol: protocol.ended)
            self.assertEqual((protocol.received, protocol.ended), ([b"last"], 1))
            self.assert_lost(protocol)
            transport.write(b"hello")
            self.assertEqual(self.received_now(client), b"hello")
            self.assertFalse(client.closed)
            transport.loseConnection()
            self.reactor.turn()
            self.assertEqual(client.receive(), b"")
            self.assert_closed(protocol, peer)

    def assert_closed(self, protocol, peer):
        """
        Our FIN has come, and the connection ends when the client closes it.
        """
        self.assertEqual(peer.recv(1), b"")
        self.assert_lost(protocol)
        peer.close()
        self.reactor.until(lambda: protocol.lost)
        self.assert_lost(protocol, ConnectionDone)
        self.assertEqual(self.reactor.removeAll(), [])

    def test_close_notify_owing(self):
        """
        A protocol that closes at the client's close_notify owes nothing at the end.
        """
        for version in VERSIONS:
            protocol = Secured(lambda transport: transport.loseConnection())
            transport, client, peer = self.secured(protocol, version)
            transport.write(BIG)
            client.tls.shutdown()
            self.assertEqual(self.receive(client, len(BIG)), BIG)
            self.reactor.until(lambda client=client: client.receive() == b"")
            self.assert_closed(protocol, peer)

    def test_close_notify_at_once(self):
        """
        A protocol that closes at the client's close_notify and owes nothing has closed its
        side in the same turn, and all of it if the client has closed already.
        """
        for gone in (False, True):
            protocol = Secured(lambda transport: transport.loseConnection())
            _, client, peer = self.secured(protocol)
            client.tls.shutdown()
            if gone:
                peer.shutdown(socket.SHUT_WR)
            self.reactor.turn()
            self.assertEqual(client.receive(), b"")
            if gone:
                self.assert_lost(protocol, ConnectionDone)
                self.assertEqual(self.reactor.removeAll(), [])
            else:
                self.assert_closed(protocol, peer)

    def test_behind_close_notify(self):
        """
        What comes behind the client's close_notify, records or not, before or after our
        FIN, is ignored (RFC 8446 6.1): the client gets all that it is owed, and no reset.
        """
        junk = (b"\x17\3\3\0\x20" + bytes(32), b"\x15\3\3\0\x13" + bytes(19), bytes(100_000))
        for version in VERSIONS:
            for more in junk:
                for late in (False, True):
                    protocol = Secured(lambda transport: transport.loseConnection())
                    transport, client, peer = self.secured(protocol, version, tcp=True)
                    peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
                    transport.write(BIG)
                    client.tls.shutdown()
                    if not late:
                        peer.sendall(more)
                    self.assertEqual(self.receive(client, len(BIG)), BIG)
                    if late:
                        peer.sendall(more)
                    self.reactor.until(lambda client=client: client.receive() == b"")
                    for _ in range(3):
                        peer.sendall(more)
                        self.reactor.turn()
                    self.assertEqual(protocol.ended, 1)
                    self.assert_closed(protocol, peer)

    def test_behind_both(self):
        """
        So it is where our side was closed first, and closing again changes nothing.
        """
        for version in VERSIONS:
            protocol = Secured(lambda transport: transport.loseConnection())
            transport, client, peer = self.secured(protocol, version, tcp=True)
            transport.write(b"last")
            transport.loseWriteConnection()
            self.reactor.until(lambda protocol=protocol: protocol.write_ended)
            client.tls.shutdown()
            peer.sendall(bytes(1000))
            self.reactor.until(lambda protocol=protocol: protocol.ended)
            peer.sendall(bytes(1000))
            self.reactor.turn()
            transport.loseConnection()
            self.assertEqual(client.receive(), b"last")
            self.assertEqual(client.receive(), b"")
            self.assert_closed(protocol, peer)

    def test_reset_behind_close_notify(self):
        """
        A client that goes with a reset once it was sent all has closed as any other.
        """
        protocol = Secured(lambda transport: transport.loseConnection())
        _, client, peer = self.secured(protocol, tcp=True)
        client.tls.shutdown()
        self.reactor.until(lambda: protocol.ended)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.close()
        self.reactor.until(lambda: protocol.lost)
        self.assert_lost(protocol, ConnectionDone)

    def test_abort_behind_close_notify(self):
        """
        A client that does not close is aborted when the protocol says so.
        """
        protocol = Secured(lambda transport: transport.loseConnection())
        transport, client, peer = self.secured(protocol)
        client.tls.shutdown()
        self.reactor.turn()
        transport.abortConnection()
        peer.sendall(b"late")
        self.reactor.turn()
        self.assert_lost(protocol, ConnectionAborted)
        self.assertEqual(self.reactor.removeAll(), [])

    def test_close_notify_is_answered(self):
        """
        A protocol that knows no half of a connection is done at the client's close_notify,
        and the client gets ours (RFC 8446 6.1).
        """
        protocol = Recorder()
        _, client, _ = self.secured(protocol)
        client.tls.shutdown()
        self.reactor.turn()
        self.assert_lost(protocol, ConnectionDone)
        self.assertEqual(client.receive(), b"")

    def test_truncation(self):
        """
        A FIN without a close_notify is not a clean end, whatever the protocol knows.
        """
        for protocol in (Secured(), Recorder()):
            _, client, peer = self.secured(protocol)
            self.deliver(client, b"hello")
            peer.close()
            self.reactor.until(lambda protocol=protocol: protocol.lost)
            self.assertEqual(protocol.received, [b"hello"])
            self.assert_lost(protocol, ConnectionLost)
            self.assertEqual(getattr(protocol, "ended", 0), 0)

    def test_truncation_while_owing(self):
        """
        A FIN without a close_notify is not a clean end when something is queued, either.
        """
        protocol = Secured()
        transport, _, peer = self.secured(protocol)
        transport.write(BIG)
        peer.close()
        self.reactor.until(lambda: protocol.lost)
        self.assert_lost(protocol, ConnectionLost)

    def test_reset(self):
        """
        A reset is not a clean end.
        """
        protocol = Secured()
        _, _, peer = self.secured(protocol, tcp=True)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.close()
        self.reactor.until(lambda: protocol.lost)
        self.assert_lost(protocol, ConnectionLost)

    def test_bad_record(self):
        """
        A record that does not decrypt ends its connection with OpenSSL's error.
        """
        for version in VERSIONS:
            protocol = Secured()
            _, _, peer = self.secured(protocol, version)
            peer.send(b"\x17\x03\x03\x00\x20" + bytes(32))
            self.reactor.turn()
            self.assert_lost(protocol, SSL.Error)
            self.assertEqual((protocol.received, protocol.ended), ([], 0))

    def test_reset_while_writing(self):
        """
        A connection that breaks under a write, and is read from at once, is lost as any
        that breaks, whatever OpenSSL says then.
        """
        for version in VERSIONS:
            protocol = Secured()
            transport, _, peer = self.secured(protocol, version, tcp=True)
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            peer.close()
            transport.write(b"hello")
            self.assertIs(transport.doRead(), CONNECTION_LOST)
            self.reactor.until(lambda protocol=protocol: protocol.lost)
            self.assert_lost(protocol, ConnectionLost)

    def test_others_go_on(self):
        """
        No way in which a connection ends disturbs another, nor leaves anything behind in the
        queue of errors, which is the thread's.
        """
        protocol = Secured()
        transport, client, _ = self.secured(protocol)

        def not_tls(_, peer):
            peer.send(b"rubbish, for once, in the clear")

        def vanish(transport, peer):
            transport.pauseProducing()
            peer.close()
            transport.write(b"hello")

        def vanish_while_owing(transport, peer):
            transport.write(BIG)
            peer.close()

        def reset(transport, peer):
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            peer.close()
            transport.write(b"hello")

        def close_late(transport, peer):
            transport.pauseProducing()
            peer.close()
            transport.loseConnection()

        for end in (not_tls, vanish, vanish_while_owing, reset, close_late):
            for version in VERSIONS:
                other = Secured()
                other_transport, _, other_peer = self.secured(other, version, tcp=end is reset)
                end(other_transport, other_peer)
                self.assertEqual(SSL._lib.ERR_peek_error(), 0)
                self.assertIsNone(transport.doRead())
                self.reactor.until(lambda other=other: other.lost)
                self.assertEqual(SSL._lib.ERR_peek_error(), 0)
                self.assertIsNone(transport.doRead())
                transport.write(b"hello")
                self.assertEqual(self.received_now(client), b"hello")
        self.deliver(client, b"still here")
        self.reactor.turn()
        self.assertEqual(protocol.received, [b"still here"])

    def test_lose_connection(self):
        """
        What is queued goes out, then our close_notify, then FIN.
        """
        for version in VERSIONS:
            protocol = Secured()
            transport, client, peer = self.secured(protocol, version)
            transport.write(BIG)
            transport.loseConnection()
            self.assertEqual(self.receive(client, len(BIG)), BIG)
            self.reactor.until(lambda client=client: client.receive() == b"")
            self.reactor.until(lambda protocol=protocol: protocol.lost)
            self.assertEqual(peer.recv(1), b"")
            self.assert_lost(protocol, ConnectionDone)
            self.assertEqual(self.reactor.removeAll(), [])

    def test_lose_write_connection(self):
        """
        Our side closes with a close_notify and a FIN when what is queued is out, once; the
        other side stays open.
        """
        for version in VERSIONS:
            protocol = Secured()
            transport, client, peer = self.secured(protocol, version)
            transport.write(BIG)
            transport.loseWriteConnection()
            self.assertEqual(self.receive(client, len(BIG)), BIG)
            self.reactor.until(lambda client=client: client.receive() == b"")
            transport.write(b"dropped")
            transport.loseWriteConnection()
            self.reactor.turn()
            self.assertEqual((protocol.write_ended, self.reactor.writers), (1, []))
            self.deliver(client, b"hello")
            self.reactor.turn()
            self.assertEqual(protocol.received, [b"hello"])
            client.tls.shutdown()
            self.reactor.turn()
            self.assertEqual(protocol.ended, 1)
            transport.loseConnection()
            self.assert_closed(protocol, peer)

    def test_abort(self):
        """
        An abort sends nothing any more.
        """
        protocol = Secured()
        transport, client, _ = self.secured(protocol)
        self.received_now(client)
        transport.write(BIG)
        transport.abortConnection()
        self.reactor.turn()
        self.assert_lost(protocol, ConnectionAborted)
        self.assertRaises(SSL.SysCallError, self.receive, client, len(BIG))

    def test_abort_owing_nothing(self):
        """
        An abort does not look like a clean end to the client.
        """
        protocol = Secured()
        transport, client, _ = self.secured(protocol)
        self.received_now(client)
        transport.abortConnection()
        self.reactor.turn()
        self.assert_lost(protocol, ConnectionAborted)
        self.assertRaises(SSL.SysCallError, client.receive)

    def test_after_the_end(self):
        """
        A late write, close or read does not reach the one whose descriptor has our number.
        """
        protocol = Secured()
        transport, _, _ = self.secured(protocol)
        number = transport.fileno()
        transport.abortConnection()
        self.reactor.turn()
        self.assert_lost(protocol, ConnectionAborted)
        other, other_peer = self.pair()
        if number not in (other.fileno(), other_peer.fileno()):
            os.dup2(other.fileno(), number)
            self.addCleanup(os.close, number)
        other.send(b"private")
        other_peer.send(b"private")
        transport.write(b"hello")
        transport.writeSequence([b"hello"])
        transport.resumeProducing()
        transport.loseConnection()
        transport.abortConnection()
        transport.connectionLost(Failure(ConnectionDone()))
        self.reactor.turn()
        self.assertEqual((drained(other), drained(other_peer)), (b"private", b"private"))
        self.assertRaises(SSL.Error, transport._recv, 1)
        self.assertRaises(SSL.Error, transport._send, b"hello")

    def test_write_from_a_stopped_producer(self):
        """
        What a producer writes when it is told to stop is dropped.
        """
        protocol = Secured()
        transport, _, peer = self.secured(protocol)
        pusher = Pusher()
        pusher.stopProducing = lambda: transport.write(b"late")
        transport.registerProducer(pusher, True)
        peer.send(b"rubbish, for once, in the clear")
        self.reactor.turn()
        self.assert_lost(protocol, SSL.Error)

    def test_nothing_left(self):
        """
        A connection that is gone leaves nothing for the garbage collector to find, whether
        its handshake was done or not.
        """
        self.addCleanup(gc.enable)
        gc.disable()
        for shaken in (True, False):
            transport, client, peer = self.start(Secured())
            if shaken:
                self.shake(client)
            transport.write(BIG)
            peer.close()
            self.reactor.until(lambda transport=transport: not transport.connected)
            transport.write(b"late")
            left = weakref.ref(transport)
            del transport
            self.assertIsNone(left())

    def test_close_notify_dropping(self):
        """
        A protocol that knows no half of a connection drops what is queued at the client's
        close_notify; the client then gets none of ours, or it would take what it has for all.
        """
        protocol = Recorder()
        transport, client, _ = self.secured(protocol)
        transport.write(BIG)
        self.received_now(client)
        client.tls.shutdown()
        transport.doRead()
        self.reactor._disconnectSelectable(transport, ConnectionDone(), True)
        self.assert_lost(protocol, ConnectionDone)
        self.assertRaises(SSL.SysCallError, self.received_now, client)

    def test_lose_connection_to_nobody(self):
        """
        Where no close_notify can be sent any more, closing is done without.
        """
        protocol = Secured()
        transport, _, peer = self.secured(protocol)
        transport.pauseProducing()
        peer.close()
        transport.loseConnection()
        self.reactor.turn()
        self.assert_lost(protocol, ConnectionDone)


class NoRoomTests(SecureTestCase):
    """
    When OpenSSL has to wait for the kernel in order to say goodbye.
    """

    def assert_close_notify(self, peer):
        """
        The client gets one more record, an alert by its length, then FIN.
        """
        record = drained(peer)
        self.assertEqual((record[:3], len(record)), (b"\x17\x03\x03", 24))
        self.assertEqual(peer.recv(1), b"")

    def test_lose_connection(self):
        """
        A close_notify that finds no room is sent when there is some, and then FIN.
        """
        protocol = Secured()
        transport, client, make_room = self.blocked(protocol)
        transport.loseConnection()
        for _ in range(3):
            self.reactor.turn()
        self.assert_lost(protocol)
        make_room()
        self.reactor.until(lambda: protocol.lost)
        self.assert_lost(protocol, ConnectionDone)
        self.assert_close_notify(client.socket)

    def test_lose_connection_at_end_of_input(self):
        """
        So it is when we close because the client has.
        """
        protocol = Secured(lambda transport: transport.loseConnection())
        transport, client, make_room = self.blocked(protocol)
        client.tls.shutdown()
        for _ in range(3):
            self.reactor.turn()
        self.assertEqual(protocol.ended, 1)
        self.assert_lost(protocol)
        make_room()
        self.reactor.until(lambda: transport._closeNotified)
        self.assert_close_notify(client.socket)
        client.close()
        self.reactor.turn()
        self.assert_lost(protocol, ConnectionDone)

    def test_lose_write_connection(self):
        """
        So it is when we close our side only; the protocol is told when it is closed.
        """
        protocol = Secured()
        transport, client, make_room = self.blocked(protocol)
        transport.loseWriteConnection()
        for _ in range(3):
            self.reactor.turn()
        self.assertEqual(protocol.write_ended, 0)
        make_room()
        self.reactor.until(lambda: protocol.write_ended)
        self.reactor.turn()
        self.assertEqual(protocol.write_ended, 1)
        self.assert_lost(protocol)
        self.assert_close_notify(client.socket)

    def test_close_notify_again(self):
        """
        A close_notify that finds no room behind the last of what was queued is tried again;
        until it is out, nobody is told that our side, or all, is closed.
        """
        for error in (SSL.WantWriteError(), SSL.WantReadError()):
            protocol = Secured()
            transport, tls, peer = self.scripted(protocol, shutdown=[error])
            transport.loseConnection()
            self.reactor.turn()
            self.assert_lost(protocol)
            self.reactor.turn()
            self.assert_lost(protocol, ConnectionDone)
            self.assertEqual(tls.calls, ["shutdown"] * 2)
            self.assertEqual(peer.recv(1), b"")

            protocol = Secured()
            transport, tls, peer = self.scripted(protocol, shutdown=[error])
            transport.loseWriteConnection()
            self.reactor.turn()
            self.assertEqual(protocol.write_ended, 0)
            self.reactor.turn()
            self.reactor.turn()
            self.assertEqual((protocol.write_ended, self.reactor.writers), (1, []))
            self.assertEqual(tls.calls, ["shutdown"] * 2)
            self.assertEqual(peer.recv(1), b"")

    def test_lose_both_halves(self):
        """
        When we close all while the close_notify of our side waits for room, it is still sent,
        and what comes in meanwhile is not delivered.
        """
        protocol = Secured()
        transport, tls, peer = self.scripted(protocol, shutdown=[SSL.WantWriteError()])
        transport.loseWriteConnection()
        self.reactor.turn()
        transport.loseConnection()
        tls.script["recv"] = [b"late"]
        peer.send(b"-")
        self.reactor.turn()
        self.assert_lost(protocol, ConnectionDone)
        self.assertEqual((protocol.received, tls.calls), ([], ["shutdown"] * 2))

    def test_write_behind_close_notify(self):
        """
        What is written while the close_notify of our side waits for room is dropped, as it
        is afterwards, and our side closes all the same.
        """
        protocol = Secured()
        transport, client, make_room = self.blocked(protocol)
        transport.loseWriteConnection()
        transport.doWrite()
        self.assertEqual(protocol.write_ended, 0)
        transport.write(b"dropped")
        make_room()
        self.reactor.until(lambda: protocol.write_ended or protocol.lost)
        self.assert_lost(protocol)
        self.assert_close_notify(client.socket)

    def test_close_while_reading_wants_to_write(self):
        """
        A protocol that closes when it is told that our side is closed leaves nobody waiting
        for room, though a read wanted to write.
        """
        protocol = Secured()
        protocol.writeConnectionLost = lambda: protocol.transport.loseConnection()
        transport, _, _ = self.scripted(protocol, recv=[SSL.WantWriteError()] * 2)
        transport.doRead()
        transport.loseWriteConnection()
        self.reactor.turn()
        self.assert_lost(protocol, ConnectionDone)
        self.assertEqual(self.reactor.removeAll(), [])
