"""
Daemons with C{--admin}, and clients of it.

Invariant: every question is a real HTTP request.
"""

import http.client
import json
import socket
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from tests.support.daemons import PATIENCE_SECONDS, Daemon, connect

ADMIN = ("--admin", "tcp:0:interface=127.0.0.1")
"""The option for the admin endpoint on a free port."""

Samples = dict[tuple[Any, ...], float]


class AdminConnection(http.client.HTTPConnection):
    """
    An HTTP connection to an admin endpoint, on TCP or a UNIX socket.
    """

    def __init__(self, daemon: Daemon):
        super().__init__("localhost", timeout=PATIENCE_SECONDS)
        self._address = daemon.address("--admin")

    def connect(self) -> None:
        self.sock: socket.socket = connect(self._address)

    def get(
        self, path: str, headers: dict[str, str] | None = None, method: str = "GET"
    ) -> tuple[int, str]:
        """
        Ask, and keep the connection.

        @return: the status and the body.
        """
        self.request(method, path, headers=headers or {})
        answer = self.getresponse()
        return answer.status, answer.read().decode()


def ask(daemon: Daemon, path: str, headers: dict[str, str] | None = None) -> tuple[int, str]:
    """
    Send one request.

    @return: the status and the body.
    """
    connection = AdminConnection(daemon)
    try:
        return connection.get(path, headers)
    finally:
        connection.close()


def shown(daemon: Daemon) -> dict[str, Any]:
    """
    The figures of the status page, as JSON.
    """
    found: dict[str, Any] = json.loads(ask(daemon, "/connections")[1])
    return found


def samples(daemon: Daemon) -> Samples:
    """
    The metrics now, by name and the values of their labels, which are in alphabetical
    order of the labels' names.
    """
    _, text = ask(daemon, "/metrics")
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
