"""
UNIX sockets: their transports and ports; and how a port of any reactor is made to use ours.

Invariant: a connection on a UNIX socket behaves as one on TCP, except for the descriptors that
may travel with its bytes; Twisted's own code sends and receives those.
"""

import os
import socket
from contextlib import suppress
from typing import Any, cast

from twisted.internet import tcp, unix
from twisted.internet.interfaces import (
    IFileDescriptorReceiver,
    INegotiated,
    IProtocol,
    ISSLTransport,
)
from twisted.python.failure import Failure
from zope.interface import implementer

from echod._util.sockets import file_identity, keep_urgent
from echod.net.balance import AcceptBalancer
from echod.net.port import MAX_ACCEPTS, EagerPort, _EagerAccepting
from echod.net.tls import TLSMixin
from echod.net.transport import EagerTransport


class EagerUNIXTransport(EagerTransport, unix.Server):
    """
    The server's side of a connection on a UNIX socket.
    """

    def __init__(
        self,
        sock: socket.socket,
        protocol: IProtocol,
        client: Any,
        server: Any,
        sessionno: int,
        reactor: Any,
    ):
        keep_urgent(sock)
        self._sendmsgQueue: list[int] = []
        super().__init__(sock, protocol, (client, None), server, sessionno, reactor)

    def doRead(self) -> Any:
        """
        Receive once; with the descriptors that came along, if the protocol takes them.
        """
        if IFileDescriptorReceiver.providedBy(self.protocol):
            return unix.Server.doRead(self)
        return super().doRead()

    def _isDelivered(self) -> bool:
        # What was sent is in the peer's queue, and stays there after a close(2).
        return True

    def sendFileDescriptor(self, fileno: int) -> None:
        """
        Queue a descriptor, to be sent with a byte that is written after it.
        """
        self._hidesMethods = True
        self.write = self._enqueue  # type: ignore[method-assign]
        super().sendFileDescriptor(fileno)


@implementer(ISSLTransport, INegotiated)
class EagerUNIXTLSTransport(TLSMixin, EagerUNIXTransport):
    """
    The same after C{startTLS}.
    """


EagerUNIXTransport._tlsClass = EagerUNIXTLSTransport


class EagerUNIXPort(_EagerAccepting, unix.Port):
    """
    A listening UNIX socket.  When it closes, it removes its own file only: another process may
    have renamed or bound a socket to the same path by then.
    """

    _shouldShutdown = False
    transport = EagerUNIXTransport
    _path = b""
    _bound: tuple[int, int] | None = None

    def startListening(self) -> None:
        """
        Bind, and begin to accept.
        """
        super().startListening()
        self._path = self.getHost().name
        self._bound = file_identity(self._path)

    def connectionLost(self, reason: Failure) -> None:
        """
        Close the socket, and remove its file if it is still ours.
        """
        if self._bound is not None and self._bound == file_identity(self._path):
            # After --uid, the directory may belong to another user.  The next start removes a
            # file whose socket refuses connections.
            with suppress(OSError):
                os.unlink(self._path)
        if self.lockFile is not None:
            self.lockFile.unlock()
        tcp.Port.connectionLost(self, reason)


class InheritedUNIXPort(EagerUNIXPort):
    """
    A listening UNIX socket that another process made and handed over.  When the port closes, the
    socket's file stays; its permissions and the length of its queue do not change.
    """

    numberAccepts = MAX_ACCEPTS

    def startListening(self) -> None:
        """
        Begin to accept.
        """
        tcp._reservedFD.reserve()
        self.socket, self._preexistingSocket = self._preexistingSocket, None
        self.fileno = self.socket.fileno  # type: ignore[method-assign]  # as Twisted's ports do
        self.factory.doStart()
        self.connected = True
        self.startReading()

    def connectionLost(self, reason: Failure) -> None:
        """
        Close our descriptor of the socket, and nothing more.
        """
        tcp.Port.connectionLost(self, reason)


def balance_accepts(port: object, balancer: AcceptBalancer) -> None:
    """
    Share the clients of a listening socket evenly with other processes, if the reactor can do
    that (C{rearmExclusive}); otherwise the kernel decides which process gets a client.
    """
    if isinstance(port, EagerPort | EagerUNIXPort) and hasattr(port.reactor, "rearmExclusive"):
        port.balancer = balancer
        port.reactor.rearmExclusive(port)


def use_eager_transport(port: object) -> None:
    """
    Make one of Twisted's own ports, on a reactor that is not ours, use our transports, by its
    documented attribute C{transport}.
    """
    if type(port) is tcp.Port:
        port.transport = EagerTransport
    elif type(port) is unix.Port:
        port.transport = cast(Any, EagerUNIXTransport)
