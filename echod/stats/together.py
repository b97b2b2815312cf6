"""
Several processes seen as one.

The rule of this room: counts are added, and of what is a state the worst is told.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import zip_longest

from echod.stats.snapshot import (
    Distribution,
    Handshakes,
    Listening,
    Sample,
    Served,
    Snapshot,
    Traffic,
)


def not_ready(snapshots: Sequence[Snapshot]) -> str:
    """
    Why they cannot serve, in words; nothing when all of them can.
    """
    for each in snapshots:
        if why := each.not_ready():
            return why if each.worker is None else f"worker {each.worker}: {why}"
    return "" if snapshots else "no worker answers"


def together(snapshots: Sequence[Snapshot]) -> Snapshot:
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
        seconds=_distribution([each.seconds for each in snapshots]),
        handshakes=_handshakes(one for each in snapshots for one in each.handshakes),
        certificates=_certificates(one for each in snapshots for one in each.certificates),
        lag=_distribution([each.lag for each in snapshots]),
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


def _listeners(listeners: Iterable[Listening]) -> list[Listening]:
    # What is bound in one process serves, whichever other does not answer; not_ready()
    # tells of that one.
    found = dict.fromkeys(listeners)
    bound = {(each.name, each.option) for each in found if each.address is not None}
    return [each for each in found if each.address or (each.name, each.option) not in bound]


def _traffic(traffic: Iterable[Traffic]) -> list[Traffic]:
    by_name: dict[str, list[Traffic]] = {}
    for each in traffic:
        by_name.setdefault(each.listener, []).append(each)
    return [
        Traffic(
            listener=name,
            connections=sum(each.connections for each in group),
            opened=sum(each.opened for each in group),
            echoed_bytes=sum(each.echoed_bytes for each in group),
            closed=_added(each.closed for each in group),
            refused=_added(each.refused for each in group),
        )
        for name, group in by_name.items()
    ]


def _distribution(each: Sequence[Distribution]) -> Distribution:
    counts = [sum(column) for column in zip(*(one.counts for one in each), strict=True)]
    return Distribution(each[0].bounds, counts, sum(one.sum for one in each))


def _handshakes(handshakes: Iterable[Handshakes]) -> list[Handshakes]:
    total: Counter[tuple[str, str]] = Counter()
    for each in handshakes:
        total[each.result, each.version] += each.count
    return [Handshakes(*key, count) for key, count in total.items()]


def _certificates(certificates: Iterable[Served]) -> list[Served]:
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
