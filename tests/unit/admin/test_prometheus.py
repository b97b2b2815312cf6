"""
Tests for the metrics, with Prometheus's own parsers.
"""

import re
from pathlib import Path

from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse_text
from twisted.trial.unittest import SynchronousTestCase

import echod
from echod.admin.prometheus import buckets, first_to_expire, render_metrics
from echod.stats.process import ProcessStats
from echod.stats.snapshot import CertificateInfo, Handshakes, HistogramData, ListenerStats
from tests.support.snapshots import make_snapshot

OPENMETRICS = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"

HOSTILE = 'a"} 1\n# HELP \\ \u2028'


class MetricsTests(SynchronousTestCase):
    """
    Tests for L{render_metrics}.
    """

    def scrape(self, *snapshots, accept=""):
        """
        @return: the families by name, and their samples by name and labels.
        """
        body, content_type = render_metrics(snapshots, accept)
        openmetrics = content_type.startswith("application/openmetrics-text")
        families = list((parse_openmetrics if openmetrics else parse_text)(body.decode()))
        samples = {
            (sample.name, *sample.labels.items()): sample.value
            for family in families
            for sample in family.samples
        }
        self.assertEqual(len(samples), sum(len(family.samples) for family in families))
        return families, samples

    def test_clients(self):
        """
        Connections, closes, refusals and bytes are counted by listener and reason.
        """
        _, samples = self.scrape(make_snapshot())
        tcp = ("listener", "tcp")
        for name, *labels, value in (
            ("echod_connections_active", tcp, 3),
            ("echod_connections_active", ("listener", "tls"), 1),
            ("echod_max_connections", 10_000),
            ("echod_connections_accepted_total", tcp, 10),
            ("echod_connections_closed_total", tcp, ("reason", "client"), 6),
            ("echod_connections_closed_total", ("listener", "tls"), ("reason", "reset"), 0),
            ("echod_connections_refused_total", tcp, ("reason", "connect-rate"), 2),
            ("echod_echoed_bytes_total", tcp, 123_456),
            ("echod_connection_duration_seconds_bucket", ("le", "0.1"), 1),
            ("echod_connection_duration_seconds_bucket", ("le", "10.0"), 6),
            ("echod_connection_duration_seconds_bucket", ("le", "+Inf"), 10),
            ("echod_connection_duration_seconds_count", 10),
            ("echod_connection_duration_seconds_sum", 100.25),
            ("echod_tls_handshakes_total", ("result", "ok"), ("version", "TLSv1.3"), 2),
            ("echod_tls_handshakes_total", ("result", "failed"), ("version", ""), 1),
            ("echod_certificate_expiry_timestamp_seconds", ("name", "a.example"), 1_800_864_000),
            (
                "echod_certificate_not_before_timestamp_seconds",
                ("name", "a.example"),
                1_793_088_000,
            ),
            ("echod_reactor_lag_seconds_bucket", ("le", "0.01"), 6),
            ("echod_reactor_lag_seconds_count", 6),
            ("echod_log_dropped_total", 4),
            ("echod_build_info", ("python", "3.11.7"), ("version", "0.1.0"), 1),
            ("process_cpu_seconds_total", 12.5),
            ("process_resident_memory_bytes", 30 << 20),
            ("process_virtual_memory_bytes", 90 << 20),
            ("process_start_time_seconds", 1_799_996_000),
            ("process_open_fds", 20),
            ("process_max_fds", 1024),
        ):
            self.assertEqual(samples[name, *labels], value, (name, labels))

    def test_datagrams(self):
        """
        Datagrams are counted by listener, and those that were not answered by reason.
        """
        _, samples = self.scrape(make_snapshot())
        udp = {key: value for key, value in samples.items() if key[0].startswith("echod_udp")}
        self.assertEqual(sorted(udp.values()), [0, 1, 2, 17, 20, 1234])

    def test_datagrams_of_one_name(self):
        """
        Several UDP sockets of one name are added: a label has one value.
        """
        twice = make_snapshot().datagrams * 2
        _, samples = self.scrape(make_snapshot(datagrams=twice))
        self.assertEqual(samples["echod_udp_datagrams_received_total", ("listener", "udp")], 40)

    def test_exact(self):
        """
        A large number of bytes is exact.
        """
        many = 9_007_199_254_740_991
        _, samples = self.scrape(make_snapshot(traffic=[ListenerStats("tcp", 0, 0, many, {}, {})]))
        self.assertEqual(samples["echod_echoed_bytes_total", ("listener", "tcp")], many)

    def test_types(self):
        """
        What only grows is a counter, and each metric has a help text.
        """
        body = render_metrics([make_snapshot()], "")[0].decode()
        kinds = dict(re.findall("^# TYPE (\\S+) (\\S+)$", body, re.MULTILINE))
        texts = dict(re.findall("^# HELP (\\S+) (.+)$", body, re.MULTILINE))
        self.assertEqual(set(kinds), set(texts))
        for name, kind in (
            ("echod_connections_active", "gauge"),
            ("echod_max_connections", "gauge"),
            ("echod_connections_accepted_total", "counter"),
            ("echod_connections_closed_total", "counter"),
            ("echod_connections_refused_total", "counter"),
            ("echod_echoed_bytes_total", "counter"),
            ("echod_connection_duration_seconds", "histogram"),
            ("echod_tls_handshakes_total", "counter"),
            ("echod_certificate_expiry_timestamp_seconds", "gauge"),
            ("echod_certificate_not_before_timestamp_seconds", "gauge"),
            ("echod_reactor_lag_seconds", "histogram"),
            ("echod_log_dropped_total", "counter"),
            ("echod_build_info", "gauge"),
            ("echod_udp_datagrams_dropped_total", "counter"),
            ("process_cpu_seconds_total", "counter"),
        ):
            self.assertEqual(kinds[name], kind, name)

    def test_documented(self):
        """
        The table in C{deploy/README.md} has each metric with its type and labels, and no other.
        """
        text = (Path(echod.__file__).parents[1] / "deploy" / "README.md").read_text()
        pattern = r"^\| `((?:echod|process)_\w+)` \| (\w+) \| ([^|]*)\|"
        documented = {
            (name, kind, frozenset(re.findall(r"\w+", labels)))
            for name, kind, labels in re.findall(pattern, text, re.MULTILINE)
        }
        versions = {"version": "1", "python": "3", "twisted": "26", "openssl": "3"}
        body = render_metrics([make_snapshot(versions=versions)], "")[0].decode()
        kinds = dict(re.findall(r"^# TYPE (\S+) (\S+)$", body, re.MULTILINE))
        found = set()
        for name, kind in kinds.items():
            labels = re.search(rf"^{name}(?:_bucket)?(?:{{(.*)}})? ", body, re.MULTILINE)[1] or ""
            found.add((name, kind, frozenset(re.findall(r'(\w+)="', labels)) - {"le"}))
        self.assertEqual(found, documented)

    def test_openmetrics(self):
        """
        OpenMetrics, when the scrape asks for it, has the same samples.
        """
        families, samples = self.scrape(make_snapshot(), accept=OPENMETRICS)
        _, as_text = self.scrape(make_snapshot())
        self.assertEqual(samples, as_text)
        kinds = {family.name: family.type for family in families}
        self.assertEqual(kinds["echod_connections_active"], "gauge")
        self.assertEqual(kinds["echod_connections_accepted"], "counter")
        self.assertTrue(render_metrics([make_snapshot()], OPENMETRICS)[0].endswith(b"# EOF\n"))

    def test_odd_accept(self):
        """
        Any Accept header gets a response.
        """
        for accept in ("*/*", ";;,,", "application/openmetrics-text;version=x", "\xff"):
            _, content_type = render_metrics([make_snapshot()], accept)
            self.assertTrue(content_type.startswith("text/plain; version=0.0.4"), accept)

    def test_workers(self):
        """
        Each worker has its own samples, with its label.
        """
        _, samples = self.scrape(make_snapshot(worker="0"), make_snapshot(worker="1"))
        for worker in "01":
            labels = (("listener", "tcp"), ("worker", worker))
            self.assertEqual(samples["echod_connections_active", *labels], 3)
            self.assertEqual(samples["process_open_fds", ("worker", worker)], 20)
            labels = (("le", "+Inf"), ("worker", worker))
            self.assertEqual(samples["echod_reactor_lag_seconds_bucket", *labels], 6)
        self.assertTrue(all(dict(labels)["worker"] for _, *labels in samples))

    def test_one_process(self):
        """
        Without workers there is no label C{worker}.
        """
        body, _ = render_metrics([make_snapshot()], "")
        self.assertNotIn(b"worker", body)

    def test_nobody(self):
        """
        Without snapshots there are no samples.
        """
        self.assertEqual(self.scrape()[1], {})

    def test_unknown_figures(self):
        """
        A figure that is not known has no sample.
        """
        process = ProcessStats(1, None, 1.0, None, None, None, None)
        families, _ = self.scrape(make_snapshot(process=process))
        names = {family.name for family in families if family.name.startswith("process_")}
        self.assertEqual(names, {"process_cpu_seconds"})

    def test_hostile_names(self):
        """
        A label value is escaped.
        """
        snapshot = make_snapshot(
            traffic=[ListenerStats(HOSTILE, 1, 1, 1, {HOSTILE: 1}, {})],
            certificates=[CertificateInfo([HOSTILE], 1.0, "1", "/x", 0.0)],
            handshakes=[Handshakes(HOSTILE, HOSTILE, 1)],
        )
        for accept in ("", OPENMETRICS):
            _, samples = self.scrape(snapshot, accept=accept)
            self.assertEqual(samples["echod_connections_active", ("listener", HOSTILE)], 1)

    def test_one_series_a_certificate(self):
        """
        A certificate has its first name as label; of two with the same, the first to expire
        counts.
        """
        served = [
            CertificateInfo(["a.example", "b.example"], 20.0, "1", "/x", 1.0),
            CertificateInfo(["a.example"], 10.0, "2", "/y", 2.0),
            CertificateInfo([], 30.0, "3", "/z", 3.0),
        ]
        self.assertEqual(first_to_expire(served), {"a.example": served[1], "": served[2]})

    def test_buckets(self):
        """
        Buckets are cumulative.
        """
        self.assertEqual(
            buckets(HistogramData([0.5, 1], [1, 2, 4], 0.0)),
            [("0.5", 1), ("1.0", 3), ("+Inf", 7)],
        )
