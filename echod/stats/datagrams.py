"""
The figures of UDP: those of one listener, and their sum.

Invariant: they are plain data, as all of a snapshot.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class DatagramStats:
    """
    A UDP listener and its counters.

    @ivar option: the option that asked for it.
    @ivar address: where it is bound; C{None} when it is not.
    @ivar received: datagrams that came.
    @ivar echoed: those that were answered.
    @ivar echoed_bytes: the bytes in those.
    @ivar dropped: those that were not answered, by reason; and with C{receive-buffer} those that
        the kernel has discarded.
    """

    listener: str
    option: str
    address: str | None
    received: int
    echoed: int
    echoed_bytes: int
    dropped: dict[str, int]


def sum_of_processes(processes: Sequence[Sequence[DatagramStats]]) -> list[DatagramStats]:
    """
    The figures of each listener, of all processes together.  All have the same listeners in the
    same order; several listeners may have one name.
    """
    places: dict[tuple[int, str], list[DatagramStats]] = {}
    for each in processes:
        for place, one in enumerate(each):
            places.setdefault((place, one.listener), []).append(one)
    return [sum_of(group) for group in places.values()]


def sum_of_names(listeners: Sequence[DatagramStats]) -> list[DatagramStats]:
    """
    The figures of all listeners of each name together.
    """
    names: dict[str, list[DatagramStats]] = {}
    for each in listeners:
        names.setdefault(each.listener, []).append(each)
    return [sum_of(group) for group in names.values()]


def sum_of(group: Sequence[DatagramStats]) -> DatagramStats:
    """
    The sum.  Name and option are those of the first; it is bound if any is.
    """
    dropped: Counter[str] = Counter()
    for each in group:
        dropped.update(each.dropped)
    return replace(
        group[0],
        address=next((each.address for each in group if each.address is not None), None),
        received=sum(each.received for each in group),
        echoed=sum(each.echoed for each in group),
        echoed_bytes=sum(each.echoed_bytes for each in group),
        dropped=dict(dropped),
    )
