"""
The reactors: on each that Twisted offers here, the daemon keeps its promises; on its own,
it runs unless another one is chosen.
"""

import random
import resource
import signal
import socket

from twisted.trial.unittest import SynchronousTestCase

from tests.support.clients import VERSIONS, Clients, Connection, StreamClient, TLSClient, context
from tests.support.daemons import (
    LOOPBACK,
    Daemon,
    FreshDaemon,
    connect,
    echo,
    receive,
    receive_rest,
    refuses,
    show,
    tls_daemon,
    wait_until,
)
from tests.support.proxyheaders import v1, v2
from tests.support.shortclients import IdleClient, connect_from, is_served, wait_for_all
from tests.support.tlswire import WireClient

KIB = 1024
MIB = 1024 * KIB

DATA = random.Random(862).randbytes(8 * MIB)


class PromisesTests(SynchronousTestCase):
    """
    A short version of all that is promised, on reactors that are not ours.
    """

    tls_bytes = 100_000
    tls_runs = 5
    small = 32 * KIB

    def plain(self, daemon: Daemon, slow: bool) -> bool:
        """
        8 MiB there and back.

        @param slow: whether to read a little at a time, and so less than it sends.
        """
        with daemon.connect(receive_buffer=self.small if slow else 0) as sock:
            return Connection(sock).exchange(DATA, slow=slow) == DATA

    def secure(self, daemon: Daemon, version: str) -> bool:
        """
        Send over TLS, close the sending side with a close_notify, and read to the end.
        """
        data = DATA[: self.tls_bytes]
        with daemon.connect("--tls-port") as sock:
            return TLSClient(sock, context(version)).handshake().exchange(data) == data

    def drains(self, daemon: Daemon) -> bool:
        """
        Tell the daemon to stop while one client has much of its echo to come and others are quiet.

        @return: whether that one got it all.
        """
        address = daemon.address()
        quiet = daemon.connect()
        busy = StreamClient(daemon.connect(receive_buffer=self.small), reads=False)
        secure = daemon.connect("--tls-port")
        with quiet, secure, Clients([busy]) as group:
            self.assertEqual(echo(quiet, b"hello"), b"hello")
            client = TLSClient(secure, context("TLS 1.3")).handshake()
            self.assertEqual(client.exchange(b"hello", close=False), b"hello")
            group.run(lambda: busy.stuck, "the client to be held back")
            # Else it would be quiet as well, if this process got no CPU for a while.
            busy.close_sending()
            daemon.signal(signal.SIGTERM)
            wait_until(lambda: refuses(address), "the port to be closed")
            self.assertEqual(quiet.recv(1), b"")
            self.assertEqual(client.exchange(b""), b"")
            self.assertTrue(daemon.running())
            busy.reads = True
            group.run(lambda: group.over, "the end")
        daemon.wait()
        return busy.whole

    def promises(self, reactor: str, class_name: str) -> None:
        with tls_daemon("--port", "0", "--drain-timeout", "10m", reactor=reactor) as daemon:
            self.assertIn(f" starting, on {class_name}, ", daemon.log)
            fast, slow = self.plain(daemon, slow=False), self.plain(daemon, slow=True)
            secure = {
                version: sum(self.secure(daemon, version) for _ in range(self.tls_runs))
                for version in VERSIONS
            }
            daemon.ended("client", 2 + self.tls_runs * len(VERSIONS))
            drained = self.drains(daemon)
            show(
                f"{reactor}: 8 MiB and half-close {fast}, slow reader {slow}; {self.tls_bytes} "
                f"bytes and close_notify {secure} of {self.tls_runs}; TERM drains {drained}"
            )
            self.assertEqual((fast, slow, drained), (True, True, True))
            self.assertEqual(secure, dict.fromkeys(VERSIONS, self.tls_runs))
            self.assertIn(" 0 aborted", daemon.log)
            self.assertEqual({record[4] for record in daemon.records()}, {"client", "drain"})
            self.assertEqual(daemon.status, -signal.SIGTERM)

    def test_epoll(self) -> None:
        """
        On the epoll reactor every byte comes back, plain and over TLS, and TERM drains.
        """
        self.promises("epoll", "twisted.internet.epollreactor.EPollReactor")

    def test_poll(self) -> None:
        """
        On the poll reactor every byte comes back, plain and over TLS, and TERM drains.
        """
        self.promises("poll", "twisted.internet.pollreactor.PollReactor")

    def test_select(self) -> None:
        """
        On the select reactor every byte comes back, plain and over TLS, and TERM drains.
        """
        self.promises("select", "twisted.internet.selectreactor.SelectReactor")

    def test_asyncio(self) -> None:
        """
        On the asyncio reactor every byte comes back, plain and over TLS, and TERM drains.
        """
        self.promises("asyncio", "twisted.internet.asyncioreactor.AsyncioSelectorReactor")


class AdmissionTests(SynchronousTestCase):
    """
    Admission on Twisted's reactors, and on ours.
    """

    reactors = ("epoll", "poll", "select", "asyncio", "echod")
    options = (
        "--port 0 --deny=127.0.0.9 --max-per-client=2 --connect-rate=0.01:3 "
        "--proxy-protocol=optional --proxy-trust=127.0.0.2 "
        "--handshake-timeout=10s --idle-timeout=10s"
    )

    def come(self, source: str, daemon: Daemon, option: str = "--port") -> socket.socket:
        client = connect_from(source, ("127.0.0.1", daemon.port(option)))
        self.addCleanup(client.close)
        return client

    def behind(self, daemon: Daemon) -> None:
        """
        Two clients behind a proxy, one of them with TLS; their records name them.
        """
        client = self.come("127.0.0.2", daemon)
        client.sendall(v1("192.0.2.1", 4242) + b"hello")
        self.assertEqual(receive(client, 5), b"hello")
        client.close()
        sock = self.come("127.0.0.2", daemon, "--tls-port")
        # Right behind the header, and in one segment with it: TLS.
        secure = WireClient(sock, context("TLS 1.3"))
        sock.sendall(v2("192.0.2.2", 4242) + secure.flight())
        while not (flight := secure.flight()):
            secure.tls.bio_write(sock.recv(65536))
        sock.sendall(flight + secure.records(b"hello"))
        self.assertEqual(secure.decrypt(receive_rest(sock)), b"hello")
        sock.close()
        peers = {"192.0.2.1:4242", "192.0.2.2:4242"}
        wait_until(lambda: {record[0] for record in daemon.records()} == peers, "the records")

    def refused(self, daemon: Daemon) -> None:
        """
        Clients that are not let in hear nothing.
        """
        for option in ("--port", "--tls-port"):
            self.assertFalse(is_served(self.come("127.0.0.9", daemon, option)))
        three = [self.come("127.0.0.3", daemon) for _ in range(3)]
        self.assertEqual([is_served(client) for client in three], [True, True, False])
        for client in three:
            client.close()
        for _ in range(3):
            with self.come("127.0.0.4", daemon) as client:
                self.assertTrue(is_served(client))
                client.shutdown(socket.SHUT_WR)
                self.assertEqual(client.recv(1), b"")
        daemon.ended("client", 7)
        self.assertFalse(is_served(self.come("127.0.0.4", daemon)))
        bad = self.come("127.0.0.2", daemon)
        bad.sendall(b"PROXY nonsense\r\n")
        self.assertEqual(receive_rest(bad), b"")

    def test_on_all(self) -> None:
        """
        On each reactor, rules, limits and PROXY headers hold, and who is silent is gone in
        time.
        """
        daemons = [
            self.enterContext(tls_daemon(*self.options.split(), reactor=reactor))
            for reactor in self.reactors
        ]
        empty = [daemon.descriptors() for daemon in daemons]
        for daemon in daemons:
            self.behind(daemon)
            self.refused(daemon)
        idle = [IdleClient(lambda d=daemon: self.come("127.0.0.5", d)) for daemon in daemons]
        silent = [
            IdleClient(lambda d=daemon: self.come("127.0.0.6", d, "--tls-port"))
            for daemon in daemons
        ]
        wait_for_all([*idle, *silent], lambda _: False, "to be gone")
        for reactor, daemon, descriptors, *idle_clients in zip(
            self.reactors, daemons, empty, idle, silent, strict=True
        ):
            after = [each.gone_after or 0.0 for each in idle_clients]
            show(f"{reactor}: idle, gone after {after[0]:.2f} s; no handshake, {after[1]:.2f} s")
            self.assertEqual([each.was_reset for each in idle_clients], [False, True], reactor)
            self.assertGreaterEqual(min(after), 10.0, reactor)
            wait_until(lambda d=daemon, n=descriptors: d.descriptors() <= n, "the descriptors")
            daemon.stop()
            daemon.turned_away(
                {
                    "denied": 2,
                    "max-per-client": 1,
                    "connect-rate": 1,
                    "proxy-header": 1,
                    "handshake": 1,
                }
            )


class OursTests(SynchronousTestCase):
    """
    How the daemon comes to run on its own reactor.
    """

    line = " starting, on echod.net.reactor.EagerReactor, "

    def serves(self, daemon: Daemon) -> None:
        with daemon.connect() as client:
            self.assertEqual(echo(client, b"hello"), b"hello")
            daemon.signal(signal.SIGTERM)
            self.assertEqual(client.recv(1), b"")
        daemon.wait()
        self.assertIn("drained: 1 connections finished, 0 aborted", daemon.log)

    def test_twistd_none_chosen(self) -> None:
        """
        Plain C{twistd echod} runs on it.
        """
        with FreshDaemon(*LOOPBACK, "--drain-timeout", "10m", reactor="") as daemon:
            self.assertIn(self.line, daemon.log)
            self.serves(daemon)

    def test_twistd_background(self) -> None:
        """
        So does C{twistd} in the background.
        """
        with FreshDaemon(
            *LOOPBACK, "--drain-timeout", "10m", reactor="", background=True
        ) as daemon:
            self.assertIn(self.line, daemon.log)
            self.serves(daemon)

    def test_twistd_chosen(self) -> None:
        """
        C{twistd --reactor echod} runs on it.
        """
        with FreshDaemon(*LOOPBACK, "--drain-timeout", "10m", reactor="echod") as daemon:
            self.assertIn(self.line, daemon.log)
            self.serves(daemon)

    def test_twist_chosen(self) -> None:
        """
        C{twist --reactor=echod} runs on it: twist does not log a reactor, but what the
        port says when no descriptor is left is ours.
        """
        with FreshDaemon(
            *LOOPBACK, "--drain-timeout", "10m", program="twist", reactor="echod"
        ) as daemon:
            before = resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE)
            full = (daemon.descriptors(), before[1])
            resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, full)
            with connect(daemon.address()) as client:
                self.assertEqual(receive_rest(client), b"")
            wait_until(lambda: "cannot accept: " in daemon.log, "the port's words")
            resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, before)
            self.serves(daemon)

    def test_twist_none_chosen(self) -> None:
        """
        Where C{twist} has chosen for the user, the daemon works on what it chose.
        """
        with FreshDaemon(
            *LOOPBACK, "--drain-timeout", "10m", program="twist", reactor=""
        ) as daemon:
            self.serves(daemon)
