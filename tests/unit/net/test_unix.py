"""
The transport of a UNIX socket: what it has besides that of TCP.
"""

import os
import socket

from twisted.internet.error import FileDescriptorOverrun
from twisted.internet.interfaces import IFileDescriptorReceiver
from twisted.trial.unittest import SkipTest
from zope.interface import implementer

from echod.net.unix import EagerUNIXTransport
from tests.support.descriptors import open_descriptors
from tests.support.pairs import PairTestCase, Recorder, drained


@implementer(IFileDescriptorReceiver)
class DescriptorReceiver(Recorder):
    """
    A protocol that receives descriptors.
    """

    def __init__(self):
        super().__init__()
        self.descriptors = []

    def fileDescriptorReceived(self, descriptor):
        self.descriptors.append(descriptor)


class UrgentTests(PairTestCase):
    """
    Urgent bytes, if the kernel has them on UNIX sockets.
    """

    def test_inline(self):
        """
        An urgent byte stays in the stream where it was sent.
        """
        protocol = Recorder()
        _, peer = self.connect(protocol, EagerUNIXTransport, client=b"")
        peer.send(b"abc")
        try:
            peer.send(b"X", socket.MSG_OOB)
        except OSError as error:
            raise SkipTest(f"no urgent bytes here: {error}") from None
        peer.send(b"def")
        self.reactor.until(lambda: len(protocol.data) >= 7)
        self.assertEqual(protocol.data, b"abcXdef")


class DescriptorTests(PairTestCase):
    """
    Descriptors over a UNIX socket.
    """

    def pipe(self, text):
        """
        A descriptor from which these bytes can be read.
        """
        reads, writes = os.pipe()
        os.write(writes, text)
        os.close(writes)
        self.addCleanup(os.close, reads)
        return reads

    def test_send(self):
        """
        A descriptor is sent with the byte written after it, and not before.
        """
        transport, peer = self.connect(Recorder(), EagerUNIXTransport, client=b"")
        transport.write(b"before")
        self.assertEqual(drained(peer), b"before")
        transport.sendFileDescriptor(self.pipe(b"text"))
        transport.write(b"hello")
        self.assertEqual(drained(peer), b"")
        self.reactor.turn()
        data, descriptors, _, _ = socket.recv_fds(peer, 100, 10)
        self.assertEqual(data + drained(peer), b"hello")
        [descriptor] = descriptors
        self.addCleanup(os.close, descriptor)
        self.assertEqual(os.read(descriptor, 100), b"text")
        transport.write(b"after")
        self.assertEqual(drained(peer), b"after")

    def test_send_without_a_byte(self):
        """
        A descriptor without a byte is a mistake that ends the connection, as in Twisted's own
        transport.
        """
        protocol = Recorder()
        transport, _ = self.connect(protocol, EagerUNIXTransport, client=b"")
        transport.sendFileDescriptor(self.pipe(b"text"))
        self.reactor.turn()
        self.assert_lost(protocol, FileDescriptorOverrun)

    def test_receive(self):
        """
        A protocol that receives descriptors gets them, and the data that they came with.
        """
        protocol = DescriptorReceiver()
        _, peer = self.connect(protocol, EagerUNIXTransport, client=b"")
        socket.send_fds(peer, [b"hello"], [self.pipe(b"text")])
        self.reactor.turn()
        self.assertEqual(protocol.received, [b"hello"])
        [descriptor] = protocol.descriptors
        self.addCleanup(os.close, descriptor)
        self.assertEqual(os.read(descriptor, 100), b"text")

    def test_not_received(self):
        """
        A protocol that does not receive descriptors gets the data, and no descriptor stays open.
        """
        protocol = Recorder()
        _, peer = self.connect(protocol, EagerUNIXTransport, client=b"")
        before = open_descriptors()
        socket.send_fds(peer, [b"hello"], [self.pipe(b"text")])
        open_now = before + 1
        self.reactor.turn()
        self.assertEqual(protocol.received, [b"hello"])
        self.assertEqual(open_descriptors(), open_now)

    def test_broken_while_queued(self):
        """
        A queued descriptor and its byte are dropped when the peer goes.
        """
        protocol = DescriptorReceiver()
        transport, peer = self.connect(protocol, EagerUNIXTransport, client=b"")
        transport.sendFileDescriptor(self.pipe(b"text"))
        transport.write(b"hello")
        peer.close()
        self.reactor.until(lambda: protocol.lost)
        transport.write(b"late")
        self.assertEqual(self.reactor.removeAll(), [])
