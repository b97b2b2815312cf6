"""
The collector: takes the snapshot of this process.

Invariant: a snapshot costs nothing until it is taken.  Its figures are counted anyway, or looked
up at that moment.
"""

import socket
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, Protocol

import OpenSSL
import twisted
from twisted.application.service import MultiService
from twisted.logger import Logger

from echod import __version__
from echod._util.histogram import Histogram
from echod._util.text import escape
from echod.connections.connection import REFUSED, IConnection, Reason
from echod.connections.timeouts import Activity
from echod.connections.tracker import Connections
from echod.net.listener import ListenerService
from echod.stats.datagrams import DatagramStats
from echod.stats.eventloop import History, ListenerRates, ListenerTotals, LoopLag, Totals
from echod.stats.process import this_process
from echod.stats.snapshot import (
    CertificateInfo,
    ClientInfo,
    ConnectionInfo,
    Handshakes,
    HistogramData,
    ListenerInfo,
    ListenerStats,
    Sample,
    Snapshot,
    not_listening,
)
from echod.tls.credentials import KeyPair

log = Logger(namespace="echod.stats")

MAX_NEWEST = 50
"""How many live connections a snapshot lists, the newest ones."""

MAX_CLIENTS = 50
"""
How many clients a snapshot lists, those with the most connections.  The page shows fewer: the sum
over several processes needs more.
"""

VERSIONS = {
    "version": __version__,
    "python": ".".join(map(str, sys.version_info[:3])),
    "twisted": twisted.__version__,
    "openssl": OpenSSL.SSL.SSLeay_version(OpenSSL.SSL.SSLEAY_VERSION).decode().split()[1],
}

HANDSHAKES = (("ok", "TLSv1.2"), ("ok", "TLSv1.3"), ("failed", ""))
"""The results of handshakes that are counted from 0 on, so that Prometheus sees their rise."""


class IDatagramCounters(Protocol):
    """
    What the protocol of a UDP listener counts.
    """

    received: int
    bytes_echoed: int

    @property
    def echoed(self) -> int: ...


class IDatagramListener(Protocol):
    """
    A UDP listener, as the collector sees it.
    """

    option: str
    listener_name: str

    @property
    def echo(self) -> IDatagramCounters: ...
    @property
    def bound(self) -> bool: ...
    def address(self) -> str: ...
    def dropped(self) -> Mapping[Any, int]: ...


class Collector(MultiService):
    """
    Takes snapshots of this process, and measures what has to be measured over time.

    @ivar lag: the event-loop lag.
    @ivar history: the figures of the last minutes.
    @ivar draining: whether the daemon is stopping.
    @ivar max_connections: the limit on connections.
    """

    draining = False

    def __init__(
        self,
        clock: Any,
        connections: Connections,
        max_connections: int,
        listeners: Callable[[], Sequence[ListenerService]],
        certificates: Callable[[], Sequence[KeyPair]] = tuple,
        log_dropped: Callable[[], int] = int,
        now: Callable[[], float] = time.time,
        hostname: Callable[[], str] = socket.gethostname,
        udp: Sequence[IDatagramListener] = (),
    ):
        """
        @param clock: C{IReactorTime}.
        @param listeners: returns the listeners.
        @param certificates: returns the certificates that are served.
        @param log_dropped: returns how many log records were dropped.
        @param now: returns the seconds since 1970.
        @param hostname: returns the name of this machine.
        @param udp: the UDP listeners.
        """
        super().__init__()
        self._clock = clock
        self._connections = connections
        self.max_connections = max_connections
        self._listeners = listeners
        self._certificates = certificates
        self._log_dropped = log_dropped
        self._now = now
        self._udp = udp
        self._hostname = hostname
        self._started = clock.seconds()
        self.lag = LoopLag(clock)
        self.history = History(clock, self._totals)
        self.lag.setServiceParent(self)
        self.history.setServiceParent(self)

    async def snapshots(self) -> list[Snapshot]:
        """
        A snapshot of each process; here of this one only.
        """
        return [self.snapshot()]

    async def not_ready(self) -> str:
        """
        What L{readiness} says.
        """
        return self.readiness()

    def readiness(self) -> str:
        """
        Why this process cannot serve, in words; empty when it can.  It is what its snapshot says,
        without the cost of one, which grows with the number of connections.
        """
        if self.draining:
            return "draining"
        listeners = chain[ListenerService | IDatagramListener](self._listeners(), self._udp)
        return not_listening(each.option for each in listeners if not each.bound)

    def snapshot(self, worker: str | None = None) -> Snapshot:
        """
        Take a snapshot.

        @param worker: the name of this worker; C{None} in a process that is not a worker.
        """
        totals, certificates = self._connections.totals, self._certificates()
        return Snapshot(
            worker=worker,
            versions=VERSIONS,
            taken=self._now(),
            uptime=self._clock.seconds() - self._started,
            draining=self.draining,
            max_connections=self.max_connections,
            listeners=[
                ListenerInfo(
                    escape(each.listener_name),
                    each.option,
                    each.address() if each.bound else None,
                )
                for each in self._listeners()
            ],
            traffic=list(self._listener_stats()),
            seconds=_histogram_data(totals.seconds),
            handshakes=[
                Handshakes(result, version, totals.handshakes[result, version])
                for result, version in dict.fromkeys(
                    chain(HANDSHAKES if certificates else (), totals.handshakes)
                )
            ],
            certificates=[_certificate_info(each) for each in certificates],
            lag=_histogram_data(self.lag.histogram),
            lag_last=self.lag.last,
            log_dropped=self._log_dropped(),
            process=this_process(),
            history=list(self.history.samples),
            newest=list(self._newest()),
            datagrams=[_datagram_stats(each) for each in self._udp],
            clients=list(self._clients()),
            host=escape(self._hostname()),
        )

    def _listener_stats(self) -> Iterator[ListenerStats]:
        connections, totals = self._connections, self._connections.totals
        live, live_bytes = connections.live()
        refused = connections.refusals.counts
        names = dict.fromkeys(each.listener_name for each in self._listeners())
        for name in names:
            # Each reason is there from 0 on, so that Prometheus sees its first rise.
            closed = {reason.value: 0 for reason in Reason if reason not in REFUSED}
            closed |= _counts_of(name, totals.ended)
            rates = self.history.rates.get(name, ListenerRates())
            yield ListenerStats(
                listener=escape(name),
                connections=live[name],
                opened=live[name] + sum(closed.values()),
                echoed_bytes=live_bytes[name] + totals.bytes_echoed[name],
                closed=closed,
                refused={reason.value: 0 for reason in Reason if reason in REFUSED}
                | _counts_of(name, refused),
                opened_rate=rates.opened,
                bytes_rate=rates.bytes,
                connections_peak=max(rates.connections_peak, live[name]),
                opened_rate_peak=rates.opened_peak,
                bytes_rate_peak=rates.bytes_peak,
                faults={kind: n for (each, kind), n in totals.faults.items() if each == name},
            )

    def _totals(self) -> Totals:
        connections, totals = self._connections, self._connections.totals
        live, live_bytes = connections.live()
        opened, echoed = live.copy(), live_bytes + Counter(totals.bytes_echoed)
        for (name, _), number in totals.ended.items():
            opened[name] += number
        sample = Sample(
            len(connections),
            echoed.total(),
            connections.refusals.counts.total(),
            self.lag.take_max(),
        )
        return sample, {
            name: ListenerTotals(live[name], number, echoed[name])
            for name, number in opened.items()
        }

    def _newest(self) -> Iterator[ConnectionInfo]:
        for connection, activity in self._connections.newest(MAX_NEWEST):
            # A failure here must not hide the other connections and the totals.
            with log.failuresHandled("while looking at a connection", event="unhandled-error"):
                yield self._connection_info(connection, activity)

    def _clients(self) -> Iterator[ClientInfo]:
        with log.failuresHandled("while looking at the clients", event="unhandled-error"):
            for each in self._connections.busiest_clients(MAX_CLIENTS):
                yield ClientInfo(*each)

    def _connection_info(self, connection: IConnection, activity: Activity) -> ConnectionInfo:
        return ConnectionInfo(
            connection=activity.number,
            listener=escape(connection.listener),
            peer=connection.peer(),
            state=_state(connection),
            seconds=self._clock.seconds() - activity.opened,
            bytes=connection.bytes_echoed,
            facts=dict(connection.log_fields()),
        )


def _certificate_info(key_pair: KeyPair) -> CertificateInfo:
    return CertificateInfo(
        names=[escape(name) for name in key_pair.names],
        not_after=key_pair.not_after.timestamp(),
        serial=key_pair.serial,
        path=escape(key_pair.path),
        not_before=key_pair.not_before.timestamp(),
    )


def _datagram_stats(listener: IDatagramListener) -> DatagramStats:
    echo = listener.echo
    return DatagramStats(
        listener=escape(listener.listener_name),
        option=listener.option,
        address=listener.address() if listener.bound else None,
        received=echo.received,
        echoed=echo.echoed,
        echoed_bytes=echo.bytes_echoed,
        dropped={drop.value: number for drop, number in listener.dropped().items()},
    )


def _state(connection: IConnection) -> str:
    if connection.ending:
        return "ending"
    if connection.waiting_for is not None:
        return connection.waiting_for.value
    return "paused" if connection.paused else "open"


def _counts_of(listener: str, counts: dict[tuple[str, Reason], int]) -> dict[str, int]:
    return {reason.value: n for (name, reason), n in counts.items() if name == listener}


def _histogram_data(histogram: Histogram) -> HistogramData:
    return HistogramData([*histogram.bounds], [*histogram.counts], histogram.sum)
