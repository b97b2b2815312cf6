"""
Clients that close their sending side before they have read their echo: the connection lasts until
their kernel has acknowledged all of it.
"""

import random
import signal
import socket

from twisted.trial.unittest import SynchronousTestCase

from tests.support.clients import context, reset
from tests.support.daemons import (
    LOOPBACK,
    Daemon,
    receive_rest,
    server_side,
    tls_daemon,
    wait_until,
)
from tests.support.tlswire import WireClient

DATA = random.Random(11).randbytes(200 * 1024)
"""More than the client's kernel takes with the receive buffer below, and less than echod's."""

RECEIVE_BUFFER = 8 * 1024

PATIENT = ("--write-timeout", "10m", "--drain-timeout", "10m")
"""No client is too slow for this, on however busy a machine."""

LAST_ACK = 9
CLOSING = 11
"""
The states of a socket that has received a FIN and sent its own: after the peer's, or before it
(C{net/tcp_states.h}).
"""


def half_closed(daemon: Daemon) -> socket.socket:
    """
    A client that has sent all and reads nothing, when echod has handed all its echo to the kernel.
    """
    client = daemon.connect("--port", RECEIVE_BUFFER)
    client.sendall(DATA)
    client.shutdown(socket.SHUT_WR)
    wait_until(lambda: server_side(client)[0] == LAST_ACK, "the FIN")
    return client


def begin_to_stop(daemon: Daemon) -> None:
    """
    Tell it to stop.  A client that asks whether the port is closed would itself be drained.
    """
    daemon.signal(signal.SIGTERM)
    wait_until(lambda: "Received SIGTERM" in daemon.log, "the signal to be handled")


class DeliveryTests(SynchronousTestCase):
    """
    Plain TCP.
    """

    def test_counts(self) -> None:
        """
        It counts for the limits until the client has read its echo.
        """
        with (
            Daemon(*LOOPBACK, *PATIENT, "--max-connections", "1") as daemon,
            half_closed(daemon) as client,
        ):
            for _ in range(2):
                with daemon.connect() as another:
                    self.assertEqual(receive_rest(another), b"")
            daemon.turned_away({"max-connections": 2})
            self.assertEqual(daemon.records(), [])
            self.assertEqual(receive_rest(client), DATA)
            daemon.ended("client", 1)
            with half_closed(daemon) as another:
                self.assertEqual(receive_rest(another), DATA)
            daemon.ended("client", 2)

    def test_stop(self) -> None:
        """
        A stop waits until the client has all.
        """
        with Daemon(*LOOPBACK, *PATIENT) as daemon, half_closed(daemon) as client:
            begin_to_stop(daemon)
            self.assertTrue(daemon.running())
            self.assertEqual(server_side(client)[0], LAST_ACK)
            self.assertEqual(receive_rest(client), DATA)
            daemon.wait()
            self.assertIn("drained: 1 connections finished, 0 aborted", daemon.log)
            self.assertEqual(daemon.ended("client", 1), 1)

    def test_second_signal(self) -> None:
        """
        A second signal aborts it.
        """
        with Daemon(*LOOPBACK, *PATIENT) as daemon, half_closed(daemon) as client:
            begin_to_stop(daemon)
            daemon.signal(signal.SIGTERM)
            daemon.wait()
            self.assertIn("drained: 0 connections finished, 1 aborted", daemon.log)
            self.assertEqual(daemon.ended("aborted", 1), 1)
            self.assertLess(len(receive_rest(client)), len(DATA))

    def test_reads_nothing(self) -> None:
        """
        A client that reads nothing is aborted at the write timeout, and not as idle.
        """
        limits = ("--write-timeout", "2s", "--idle-timeout", "1s")
        with Daemon(*LOOPBACK, *limits) as daemon, half_closed(daemon) as client:
            daemon.ended("write-timeout", 1)
            self.assertGreaterEqual(daemon.records()[0][3], 1.7)
            self.assertLess(len(receive_rest(client)), len(DATA))

    def test_reset(self) -> None:
        """
        The record says if the client resets the connection.
        """
        with Daemon(*LOOPBACK, *PATIENT) as daemon:
            reset(half_closed(daemon))
            daemon.ended("reset", 1)
            self.assertEqual(len(daemon.records()), 1)

    def test_many(self) -> None:
        """
        Many such clients at once get all their echo.
        """
        with Daemon(*LOOPBACK, *PATIENT) as daemon:
            clients = [half_closed(daemon) for _ in range(50)]
            self.assertEqual(daemon.records(), [])
            for client in clients:
                with client:
                    self.assertEqual(receive_rest(client), DATA)
            daemon.ended("client", len(clients))


class TLSTests(SynchronousTestCase):
    """
    TLS.
    """

    def test_stop(self) -> None:
        """
        The same for a client that closes its side of TCP after its close_notify.
        """
        with tls_daemon(*PATIENT) as daemon:
            sock = daemon.connect("--tls-port", RECEIVE_BUFFER)
            self.addCleanup(sock.close)
            client = WireClient(sock, context("TLS 1.3")).handshake()
            sock.sendall(client.records(DATA))
            sock.shutdown(socket.SHUT_WR)
            wait_until(lambda: server_side(sock)[0] in (LAST_ACK, CLOSING), "the FIN")
            begin_to_stop(daemon)
            self.assertEqual(client.decrypt(receive_rest(sock)), DATA)
            daemon.wait()
            self.assertEqual(daemon.ended("client", 1), 1)
