"""
Both ends of a lifeline.
"""

import os
import socket

from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase

from echod.workers.channel import MAX_MESSAGE_BYTES, Channel, adopt
from tests.support.fakeprocesses import FarEnd, ProcessReactor


class ChannelTests(SynchronousTestCase):
    """
    Messages.
    """

    def setUp(self):
        self.messages = []
        self.lost = []
        self.end = Channel(self.messages.append, lambda: self.lost.append(True))
        self.transport = StringTransport()
        self.end.makeConnection(self.transport)

    def test_messages(self):
        """
        What is told at one end is heard at the other, however it was cut on its way.
        """
        self.end.send(do="stop", text="ä\n")
        self.end.send()
        for byte in self.transport.value():
            self.end.dataReceived(bytes([byte]))
        self.assertEqual(self.messages, [{"do": "stop", "text": "ä\n"}, {}])

    def test_bounded(self):
        """
        One who announces too long a message is not listened to any more.
        """
        self.end.dataReceived((MAX_MESSAGE_BYTES + 1).to_bytes(4, "big"))
        self.assertTrue(self.transport.disconnecting)
        self.assertEqual(self.messages, [])

    def test_lost(self):
        """
        When the other end is gone, that is told.
        """
        self.end.connectionLost()
        self.assertEqual(self.lost, [True])

    def test_adopt(self):
        """
        A descriptor becomes an end, and is the reactor's from then on.
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
        self.assertEqual((self.messages, far.messageReceived()), ([{"up": True}], [{"do": "x"}]))
