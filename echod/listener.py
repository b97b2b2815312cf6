"""
A listener: one endpoint and one factory, as a service.

The rule of this room: a listener that cannot bind fails loudly, and one that stops
serves first whom the kernel has already let in.
"""

import errno
import os
import select
import socket
import sys
from ipaddress import ip_address

from twisted.application.service import Service
from twisted.internet.defer import Deferred, execute, maybeDeferred, succeed
from twisted.internet.endpoints import AdoptedStreamServerEndpoint
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import (
    IListeningPort,
    IProtocolFactory,
    IReactorSocket,
    IReactorTime,
    IReadDescriptor,
    IStreamServerEndpoint,
)
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from echod.port import make_eager
from echod.sockets import address_text, printable, tune

log = Logger()


class ListenFailed(SystemExit, Exception):
    """
    A listener could not bind.  The text is one line for the operator.

    A C{SystemExit} ends twistd and twist with a status and without a traceback.  It is
    an ordinary C{Exception} too, since a daemonised twistd tells those, and no others,
    to the process that waits for it, and removes its pidfile for them.
    """

    def __init__(self, text: str):
        super().__init__(text)
        self.code = 1


@implementer(IStreamServerEndpoint)
class TCPEndpoint:
    """
    Listens on a TCP port, by default for IPv4 and IPv6 on one socket, for IPv4 alone
    where the machine has no IPv6.

    Twisted's own C{TCP6ServerEndpoint} leaves to the system whether C{::} takes IPv4
    clients as well (C{IPV6_V6ONLY}, ipv6(7)); here it always does.
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
        @param interface: the IP address to bind to; C{None} for all there are.
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


def bind_error_text(error: BaseException) -> str:
    """
    Why a bind failed, with the way out if there is a usual one.
    """
    if isinstance(error, CannotListenError):
        error = error.socketError if isinstance(error.socketError, OSError) else error
    number = getattr(error, "errno", None)
    if number is None:
        return printable(str(error))
    ways = {
        errno.EADDRINUSE: "; stop what listens there, or give another",
        errno.EACCES: "; give one that this user may use, or start as root with twistd --uid",
        errno.EADDRNOTAVAIL: "; give an address of this machine",
    }
    return os.strerror(number) + ways.get(number, "")


class ListenerService(Service):
    """
    One listening socket, from bind to close.

    @ivar option: the option that asked for it, with its value.
    """

    _port: IListeningPort | None = None

    def __init__(
        self,
        option: str,
        endpoint: IStreamServerEndpoint,
        factory: IProtocolFactory,
        clock: IReactorTime,
        write_timeout: float,
    ):
        """
        @param write_timeout: as L{tune<echod.sockets.tune>} takes it.
        """
        self.option = option
        self._endpoint = endpoint
        self._factory = factory
        self._clock = clock
        self._write_timeout = write_timeout

    def privilegedStartService(self) -> None:
        """
        Bind, while the process may still use privileged ports.

        @raise ListenFailed: when that fails.
        """
        failures: list[Failure] = []
        listening = self._endpoint.listen(self._factory)
        listening.addCallback(self._listening).addErrback(failures.append)
        if failures:
            reason = bind_error_text(failures[0].value)  # type: ignore[arg-type]  # never None here
            log.error("cannot listen, {option}: {reason}", option=self.option, reason=reason)
            # Once twistd logs, sys.stderr is the log.
            print(f"echod: {self.option}: {reason}", file=sys.__stderr__)
            raise ListenFailed(f"{self.option}: {reason}")

    def startService(self) -> None:
        """
        Bind, unless that has been done: twist has no privileged start.
        """
        super().startService()
        if self._port is None:
            self.privilegedStartService()

    def _listening(self, port: IListeningPort) -> None:
        self._port = port
        make_eager(port)
        tune(port.socket, self._write_timeout)  # type: ignore[attr-defined]
        log.info(
            "listening on {address}, {option}",
            event="listening",
            address=self.address(),
            option=self.option,
        )

    def address(self) -> str:
        """
        Where it listens, in words.
        """
        return address_text(self._port.getHost()) if self._port else "nowhere"

    def stopService(self) -> Deferred[None]:
        """
        Accept the clients that wait, then close the port.

        @return: a Deferred that fires when it is closed.
        """
        super().stopService()
        port, self._port = self._port, None
        if port is None:
            return succeed(None)
        # Twisted closes a port one turn of the loop after it is told to; whoever comes
        # until then is taken by a call that is due just before.
        self._clock.callLater(0, self._accept_waiting, port)
        stopping: Deferred[None] = maybeDeferred(port.stopListening)  # type: ignore[call-overload]  # None or a Deferred
        return stopping

    def _accept_waiting(self, port: IListeningPort) -> None:
        if not IReadDescriptor.providedBy(port):
            return
        waiting = select.poll()
        waiting.register(port.fileno(), select.POLLIN)
        # Each turn takes one client at least, and no queue is longer than this.
        for _ in range(65535):
            if not waiting.poll(0):
                return
            port.doRead()
