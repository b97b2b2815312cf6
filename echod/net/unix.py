"""
The transport of a UNIX socket.

The rule of this room: a connection on a UNIX socket is what one of TCP is, but for the
descriptors that may come and go with its bytes; those are Twisted's own business.
"""

import socket
from typing import Any

from twisted.internet import unix
from twisted.internet.interfaces import (
    IFileDescriptorReceiver,
    INegotiated,
    IProtocol,
    ISSLTransport,
)
from zope.interface import implementer

from echod._util.sockets import keep_urgent
from echod.net.tls import SecureMixin
from echod.net.tls_end import SecureEnd
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
class SecureUNIXTransport(SecureEnd, SecureMixin, EagerUNIXTransport):  # type: ignore[misc]  # the socket's getHandle
    """
    The same after C{startTLS}.
    """


EagerUNIXTransport._secureClass = SecureUNIXTransport
