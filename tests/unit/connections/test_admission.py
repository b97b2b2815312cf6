"""
Which clients may connect.
"""

import random
from collections import Counter
from ipaddress import IPv4Address as IPv4, IPv6Address as IPv6, ip_address, ip_network

from hypothesis import HealthCheck, given, settings, strategies as st
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from echod._util.text import ip_of
from echod.connections.admission import (
    MAX_EXPIRED,
    AccessRules,
    Admission,
    Networks,
    RateLimiter,
    client_of,
)
from echod.connections.connection import Reason
from echod.connections.timeouts import Timeouts
from echod.connections.tracker import Connections
from tests.support.fakes import FakeConnection

LONG = 1e7
"""A clock that has run for a third of a year, in seconds."""


def networks(*texts):
    return [ip_network(text) for text in texts]


def address(host, port=40000):
    return (IPv6Address if ":" in host else IPv4Address)("TCP", host, port)


class ClientTests(SynchronousTestCase):
    """
    Which client an address belongs to.
    """

    def test_ipv4(self):
        """
        Each IPv4 address is a client.
        """
        hosts = ("192.0.2.1", "192.0.2.2", "0.0.0.0", "255.255.255.255")
        self.assertEqual(len({client_of(ip_address(host)) for host in hosts}), 4)

    def test_ipv6(self):
        """
        Each IPv6 /64 is a client.
        """
        one, same, other, another = (
            client_of(ip_address(host))
            for host in (
                "2001:db8:0:1::",
                "2001:db8:0:1:ffff:ffff:ffff:ffff",
                "2001:db8:0:2::",
                "2001:db8:0:0:ffff:ffff:ffff:ffff",
            )
        )
        self.assertEqual(one, same)
        self.assertEqual(len({one, other, another}), 3)

    def test_link_local(self):
        """
        Each link-local IPv6 address is a client: all hosts of a link are in one /64.
        """
        inside = ("fe80::1", "fe80::2", "fe80::1:0:0:1", "febf:ffff::1", "febf:ffff::2")
        outside = ("fe7f:ffff::1", "fe7f:ffff::2", "fec0::1", "fec0::2")
        clients = {client_of(ip_address(host)) for host in inside + outside}
        self.assertEqual(len(clients), len(inside) + len(outside) // 2)

    def test_versions_apart(self):
        """
        An IPv4 address and an IPv6 network with the same number are two clients.
        """
        four, six = ip_address(5), ip_address(5 << 64)
        self.assertEqual((four.version, six.version), (4, 6))
        self.assertNotEqual(client_of(four), client_of(six))


class NetworksTests(SynchronousTestCase):
    """
    A set of networks.
    """

    def test_every_prefix_length(self):
        """
        A network of any length contains its first and its last address, and not their neighbors.
        """
        for host in ("203.0.113.77", "2001:db8:1:2:3:4:5:6"):
            ip = ip_address(host)
            for length in range(ip.max_prefixlen + 1):
                network = ip_network((host, length), strict=False)
                inside = Networks([network])
                first, last = network[0], network[-1]
                self.assertTrue(first in inside and ip in inside and last in inside, network)
                for beside in (int(first) - 1, int(last) + 1):
                    if 0 <= beside < 1 << ip.max_prefixlen:
                        self.assertNotIn(type(ip)(beside), inside, network)

    def test_versions_apart(self):
        """
        A network of one version contains no address of the other, even if it contains all of its
        own.
        """
        four, six = ip_address("0.0.0.1"), ip_address("::1")
        self.assertIn(four, Networks(networks("0.0.0.0/0")))
        self.assertNotIn(six, Networks(networks("0.0.0.0/0")))
        self.assertIn(six, Networks(networks("::/0")))
        self.assertNotIn(four, Networks(networks("::/0")))

    def test_length(self):
        """
        Its length is the number of networks, each counted once.
        """
        self.assertEqual(len(Networks([])), 0)
        self.assertNotIn(ip_address("192.0.2.1"), Networks([]))
        several = networks("192.0.2.0/24", "10.0.0.0/8", "11.0.0.0/8", "::/8", "10.0.0.0/8")
        self.assertEqual(len(Networks(iter(several))), 4)

    @settings(max_examples=1000, deadline=None, derandomize=True, database=None)
    @given(st.integers(0, 2**64 - 1))
    def test_as_ipaddress(self, seed):
        """
        For any networks, an address is in one of them exactly if Python's C{ipaddress} says so.
        """
        # One number for a whole case: that costs a tenth of drawing each part of it.
        chance = random.Random(seed)

        def some_ip():
            # Most of them near each other, so that there are hits.
            near = chance.choice(("10.0.0.0", "2001:db8::", "::ffff:10.0.0.0"))
            if chance.random() < 0.7:
                return ip_address(near) + chance.randrange(8)
            make, bits = chance.choice(((IPv4, 32), (IPv6, 128)))
            return make(chance.getrandbits(bits))

        nets = []
        for _ in range(chance.randrange(7)):
            ip = some_ip()
            length = chance.choice((chance.randint(0, ip.max_prefixlen), ip.max_prefixlen - 1))
            nets.append(ip_network((ip, length), strict=False))
        found = Networks(nets)
        for ip in (some_ip() for _ in range(6)):
            expected = any(net.version == ip.version and ip in net for net in nets)
            self.assertEqual(ip in found, expected, (ip, nets))


class AccessRulesTests(SynchronousTestCase):
    """
    What the operator allows and denies.
    """

    def admitted(self, allow=(), deny=()):
        rules = AccessRules(networks(*allow), networks(*deny))
        hosts = ("192.0.2.1", "192.0.2.129", "198.51.100.1", "2001:db8::1", "2001:db9::1")
        return [host for host in hosts if rules.admit(ip_address(host))]

    def test_none(self):
        """
        Without rules every client may connect, and the set of rules is empty.
        """
        self.assertEqual(len(self.admitted()), 5)
        self.assertFalse(AccessRules())

    def test_deny(self):
        """
        Denied clients may not connect, and all others may.
        """
        self.assertEqual(
            self.admitted(deny=["192.0.2.0/25", "2001:db8::/32"]),
            ["192.0.2.129", "198.51.100.1", "2001:db9::1"],
        )
        self.assertEqual(len(AccessRules(deny=networks("192.0.2.1"))), 1)

    def test_allow(self):
        """
        With allowed networks no other client may connect, of either version.
        """
        self.assertEqual(self.admitted(allow=["192.0.2.0/25"]), ["192.0.2.1"])
        self.assertEqual(
            self.admitted(allow=["2001:db8::/31", "198.51.100.1"]),
            ["198.51.100.1", "2001:db8::1", "2001:db9::1"],
        )
        self.assertEqual(len(AccessRules(networks("192.0.2.1"))), 1)

    def test_deny_wins(self):
        """
        A client that is both allowed and denied may not connect, however specific the rules.
        """
        allow, deny = ["192.0.2.1", "192.0.2.0/24"], ["192.0.2.0/25"]
        self.assertEqual(self.admitted(allow, deny), ["192.0.2.129"])
        self.assertEqual(self.admitted(["192.0.2.1"], ["0.0.0.0/0", "::/0"]), [])
        self.assertEqual(len(AccessRules(networks(*allow), networks(*deny))), 3)


class RateLimiterTests(SynchronousTestCase):
    """
    A token bucket for each client.
    """

    def setUp(self):
        self.clock = Clock()

    def admitted(self, rate, client="one", most=100_000):
        """
        How many connections a client may open at this moment.
        """
        count = 0
        while count < most and rate.take(client):
            count += 1
        return count

    def test_burst(self):
        """
        A client may open as many connections at once as the burst, and not one more.
        """
        for uptime in (0, 0.1, 12345.678, LONG, LONG + 1 / 3):
            for per_second, burst in (
                (1.0, 1), (10.0, 10), (10.0, 50), (0.5, 1), (0.3, 100), (3.0, 1000), (7.0, 3),
                (0.001, 2), (1000.0, 1000),
            ):  # fmt: skip
                clock = Clock()
                clock.advance(uptime)
                rate = RateLimiter(clock, per_second, burst)
                self.assertEqual(self.admitted(rate), burst, (uptime, per_second))
                self.assertEqual(self.admitted(rate), 0)

    def test_big_burst_after_a_long_time(self):
        """
        A large burst is exact too, after the clock has run for long.
        """
        self.clock.advance(LONG)
        for per_second, burst in ((3.0, 5000), (7.0, 20000)):
            self.assertEqual(self.admitted(RateLimiter(self.clock, per_second, burst)), burst)

    def test_refill(self):
        """
        One more connection is allowed after each interval, and none just before.
        """
        for uptime in (0, LONG + 1 / 3):
            for per_second, burst in ((10.0, 5), (0.3, 1), (3.0, 100), (0.001, 2), (7.0, 1)):
                clock = Clock()
                clock.advance(uptime)
                rate = RateLimiter(clock, per_second, burst)
                self.admitted(rate)
                interval = 1 / per_second
                for _ in range(20):
                    clock.advance(interval * 0.999)
                    self.assertEqual(self.admitted(rate), 0, (uptime, per_second))
                    clock.advance(interval * 0.001)
                    self.assertEqual(self.admitted(rate), 1, (uptime, per_second))

    def test_in_the_long_run(self):
        """
        A client that tries all the time connects as often as the rate says, plus the burst once.
        """
        self.clock.advance(LONG)
        rate = RateLimiter(self.clock, 2.5, 10)
        admitted = self.admitted(rate)
        for _ in range(16_000):
            self.clock.advance(1 / 16)
            admitted += self.admitted(rate)
        self.assertEqual(admitted, 10 + 2500)

    def test_not_more_than_the_burst(self):
        """
        After any pause a client may open at once no more than the burst.
        """
        for uptime in (0, LONG):
            self.clock.advance(uptime)
            rate = RateLimiter(self.clock, 10.0, 5)
            self.assertEqual(self.admitted(rate), 5)
            for seconds, expected in ((0.35, 3), (0.05, 1), (0.5, 5), (0.75, 5), (1e6, 5)):
                self.clock.advance(seconds)
                self.assertEqual(self.admitted(rate), expected, (uptime, seconds))

    def test_a_refusal_costs_nothing(self):
        """
        A refused attempt does not make the client wait longer.
        """
        rate = RateLimiter(self.clock, 1.0, 1)
        self.assertTrue(rate.take("one"))
        for _ in range(15):
            self.clock.advance(1 / 16)
            self.assertFalse(rate.take("one"))
        self.clock.advance(1 / 16)
        self.assertTrue(rate.take("one"))

    def test_clients_apart(self):
        """
        Each client has a bucket of its own.
        """
        rate = RateLimiter(self.clock, 1.0, 3)
        self.assertEqual([self.admitted(rate, client) for client in "abc"], [3, 3, 3])
        self.assertEqual(len(rate), 3)

    def test_expire(self):
        """
        A full bucket is removed, and any other is kept.
        """
        rate = RateLimiter(self.clock, 2.0, 10)
        self.assertEqual(self.admitted(rate, "greedy"), 10)
        self.assertTrue(rate.take("modest"))
        self.clock.advance(0.5)
        self.assertTrue(rate.take("late"))
        rate.expire()
        # An older bucket is not full yet, so those after it are not removed either.
        self.assertEqual(len(rate), 3)
        self.clock.advance(4.25)
        rate.expire()
        self.assertEqual(len(rate), 3)
        self.clock.advance(0.25)
        rate.expire()
        self.assertEqual(len(rate), 0)
        rate.expire()
        self.assertEqual(self.admitted(rate, "greedy"), 10)

    def test_expire_changes_nothing(self):
        """
        Removing buckets, at any moment, never lets a client connect more often.
        """
        rate = RateLimiter(self.clock, 2.0, 4)
        admitted = self.admitted(rate)
        for _ in range(400):
            self.clock.advance(1 / 16)
            rate.expire()
            admitted += self.admitted(rate)
        self.assertEqual(admitted, 4 + 50)

    def test_max_clients(self):
        """
        The number of buckets is limited: the clients that connected last are kept.
        """
        self.assertEqual(RateLimiter.max_clients, 65536)
        rate = RateLimiter(self.clock, 1.0, 2)
        rate.max_clients = 3
        for client in ("a", "b", "c", "a"):
            self.assertTrue(rate.take(client))
        self.assertFalse(rate.take("a"))
        self.assertTrue(rate.take("d"))
        self.assertEqual(len(rate), 3)
        # Of a, c and d there is one token at most; b has been forgotten.
        self.assertEqual([self.admitted(rate, client) for client in "acd"], [0, 1, 1])
        self.assertEqual(self.admitted(rate, "b"), 2)
        self.assertEqual(len(rate), 3)

    def test_many(self):
        """
        The number of buckets does not exceed its limit, and is 0 after all have expired.
        """
        rate = RateLimiter(self.clock, 10.0, 1)
        for number in range(RateLimiter.max_clients + 100):
            self.assertTrue(rate.take((4, number)))
        self.assertEqual(len(rate), RateLimiter.max_clients)
        self.clock.advance(0.1)
        for left in range(RateLimiter.max_clients, 0, -MAX_EXPIRED):
            self.assertEqual(len(rate), left)
            # One turn removes a bounded number.
            rate.expire()
        self.assertEqual(len(rate), 0)

    @settings(
        max_examples=300,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(
        per_second=st.integers(1, 64),
        burst=st.integers(1, 20),
        steps=st.lists(st.integers(0, 40), max_size=40),
    )
    def test_as_a_bucket(self, per_second, burst, steps):
        """
        A client is admitted exactly if a bucket that is filled drop by drop says so.
        """
        clock = Clock()
        rate = RateLimiter(clock, per_second / 16, burst)
        # In parts of 256, so that all is whole: 16 steps a second, per_second / 16 tokens.
        full = tokens = burst * 256
        for step in steps:
            clock.advance(step / 16)
            tokens = min(full, tokens + step * per_second)
            admitted = rate.take("one")
            self.assertEqual(admitted, tokens >= 256)
            tokens -= 256 * admitted


class AdmissionTests(SynchronousTestCase):
    """
    All limits together.
    """

    def setUp(self):
        self.clock = Clock()
        self.connections = Connections(self.clock, Timeouts(), access_log=None)

    def admission(self, most=1000, allow=(), deny=(), per_client=0, rate=None):
        rules = AccessRules(networks(*allow), networks(*deny))
        made = RateLimiter(self.clock, *rate) if rate else None
        return Admission(self.connections, most, rules, per_client, made)

    def test_no_limits(self):
        """
        Without limits no client is refused or counted, and nothing is stored.
        """
        for admission in (self.admission(), Admission(self.connections, 1000)):
            for host in ("192.0.2.1", "2001:db8::1"):
                self.assertIsNone(admission.refusal(address(host)))
            self.assertEqual((admission.counts_clients, admission.clients()), (False, 0))
            admission.expire()

    def test_total(self):
        """
        It is full with the maximum number of connections, and not after one has ended.
        """
        admission = self.admission(most=2)
        self.assertIs(admission.connections, self.connections)
        one = FakeConnection(self.connections)
        self.assertFalse(admission.is_full())
        FakeConnection(self.connections)
        self.assertTrue(admission.is_full())
        self.connections.remove(one, Reason.CLIENT)
        self.assertFalse(admission.is_full())

    def test_address(self):
        """
        The access rules alone are enough to refuse a client.
        """
        admission = self.admission(deny=["192.0.2.0/24"])
        self.assertIs(admission.refusal(address("192.0.2.1")), Reason.DENIED)
        self.assertIsNone(admission.refusal(address("192.0.3.1")))
        admission = self.admission(allow=["2001:db8::/32"])
        self.assertIs(admission.refusal(address("192.0.3.1")), Reason.DENIED)
        self.assertIsNone(admission.refusal(address("2001:db8::1")))

    def test_mapped(self):
        """
        An IPv4 client of a dual-stack socket counts as that IPv4 client, for rules, counts and
        rate.
        """
        admission = self.admission(deny=["192.0.2.0/24"], per_client=1)
        self.assertIs(admission.refusal(address("::ffff:192.0.2.1")), Reason.DENIED)
        admission.acquire(address("::ffff:198.51.100.1"))
        self.assertIs(admission.refusal(address("198.51.100.1")), Reason.MAX_PER_CLIENT)
        self.assertIsNone(admission.refusal(address("::ffff:198.51.100.2")))
        admission.release(address("198.51.100.1"))
        self.assertEqual(admission.clients(), 0)
        admission = self.admission(rate=(1.0, 1))
        self.assertIsNone(admission.refusal(address("::ffff:198.51.100.1")))
        self.assertIs(admission.refusal(address("198.51.100.1")), Reason.CONNECT_RATE)

    def test_per_client(self):
        """
        A client may have its maximum number of connections, from any port, and other clients have
        their own.
        """
        admission = self.admission(per_client=3)
        self.assertTrue(admission.counts_clients)
        for port in range(3):
            self.assertIsNone(admission.refusal(address("192.0.2.1", port)))
            admission.acquire(address("192.0.2.1", port))
        self.assertIs(admission.refusal(address("192.0.2.1", 3)), Reason.MAX_PER_CLIENT)
        self.assertIsNone(admission.refusal(address("192.0.2.2", 3)))
        self.assertEqual(admission.clients(), 1)
        admission.release(address("192.0.2.1", 1))
        self.assertIsNone(admission.refusal(address("192.0.2.1", 4)))
        for port in (0, 2):
            admission.release(address("192.0.2.1", port))
        self.assertEqual(admission.clients(), 0)

    def test_per_ipv6_network(self):
        """
        All addresses of an IPv6 /64 are one client.
        """
        admission = self.admission(per_client=2)
        for host in ("2001:db8::1", "2001:db8::ffff:0:0:2"):
            admission.acquire(address(host))
        self.assertIs(admission.refusal(address("2001:db8::3")), Reason.MAX_PER_CLIENT)
        self.assertIsNone(admission.refusal(address("2001:db8:0:1::1")))
        self.assertEqual(admission.clients(), 1)

    def test_rate(self):
        """
        A client that connects too often is refused after its first burst, and others are not.
        """
        admission = self.admission(rate=(1.0, 2))
        self.assertFalse(admission.counts_clients)
        reasons = [admission.refusal(address("192.0.2.1", port)) for port in range(4)]
        self.assertEqual(reasons, [None, None, Reason.CONNECT_RATE, Reason.CONNECT_RATE])
        reasons = [admission.refusal(address(f"2001:db8::{n}")) for n in range(3)]
        self.assertEqual(reasons, [None, None, Reason.CONNECT_RATE])
        self.assertEqual(admission.clients(), 2)
        self.clock.advance(1)
        self.assertIsNone(admission.refusal(address("192.0.2.1")))
        self.clock.advance(1)
        admission.expire()
        self.assertEqual(admission.clients(), 1)
        self.clock.advance(2)
        admission.expire()
        self.assertEqual(admission.clients(), 0)

    def test_order(self):
        """
        The first reason counts, in the order address, number, rate; a client that is refused for
        one of the first two takes no token.
        """
        admission = self.admission(deny=["192.0.2.9"], per_client=1, rate=(1.0, 2))
        denied, client = address("192.0.2.9"), address("192.0.2.1")
        admission.acquire(denied)
        admission.acquire(client)
        for _ in range(5):
            self.assertIs(admission.refusal(denied), Reason.DENIED)
            self.assertIs(admission.refusal(client), Reason.MAX_PER_CLIENT)
        admission.release(client)
        reasons = [admission.refusal(client) for _ in range(3)]
        self.assertEqual(reasons, [None, None, Reason.CONNECT_RATE])
        admission.acquire(client)
        self.assertIs(admission.refusal(client), Reason.MAX_PER_CLIENT)

    def test_both_tables(self):
        """
        Stored clients are counted in both tables.
        """
        admission = self.admission(per_client=5, rate=(1.0, 2))
        admission.refusal(address("192.0.2.1"))
        admission.acquire(address("192.0.2.1"))
        admission.acquire(address("192.0.2.2"))
        self.assertEqual(admission.clients(), 3)

    def test_unix(self):
        """
        A client on a UNIX socket has no IP address, and is admitted and not counted.
        """
        admission = self.admission(allow=["192.0.2.1"], per_client=1, rate=(1.0, 1))
        for peer in (UNIXAddress(None), UNIXAddress(b"/run/x"), IPv4Address("TCP", "x", 1)):
            for _ in range(3):
                self.assertIsNone(admission.refusal(peer))
                admission.acquire(peer)
            self.assertEqual(admission.clients(), 0)
            admission.release(peer)
        self.assertEqual(admission.clients(), 0)

    def test_asking_leaves_no_trace(self):
        """
        C{refusal} alone stores nothing.
        """
        admission = self.admission(per_client=1)
        for n in range(100):
            self.assertIsNone(admission.refusal(address(f"192.0.2.{n}")))
        self.assertEqual(admission.clients(), 0)

    @settings(
        max_examples=200,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(per_client=st.integers(1, 3), steps=st.lists(st.integers(0, 7), max_size=60))
    def test_exact(self, per_client, steps):
        """
        In any order of connecting and leaving, no client exceeds its maximum, and at the end
        nothing is stored.
        """
        hosts = [
            "127.0.0.1", "127.0.0.2", "::1", "::2", "::ffff:127.0.0.1", "2001:db8::", "2001:db8::1",
            "2001:db8:0:1::",
        ]  # fmt: skip
        same = {"::2": "::1", "::ffff:127.0.0.1": "127.0.0.1", "2001:db8::1": "2001:db8::"}
        admission = Admission(self.connections, 1000, max_per_client=per_client)
        inside = []
        counts = Counter()
        for step in steps:
            host = hosts[step]
            client = same.get(host, host)
            reason = admission.refusal(address(host))
            full = counts[client] == per_client
            self.assertEqual(reason, Reason.MAX_PER_CLIENT if full else None)
            if full:
                gone = next(each for each in inside if same.get(each, each) == client)
                inside.remove(gone)
                counts[client] -= 1
                admission.release(address(gone))
            else:
                inside.append(host)
                counts[client] += 1
                admission.acquire(address(host))
        self.assertEqual(admission.clients(), len(+counts))
        for host in inside:
            admission.release(address(host))
        self.assertEqual(admission.clients(), 0)

    def test_clients_are_found_by_address(self):
        """
        The client of an address with a zone is that of the address without it.
        """
        ip = ip_of(address("fe80::1%lo"))
        self.assertEqual(client_of(ip), client_of(ip_address("fe80::1")))
