"""
Metrics for Prometheus, in its text format and in OpenMetrics.

Invariant: no label has a value that a client sent, so the cost of a scrape does not grow with the
number of clients.

No other module imports C{prometheus_client}.
"""

from collections.abc import Iterator, Sequence

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from echod.stats.snapshot import CertificateInfo, HistogramData, Snapshot

Values = Sequence[tuple[list[str], float]]
"""The values of a metric, each with the values of its labels."""


def render_metrics(snapshots: Sequence[Snapshot], accept: str) -> tuple[bytes, str]:
    """
    The response to a scrape.

    @param accept: the C{Accept} header of the request.
    @return: the body and its content type.
    """
    try:
        encode, content_type = choose_encoder(accept)
    except (TypeError, ValueError):
        # The Accept header has a version that is not a number.
        encode, content_type = choose_encoder("")
    return encode(SnapshotCollector(snapshots)), content_type


class SnapshotCollector(Collector):
    """
    The metrics of one process, or of several workers, with a label C{worker}.
    """

    def __init__(self, snapshots: Sequence[Snapshot]):
        self._snapshots = snapshots
        self._labels = ["worker"] if any(each.worker is not None for each in snapshots) else []

    def collect(self) -> Iterator[Metric]:
        """
        The metrics, each with its samples.
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
            [(self._labeled(s, t.listener), t.connections) for s, t in traffic],
        )
        yield self._gauge(
            "echod_max_connections",
            "Limit on connections, for all listeners together.",
            [],
            [(self._labeled(s), s.max_connections) for s in self._snapshots],
        )

        yield self._counter(
            "echod_connections_accepted_total",
            "Connections that were accepted.",
            listener,
            [(self._labeled(s, t.listener), t.opened) for s, t in traffic],
        )
        reason = ["listener", "reason"]
        yield self._counter(
            "echod_connections_closed_total",
            "Connections that were closed, by reason.",
            reason,
            [(self._labeled(s, t.listener, r), n) for s, t in traffic for r, n in t.closed.items()],
        )
        yield self._counter(
            "echod_connections_refused_total",
            "Connections that were refused, by reason.",
            reason,
            [
                (self._labeled(s, t.listener, r), n)
                for s, t in traffic
                for r, n in t.refused.items()
            ],
        )
        yield self._counter(
            "echod_echoed_bytes_total",
            "Bytes echoed, those of open connections included.",
            listener,
            [(self._labeled(s, t.listener), t.echoed_bytes) for s, t in traffic],
        )
        yield self._histogram(
            "echod_connection_duration_seconds",
            "How long closed connections lived.",
            [(self._labeled(s), s.seconds) for s in self._snapshots],
        )

    def _tls(self) -> Iterator[Metric]:
        yield self._counter(
            "echod_tls_handshakes_total",
            "TLS handshakes, by result and version.",
            ["result", "version"],
            [
                (self._labeled(s, each.result, each.version), each.count)
                for s in self._snapshots
                for each in s.handshakes
            ],
        )
        certificates = [
            (self._labeled(s, name), each)
            for s in self._snapshots
            for name, each in first_to_expire(s.certificates).items()
        ]
        yield self._gauge(
            "echod_certificate_not_before_timestamp_seconds",
            "When a served certificate becomes valid, in seconds since 1970.",
            ["name"],
            [(labels, each.not_before) for labels, each in certificates],
        )
        yield self._gauge(
            "echod_certificate_expiry_timestamp_seconds",
            "When a served certificate expires, in seconds since 1970.",
            ["name"],
            [(labels, each.not_after) for labels, each in certificates],
        )

    def _daemon(self) -> Iterator[Metric]:
        yield self._histogram(
            "echod_reactor_lag_seconds",
            "How late the event loop runs a timer.",
            [(self._labeled(s), s.lag) for s in self._snapshots],
        )
        yield self._counter(
            "echod_log_dropped_total",
            "Log records that were dropped.",
            [],
            [(self._labeled(s), s.log_dropped) for s in self._snapshots],
        )
        names = list(self._snapshots[0].versions) if self._snapshots else []
        yield self._gauge(
            "echod_build_info",
            "Versions of echod, Python, Twisted and OpenSSL.",
            names,
            [(self._labeled(s, *s.versions.values()), 1) for s in self._snapshots],
        )

    def _process(self) -> Iterator[Metric]:
        """
        The names are those of Prometheus's own client libraries.
        """
        processes = [(self._labeled(each), each.process) for each in self._snapshots]
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
            ("process_max_fds", "How many may be open.", "max_descriptors"),
        ):
            fields = [(labels, getattr(each, field)) for labels, each in processes]
            values = [(labels, value) for labels, value in fields if value is not None]
            if values:
                yield self._gauge(name, text, [], values)

    def _labeled(self, snapshot: Snapshot, *labels: str) -> list[str]:
        return [*labels, snapshot.worker or ""] if self._labels else [*labels]

    def _gauge(self, name: str, text: str, labels: list[str], values: Values) -> Metric:
        metric = GaugeMetricFamily(name, text, labels=[*labels, *self._labels])
        for label_values, value in values:
            metric.add_metric(label_values, value)
        return metric

    def _counter(self, name: str, text: str, labels: list[str], values: Values) -> Metric:
        metric = CounterMetricFamily(name, text, labels=[*labels, *self._labels])
        for label_values, value in values:
            metric.add_metric(label_values, value)
        return metric

    def _histogram(
        self, name: str, text: str, values: list[tuple[list[str], HistogramData]]
    ) -> Metric:
        metric = HistogramMetricFamily(name, text, labels=self._labels)
        for label_values, histogram in values:
            metric.add_metric(label_values, buckets(histogram), histogram.sum)
        return metric


def buckets(histogram: HistogramData) -> list[tuple[str, float]]:
    """
    The cumulative buckets of a histogram: how many values do not exceed each bound.
    """
    total = 0
    found: list[tuple[str, float]] = []
    for bound, count in zip([*histogram.bounds, float("inf")], histogram.counts, strict=True):
        total += count
        found.append((floatToGoString(bound), total))
    return found


def first_to_expire(certificates: Sequence[CertificateInfo]) -> dict[str, CertificateInfo]:
    """
    The certificates by their first name.  Of several with the same name, such as an RSA and an
    ECDSA certificate, the first to expire.
    """
    found: dict[str, CertificateInfo] = {}
    for each in sorted(certificates, key=lambda each: each.not_after):
        found.setdefault(each.names[0] if each.names else "", each)
    return found
