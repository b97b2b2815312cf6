"""
A C{FaultFactory} without a socket, for tests of its connections.
"""

from echod.connections.admission import Admission
from echod.faults.factory import FaultFactory, Misbehavior
from echod.faults.spec import parse_fault
from tests.support.echoes import ProtocolTestCase, SocketTransport


class FaultTransport(SocketTransport):
    """
    A transport to which a client reads everything at once.
    """

    def resumeProducing(self):
        self.producerState = "producing"

    def pauseProducing(self):
        self.producerState = "paused"


class FaultTestCase(ProtocolTestCase):
    """
    Makes a C{FaultFactory}, and its connections.
    """

    def make_faulty(self, *faults, greets=False, seed=1, place=0, worker=None, tls=None):
        parsed = [parse_fault(text) for text in faults]
        self.admission = Admission(self.connections, 1000)
        self.factory = FaultFactory(
            "tcp",
            self.admission,
            tls,
            None,
            Misbehavior(parsed, greets, seed, place, worker),
            self.clock,
            lambda: 1_000_000.25,
        )
        return self.factory

    def misbehave(self, *faults, transport=None, keep=False, **given):
        """
        Make a connection.

        @param keep: whether to keep the factory of the one before.
        """
        if not keep:
            self.make_faulty(*faults, **given)
        return self.connect(transport or FaultTransport())
