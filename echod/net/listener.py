"""
A listener: one endpoint and one factory, as a service.

Invariant: a listener that cannot bind fails loudly, and one that stops
serves first whom the kernel has already let in.
"""

import select
import sys
from typing import Any, Protocol

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, maybeDeferred, succeed
from twisted.internet.interfaces import (
    IListeningPort,
    IReadDescriptor,
    IStreamServerEndpoint,
)
from twisted.logger import Logger, LogLevel
from twisted.python.failure import Failure

from echod._util.errors import StartupError
from echod._util.sockets import set_socket_options
from echod._util.text import format_address, ip_of
from echod.net.balance import AcceptBalancer
from echod.net.endpoints import InheritedEndpoint, bind_error_text
from echod.net.unix import balance_accepts, use_eager_transport

log = Logger(namespace="echod.net")


class ListenError(StartupError):
    """
    A listener could not bind, which has been logged and written to standard error.
    """

    program = ""

    def __init__(self, text: str):
        super().__init__(text)
        self.code = 1


class IListeningFactory(Protocol):
    """
    What a listener asks of its factory, besides protocols.

    @ivar listener: the listener's name, for logs and metrics.
    """

    listener: str

    def listening(self, bare: bool) -> None:
        """
        The port is there.

        @param bare: whether it asks this factory itself, with no layer between.
        @raise ValueError: when that is not what the factory needs.
        """


class ListenerService(Service):
    """
    One listening socket, from bind to close.

    @ivar option: the option that asked for it, with its value.
    @ivar leaves_queue: whether others accept from its socket when it is closed here.
    @ivar balancer: says whether to accept, if other processes accept from its socket too.
    @ivar bare: whether its port asks the factory itself, with no layer between.
    """

    bare = False
    _port: IListeningPort | None = None
    _binding: Deferred[None] | None = None

    def __init__(
        self,
        option: str,
        endpoint: IStreamServerEndpoint,
        factory: IListeningFactory,
        reactor: Any,
        write_timeout: float,
        balancer: AcceptBalancer | None = None,
        leaves_queue: bool | None = None,
    ):
        """
        @param write_timeout: seconds, for
            L{set_socket_options<echod._util.sockets.set_socket_options>}.
        @param leaves_queue: C{None} for whether the socket was handed to this process.
        """
        self.option = option
        self._endpoint = endpoint
        self._factory = factory
        self._reactor = reactor
        self._write_timeout = write_timeout
        self.balancer = balancer
        if leaves_queue is None:
            leaves_queue = isinstance(endpoint, InheritedEndpoint)
        self.leaves_queue = leaves_queue

    def privilegedStartService(self) -> None:
        """
        Bind, while the process may still use privileged ports.

        @raise ListenError: when that fails.  An endpoint may answer later, though none
            of Twisted's does; if it fails then, it stops the reactor.
        """
        late = False

        def failed(failure: Failure) -> None:
            if failure.check(CancelledError):
                return
            reason = bind_error_text(failure.value)  # type: ignore[arg-type]  # it has one
            log.error(
                "cannot listen, {option}: {reason}",
                event="listen-failed",
                option=self.option,
                reason=reason,
            )
            # Once twistd logs, sys.stderr is the log.
            print(f"echod: {self.option}: {reason}", file=sys.__stderr__)
            failures.append(ListenError(f"{self.option}: {reason}"))
            if late:
                self._reactor.stop()

        failures: list[ListenError] = []
        asked: Deferred[Any] = maybeDeferred(self._endpoint.listen, self._factory)  # type: ignore[call-overload]  # IProtocolFactory, too
        self._binding = asked.addCallback(self._listening).addErrback(failed)
        late = True
        if failures:
            raise failures[0]

    def startService(self) -> None:
        """
        Bind, unless that has been done: twist has no privileged start.
        """
        super().startService()
        if self._binding is None:
            self.privilegedStartService()

    def when_bound(self) -> Deferred[None]:
        """
        @return: a Deferred that fires once it listens, and never if it cannot.
        """
        waiting: Deferred[None] = Deferred()

        def tell(_: object) -> None:
            if self._port is not None:
                waiting.callback(None)

        if self._binding is not None:
            self._binding.addCallback(tell)
        return waiting

    def _listening(self, port: IListeningPort) -> None:
        listening = getattr(port, "socket", None)
        if listening is None:
            raise ValueError("this endpoint does not listen on a socket")
        self._port = port
        self.bare = getattr(port, "factory", None) is self._factory
        self._factory.listening(self.bare)
        use_eager_transport(port)
        for name, error in set_socket_options(listening, self._write_timeout):
            log.warn(
                "{option}: the kernel refuses {name}: {reason}; the listener goes without it",
                event="socket-option-refused",
                option=self.option,
                name=name,
                reason=error.strerror,
            )
        if self.balancer is not None:
            balance_accepts(port, self.balancer)
        # When several processes listen, their parent has said it.
        log.emit(
            LogLevel.info if self.balancer is None else LogLevel.debug,
            "listening on {address}, {option}",
            event="listening",
            address=self.address(),
            option=self.option,
        )

    @property
    def listener_name(self) -> str:
        """
        What logs and totals call it.
        """
        return self._factory.listener

    @property
    def bound(self) -> bool:
        """
        Whether it listens.
        """
        return self._port is not None

    def reachable(self) -> bool:
        """
        Whether other machines can reach it, as far as its address tells.
        """
        ip = ip_of(self._port.getHost()) if self._port else None
        return ip is not None and not ip.is_loopback

    def rearm(self) -> None:
        """
        If it accepts in turn with other processes, accept whom one of them should have.
        """
        look = getattr(self._port, "rearm", None)
        if self.balancer is not None and look is not None:
            look()

    def address(self) -> str:
        """
        Where it listens, in words.
        """
        return format_address(self._port.getHost()) if self._port else "nowhere"

    def stopService(self) -> Deferred[None]:
        """
        Accept the clients that wait, if nobody else will, then close the port.

        @return: a Deferred that fires when it is closed.
        """
        super().stopService()
        port, self._port = self._port, None
        if port is None:
            if self._binding is not None:
                self._binding.cancel()
            return succeed(None)
        if not self.leaves_queue:
            # Twisted closes a port one turn of the loop after it is told to; whoever comes
            # until then is taken by a call that is due just before.  The queue of a socket
            # that was handed over does not end here: the next process takes them.
            self._reactor.callLater(0, self._accept_waiting, port)
        stopping: Deferred[None] = maybeDeferred(port.stopListening)  # type: ignore[call-overload]  # None or a Deferred
        return stopping

    def _accept_waiting(self, port: IListeningPort) -> None:
        if not IReadDescriptor.providedBy(port):
            return
        waiting = select.poll()
        waiting.register(port.fileno(), select.POLLIN)
        # Each turn takes one client at least, and no queue is longer than this.
        for _ in range(65535):
            if not waiting.poll(0) or (self.balancer is not None and not self.balancer.allowance()):
                # Those who wait are left to the other processes.
                return
            port.doRead()
