"""
Many clients behind a faulty network, and the judgment of how each connection ended.

Invariant: a client receives a prefix of what it sent, and all of it if the connection ended
cleanly.  If it did not, a toxic or the client itself ended it; else the server has failed.
"""

import asyncio
import itertools
import random
import socket
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from OpenSSL import SSL

from tests.soak.clients import BEHAVIORS, HUNG_SECONDS, Behavior, Client, Visit
from tests.support import proxyheaders
from tests.support.clients import Connection, TLSClient
from tests.support.faultproxy import FaultProxy, Link
from tests.support.toxics import (
    DOWN,
    UP,
    Bandwidth,
    Latency,
    LimitData,
    ResetPeer,
    Slicer,
    SlowClose,
    Stall,
    Timeout,
    Toxic,
)

KIB = 1024

CLIENTS = 64
"""How many are connected at a time."""

CONDITIONS_VISITS = 100
"""After this many connections, the network's faults change."""

TOXICS: tuple[Callable[[random.Random, str], Toxic], ...] = (
    lambda rng, way: Latency(way, 0.5, rng.uniform(0.001, 0.1), 0.001),
    lambda rng, way: Bandwidth(way, 0.3, rng.choice((64, 512)) * KIB),
    lambda rng, way: Slicer(way, 0.3, rng.choice((20, 200, 1400)), 19),
    lambda rng, way: Slicer(way, 0.1, 1000, 900, 0.002),
    lambda rng, way: Stall(way, 0.2, rng.uniform(0.5, 3.0)),
    lambda rng, way: SlowClose(way, 0.3, rng.uniform(0.01, 0.5)),
    lambda rng, way: ResetPeer(way, 0.1),
    lambda rng, way: LimitData(way, 0.1),
    lambda rng, way: Timeout(way, 0.1),
)


def conditions(seed: object, era: int) -> list[Toxic]:
    """
    Choose the faults of the network for a while.
    """
    rng = random.Random(f"{seed}/conditions/{era}")
    kinds = rng.sample(TOXICS, rng.randrange(5))
    return [kind(rng, rng.choice((UP, DOWN))) for kind in kinds]


def proxy_header(rng: random.Random) -> bytes:
    """
    A PROXY header for half of the connections, none for the others.
    """
    port = rng.randrange(1, 65536)
    return rng.choice((b"", b"", proxyheaders.v1("192.0.2.7", port), proxyheaders.v2("::7", port)))


@dataclass
class Listener:
    """
    A listener of the server.

    @ivar server: its address: the path of a UNIX socket, or a host and a port.
    @ivar contexts: TLS contexts to choose from; none for plain TCP.
    """

    server: str | tuple[str, int]
    contexts: Sequence[SSL.Context] = ()
    header: Callable[[random.Random], bytes] = proxy_header


@dataclass
class Totals:
    """
    How all connections ended.

    @ivar ends: number of connections, by what ended them.
    @ivar bad: descriptions of those that only the server can have ended.
    """

    ends: Counter[str] = field(default_factory=Counter)
    behaviors: Counter[str] = field(default_factory=Counter)
    sent: int = 0
    received: int = 0
    corrupt: int = 0
    bad: list[str] = field(default_factory=list)

    def add(self, visit: Visit, link: Link) -> None:
        """
        Judge a connection.
        """
        self.behaviors[f"{visit.behavior} {visit.listener}"] += 1
        self.sent += visit.sent
        self.received += visit.received
        if not visit.exact or visit.received > visit.sent:
            self.corrupt += 1
            end = "CORRUPT"
        elif visit.whole:
            end = "whole"
        elif link.broken_by is not None:
            end = f"broken by {link.broken_by.name} {link.broken_by.stream}"
        elif visit.left:
            end = "left by the client"
        elif isinstance(visit.error, TimeoutError):
            end = "HUNG"
        else:
            end = "LOST"
        self.ends[end] += 1
        if end.isupper():
            toxics = ", ".join(map(repr, link.toxics))
            self.bad.append(f"{end}: {visit}; {link.failure or 'no failure'}; {toxics}")

    @property
    def visits(self) -> int:
        return self.ends.total()


class Soak:
    """
    Clients, a server, and the network between them.
    """

    def __init__(
        self,
        listeners: Mapping[str, Listener],
        seed: object,
        clients: int = CLIENTS,
        behaviors: Mapping[Behavior, int] = BEHAVIORS,
    ):
        """
        @param clients: how many are connected at a time.
        @param behaviors: each with its weight.
        """
        self.totals = Totals()
        self.accepted = 0
        self._listeners = listeners
        self._seed = seed
        self._clients = clients
        self._habits = behaviors
        self._numbers = itertools.count()
        self._ports: dict[str, int] = {}
        self._proxies: dict[str, FaultProxy] = {}

    async def run(self, seconds: float) -> None:
        """
        Open connections for this long, and wait for the last to end.
        """
        for name, listener in self._listeners.items():
            proxy = FaultProxy(listener.server, f"{self._seed}/{name}", listener.header)
            self._proxies[name], self._ports[name] = proxy, await proxy.start()
        until = time.monotonic() + seconds
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._clients):
                    group.create_task(self._come(until))
        finally:
            for proxy in self._proxies.values():
                await proxy.stop()
                self.accepted += proxy.accepted

    async def _come(self, until: float) -> None:
        while time.monotonic() < until:
            number = next(self._numbers)
            rng = random.Random(f"{self._seed}/visit/{number}")
            await asyncio.sleep(rng.uniform(0, 0.3))
            await self._visit(number, rng)

    async def _visit(self, number: int, rng: random.Random) -> None:
        name = rng.choice(list(self._listeners))
        listener, proxy = self._listeners[name], self._proxies[name]
        [behavior] = rng.choices(list(self._habits), list(self._habits.values()))
        visit = Visit(number, behavior.__name__, name)
        with socket.socket() as sock:
            sock.setblocking(False)
            sock.bind(("127.0.0.1", 0))
            port = sock.getsockname()[1]
            proxy.toxics = conditions(self._seed, number // CONDITIONS_VISITS)
            link = proxy.announce(port, number)
            tls = TLSClient(sock, rng.choice(listener.contexts)) if listener.contexts else None
            client = Client(tls or Connection(sock), rng, visit)
            try:
                async with asyncio.timeout(HUNG_SECONDS) as deadline:
                    client.deadline = deadline
                    await asyncio.get_running_loop().sock_connect(sock, self._address(name))
                    await client.begin()
                    await behavior(client)
            except* (OSError, SSL.Error) as errors:
                [visit.error, *_] = errors.exceptions
        self.totals.add(visit, link)

    def _address(self, name: str) -> tuple[str, int]:
        return "127.0.0.1", self._ports[name]
