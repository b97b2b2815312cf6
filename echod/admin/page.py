"""
The page: the snapshots of all processes as HTML for people, and as JSON for programs.

The page comes first, then its warnings and its plots; L{echod.admin.tables} has its tables.

Invariant: the page is made of snapshots and of the options in force only.
"""

import json
import re
from collections.abc import Iterator, Sequence
from importlib import resources

from echod._util.text import format_date, format_delay, format_duration, format_number, format_size
from echod.admin.html import BYTES, COUNT, RATE, SECONDS, Markup, document, plot, tag
from echod.admin.reasons import reasons_page
from echod.admin.tables import (
    MAX_LAG,
    certificates,
    clients,
    datagrams,
    days_left,
    faults,
    handshakes,
    listeners,
    newest,
    options_in_force,
    processes,
    reasons,
)
from echod.stats.aggregate import aggregate
from echod.stats.snapshot import OptionInfo, Sample, Snapshot, not_ready

NEARLY_FULL = 0.9
"""The share of C{--max-connections} from which the page warns."""

_PORT = re.compile(":[0-9]+$")

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

STATIC[b"/reasons"] = reasons_page().encode(), "text/html; charset=utf-8"


def page(snapshots: Sequence[Snapshot], options: Sequence[OptionInfo] = ()) -> str:
    """
    The page.

    @param snapshots: at least one.
    @param options: the options in force.
    """
    now, why = aggregate(snapshots), not_ready(snapshots)
    state = f"{why} - " if why else ""
    return document(
        f"{state}{place(now)} - echod",
        _content(snapshots, now, options),
        tag("script", src="page.js", defer=True),
        tag("noscript", tag("meta", http_equiv="refresh", content="10")),
    )


def place(now: Snapshot) -> str:
    """
    The host and the port of the first listener, which tell one daemon's page from another's.
    """
    for each in now.listeners:
        if each.address is not None:
            port = _PORT.search(each.address)
            return f"{now.host}{port[0]}" if port else f"{now.host} {each.address}"
    return now.host


def page_json(snapshots: Sequence[Snapshot], options: Sequence[OptionInfo] = ()) -> str:
    """
    The page as JSON: the fields of the aggregated L{Snapshot}; C{processes}, with the figures of
    each process; C{not_ready}, with the text of L{not_ready}; and C{options}.

    @param snapshots: at least one.
    @param options: the options in force.
    """
    fields = dict(vars(aggregate(snapshots)), not_ready=not_ready(snapshots), options=options)
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


def _content(
    snapshots: Sequence[Snapshot], now: Snapshot, options: Sequence[OptionInfo]
) -> Iterator[Markup]:
    why = not_ready(snapshots)
    versions = ", ".join(
        f"{name} {version}" for name, version in now.versions.items() if name != "version"
    )
    yield tag(
        "header",
        tag("h1", "echod ", tag("span", place(now))),
        tag("p", why or "ready", class_="state warning" if why else "state", role="status"),
        tag(
            "nav",
            tag("a", "metrics", href="metrics"),
            tag("a", "JSON", href="connections"),
            tag("a", "reasons", href="reasons"),
            tag("a", "ready?", href="readyz"),
            tag("a", "alive?", href="livez"),
        ),
        tag(
            "p",
            f"up {format_duration(now.uptime)} at ",
            tag("time", format_date(now.taken)),
            f"; version {now.versions['version']}, {versions}",
            class_="versions",
        ),
    )
    if items := [tag("li", each) for each in warnings(now)]:
        yield tag("ul", *items, class_="warnings", aria_label="Warnings")
    yield tag("div", *_plots(now), class_="plots")
    traffic = now.traffic
    yield tag(
        "div",
        listeners(now, len(snapshots)),
        reasons("Closed", [(each.listener, each.closed) for each in traffic]),
        reasons("Refused", [(each.listener, each.refused) for each in traffic]),
        *([faults(now)] if any(each.faults for each in traffic) else ()),
        clients(now),
        processes(snapshots),
        *([certificates(now)] if now.certificates else ()),
        *([handshakes(now)] if now.handshakes else ()),
        *([datagrams(now)] if now.datagrams else ()),
        newest(now),
        *([options_in_force(options)] if options else ()),
        class_="tables",
    )


def open_connections(now: Snapshot) -> int:
    """
    The live connections of all listeners.
    """
    return sum(each.connections for each in now.traffic)


def max_lag(now: Snapshot) -> float:
    """
    The maximum event-loop lag of the last minute, in seconds.
    """
    return max((now.lag_last, *(each.lag for each in now.history[-60:])))


def limit_used(now: Snapshot) -> str:
    """
    How much of C{--max-connections} is used, such as C{91 %}; never rounded up to all of it.
    """
    return f"{open_connections(now) * 100 // max(1, now.max_connections)} %"


def warnings(now: Snapshot) -> Iterator[str]:
    """
    What the operator may have to act on, in words.
    """
    connections = open_connections(now)
    if connections >= now.max_connections:
        yield f"{connections:,} connections: the limit is reached, further clients are refused"
    elif connections >= now.max_connections * NEARLY_FULL:
        limit = f"{limit_used(now)} of the limit, {now.max_connections:,}"
        yield f"{connections:,} connections: {limit}"
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
    lag = max_lag(now)
    if lag >= MAX_LAG:
        yield f"the event-loop lag was {format_delay(lag)} in the last minute"


def _plots(now: Snapshot) -> Iterator[Markup]:
    history = now.history
    connections = open_connections(now)
    refused = sum(sum(each.refused.values()) for each in now.traffic)
    echoed = sum(each.echoed_bytes for each in now.traffic)
    last = history[-1] if history else Sample(0, 0.0, 0.0, 0.0)
    yield plot(
        "Connections",
        [each.connections for each in history],
        format_number(connections),
        COUNT,
        10,
        f"{limit_used(now)} of {now.max_connections:,}",
        warns=connections >= now.max_connections * NEARLY_FULL,
    )
    yield plot(
        "Echoed",
        [each.bytes for each in history],
        BYTES.format(last.bytes),
        BYTES,
        1024,
        f"{format_size(echoed)} in total",
    )
    yield plot(
        "Refused",
        [each.refused for each in history],
        RATE.format(last.refused),
        RATE,
        10,
        f"{format_number(refused)} in total",
    )
    yield plot(
        "Event-loop lag",
        [each.lag for each in history],
        format_delay(now.lag_last),
        SECONDS,
        0.01,
        "added latency",
        warns=max_lag(now) >= MAX_LAG,
    )
