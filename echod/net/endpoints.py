"""
Server endpoints: TCP, UNIX and inherited sockets, and the text of an error when one cannot bind.

Invariant: echod never removes a socket that another process uses, and a socket file that a dead
process left behind does not keep it from starting.
"""

import errno
import os
import socket
import stat
from ipaddress import ip_address
from typing import Any

from twisted.internet.defer import Deferred, execute
from twisted.internet.endpoints import (
    AdoptedStreamServerEndpoint,
    serverFromString,
)
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import (
    IListeningPort,
    IProtocolFactory,
    IReactorSocket,
    IStreamServerEndpoint,
)
from twisted.internet.posixbase import PosixReactorBase
from zope.interface import implementer

from echod._util.endpoints import SERVER_ARGUMENTS, endpoint_settings
from echod._util.sockets import file_identity
from echod._util.text import escape
from echod.net.unix import EagerUNIXPort, InheritedUNIXPort
from echod.systemd import InheritedSocket


@implementer(IStreamServerEndpoint)
class TCPEndpoint:
    """
    Listens on a TCP port, by default for IPv4 and IPv6 on one socket, or for IPv4 only if the
    machine has no IPv6.

    With Twisted's C{TCP6ServerEndpoint}, the system decides whether C{::} accepts IPv4 clients
    too (C{IPV6_V6ONLY}, ipv6(7)); here it always does.
    """

    def __init__(
        self,
        reactor: IReactorSocket,
        port: int,
        interface: str | None,
        backlog: int,
        dual_stack: bool | None = None,
    ):
        """
        @param interface: the IP address to bind to; C{None} for all addresses.
        @param backlog: the length of the accept queue (listen(2)).
        @param dual_stack: whether the machine has IPv6; C{None} to find out.
        """
        self._reactor = reactor
        self._port = port
        self._interface = interface
        self._backlog = backlog
        self._dual_stack = socket.has_dualstack_ipv6() if dual_stack is None else dual_stack

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[IListeningPort]:
        """
        Bind, and begin to listen.
        """
        listening: Deferred[socket.socket] = execute(self._bind)
        return listening.addCallback(self._adopt, protocolFactory)

    def _bind(self) -> socket.socket:
        if self._interface is not None:
            version = ip_address(self._interface).version
            family = socket.AF_INET6 if version == 6 else socket.AF_INET
            address = socket.getaddrinfo(self._interface, self._port, family)[0][4]
            return socket.create_server(address, family=family, backlog=self._backlog)
        family = socket.AF_INET6 if self._dual_stack else socket.AF_INET
        return socket.create_server(
            ("", self._port),
            family=family,
            backlog=self._backlog,
            dualstack_ipv6=self._dual_stack,
        )

    def _adopt(self, bound: socket.socket, factory: IProtocolFactory) -> Deferred[IListeningPort]:
        family = bound.family
        endpoint = AdoptedStreamServerEndpoint(self._reactor, bound.detach(), family)
        adopted: Deferred[IListeningPort] = endpoint.listen(factory)
        return adopted


@implementer(IStreamServerEndpoint)
class UNIXEndpoint:
    """
    Listens on a UNIX socket in the file system.

    Twisted's endpoint uses a lock file.  If it finds a stale lock, it removes the socket, even
    one on which another program listens.  This endpoint removes a socket only if it refuses
    connections, and at the end only if it is still the one that was bound.
    """

    def __init__(self, reactor: Any, path: str, backlog: int, mode: int = 0o666):
        """
        @param backlog: the length of the accept queue (listen(2)).
        @param mode: the permissions of the socket's file.
        """
        self._reactor = reactor
        self._path = path
        self._backlog = backlog
        self._mode = mode

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[IListeningPort]:
        """
        Bind, and begin to listen.
        """
        return execute(self._listen, protocolFactory)

    def _listen(self, factory: IProtocolFactory) -> IListeningPort:
        self._remove_stale()
        if not isinstance(self._reactor, PosixReactorBase):
            port: IListeningPort = self._reactor.listenUNIX(
                self._path, factory, self._backlog, self._mode
            )
            return port
        # Also on Twisted's own reactors: their port removes any file at its path.
        eager: Any = EagerUNIXPort(
            os.fsencode(self._path), factory, self._backlog, self._mode, self._reactor
        )
        eager.startListening()
        return eager  # type: ignore[no-any-return]  # Twisted's ports are not typed

    def _remove_stale(self) -> None:
        try:
            found = os.stat(self._path)
        except OSError:
            return
        if not stat.S_ISSOCK(found.st_mode):
            return
        with socket.socket(socket.AF_UNIX) as probe:
            probe.setblocking(False)
            refused = probe.connect_ex(self._path) == errno.ECONNREFUSED
        if refused and file_identity(os.fsencode(self._path)) == (found.st_dev, found.st_ino):
            os.unlink(self._path)


@implementer(IStreamServerEndpoint)
class InheritedEndpoint:
    """
    Listens on a socket that this process inherited.
    """

    def __init__(self, reactor: Any, inherited: InheritedSocket):
        """
        @raise ValueError: when the socket is not a listening stream socket.
        """
        self._reactor = reactor
        self._descriptor = inherited.descriptor
        self._family = inherited.family()

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[IListeningPort]:
        """
        Begin to accept.
        """
        if self._family == socket.AF_UNIX:
            return execute(self._listen_on_unix, protocolFactory)
        endpoint = AdoptedStreamServerEndpoint(self._reactor, self._descriptor, self._family)
        adopted: Deferred[IListeningPort] = endpoint.listen(protocolFactory)
        return adopted

    def _listen_on_unix(self, factory: IProtocolFactory) -> IListeningPort:
        # The port that Twisted's reactors make for it would remove the socket's file at the end.
        os.set_blocking(self._descriptor, False)
        port: Any = InheritedUNIXPort._fromListeningDescriptor(
            self._reactor, self._descriptor, factory
        )
        os.close(self._descriptor)
        port.startListening()
        listening: IListeningPort = port
        return listening


WRAPPING = ("ssl", "tls", "haproxy")
"""
Twisted's endpoints that wrap each connection in a layer which has no half-close (Twisted #5341).
"""


def server_endpoint_from_string(
    reactor: Any, description: str, backlog: int, mode: str = "666"
) -> IStreamServerEndpoint:
    """
    Make the endpoint that a string describes, in Twisted's syntax (C{serverFromString}).  With
    C{tcp:} and no interface it listens on IPv6 as well, as C{--port} does.

    @param backlog: the length of the accept queue, unless the string sets it.
    @param mode: the permissions of a UNIX socket's file, unless the string sets them.
    @raise ValueError: when the string describes no endpoint.
    """
    kind = description.partition(":")[0]
    settings = endpoint_settings(description, *SERVER_ARGUMENTS.get(kind, ()))
    if kind in ("tcp", "tcp6") and "backlog" not in settings:
        description += f":backlog={backlog}"
    try:
        endpoint: IStreamServerEndpoint = serverFromString(reactor, description)
    except Exception as error:
        # Twisted's parsers, and those of plugins, let pass what their calls raise: ValueError,
        # TypeError, KeyError, IndexError, OSError.
        raise ValueError(f"not an endpoint ({escape(str(error))})") from None
    if kind == "tcp" and not settings.get("interface"):
        return TCPEndpoint(
            reactor, int(settings["port"]), None, int(settings.get("backlog", backlog))
        )
    if kind == "unix":
        return UNIXEndpoint(
            reactor,
            settings["address"],
            int(settings.get("backlog", backlog)),
            int(settings.get("mode", mode), 8),
        )
    return endpoint


_ADVICE = {
    errno.EADDRINUSE: "stop what listens there, or give another",
    errno.EACCES: "give one that this user may use, or start as root with twistd --uid",
    errno.EADDRNOTAVAIL: "give an address of this machine",
    errno.EINVAL: "give an address of this machine, a link-local one with its %interface",
    errno.ENOENT: "give a path in a directory that exists",
}


def bind_error_text(error: BaseException) -> str:
    """
    Why a bind failed, and what to do about it.
    """
    if isinstance(error, CannotListenError):
        error = error.socketError
    if isinstance(error, socket.gaierror):
        return f"{escape(str(error.strerror))}; give an address of this machine"
    number = getattr(error, "errno", None)
    if number is None:
        return f"{escape(str(error))}; give one such as tcp:9000 or unix:/run/echod.sock"
    return f"{os.strerror(number)}; {_ADVICE.get(number, 'give another')}"
