"""
Clients that do anything, in any order, to a real daemon: plain and TLS, on TCP and on UNIX
sockets, behind a PROXY header or not, of one process and of several.

Invariant: what comes back is what was sent, in order, at all times.  As long as a client reads,
all of it comes back, however the other clients behave.  A client that closes its sending side gets
the rest and then the end of the stream; only one that resets or leaves ends its stream early.
"""

import re
from collections import Counter
from contextlib import ExitStack
from typing import Any

from hypothesis import strategies as st

from tests.fuzz.player import MOST_SENT, Player
from tests.fuzz.target import play
from tests.support.certificates import make_certificate
from tests.support.clients import VERSIONS
from tests.support.daemons import PATIENCE_SECONDS, Daemon, wait_until
from tests.support.phrases import PHRASE, PHRASES
from tests.support.proxyheaders import v1, v2
from tests.support.workers import WorkersDaemon

EXAMPLES = 25

LISTEN = ("--port", "0", "--interface", "127.0.0.1", "--listen", "unix:{}/plain")
TLS = ("--tls-port", "0", "--tls-cert", "{}/pem", "--tls-listen", "unix:{}/tls")
TRUST = ("--proxy-trust", "127.0.0.0/8", "--proxy-trust", "unix")

DAEMONS: dict[str, tuple[str, ...]] = {
    "alone": (),
    "optional": ("--proxy-protocol", "optional", *TRUST),
    "require": ("--proxy-protocol", "require", *TRUST),
    "workers": ("--workers", "2"),
}
"""The daemons that are played with, by their further options."""

LISTENERS = ("--port", "--listen", "--tls-port", "--tls-listen")

_RECORD = re.compile(
    rf"connection \d+ of (\S+) to \S+: (\d+) bytes echoed in [\d.]+ s, ({PHRASE})"
)


_sizes = st.one_of(
    st.integers(0, 64),
    st.integers(0, 70_000),
    st.sampled_from([1, 16384, 65536, 300_000, MOST_SENT]),
)
_pieces = st.sampled_from([1 << 20, 1 << 20, 65536, 16384, 16385, 1460, 100, 7])
_actions = st.one_of(
    st.tuples(st.just("send"), _sizes, _pieces),
    st.tuples(st.just("send"), _sizes, _pieces),
    st.tuples(st.just("send"), _sizes, st.just(1 << 20)),
    st.tuples(st.just("read"), _sizes, _pieces),
    st.tuples(st.just("read"), st.just(MOST_SENT), st.just(65536)),
    st.just(("urgent",)),
    st.just(("half_close",)),
    st.tuples(st.just("talk_on"), _sizes),
    st.sampled_from([("finish",), ("finish",), ("truncate",), ("leave", False), ("leave", True)]),
)
_clients = st.tuples(
    st.sampled_from(LISTENERS),
    st.sampled_from([0, 0, 4096]),
    st.sampled_from(sorted(VERSIONS)),
    st.sampled_from(["v1", "v2", "none"]),
    st.integers(0, 60),
)
scripts = st.tuples(
    st.lists(_clients, min_size=1, max_size=4),
    st.lists(st.tuples(st.integers(0, 3), _actions), min_size=8, max_size=60),
)
"""Clients, and what they do: the number of a client, modulo theirs, and a method of it."""


def a_daemon(*options: str) -> Daemon:
    """
    A daemon that listens in all ways.
    """
    options = (*LISTEN, *TLS, *options)
    if "--workers" in options:
        count = options.index("--workers")
        daemon: Daemon = WorkersDaemon(
            int(options[count + 1]), *options[:count], *options[count + 2 :]
        )
    else:
        daemon = Daemon(*options)
    made = make_certificate()
    (daemon.directory / "pem").write_bytes(made.cert_pem + made.key_pem)
    return daemon


class Clients:
    """
    Several daemons, and clients of each.
    """

    name = "clients"

    def __init__(self) -> None:
        self._daemons = {name: a_daemon(*options) for name, options in DAEMONS.items()}
        self._stack = ExitStack()

    def __enter__(self) -> "Clients":
        with ExitStack() as stack:
            for daemon in self._daemons.values():
                stack.enter_context(daemon)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        # Looks for tracebacks in the logs.
        self._stack.__exit__(*error)

    def round(self, number: int) -> int:
        script = st.tuples(st.sampled_from(sorted(DAEMONS)), scripts)
        return play(script, self._check, number, EXAMPLES)

    def _check(self, case: tuple[str, tuple[list[Any], list[Any]]]) -> None:
        name, (plans, steps) = case
        daemon = self._daemons[name]
        logged = len(daemon.log)
        clients: list[Player | None] = [None] * len(plans)
        over: list[Player] = []
        try:
            for number, (action, *arguments) in steps:
                index = number % len(plans)
                client = clients[index]
                if client is None:
                    client = clients[index] = self._connect(name, index, plans[index])
                getattr(client, action)(*arguments)
                if client.ended:
                    over.append(client)
                    clients[index] = None
            # Those that are left read and close in turn, so that none depends on another.
            for client in filter(None, clients):
                client.finish()
                over.append(client)
        finally:
            for client in (*over, *filter(None, clients)):
                client.socket.close()
        self._look_at_log(daemon, logged, over)

    def _connect(self, name: str, index: int, plan: tuple[str, int, str, str, int]) -> Player:
        listener, receive_buffer, version, header, cut = plan
        address = self._daemons[name].address(listener)
        player = Player(address, index * 1000, receive_buffer, version if "tls" in listener else "")
        if "--proxy-protocol" in DAEMONS[name] and (header != "none" or name == "require"):
            # With its own port, so that its record can be found.
            port = int(player.peer.rpartition(":")[2] or 9)
            player.begin((v1 if header == "v1" else v2)("127.0.0.1", port), cut)
        else:
            player.begin()
        return player

    def _look_at_log(self, daemon: Daemon, logged: int, over: list[Player]) -> None:
        """
        Each connection that its client ended as it should has a record that says so.
        """
        expected = Counter(
            (client.peer, str(client.sent), PHRASES["client"])
            for client in over
            if client.peer and client.sent and not (client.left or client.talked)
        )
        found: Counter[tuple[str, ...]] = Counter()

        def logs_all() -> bool:
            nonlocal found
            found = Counter(_RECORD.findall(daemon.log[logged:]))
            return expected <= found

        try:
            wait_until(logs_all, "the records", PATIENCE_SECONDS)
        except AssertionError as error:
            raise AssertionError(f"{error}: {expected - found} is not in {found}") from None
