"""
What the echo stands on and belongs to.

The rule of this room: what is not here, the echo does not know of.
"""

from typing import Any, Protocol as Interface

from twisted.internet.interfaces import IAddress, IPushProducer

from echod.connections.admission import Admission
from echod.connections.tracker import Connections
from echod.tls.context import ServerContext


class StreamTransport(Interface):
    """
    What L{Echo} asks of its transport: Twisted's C{ITCPTransport}, C{IConsumer} and
    C{IPushProducer}, and the descriptor.
    """

    def write(self, data: bytes) -> None: ...
    def registerProducer(self, producer: IPushProducer, streaming: bool) -> None: ...
    def unregisterProducer(self) -> None: ...
    def pauseProducing(self) -> None: ...
    def resumeProducing(self) -> None: ...
    def loseConnection(self) -> None: ...
    def loseWriteConnection(self) -> None: ...
    def abortConnection(self) -> None: ...
    def endInspection(self) -> None: ...
    def getPeer(self) -> IAddress: ...
    def fileno(self) -> int: ...
    def getHandle(self) -> Any: ...
    def startTLS(self, ctx: ServerContext) -> None: ...


class Listener(Interface):
    """
    What all connections of one listener share; their factory.

    @ivar listener: the listener's name, for logs and totals.
    @ivar admission: who may come in.
    @ivar connections: where each connection reports its birth and its end.
    @ivar tls: what TLS starts with on each connection, C{None} for plain TCP.
    @ivar outermost: whether the port asks the factory itself, with no layer between.
    """

    listener: str
    admission: Admission
    connections: Connections
    tls: ServerContext | None
    outermost: bool
