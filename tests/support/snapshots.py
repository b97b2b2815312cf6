"""
Snapshots for tests: a daemon with a little of everything to show.
"""

from dataclasses import replace
from typing import Any

from echod.stats.process import ProcessStats
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
)


def make_snapshot(**fields: Any) -> Snapshot:
    """
    A snapshot of a daemon with two listeners, other fields as given.
    """
    return replace(
        Snapshot(
            worker=None,
            versions={"version": "0.1.0", "python": "3.11.7"},
            taken=1_800_000_000.0,
            uptime=3723.5,
            draining=False,
            max_connections=10_000,
            listeners=[
                ListenerInfo("tcp", "--port 9000", "127.0.0.1:9000"),
                ListenerInfo("tls", "--tls-port 9443", "127.0.0.1:9443"),
            ],
            traffic=[
                ListenerStats(
                    *("tcp", 3, 10, 123_456),
                    {"client": 6, "reset": 1},
                    {"connect-rate": 2},
                    *(2.0, 2048.0, 5, 4.0, 4096.0),
                ),
                ListenerStats("tls", 1, 2, 789, {"client": 1, "reset": 0}, {"connect-rate": 0}),
            ],
            seconds=HistogramData([0.1, 1, 10], [1, 2, 3, 4], 100.25),
            handshakes=[Handshakes("ok", "TLSv1.3", 2), Handshakes("failed", "", 1)],
            certificates=[
                CertificateInfo(
                    ["a.example", "b.example"], 1_800_864_000.0, "0A", "/etc/a.pem", 1_793_088_000.0
                )
            ],
            lag=HistogramData([0.001, 0.01], [5, 1, 0], 0.007),
            lag_last=0.0005,
            log_dropped=4,
            process=ProcessStats(77, 1_799_996_000.0, 12.5, 30 << 20, 90 << 20, 20, 1024),
            history=[Sample(2, 100.0, 0.0, 0.0), Sample(4, 5000.0, 2.0, 0.125)],
            newest=[
                ConnectionInfo(
                    12, "tls", "[2001:db8::1]:7", "open", 2.5, 789, {"tls_version": "TLSv1.3"}
                ),
                ConnectionInfo(11, "tcp", "192.0.2.1:5", "paused", 70.0, 10, {}),
            ],
            clients=[ClientInfo("192.0.2.1", 3, 110), ClientInfo("2001:db8::1", 1, 789)],
            host="echo1.example",
        ),
        **fields,
    )
