"""
What there is to show of one process at one moment, and of several together.

Invariant: a snapshot is plain data; it goes through JSON and comes back equal.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any, NamedTuple

from echod.stats.process import ProcessStats
from echod.tls.certificate import warning_seconds


@dataclass(frozen=True)
class ListenerInfo:
    """
    A listener: what it is called, the option that asked for it, and where it is bound,
    C{None} as long as it is not.
    """

    name: str
    option: str
    address: str | None


@dataclass(frozen=True)
class ListenerStats:
    """
    What has come to the listeners of one name.

    @ivar connections: how many there are now.
    @ivar opened: how many there have been: those that are, and all that ended.
    @ivar echoed_bytes: those of live connections included.
    @ivar closed: how many ended, by reason.
    @ivar refused: how many were refused, by reason; those that were refused after they had
        been accepted, for their PROXY header or handshake, count as ended as well.
    """

    listener: str
    connections: int
    opened: int
    echoed_bytes: int
    closed: dict[str, int]
    refused: dict[str, int]


@dataclass(frozen=True)
class Handshakes:
    """
    How many TLS handshakes came to this result, C{ok} or C{failed}, with this version.
    """

    result: str
    version: str
    count: int


@dataclass(frozen=True)
class CertificateInfo:
    """
    A certificate that is served, with its names, and its end and its beginning in seconds
    since 1970.
    """

    names: list[str]
    not_after: float
    serial: str
    path: str
    not_before: float

    def ends_soon(self, now: float) -> bool:
        """
        Whether it is time to warn of its end, or past that.
        """
        return self.not_after - now < warning_seconds(self.not_after - self.not_before)


@dataclass(frozen=True)
class HistogramData:
    """
    A L{Histogram<echod._util.histogram.Histogram>} at one moment.
    """

    bounds: list[float]
    counts: list[int]
    sum: float


class Sample(NamedTuple):
    """
    A second of history.

    @ivar connections: how many there were at its end.
    @ivar bytes: how many were echoed in it.
    @ivar refused: how many clients were refused in it.
    @ivar lag: the worst delay of the loop in it, in seconds.
    """

    connections: int
    bytes: float
    refused: float
    lag: float


@dataclass(frozen=True)
class ConnectionInfo:
    """
    A live connection.

    @ivar state: C{open}, C{paused} while the client does not take its echo, C{ending},
        or what it waits for: C{handshake}, C{proxy-header}.
    @ivar facts: what else its access record will tell, by name.
    """

    connection: int
    listener: str
    peer: str
    state: str
    seconds: float
    bytes: int
    facts: dict[str, str]
    worker: str | None = None


@dataclass(frozen=True)
class Snapshot:
    """
    One process at one moment.

    @ivar worker: which of several processes it is, C{None} when there is but one.
    @ivar versions: of echod and what it runs on, by name.
    @ivar taken: when, in seconds since 1970.
    @ivar uptime: seconds since the daemon was started.
    @ivar lag_last: how late the loop ran its last timer, in seconds.
    @ivar log_dropped: how many log records could not be written.
    @ivar history: a sample a second, the newest last.
    @ivar newest: the connections that were made last, the newest first.
    @ivar silent: whether it did not answer, and this is what it had told before.
    """

    worker: str | None
    versions: dict[str, str]
    taken: float
    uptime: float
    draining: bool
    max_connections: int
    listeners: list[ListenerInfo]
    traffic: list[ListenerStats]
    seconds: HistogramData
    handshakes: list[Handshakes]
    certificates: list[CertificateInfo]
    lag: HistogramData
    lag_last: float
    log_dropped: int
    process: ProcessStats
    history: list[Sample]
    newest: list[ConnectionInfo]
    silent: bool = False

    def not_ready(self) -> str:
        """
        Why it cannot serve, in words; nothing when it can.
        """
        if self.draining:
            return "draining"
        if self.silent:
            return "does not answer"
        unbound = [each.option for each in self.listeners if each.address is None]
        return f"not listening: {', '.join(unbound)}" if unbound else ""

    def to_json(self) -> str:
        """
        This snapshot in one line of JSON.
        """
        return json.dumps(self, default=vars, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | bytes) -> "Snapshot":
        """
        The snapshot that L{to_json} has written.

        @raise ValueError: when it is none.
        """
        try:
            fields = json.loads(text)
            for name, read in _PARTS.items():
                fields[name] = read(fields[name])
            return cls(**fields)
        except (TypeError, KeyError) as error:
            raise ValueError(f"not a snapshot: {error}") from None


def _each(kind: Callable[..., object]) -> Callable[[Any], list[object]]:
    return lambda values: [kind(**value) for value in values]


_PARTS: Mapping[str, Callable[[Any], object]] = {
    "listeners": _each(ListenerInfo),
    "traffic": _each(ListenerStats),
    "seconds": lambda value: HistogramData(**value),
    "handshakes": _each(Handshakes),
    "certificates": _each(CertificateInfo),
    "lag": lambda value: HistogramData(**value),
    "process": lambda value: ProcessStats(**value),
    "history": lambda values: [Sample(*value) for value in values],
    "newest": _each(ConnectionInfo),
}
"""How the fields that are records come back from JSON."""


def not_ready(snapshots: Sequence[Snapshot]) -> str:
    """
    Why they cannot serve, in words; nothing when all of them can.
    """
    for each in snapshots:
        if why := each.not_ready():
            return why if each.worker is None else f"worker {each.worker}: {why}"
    return "" if snapshots else "no worker answers"


def aggregate(snapshots: Sequence[Snapshot]) -> Snapshot:
    """
    One snapshot of them all; that of the process is the first one's.

    @param snapshots: one at least.
    """
    first = snapshots[0]
    newest = sorted(
        (replace(guest, worker=each.worker) for each in snapshots for guest in each.newest),
        key=lambda guest: guest.seconds,
    )
    return replace(
        first,
        worker=None,
        taken=max(each.taken for each in snapshots),
        uptime=max(each.uptime for each in snapshots),
        draining=any(each.draining for each in snapshots),
        max_connections=sum(each.max_connections for each in snapshots),
        listeners=_listeners(one for each in snapshots for one in each.listeners),
        traffic=_traffic(one for each in snapshots for one in each.traffic),
        seconds=_histogram_data([each.seconds for each in snapshots]),
        handshakes=_handshakes(one for each in snapshots for one in each.handshakes),
        certificates=_certificates(one for each in snapshots for one in each.certificates),
        lag=_histogram_data([each.lag for each in snapshots]),
        lag_last=max(each.lag_last for each in snapshots),
        log_dropped=sum(each.log_dropped for each in snapshots),
        history=_history([each.history for each in snapshots]),
        newest=newest[: max(len(each.newest) for each in snapshots)],
    )


def _added(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for each in counts:
        for name, number in each.items():
            total[name] += number
    return dict(total)


def _listeners(listeners: Iterable[ListenerInfo]) -> list[ListenerInfo]:
    # What is bound in one process serves, whichever other does not answer; not_ready()
    # tells of that one.
    found = dict.fromkeys(listeners)
    bound = {(each.name, each.option) for each in found if each.address is not None}
    return [each for each in found if each.address or (each.name, each.option) not in bound]


def _traffic(traffic: Iterable[ListenerStats]) -> list[ListenerStats]:
    by_name: dict[str, list[ListenerStats]] = {}
    for each in traffic:
        by_name.setdefault(each.listener, []).append(each)
    return [
        ListenerStats(
            listener=name,
            connections=sum(each.connections for each in group),
            opened=sum(each.opened for each in group),
            echoed_bytes=sum(each.echoed_bytes for each in group),
            closed=_added(each.closed for each in group),
            refused=_added(each.refused for each in group),
        )
        for name, group in by_name.items()
    ]


def _histogram_data(each: Sequence[HistogramData]) -> HistogramData:
    counts = [sum(column) for column in zip(*(one.counts for one in each), strict=True)]
    return HistogramData(each[0].bounds, counts, sum(one.sum for one in each))


def _handshakes(handshakes: Iterable[Handshakes]) -> list[Handshakes]:
    total: Counter[tuple[str, str]] = Counter()
    for each in handshakes:
        total[each.result, each.version] += each.count
    return [Handshakes(*key, count) for key, count in total.items()]


def _certificates(certificates: Iterable[CertificateInfo]) -> list[CertificateInfo]:
    return list({(each.path, each.serial): each for each in certificates}.values())


def _history(histories: Sequence[list[Sample]]) -> list[Sample]:
    # A second ago is a second ago in each, though some have not been there as long.
    nothing = Sample(0, 0.0, 0.0, 0.0)
    seconds = zip_longest(*(reversed(each) for each in histories), fillvalue=nothing)
    added = [
        Sample(
            sum(each.connections for each in second),
            sum(each.bytes for each in second),
            sum(each.refused for each in second),
            max(each.lag for each in second),
        )
        for second in seconds
    ]
    return added[::-1]
