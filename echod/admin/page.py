"""
The page for people, and the same as JSON.

The rule of this room: the page is whole without its script, which only fetches it again and
takes over what is new; so all that is shown is made, and escaped, here.  Addresses in it are
relative, so that a proxy may serve it under any path.
"""

import json
from collections.abc import Iterator, Sequence
from importlib import resources

from echod._util.text import date_text, delay_text, number_text, size_text, time_text
from echod.admin import tables
from echod.admin.markup import Markup, tag
from echod.admin.plot import plot
from echod.stats.snapshot import Snapshot, not_ready, together

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
    now = together(snapshots)
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
        tag("p", f"up {time_text(now.uptime)}, {versions}"),
    )
    if said := [tag("li", each) for each in concerns(now)]:
        yield tag("ul", *said, class_="concerns", aria_label="What to look at")
    yield tag("div", *_plots(now), class_="plots")
    traffic = now.traffic
    yield tag(
        "div",
        tables.listeners(now),
        tables.processes(snapshots),
        tables.reasons("Ended", [(each.listener, each.closed) for each in traffic]),
        tables.reasons("Refused", [(each.listener, each.refused) for each in traffic]),
        *([tables.certificates(now)] if now.certificates else ()),
        *([tables.handshakes(now)] if now.handshakes else ()),
        tables.newest(now),
        class_="tables",
    )
    yield tag(
        "footer",
        tag("a", "as JSON", href="connections"),
        tag("a", "metrics", href="metrics"),
        tag("a", "ready?", href="readyz"),
        tag("a", "alive?", href="livez"),
    )


def concerns(now: Snapshot) -> Iterator[str]:
    """
    What somebody should look at, in words.
    """
    connections = sum(each.connections for each in now.traffic)
    if connections >= now.max_connections * NEARLY_FULL:
        yield f"{connections:,} of {now.max_connections:,} connections: those beyond are refused"
    for each in now.certificates:
        days = tables.days_left(each, now.taken)
        about = f"the certificate for {', '.join(each.names) or 'no name'}"
        if now.taken < each.not_before:
            yield f"{about} is not valid before {date_text(each.not_before)}: {each.path}"
        elif each.ends_soon(now.taken):
            ends = "has ended" if days < 0 else f"ends in {days} days" if days else "ends today"
            yield f"{about} {ends}: {each.path}"
    if now.log_dropped:
        yield f"{now.log_dropped:,} log records could not be written"
    worst = max((each.lag for each in now.history[-60:]), default=0.0)
    if worst >= LATE_SECONDS:
        yield f"in the last minute all clients once waited for {delay_text(worst)}"


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
        number_text(connections),
        number_text,
        10,
        f"of {now.max_connections:,}",
    )
    yield plot(
        "Echoed",
        [each.bytes for each in history],
        f"{size_text(bytes_now)}/s",
        lambda value: f"{size_text(value)}/s",
        1024,
        f"{size_text(echoed)} in all",
    )
    yield plot(
        "Refused",
        [each.refused for each in history],
        f"{number_text(refused_now)}/s",
        lambda value: f"{number_text(value)}/s",
        10,
        f"{number_text(refused)} in all",
    )
    yield plot(
        "Lag of the loop",
        [each.lag for each in history],
        delay_text(now.lag_last),
        delay_text,
        0.01,
        "that a client waits longer",
    )


def page_json(snapshots: Sequence[Snapshot]) -> str:
    """
    What the page shows, as JSON: the fields of a L{Snapshot} of all processes together, each
    process in C{processes}, and why they cannot serve, if they cannot, in C{not_ready}.

    @param snapshots: one at least.
    """
    shown = dict(vars(together(snapshots)), not_ready=not_ready(snapshots))
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
