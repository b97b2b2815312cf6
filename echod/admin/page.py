"""
The page: the snapshots of all processes as HTML for people, and as JSON for programs.

The page comes first, then its plots and its tables.

Invariant: the page is made of snapshots only.
"""

import json
from collections.abc import Iterator, Sequence
from importlib import resources

from echod._util.text import format_date, format_delay, format_duration, format_number, format_size
from echod.admin.html import Markup, number, plot, size, table, tag
from echod.stats.snapshot import CertificateInfo, ListenerStats, Snapshot, aggregate, not_ready

SECONDS_PER_DAY = 86400

NEARLY_FULL = 0.9
"""The share of C{--max-connections} from which the page warns."""

MAX_LAG = 0.1
"""The event-loop lag from which the page warns, in seconds."""

STATIC = {
    f"/{name}".encode(): (
        resources.files("echod.admin").joinpath("static", name).read_bytes(),
        content_type,
    )
    for name, content_type in (
        ("icon.svg", "image/svg+xml"),
        ("page.css", "text/css; charset=utf-8"),
        ("page.js", "text/javascript; charset=utf-8"),
    )
}
"""The other files of the page, by path: content and type."""

MEANINGS = {
    "client": "the client closed the connection",
    "reset": "the client or the network reset the connection",
    "idle-timeout": "no bytes in either direction for too long",
    "max-lifetime": "the connection reached its maximum age",
    "write-timeout": "the client did not read its echo",
    "drain": "closed gracefully while the daemon stopped",
    "aborted": "aborted while the daemon stopped",
    "error": "a TLS error or an internal error; see the log",
    "denied": "the access rules deny the address",
    "max-connections": "too many connections in all",
    "max-per-client": "too many connections of this client",
    "connect-rate": "the client connected too often",
    "proxy-header": "the PROXY header was bad, missing or late",
    "handshake": "the TLS handshake failed",
}
"""What each reason means."""

FACTS = (
    ("Proxy", "proxy"),
    ("Proxy authority", "proxy_authority"),
    ("Client CN (proxy)", "proxy_tls_cn"),
    ("TLS", "tls_version"),
    ("Cipher", "tls_cipher"),
    ("ALPN", "tls_alpn"),
    ("SNI", "tls_sni"),
    ("Client certificate", "tls_subject"),
)
"""The columns for the C{facts} of connections: the header, and the name of the fact."""


def page(snapshots: Sequence[Snapshot]) -> str:
    """
    The page.

    @param snapshots: at least one.
    """
    now = aggregate(snapshots)
    title = f"echod {now.versions['version']}"
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", title),
        tag("link", rel="icon", href="icon.svg", type="image/svg+xml"),
        tag("link", rel="stylesheet", href="page.css"),
        tag("script", src="page.js", defer=True),
        tag("noscript", tag("meta", http_equiv="refresh", content="10")),
    )
    body = tag("body", tag("main", *_content(snapshots, now, title)))
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"


def page_json(snapshots: Sequence[Snapshot]) -> str:
    """
    The page as JSON: the fields of the aggregated L{Snapshot}; C{processes}, with the figures of
    each process; and C{not_ready}, with the text of L{not_ready}.

    @param snapshots: at least one.
    """
    fields = dict(vars(aggregate(snapshots)), not_ready=not_ready(snapshots))
    del fields["worker"], fields["process"]
    fields["processes"] = [
        {
            "worker": each.worker,
            "connections": sum(one.connections for one in each.traffic),
            "lag_last": each.lag_last,
            **vars(each.process),
        }
        for each in snapshots
    ]
    fields["history"] = [each._asdict() for each in fields["history"]]
    return json.dumps(fields, default=vars, separators=(",", ":"))


def _content(snapshots: Sequence[Snapshot], now: Snapshot, title: str) -> Iterator[Markup]:
    why = not_ready(snapshots)
    versions = ", ".join(
        f"{name} {version}" for name, version in now.versions.items() if name != "version"
    )
    yield tag(
        "header",
        tag("h1", title),
        tag("p", why or "ready", class_="state warning" if why else "state", role="status"),
        tag("p", f"up {format_duration(now.uptime)}, {versions}"),
    )
    if items := [tag("li", each) for each in warnings(now)]:
        yield tag("ul", *items, class_="warnings", aria_label="Warnings")
    yield tag("div", *_plots(now), class_="plots")
    traffic = now.traffic
    yield tag(
        "div",
        listeners(now),
        processes(snapshots),
        reasons("Closed", [(each.listener, each.closed) for each in traffic]),
        reasons("Refused", [(each.listener, each.refused) for each in traffic]),
        *([certificates(now)] if now.certificates else ()),
        *([handshakes(now)] if now.handshakes else ()),
        newest(now),
        class_="tables",
    )
    yield tag(
        "footer",
        tag("a", "as JSON", href="connections"),
        tag("a", "metrics", href="metrics"),
        tag("a", "ready?", href="readyz"),
        tag("a", "alive?", href="livez"),
    )


def warnings(now: Snapshot) -> Iterator[str]:
    """
    What the operator may have to act on, in words.
    """
    connections = sum(each.connections for each in now.traffic)
    if connections >= now.max_connections * NEARLY_FULL:
        yield f"{connections:,} of {now.max_connections:,} connections: more than that are refused"
    for each in now.certificates:
        days = days_left(each, now.taken)
        certificate = f"the certificate for {', '.join(each.names) or 'no name'}"
        if now.taken < each.not_before:
            yield f"{certificate} is not valid before {format_date(each.not_before)}: {each.path}"
        elif each.ends_soon(now.taken):
            when = "expires today" if not days else f"expires in {days} days"
            yield f"{certificate} {'has expired' if days < 0 else when}: {each.path}"
    if now.log_dropped:
        yield f"{now.log_dropped:,} log records were dropped"
    lag = max((each.lag for each in now.history[-60:]), default=0.0)
    if lag >= MAX_LAG:
        yield f"the event-loop lag was {format_delay(lag)} in the last minute"


def _plots(now: Snapshot) -> Iterator[Markup]:
    history = now.history
    connections = sum(each.connections for each in now.traffic)
    refused = sum(sum(each.refused.values()) for each in now.traffic)
    echoed = sum(each.echoed_bytes for each in now.traffic)
    bytes_now = history[-1].bytes if history else 0.0
    refused_now = history[-1].refused if history else 0.0
    yield plot(
        "Connections",
        [each.connections for each in history],
        format_number(connections),
        format_number,
        10,
        f"of {now.max_connections:,}",
    )
    yield plot(
        "Echoed",
        [each.bytes for each in history],
        f"{format_size(bytes_now)}/s",
        lambda value: f"{format_size(value)}/s",
        1024,
        f"{format_size(echoed)} in total",
    )
    yield plot(
        "Refused",
        [each.refused for each in history],
        f"{format_number(refused_now)}/s",
        lambda value: f"{format_number(value)}/s",
        10,
        f"{format_number(refused)} in total",
    )
    yield plot(
        "Event-loop lag",
        [each.lag for each in history],
        format_delay(now.lag_last),
        format_delay,
        0.01,
        "added latency",
    )


def listeners(now: Snapshot) -> Markup:
    """
    The listeners, their addresses and counters.
    """
    traffic = {each.listener: each for each in now.traffic}
    rows = []
    for each in now.listeners:
        # Without an answer of any worker there are no counters.
        stats = traffic.get(each.name) or ListenerStats(each.name, 0, 0, 0, {}, {})
        rows.append(
            (
                each.name,
                tag("td", each.address or "not bound", class_=None if each.address else "warning"),
                number(stats.connections),
                number(stats.opened),
                size(stats.echoed_bytes),
                number(sum(stats.refused.values())),
            )
        )
    headers = ("Listener", "Address", "Open", "Accepted", "Echoed", "Refused")
    return table("Listeners", headers, rows)


def reasons(caption: str, counts: Sequence[tuple[str, dict[str, int]]]) -> Markup:
    """
    Connections by reason, with a column for each of two to four listeners.

    @param counts: the name of each listener, and its connections by reason.
    """
    names = list(dict.fromkeys(reason for _, each in counts for reason in each))
    columns = counts if 1 < len(counts) <= 4 else []
    rows = [
        (
            reason,
            tag("td", MEANINGS.get(reason, ""), class_="meaning"),
            *(number(each.get(reason, 0)) for _, each in columns),
            number(sum(each.get(reason, 0) for _, each in counts)),
        )
        for reason in names
    ]
    return table(caption, ("Reason", "Meaning", *(name for name, _ in columns), "Total"), rows)


def handshakes(now: Snapshot) -> Markup:
    """
    TLS handshakes by result and version.
    """
    rows = [(each.result, each.version or "-", number(each.count)) for each in now.handshakes]
    return table("TLS handshakes", ("Result", "Version", "Total"), rows)


def days_left(each: CertificateInfo, now: float) -> int:
    """
    The whole days until a certificate expires; negative when it has expired.
    """
    return int((each.not_after - now) // SECONDS_PER_DAY)


def certificates(now: Snapshot) -> Markup:
    """
    The certificates that are served, and their expiry.
    """
    rows = []
    for each in now.certificates:
        days = days_left(each, now.taken)
        css_class = "number warning" if each.ends_soon(now.taken) else "number"
        rows.append(
            (
                ", ".join(each.names) or "no name",
                tag("td", format_number(days) if days >= 0 else "expired", class_=css_class),
                tag("td", format_date(each.not_after), class_="date"),
                tag("td", each.path, title=f"serial number {each.serial}"),
            )
        )
    return table("Certificates", ("Names", "Days left", "Expiry", "File"), rows)


def processes(snapshots: Sequence[Snapshot]) -> Markup:
    """
    The processes: connections, event-loop lag, CPU time, memory and descriptors.
    """
    rows = [
        (
            each.process.pid if each.worker is None else f"{each.worker} ({each.process.pid})",
            number(sum(one.connections for one in each.traffic)),
            tag("td", format_delay(each.lag_last), class_="number"),
            tag("td", format_duration(each.process.cpu_seconds), class_="number"),
            size(each.process.resident_bytes or 0),
            tag(
                "td",
                "/".join(
                    "?" if one is None else f"{one:,}"
                    for one in (each.process.descriptors, each.process.max_descriptors)
                ),
                class_="number",
            ),
        )
        for each in snapshots
    ]
    headers = ("Process", "Open", "Lag", "CPU time", "Memory", "Descriptors")
    return table("Processes" if len(snapshots) > 1 else "Process", headers, rows)


def newest(now: Snapshot) -> Markup:
    """
    The newest connections.  A fact that none of them has takes no column.
    """
    workers = any(each.worker is not None for each in now.newest)
    facts = [
        (header, name) for header, name in FACTS if any(each.facts.get(name) for each in now.newest)
    ]
    rows = [
        (
            f"{each.worker}/{each.connection}" if workers else each.connection,
            each.peer,
            each.listener,
            each.state,
            tag("td", format_duration(each.seconds), class_="number"),
            size(each.bytes),
            *(each.facts.get(name, "") for _, name in facts),
        )
        for each in now.newest
    ]
    headers = ("Connection", "Peer", "Listener", "State", "Age", "Echoed")
    caption = f"Newest connections, {len(rows)} of {sum(t.connections for t in now.traffic):,}"
    return table(caption, (*headers, *(header for header, _ in facts)), rows, wide=True)
