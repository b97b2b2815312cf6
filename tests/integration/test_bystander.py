"""
One client does its worst with 256 connections, and another one's echo goes on.

The measure of what that one waits for is the CPU time that the daemon uses between its
message and the echo.  On a busy machine the daemon goes on before this process sends the message,
and before it is woken for the echo; that time is subtracted, so the measure is a lower bound.
"""

import signal
import socket
import struct
import time

from twisted.trial.unittest import TestCase

from tests.support import worst
from tests.support.daemons import (
    PATIENCE_SECONDS,
    Daemon,
    connect,
    echo,
    show,
    wait_until,
)

SO_TIMESTAMPNS = 35
"""When what is received has come to this machine, on its clock (socket(7))."""


class BystanderTestCase(TestCase):
    """
    Another client's echo.
    """

    number = 256
    echoes = 30
    rounds = 3
    most_seconds = 0.1

    def waits(self, daemon: Daemon, client: socket.socket) -> list[float]:
        """
        How much CPU time the daemon used at least for each of so many echoes, and for what came
        between, in order.
        """
        times = []
        client.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        for number in range(self.echoes):
            message = b"%064d" % number
            early, before = time.time(), daemon.cpu()
            client.sendall(message)
            sent = time.time()
            back, ancillary, *_ = client.recvmsg(len(message), 100)
            after, late = daemon.cpu(), time.time()
            self.assertEqual(back, message)
            came = sent
            # The kernel may begin to note this a little after it is asked to.
            for _, _, stamp in ancillary:
                seconds, nanoseconds = struct.unpack("ll", stamp)
                came = seconds + nanoseconds / 1e9
            times.append(max(0.0, after - before - (sent - early) - (late - came)))
        return sorted(times)

    def beside(self, name: str, kind: worst.Kind) -> None:
        """
        While this goes on, another one's echo does, and so does a stop.
        """
        for _ in range(self.rounds):
            times = self.one_round(name, kind)
            if times[-1] < self.most_seconds:
                return
        self.fail(f"{name}: the daemon used {times[-1]:.3f} s for an echo, {self.rounds} times")

    def one_round(self, name: str, kind: worst.Kind) -> list[float]:
        """
        @return: how much CPU time the daemon used for each echo, in order.
        """
        with worst.daemon_for(kind) as daemon:
            client = self.enterContext(connect(daemon.address("--port")))
            self.assertEqual(echo(client, b"hello"), b"hello")
            with worst.under_way(name, daemon.address(kind.option), self.number):
                times = self.waits(daemon, client)
                daemon.signal(signal.SIGTERM)
                start = time.monotonic()
                daemon.wait("the stop", PATIENCE_SECONDS)
                stopped = time.monotonic() - start
        show(
            f"{self.number} x {name}: the daemon used {times[-1] * 1000:.1f} ms for an echo at "
            f"most, {times[len(times) // 2] * 1000:.2f} ms in the middle; stopped in "
            f"{stopped:.1f} s"
        )
        return times


class PlainTests(BystanderTestCase):
    """
    What can be done without TLS.
    """

    def test_all(self) -> None:
        """
        Whatever it does, the other one's echo takes at most a tenth of a second.
        """
        for name, kind in worst.PLAIN.items():
            self.beside(name, kind)

    def test_workers(self) -> None:
        """
        Workers answer their parent meanwhile.
        """
        with worst.daemon("--workers", "2") as daemon:
            wait_until(lambda: "workers up" in daemon.log, "the workers")
            address = daemon.address("--port")
            with (
                worst.under_way("small writes", address, self.number),
                worst.under_way("connect and close", address, self.number),
                connect(address) as client,
            ):
                # Five questions without an answer, two seconds apart, are the end of one.
                over = time.monotonic() + 12
                while time.monotonic() < over:
                    self.assertEqual(echo(client, b"hello"), b"hello")
            self.assertNotIn("killed", daemon.log)
            daemon.stop()


class TLSTests(BystanderTestCase):
    """
    What can be done with TLS, before a handshake and after it.
    """

    def test_all(self) -> None:
        """
        Whatever it does, the other one's echo takes at most a tenth of a second.
        """
        for name, kind in worst.TLS.items():
            self.beside(name, kind)
