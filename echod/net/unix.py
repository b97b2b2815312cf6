"""
The transport of a UNIX socket.

Invariant: a connection on a UNIX socket is what one of TCP is, but for the
descriptors that may come and go with its bytes; those are Twisted's own business.
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
from zope.interface import implementer

from echod._util.sockets import file_identity, keep_urgent
from echod.net.balance import AcceptBalancer
from echod.net.port import MAX_ACCEPTS, EagerPort, _EagerAccepting
from echod.net.tls import TLSCloseMixin, TLSMixin
from echod.net.transport import EagerTransport


class EagerUNIXTransport(EagerTransport, unix.Server):
    """
    A server's side of a connection on a UNIX socket.
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
        Receive once; with the descriptors that came along, if the protocol wants them.
        """
        if IFileDescriptorReceiver.providedBy(self.protocol):
            return unix.Server.doRead(self)
        return super().doRead()

    def sendFileDescriptor(self, fileno: int) -> None:
        """
        Queue a descriptor, to go with a byte that is written after it.
        """
        self.write = self._enqueue  # type: ignore[method-assign]
        super().sendFileDescriptor(fileno)


@implementer(ISSLTransport, INegotiated)
class EagerUNIXTLSTransport(TLSCloseMixin, TLSMixin, EagerUNIXTransport):  # type: ignore[misc]  # the socket's getHandle
    """
    The same after C{startTLS}.
    """


EagerUNIXTransport._tlsClass = EagerUNIXTLSTransport


class EagerUNIXPort(_EagerAccepting, unix.Port):
    """
    A listening UNIX socket.  When it closes, it removes its own file only: at the same path
    there may be that of another process by then, which has renamed it there or bound anew.
    """

    _shouldShutdown = False
    transport = EagerUNIXTransport
    _path = b""
    _bound: tuple[int, int] | None = None

    def startListening(self: Any) -> None:
        """
        Bind, and begin to accept.
        """
        super().startListening()
        self._path = self.getHost().name
        self._bound = file_identity(self._path)

    def connectionLost(self: Any, reason: Any) -> None:
        """
        Close the socket, and remove its file if that is there.
        """
        if self._bound is not None and self._bound == file_identity(self._path):
            # After --uid, the directory may be another user's.  The next start removes a
            # file on which nobody answers.
            with suppress(OSError):
                os.unlink(self._path)
        if self.lockFile is not None:
            self.lockFile.unlock()
        tcp.Port.connectionLost(self, reason)


class InheritedUNIXPort(EagerUNIXPort):
    """
    A listening UNIX socket that belongs to somebody else, who lends it: its file stays
    when the port closes, and its permissions and the length of its queue are as they were.
    """

    numberAccepts = MAX_ACCEPTS

    def startListening(self: Any) -> None:
        """
        Begin to accept.
        """
        tcp._reservedFD.reserve()
        self.socket, self._preexistingSocket = self._preexistingSocket, None
        self.fileno = self.socket.fileno
        self.factory.doStart()
        self.connected = True
        self.startReading()

    def connectionLost(self, reason: Any) -> None:
        """
        Close our descriptor of it, and no more.
        """
        tcp.Port.connectionLost(self, reason)


def balance_accepts(port: Any, balancer: AcceptBalancer) -> None:
    """
    Let a port accept in turn with those of other processes on the same socket, where the
    reactor knows how; elsewhere, whoever comes first accepts.
    """
    if isinstance(port, EagerPort | EagerUNIXPort) and hasattr(port.reactor, "rearm_exclusive"):
        port.balancer = balancer
        port.reactor.rearm_exclusive(port)


def use_eager_transport(port: object) -> None:
    """
    Let a port of Twisted's own make our transports, as its C{transport} attribute is
    documented for; for reactors that are not ours.
    """
    if type(port) is tcp.Port:
        port.transport = EagerTransport
    elif type(port) is unix.Port:
        port.transport = cast(Any, EagerUNIXTransport)
