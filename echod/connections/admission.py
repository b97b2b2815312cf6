"""
Admission: which clients may connect, by address, total number, number per client, and rate.

Invariant: a client is an IPv4 address or an IPv6 /64, the smallest network that one site is given
(RFC 6177); the link-local network is no site's, and there each address is a client.  What is stored
about a client is removed when it no longer changes a decision.
"""

from collections import Counter, OrderedDict
from collections.abc import Iterable
from itertools import islice

from twisted.internet.interfaces import IAddress, IReactorTime

from echod._util.text import IP, ip_of
from echod._util.values import Network
from echod.connections.connection import Reason
from echod.connections.tracker import Connections

Client = tuple[int, int]

ROUNDING_TOKENS = 1e-4
"""By how much of a token a bucket may fall short, since times are rounded."""

MAX_EXPIRED = 2048
"""How many buckets are removed in one turn of the loop at most: this takes a millisecond."""


_LINK_LOCAL = 0xFE80 >> 6


def client_of(ip: IP) -> Client:
    """
    The client that an address belongs to: the IP version, and the address or its /64.

    All hosts of a link have the same /64, C{fe80::} (RFC 4291 2.5.6).
    """
    number = int(ip)
    if ip.version == 4 or number >> 118 == _LINK_LOCAL:
        return ip.version, number
    return 6, number >> 64


class Networks:
    """
    A set of networks.  A lookup takes as long as there are different prefix lengths.
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
    Which addresses may connect: with C{allow}, only those; never those in C{deny}.
    """

    def __init__(self, allow: Iterable[Network] = (), deny: Iterable[Network] = ()):
        self._allow = Networks(allow)
        self._deny = Networks(deny)

    def __len__(self) -> int:
        return len(self._allow) + len(self._deny)

    def admit(self, ip: IP) -> bool:
        """
        Whether this address may connect.
        """
        return ip not in self._deny and (not self._allow or ip in self._allow)


class RateLimiter:
    """
    How often a client may connect, or send a datagram: a token bucket for each client.

    @cvar max_clients: how many buckets are stored.  With more clients, the bucket of the client
        that came least recently is removed; that client then starts with a full one.
    """

    max_clients = 65536

    def __init__(self, clock: IReactorTime, rate: float, burst: int):
        """
        @param rate: connections or datagrams a second, on average.
        @param burst: connections or datagrams at once: the size of a bucket.
        """
        self._clock = clock
        self._rate = rate
        self._burst = burst
        self._buckets: OrderedDict[Client, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def _tokens(self, bucket: tuple[float, float], now: float) -> float:
        tokens, time = bucket
        return min(tokens + (now - time) * self._rate, self._burst)

    def take(self, client: Client) -> bool:
        """
        Take a token.

        @return: whether there was one.
        """
        # For each datagram: no further call.
        now, burst = self._clock.seconds(), self._burst
        before, time = self._buckets.get(client, (burst, now))
        tokens = before + (now - time) * self._rate
        if tokens > burst:
            tokens = burst
        if tokens < 1 - ROUNDING_TOKENS:
            return False
        self._buckets[client] = tokens - 1, now
        self._buckets.move_to_end(client)
        if len(self._buckets) > self.max_clients:
            self._buckets.popitem(last=False)
        return True

    def expire(self) -> None:
        """
        Remove the buckets that are full again, beginning with the least recently used.
        """
        now = self._clock.seconds()
        for bucket in list(islice(self._buckets.values(), MAX_EXPIRED)):
            if self._tokens(bucket, now) < self._burst - ROUNDING_TOKENS:
                return
            self._buckets.popitem(last=False)


class Admission:
    """
    The limits that all listeners share.

    @ivar connections: the open connections.
    @ivar counts_clients: whether L{acquire} and L{release} have to be called.
    @ivar needs_ip: whether a client may be refused for its address.
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
        @param max_connections: how many connections there may be at once.
        @param max_per_client: how many of them one client may have; 0 means no limit.
        """
        self.connections = connections
        self._max_connections = max_connections
        self._rules = rules
        self._max_per_client = max_per_client
        self._rate = rate
        self._per_client: Counter[Client] = Counter()
        self.counts_clients = max_per_client > 0
        self.needs_ip = bool(rules) or self.counts_clients or rate is not None

    def clients(self) -> int:
        """
        How many entries are stored about clients.
        """
        return len(self._per_client) + (0 if self._rate is None else len(self._rate))

    def is_full(self) -> bool:
        """
        Whether the maximum number of connections is reached.
        """
        return self.connections.count() >= self._max_connections

    def refusal(self, address: IAddress) -> Reason | None:
        """
        Why a client that connects now is refused; C{None} if it is not.

        A client on a UNIX socket has no IP address; the permissions of the socket's file limit
        access to it.
        """
        if not self.needs_ip or (ip := ip_of(address)) is None:
            return None
        if self._rules and not self._rules.admit(ip):
            return Reason.DENIED
        client = client_of(ip)
        if self.counts_clients and self._per_client[client] >= self._max_per_client:
            return Reason.MAX_PER_CLIENT
        if self._rate is not None and not self._rate.take(client):
            return Reason.CONNECT_RATE
        return None

    def acquire(self, address: IAddress) -> None:
        """
        Count a connection of an admitted client.
        """
        if (ip := ip_of(address)) is not None:
            self._per_client[client_of(ip)] += 1

    def release(self, address: IAddress) -> None:
        """
        The connection has ended; call this once for each L{acquire}.
        """
        if (ip := ip_of(address)) is not None:
            client = client_of(ip)
            self._per_client[client] -= 1
            if not self._per_client[client]:
                del self._per_client[client]

    def expire(self) -> None:
        """
        Remove what no longer changes a decision.
        """
        if self._rate is not None:
            self._rate.expire()
