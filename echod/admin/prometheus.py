"""
Metrics for Prometheus, in its text format and in OpenMetrics.

Invariant: it reads snapshots, and labels nothing with what a client sent; so
what a scrape costs does not grow with the number of clients.

C{prometheus_client} is imported in this room alone, which is imported with C{--admin} alone.
"""

from collections.abc import Iterator, Sequence

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    UnknownMetricFamily,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from echod.stats.snapshot import CertificateInfo, HistogramData, Snapshot

Values = Sequence[tuple[list[str], float]]
"""The values of labels, and the value that they are for."""


def render_metrics(snapshots: Sequence[Snapshot], accept: str) -> tuple[bytes, str]:
    """
    What a scrape gets.

    @param accept: the C{Accept} of its request.
    @return: the body and its type.
    """
    try:
        encode, content_type = choose_encoder(accept)
    except (TypeError, ValueError):
        # A version that is no version.
        encode, content_type = choose_encoder("")
    openmetrics = content_type.startswith("application/openmetrics-text")
    return encode(SnapshotCollector(snapshots, openmetrics)), content_type


class SnapshotCollector(Collector):
    """
    The metrics of one process, or of several, each with a label C{worker} then.
    """

    def __init__(self, snapshots: Sequence[Snapshot], openmetrics: bool):
        """
        @param openmetrics: whether they are for that format.
        """
        self._snapshots = snapshots
        self._openmetrics = openmetrics
        self._labels = ["worker"] if any(each.worker is not None for each in snapshots) else []

    def collect(self) -> Iterator[Metric]:
        """
        All metrics, each with its samples.
        """
        yield from self._clients()
        yield from self._tls()
        yield from self._daemon()
        yield from self._process()

    def _clients(self) -> Iterator[Metric]:
        listener = ["listener"]
        traffic = [(each, one) for each in self._snapshots for one in each.traffic]

        yield self._gauge(
            "echod_connections_active",
            "Connections that are open now.",
            listener,
            [(self._of(s, t.listener), t.connections) for s, t in traffic],
        )
        yield self._gauge(
            "echod_max_connections",
            "How many connections there may be at once, for all listeners together.",
            [],
            [(self._of(s), s.max_connections) for s in self._snapshots],
        )
        opened = [(self._of(s, t.listener), t.opened) for s, t in traffic]
        text = "Connections that were accepted."
        if self._openmetrics:
            # There a counter and a gauge may not share a name, and the counter's is the
            # name without _total; under its whole name it is a metric of its own.
            unknown = UnknownMetricFamily(
                "echod_connections_accepted_total", text, labels=[*listener, *self._labels]
            )
            for labels, value in opened:
                unknown.add_metric(labels, value)
            yield unknown
        else:
            yield self._counter("echod_connections_accepted_total", text, listener, opened)
        reason = ["listener", "reason"]
        yield self._counter(
            "echod_connections_closed_total",
            "Connections that ended.",
            reason,
            [(self._of(s, t.listener, r), n) for s, t in traffic for r, n in t.closed.items()],
        )
        yield self._counter(
            "echod_connections_refused_total",
            "Connections that were refused.",
            reason,
            [(self._of(s, t.listener, r), n) for s, t in traffic for r, n in t.refused.items()],
        )
        yield self._counter(
            "echod_echoed_bytes_total",
            "Bytes echoed, those of open connections included.",
            listener,
            [(self._of(s, t.listener), t.echoed_bytes) for s, t in traffic],
        )
        yield self._histogram(
            "echod_connection_duration_seconds",
            "How long connections lived that ended.",
            [(self._of(s), s.seconds) for s in self._snapshots],
        )

    def _tls(self) -> Iterator[Metric]:
        yield self._counter(
            "echod_tls_handshakes_total",
            "TLS handshakes that came to their end, well or not.",
            ["result", "version"],
            [
                (self._of(s, each.result, each.version), each.count)
                for s in self._snapshots
                for each in s.handshakes
            ],
        )
        certificates = [
            (self._of(s, name), each)
            for s in self._snapshots
            for name, each in ends(s.certificates).items()
        ]
        yield self._gauge(
            "echod_certificate_not_before_timestamp_seconds",
            "When a certificate that is served begins to be valid, in seconds since 1970.",
            ["name"],
            [(labels, each.not_before) for labels, each in certificates],
        )
        yield self._gauge(
            "echod_certificate_expiry_timestamp_seconds",
            "When a certificate that is served ends, in seconds since 1970.",
            ["name"],
            [(labels, each.not_after) for labels, each in certificates],
        )

    def _daemon(self) -> Iterator[Metric]:
        yield self._histogram(
            "echod_reactor_lag_seconds",
            "How late the event loop runs a timer.",
            [(self._of(s), s.lag) for s in self._snapshots],
        )
        yield self._counter(
            "echod_log_dropped_total",
            "Log records that could not be written.",
            [],
            [(self._of(s), s.log_dropped) for s in self._snapshots],
        )
        names = list(self._snapshots[0].versions) if self._snapshots else []
        yield self._gauge(
            "echod_build_info",
            "What is running.",
            names,
            [(self._of(s, *s.versions.values()), 1) for s in self._snapshots],
        )

    def _process(self) -> Iterator[Metric]:
        """
        The names are those of Prometheus' own client libraries.
        """
        processes = [(self._of(each), each.process) for each in self._snapshots]
        yield self._counter(
            "process_cpu_seconds_total",
            "User and system CPU time.",
            [],
            [(labels, each.cpu_seconds) for labels, each in processes],
        )
        for name, text, field in (
            ("process_resident_memory_bytes", "Memory in use.", "resident_bytes"),
            ("process_virtual_memory_bytes", "Address space.", "virtual_bytes"),
            ("process_start_time_seconds", "The start, in seconds since 1970.", "started"),
            ("process_open_fds", "Descriptors that are open.", "descriptors"),
            ("process_max_fds", "How many may be open.", "most_descriptors"),
        ):
            told = [(labels, getattr(each, field)) for labels, each in processes]
            values = [(labels, value) for labels, value in told if value is not None]
            if values:
                yield self._gauge(name, text, [], values)

    def _of(self, snapshot: Snapshot, *labels: str) -> list[str]:
        return [*labels, snapshot.worker or ""] if self._labels else [*labels]

    def _gauge(self, name: str, text: str, labels: list[str], values: Values) -> Metric:
        metric = GaugeMetricFamily(name, text, labels=[*labels, *self._labels])
        for labelled, value in values:
            metric.add_metric(labelled, value)
        return metric

    def _counter(self, name: str, text: str, labels: list[str], values: Values) -> Metric:
        metric = CounterMetricFamily(name, text, labels=[*labels, *self._labels])
        for labelled, value in values:
            metric.add_metric(labelled, value)
        return metric

    def _histogram(
        self, name: str, text: str, values: list[tuple[list[str], HistogramData]]
    ) -> Metric:
        metric = HistogramMetricFamily(name, text, labels=self._labels)
        for labelled, distribution in values:
            metric.add_metric(labelled, buckets(distribution), distribution.sum)
        return metric


def buckets(distribution: HistogramData) -> list[tuple[str, float]]:
    """
    How many values do not exceed each bound, as Prometheus has it.
    """
    total = 0
    found: list[tuple[str, float]] = []
    for bound, count in zip([*distribution.bounds, float("inf")], distribution.counts, strict=True):
        total += count
        found.append((floatToGoString(bound), total))
    return found


def ends(certificates: Sequence[CertificateInfo]) -> dict[str, CertificateInfo]:
    """
    The certificate for each name, its first name standing for all that it has.
    Of several with the same, such as one with an RSA key and one with an elliptic curve's,
    the first to end counts.
    """
    found: dict[str, CertificateInfo] = {}
    for each in sorted(certificates, key=lambda each: each.not_after):
        found.setdefault(each.names[0] if each.names else "", each)
    return found
