"""
Who may come in: by address, so many in all, so many for each client, and so often.

Invariant: a client is an IPv4 address or an IPv6 /64, the least that one
party is given (RFC 6177); and what is remembered of it is forgotten when it no longer
matters.
"""

from collections import Counter, OrderedDict
from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network

from twisted.internet.interfaces import IAddress, IReactorTime

from echod._util.text import IP, ip_of
from echod.connections.connection import Reason
from echod.connections.tracker import Connections

Network = IPv4Network | IPv6Network
Client = tuple[int, int]

LENT_TOKENS = 1e-4
"""What a bucket may owe, for what the arithmetic of times loses by rounding."""


def client_of(ip: IP) -> Client:
    """
    The client that an address belongs to.
    """
    return (4, int(ip)) if ip.version == 4 else (6, int(ip) >> 64)


class Networks:
    """
    A set of networks; asking it takes as long as it has different prefix lengths.
    """

    def __init__(self, networks: Iterable[Network]):
        self._prefixes: dict[tuple[int, int], set[int]] = {}
        for network in networks:
            host_bits = network.max_prefixlen - network.prefixlen
            prefixes = self._prefixes.setdefault((network.version, host_bits), set())
            prefixes.add(int(network.network_address) >> host_bits)

    def __len__(self) -> int:
        return sum(map(len, self._prefixes.values()))

    def __contains__(self, ip: IP) -> bool:
        number = int(ip)
        return any(
            version == ip.version and number >> host_bits in prefixes
            for (version, host_bits), prefixes in self._prefixes.items()
        )


class AccessRules:
    """
    Which addresses may come in: with C{allow}, those alone; never those of C{deny}.
    """

    def __init__(self, allow: Iterable[Network] = (), deny: Iterable[Network] = ()):
        self._allow = Networks(allow)
        self._deny = Networks(deny)

    def __len__(self) -> int:
        return len(self._allow) + len(self._deny)

    def admit(self, ip: IP) -> bool:
        """
        Whether this one may.
        """
        return ip not in self._deny and (not self._allow or ip in self._allow)


class RateLimiter:
    """
    How often a client may connect: a token bucket for each.

    @cvar most: how many buckets there may be.  When there are more clients than that, the
        one that was away longest is forgotten, which can only be to its advantage.
    """

    most = 65536

    def __init__(self, clock: IReactorTime, rate: float, burst: int):
        """
        @param rate: connections a second, in the long run.
        @param burst: connections at once.
        """
        self._clock = clock
        self._rate = rate
        self._burst = burst
        self._buckets: OrderedDict[Client, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def _tokens(self, bucket: tuple[float, float], now: float) -> float:
        tokens, then = bucket
        return min(tokens + (now - then) * self._rate, self._burst)

    def take(self, client: Client) -> bool:
        """
        Take a token, if there is one.
        """
        now = self._clock.seconds()
        tokens = self._tokens(self._buckets.get(client, (self._burst, now)), now)
        if tokens < 1 - LENT_TOKENS:
            return False
        self._buckets[client] = tokens - 1, now
        self._buckets.move_to_end(client)
        if len(self._buckets) > self.most:
            self._buckets.popitem(last=False)
        return True

    def expire(self) -> None:
        """
        Forget the clients whose buckets are full, from those on who were away longest.
        """
        now = self._clock.seconds()
        while self._buckets:
            longest_away = next(iter(self._buckets.values()))
            if self._tokens(longest_away, now) < self._burst - LENT_TOKENS:
                return
            self._buckets.popitem(last=False)


class Admission:
    """
    The limits of all listeners together.

    @ivar connections: the live set.
    @ivar counts_clients: whether L{acquire} and L{release} are to be called.
    """

    def __init__(
        self,
        connections: Connections,
        max_connections: int,
        rules: AccessRules | None = None,
        max_per_client: int = 0,
        rate: RateLimiter | None = None,
    ):
        """
        @param max_connections: how many there may be at once.
        @param max_per_client: how many of one client; 0 sets no limit.
        """
        self.connections = connections
        self._max_connections = max_connections
        self._rules = rules
        self._max_per_client = max_per_client
        self._rate = rate
        self._of_client: Counter[Client] = Counter()
        self.counts_clients = max_per_client > 0
        self._asks_who = bool(rules) or self.counts_clients or rate is not None

    def clients(self) -> int:
        """
        How many clients are remembered.
        """
        return len(self._of_client) + (0 if self._rate is None else len(self._rate))

    def is_full(self) -> bool:
        """
        Whether there are as many connections as may be.
        """
        return len(self.connections) >= self._max_connections

    def refusal(self, address: IAddress) -> Reason | None:
        """
        Why a client that connects now is not let in, C{None} if it is.

        A peer on a UNIX socket has no IP address; the mode of the socket's file is what
        keeps others out.
        """
        if not self._asks_who or (ip := ip_of(address)) is None:
            return None
        if self._rules and not self._rules.admit(ip):
            return Reason.DENIED
        client = client_of(ip)
        if self.counts_clients and self._of_client[client] >= self._max_per_client:
            return Reason.MAX_PER_CLIENT
        if self._rate is not None and not self._rate.take(client):
            return Reason.CONNECT_RATE
        return None

    def acquire(self, address: IAddress) -> None:
        """
        A client has been let in.
        """
        if (ip := ip_of(address)) is not None:
            self._of_client[client_of(ip)] += 1

    def release(self, address: IAddress) -> None:
        """
        It is gone; to be called once for each L{acquire}.
        """
        if (ip := ip_of(address)) is not None:
            client = client_of(ip)
            self._of_client[client] -= 1
            if not self._of_client[client]:
                del self._of_client[client]

    def expire(self) -> None:
        """
        Forget what no longer matters.
        """
        if self._rate is not None:
            self._rate.expire()
