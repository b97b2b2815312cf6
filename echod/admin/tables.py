"""
The tables of the page.

The rule of this room: each is one look at a snapshot, and none leaves out what is 0, since
that is what an operator hopes to see.
"""

from collections.abc import Sequence

from echod._util.text import date_text, delay_text, number_text, time_text
from echod.admin.html import number, size, table
from echod.admin.markup import Markup, tag
from echod.stats.snapshot import Served, Snapshot, Traffic

DAY_SECONDS = 86400


MEANINGS = {
    "client": "the client was done",
    "reset": "the client or the network broke it",
    "idle": "nothing went either way for too long",
    "lifetime": "it had lived for as long as it may",
    "write-stall": "the client took nothing of its echo",
    "drain": "the daemon was stopping",
    "aborted": "the daemon was stopping and could not wait",
    "error": "something failed; see the log",
    "address": "the address rules do not let it in",
    "max-connections": "there were as many as may be",
    "max-per-client": "it had as many as a client may have",
    "rate": "it connected too often",
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
        came = traffic.get(each.name) or Traffic(each.name, 0, 0, 0, {}, {})
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


def days_left(each: Served, now: float) -> int:
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
                tag("td", number_text(days) if days >= 0 else "ended", class_=kind),
                tag("td", date_text(each.not_after), class_="date"),
                tag("td", each.path, title=f"serial number {each.serial}"),
            )
        )
    return table("Certificates", ("Names", "Days left", "Until", "File"), rows)


def processes(snapshots: Sequence[Snapshot]) -> Markup:
    """
    What the processes take.
    """
    rows = [
        (
            each.process.pid if each.worker is None else f"{each.worker} ({each.process.pid})",
            number(sum(one.connections for one in each.traffic)),
            tag("td", delay_text(each.lag_last), class_="number"),
            tag("td", time_text(each.process.cpu_seconds), class_="number"),
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
            tag("td", time_text(each.seconds), class_="number"),
            size(each.bytes),
            *(each.facts.get(name, "") for _, name in facts),
        )
        for each in now.newest
    ]
    heads = ("Connection", "Peer", "Listener", "State", "Age", "Echoed")
    caption = f"Newest connections, {len(rows)} of {sum(t.connections for t in now.traffic):,}"
    return table(caption, (*heads, *(head for head, _ in facts)), rows, wide=True)
