"""
Many clients, the network that they come through, and the judgement of what became of each.

Invariant: what comes back is a prefix of what was sent, and all of it when the
end is a clean one; whose end is not has a toxic to blame, or its own client.
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

from tests.soak.clients import HABITS, Client, Habit, Visit
from tests.support import proxyheaders
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
from tests.support.wires import SecureWire, Wire

KIB = 1024

CLIENTS = 64
"""How many there are at a time."""

ERA_VISITS = 100
"""After so many visits the weather changes."""

VISIT_SECONDS = 120.0
"""How long a visit may take before it counts as one that hangs."""

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


def weather(seed: object, era: int) -> list[Toxic]:
    """
    What is wrong with the network for a while.
    """
    rng = random.Random(f"{seed}/weather/{era}")
    kinds = rng.sample(TOXICS, rng.randrange(5))
    return [kind(rng, rng.choice((UP, DOWN))) for kind in kinds]


def proxy_header(rng: random.Random) -> bytes:
    """
    What a proxy says of its client, every other time.
    """
    port = rng.randrange(1, 65536)
    return rng.choice((b"", b"", proxyheaders.v1("192.0.2.7", port), proxyheaders.v2("::7", port)))


@dataclass
class Listener:
    """
    A way to the server.

    @ivar server: where it listens: the path of a UNIX socket, or a host and a port.
    @ivar contexts: those of TLS, one of which is taken; none for plain.
    """

    server: str | tuple[str, int]
    contexts: Sequence[SSL.Context] = ()
    header: Callable[[random.Random], bytes] = proxy_header


@dataclass
class Tally:
    """
    What became of all visits.

    @ivar ends: how many, by what ended them.
    @ivar bad: those for whose end nobody is to blame but the server, in words.
    """

    ends: Counter[str] = field(default_factory=Counter)
    habits: Counter[str] = field(default_factory=Counter)
    sent: int = 0
    received: int = 0
    corrupt: int = 0
    bad: list[str] = field(default_factory=list)

    def add(self, visit: Visit, link: Link) -> None:
        """
        Judge a visit.
        """
        self.habits[f"{visit.habit} {visit.listener}"] += 1
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
    Clients, and the network between them and a server.
    """

    def __init__(
        self,
        listeners: Mapping[str, Listener],
        seed: object,
        clients: int = CLIENTS,
        habits: Mapping[Habit, int] = HABITS,
    ):
        """
        @param clients: how many there are at a time.
        @param habits: each, and how many of all clients have it.
        """
        self.tally = Tally()
        self.accepted = 0
        self._listeners = listeners
        self._seed = seed
        self._clients = clients
        self._habits = habits
        self._numbers = itertools.count()
        self._ports: dict[str, int] = {}
        self._proxies: dict[str, FaultProxy] = {}

    async def run(self, seconds: float) -> None:
        """
        Let them come for so long, and wait for the last.
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
        [habit] = rng.choices(list(self._habits), list(self._habits.values()))
        visit = Visit(number, habit.__name__, name)
        with socket.socket() as sock:
            sock.setblocking(False)
            sock.bind(("127.0.0.1", 0))
            port = sock.getsockname()[1]
            proxy.toxics = weather(self._seed, number // ERA_VISITS)
            link = proxy.announce(port, number)
            wire = SecureWire(sock, rng.choice(listener.contexts)) if listener.contexts else None
            client = Client(wire or Wire(sock), rng, visit)
            try:
                async with asyncio.timeout(VISIT_SECONDS):
                    await asyncio.get_running_loop().sock_connect(sock, self._address(name))
                    await client.wire.begin()
                    await habit(client)
            except* (OSError, SSL.Error) as errors:
                [visit.error, *_] = errors.exceptions
        self.tally.add(visit, link)

    def _address(self, name: str) -> tuple[str, int]:
        return "127.0.0.1", self._ports[name]
