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

from tests.fuzz.clients import LISTENERS, a_daemon, scripts
from tests.fuzz.player import MOST_SENT, Player
from tests.fuzz.target import play

EXAMPLES = 3

DRAIN = ("--drain-timeout", "120")

_DRAINED = re.compile(r"drained: \d+ connections finished, (\d+) aborted")


class Stops:
    """
    A daemon for each example.
    """

    name = "stops"

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
        daemon = a_daemon(*DRAIN, *(("--workers", str(workers)) if workers > 1 else ()))
        with ExitStack() as stack:
            stack.enter_context(daemon)
            addresses = {name: daemon.address(name) for name in LISTENERS}

            def connect(listener: str, start: int, plan: Any = (0, 0, "TLS 1.3")) -> Player:
                version = plan[2] if "tls" in listener else ""
                player = Player(addresses[listener], start, plan[1], version)
                stack.callback(player.socket.close)
                player.begin()
                return player

            clients = [connect(plan[0], n * 1000, plan) for n, plan in enumerate(plans)]
            for number, (action, *arguments) in steps:
                client = clients[number % len(clients)]
                if not client.ended and action in ("send", "read", "urgent", "half_close"):
                    getattr(client, action)(*arguments)
            waiting = [connect(listener, n) for n, listener in enumerate(late)]
            for client in waiting:
                client.send(100, 100)
            for client in clients:
                # What of a record has come is nothing yet that could be sent back.
                client.settle()
            daemon.signal(signal.SIGTERM)
            for client in (*clients, *waiting):
                client.read(MOST_SENT)
            for client in (*clients, *waiting):
                # The daemon closes first, unless the client had closed its sending side.
                client.read_end()
                client.close()
            daemon.wait()
            assert daemon.status == -signal.SIGTERM, daemon.status
            aborted = [int(number) for number in _DRAINED.findall(daemon.log)]
            assert aborted == [0] * workers, f"{aborted} aborted"
