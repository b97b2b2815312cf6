"""
What becomes of a client whose network fails: two network namespaces with a wire between them.

Invariant: the kernel decides, with the options that L{set_socket_options} sets, and in their
proportions.  Only the unit differs: ten seconds are one here, so that a test takes seconds.
"""

import contextlib
import ctypes
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any
from unittest import SkipTest

from twisted.trial.unittest import SynchronousTestCase

from echod._util import sockets
from echod._util.sockets import set_socket_options
from tests.support.daemons import show

PATIENCE_SECONDS = 60.0
SERVER, CLIENT = "10.9.8.1", "10.9.8.2"


def ip(*arguments: str) -> None:
    """
    Run ip(8).

    @raise SkipTest: when this user or machine has no network namespaces.
    """
    try:
        subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=30)
    except (OSError, subprocess.CalledProcessError) as error:
        raise SkipTest(f"ip {' '.join(arguments)}: {error}") from None


class Namespace:
    """
    A network namespace, with one end of the wire.
    """

    def __init__(self, name: str):
        self.name = name

    def call(self, function: Callable[[], Any]) -> Any:
        """
        Call something in a thread that is in here: sockets stay where they are made.
        """
        results = []

        def run() -> None:
            with open(f"/run/netns/{self.name}") as namespace:
                if ctypes.CDLL(None).setns(namespace.fileno(), 0):
                    raise OSError("setns")
            results.append(function())

        thread = threading.Thread(target=run)
        thread.start()
        thread.join(PATIENCE_SECONDS)
        return results[0]


@contextlib.contextmanager
def network() -> Iterator[tuple[Namespace, Namespace]]:
    """
    The server's namespace and the client's.
    """
    names = [f"echod-{os.getpid()}-{side}" for side in ("server", "client")]
    wires = [f"e{os.getpid()}{side}" for side in "sc"]
    try:
        for name in names:
            ip("netns", "add", name)
        ip(
            *("link", "add", wires[0], "netns", names[0], "type", "veth"),
            *("peer", "name", wires[1], "netns", names[1]),
        )
        for name, wire, address in zip(names, wires, (SERVER, CLIENT), strict=True):
            ip("-n", name, "address", "add", f"{address}/24", "dev", wire)
            ip("-n", name, "link", "set", wire, "up")
        yield Namespace(names[0]), Namespace(names[1])
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, timeout=30)


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
        What a server has accepted, its client, and where the client's routes are.
        """
        with network() as (server, client), contextlib.ExitStack() as stack:
            listening = server.call(lambda: socket.create_server((SERVER, 0)))
            stack.enter_context(listening)
            set_socket_options(listening, 3.0)
            address = listening.getsockname()
            connect = lambda: socket.create_connection(address, timeout=30)  # noqa: E731
            ours = stack.enter_context(client.call(connect))
            accepted = stack.enter_context(listening.accept()[0])
            accepted.settimeout(PATIENCE_SECONDS)
            yield accepted, ours, client

    def route(self, client: Namespace, what: str) -> None:
        ip("-n", client.name, "route", what, "blackhole", f"{SERVER}/32")

    def test_network_fails_for_a_while(self) -> None:
        """
        One that misses a probe and a half lives.
        """
        with self.connected() as (accepted, ours, client):
            started = time.monotonic()
            self.route(client, "add")
            # It hears of nothing until the second probe is lost.
            accepted.settimeout(7.7)
            self.assertRaises(TimeoutError, accepted.recv, 1)
            self.route(client, "delete")
            lost = time.monotonic() - started
            accepted.settimeout(4.0)
            # Nothing ends it when the user timeout would have, either.
            self.assertRaises(TimeoutError, accepted.recv, 1)
            ours.sendall(b"x")
            accepted.settimeout(PATIENCE_SECONDS)
            self.assertEqual(accepted.recv(10), b"x")
            show(f"an idle client lives whose network failed for {lost:.1f} s of 12")

    def test_gone(self) -> None:
        """
        One that is gone for good is given up when all probes are lost, and not before.
        """
        with self.connected() as (accepted, _, client):
            started = time.monotonic()
            self.route(client, "add")
            self.assertRaises(TimeoutError, accepted.recv, 1)
            seconds = time.monotonic() - started
            show(f"an idle client that is gone is noticed after {seconds:.1f} s of 12")
            # Not by our own timeout but by the kernel's.
            self.assertLess(seconds, PATIENCE_SECONDS - 1)
            self.assertGreater(seconds, 11.0)
