"""
What becomes of a client whose network fails: two network namespaces with a wire between them.

Invariant: the kernel decides, with the options that L{set_socket_options} sets, and in their
proportions.  Only the unit differs: ten seconds are one here, so that a test takes seconds.
"""

import contextlib
import errno
import socket
import time
from collections.abc import Iterator

from twisted.trial.unittest import SynchronousTestCase

from echod._util import sockets
from echod._util.sockets import set_socket_options
from tests.support.daemons import show, wait_until
from tests.support.namespaces import PATIENCE_SECONDS, SERVER, Namespace, ip, network


class KeepaliveTests(SynchronousTestCase):
    """
    An idle client whose route is taken away.
    """

    def setUp(self) -> None:
        # A tenth of what they are in the daemon.
        for name, seconds in (("IDLE", 6), ("INTERVAL", 1)):
            self.patch(sockets, f"KEEPALIVE_{name}", seconds)
        self.patch(sockets, "KEEPALIVE_TIMEOUT", 12)

    @contextlib.contextmanager
    def connected(self) -> Iterator[tuple[socket.socket, socket.socket, Namespace]]:
        """
        What a server has accepted, its client, and where the client's routes are.  No time of the
        kernel begins before C{started}.
        """
        with network() as (server, client), contextlib.ExitStack() as stack:
            listening = server.call(lambda: socket.create_server((SERVER, 0)))
            stack.enter_context(listening)
            set_socket_options(listening, 3.0)
            address = listening.getsockname()
            connect = lambda: socket.create_connection(address, timeout=60)  # noqa: E731
            self.started = time.monotonic()
            ours = stack.enter_context(client.call(connect))
            accepted = stack.enter_context(listening.accept()[0])
            accepted.settimeout(PATIENCE_SECONDS)
            yield accepted, ours, client

    def route(self, client: Namespace, what: str) -> None:
        ip("-n", client.name, "route", what, "blackhole", f"{SERVER}/32")

    def hears_nothing(self, accepted: socket.socket, until: float) -> None:
        """
        Wait until so many seconds after the start.
        """
        accepted.settimeout(max(self.started + until - time.monotonic(), 0.001))
        error = self.assertRaises(TimeoutError, accepted.recv, 1)
        # Our own timeout, not the kernel's.
        self.assertIsNone(error.errno)

    def lives(self) -> bool:
        """
        @return: whether the network was back soon enough for that to be known.
        """
        with self.connected() as (accepted, ours, client):
            self.route(client, "add")
            # It hears of nothing until the second probe is lost.
            self.hears_nothing(accepted, 7.7)
            self.route(client, "delete")
            lost = time.monotonic() - self.started
            # The last probe before the user timeout is over is sent after 11 s.
            if lost > 10.5:
                return False
            # Nothing ends it when the user timeout would have, either.
            self.hears_nothing(accepted, 13.0)
            ours.sendall(b"x")
            accepted.settimeout(PATIENCE_SECONDS)
            self.assertEqual(accepted.recv(10), b"x")
        show(f"an idle client lives whose network failed for {lost:.1f} s of 12")
        return True

    def test_network_fails_for_a_while(self) -> None:
        """
        One that misses a probe and a half lives.
        """
        wait_until(self.lives, "the network to be back in time")

    def test_gone(self) -> None:
        """
        One that is gone for good is given up when all probes are lost, and not before.
        """
        with self.connected() as (accepted, _, client):
            self.route(client, "add")
            error = self.assertRaises(TimeoutError, accepted.recv, 1)
            seconds = time.monotonic() - self.started
            show(f"an idle client that is gone is noticed after {seconds:.1f} s of 12")
            # Not by our own timeout but by the kernel's.
            self.assertEqual(error.errno, errno.ETIMEDOUT)
            self.assertGreater(seconds, 11.0)
