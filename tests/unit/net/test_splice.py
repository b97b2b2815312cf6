"""
Tests for L{echod.net.splice}: the splicer on a scripted kernel, the pipe, and the transports that
use both, on real sockets.
"""

import contextlib
import errno
import fcntl
import gc
import os
import random
import socket
import struct
import weakref

from OpenSSL import SSL
from twisted.internet.error import ConnectionAborted, ConnectionLost
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from echod._util.sockets import keep_urgent
from echod.net.splice import (
    MAX_SPLICE,
    MIN_PIPE_BYTES,
    MIN_SPLICE,
    PIPE_BYTES,
    SPLICE,
    UNSUPPORTED,
    Pipe,
    Splicer,
)
from echod.net.transport import MAX_READ
from echod.net.unix import EagerUNIXTransport
from tests.support.pairs import Echoing, HalfCloseable, PairTestCase, Relayed, drained

SOCKET = 7
"""A descriptor of a socket that is not there."""

REFUSED = BlockingIOError(errno.EAGAIN, "not now")


class FakePipe:
    """
    A pipe without descriptors.

    @ivar content: what is in it.
    @ivar broken: whether reading it fails.
    """

    reader, writer = 100, 101

    def __init__(self, capacity=PIPE_BYTES):
        self.content = b""
        self.broken = False
        self._capacity = capacity

    def capacity(self):
        return self._capacity

    def read(self, size):
        if self.broken:
            raise MemoryError
        data, self.content = self.content[:size], self.content[size:]
        return data


class FakeKernel:
    """
    splice(2) between a socket and pipes.

    @ivar pipes: the pipes that were made.
    @ivar arrived: what the socket has received.
    @ivar took: what the socket has sent.
    @ivar takes: how much the socket takes at once.
    @ivar receiving: the error of a splice from the socket.
    @ivar sending: the error of a splice to it.
    """

    def __init__(self, arrived=b""):
        self.arrived = arrived
        self.took = b""
        self.takes = len(arrived)
        self.receiving = self.sending = None
        self.pipes = []
        self.capacity = PIPE_BYTES
        self.short_of_descriptors = False

    def make_pipe(self):
        if self.short_of_descriptors:
            raise OSError(errno.EMFILE, "too many open files")
        self.pipes.append(FakePipe(self.capacity))
        return self.pipes[-1]

    def splice(self, source, target, size):
        (pipe,) = self.pipes[-1:]
        if source == SOCKET:
            assert target == pipe.writer
            assert not pipe.content
            if self.receiving:
                raise self.receiving
            pipe.content, self.arrived = self.arrived[:size], self.arrived[size:]
            return len(pipe.content)
        assert (source, target) == (pipe.reader, SOCKET)
        if self.sending:
            raise self.sending
        size = min(size, self.takes)
        self.took += pipe.content[:size]
        pipe.content = pipe.content[size:]
        return size


class SplicerTests(SynchronousTestCase):
    """
    The splicer, with whatever the kernel answers.
    """

    def make(self, arrived=b"abcdef", **state):
        """
        A splicer, and its kernel in such a state.
        """
        kernel = FakeKernel(arrived)
        vars(kernel).update(state)
        return Splicer(kernel.splice, kernel.make_pipe), kernel

    def test_all(self):
        """
        What has come is sent.
        """
        splicer, kernel = self.make()
        self.assertEqual(splicer.relay(SOCKET), (6, b""))
        self.assertEqual(kernel.took, b"abcdef")

    def test_at_most(self):
        """
        One call moves C{MAX_SPLICE} bytes at most.
        """
        splicer, kernel = self.make(bytes(MAX_SPLICE + 5))
        self.assertEqual(splicer.relay(SOCKET), (MAX_SPLICE, b""))
        self.assertEqual(len(kernel.took), MAX_SPLICE)

    def test_rest(self):
        """
        What the socket does not take is returned, and the pipe is empty.
        """
        splicer, kernel = self.make(takes=2)
        self.assertEqual(splicer.relay(SOCKET), (6, b"cdef"))
        self.assertEqual(kernel.took, b"ab")
        self.assertEqual(kernel.pipes[0].content, b"")

    def test_takes_nothing(self):
        """
        If the socket takes nothing, or its connection is broken, everything is returned: who
        sends it meets the same error.
        """
        for error in (REFUSED, BrokenPipeError(errno.EPIPE, "broken")):
            splicer, kernel = self.make(sending=error)
            self.assertEqual(splicer.relay(SOCKET), (6, b"abcdef"))
            self.assertEqual(kernel.pipes[0].content, b"")
            self.assertTrue(splicer.usable)

    def test_nothing_came(self):
        """
        If nothing has come, or the input has ended, nothing is moved.
        """
        for error in (REFUSED, None):
            splicer, kernel = self.make(b"", receiving=error)
            self.assertEqual(splicer.relay(SOCKET), (0, b""))
            self.assertEqual((kernel.took, splicer.usable), (b"", True))

    def test_broken(self):
        """
        A broken connection is reported, and the next one is relayed.
        """
        splicer, kernel = self.make(receiving=ConnectionResetError(errno.ECONNRESET, "reset"))
        self.assertRaises(ConnectionResetError, splicer.relay, SOCKET)
        kernel.receiving = None
        self.assertEqual(splicer.relay(SOCKET), (6, b""))
        self.assertEqual(len(kernel.pipes), 1)

    def test_refused(self):
        """
        If the kernel refuses to splice from a socket, nothing is lost, the splicer says so, and it
        does not try again.
        """
        for number in UNSUPPORTED:
            splicer, kernel = self.make(receiving=OSError(number, "refused"))
            self.assertEqual(splicer.relay(SOCKET), (0, b""))
            self.assertFalse(splicer.usable)
            self.assertEqual(kernel.arrived, b"abcdef")
            kernel.receiving = None
            self.assertEqual(splicer.relay(SOCKET), (0, b""))

    def test_refused_to_send(self):
        """
        The same if it refuses to splice to a socket.
        """
        for number in UNSUPPORTED:
            splicer, _ = self.make(sending=OSError(number, "refused"))
            self.assertEqual(splicer.relay(SOCKET), (6, b"abcdef"))
            self.assertFalse(splicer.usable)

    def test_one_pipe(self):
        """
        One pipe is made, with the first call, for all of them.
        """
        splicer, kernel = self.make(takes=2)
        self.assertEqual(kernel.pipes, [])
        for _ in range(3):
            splicer.relay(SOCKET)
        self.assertEqual(len(kernel.pipes), 1)

    def test_no_descriptor(self):
        """
        Without a descriptor for the pipe nothing is moved; later there may be one.
        """
        splicer, kernel = self.make(short_of_descriptors=True)
        self.assertEqual(splicer.relay(SOCKET), (0, b""))
        kernel.short_of_descriptors = False
        self.assertTrue(splicer.usable)
        self.assertEqual(splicer.relay(SOCKET), (6, b""))

    def test_small_pipe(self):
        """
        A pipe that is too small is not used, one of the default capacity is.
        """
        splicer, _ = self.make(capacity=MIN_PIPE_BYTES - 1)
        self.assertEqual(splicer.relay(SOCKET), (0, b""))
        self.assertFalse(splicer.usable)
        splicer, _ = self.make(capacity=MIN_PIPE_BYTES)
        self.assertEqual(splicer.relay(SOCKET), (6, b""))

    def test_never_of_another(self):
        """
        If an exception leaves bytes in the pipe, no other connection gets them.
        """
        splicer, kernel = self.make(takes=2)
        splicer.relay(SOCKET)
        (pipe,) = kernel.pipes
        pipe.broken, kernel.arrived = True, b"abcdef"
        self.assertRaises(MemoryError, splicer.relay, SOCKET)
        self.assertEqual(pipe.content, b"cdef")
        kernel.arrived, kernel.took, kernel.takes = b"other", b"", 5
        self.assertEqual(splicer.relay(SOCKET), (5, b""))
        self.assertEqual(kernel.took, b"other")


class PipeTests(SynchronousTestCase):
    """
    The pipe itself.
    """

    def test_make(self):
        """
        It has the capacity that was asked for, never blocks, and is not inherited.
        """
        pipe = Pipe.make()
        self.assertIn(pipe.capacity(), (PIPE_BYTES, MIN_PIPE_BYTES))
        for descriptor in (pipe.reader, pipe.writer):
            self.assertFalse(os.get_inheritable(descriptor))
            self.assertFalse(os.get_blocking(descriptor))

    def test_closes_itself(self):
        """
        When nothing refers to it, its descriptors are closed.
        """
        pipe = Pipe.make()
        descriptors = pipe.reader, pipe.writer
        del pipe
        for descriptor in descriptors:
            error = self.assertRaises(OSError, fcntl.fcntl, descriptor, fcntl.F_GETFD)
            self.assertEqual(error.errno, errno.EBADF)

    def test_read(self):
        """
        It is read to the last byte that is asked for, in several pieces if need be.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        pipe = Pipe(ours.detach(), theirs.fileno())
        theirs.send(b"ab")
        theirs.send(b"cd")
        self.assertEqual(pipe.read(4), b"abcd")
        self.assertRaises(BlockingIOError, pipe.read, 1)
        theirs.detach()


class ScriptedSplicer:
    """
    Answers what a test wants.

    @ivar answers: what the calls return, or raise, in order.
    @ivar calls: the descriptors that were relayed.
    """

    usable = True

    def __init__(self, *answers):
        self.answers = list(answers)
        self.calls = []

    def relay(self, descriptor):
        self.calls.append(descriptor)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


class RelayTestCase(PairTestCase):
    """
    Makes connections on which bulk has come.
    """

    bulk = bytes(2 * MIN_SPLICE)

    def in_bulk(self, protocol, splicer, **given):
        """
        @return: the transport of the protocol, and the peer.
        """
        self.reactor.splicer = splicer
        transport, peer = self.connect(protocol, **given)
        for each in (transport.socket, peer):
            each.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * MAX_SPLICE)
        # The first four reads are small.
        for _ in range(2):
            peer.sendall(self.bulk)
            self.drain(peer, len(self.bulk))
        self.assertEqual(protocol.data, 2 * self.bulk)
        protocol.received.clear()
        return transport, peer


class RelayTests(RelayTestCase):
    """
    When a transport relays, and what it does with the answers.
    """

    def relays(self, transport):
        """
        Whether the next read is a relay.
        """
        return "doRead" in vars(transport)

    def relayed(self, *answers):
        """
        @return: a protocol on whose connection bulk has come, its transport, and the peer.
        """
        protocol = Relayed()
        transport, peer = self.in_bulk(protocol, ScriptedSplicer(*answers))
        self.assertTrue(self.relays(transport))
        return protocol, transport, peer

    def test_small(self):
        """
        Small reads are never followed by a relay, full or not.
        """
        self.reactor.splicer = ScriptedSplicer()
        protocol = Relayed()
        transport, peer = self.connect(protocol)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * MAX_SPLICE)
        for size in (448, 1792, 7168, MIN_SPLICE - 1, MIN_SPLICE - 1):
            peer.sendall(bytes(size))
            self.drain(peer, size)
        self.assertFalse(self.relays(transport))
        self.assertEqual(len(protocol.data), 448 + 1792 + 7168 + 2 * MIN_SPLICE - 2)

    def test_full(self):
        """
        The largest read is followed by a relay if it is full.
        """
        protocol = Relayed()
        transport, peer = self.in_bulk(protocol, None)
        self.reactor.splicer = ScriptedSplicer()
        peer.sendall(bytes(MAX_READ))
        self.reactor.turn()
        self.assertEqual(len(protocol.data), MAX_READ)
        self.assertTrue(self.relays(transport))

    def test_counted(self):
        """
        The protocol gets the number of bytes, and no bytes; the next read is a relay again.
        """
        protocol, transport, peer = self.relayed((MAX_SPLICE, b""), (MIN_SPLICE, b""))
        peer.send(b"-")
        self.reactor.turn()
        self.reactor.turn()
        self.assertEqual(protocol.relayed, [MAX_SPLICE, MIN_SPLICE])
        self.assertEqual(self.reactor.splicer.calls, [transport.fileno()] * 2)
        self.assertEqual(protocol.received, [])
        self.assertTrue(self.relays(transport))

    def test_few(self):
        """
        After a relay of few bytes, the next bytes are received.
        """
        protocol, transport, peer = self.relayed((MIN_SPLICE - 1, b""))
        peer.send(b"hello")
        self.reactor.turn()
        self.assertEqual((protocol.relayed, protocol.received), ([MIN_SPLICE - 1], []))
        self.assertFalse(self.relays(transport))
        self.reactor.turn()
        self.assertEqual(protocol.received, [b"hello"])

    def test_nothing(self):
        """
        If nothing is relayed, the same turn receives: what stands behind an urgent mark, or the
        end of the input.
        """
        protocol, transport, peer = self.relayed((0, b""))
        peer.send(b"hello")
        self.reactor.turn()
        self.assertEqual((protocol.relayed, protocol.received), ([], [b"hello"]))
        self.assertFalse(self.relays(transport))
        protocol, transport, peer = self.relayed((0, b""))
        peer.shutdown(socket.SHUT_WR)
        self.reactor.turn()
        self.assertEqual((protocol.relayed, protocol.ended), ([], 1))

    def test_rest(self):
        """
        What the socket does not take is queued; a full queue pauses the producer, and nothing
        overtakes it.
        """
        rest = bytes(range(256)) * 300
        protocol, transport, peer = self.relayed((MAX_SPLICE, rest), (MIN_SPLICE, b""))
        transport.registerProducer(protocol, True)
        peer.send(b"-")
        self.reactor.turn()
        self.assertEqual((protocol.paused, protocol.relayed), (1, [MAX_SPLICE]))
        self.assertEqual(self.drain(peer, len(rest)), rest)
        self.reactor.until(lambda: len(protocol.relayed) == 2)

    def test_queued(self):
        """
        While something is queued, what comes is received and queued behind it.
        """
        _, transport, peer = self.relayed()
        transport._enqueue(b"first ")
        peer.send(b"second")
        transport.doRead()
        self.assertEqual(self.reactor.splicer.calls, [])
        self.assertEqual(self.drain(peer, 12), b"first second")

    def test_broken(self):
        """
        If the connection is broken, it is lost.
        """
        protocol, _, peer = self.relayed(ConnectionResetError(errno.ECONNRESET, "reset"))
        peer.send(b"-")
        self.reactor.turn()
        self.assert_lost(protocol, ConnectionLost)
        self.assertEqual((protocol.relayed, protocol.ended), ([], 0))

    def test_after_our_end(self):
        """
        After the protocol has closed its sending side, or is closing, it gets the bytes.
        """
        protocol, transport, peer = self.relayed()
        transport.loseWriteConnection()
        peer.send(b"late")
        self.reactor.turn()
        self.assertEqual(protocol.received, [b"late"])
        _, transport, peer = self.relayed()
        transport.disconnecting = True
        peer.send(b"late")
        transport.doRead()
        self.assertEqual(self.reactor.splicer.calls, [])

    def test_abort(self):
        """
        The protocol may abort when it is told of bytes: then nothing is read any more.
        """
        for size in (MAX_SPLICE, 5):
            protocol, transport, peer = self.relayed((size, b"rest"))
            protocol.on_relayed = transport.abortConnection
            peer.send(b"-")
            self.reactor.turn()
            self.reactor.turn()
            self.assert_lost(protocol, ConnectionAborted)
            self.assertEqual(protocol.received, [])

    def test_protocol_that_wants_the_bytes(self):
        """
        A protocol without C{bytes_relayed}, or with none in its place, gets all bytes.
        """
        blind = Relayed()
        blind.bytes_relayed = None
        for protocol in (Echoing(), blind):
            transport, _ = self.in_bulk(protocol, ScriptedSplicer())
            self.assertFalse(self.relays(transport))

    def test_another_protocol(self):
        """
        A protocol that takes over the transport gets all bytes, if it wants them.
        """
        _, transport, peer = self.relayed()
        transport.protocol = successor = HalfCloseable()
        peer.send(b"hello")
        self.reactor.turn()
        self.assertEqual(successor.received, [b"hello"])

    def test_no_splicer(self):
        """
        Nothing is relayed without a splicer, on a reactor that knows of none, or once the kernel
        has refused.
        """
        refused = ScriptedSplicer()
        refused.usable = False
        for splicer in (None, refused):
            transport, _ = self.in_bulk(Relayed(), splicer)
            self.assertFalse(self.relays(transport))
        del self.reactor.splicer
        self.assertIsNone(transport._relayNext())
        self.assertFalse(self.relays(transport))

    def test_reads_last(self):
        """
        A transport that reads after all others goes on to do so.
        """
        protocol = Relayed()
        self.reactor.putOff = lambda transport: transport.readLate()
        self.reactor.splicer = ScriptedSplicer()
        transport, peer = self.connect(protocol)
        transport.readLast(always=True)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * MAX_SPLICE)
        for _ in range(3):
            peer.sendall(self.bulk)
            self.drain(peer, len(self.bulk))
        self.assertEqual(protocol.data, 3 * self.bulk)
        self.assertEqual(self.reactor.splicer.calls, [])

    def test_tls(self):
        """
        After C{startTLS}, OpenSSL reads the socket.
        """

        class Context:
            def getContext(self):
                return SSL.Context(SSL.TLS_SERVER_METHOD)

        _, transport, peer = self.relayed()
        transport.startTLS(Context())
        peer.send(b"no ClientHello")
        self.assertIsInstance(transport.doRead(), SSL.Error)
        self.assertEqual(self.reactor.splicer.calls, [])

    def test_no_cycle(self):
        """
        After the end of a connection in bulk, its transport is not kept until a garbage
        collection.
        """
        gc.disable()
        self.addCleanup(gc.enable)
        protocol, transport, peer = self.relayed((0, b""))
        reference = weakref.ref(transport)
        peer.close()
        self.reactor.until(lambda: protocol.lost)
        protocol.transport = None
        del transport
        self.assertIsNone(reference())


class ExactnessTests(RelayTestCase):
    """
    What comes back by splice(2) itself, on real sockets.
    """

    if SPLICE is None:
        skip = "needs splice(2)"

    KINDS = (
        {"tcp": True},
        {"transport_class": EagerUNIXTransport, "client": b""},
    )

    def test_bulk(self):
        """
        Bulk comes back as it was sent, however much of it the peer reads at a time, and each
        byte is counted once.
        """
        source = random.Random(862)
        for given in self.KINDS:
            protocol = Relayed()
            transport, peer = self.in_bulk(protocol, Splicer(SPLICE), **given)
            transport.registerProducer(protocol, True)
            peer.setblocking(False)
            data = source.randbytes(4 << 20)
            unsent, back = memoryview(data), bytearray()
            while len(back) < len(data):
                with contextlib.suppress(BlockingIOError):
                    unsent = unsent[peer.send(unsent[: source.randrange(1, 1 << 19)]) :]
                back += drained(peer, source.randrange(1, 1 << 19))
                self.reactor.turn()
            self.assertEqual(bytes(back), data)
            self.assertGreater(sum(protocol.relayed), 1 << 20)
            self.assertEqual(sum(protocol.relayed) + len(protocol.data), len(data))

    def test_end(self):
        """
        The end of the input right after bulk is seen after its last byte.
        """
        for given in self.KINDS:
            protocol = Relayed()
            _, peer = self.in_bulk(protocol, Splicer(SPLICE), **given)
            data = random.Random(2).randbytes(MAX_SPLICE + MIN_SPLICE // 2)
            peer.sendall(data)
            peer.shutdown(socket.SHUT_WR)
            self.assertEqual(self.drain(peer, len(data)), data)
            self.reactor.until(lambda protocol=protocol: protocol.lost)
            self.assertEqual(protocol.ended, 1)
            self.assertEqual(peer.recv(1), b"")

    def test_urgent(self):
        """
        Urgent bytes in bulk come back in their places, also as the last before the end.
        """
        for given in self.KINDS:
            protocol = Relayed()
            transport, peer = self.in_bulk(protocol, Splicer(SPLICE), **given)
            keep_urgent(transport.socket)
            data = bytearray()
            for piece in (MIN_SPLICE, MAX_SPLICE, 0, 1):
                data += bytes(piece) + b"!"
                peer.sendall(bytes(piece))
                try:
                    peer.send(b"!", socket.MSG_OOB)
                except OSError as error:
                    raise SkipTest(f"no urgent bytes here: {error}") from None
            peer.shutdown(socket.SHUT_WR)
            self.assertEqual(self.drain(peer, len(data)), data)
            self.reactor.until(lambda protocol=protocol: protocol.lost)
            self.assertEqual(protocol.ended, 1)

    def test_reset(self):
        """
        A reset in bulk is not a clean end.
        """
        protocol = Relayed()
        _, peer = self.in_bulk(protocol, Splicer(SPLICE), tcp=True)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.close()
        self.reactor.until(lambda: protocol.lost)
        self.assert_lost(protocol, ConnectionLost)
        self.assertEqual(protocol.ended, 0)
