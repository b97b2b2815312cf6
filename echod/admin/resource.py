"""
The service of C{--admin}, its resource, and the hosts that it answers for.

Invariant: no request changes anything.  A request for another host, as after DNS rebinding, gets
no figures.
"""

import re
import socket
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, Protocol

from twisted.application.service import MultiService
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IAddress, IStreamServerEndpoint
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from echod import __version__
from echod._util.text import ip_of
from echod._util.values import host
from echod.admin.page import STATIC, page, page_json
from echod.admin.site import AdminRequest, AdminSite
from echod.net.listener import ListenerService
from echod.stats.snapshot import OptionInfo, Snapshot, not_ready

log = Logger(namespace="echod.admin")

RenderMetrics = Callable[[Sequence[Snapshot], str], tuple[bytes, str]]
"""Formats metrics: L{render_metrics<echod.admin.prometheus.render_metrics>}."""

MAX_PENDING = 16
"""How many requests may wait for the answers of the workers."""

MAX_PENDING_READY = 24
"""
The same, counting requests for readiness too: some places are for those only.  Liveness needs no
snapshot.  Less than C{SOFT_LIMIT} of L{echod.admin.site}, so that there is always a connection
left whose request is read.
"""

WRITE_TIMEOUT = 30.0
"""After how many seconds a client that reads nothing of its response is aborted."""

READY = (b"/readyz", b"/healthz")
"""The paths for readiness; the second is what many probes ask for by default."""

_HOST = re.compile(
    r"(?:\[([0-9A-Fa-f:.]+)(?:%[A-Za-z0-9%._~-]+)?\]|([A-Za-z0-9._-]+))(?::[0-9]{0,5})?"
)

HEADERS = {
    "server": f"echod/{__version__}",
    "cache-control": "no-store",
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}

REASON_PHRASES = {421: b"Misdirected Request"}
"""The reason phrases that Twisted lacks."""

TEXT = "text/plain; charset=utf-8"


def names_beside(hostname: str, hosts: Iterable[str]) -> set[str]:
    """
    The names on the lines of hosts(5) that have this machine's own name, such as the
    fully-qualified one.  The resolver is not used: it may block, and DNS answers can be forged.

    @param hosts: the lines of C{/etc/hosts}.
    """
    names: set[str] = set()
    for line in hosts:
        found = [name.rstrip(".") for name in line.lower().partition("#")[0].split()[1:]]
        if hostname.lower() in found:
            names.update(found)
    return names


def is_trusted_host(
    requested: str, local: IAddress, names: Container[str] = (), hostname: str | None = None
) -> bool:
    """
    Whether a request for a host is for this daemon.  A browser sends another host when the DNS of
    an attacker's site has changed to an address of this machine (DNS rebinding).

    @param requested: the host of the request, with or without a port.
    @param local: the local address of the connection.  On a UNIX socket, which no browser uses,
        any host is trusted.
    @param names: further trusted names, as L{host} returns them.
    @param hostname: this machine's name; C{None} for C{gethostname()}.
    """
    local_ip = ip_of(local)
    if local_ip is None:
        return True
    match = _HOST.fullmatch(requested)
    if match is None:
        return False
    try:
        name = host(match[1] or match[2])
    except ValueError:
        return False
    if name in names:
        return True
    try:
        ip = ip_address(name)
    except ValueError:
        hostname = socket.gethostname() if hostname is None else hostname
        # Resolvers answer names below localhost with loopback addresses only (RFC 6761 6.3).
        return name in ("localhost", hostname.lower()) or name.endswith(".localhost")
    # packed has no zone: browsers leave out the zone of a link-local address.
    return ip.is_loopback or ip.packed == local_ip.packed


class Source(Protocol):
    """
    Where the figures come from: L{Collector<echod.stats.collector.Collector>}, or that of the
    workers.
    """

    async def snapshots(self) -> Sequence[Snapshot]:
        """
        Take a snapshot of each process.
        """

    async def not_ready(self) -> str:
        """
        Why the daemon cannot serve, in words; empty when it can.  No connection is looked at.
        """


@dataclass(frozen=True)
class Response:
    """
    The response to a request.
    """

    body: bytes
    type: str = TEXT
    status: int = 200


def text_response(status: int, text: str) -> Response:
    """
    A response of one line.
    """
    return Response(f"{text}\n".encode(), status=status)


def header_values(request: AdminRequest, header: bytes) -> list[str]:
    """
    The values of a header of a request.
    """
    return [each.decode("latin-1") for each in request.requestHeaders.getRawHeaders(header, [])]


class AdminResource(Resource):
    """
    All paths of the site.
    """

    isLeaf = True

    def __init__(
        self,
        source: Source,
        render_metrics: RenderMetrics,
        names: Container[str] = (),
        options: Sequence[OptionInfo] = (),
    ):
        """
        @param source: takes the snapshots.
        @param names: further trusted hosts, as L{is_trusted_host} takes them.
        @param options: the options in force.
        """
        super().__init__()
        self._names = names
        self._options = options
        self._source = source
        self._render_metrics = render_metrics
        self._pending = 0
        self._paths: dict[bytes, Callable[[AdminRequest, Sequence[Snapshot]], Response]] = {
            b"/": self._page,
            b"/connections": self._connections,
            b"/metrics": self._metrics,
        }

    def render(self, request: AdminRequest) -> Any:
        """
        Respond now, or when the snapshots are there.
        """
        for name, value in HEADERS.items():
            request.setHeader(name.encode(), value.encode())
        response = self._refuse(request) or self._respond_now(request.path)
        if response is not None:
            self._send(request, response)
            return NOT_DONE_YET
        finished = request.notifyFinish()
        self._pending += 1
        responding = Deferred.fromCoroutine(self._respond(request))
        finished.addErrback(lambda _: responding.cancel())
        responding.addErrback(self._respond_failed, request)
        responding.addBoth(self._responded)
        return NOT_DONE_YET

    def _responded(self, _: object) -> None:
        self._pending -= 1

    def _refuse(self, request: AdminRequest) -> Response | None:
        if request.method not in (b"GET", b"HEAD"):
            request.setHeader(b"allow", b"GET, HEAD")
            return text_response(405, "this server is read-only: use GET or HEAD")
        hosts = header_values(request, b"host")
        if len(hosts) > 1 or (not hosts and request.clientproto == b"HTTP/1.1"):
            return text_response(400, "send one Host header")
        if request.authority is not None:
            # Host is ignored then (RFC 9112 3.2.2).
            hosts = [request.authority.decode("latin-1")]
        if hosts and not is_trusted_host(hosts[0], request.getHost(), self._names):
            return text_response(
                421,
                "unknown host; use localhost or the address that you connect to, "
                "or give this name to --admin-host",
            )
        return None

    def _respond_now(self, path: bytes) -> Response | None:
        if path == b"/livez":
            return text_response(200, "alive")
        if path in STATIC:
            return Response(*STATIC[path])
        if path not in self._paths and path not in READY:
            return text_response(
                404, "the paths are / /connections /metrics /reasons /livez /readyz"
            )
        if self._pending >= (MAX_PENDING_READY if path in READY else MAX_PENDING):
            return text_response(503, f"{self._pending} requests are waiting; try again later")
        return None

    async def _respond(self, request: AdminRequest) -> None:
        if request.path in READY:
            why = await self._source.not_ready()
            response = text_response(503, why) if why else text_response(200, "ready")
        elif snapshots := await self._source.snapshots():
            response = self._paths[request.path](request, snapshots)
        else:
            response = text_response(503, not_ready(snapshots))
        self._send(request, response)

    def _page(self, _: AdminRequest, snapshots: Sequence[Snapshot]) -> Response:
        return Response(page(snapshots, self._options).encode(), "text/html; charset=utf-8")

    def _connections(self, _: AdminRequest, snapshots: Sequence[Snapshot]) -> Response:
        return Response(page_json(snapshots, self._options).encode(), "application/json")

    def _metrics(self, request: AdminRequest, snapshots: Sequence[Snapshot]) -> Response:
        accept = ", ".join(header_values(request, b"accept"))
        return Response(*self._render_metrics(snapshots, accept))

    def _send(self, request: AdminRequest, response: Response) -> None:
        if request.disconnected:
            return
        request.setResponseCode(response.status, REASON_PHRASES.get(response.status))
        request.setHeader(b"content-type", response.type.encode())
        request.setHeader(b"content-length", b"%d" % len(response.body))
        request.write(response.body)
        request.finish()

    def _respond_failed(self, failure: Failure, request: AdminRequest) -> None:
        if failure.check(CancelledError):
            return
        log.failure("while answering for --admin", failure, event="unhandled-error")
        self._send(request, text_response(500, "internal error; see the log"))


class AdminService(MultiService):
    """
    The site, and the listeners that it is served on.

    @ivar listeners: the listeners.
    """

    def __init__(
        self,
        reactor: Any,
        source: Source,
        render_metrics: RenderMetrics,
        names: Container[str] = (),
        options: Sequence[OptionInfo] = (),
    ):
        """
        @param names: as L{AdminResource} takes them.
        @param options: likewise.
        """
        super().__init__()
        self._reactor = reactor
        self._site = AdminSite(AdminResource(source, render_metrics, names, options), reactor)
        self.listeners: list[ListenerService] = []

    def add_listener(self, option: str, endpoint: IStreamServerEndpoint) -> None:
        """
        Add a listener.

        @param option: the option that asks for it, for error messages.
        """
        listener = ListenerService(option, endpoint, self._site, self._reactor, WRITE_TIMEOUT)
        listener.setServiceParent(self)
        self.listeners.append(listener)

    def startService(self) -> None:
        """
        Listen, and warn of a listener that other machines can reach.
        """
        super().startService()
        for listener in self.listeners:
            if listener.reachable():
                log.warn(
                    "{address}, {option}: other machines can reach it, and there is no password; "
                    "restrict access by a firewall or a network policy",
                    event="admin-reachable",
                    address=listener.address(),
                    option=listener.option,
                )

    def stopService(self) -> Deferred[None]:
        """
        Close the ports and the connections.  Connections that finish a response are not waited
        for.

        @return: a Deferred that fires when the ports are closed.
        """
        closed: Deferred[Any] = super().stopService()
        self._site.close_all()
        return closed.addCallback(lambda _: None)
