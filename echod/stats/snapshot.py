"""
Snapshots: the figures of one process at one moment, and the aggregate of several processes.

The records come first, from the listener to the whole snapshot; then L{not_ready} and
L{aggregate}, which take the snapshots of all workers.

Invariant: a snapshot is plain data; it goes through JSON and comes back equal.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, NamedTuple

from echod.stats.datagrams import DatagramStats
from echod.stats.process import ProcessStats
from echod.tls.certificate import warning_seconds


@dataclass(frozen=True)
class OptionInfo:
    """
    An option in force.

    @ivar option: such as C{--port}.
    @ivar given: whether it stands on the command line.
    """

    option: str
    value: str
    given: bool


@dataclass(frozen=True)
class ListenerInfo:
    """
    A listener.

    @ivar option: the option that asked for it.
    @ivar address: where it is bound; C{None} when it is not.
    """

    name: str
    option: str
    address: str | None


@dataclass(frozen=True)
class ListenerStats:
    """
    The counters of all listeners of one name.

    @ivar connections: live connections.
    @ivar opened: live and closed connections.
    @ivar echoed_bytes: bytes echoed, also by live connections.
    @ivar closed: closed connections, by reason.
    @ivar refused: refused connections, by reason.  Those that were refused for their PROXY
        header or handshake, after they were accepted, count as closed as well.
    @ivar opened_rate: connections accepted in the last second.
    @ivar bytes_rate: bytes echoed in the last second.
    @ivar connections_peak: the most live connections at the end of any second since the start.
    @ivar opened_rate_peak: the most connections accepted in any second since the start.
    @ivar bytes_rate_peak: the most bytes echoed in any second since the start.
    @ivar faults: connections that got a fault on purpose, by its kind.
    """

    listener: str
    connections: int
    opened: int
    echoed_bytes: int
    closed: dict[str, int]
    refused: dict[str, int]
    opened_rate: float = 0.0
    bytes_rate: float = 0.0
    connections_peak: int = 0
    opened_rate_peak: float = 0.0
    bytes_rate_peak: float = 0.0
    faults: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Handshakes:
    """
    How many TLS handshakes had one result and version.

    @ivar result: C{ok} or C{failed}.
    @ivar version: such as C{TLSv1.3}; empty when the handshake failed.
    """

    result: str
    version: str
    count: int


@dataclass(frozen=True)
class CertificateInfo:
    """
    A certificate that is served.

    @ivar not_after: its expiry, in seconds since 1970.
    @ivar not_before: when it becomes valid, in seconds since 1970.
    """

    names: list[str]
    not_after: float
    serial: str
    path: str
    not_before: float

    def ends_soon(self, now: float) -> bool:
        """
        Whether the certificate has expired, or it is time to warn of its expiry.

        @param now: seconds since 1970.
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
    One second of the history.

    @ivar connections: live connections at its end.
    @ivar bytes: bytes echoed in it.
    @ivar refused: connections refused in it.
    @ivar lag: the maximum event-loop lag in it, in seconds.
    """

    connections: int
    bytes: float
    refused: float
    lag: float


@dataclass(frozen=True)
class ConnectionInfo:
    """
    A live connection.

    @ivar connection: its number.
    @ivar state: C{open}; C{paused} while the client does not read its echo; C{ending}; or what
        the daemon waits for: C{handshake} or C{proxy-header}.
    @ivar seconds: its age.
    @ivar bytes: bytes echoed.
    @ivar facts: further fields of its access record, by name.
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
class ClientInfo:
    """
    The open connections of one client.

    @ivar client: its IP address; C{unix} for all clients of UNIX sockets.
    @ivar bytes: bytes echoed by these connections.
    """

    client: str
    connections: int
    bytes: int


@dataclass(frozen=True)
class Snapshot:
    """
    One process at one moment.

    @ivar worker: the name of the worker; C{None} without workers.
    @ivar versions: of echod, Python, Twisted and OpenSSL, by name.
    @ivar taken: when it was taken, in seconds since 1970.
    @ivar uptime: seconds since the daemon was started.
    @ivar traffic: the counters, by listener.
    @ivar seconds: how long closed connections lived.
    @ivar lag: the event-loop lag, in seconds.
    @ivar lag_last: the lag when it was last measured, in seconds.
    @ivar log_dropped: how many log records were dropped.
    @ivar history: a sample for each second, the newest last.
    @ivar newest: the newest live connections, the newest first.
    @ivar datagrams: the UDP listeners.
    @ivar clients: the clients with the most open connections, those with the most first.
    @ivar host: the name of this machine.
    @ivar silent: whether the worker does not answer; the figures are its last ones.
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
    clients: list[ClientInfo]
    host: str
    datagrams: list[DatagramStats] = field(default_factory=list)
    silent: bool = False

    def not_ready(self) -> str:
        """
        Why the process cannot serve, in words; empty when it can.
        """
        if self.draining:
            return "draining"
        if self.silent:
            return "does not answer"
        listeners = chain[ListenerInfo | DatagramStats](self.listeners, self.datagrams)
        return not_listening(each.option for each in listeners if each.address is None)

    def to_json(self) -> str:
        """
        This snapshot as one line of JSON.
        """
        return json.dumps(self, default=vars, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | bytes) -> "Snapshot":
        """
        Read what L{to_json} has written.

        @raise ValueError: when it is not a snapshot.
        """
        try:
            fields = json.loads(text)
            for name, read in _RECORDS.items():
                fields[name] = read(fields[name])
            return cls(**fields)
        except (TypeError, KeyError) as error:
            raise ValueError(f"not a snapshot: {error}") from None


def _each(kind: Callable[..., object]) -> Callable[[Any], list[object]]:
    return lambda values: [kind(**value) for value in values]


_RECORDS: Mapping[str, Callable[[Any], object]] = {
    "listeners": _each(ListenerInfo),
    "traffic": _each(ListenerStats),
    "seconds": lambda value: HistogramData(**value),
    "handshakes": _each(Handshakes),
    "certificates": _each(CertificateInfo),
    "lag": lambda value: HistogramData(**value),
    "process": lambda value: ProcessStats(**value),
    "history": lambda values: [Sample(*value) for value in values],
    "newest": _each(ConnectionInfo),
    "datagrams": _each(DatagramStats),
    "clients": _each(ClientInfo),
}
"""How to read the fields that are records from JSON."""


def not_listening(options: Iterable[str]) -> str:
    """
    That listeners are not bound, in words; empty without any.

    @param options: the options that ask for them.
    """
    unbound = ", ".join(options)
    return f"not listening: {unbound}" if unbound else ""


def not_ready(snapshots: Sequence[Snapshot]) -> str:
    """
    Why the daemon cannot serve, in words; empty when all its processes can.
    """
    for each in snapshots:
        if why := each.not_ready():
            return why if each.worker is None else f"worker {each.worker}: {why}"
    return "" if snapshots else "no worker answers"
