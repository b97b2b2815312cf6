"""
Urgent data (MSG_OOB): a byte sent as urgent comes back where it stands in the stream, as
telnet's C{send synch} expects.
"""

import os
import socket
from pathlib import Path
from unittest import SkipTest

from twisted.trial.unittest import TestCase

from tests.support.activation import ActivatedDaemon
from tests.support.daemons import REACTOR, Daemon, connect, echo, receive
from tests.support.listeners import listener
from tests.support.proxyheaders import v1

TRUST = ("--proxy-protocol", "require", "--proxy-trust", "127.0.0.1/32")


def urgent_echoes(client: socket.socket, header: bytes = b"") -> dict[str, bytes]:
    """
    Send urgent bytes in several ways.

    @param header: what goes before all, each byte of it urgent.
    @return: what came back, by what was sent.
    """
    if client.family != socket.AF_UNIX:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for byte in header:
        client.send(bytes([byte]), socket.MSG_OOB)
    back: dict[str, bytes] = {}
    try:
        client.sendall(b"abc")
        client.send(b"X", socket.MSG_OOB)
    except OSError as error:
        raise SkipTest(f"no urgent bytes here: {error}") from None
    client.sendall(b"def")
    back["abcXdef"] = receive(client, 7)
    client.send(b"!", socket.MSG_OOB)
    back["!"] = receive(client, 1)
    many = b"%0200d" % 7
    for byte in many:
        client.send(bytes([byte]), socket.MSG_OOB)
    back[many.decode()] = receive(client, len(many))
    # Telnet's synch: IAC, and DM as urgent (RFC 854).
    client.sendall(b"\xff")
    client.send(b"\xf2", socket.MSG_OOB)
    back["synch"] = receive(client, 2)
    client.shutdown(socket.SHUT_WR)
    back["the end"] = receive(client, 1)
    return back


class UrgentTests(TestCase):
    """
    Urgent bytes, on every kind of listener.
    """

    def all_came_back(self, client: socket.socket, header: bytes = b"") -> None:
        with client:
            back = urgent_echoes(client, header)
        self.assertEqual(back.pop("synch"), b"\xff\xf2")
        self.assertEqual(back.pop("the end"), b"")
        for sent, came in back.items():
            self.assertEqual(came, sent.encode())

    def on(self, transport: str, *options: str, reactor: str = REACTOR) -> None:
        with Daemon(*listener(transport), *options, reactor=reactor) as daemon:
            self.all_came_back(daemon.connect("--listen"))
            daemon.stop()

    def test_ipv4(self) -> None:
        """
        Over IPv4.
        """
        self.on("IPv4")

    def test_ipv6(self) -> None:
        """
        Over IPv6.
        """
        self.on("IPv6")

    def test_unix(self) -> None:
        """
        On a UNIX socket.
        """
        self.on("unix")

    def test_other_reactors(self) -> None:
        """
        On a reactor of Twisted's.
        """
        for transport in ("IPv4", "unix"):
            self.on(transport, reactor="poll")

    def test_workers(self) -> None:
        """
        With workers.
        """
        for transport in ("IPv4", "unix"):
            self.on(transport, "--workers", "2")

    def test_proxy_header(self) -> None:
        """
        Behind a PROXY header, and in it.
        """
        header = v1("192.0.2.7", 40000)
        with Daemon(*listener("IPv4"), *TRUST) as daemon:
            client = daemon.connect("--listen")
            client.sendall(header)
            self.all_came_back(client)
            self.all_came_back(daemon.connect("--listen"), header)
            daemon.ended("client", 2)
            self.assertEqual({peer for peer, *_ in daemon.records()}, {"192.0.2.7:40000"})

    def test_inherited(self) -> None:
        """
        On sockets that were handed over, also for a client that has waited in the queue
        since before the daemon was started.
        """
        directory = Path(self.mktemp()).absolute()
        directory.mkdir()
        path = os.path.relpath(directory / "s")
        unix = socket.socket(socket.AF_UNIX)
        self.addCleanup(unix.close)
        unix.bind(path)
        unix.listen(50)
        tcp = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(tcp.close)
        places = (f"127.0.0.1:{tcp.getsockname()[1]}", f"unix:{path}")
        early = [connect(place) for place in places]
        for client in early:
            client.sendall(b"early")
        for options in ((), ("--workers", "2")):
            given = {"echo": [tcp, unix]}
            with ActivatedDaemon(given, "--listen", "systemd:name=echo", *options) as daemon:
                for client in early:
                    self.assertEqual(receive(client, 5), b"early")
                    self.all_came_back(client)
                early = []
                for place in places:
                    client = connect(place)
                    self.assertEqual(echo(client, b"hello"), b"hello")
                    self.all_came_back(client)
                daemon.stop()
