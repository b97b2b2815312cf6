"""
The house: C{makeService} reads the options once and builds the services from them.

The rule of this room: it alone knows all the others.  Nothing here opens a socket,
starts a timer or forks; that waits until the service is started.
"""

import select
import signal
import sys
import time
from dataclasses import replace
from typing import Any

from twisted.application.internet import TimerService
from twisted.application.service import MultiService
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IStreamServerEndpoint
from twisted.internet.task import react
from twisted.logger import ILogObserver, Logger
from twisted.python import runtime
from twisted.python.components import Componentized

from echod import __version__, signals
from echod.admission import AddressRules, Admission, ConnectRate
from echod.connections import Connections
from echod.credentials import BadCredentials
from echod.endpoint import WRAPPING, TCPEndpoint, endpoint_from
from echod.keylog import KeyLog
from echod.limits import LOOK_SECONDS, TimeLimits
from echod.listener import ListenerService, ListenFailed
from echod.options import Options
from echod.protocol import EchoFactory
from echod.proxy import ProxyPolicy
from echod.rotation import Certificates, names_text, time_text
from echod.sockets import descriptor_limit, printable
from echod.tls import Policy, ServerContext
from echod.twistdlog import TwistdLog

__all__ = ["EchodService", "Options", "makeService"]

log = Logger()

REFUSALS_SECONDS = 1.0
"""How often refusals are told in the log."""

RESERVED_DESCRIPTORS = 64
"""What is kept for listeners, files, the reactor itself, and those that are let go."""


class EchodService(MultiService):
    """
    The daemon: its listeners, the sweep over their connections, and a graceful stop.

    @ivar connections: the live set of all listeners.
    @ivar admission: who may come in, to any of them.
    @ivar certificates: what TLS is served with, C{None} without TLS.
    @ivar key_log: where the secrets of TLS go, C{None} for nowhere.
    """

    certificates: Certificates | None = None
    key_log: KeyLog | None = None

    def __init__(self, reactor: Any, options: Options, max_connections: int):
        super().__init__()
        self._reactor = reactor
        self._options = options
        self._log = TwistdLog(options.twistd, options["log-format"], options["log-level"])
        limits = TimeLimits(
            handshake=options["handshake-timeout"],
            idle=options["idle-timeout"],
            lifetime=options["max-lifetime"],
            write=options["write-timeout"],
        )
        self.connections = Connections(reactor, limits, options["access-log"] == "on")
        self.admission = Admission(
            self.connections,
            max_connections,
            AddressRules(options["allow"], options["deny"]),
            options["max-per-client"],
            ConnectRate(reactor, *options["connect-rate"]) if options["connect-rate"] else None,
        )
        for interval, action in (
            (LOOK_SECONDS, self.connections.sweep),
            (LOOK_SECONDS, self.admission.forget),
            (REFUSALS_SECONDS, self.connections.refusals.tell),
        ):
            timer = TimerService(interval, action)
            timer.clock = reactor
            timer.setServiceParent(self)

    def add_listener(
        self,
        name: str,
        option: str,
        endpoint: IStreamServerEndpoint,
        tls: ServerContext | None = None,
    ) -> None:
        """
        Add a listener.

        @param name: what logs and totals call it.
        @param option: the option that asks for it, for error messages.
        @param tls: the context for TLS, C{None} for plain.
        """
        factory = EchoFactory(name, self.admission, tls, proxy_policy(self._options))
        ListenerService(
            option, endpoint, factory, self._reactor, self._options["write-timeout"]
        ).setServiceParent(self)

    def listeners(self) -> list[ListenerService]:
        """
        The listeners, in the order in which they were added.
        """
        return [service for service in self if isinstance(service, ListenerService)]

    def setServiceParent(self, parent: Any) -> None:
        """
        Become part of an application, and bring it the log observer, where it looks for
        one before it makes its own.
        """
        super().setServiceParent(parent)
        observer = self._log.open()
        if observer is not None and isinstance(parent, Componentized):
            parent.setComponent(ILogObserver, observer)

    def try_log(self) -> None:
        """
        Find out whether the log can be opened, and leave no file behind.

        @raise SystemExit: when it cannot.
        """
        self._log.try_open()

    def startService(self) -> None:
        """
        Start the listeners, and take over the signals as soon as the reactor has set
        its own handlers for them.
        """
        super().startService()
        self._reactor.callWhenRunning(self._handle_signals)

    def _handle_signals(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signals.handle_stop(self._reactor, number, self.connections.abort_all)
        for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
            signals.note(self._reactor, number)
        if self._log.file is not None:
            signals.handle(self._reactor, signal.SIGUSR1, self._log.file.rotate)
        if self.certificates is not None:
            signals.handle(self._reactor, signal.SIGHUP, self.reload)

    def reload(self) -> None:
        """
        Serve the certificates that the files hold now, and open the key log anew.
        """
        if self.key_log is not None:
            self.key_log.reopen()
        if self.certificates is not None:
            self.certificates.reload()

    def stopService(self) -> Deferred[None]:
        """
        Close the doors, then wait for the guests: L{Connections.drain}.

        @return: a Deferred that fires when the last connection has ended.
        """
        closing: Deferred[Any] = super().stopService()
        closing.addCallback(lambda _: self.connections.drain(self._options["drain-timeout"]))
        return closing.addCallback(self._stopped)

    def _stopped(self, _: None) -> None:
        self.connections.refusals.tell()
        log.info(
            "echod stopped: {connections} connections, {bytes} bytes echoed",
            event="stopped",
            connections=self.connections.opened,
            bytes=self.connections.bytes_echoed,
        )


def most_connections(asked: int) -> int:
    """
    How many connections there may be: as many as are asked for, less what there are no
    descriptors for.
    """
    # One that waits with select(2) can wait for no others.
    selects = "twisted.internet.selectreactor" in sys.modules
    room = min(descriptor_limit(), 1024 if selects else sys.maxsize) - RESERVED_DESCRIPTORS
    most = max(1, min(asked, room))
    if most < asked:
        log.warn(
            "--max-connections {asked}: {most} it is, for want of descriptors; raise the hard "
            "limit (ulimit -Hn, LimitNOFILE=)",
            asked=asked,
            most=most,
        )
    return most


def proxy_policy(options: Options) -> ProxyPolicy | None:
    """
    Whose PROXY headers are believed; C{None} when none are read.
    """
    if options["proxy-protocol"] == "off":
        return None
    networks = [each for each in options["proxy-trust"] if each != "unix"]
    required = options["proxy-protocol"] == "require"
    return ProxyPolicy(required, networks, "unix" in options["proxy-trust"])


def build(reactor: Any, options: Options) -> EchodService:
    """
    Build the daemon that the options ask for.

    @raise SystemExit: with one line, when a file or an endpoint string is wrong.
    """
    service = EchodService(reactor, options, most_connections(options["max-connections"]))
    interface, backlog = options["interface"], options["backlog"]
    at = f" --interface {interface}" if interface else ""
    if (port := options["port"]) is not None:
        service.add_listener(
            "tcp", f"--port {port}{at}", TCPEndpoint(reactor, port, interface, backlog)
        )
    if (port := options["tls-port"]) is not None:
        _prepare_tls(reactor, options, service)
        service.add_listener(
            "tls",
            f"--tls-port {port}{at}",
            TCPEndpoint(reactor, port, interface, backlog),
            service.certificates,
        )
    for description in options["listen"]:
        option = f"--listen {printable(description)}"
        try:
            endpoint = endpoint_from(reactor, description, backlog)
        except ValueError as error:
            raise SystemExit(
                f"echod: {option}: {error}; give one such as tcp:9000 or unix:/run/echod.sock"
            ) from None
        if description.partition(":")[0] in WRAPPING:
            log.warn(
                "{option}: its layer around the connection loses what is owed to a client "
                "that closes its sending side; for TLS, use --tls-port",
                option=option,
            )
        service.add_listener(description, option, endpoint)
    return service


def _prepare_tls(reactor: Any, options: Options, service: EchodService) -> None:
    policy = Policy(
        minimum=options["tls-min"] or "1.2",
        alpn=options["tls-alpn"] or (),
        client_auth=options["tls-client-auth"] or "off",
    )
    if (path := options["tls-keylog"]) is not None:
        service.key_log = KeyLog(path)
        policy = replace(policy, log_keys=service.key_log.write)
    service.certificates = Certificates(
        reactor, policy, options["tls-cert"], options["tls-client-ca"]
    )
    try:
        service.certificates.load()
        if service.key_log is not None:
            service.key_log.open()
            service.key_log.warn()
    except BadCredentials as error:
        raise SystemExit(f"echod: --tls-{error.kind}: {printable(str(error))}") from None
    except OSError as error:
        raise SystemExit(
            f"echod: --tls-keylog '{printable(path)}': {error.strerror}; "
            "give a file that can be written"
        ) from None
    service.certificates.setServiceParent(service)


def check(reactor: Any, service: EchodService) -> None:
    """
    Start the service, stop it again, and say what would run.

    @raise SystemExit: always; with 0 when all is well, else with the line that says
        what is not.
    """

    service.try_log()
    if service.key_log is not None:
        service.key_log.undo()

    async def start_and_stop(_: Any) -> None:
        failed = False
        try:
            service.startService()
            print(f"echod {__version__}: all is well; this would listen on")
            for listener in service.listeners():
                print(f"  {listener.address()}, {listener.option}")
            if service.certificates is not None:
                print("with")
                for each in service.certificates.served:
                    print(f"  {names_text(each)}, until {time_text(each.not_after)}, {each.path}")
        except ListenFailed:
            # It has said why; and react() takes a status from a plain SystemExit only.
            failed = True
        await service.stopService()
        if failed:
            raise SystemExit(1)

    react(lambda r: Deferred.fromCoroutine(start_and_stop(r)), _reactor=reactor)


def keep_steady_time(reactor: Any) -> None:
    """
    Let a reactor of Twisted's tell its timers the time by a clock that cannot step.  By
    the wall clock, a step of an hour fires every timeout at once, or none for an hour.
    """
    if getattr(reactor, "seconds", None) is runtime.seconds and not reactor.getDelayedCalls():
        reactor.seconds = time.monotonic


def makeService(options: Options) -> EchodService:
    """
    Build the daemon; the entry point of twistd and twist.
    """
    if "twisted.internet.reactor" not in sys.modules and hasattr(select, "epoll"):
        # Nobody has chosen one yet.
        from echod.reactor import install

        install()
    # The one place where the reactor is imported; all else is handed it.
    from twisted.internet import reactor

    keep_steady_time(reactor)
    service = build(reactor, options)
    if options["check"]:
        check(reactor, service)
    log.info("echod {version} starting", event="starting", version=__version__)
    return service
