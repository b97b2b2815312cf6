"""
Admission: which clients may connect, how many at once, and how often, as the clients see it.
"""

import itertools
import random
import resource
import socket
import time
from collections.abc import Iterable

from twisted.trial.unittest import SynchronousTestCase

from tests.support import needs
from tests.support.daemons import (
    LOOPBACK,
    PATIENCE_SECONDS,
    Daemon,
    receive_rest,
    show,
    tls_daemon,
    wait_until,
)
from tests.support.shortclients import (
    Place,
    ShortClients,
    connect_from,
    is_served,
    loopback_addresses,
)

DUAL_STACK = ("--port", "0")
"""The options of a daemon that takes IPv4 and IPv6 on one socket."""

SECOND = ("--listen", "tcp:0:interface=127.0.0.1")
"""A listener for IPv4 alone, beside it."""


class AdmissionTestCase(SynchronousTestCase):
    """
    What the tests of admission have in common.
    """

    def places(self, daemon: Daemon) -> tuple[Place, Place, Place]:
        """
        The two ways to the dual-stack port, and the one to the port for IPv4.
        """
        needs.ipv6()
        port = daemon.port()
        return ("127.0.0.1", port), ("::1", port), ("127.0.0.1", daemon.port("--listen"))

    def come(self, source: str, place: Place) -> socket.socket:
        client = connect_from(source, place)
        self.addCleanup(client.close)
        return client

    def admit(self, sources: Iterable[tuple[str, Place]]) -> list[socket.socket]:
        """
        Come from each of these, one after the other.

        @return: those who were let in.
        """
        clients = [self.come(*source) for source in sources]
        return [client for client in clients if is_served(client)]


class ChurnTests(AdmissionTestCase):
    """
    Ten thousand clients from many addresses, who come and go.
    """

    clients = 10_000
    at_once = 40
    most = 100
    most_of_one = 3
    addresses = 50

    def test_limits_are_exact(self) -> None:
        """
        There are never more clients in at once than may be, in all and of each, and when
        they have gone, as many can come in again.
        """
        rng = random.Random(4)
        addresses = list(itertools.islice(loopback_addresses(), self.addresses))
        options = ("--max-connections", str(self.most), "--max-per-client", str(self.most_of_one))
        with Daemon(*DUAL_STACK, *SECOND, *options) as daemon, ShortClients(rng) as clients:
            mapped, six, four = self.places(daemon)
            empty = daemon.descriptors()

            def visit() -> tuple[socket.socket, str]:
                place = rng.choice((mapped, mapped, mapped, four, six))
                source = "" if place is six else rng.choice(addresses)
                return connect_from(source, place, wait=False), source or "::1"

            start = time.monotonic()
            clients.run(self.clients, self.at_once, visit)
            came = self.clients
            # The daemon counts each of them until it has seen it go.  When none goes, as
            # many are in as may be, sooner or later, and then no other.
            deadline = start + 10 * PATIENCE_SECONDS
            while clients.inside < self.most:
                self.assertLess(time.monotonic(), deadline, clients.inside)
                clients.run(self.at_once, self.at_once, visit, goes=False)
                came += self.at_once
            clients.run(self.at_once, self.at_once, visit, goes=False)
            came += self.at_once
            self.assertEqual(clients.inside, self.most)
            took = time.monotonic() - start
            clients.all_go()
            wait_until(lambda: daemon.descriptors() == empty, "all descriptors to be closed")
            show(
                f"{came} visits from {self.addresses + 1} addresses in {took:.1f} s: "
                f"{clients.served} let in, {clients.refused} refused; at once "
                f"{clients.most} of {self.most}, {clients.most_of_one} of {self.most_of_one} "
                f"of one client"
            )
            self.assertEqual(clients.served + clients.refused, came)
            self.assertEqual(clients.most, self.most)
            self.assertLessEqual(clients.most_of_one, self.most_of_one)
            # Those who were let in have a record each, those who were not are counted.
            wait_until(lambda: len(daemon.records()) == clients.served, "the records")
            wait_until(
                lambda: daemon.refused().total() == clients.refused, "the refusals to be told"
            )
            self.assertEqual(set(daemon.refused()), {"max-connections", "max-per-client"})
            self.assert_empty(daemon, addresses)

    def assert_empty(self, daemon: Daemon, addresses: list[str]) -> None:
        """
        Nothing is left of those who were there: each client may have its full number, and
        all of them together theirs, and not one more.
        """
        mapped, six, four = self.places(daemon)
        for source, places in (("", (six, six)), *((a, (mapped, four)) for a in addresses[:5])):
            again = itertools.islice(itertools.cycle(places), self.most_of_one + 2)
            clients = self.admit((source, place) for place in again)
            self.assertEqual(len(clients), self.most_of_one, source)
        taken = 6 * self.most_of_one
        rest = self.admit((a, mapped) for a in addresses[5:] for _ in range(self.most_of_one))
        self.assertEqual(len(rest), self.most - taken)


class AddressTests(AdmissionTestCase):
    """
    C{--allow} and C{--deny}.
    """

    sources = ("127.0.0.1", "127.0.1.1", "127.0.1.77", "127.2.0.1", "::1")

    def admitted(self, daemon: Daemon) -> tuple[set[str], int]:
        """
        The addresses that are admitted, at all listeners alike; and the number of refusals.
        """
        mapped, six, four = self.places(daemon)
        found, refused = set(), 0
        for source in self.sources:
            places = [("", six)] if source == "::1" else [(source, mapped), (source, four)]
            clients = self.admit(places)
            served = len(clients)
            for client in clients:
                client.close()
            self.assertIn(served, (0, len(places)), source)
            refused += len(places) - served
            if served:
                found.add(source)
        return found, refused

    def test_allow_and_deny(self) -> None:
        """
        Only those are let in whom C{--allow} names and C{--deny} does not, over IPv4 and
        IPv6, whether a rule or a client is IPv4-mapped or not.
        """
        table = (
            ("--deny ::1 --deny 127.2.0.0/15", "127.0.0.1 127.0.1.1 127.0.1.77"),
            ("--allow 127.0.1.0/24 --allow ::1", "127.0.1.1 127.0.1.77 ::1"),
            # The order does not matter, nor which of the two is the narrower.
            ("--deny 127.0.0.0/16 --allow 127.0.1.77 --allow 127.2.0.1", "127.2.0.1"),
            ("--allow 127.0.1.0/24 --deny 127.0.1.77", "127.0.1.1"),
            ("--allow ::ffff:127.0.1.0/120 --deny ::ffff:127.0.1.77", "127.0.1.1"),
            # An IPv4 client is one, though the socket that it comes to is of IPv6.
            ("--deny ::/0", "127.0.0.1 127.0.1.1 127.0.1.77 127.2.0.1"),
        )
        for options, expected in table:
            with Daemon(*DUAL_STACK, *SECOND, *options.split()) as daemon:
                found, refused = self.admitted(daemon)
                self.assertEqual(found, set(expected.split()), options)
                # A daemon that stops tells what it has not told yet.
                daemon.stop()
                daemon.turned_away({"denied": refused})

    def test_before_anything(self) -> None:
        """
        A client that is not let in hears nothing, not even of TLS, whether it speaks or is
        silent.
        """
        listeners = (*SECOND, "--listen", "ssl:0:privateKey={}/pem:interface=127.0.0.1")
        options = ("--port", "0", *listeners, "--deny", "127.0.0.2")
        with tls_daemon(*options) as daemon:
            for option in ("--port", "--tls-port", "--listen tcp", "--listen ssl"):
                for said in (b"", b"hello", b"\x16\x03\x01\x00\x05hello"):
                    with self.come("127.0.0.2", ("127.0.0.1", daemon.port(option))) as client:
                        if said:
                            try:
                                client.sendall(said)
                            except ConnectionError:
                                continue
                        self.assertEqual(receive_rest(client), b"", option)
            daemon.stop()
            daemon.turned_away({"denied": 12})
            self.assertEqual(daemon.records(), [])


class RateTests(AdmissionTestCase):
    """
    C{--connect-rate}.
    """

    rate = 2
    burst = 30
    later = 4

    def test_burst_and_rate(self) -> None:
        """
        A client may connect so many times at once, and then so often, at all listeners together;
        each client has a limit of its own.
        """
        rate = f"{self.rate}:{self.burst}"
        with Daemon(*DUAL_STACK, *SECOND, "--connect-rate", rate) as daemon:
            mapped, six, four = self.places(daemon)
            places = itertools.cycle([mapped, four])
            count = knocks = 0
            start = time.monotonic()

            def knock() -> bool:
                nonlocal count, knocks
                with connect_from("127.0.0.1", next(places)) as client:
                    knocks += 1
                    answer = is_served(client)
                count += answer
                return answer

            wait_until(lambda: not knock(), "the first to be refused")
            self.assertGreaterEqual(count, self.burst)
            for _ in range(self.later):
                wait_until(knock, "the next to be let in")
            took = time.monotonic() - start
            # Never more than were due by now; how many fewer depends on when they knocked.
            most = self.burst + took * self.rate
            show(f"a rate of {rate}: of {knocks} in {took:.2f} s, {count} let in of {most:.1f} due")
            self.assertLessEqual(count, most + 1)
            for source, place in (("127.0.0.2", mapped), ("", six)):
                with connect_from(source, place) as client:
                    self.assertTrue(is_served(client))
            daemon.stop()
            daemon.turned_away({"connect-rate": knocks - count})

    def test_burst_alone(self) -> None:
        """
        Of many clients that come at once, exactly the burst is let in.
        """
        with Daemon(*DUAL_STACK, *SECOND, "--connect-rate", "0.01:25") as daemon:
            mapped, six, four = self.places(daemon)
            for source, places in (("127.0.0.1", (mapped, four)), ("", (six, six))):
                clients = itertools.islice(itertools.cycle(places), 60)
                self.assertEqual(len(self.admit((source, place) for place in clients)), 25)
            daemon.turned_away({"connect-rate": 70})


class Limited(Daemon):
    """
    A daemon that is started with bounds on its descriptors.
    """

    def __init__(self, nofile: str, *options: str):
        needs.prlimit(nofile)
        super().__init__(*options)
        self._command = ("prlimit", f"--nofile={nofile}", *self._command)


class DescriptorTests(AdmissionTestCase):
    """
    C{--max-connections} where there are not so many descriptors.
    """

    soft, hard = 100, 300
    reserve = 64

    def test_lowered(self) -> None:
        """
        The daemon raises its own bound on descriptors as far as it may; it says by how much
        that still lowers C{--max-connections}, and never comes to its last descriptor.
        """
        most = self.hard - self.reserve
        with Limited(f"{self.soft}:{self.hard}", *LOOPBACK) as daemon:
            self.assertEqual(
                resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE), (self.hard, self.hard)
            )
            self.assertIn(f"--max-connections 10000: limited to {most}", daemon.log)
            self.assertRegex(daemon.log, r"#warn\] --max-connections")
            empty = daemon.descriptors()
            place = ("127.0.0.1", daemon.port())
            served = self.admit([("", place)] * (self.hard + 100))
            self.assertEqual(len(served), most)
            daemon.turned_away({"max-connections": self.hard + 100 - most})
            self.assertNotIn("cannot accept", daemon.log)
            for client in served:
                client.close()
            wait_until(lambda: daemon.descriptors() == empty, "all descriptors to be closed")
            self.assertEqual(len(self.admit([("", place)] * (most + 10))), most)

    def test_not_lowered(self) -> None:
        """
        Where there are descriptors enough, nothing is said.
        """
        with Limited(f"{self.soft}:{self.hard}", *LOOPBACK, "--max-connections", "236") as daemon:
            self.assertNotIn("--max-connections", daemon.log)
            self.assertNotIn("#warn", daemon.log)
