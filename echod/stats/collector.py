"""
What is watched of this process while it runs, and the one function that takes its snapshot.

Invariant: all that a snapshot tells was counted anyway, or is looked up now.
"""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any

import OpenSSL
import twisted
from twisted.application.service import MultiService
from twisted.logger import Logger

from echod import __version__
from echod._util.histogram import Histogram
from echod._util.text import escape
from echod.connections.connection import REFUSED, Connection, Reason
from echod.connections.timeouts import Activity
from echod.connections.tracker import Connections
from echod.net.listener import ListenerService
from echod.stats.eventloop import History, LoopLag
from echod.stats.process import this_process
from echod.stats.snapshot import (
    CertificateInfo,
    ConnectionInfo,
    Handshakes,
    HistogramData,
    ListenerInfo,
    ListenerStats,
    Sample,
    Snapshot,
)
from echod.tls.credentials import KeyPair

log = Logger(namespace="echod.stats")

NEWEST = 50
"""How many of the live connections are shown one by one."""

VERSIONS = {
    "version": __version__,
    "python": ".".join(map(str, sys.version_info[:3])),
    "twisted": twisted.__version__,
    "openssl": OpenSSL.SSL.SSLeay_version(OpenSSL.SSL.SSLEAY_VERSION).decode().split()[1],
}

HANDSHAKES = (("ok", "TLSv1.2"), ("ok", "TLSv1.3"), ("failed", ""))
"""What is shown with TLS even before there was one."""


class Collector(MultiService):
    """
    One process, as it is seen from outside.

    @ivar lag: how late its loop is.
    @ivar draining: whether it is being stopped.
    @ivar max_connections: how many connections there may be at once.
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
    ):
        """
        @param log_dropped: tells how many log records could not be written.
        @param now: tells the time of day, in seconds since 1970.
        """
        super().__init__()
        self._clock = clock
        self._connections = connections
        self.max_connections = max_connections
        self._listeners = listeners
        self._certificates = certificates
        self._log_dropped = log_dropped
        self._now = now
        self._started = clock.seconds()
        self.lag = LoopLag(clock)
        self.history = History(clock, self._totals)
        self.lag.setServiceParent(self)
        self.history.setServiceParent(self)

    async def snapshots(self) -> list[Snapshot]:
        """
        A snapshot of each process there is: of this one.
        """
        return [self.snapshot()]

    def snapshot(self, worker: str | None = None) -> Snapshot:
        """
        All there is to show now.

        @param worker: which of several processes this is.
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
            traffic=list(self._traffic()),
            seconds=_histogram_data(totals.seconds),
            handshakes=[
                Handshakes(result, version, totals.handshakes[result, version])
                for result, version in dict.fromkeys(
                    chain(HANDSHAKES if certificates else (), totals.handshakes)
                )
            ],
            certificates=[_served(each) for each in certificates],
            lag=_histogram_data(self.lag.histogram),
            lag_last=self.lag.last,
            log_dropped=self._log_dropped(),
            process=this_process(),
            history=list(self.history.samples),
            newest=list(self._newest()),
        )

    def _traffic(self) -> Iterator[ListenerStats]:
        connections, totals = self._connections, self._connections.totals
        live, live_bytes = connections.live()
        refused = connections.refusals.counts
        names = dict.fromkeys(each.listener_name for each in self._listeners())
        for name in names:
            # From the first scrape on, so that the first of them is a step up from 0.
            closed_here = {reason.value: 0 for reason in Reason if reason not in REFUSED}
            closed_here |= _of(name, totals.ended)
            yield ListenerStats(
                listener=escape(name),
                connections=live[name],
                opened=live[name] + sum(closed_here.values()),
                echoed_bytes=live_bytes[name] + totals.bytes_echoed[name],
                closed=closed_here,
                refused={reason.value: 0 for reason in Reason if reason in REFUSED}
                | _of(name, refused),
            )

    def _totals(self) -> Sample:
        connections = self._connections
        return Sample(
            len(connections),
            connections.bytes_echoed,
            connections.refusals.counts.total(),
            self.lag.take_worst(),
        )

    def _newest(self) -> Iterator[ConnectionInfo]:
        for connection, seen in self._connections.newest(NEWEST):
            # One that cannot be looked at must not hide all others, and the totals.
            with log.failuresHandled("while looking at a connection", event="unhandled-error"):
                yield self._connection_info(connection, seen)

    def _connection_info(self, connection: Connection, seen: Activity) -> ConnectionInfo:
        return ConnectionInfo(
            connection=seen.number,
            listener=escape(connection.listener),
            peer=connection.peer(),
            state=_state(connection),
            seconds=self._clock.seconds() - seen.opened,
            bytes=connection.bytes_echoed,
            facts=dict(connection.log_fields()),
        )


def _served(each: KeyPair) -> CertificateInfo:
    names = [escape(name) for name in each.names]
    begin, end = each.not_before.timestamp(), each.not_after.timestamp()
    return CertificateInfo(names, end, each.serial, escape(each.path), begin)


def _state(connection: Connection) -> str:
    if connection.ending:
        return "ending"
    if connection.waiting_for is not None:
        return connection.waiting_for.value
    return "paused" if connection.paused else "open"


def _of(listener: str, counts: dict[tuple[str, Reason], int]) -> dict[str, int]:
    return {reason.value: n for (name, reason), n in counts.items() if name == listener}


def _histogram_data(histogram: Histogram) -> HistogramData:
    return HistogramData([*histogram.bounds], [*histogram.counts], histogram.sum)
