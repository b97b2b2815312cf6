"""
A listener: one endpoint and one factory, as a service.

Invariant: a bind that fails ends the daemon, and a listener that stops first accepts the clients
that wait in the accept queue, some in each turn of the loop.
"""

import select
from collections.abc import Iterator
from functools import partial
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

from echod._util.errors import BIND_STATUS, StartupError
from echod._util.sockets import accept_queue_length, set_socket_options
from echod._util.stdio import print_error
from echod._util.text import format_address, ip_of
from echod._util.timers import one_step_a_turn
from echod.net.announcement import Place, is_dual_stack
from echod.net.balance import AcceptBalancer
from echod.net.endpoints import InheritedEndpoint, bind_error_text
from echod.net.port import MAX_ACCEPTS
from echod.net.unix import balance_accepts, use_eager_transport

log = Logger(namespace="echod.net")

MAX_QUEUE = 4096
"""
How many clients a stop accepts at most where the kernel does not say how many wait, and the port
has no larger backlog: the default of C{net.core.somaxconn} (Linux 5.4, listen(2)).
"""


class ListenError(StartupError):
    """
    A listener cannot bind.  The reason has been logged and written to standard error.
    """

    program = ""

    def __init__(self, text: str):
        super().__init__(text)
        self.code = BIND_STATUS


def listen_failed(option: str, error: BaseException) -> ListenError:
    """
    Log that a listener cannot bind, and write it to standard error.

    @param option: the option that asks for the listener, with its value.
    @return: the error to raise.
    """
    reason = bind_error_text(error)
    log.error(
        "cannot listen, {option}: {reason}", event="listen-failed", option=option, reason=reason
    )
    print_error(f"echod: {option}: {reason}")
    return ListenError(f"{option}: {reason}")


def log_refused_option(option: str, name: str, error: OSError) -> None:
    """
    Log that the kernel refuses an option of a listening socket.
    """
    log.warn(
        "{option}: the kernel refuses {name}: {reason}; the listener works without it",
        event="socket-option-refused",
        option=option,
        name=name,
        reason=error.strerror,
    )


def log_listening(option: str, address: str, first: bool) -> None:
    """
    Log that a listener listens.

    @param first: whether the master has not logged this already, as it has for its workers.
    """
    log.emit(
        LogLevel.info if first else LogLevel.debug,
        "listening on {address}, {option}",
        event="listening",
        address=address,
        option=option,
    )


class IListeningFactory(Protocol):
    """
    What a listener needs of its factory, besides Twisted's C{IProtocolFactory}.

    @ivar listener: the listener's name, for logs and metrics.
    """

    listener: str

    def listening(self, bare: bool) -> None:
        """
        The port listens now.

        @param bare: whether the port calls this factory directly, with no layer between them.
        @raise ValueError: if the factory cannot serve so.
        """


class ListenerService(Service):
    """
    One listening socket, from bind to close.

    @ivar option: the option that asks for it, with its value.
    @ivar leaves_queue: whether a stop leaves the accept queue to other processes.
    @ivar balancer: decides whether to accept now, if other processes accept from the same socket.
    @ivar bare: whether the port calls the factory directly, with no layer between them.
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
        @param leaves_queue: by default, true for an inherited socket.
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
        Bind, before the process gives up its privileges.

        @raise ListenError: if that fails.  A failure that comes later stops the reactor; no
            endpoint of Twisted's fails later.
        """
        late = False

        def failed(failure: Failure) -> None:
            if failure.check(CancelledError):
                return
            failures.append(listen_failed(self.option, failure.value))  # type: ignore[arg-type]  # it has one
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
        Bind, unless C{privilegedStartService} has done so; twist does not call it.
        """
        super().startService()
        if self._binding is None:
            self.privilegedStartService()

    def when_bound(self) -> Deferred[None]:
        """
        @return: a Deferred that fires when the listener is bound, and never if that fails.
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
        set_options = partial(set_socket_options, write_timeout=self._write_timeout)
        for name, error in set_options(listening):
            log_refused_option(self.option, name, error)
        # For the clients that had connected before.
        port.setOptions = set_options  # type: ignore[attr-defined]  # of our ports
        if self.balancer is not None:
            balance_accepts(port, self.balancer)
        log_listening(self.option, self.address(), self.balancer is None)

    @property
    def listener_name(self) -> str:
        """
        The listener's name, for logs and metrics.
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
        Whether its address is an IP address that is not a loopback address.
        """
        ip = ip_of(self._port.getHost()) if self._port else None
        return ip is not None and not ip.is_loopback

    def rearm(self) -> None:
        """
        With several workers, accept the clients that another worker was woken for, and has not
        accepted.
        """
        rearm = getattr(self._port, "rearm", None)
        if self.balancer is not None and rearm is not None:
            rearm()

    def address(self) -> str:
        """
        The address that it listens on, as text.
        """
        return format_address(self._port.getHost()) if self._port else "nowhere"

    def place(self) -> Place:
        """
        Where it listens, for a person.
        """
        port: Any = self._port
        dual_stack = port is not None and is_dual_stack(port.socket)
        return Place(self.address(), self.option.startswith("--tls-"), dual_stack)

    def stopService(self) -> Deferred[None]:
        """
        Accept the clients in the accept queue, unless other processes do so, then close the port.

        @return: a Deferred that fires when the port is closed.
        """
        super().stopService()
        port, self._port = self._port, None
        if port is None:
            if self._binding is not None:
                self._binding.cancel()
            return succeed(None)
        if self.leaves_queue or not IReadDescriptor.providedBy(port):
            # The queue of an inherited socket stays open: the next process accepts its clients.
            return maybeDeferred(port.stopListening)  # type: ignore[call-overload,no-any-return]  # None or a Deferred
        accepting = one_step_a_turn(self._reactor, self._queued_turns(port))
        return accepting.addErrback(self._accepting_failed).addCallback(self._close, port)

    def _queued_turns(self, port: Any) -> Iterator[None]:
        """
        Accept the clients that wait now.  Those that come later must not hold up the stop.
        """
        getattr(port, "stopWaiting", port.stopReading)()
        backlog = getattr(port, "backlog", None) or 0
        left = accept_queue_length(port.socket) or max(MAX_QUEUE, backlog)
        while left > 0 and (accepted := self._accept_some(port, left)):
            left -= accepted
            yield

    def _accept_some(self, port: Any, most: int) -> int:
        """
        Accept up to so many clients, in one call of C{doRead}.

        @return: how many were accepted, unless the queue is empty now; 0 if no more can be.
        """
        # A port that does not let us say how many accepts at least one, or fails.
        number = min(most, MAX_ACCEPTS if hasattr(port, "numberAccepts") else 1)
        number = min(number, getattr(self._factory, "acceptsAtOnce", number))
        if self.balancer is not None:
            # The other processes accept the clients that are left.
            number = min(number, self.balancer.allowance())
        waiting = select.poll()
        waiting.register(port.fileno(), select.POLLIN)
        if not number or not waiting.poll(0):
            return 0
        if hasattr(port, "numberAccepts"):
            port.numberAccepts = number
        port.doRead()
        return 0 if getattr(port, "acceptingPaused", False) else number

    def _accepting_failed(self, failure: Failure) -> None:
        log.failure("while stopping to listen", failure, event="unhandled-error")

    def _close(self, _: object, port: Any) -> Deferred[None]:
        # stopListening closes the port one turn later.  This call runs just before that: a client
        # that has come in between is not reset.
        self._reactor.callLater(0, self._accept_some, port, MAX_ACCEPTS)
        return maybeDeferred(port.stopListening)
