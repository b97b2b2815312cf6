"""
Clients in the middle of anything, and a stop (TERM) of their daemon.

Invariant: a client that reads gets back all that it sent before the stop, and then the end of the
stream, never a reset; so does a client that still waits in the accept queue.  The daemon then ends
without the help of an abort.
"""

import re
import signal
from contextlib import ExitStack
from typing import Any

from hypothesis import strategies as st

from tests.fuzz.clients import LISTEN, LISTENERS, MOST_SENT, TLS, Client, TLSClient, scripts
from tests.fuzz.target import play
from tests.support.certificates import make_certificate
from tests.support.daemons import Daemon
from tests.support.workers import WorkersDaemon

EXAMPLES = 3

DRAIN = ("--drain-timeout", "120")

_DRAINED = re.compile(r"drained: \d+ connections finished, (\d+) aborted")


class Stops:
    """
    A daemon for each example.
    """

    name = "stops"

    def __init__(self) -> None:
        made = make_certificate()
        self._pem = made.cert_pem + made.key_pem

    def __enter__(self) -> "Stops":
        return self

    def __exit__(self, *error: Any) -> None: ...

    def round(self, number: int) -> int:
        late = st.lists(st.sampled_from(LISTENERS[:2]), max_size=20)
        return play(
            st.tuples(st.sampled_from([1, 1, 2]), scripts, late), self._check, number, EXAMPLES
        )

    def _check(self, case: tuple[int, Any, list[str]]) -> None:
        workers, (plans, steps), late = case
        options = (*LISTEN, *TLS, *DRAIN)
        daemon = WorkersDaemon(workers, *options) if workers > 1 else Daemon(*options)
        (daemon.directory / "pem").write_bytes(self._pem)
        with ExitStack() as stack:
            stack.enter_context(daemon)
            addresses = {name: daemon.address(name) for name in LISTENERS}

            def connect(listener: str, start: int, plan: Any = (0, 0, "TLS 1.3")) -> Client:
                kind = TLSClient if "tls" in listener else Client
                client = kind(addresses[listener], start, plan[1], 0)
                stack.callback(client.socket.close)
                client.begin(plan[2])
                return client

            clients = [connect(plan[0], n * 1000, plan) for n, plan in enumerate(plans)]
            for number, (action, *arguments) in steps:
                client = clients[number % len(clients)]
                if not client.ended and action in ("send", "read", "urgent", "half_close"):
                    getattr(client, action)(*arguments)
            waiting = [connect(listener, n) for n, listener in enumerate(late)]
            for client in waiting:
                client.send(100, 100)
            daemon.signal(signal.SIGTERM)
            for client in (*clients, *waiting):
                client.settle()
                client.read(MOST_SENT)
            for client in (*clients, *waiting):
                # The daemon closes first, unless the client had closed its sending side.
                client.read_end()
                client.finish()
            daemon.wait()
            assert daemon.status == -signal.SIGTERM, daemon.status
            aborted = [int(number) for number in _DRAINED.findall(daemon.log)]
            assert aborted == [0] * workers, f"{aborted} aborted"
