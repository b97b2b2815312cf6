"""
What the HTTP side answers, and its service.

Invariant: it only reads; no request changes anything.
"""

import re
import socket
from collections.abc import Awaitable, Callable, Container, Iterable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

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
from echod.stats.snapshot import Snapshot, not_ready

log = Logger(namespace="echod.admin")

_HOST = re.compile(
    r"(?:\[([0-9A-Fa-f:.]+)(?:%[A-Za-z0-9%._~-]+)?\]|([A-Za-z0-9._-]+))(?::[0-9]{0,5})?"
)


def names_beside(hostname: str, hosts: Iterable[str]) -> set[str]:
    """
    The names that this machine's own name stands with in hosts(5), such as the fully-qualified
    one.  A resolver is not asked: it could take long, and what it says can be forged.

    @param hosts: the lines of C{/etc/hosts}.
    """
    names: set[str] = set()
    for line in hosts:
        found = [name.rstrip(".") for name in line.lower().partition("#")[0].split()[1:]]
        if hostname.lower() in found:
            names.update(found)
    return names


def is_trusted_host(
    asked: str, local: IAddress, names: Container[str] = (), hostname: str | None = None
) -> bool:
    """
    Whether a request for this host is meant for us.

    @param asked: what the header says, with or without a port.
    @param local: our address on the connection that the request came by.  On a UNIX
        socket, where no browser comes, any host is ours.
    @param names: what else is ours, as L{host} has it.
    @param hostname: this machine's own name; C{None} to ask for it.
    """
    ours = ip_of(local)
    if ours is None:
        return True
    match = _HOST.fullmatch(asked)
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
        # No resolver gives the names below localhost away (RFC 6761 6.3).
        return name in ("localhost", hostname.lower()) or name.endswith(".localhost")
    # A browser leaves out the zone of a link-local address, which means nothing to others.
    return ip.is_loopback or ip.packed == ours.packed


Source = Callable[[], Awaitable[Sequence[Snapshot]]]
"""Takes a snapshot of each process there is."""

RenderMetrics = Callable[[Sequence[Snapshot], str], tuple[bytes, str]]
"""Makes metrics: L{render_metrics<echod.admin.prometheus.render_metrics>}."""

MAX_PENDING = 16
"""
How many requests may wait for snapshots, which the workers send.  Readiness has the rest of
C{MAX_PENDING_READY} to itself, and liveness needs no snapshot; both together are fewer than
there may be clients, so that the next one's request is always read.
"""

MAX_PENDING_READY = 24

WRITE_TIMEOUT = 30.0
"""How long a client may take nothing of its answer."""

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

REASONS = {421: b"Misdirected Request"}
"""Words for a status that Twisted has none for."""

TEXT = "text/plain; charset=utf-8"


@dataclass(frozen=True)
class Response:
    """
    An answer to a request.
    """

    body: bytes
    type: str = TEXT
    status: int = 200


def error_response(status: int, text: str) -> Response:
    """
    An answer of one line.
    """
    return Response(f"{text}\n".encode(), status=status)


def text_response(request: AdminRequest, header: bytes) -> list[str]:
    """
    What a request says in a header, whatever the bytes.
    """
    return [each.decode("latin-1") for each in request.requestHeaders.getRawHeaders(header, [])]


class AdminResource(Resource):
    """
    All of the site.
    """

    isLeaf = True

    def __init__(self, source: Source, render_metrics: RenderMetrics, names: Container[str] = ()):
        """
        @param names: what it may be asked for by, as L{is_trusted_host} takes them.
        """
        super().__init__()
        self._names = names
        self._source = source
        self._exposition = render_metrics
        self._pending = 0
        self._paths: dict[bytes, Callable[[AdminRequest, Sequence[Snapshot]], Response]] = {
            b"/": self._page,
            b"/connections": self._connections,
            b"/metrics": self._metrics,
            b"/readyz": self._ready,
        }

    def render(self, request: AdminRequest) -> Any:
        """
        Answer, now or when the snapshots are there.
        """
        for name, value in HEADERS.items():
            request.setHeader(name.encode(), value.encode())
        answer = self._refuse(request) or self._at_once(request.path)
        if answer is not None:
            self._send(request, answer)
            return NOT_DONE_YET
        gone = request.notifyFinish()
        self._pending += 1
        answering = Deferred.fromCoroutine(self._look(request))
        gone.addErrback(lambda _: answering.cancel())
        answering.addErrback(self._failed, request)
        answering.addBoth(self._answered)
        return NOT_DONE_YET

    def _answered(self, _: object) -> None:
        self._pending -= 1

    def _refuse(self, request: AdminRequest) -> Response | None:
        if request.method not in (b"GET", b"HEAD"):
            request.setHeader(b"allow", b"GET, HEAD")
            return error_response(405, "this is for looking only: GET and HEAD")
        hosts = text_response(request, b"host")
        if len(hosts) > 1 or (not hosts and request.clientproto == b"HTTP/1.1"):
            return error_response(400, "give one Host")
        if request.authority is not None:
            # Host is ignored then (RFC 9112 3.2.2).
            hosts = [request.authority.decode("latin-1")]
        if hosts and not is_trusted_host(hosts[0], request.getHost(), self._names):
            return error_response(
                421,
                "no such host here; ask for localhost or for the address that you connect to, "
                "or give this name to --admin-host",
            )
        return None

    def _at_once(self, path: bytes) -> Response | None:
        if path == b"/livez":
            return error_response(200, "alive")
        if path in STATIC:
            return Response(*STATIC[path])
        if path not in self._paths:
            return error_response(404, "there are / /connections /metrics /livez /readyz")
        if self._pending >= (MAX_PENDING_READY if path == b"/readyz" else MAX_PENDING):
            return error_response(503, f"{self._pending} requests wait already; ask again later")
        return None

    async def _look(self, request: AdminRequest) -> None:
        snapshots = await self._source()
        if not snapshots and request.path != b"/readyz":
            answer = error_response(503, not_ready(snapshots))
        else:
            answer = self._paths[request.path](request, snapshots)
        self._send(request, answer)

    def _page(self, _: AdminRequest, snapshots: Sequence[Snapshot]) -> Response:
        return Response(page(snapshots).encode(), "text/html; charset=utf-8")

    def _connections(self, _: AdminRequest, snapshots: Sequence[Snapshot]) -> Response:
        return Response(page_json(snapshots).encode(), "application/json")

    def _metrics(self, request: AdminRequest, snapshots: Sequence[Snapshot]) -> Response:
        return Response(*self._exposition(snapshots, ", ".join(text_response(request, b"accept"))))

    def _ready(self, _: AdminRequest, snapshots: Sequence[Snapshot]) -> Response:
        why = not_ready(snapshots)
        return error_response(503, why) if why else error_response(200, "ready")

    def _send(self, request: AdminRequest, answer: Response) -> None:
        if request.gone:
            return
        request.setResponseCode(answer.status, REASONS.get(answer.status))
        request.setHeader(b"content-type", answer.type.encode())
        request.setHeader(b"content-length", b"%d" % len(answer.body))
        request.write(answer.body)
        request.finish()

    def _failed(self, failure: Failure, request: AdminRequest) -> None:
        if failure.check(CancelledError):
            return
        log.failure("while answering for --admin", failure, event="unhandled-error")
        self._send(request, error_response(500, "that failed; the log says why"))


class AdminService(MultiService):
    """
    The site, on one endpoint or several, until it is stopped.

    @ivar listeners: where it listens.
    """

    def __init__(
        self,
        reactor: Any,
        source: Source,
        render_metrics: RenderMetrics,
        names: Container[str] = (),
    ):
        """
        @param names: as L{AdminResource} takes them.
        """
        super().__init__()
        self._reactor = reactor
        self._site = AdminSite(AdminResource(source, render_metrics, names), reactor)
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
        Begin to listen, and say so when others than this machine can come.
        """
        super().startService()
        for listener in self.listeners:
            if listener.reachable():
                log.warn(
                    "{address}, {option}: other machines can reach it, and there is no password; "
                    "keep strangers out by a firewall or a network policy",
                    event="admin-reachable",
                    address=listener.address(),
                    option=listener.option,
                )

    def stopService(self) -> Deferred[None]:
        """
        Close everything; who keeps a connection for later is not waited for.

        @return: a Deferred that fires when the ports are closed.
        """
        closing: Deferred[Any] = super().stopService()
        self._site.close_all()
        return closing.addCallback(lambda _: None)
