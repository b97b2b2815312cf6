"""
The page: what the daemon does now, for people.

Invariant: it is made of snapshots and nothing else.
"""

import json
from collections.abc import Iterator, Sequence
from importlib import resources

from echod._util.text import format_date, format_delay, format_duration, format_number, format_size
from echod.admin.html import Markup, number, plot, size, table, tag
from echod.stats.snapshot import CertificateInfo, ListenerStats, Snapshot, aggregate, not_ready

DAY_SECONDS = 86400


MEANINGS = {
    "client": "the client was done",
    "reset": "the client or the network broke it",
    "idle-timeout": "nothing went either way for too long",
    "max-lifetime": "it had lived for as long as it may",
    "write-timeout": "the client took nothing of its echo",
    "drain": "the daemon was stopping",
    "aborted": "the daemon was stopping and could not wait",
    "error": "something failed; see the log",
    "denied": "the address rules do not let it in",
    "max-connections": "there were as many as may be",
    "max-per-client": "it had as many as a client may have",
    "connect-rate": "it connected too often",
    "proxy-header": "no good PROXY header",
    "handshake": "no good TLS handshake",
}
"""What the reasons mean, in short."""

FACTS = (
    ("Proxy", "proxy"),
    ("Asked of the proxy", "proxy_authority"),
    ("Client, says the proxy", "proxy_tls_cn"),
    ("TLS", "tls_version"),
    ("Cipher", "tls_cipher"),
    ("ALPN", "tls_alpn"),
    ("Asked for", "tls_sni"),
    ("Client certificate", "tls_subject"),
)
"""The columns for what else is known of a connection."""


def listeners(now: Snapshot) -> Markup:
    """
    Where it listens, and what has come there.
    """
    traffic = {each.listener: each for each in now.traffic}
    rows = []
    for each in now.listeners:
        # Of workers that have never answered, nobody knows.
        came = traffic.get(each.name) or ListenerStats(each.name, 0, 0, 0, {}, {})
        rows.append(
            (
                each.name,
                tag("td", each.address or "not bound", class_=None if each.address else "warning"),
                number(came.connections),
                number(came.opened),
                size(came.echoed_bytes),
                number(sum(came.refused.values())),
            )
        )
    heads = ("Listener", "Address", "Open", "Opened", "Echoed", "Refused")
    return table("Listeners", heads, rows)


def reasons(caption: str, counts: Sequence[tuple[str, dict[str, int]]]) -> Markup:
    """
    How many, by reason and listener.
    """
    names = list(dict.fromkeys(reason for _, each in counts for reason in each))
    shown = counts if 1 < len(counts) <= 4 else []
    rows = [
        (
            reason,
            tag("td", MEANINGS.get(reason, ""), class_="meaning"),
            *(number(each.get(reason, 0)) for _, each in shown),
            number(sum(each.get(reason, 0) for _, each in counts)),
        )
        for reason in names
    ]
    return table(caption, ("Reason", "Meaning", *(name for name, _ in shown), "All"), rows)


def handshakes(now: Snapshot) -> Markup:
    """
    How TLS handshakes came out.
    """
    rows = [(each.result, each.version or "-", number(each.count)) for each in now.handshakes]
    return table("TLS handshakes", ("Result", "Version", "All"), rows)


def days_left(each: CertificateInfo, now: float) -> int:
    """
    How many whole days a certificate is still good for; negative when it is not.
    """
    return int((each.not_after - now) // DAY_SECONDS)


def certificates(now: Snapshot) -> Markup:
    """
    Which certificates are served, and for how long.
    """
    rows = []
    for each in now.certificates:
        days = days_left(each, now.taken)
        kind = "number warning" if each.ends_soon(now.taken) else "number"
        rows.append(
            (
                ", ".join(each.names) or "no name",
                tag("td", format_number(days) if days >= 0 else "ended", class_=kind),
                tag("td", format_date(each.not_after), class_="date"),
                tag("td", each.path, title=f"serial number {each.serial}"),
            )
        )
    return table("CertificateStore", ("Names", "Days left", "Until", "File"), rows)


def processes(snapshots: Sequence[Snapshot]) -> Markup:
    """
    What the processes take.
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
                    for one in (each.process.descriptors, each.process.most_descriptors)
                ),
                class_="number",
            ),
        )
        for each in snapshots
    ]
    heads = ("Process", "Open", "Lag", "CPU time", "Memory", "Descriptors")
    return table("Processes" if len(snapshots) > 1 else "Process", heads, rows)


def newest(now: Snapshot) -> Markup:
    """
    The connections that were made last.  What none of them has takes no column.
    """
    several = any(each.worker is not None for each in now.newest)
    facts = [
        (head, name) for head, name in FACTS if any(each.facts.get(name) for each in now.newest)
    ]
    rows = [
        (
            f"{each.worker}/{each.connection}" if several else each.connection,
            each.peer,
            each.listener,
            each.state,
            tag("td", format_duration(each.seconds), class_="number"),
            size(each.bytes),
            *(each.facts.get(name, "") for _, name in facts),
        )
        for each in now.newest
    ]
    heads = ("Connection", "Peer", "Listener", "State", "Age", "Echoed")
    caption = f"Newest connections, {len(rows)} of {sum(t.connections for t in now.traffic):,}"
    return table(caption, (*heads, *(head for head, _ in facts)), rows, wide=True)


STATIC = {
    f"/{name}".encode(): (
        resources.files("echod.admin").joinpath("static", name).read_bytes(),
        kind,
    )
    for name, kind in (
        ("icon.svg", "image/svg+xml"),
        ("page.css", "text/css; charset=utf-8"),
        ("page.js", "text/javascript; charset=utf-8"),
    )
}
"""What the page consists of besides, by path, with its type."""

NEARLY_FULL = 0.9

LATE_SECONDS = 0.1


def page(snapshots: Sequence[Snapshot]) -> str:
    """
    The page.

    @param snapshots: one at least.
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
    if text_response := [tag("li", each) for each in warnings(now)]:
        yield tag("ul", *text_response, class_="concerns", aria_label="What to look at")
    yield tag("div", *_plots(now), class_="plots")
    traffic = now.traffic
    yield tag(
        "div",
        listeners(now),
        processes(snapshots),
        reasons("Ended", [(each.listener, each.closed) for each in traffic]),
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
    What somebody should look at, in words.
    """
    connections = sum(each.connections for each in now.traffic)
    if connections >= now.max_connections * NEARLY_FULL:
        yield f"{connections:,} of {now.max_connections:,} connections: those beyond are refused"
    for each in now.certificates:
        days = days_left(each, now.taken)
        about = f"the certificate for {', '.join(each.names) or 'no name'}"
        if now.taken < each.not_before:
            yield f"{about} is not valid before {format_date(each.not_before)}: {each.path}"
        elif each.ends_soon(now.taken):
            ends = "has ended" if days < 0 else f"ends in {days} days" if days else "ends today"
            yield f"{about} {ends}: {each.path}"
    if now.log_dropped:
        yield f"{now.log_dropped:,} log records could not be written"
    worst = max((each.lag for each in now.history[-60:]), default=0.0)
    if worst >= LATE_SECONDS:
        yield f"in the last minute all clients once waited for {format_delay(worst)}"


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
        f"{format_size(echoed)} in all",
    )
    yield plot(
        "Refused",
        [each.refused for each in history],
        f"{format_number(refused_now)}/s",
        lambda value: f"{format_number(value)}/s",
        10,
        f"{format_number(refused)} in all",
    )
    yield plot(
        "Lag of the loop",
        [each.lag for each in history],
        format_delay(now.lag_last),
        format_delay,
        0.01,
        "that a client waits longer",
    )


def page_json(snapshots: Sequence[Snapshot]) -> str:
    """
    What the page shows, as JSON: the fields of a L{Snapshot} of all processes together, each
    process in C{processes}, and why they cannot serve, if they cannot, in C{not_ready}.

    @param snapshots: one at least.
    """
    shown = dict(vars(aggregate(snapshots)), not_ready=not_ready(snapshots))
    del shown["worker"], shown["process"]
    shown["processes"] = [
        {
            "worker": each.worker,
            "connections": sum(one.connections for one in each.traffic),
            "lag_last": each.lag_last,
            **vars(each.process),
        }
        for each in snapshots
    ]
    shown["history"] = [each._asdict() for each in shown["history"]]
    return json.dumps(shown, default=vars, separators=(",", ":"))
