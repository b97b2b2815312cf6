"""
Bulk over TLS: against OpenSSL at the other end, on real sockets, and against a relay that answers
what a test wants.
"""

import gc
import random
import socket
import struct
import weakref
from functools import partial

from OpenSSL import SSL
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost

from echod._util.sockets import unread
from echod.net.tlsrelay import MAX_RECORDS
from echod.net.unix import EagerUNIXTransport
from echod.tls._openssl import RECORD_BYTES
from tests.support.clients import VERSIONS, context as client_context
from tests.support.pairs import Echoing, HalfCloseable, Relayed, drained
from tests.support.tlspairs import SecureTestCase
from tests.support.tlsrecords import (
    ALERT,
    CLIENT_HELLO,
    DATA,
    HANDSHAKE,
    KEY_UPDATE,
    UPDATE_REQUESTED,
    OldSealer,
    Sealer,
    keep_secrets,
)

BULK = 2 * RECORD_BYTES


class ScriptedRelay:
    """
    Answers what a test wants.

    @ivar answers: what the calls return, or raise, in order.
    @ivar calls: how often it was called.
    """

    def __init__(self, *answers):
        self.answers = list(answers)
        self.calls = 0

    def __call__(self, sock):
        self.calls += 1
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


class RelayTestCase(SecureTestCase):
    """
    Makes TLS connections on which bulk has come.
    """

    def relays(self, transport):
        """
        Whether the next read is a relay.
        """
        return "doRead" in vars(transport)

    def in_bulk(self, protocol, version="TLS 1.3", **given):
        """
        @return: the transport of the protocol, its client, and the client's socket.
        """
        transport, client, peer = self.secured(protocol, version, **given)
        for each in (transport.socket, peer):
            each.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        self.deliver(client, bytes(BULK))
        self.reactor.turn()
        self.assertEqual(self.receive(client, BULK), bytes(BULK))
        protocol.received.clear()
        return transport, client, peer

    def relayed(self, *answers):
        """
        @return: a protocol on whose connection bulk has come, its transport, its client, and its
            relay, if that is to be a scripted one.
        """
        protocol, relay = Relayed(), ScriptedRelay(*answers)
        transport, client, _ = self.in_bulk(protocol)
        self.assertTrue(self.relays(transport))
        if answers:
            transport.doRead = partial(transport._relayRecords, relay)
        return protocol, transport, client, relay

    def to_end(self, client):
        """
        Turn the reactor until a client has received our close_notify.

        @return: all that came before it.
        """
        got = bytearray()

        def ended():
            while piece := client.receive():
                got.extend(piece)
            return client.closed

        self.reactor.until(ended)
        return bytes(got)


class WhenTests(RelayTestCase):
    """
    When a transport relays.
    """

    def test_small(self):
        """
        Neither one full record in a turn, nor smaller ones, are followed by a relay.
        """
        protocol = Relayed()
        transport, client, _ = self.secured(protocol)
        for size in (1, RECORD_BYTES, RECORD_BYTES + 1, 5, RECORD_BYTES):
            self.deliver(client, bytes(size))
            self.reactor.turn()
            self.assertFalse(self.relays(transport))
            self.assertEqual(self.receive(client, size), bytes(size))

    def test_nothing(self):
        """
        If nothing has come, nothing is relayed, and the next bytes are received.
        """
        protocol, transport, client, _ = self.relayed()
        self.assertIsNone(transport.doRead())
        self.assertFalse(self.relays(transport))
        self.deliver(client, b"hello")
        self.assertEqual(self.receive(client, 5), b"hello")
        self.assertEqual((protocol.received, sum(protocol.relayed)), ([b"hello"], 0))

    def test_few(self):
        """
        After a relay of few bytes, the next bytes are received.
        """
        protocol, transport, client, _ = self.relayed()
        self.deliver(client, b"few")
        self.reactor.turn()
        self.assertEqual((protocol.relayed, protocol.received), ([3], []))
        self.assertFalse(self.relays(transport))
        self.deliver(client, b"more")
        self.assertEqual(self.receive(client, 7), b"fewmore")
        self.assertEqual((protocol.relayed, protocol.received), ([3], [b"more"]))

    def test_protocol_that_wants_the_bytes(self):
        """
        A protocol without C{bytes_relayed}, or with none in its place, gets all bytes, up to the
        bound of a turn.
        """
        blind = Relayed()
        blind.bytes_relayed = None
        for protocol in (Echoing(), blind):
            transport, client, _ = self.in_bulk(protocol)
            self.deliver(client, bytes(MAX_RECORDS * RECORD_BYTES))
            self.reactor.turn()
            self.assertEqual(len(protocol.received), MAX_RECORDS)
            self.assertFalse(self.relays(transport))

    def test_another_protocol(self):
        """
        A protocol that takes over the transport gets all bytes, if it wants them.
        """
        _, transport, client, _ = self.relayed()
        transport.protocol = successor = HalfCloseable()
        self.deliver(client, b"hello")
        self.reactor.turn()
        self.assertEqual(successor.received, [b"hello"])

    def test_other_version(self):
        """
        With a pyOpenSSL without the private names, nothing is relayed.
        """
        protocol = Relayed()
        transport, tls, _ = self.scripted(protocol, recv=[bytes(RECORD_BYTES)] * 3)
        transport.doRead()
        self.assertFalse(self.relays(transport))
        self.assertEqual((len(protocol.received), len(tls.sent)), (3, 3 * RECORD_BYTES))

    def test_reads_last(self):
        """
        A transport that reads after all others goes on to do so.
        """
        protocol = Relayed()
        self.reactor.putOff = lambda transport: transport.readLate()
        transport, client, _ = self.secured(protocol)
        transport.readLast(always=True)
        self.deliver(client, bytes(BULK))
        self.assertEqual(self.receive(client, BULK), bytes(BULK))
        self.assertEqual(protocol.relayed, [])

    def test_queued(self):
        """
        While something is queued, what comes is read and queued behind it.
        """
        protocol, transport, client, _ = self.relayed()
        transport._enqueue(b"first ")
        self.deliver(client, b"second")
        transport.doRead()
        self.assertEqual(protocol.received, [b"second"])
        self.assertEqual(self.receive(client, 12), b"first second")

    def test_after_our_end(self):
        """
        After the protocol has closed its sending side, it gets the bytes; when it is closing, it
        gets none, and none is relayed.
        """
        protocol, transport, client, _ = self.relayed()
        protocol.dataReceived = protocol.received.append
        transport.loseWriteConnection()
        self.reactor.turn()
        self.deliver(client, b"late")
        self.reactor.turn()
        self.assertEqual(protocol.received, [b"late"])
        protocol, transport, client, _ = self.relayed()
        transport.disconnecting = True
        self.deliver(client, b"late")
        transport.doRead()
        self.assertEqual(protocol.relayed, [])

    def test_no_cycle(self):
        """
        After the end of a connection in bulk, its transport is not kept until a garbage
        collection.
        """
        gc.disable()
        self.addCleanup(gc.enable)
        protocol, transport, client, _ = self.relayed()
        reference = weakref.ref(transport)
        client.tls.shutdown()
        client.close()
        self.reactor.until(lambda: protocol.lost)
        protocol.transport = None
        del transport
        self.assertIsNone(reference())


class AnswerTests(RelayTestCase):
    """
    What a transport does with what the relay returns.
    """

    def act(self, *answers):
        """
        Relay once.

        @return: the protocol, its transport and its client.
        """
        protocol, transport, client, relay = self.relayed(*answers)
        transport.registerProducer(protocol, True)
        self.deliver(client, b"-")
        self.reactor.turn()
        self.assertEqual(relay.calls, 1)
        return protocol, transport, client

    def test_broken(self):
        """
        If the connection is broken, it is lost.
        """
        protocol, _, _ = self.act(ConnectionResetError())
        self.assert_lost(protocol, ConnectionLost)
        self.assertEqual(protocol.relayed, [])

    def test_error(self):
        """
        The data counts that came before an error of TLS.
        """
        protocol, _, _ = self.act((BULK, memoryview(b""), b"", SSL.Error([("", "", "bad")])))
        self.assert_lost(protocol, SSL.Error)
        self.assertEqual(protocol.relayed, [BULK])

    def test_unwritten(self):
        """
        Data that OpenSSL does not take is queued, and written when it takes it.
        """
        protocol, _, client = self.act((BULK, memoryview(b""), b"unwritten", None))
        self.assertEqual(self.receive(client, 9), b"unwritten")
        self.assertEqual(protocol.relayed, [BULK])

    def test_records_not_taken(self):
        """
        Records that the kernel does not take are sent as they are, in small pieces if need be; and
        what is written after them is encrypted after them.
        """
        protocol, transport, client, _ = self.relayed()
        transport.registerProducer(protocol, True)
        data = random.Random(8446).randbytes(MAX_RECORDS * RECORD_BYTES)
        self.deliver(client, data)
        transport.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32768)
        transport.doRead()
        self.assertEqual(protocol.paused, 1)
        queue = transport._tempDataLen
        self.assertEqual(transport._encrypted, queue)
        self.assertGreater(queue, len(data) // 2)
        transport.doWrite()
        transport.doWrite()
        self.assertEqual(transport._encrypted, queue)
        transport.write(b"behind it")
        self.assertEqual(self.receive(client, len(data) + 9), data + b"behind it")
        self.assertEqual((transport._encrypted, protocol.relayed), (0, [len(data)]))
        self.deliver(client, bytes(BULK))
        self.assertEqual(self.receive(client, BULK), bytes(BULK))

    def test_closing_with_records_queued(self):
        """
        What the kernel has not taken goes before the close_notify.
        """
        for close in ("loseConnection", "loseWriteConnection"):
            _, transport, client, _ = self.relayed()
            self.deliver(client, bytes(MAX_RECORDS * RECORD_BYTES))
            transport.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32768)
            transport.doRead()
            self.assertGreater(transport._encrypted, 0)
            getattr(transport, close)()
            self.assertEqual(len(self.to_end(client)), MAX_RECORDS * RECORD_BYTES)

    def test_gone(self):
        """
        If the client is gone, its connection is lost when the records are sent again.
        """
        protocol, transport, client, _ = self.relayed()
        transport.registerProducer(protocol, True)
        self.deliver(client, bytes(MAX_RECORDS * RECORD_BYTES))
        client.close()
        transport.doRead()
        self.assertEqual(protocol.relayed, [MAX_RECORDS * RECORD_BYTES])
        self.assertGreater(transport._encrypted, 0)
        self.reactor.until(lambda: protocol.lost)
        self.assert_lost(protocol, ConnectionLost)

    def test_abort(self):
        """
        The protocol may abort when it is told of bytes: then nothing is read any more.
        """
        for size in (MAX_RECORDS * RECORD_BYTES, 5):
            protocol, transport, client, _ = self.relayed()
            protocol.on_relayed = transport.abortConnection
            self.deliver(client, bytes(size) + b"more")
            self.reactor.turn()
            self.reactor.turn()
            self.assert_lost(protocol, ConnectionAborted)
            self.assertEqual(protocol.received, [])


class ExactnessTests(RelayTestCase):
    """
    What comes back from OpenSSL itself.
    """

    KINDS = (
        {"tcp": True},
        {"transport_class": EagerUNIXTransport},
    )

    def test_bulk(self):
        """
        Bulk comes back as it was sent, however much of it the client reads at a time, and each
        byte is counted once.
        """
        source = random.Random(862)
        data = source.randbytes(2 << 20)
        for version in VERSIONS:
            for given in self.KINDS:
                protocol = Relayed()
                transport, client, _ = self.in_bulk(protocol, version, **given)
                transport.registerProducer(protocol, True)
                unsent, back = memoryview(data), bytearray()
                while len(back) < len(data):
                    for _ in range(source.randrange(1, 20)):
                        if unsent:
                            unsent = unsent[client.send(unsent[:RECORD_BYTES]) :]
                    for _ in range(source.randrange(20)):
                        back += client.receive() or b""
                    self.reactor.turn()
                self.assertEqual(bytes(back), data)
                self.assertGreater(sum(protocol.relayed), len(data) // 4)
                self.assertEqual(sum(protocol.relayed) + len(protocol.data), len(data))

    def test_bounded_turn(self):
        """
        A relay reads a bounded number of records, of any size, and leaves the others in the
        kernel.
        """
        for version in VERSIONS:
            for size in (RECORD_BYTES, 1):
                protocol, transport, client, _ = self.relayed()
                data = random.Random(size).randbytes(size * (MAX_RECORDS + 3))
                self.deliver(client, data, record=size)
                came = unread(transport.fileno())
                transport.doRead()
                self.assertEqual(protocol.relayed, [size * MAX_RECORDS])
                self.assertEqual(unread(transport.fileno()), came * 3 // (MAX_RECORDS + 3))
                self.assertEqual(self.receive(client, len(data)), data, version)

    def test_part_of_a_record(self):
        """
        A record that has come in part is read when the rest comes: by OpenSSL on its socket, or
        by the next relay.
        """
        data = random.Random(3).randbytes(5 * RECORD_BYTES)
        for part in (1, 5, 6, 9000):
            for number in (1, 3):
                protocol = Relayed()
                transport, sealer, peer, read = self.sealed(protocol)
                records = b"".join(
                    sealer.seal(DATA, data[start : start + RECORD_BYTES])
                    for start in range(0, len(data), RECORD_BYTES)
                )
                cut = number * (len(records) // 5) + part
                peer.sendall(records[:cut])
                transport.doRead()
                self.assertEqual(protocol.relayed, [number * RECORD_BYTES])
                self.assertEqual(self.relays(transport), number == 3)
                peer.sendall(records[cut:])
                self.assertEqual(read(len(data)), data)

    def sealed(self, protocol, version="TLS 1.3"):
        """
        A connection on which bulk has come.

        @return: the transport, an object that makes the client's records, the client's socket,
            and a function that receives what comes back.
        """
        made = client_context(version)
        secrets = keep_secrets(made)
        transport, client, peer = self.secured(protocol, client=made)
        for each in (transport.socket, peer):
            each.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        if version == "TLS 1.3":
            sealer = Sealer(secrets)
        else:
            sealer = OldSealer(secrets, client.tls.server_random())
        peer.sendall(b"".join(sealer.seal(DATA, bytes(RECORD_BYTES)) for _ in range(2)))
        self.assertEqual(self.receive(client, BULK), bytes(BULK))
        self.assertTrue(self.relays(transport))
        protocol.received.clear()
        return transport, sealer, peer, partial(self.receive, client)

    def between(self, version, make, number):
        """
        Let many records without data come between records with data; relay once.

        @return: the protocol, the client's socket, and a function that receives what comes back.
        """
        protocol = Relayed()
        transport, sealer, peer, read = self.sealed(protocol, version)
        records = [sealer.seal(DATA, self.data[:RECORD_BYTES])]
        records += [sealer.seal(DATA, self.data[RECORD_BYTES:BULK])]
        records += [make(sealer) for _ in range(number)]
        records += [sealer.seal(DATA, self.data[BULK:])]
        peer.sendall(b"".join(records))
        transport.doRead()
        self.assertEqual(protocol.relayed, [BULK])
        self.assertEqual(unread(transport.fileno()), sum(map(len, records[3:])))
        return protocol, peer, read

    data = random.Random(8446).randbytes(3 * RECORD_BYTES)

    def test_key_updates(self):
        """
        A relay ends at a KeyUpdate, and those behind it are left to other turns; also those that
        ask for one in return.
        """
        for message in (KEY_UPDATE, UPDATE_REQUESTED):
            make = partial(Sealer.key_update, message=message)
            _, _, read = self.between("TLS 1.3", make, 100)
            self.assertEqual(read(len(self.data)), self.data)

    def test_renegotiations(self):
        """
        The same for renegotiations, which are refused.
        """
        protocol, peer, _ = self.between(
            "TLS 1.2", lambda sealer: sealer.seal(HANDSHAKE, CLIENT_HELLO), 50
        )

        def complete():
            drained(peer)
            return protocol.data == self.data[BULK:]

        self.reactor.until(complete)

    def test_empty_records(self):
        """
        OpenSSL reads over records without data, and over warnings (user_canceled), if they are
        not many.
        """
        for version in VERSIONS:
            for kind, content, number in ((DATA, b"", 20), (ALERT, b"\1\x5a", 4)):
                _, sealer, peer, read = self.sealed(Relayed(), version)
                records = [sealer.seal(kind, content) for _ in range(number)]
                peer.sendall(b"".join([*records, sealer.seal(DATA, self.data[:9000])]))
                self.assertEqual(read(9000), self.data[:9000])

    def test_end(self):
        """
        A close_notify right behind bulk is seen after its last byte, and answered with ours.
        """
        for version in VERSIONS:
            for given in self.KINDS:
                for size in (5, 3 * RECORD_BYTES, MAX_RECORDS * RECORD_BYTES):
                    protocol = Relayed()
                    _, client, _ = self.in_bulk(protocol, version, **given)
                    data = random.Random(size).randbytes(size)
                    self.deliver(client, data)
                    client.tls.shutdown()
                    self.assertEqual(self.to_end(client), data)
                    self.assertEqual(protocol.ended, 1)
                    client.close()
                    self.reactor.until(lambda protocol=protocol: protocol.lost)
                    self.assert_lost(protocol, ConnectionDone)

    def test_truncation(self):
        """
        A FIN without a close_notify is not a clean end; what came before it is counted.
        """
        for size in (0, 5, MAX_RECORDS * RECORD_BYTES):
            protocol = Relayed()
            _, client, peer = self.in_bulk(protocol, tcp=True)
            self.deliver(client, bytes(size))
            peer.shutdown(socket.SHUT_WR)
            self.reactor.until(lambda protocol=protocol: protocol.lost)
            self.assert_lost(protocol, ConnectionLost)
            self.assertEqual((sum(protocol.relayed), protocol.ended), (size, 0))

    def test_reset(self):
        """
        Neither is a reset.
        """
        protocol = Relayed()
        _, _, peer = self.in_bulk(protocol, tcp=True)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.close()
        self.reactor.until(lambda: protocol.lost)
        self.assert_lost(protocol, ConnectionLost)
        self.assertEqual(protocol.ended, 0)

    def test_bad_record(self):
        """
        A record that is none ends the connection with an alert behind the echo of what came
        before.
        """
        for version in VERSIONS:
            protocol = Relayed()
            _, client, peer = self.in_bulk(protocol, version)
            self.deliver(client, b"good")
            peer.sendall(b"\x17\3\3\0\x20" + bytes(32))
            self.reactor.until(lambda protocol=protocol: protocol.lost)
            self.assert_lost(protocol, SSL.Error)
            self.assertIn("bad", str(protocol.lost[0].value))
            self.assertEqual(client.receive(), b"good")
            alert = self.assertRaises(SSL.Error, client.receive)
            self.assertIn("alert", str(alert))

    def test_after_our_close_notify(self):
        """
        If OpenSSL refuses to write, the data is queued, and its connection is lost.
        """
        protocol, transport, client, _ = self.relayed()
        transport._tls.shutdown()
        self.deliver(client, bytes(BULK))
        transport.doRead()
        self.assertEqual((protocol.relayed, transport._tempDataLen), ([RECORD_BYTES], RECORD_BYTES))
        self.assertEqual(drained(client.socket, 0), b"")
        self.reactor.until(lambda: protocol.lost)
        self.assert_lost(protocol, ConnectionLost)
