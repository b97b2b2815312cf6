"""
The snapshots of several workers as one.

Invariant: a total is the sum of those of the workers, and what all of them have in common stays as
it is.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import zip_longest

from echod.stats.datagrams import sum_of_processes
from echod.stats.snapshot import (
    CertificateInfo,
    ClientInfo,
    Handshakes,
    HistogramData,
    ListenerInfo,
    ListenerStats,
    Sample,
    Snapshot,
)


def aggregate(snapshots: Sequence[Snapshot]) -> Snapshot:
    """
    One snapshot of all processes.  Its C{process} is that of the first.  A peak is the sum of the
    peaks of the processes: the true one may be lower.

    @param snapshots: at least one.
    """
    first = snapshots[0]
    newest = sorted(
        (replace(one, worker=each.worker) for each in snapshots for one in each.newest),
        key=lambda one: one.seconds,
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
        datagrams=sum_of_processes([each.datagrams for each in snapshots]),
        newest=newest[: max(len(each.newest) for each in snapshots)],
        clients=_clients(one for each in snapshots for one in each.clients),
    )


def _sum(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for each in counts:
        for name, number in each.items():
            total[name] += number
    return dict(total)


def _listeners(listeners: Iterable[ListenerInfo]) -> list[ListenerInfo]:
    # A listener that is bound in one process is shown as bound; not_ready() reports the
    # process in which it is not.
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
            closed=_sum(each.closed for each in group),
            refused=_sum(each.refused for each in group),
            opened_rate=sum(each.opened_rate for each in group),
            bytes_rate=sum(each.bytes_rate for each in group),
            connections_peak=sum(each.connections_peak for each in group),
            opened_rate_peak=sum(each.opened_rate_peak for each in group),
            bytes_rate_peak=sum(each.bytes_rate_peak for each in group),
            faults=_sum(each.faults for each in group),
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


def _clients(clients: Iterable[ClientInfo]) -> list[ClientInfo]:
    total: dict[str, ClientInfo] = {}
    for each in clients:
        before = total.get(each.client, ClientInfo(each.client, 0, 0))
        total[each.client] = ClientInfo(
            each.client, before.connections + each.connections, before.bytes + each.bytes
        )
    return sorted(total.values(), key=lambda one: (-one.connections, -one.bytes, one.client))


def _certificates(certificates: Iterable[CertificateInfo]) -> list[CertificateInfo]:
    return list({(each.path, each.serial): each for each in certificates}.values())


def _history(histories: Sequence[list[Sample]]) -> list[Sample]:
    # Aligned at the end, at the present second: a restarted worker has fewer samples.
    none = Sample(0, 0.0, 0.0, 0.0)
    seconds = zip_longest(*(reversed(each) for each in histories), fillvalue=none)
    newest_first = [
        Sample(
            sum(each.connections for each in second),
            sum(each.bytes for each in second),
            sum(each.refused for each in second),
            max(each.lag for each in second),
        )
        for second in seconds
    ]
    return newest_first[::-1]
