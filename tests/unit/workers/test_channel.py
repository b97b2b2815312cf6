"""
Tests for the channel.
"""

import os
import socket

from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase

from echod.workers.channel import MAX_MESSAGE_BYTES, Channel, adopt
from tests.support.fakeprocesses import FarEnd, ProcessReactor


class ChannelTests(SynchronousTestCase):
    """
    Tests for L{Channel}.
    """

    def setUp(self):
        self.messages = []
        self.lost = []
        self.end = Channel(self.messages.append, lambda: self.lost.append(True))
        self.transport = StringTransport()
        self.end.makeConnection(self.transport)

    def test_messages(self):
        """
        A message arrives as it was sent, in pieces of any size.
        """
        self.end.send(do="stop", text="ä\n")
        self.end.send()
        for byte in self.transport.value():
            self.end.dataReceived(bytes([byte]))
        self.assertEqual(self.messages, [{"do": "stop", "text": "ä\n"}, {}])

    def test_bounded(self):
        """
        A message that is too long closes the channel.
        """
        self.end.dataReceived((MAX_MESSAGE_BYTES + 1).to_bytes(4, "big"))
        self.assertTrue(self.transport.disconnecting)
        self.assertEqual(self.messages, [])

    def test_lost(self):
        """
        A lost connection calls back.
        """
        self.end.connectionLost()
        self.assertEqual(self.lost, [True])

    def test_adopt(self):
        """
        An adopted descriptor is closed, and the channel works.
        """
        reactor = ProcessReactor()
        ours, theirs = socket.socketpair()
        self.addCleanup(theirs.close)
        descriptor = ours.detach()
        end = adopt(reactor, descriptor, self.messages.append, lambda: None)
        self.assertRaises(OSError, os.fstat, descriptor)
        (far,) = reactor.far_ends
        self.assertIsInstance(far, FarEnd)
        far.send(up=True)
        end.send(do="x")
        self.assertEqual((self.messages, far.received()), ([{"up": True}], [{"do": "x"}]))

    def test_adopt_fails(self):
        """
        The descriptor is closed even if the reactor cannot duplicate it.
        """

        class Full:
            def adoptStreamConnection(self, *args):
                raise OSError(24, "too many")

        ours, theirs = socket.socketpair()
        self.addCleanup(theirs.close)
        descriptor = ours.detach()
        self.assertRaises(OSError, adopt, Full(), descriptor, None, None)
        self.assertRaises(OSError, os.fstat, descriptor)
