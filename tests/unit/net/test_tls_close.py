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

from tests.support.arrivals import wait_for_arrival
from tests.support.clients import VERSIONS, reset
from tests.support.pairs import BIG, Pusher, Recorder, drained
from tests.support.tlspairs import Secured, SecureTestCase


class EndTests(SecureTestCase):
    """
    The end of a connection.
    """

    def test_close_notify(self):
        """
        A client's close_notify ends its sending only: later writes and our close_notify still reach
        it.
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
        Our FIN has come, and the connection ends when the client closes.
        """
        self.assertEqual(peer.recv(1), b"")
        self.assert_lost(protocol)
        peer.close()
        self.reactor.until(lambda: protocol.lost)
        self.assert_lost(protocol, ConnectionDone)
        self.assertEqual(self.reactor.removeAll(), [])

    def test_close_notify_queued(self):
        """
        A protocol that closes at the client's close_notify with data queued sends all of it first.
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
        A protocol that closes at the client's close_notify with nothing queued closes its side in
        the same turn, and the connection too if the client has closed already.
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

    def test_after_close_notify(self):
        """
        What comes after the client's close_notify, records or not, before or after our FIN, is
        ignored (RFC 8446 6.1): the client gets all its data, and no reset.
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
                        wait_for_arrival()
                        self.reactor.turn()
                    self.assertEqual(protocol.ended, 1)
                    self.assert_closed(protocol, peer)

    def test_after_both(self):
        """
        The same holds if our side was closed first, and closing again changes nothing.
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
            wait_for_arrival()
            self.reactor.turn()
            transport.loseConnection()
            self.assertEqual(client.receive(), b"last")
            self.assertEqual(client.receive(), b"")
            self.assert_closed(protocol, peer)

    def test_reset_after_close_notify(self):
        """
        A client that resets the connection after it was sent everything has closed cleanly.
        """
        protocol = Secured(lambda transport: transport.loseConnection())
        _, client, peer = self.secured(protocol, tcp=True)
        client.tls.shutdown()
        self.reactor.until(lambda: protocol.ended)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.close()
        self.reactor.until(lambda: protocol.lost)
        self.assert_lost(protocol, ConnectionDone)

    def test_delivery(self):
        """
        A client that closes its sending side after its close_notify, and has not read yet, gets
        everything before the connection ends; if it resets the connection, that ends too.
        """
        for resets in (False, True):
            protocol = Secured(lambda transport: transport.loseConnection())
            transport, client, peer = self.secured(protocol, tcp=True)
            transport.write(BIG)
            client.tls.shutdown()
            peer.shutdown(socket.SHUT_WR)
            self.reactor.until(lambda protocol=protocol: protocol.ended)
            if resets:

                def delivering(transport=transport, client=client):
                    return transport._delivering or (client.receive(1000) and False)

                self.reactor.until(delivering)
                self.assert_lost(protocol)
                reset(peer)
            else:
                self.assertEqual(self.receive(client, len(BIG)), BIG)
                self.reactor.until(lambda client=client: client.receive() == b"")
            self.reactor.until(lambda p=protocol, t=transport: p.lost or t.endIfDelivered())
            self.assert_lost(protocol, ConnectionDone)
            self.assertEqual(self.reactor.removeAll(), [])

    def test_abort_after_close_notify(self):
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
        A protocol without half-close ends at the client's close_notify, and the client gets ours
        (RFC 8446 6.1).
        """
        protocol = Recorder()
        _, client, _ = self.secured(protocol)
        client.tls.shutdown()
        self.reactor.turn()
        self.assert_lost(protocol, ConnectionDone)
        self.assertEqual(client.receive(), b"")

    def test_truncation(self):
        """
        A FIN without a close_notify is not a clean end, for any protocol.
        """
        for protocol in (Secured(), Recorder()):
            _, client, peer = self.secured(protocol)
            self.deliver(client, b"hello")
            peer.close()
            self.reactor.until(lambda protocol=protocol: protocol.lost)
            self.assertEqual(protocol.received, [b"hello"])
            self.assert_lost(protocol, ConnectionLost)
            self.assertEqual(getattr(protocol, "ended", 0), 0)

    def test_truncation_while_queued(self):
        """
        A FIN without a close_notify is not a clean end when data is queued, either.
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
        A connection that breaks during a write, and is read at once, is a lost connection, whatever
        error OpenSSL reports.
        """
        for version in VERSIONS:
            protocol = Secured()
            transport, _, peer = self.secured(protocol, version, tcp=True)
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            peer.close()
            wait_for_arrival()
            transport.write(b"hello")
            self.assertIs(transport.doRead(), CONNECTION_LOST)
            self.reactor.until(lambda protocol=protocol: protocol.lost)
            self.assert_lost(protocol, ConnectionLost)

    def test_others_go_on(self):
        """
        No way in which a connection ends affects another one, nor leaves an error in the thread's
        error queue.
        """
        protocol = Secured()
        transport, client, _ = self.secured(protocol)

        def not_tls(_, peer):
            peer.send(b"rubbish, for once, in the clear")

        def vanish(transport, peer):
            transport.pauseProducing()
            peer.close()
            transport.write(b"hello")

        def vanish_while_queued(transport, peer):
            transport.write(BIG)
            peer.close()

        def reset(transport, peer):
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            peer.close()
            wait_for_arrival()
            transport.write(b"hello")

        def close_late(transport, peer):
            transport.pauseProducing()
            peer.close()
            transport.loseConnection()

        for end in (not_tls, vanish, vanish_while_queued, reset, close_late):
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
        Queued data is sent, then our close_notify, then FIN.
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
        A half-close sends a close_notify and a FIN after the queued data, once; the other direction
        stays open.
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
        An abort sends nothing more.
        """
        protocol = Secured()
        transport, client, _ = self.secured(protocol)
        self.received_now(client)
        transport.write(BIG)
        transport.abortConnection()
        self.reactor.turn()
        self.assert_lost(protocol, ConnectionAborted)
        self.assertRaises(SSL.SysCallError, self.receive, client, len(BIG))

    def test_abort_nothing_queued(self):
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
        A late write, close or read does not reach the new owner of the descriptor's number.
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
        What a producer writes in C{stopProducing} is dropped.
        """
        protocol = Secured()
        transport, _, peer = self.secured(protocol)
        pusher = Pusher()
        pusher.stopProducing = lambda: transport.write(b"late")
        transport.registerProducer(pusher, True)
        peer.send(b"rubbish, for once, in the clear")
        self.reactor.turn()
        self.assert_lost(protocol, SSL.Error)

    def test_no_cycle(self):
        """
        A connection that has ended leaves no reference cycle, before or after its handshake.
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
        A protocol without half-close drops queued data at the client's close_notify; the client
        then gets no close_notify, since its data is not complete.
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

    def test_lose_connection_peer_gone(self):
        """
        If no close_notify can be sent any more, the connection closes without.
        """
        protocol = Secured()
        transport, _, peer = self.secured(protocol)
        transport.pauseProducing()
        peer.close()
        transport.loseConnection()
        self.reactor.turn()
        self.assert_lost(protocol, ConnectionDone)


class BlockedTests(SecureTestCase):
    """
    When OpenSSL has to wait for the kernel in order to send a close_notify.
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
        A close_notify that does not fit into the send buffer is sent once it fits, and then FIN.
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
        The same holds when we close because the client has.
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
        The same holds for a half-close; the protocol is told when it is done.
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
        A close_notify that does not fit after the last queued data is tried again; the protocol is
        told of the close only after it was sent.
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
        When the connection is closed while the close_notify of a half-close waits, it is still
        sent, and input is not delivered any more.
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

    def test_write_after_close_notify(self):
        """
        What is written while the close_notify of a half-close waits is dropped, as it is
        afterwards, and our side still closes.
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
        After a protocol closes in C{writeConnectionLost}, the reactor does not wait for
        writability, though a read wanted to write.
        """
        protocol = Secured()
        protocol.writeConnectionLost = lambda: protocol.transport.loseConnection()
        transport, _, _ = self.scripted(protocol, recv=[SSL.WantWriteError()] * 2)
        transport.doRead()
        transport.loseWriteConnection()
        self.reactor.turn()
        self.assert_lost(protocol, ConnectionDone)
        self.assertEqual(self.reactor.removeAll(), [])
