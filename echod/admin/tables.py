"""
The tables of the page.

Invariant: a table is made of snapshots and of the options in force only.
"""

from collections.abc import Sequence

from echod._util.text import format_date, format_delay, format_duration, format_number
from echod.admin.html import Markup, number, size, table, tag
from echod.admin.reasons import MEANINGS
from echod.stats.snapshot import CertificateInfo, ListenerStats, OptionInfo, Snapshot

DAY_SECONDS = 86400

MAX_LAG = 0.1
"""The event-loop lag from which the page warns, in seconds."""

MAX_CLIENTS = 10
"""How many clients the page shows."""

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


def listeners(now: Snapshot, processes: int = 1) -> Markup:
    """
    The listeners, their addresses, counters, rates and peaks.

    @param processes: how many processes the snapshot is of.
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
                number(stats.connections_peak),
                number(stats.opened),
                number(stats.opened_rate),
                number(stats.opened_rate_peak),
                size(stats.echoed_bytes),
                size(stats.bytes_rate, "/s"),
                size(stats.bytes_rate_peak, "/s"),
                number(sum(stats.refused.values())),
            )
        )
    headers = (
        *("Listener", "Address", "Open", "Max open", "Accepted", "Accepted/s", "Max accepted/s"),
        *("Echoed", "Echoed/s", "Max echoed/s", "Refused"),
    )
    note = "" if processes == 1 else " (max: sum of the workers)"
    return table(f"Listeners{note}", headers, rows, wide=True)


def reasons(caption: str, counts: Sequence[tuple[str, dict[str, int]]]) -> Markup:
    """
    Connections by reason, with a column for each of two to four listeners.

    @param counts: the name of each listener, and its connections by reason.
    """
    names = list(dict.fromkeys(reason for _, each in counts for reason in each))
    columns = counts if 1 < len(counts) <= 4 else []
    rows = [
        (
            _linked(reason),
            tag("td", MEANINGS.get(reason, ""), class_="meaning"),
            *(number(each.get(reason, 0)) for _, each in columns),
            number(sum(each.get(reason, 0) for _, each in counts)),
        )
        for reason in names
    ]
    return table(caption, ("Reason", "Meaning", *(name for name, _ in columns), "Total"), rows)


def _linked(reason: str) -> object:
    return tag("a", reason, href=f"reasons#{reason}") if reason in MEANINGS else reason


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
    return int((each.not_after - now) // DAY_SECONDS)


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
            tag(
                "td",
                format_delay(each.lag_last),
                class_="number warning" if each.lag_last >= MAX_LAG else "number",
            ),
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
            number(each.seconds, format_duration(each.seconds)),
            size(each.bytes),
            *(each.facts.get(name, "") for _, name in facts),
        )
        for each in now.newest
    ]
    headers = ("Connection", "Peer", "Listener", "State", "Age", "Echoed")
    caption = f"Newest connections, {len(rows)} of {sum(t.connections for t in now.traffic):,}"
    return table(
        caption, (*headers, *(header for header, _ in facts)), rows, wide=True, sortable=True
    )


def clients(now: Snapshot) -> Markup:
    """
    The clients with the most open connections.
    """
    rows = [
        (each.client, number(each.connections), size(each.bytes))
        for each in now.clients[:MAX_CLIENTS]
    ]
    return table("Top clients, by open connections", ("Client", "Open", "Echoed by them"), rows)


def options_in_force(options: Sequence[OptionInfo]) -> Markup:
    """
    The options in force, those that were given first.
    """
    rows = [
        (each.option, each.value, "given" if each.given else "default")
        for each in sorted(options, key=lambda each: not each.given)
    ]
    made = table("Options in force", ("Option", "Value", "From"), rows)
    given = sum(each.given for each in options)
    summary = tag("summary", f"Options in force: {given} given, all others by default")
    return tag("details", summary, made, class_="wide")
