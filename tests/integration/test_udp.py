"""
UDP: what comes back, from where, and what does not.
"""

import json
import os
import random
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from unittest import SkipTest
from urllib.request import urlopen

from twisted.trial.unittest import SynchronousTestCase

from echod.net.udp import kernel_drops
from tests.support import needs
from tests.support.activation import ActivatedDaemon
from tests.support.daemons import PATIENCE_SECONDS, Daemon, ping_pong, show, wait_until
from tests.support.namespaces import CLIENT, SERVER, ip, network
from tests.support.workers import WorkersDaemon

LOOPBACK = "udp:0:interface=127.0.0.1"


def address(daemon: Daemon, option: str = "--udp-listen") -> tuple[str, int]:
    """
    The address of a UDP listener.
    """
    host, _, port = daemon.address(option).rpartition(":")
    return host.strip("[]"), int(port)


def client(host: str = "127.0.0.1", port: int = 0) -> socket.socket:
    """
    A socket with a source address.
    """
    made = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
    made.settimeout(PATIENCE_SECONDS)
    made.bind((host, port))
    return made


def forge(source: tuple[str, int], destination: tuple[str, int], data: bytes) -> None:
    """
    Send a datagram over IPv4 whose sender is forged (raw(7)).

    @raise SkipTest: without the right to do so.
    """
    try:
        raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    except PermissionError:
        raise SkipTest("needs CAP_NET_RAW") from None
    udp = struct.pack("!HHHH", source[1], destination[1], 8 + len(data), 0) + data
    addresses = [socket.inet_aton(each[0]) for each in (source, destination)]
    header = struct.pack(
        "!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 1, 0, 64, socket.IPPROTO_UDP, 0, *addresses
    )
    with raw:
        raw.sendto(header + udp, (destination[0], 0))


class EchoTests(SynchronousTestCase):
    """
    What comes back.
    """

    def daemon(self, *options: str) -> Daemon:
        return self.enterContext(Daemon(*options))

    def sources(self, number: int) -> list[socket.socket]:
        """
        Clients with different addresses.
        """
        made = [client(f"127.0.1.{index + 1}") for index in range(number)]
        for each in made:
            self.addCleanup(each.close)
        return made

    def test_sizes(self) -> None:
        """
        10,000 datagrams of 0 to 65,507 bytes from 50 sources: every one comes back, whole.
        """
        daemon = self.daemon("--udp-listen", LOOPBACK, "--udp-rate", "0")
        server, draw = address(daemon), random.Random(862)
        block = draw.randbytes(65507)
        sources, back = self.sources(50), 0
        sizes = [0, 1, 65507, *(draw.randrange(65508) for _ in range(9997))]
        for index, size in enumerate(sizes):
            source = sources[index % 50]
            start = draw.randrange(65508 - size)
            source.sendto(block[start : start + size], server)
            answer, sender = source.recvfrom(65536)
            self.assertEqual(sender, server)
            self.assertTrue(answer == block[start : start + size], f"{size} bytes")
            back += 1
        self.assertEqual(back, 10_000)
        daemon.stop()
        self.assertEqual(daemon.datagrams(), {"echoed": 10_000, "bytes": sum(sizes)})

    def test_every_one_counted(self) -> None:
        """
        10,000 datagrams that come faster than they are answered: those that do not come back are
        counted, by reason.
        """
        daemon = self.daemon("--udp-listen", LOOPBACK)
        server, draw = address(daemon), random.Random(862)
        sources = self.sources(50)
        for index in range(10_000):
            sources[index % 50].sendto(bytes(draw.randrange(65508)), server)
        daemon.stop()
        found = daemon.datagrams()
        del found["bytes"]
        self.assertEqual(found.total(), 10_000, found)
        self.assertGreater(found["receive-buffer"], 0)
        back = 0
        for each in sources:
            while select.select([each], [], [], 0)[0]:
                each.recv(65536)
                back += 1
        self.assertLessEqual(back, found["echoed"])
        show(f"10,000 datagrams at once: {dict(found)}, {back} back")

    def test_rate(self) -> None:
        """
        A client gets its burst back and no more; another one is not concerned.
        """
        daemon = self.daemon("--udp-listen", LOOPBACK, "--udp-rate", "0.001:30")
        one, other = self.sources(2)
        for number in range(40):
            one.sendto(b"%d" % number, address(daemon))
        self.assertEqual([one.recv(9) for _ in range(30)], [b"%d" % n for n in range(30)])
        other.sendto(b"other", address(daemon))
        self.assertEqual(other.recv(9), b"other")
        daemon.stop()
        self.assertEqual(daemon.datagrams(), {"echoed": 31, "bytes": 55, "udp-rate": 10})

    def test_families(self) -> None:
        """
        IPv4 and IPv6 on one port, and the longest datagram of each.
        """
        needs.ipv6()
        daemon = self.daemon("--udp-port", "0")
        _, port = address(daemon, "--udp-port")
        for host, size in (("127.0.0.1", 65507), ("::1", 65527)):
            with client(host) as source:
                data = random.randbytes(size)
                source.sendto(data, (host, port))
                self.assertTrue(source.recv(70000) == data)
                # On the loopback interface each address of 127.0.0.0/8 is ours.
                if host == "127.0.0.1":
                    source.sendto(b"x", ("127.0.0.9", port))
                    self.assertEqual(source.recvfrom(9), (b"x", ("127.0.0.9", port)))

    def test_rules(self) -> None:
        """
        The access rules are those of connections.
        """
        daemon = self.daemon("--udp-listen", LOOPBACK, "--deny", "127.0.1.1")
        refused, admitted = self.sources(2)
        refused.sendto(b"1", address(daemon))
        admitted.sendto(b"2", address(daemon))
        self.assertEqual(admitted.recv(9), b"2")
        daemon.stop()
        self.assertEqual(daemon.datagrams(), {"echoed": 1, "bytes": 1, "denied": 1})
        self.assertEqual(select.select([refused], [], [], 0)[0], [])

    def test_reactors(self) -> None:
        """
        It works on Twisted's own reactors, too.
        """
        for reactor in ("epoll", "poll", "select"):
            daemon = Daemon("--udp-listen", LOOPBACK, reactor=reactor)
            self.enterContext(daemon)
            with client() as source:
                for size in (0, 1, 65507):
                    source.sendto(bytes(size), address(daemon))
                    self.assertEqual(len(source.recv(65536)), size)
            daemon.stop()

    def test_stop(self) -> None:
        """
        What has arrived before a stop is answered.
        """
        daemon = self.daemon("--udp-listen", LOOPBACK)
        server = address(daemon)
        with client() as source:
            daemon.signal(signal.SIGSTOP)
            for number in range(90):
                source.sendto(b"%d" % number, server)
            daemon.signal(signal.SIGTERM)
            daemon.signal(signal.SIGCONT)
            daemon.wait()
            self.assertEqual([source.recv(9) for _ in range(90)], [b"%d" % n for n in range(90)])
            with client() as probe:
                probe.connect(server)
                probe.send(b"x")
                self.assertRaises(ConnectionRefusedError, probe.recv, 9)

    def test_flood(self) -> None:
        """
        A client over TCP is served while datagrams without data come without end.
        """
        daemon = self.daemon("--udp-listen", LOOPBACK, "--listen", "tcp:0:interface=127.0.0.1")
        server, done = address(daemon), threading.Event()

        def flood() -> None:
            with client() as source:
                while not done.is_set():
                    source.sendto(b"", server)

        flooding = threading.Thread(target=flood)
        flooding.start()
        try:
            with daemon.connect("--listen") as connection:
                ping_pong(connection, lambda done: done < 200)
        finally:
            done.set()
            flooding.join()
        daemon.stop()
        self.assertGreater(daemon.datagrams()["udp-rate"], 0)

    def test_workers(self) -> None:
        """
        Workers share the socket, and count what the kernel discards once.
        """
        daemon = WorkersDaemon(2, "--udp-listen", LOOPBACK, "--udp-rate", "0")
        self.enterContext(daemon)
        server = address(daemon)
        with client() as source:
            for number in range(500):
                source.sendto(b"%d" % number, server)
                self.assertEqual(source.recv(9), b"%d" % number)
            old = daemon.signal_worker("0", signal.SIGKILL)
            daemon.wait_for_another("0", old)
            for number in range(500):
                source.sendto(b"%d" % number, server)
                self.assertEqual(source.recv(9), b"%d" % number)
            daemon.signal(signal.SIGSTOP)
            for pid in daemon.living():
                os.kill(pid, signal.SIGSTOP)
            # More than the receive buffer holds, whatever the system allows.
            for _ in range(300):
                source.sendto(bytes(60000), server)
            for pid in daemon.living():
                os.kill(pid, signal.SIGCONT)
            daemon.signal(signal.SIGCONT)
            daemon.stop()
        found = daemon.datagrams()
        # The worker that was killed has logged nothing.
        self.assertLessEqual(500 + 300, found["echoed"] + found["receive-buffer"])
        self.assertLessEqual(found["echoed"] + found["receive-buffer"], 1000 + 300)
        self.assertGreater(found["receive-buffer"], 0)
        self.assertLess(found["receive-buffer"], 300)

    def test_inherited(self) -> None:
        """
        Of the sockets of one name, UDP takes those for datagrams; also what was queued before the
        start is answered from where it was sent to, and what comes after the end stays queued.
        """
        stream = socket.create_server(("127.0.0.1", 0))
        datagram = client("0.0.0.0")
        for each in (stream, datagram):
            self.addCleanup(each.close)
        port = datagram.getsockname()[1]
        with client() as source:
            source.sendto(b"before", ("127.0.0.7", port))
            options = ("--listen", "systemd:name=echo", "--udp-listen", "systemd:name=echo")
            daemon = ActivatedDaemon({"echo": [stream, datagram]}, *options)
            self.enterContext(daemon)
            self.assertEqual(source.recvfrom(9), (b"before", ("127.0.0.7", port)))
            source.sendto(b"x", ("127.0.0.8", port))
            self.assertEqual(source.recvfrom(9), (b"x", ("127.0.0.8", port)))
            daemon.stop()
            source.sendto(b"after", ("127.0.0.7", port))
            self.assertEqual(datagram.recv(9), b"after")

    def test_inherited_drops(self) -> None:
        """
        What the kernel has discarded of an inherited socket before the start is not counted.
        """
        inherited = client()
        self.addCleanup(inherited.close)
        inherited.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        with client() as source:
            for _ in range(100):
                source.sendto(bytes(1000), inherited.getsockname())
            self.assertGreater(kernel_drops(inherited), 0)
            queued = 100 - kernel_drops(inherited)
            daemon = ActivatedDaemon({"echo": [inherited]}, "--udp-listen", "systemd:name=echo")
            self.enterContext(daemon)
            for _ in range(queued):
                self.assertEqual(source.recv(1001), bytes(1000))
            daemon.stop()
        self.assertEqual(daemon.datagrams(), {"echoed": queued, "bytes": queued * 1000})

    def test_check(self) -> None:
        """
        echod-check over UDP: a check, a ping, and a server that is not there.
        """
        daemon = self.daemon("--udp-listen", LOOPBACK)
        target = "{}:{}".format(*address(daemon))
        program = str(Path(sys.executable).with_name("echod-check"))

        def run(*arguments: str) -> tuple[int, str]:
            done = subprocess.run(
                [program, "--udp", *arguments, target], capture_output=True, text=True, timeout=60
            )
            return done.returncode, done.stdout + done.stderr

        status, said = run("--size", "65507")
        self.assertEqual(status, 0, said)
        status, said = run("--ping", "--rate", "200", "--count", "50", "--json")
        self.assertEqual(status, 0, said)
        summary = json.loads(said)
        self.assertEqual((summary["received"], summary["duplicates"], summary["wrong"]), (50, 0, 0))
        daemon.stop()
        for arguments in ((), ("--ping", "--count", "2", "--interval", "10ms")):
            status, said = run(*arguments)
            self.assertEqual(status, 4, said)


class AddressTests(SynchronousTestCase):
    """
    Two hosts: a server with several addresses, and its client.
    """

    def test_source(self) -> None:
        """
        An answer comes from the address that was asked, and nothing answers a broadcast.
        """
        needs.ipv6()
        with network() as (server, there):
            wire = f"e{os.getpid()}s"
            others = ("10.9.8.77", "fd00:9::1", "fd00:9::77")
            for each in others:
                length = 64 if ":" in each else 24
                more = ("nodad",) if ":" in each else ()
                ip("-n", server.name, "address", "add", f"{each}/{length}", "dev", wire, *more)
            peer = ("address", "add", "fd00:9::2/64", "dev", f"{wire[:-1]}c", "nodad")
            ip("-n", there.name, *peer)
            for options in (("--udp-port", "9000"), ("--udp-listen", "udp:9000:interface=0.0.0.0")):
                daemon = Daemon(*options)
                daemon._command = ("ip", "netns", "exec", server.name, *daemon._command)
                self.enterContext(daemon)
                for host in (SERVER, *others):
                    if ":" in host and "--udp-listen" in options:
                        continue
                    ours = "fd00:9::2" if ":" in host else CLIENT
                    with there.call(lambda ours=ours: client(ours)) as source:
                        source.sendto(b"x", (host, 9000))
                        answer, sender = source.recvfrom(9)
                        self.assertEqual((answer, sender[:2]), (b"x", (host, 9000)))
                with there.call(lambda: client(CLIENT)) as source:
                    source.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
                    for host in ("255.255.255.255", "10.9.8.255"):
                        source.sendto(b"b", (host, 9000))
                    source.sendto(b"x", (SERVER, 9000))
                    self.assertEqual(source.recv(9), b"x")
                daemon.stop()
                self.assertEqual(daemon.datagrams()["broadcast"], 2)

    def test_link_local(self) -> None:
        """
        A client with a link-local address gets its answer, from the server's own.
        """
        needs.ipv6()
        with network() as (server, there):
            wires = [f"e{os.getpid()}{side}" for side in "sc"]
            for each, wire, host in zip(
                (server, there), wires, ("fe80::a", "fe80::b"), strict=True
            ):
                ip("-n", each.name, "address", "add", f"{host}/64", "dev", wire, "nodad")
            daemon = Daemon("--udp-port", "9000")
            daemon._command = ("ip", "netns", "exec", server.name, *daemon._command)
            self.enterContext(daemon)
            scope = there.call(lambda: socket.if_nametoindex(wires[1]))
            with there.call(lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)) as source:
                source.settimeout(PATIENCE_SECONDS)
                source.bind(("fe80::b", 0, 0, scope))
                source.sendto(b"x", ("fe80::a", 9000, 0, scope))
                answer, sender = source.recvfrom(9)
                self.assertEqual((answer, sender[0]), (b"x", "fe80::a"))


class LoopTests(SynchronousTestCase):
    """
    Two echoes that a forged datagram sets on each other.
    """

    def echoes(self, *addresses: tuple[str, int]) -> list[Daemon]:
        """
        Daemons, with a rate that no loop exceeds for long.
        """
        started = []
        for host, port in addresses:
            daemon = Daemon(
                *("--udp-listen", f"udp:{port}:interface={host}", "--udp-rate", "0.001:20"),
                *("--admin", "tcp:0:interface=127.0.0.1"),
            )
            self.enterContext(daemon)
            started.append(daemon)
        return started

    def dropped(self, daemon: Daemon) -> Counter[str]:
        """
        What a daemon has not answered, by its status page.
        """
        with urlopen(f"http://{daemon.address('--admin')}/connections", timeout=60) as page:
            [stats] = json.load(page)["datagrams"]
        return Counter(stats["dropped"])

    def test_same_port(self) -> None:
        """
        On the same port there is no loop: the first one does not answer.
        """
        [one] = self.echoes(("127.0.0.1", 0))
        port = address(one)[1]
        [other] = self.echoes(("127.0.0.2", port))
        forge(("127.0.0.2", port), ("127.0.0.1", port), b"loop")
        wait_until(lambda: self.dropped(one)["own-port"], "the datagram")
        for each, found in ((one, {"own-port": 1}), (other, {})):
            each.stop()
            self.assertEqual(+each.datagrams(), Counter(found))

    def test_own_ports(self) -> None:
        """
        Neither is there one between two ports of one daemon.
        """
        daemon = Daemon(*("--udp-listen", LOOPBACK, "--udp-listen", "udp:0:interface=127.0.0.2"))
        self.enterContext(daemon)
        ports = [int(each.rpartition(":")[2]) for each, _ in daemon.addresses]
        forge(("127.0.0.2", ports[1]), ("127.0.0.1", ports[0]), b"loop")
        with client() as source:
            source.sendto(b"x", ("127.0.0.1", ports[0]))
            self.assertEqual(source.recv(9), b"x")
        daemon.stop()
        self.assertEqual(daemon.datagrams(), {"echoed": 1, "bytes": 1, "own-port": 1})

    def test_other_port(self) -> None:
        """
        On different ports, the rate ends the loop.
        """
        one, other = self.echoes(("127.0.0.1", 0), ("127.0.0.2", 0))
        forge(address(other), address(one), b"loop")
        daemons = (one, other)
        wait_until(
            lambda: any(self.dropped(each)["udp-rate"] for each in daemons), "the end of the loop"
        )
        for each in daemons:
            each.stop()
        found = one.datagrams() + other.datagrams()
        self.assertEqual((found["echoed"], found["udp-rate"]), (40, 1))
