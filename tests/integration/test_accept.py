"""
Accepting: many clients at once, and more clients than there are descriptors.
"""

import re
import resource
import signal
import socket
import time
from unittest import SkipTest

from twisted.trial.unittest import SynchronousTestCase

from tests.support.certificates import make_certificate
from tests.support.clients import Clients, StreamClient
from tests.support.daemons import (
    LOOPBACK,
    REACTOR,
    Daemon,
    connect,
    many_descriptors,
    show,
    wait_until,
)
from tests.support.shortclients import is_served, many


class BurstTests(SynchronousTestCase):
    """
    Clients that all come at the same time.
    """

    clients = 2000

    def test_all_are_served(self) -> None:
        """
        2000 clients that connect at once all get their echo.
        """
        if REACTOR == "select":
            raise SkipTest("select(2) takes no descriptor above 1023")
        self.enterContext(many_descriptors(self.clients + 200))
        with Daemon(*LOOPBACK) as daemon:
            # It finds them all at its door.
            daemon.signal(signal.SIGSTOP)
            wait_until(lambda: daemon.state("State").startswith("T"), "the daemon to halt")
            # As soon as it is connected, each says something and closes its sending side.
            clients = [
                StreamClient(sock, 1000 * number, 10)
                for number, sock in enumerate(many(daemon.address(), self.clients))
            ]
            daemon.signal(signal.SIGCONT)
            start = time.monotonic()
            with Clients(clients) as group:
                group.run(lambda: group.over, "all to be served")
            took = time.monotonic() - start
            served = sum(client.whole for client in clients)
            show(f"a burst: {served} of {self.clients} clients served in {took:.2f} s")
            self.assertEqual(served, self.clients)
            wait_until(lambda: daemon.log.count("bytes echoed in") == self.clients, "the records")


class Beset(Daemon):
    """
    A daemon with a certificate, in whose log Twisted may tell that its reserve is lost.
    """

    def start(self) -> None:
        made = make_certificate()
        (self.directory / "pem").write_bytes(made.cert_pem + made.key_pem)
        super().start()

    def _look_for_trouble(self) -> None:
        if self.log.count("Traceback") != self.log.count("Could not reserve EMFILE"):
            super()._look_for_trouble()


class FullTests(SynchronousTestCase):
    """
    A daemon that has no descriptor left (EMFILE, accept(2)).
    """

    limit = 64
    leave = 10

    def test_clients_are_shed(self) -> None:
        """
        Clients for whom there is no descriptor are let go at once, with at most a line a
        second about it; when others leave, the next are served at once.
        """
        with Daemon(*LOOPBACK) as daemon:
            address = daemon.address()
            self.assertTrue(is_served(self.come(address)))
            resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (self.limit, self.limit))
            free = self.limit - daemon.descriptors()
            start = time.monotonic()
            served = [self.come(address) for _ in range(free)]
            self.assertEqual([is_served(client) for client in served], [True] * free)
            shed = 0
            while shed < 10 or daemon.log.count("cannot accept: ") < 2:
                with connect(address) as client:
                    self.assertFalse(is_served(client))
                shed += 1
                self.assertLess(time.monotonic(), start + 60, "not two lines about it")
            # Those that have one notice nothing.
            self.assertEqual([is_served(client) for client in served], [True] * free)
            lines = re.findall(r"cannot accept: .*", daemon.log)
            took = time.monotonic() - start
            for client in served[: self.leave]:
                client.close()
            daemon.ended("client", self.leave)
            left = time.monotonic()
            new = [self.come(address) for _ in range(self.leave)]
            self.assertEqual([is_served(client) for client in new], [True] * self.leave)
            again = time.monotonic() - left
            show(
                f"no descriptor left: {free} served, {shed} shed in {took:.1f} s with "
                f"{len(lines)} lines in the log; {self.leave} left, and {self.leave} new ones "
                f"were served in {again * 1000:.0f} ms"
            )
            if REACTOR in ("", "echod"):
                # With the others it is Twisted's own port that accepts, and says more.
                self.assertLessEqual(len(lines), took + 1)

    def test_nothing_in_reserve(self) -> None:
        """
        With a limit on descriptors below what is open, echod can neither accept nor turn away a
        client: live connections go on, waiting clients cost no CPU, the certificates stay, and
        all clients are served when descriptors are free again.
        """
        if REACTOR not in ("", "echod"):
            raise SkipTest("with the others it is Twisted's own port that accepts")
        with Beset(*LOOPBACK, "--tls-port", "0", "--tls-cert", "{}/pem") as daemon:
            address = daemon.address()
            served = self.come(address)
            self.assertTrue(is_served(served))
            _, most = resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE)
            resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (3, most))
            waiting = [self.come(address) for _ in range(5)]
            wait_until(lambda: "cannot accept: Too many open files" in daemon.log, "the shortage")
            daemon.signal(signal.SIGHUP)
            wait_until(lambda: "cannot reload --tls-cert" in daemon.log, "the complaint")
            for _ in range(10):
                self.assertTrue(is_served(served))
                # One that tries again and again has no time to.
                wait_until(lambda: daemon.state("State").startswith("S"), "it to sleep")
            resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (most, most))
            # One of them was turned away with the descriptor in reserve, before it was lost.
            self.assertGreaterEqual(sum(map(is_served, waiting)), len(waiting) - 1)
            daemon.signal(signal.SIGHUP)
            wait_until(lambda: daemon.log.count("certificate for") > 1, "the reload")

    def come(self, address: str) -> socket.socket:
        client = connect(address)
        self.addCleanup(client.close)
        return client
