"""
A real Prometheus that scrapes a daemon at work.
"""

import json
import os
import random
import re
import threading
import time
import urllib.parse
import urllib.request
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.support import needs
from tests.support.admin import ADMIN, samples
from tests.support.daemons import (
    LOOPBACK,
    PATIENCE_SECONDS,
    Daemon,
    Process,
    Worker,
    echo,
    show,
    wait_until,
)

SECONDS = float(os.environ.get("ECHOD_TEST_PROMETHEUS_SECONDS", "8"))
"""How long it scrapes, once a second."""

SCRAPE_SECONDS = 1
"""So often it scrapes, and so long a scrape may take."""

CONFIGURATION = """
global:
  scrape_interval: {interval}s
scrape_configs:
  - job_name: echod
    static_configs:
      - targets: ["{target}"]
"""


class Prometheus(Process):
    """
    Prometheus, on a free port.
    """

    def __init__(self, target: str):
        program = needs.program("prometheus")
        super().__init__(
            program,
            "--config.file=prometheus.yml",
            "--storage.tsdb.path=data",
            "--web.listen-address=127.0.0.1:0",
        )
        (self.directory / "prometheus.yml").write_text(
            CONFIGURATION.format(interval=SCRAPE_SECONDS, target=target)
        )

    def start(self) -> None:
        super().start()
        pattern = r'msg="Listening on" address=(\S+)'
        wait_until(lambda: re.search(pattern, self.stderr), "Prometheus to listen", 60)
        found = re.search(pattern, self.stderr)
        assert found is not None
        self.url = f"http://{found[1]}/api/v1/query"
        wait_until(lambda: "Server is ready to receive" in self.stderr, "Prometheus", 60)

    def query(self, text: str) -> list[dict[str, Any]]:
        """
        Ask in its own language.

        @return: what each series has.
        """
        url = f"{self.url}?{urllib.parse.urlencode({'query': text})}"
        with urllib.request.urlopen(url, timeout=60) as answer:
            found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
        return found

    def value(self, text: str) -> float:
        """
        The value of the one series that this means.
        """
        (series,) = self.query(text)
        return float(series["value"][1])


class PrometheusTests(SynchronousTestCase):
    """
    What Prometheus knows in the end.
    """

    stream_clients = 6

    def test_scrape(self) -> None:
        """
        Each scrape that is in time finds it up, no counter ever goes back, and the bytes are what
        the clients got back.
        """
        over = threading.Event()

        def talk(daemon: Daemon, seed: int) -> tuple[int, int]:
            rng, echoed, connections = random.Random(seed), 0, 0
            while not over.is_set():
                with daemon.connect() as client:
                    connections += 1
                    for _ in range(rng.randrange(1, 200)):
                        data = rng.randbytes(rng.randrange(1, 50_000))
                        if echo(client, data) != data:
                            raise AssertionError("the echo is not what was sent")
                        echoed += len(data)
                        if over.wait(0.005):
                            break
            return echoed, connections

        with Daemon(*LOOPBACK, *ADMIN) as daemon, Prometheus(daemon.address("--admin")) as server:
            stream_clients = [
                Worker(lambda seed=seed: talk(daemon, seed))  # type: ignore[misc]
                for seed in range(self.stream_clients)
            ]
            window = f"[{round(SECONDS) + 600}s]"
            count = f"sum(count_over_time(up{window})) or vector(0)"
            until = time.monotonic() + SECONDS
            wait_until(
                lambda: time.monotonic() > until and server.value(count) > 1,
                "the end of the load",
                SECONDS + PATIENCE_SECONDS,
            )
            over.set()
            results = [stream_client.result() for stream_client in stream_clients]
            echoed, connections = (sum(column) for column in zip(*results, strict=True))  # type: ignore[call-overload]

            def last(series: str) -> float:
                # Also if the last scrape of all was late, which ends each series.
                return server.value(f"sum(last_over_time({series}{window})) or vector(0)")

            closed = 'echod_connections_closed_total{reason="client"}'
            wait_until(lambda: last(closed) == connections, "the last scrape")
            self.assertEqual(last("echod_echoed_bytes_total"), echoed)
            self.assertEqual(last("echod_connections_accepted_total"), connections)
            self.assertEqual(last("echod_connection_duration_seconds_count"), connections)
            # One that takes the whole second counts as a failure, also on a busy machine.
            failed = f"up == 0 and scrape_duration_seconds < {SCRAPE_SECONDS}"
            self.assertEqual(server.query(f"count_over_time(({failed}){window[:-1]}:1s])"), [])
            scrapes = server.value(f"count_over_time(up{window})")
            now = samples(daemon)
            names = {name for name, *_ in now}
            counters = {
                name
                for name in names
                if re.fullmatch("(echod|process)_.*_(total|bucket|count|sum)", name)
            }
            self.assertGreater(len(counters), 9)
            series = [each for name in counters for each in server.query(f"resets({name}{window})")]
            self.assertGreater(len(series), 40)
            self.assertEqual([each for each in series if each["value"][1] != "0"], [])
            # What it has stored is what is there now.
            self.assertEqual(now["echod_echoed_bytes_total", "tcp"], echoed)
            slowest = server.value(f"max_over_time(scrape_duration_seconds{window})")
            show(
                f"{scrapes:.0f} scrapes in {SECONDS:.0f} s, the slowest {slowest * 1000:.0f} ms, "
                f"{echoed:,} bytes on {connections} connections, {len(series)} series that "
                "never went back"
            )
