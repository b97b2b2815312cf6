"""
Clients that do anything, in any order, to a real daemon: plain and TLS, on TCP and on UNIX
sockets, behind a PROXY header or not, of one process and of several.

Invariant: what comes back is what was sent, in order, at all times.  As long as a client reads,
all of it comes back, however the other clients behave.  A client that closes its sending side gets
the rest and then the end of the stream; only one that resets or leaves ends its stream early.
"""

import re
import select
import socket
import struct
from collections import Counter
from contextlib import ExitStack, suppress
from typing import Any

from hypothesis import strategies as st
from OpenSSL import SSL

from tests.fuzz.target import play
from tests.support.certificates import make_certificate
from tests.support.daemons import PATIENCE_SECONDS, Daemon, connect, wait_until
from tests.support.proxyheaders import v1, v2
from tests.support.streamclients import PERIOD, stream
from tests.support.tlsclient import VERSIONS, context
from tests.support.workers import WorkersDaemon

EXAMPLES = 25

MOST_SENT = 3 << 20
"""Bytes that one client sends at most; more than the kernel and the daemon keep for it."""

LISTEN = ("--port", "0", "--interface", "127.0.0.1", "--listen", "unix:{}/plain")
TLS = ("--tls-port", "0", "--tls-cert", "{}/pem", "--tls-listen", "unix:{}/tls")
PROXY = ("--proxy-protocol", "require", "--proxy-trust", "127.0.0.0/8", "--proxy-trust", "unix")
OPTIONAL = ("--proxy-protocol", "optional", *PROXY[2:])

DAEMONS: dict[str, tuple[str, ...]] = {
    "alone": (),
    "optional": OPTIONAL,
    "require": PROXY,
    "workers": ("--workers", "2"),
}
"""The daemons that are played with, by their further options."""

LISTENERS = ("--port", "--listen", "--tls-port", "--tls-listen")

_RECORD = re.compile(r"connection \d+ of (\S+) to \S+: (\d+) bytes echoed in [\d.]+ s, ([\w-]+)")


class Client:
    """
    One client.

    @ivar sent: how many bytes the kernel has taken, and C{received}: how many have come back.
    @ivar half_closed: whether the sending side is closed.
    @ivar ended: whether the stream has ended, and C{left}: whether the client ended it early.
    """

    def __init__(self, address: str, start: int, receive_buffer: int, number: int):
        self.start = start
        self.sent = self.received = 0
        self.half_closed = self.ended = self.left = False
        self.socket = connect(address, receive_buffer)
        self.peer = ""
        if self.socket.family == socket.AF_INET:
            self.peer = f"127.0.0.1:{self.socket.getsockname()[1]}"
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, number % 2)

    def greet(self, header: bytes, cut: int) -> None:
        """
        Send a PROXY header, in two pieces.
        """
        cut %= len(header) + 1
        self.socket.sendall(header[:cut])
        self.socket.sendall(header[cut:])

    def begin(self, version: str) -> None:
        """
        Begin, after the PROXY header.

        @param version: the version of TLS, for a client that speaks it.
        """
        self.socket.setblocking(False)

    def _wait(self, events: int, what: str) -> None:
        poller = select.poll()
        poller.register(self.socket, events)
        if not poller.poll(PATIENCE_SECONDS * 1000):
            raise AssertionError(f"waited in vain for {what}: {self}")

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__} {self.peer}: sent {self.sent}, received {self.received}, "
            f"half-closed {self.half_closed}, ended {self.ended}"
        )

    def send(self, size: int, most: int) -> None:
        """
        Send as much as the daemon takes now.

        @param most: most bytes of one C{send(2)}.
        """
        size = min(size, MOST_SENT - self.sent)
        while size > 0 and not self.half_closed:
            piece = stream(self.start + self.sent, min(size, most, PERIOD))
            taken = self._send(piece)
            if not taken:
                return
            self.sent += taken
            size -= taken

    def _send(self, data: memoryview) -> int:
        """
        @return: how many bytes were taken; 0 if the client has to wait.
        """
        try:
            return self.socket.send(data)
        except BlockingIOError:
            return 0

    def urgent(self) -> None:
        """
        Send an urgent byte, which is echoed as any other (RFC 862 knows no other).
        """
        if self.half_closed or self.socket.family != socket.AF_INET:
            return
        with suppress(BlockingIOError):
            byte = stream(self.start + self.sent, 1)
            self.sent += self.socket.send(byte, socket.MSG_OOB)

    def _receive(self, most: int) -> bytes | None:
        """
        @return: C{None} if nothing has come, empty at the end of the stream.
        """
        try:
            return self.socket.recv(most)
        except BlockingIOError:
            return None

    def read(self, size: int, most: int = 65536) -> None:
        """
        Read this many bytes of what is still to come, however long that takes.
        """
        size = min(size, self.sent - self.received)
        while size > 0 and not self.ended:
            data = self._receive(min(size, most))
            if data is None:
                self._wait(select.POLLIN, "the echo")
                continue
            self._received(data)
            size -= len(data)

    def _received(self, data: bytes) -> None:
        if not data:
            self.ended = True
            raise AssertionError(f"the stream has ended early: {self}")
        assert self.received + len(data) <= self.sent, f"more than was sent: {self}"
        expected = stream(self.start + self.received, len(data))
        assert data == expected, f"other bytes than were sent, after {self.received}: {self}"
        self.received += len(data)

    def half_close(self) -> None:
        """
        Close the sending side.
        """
        if not self.half_closed:
            self.half_closed = True
            self.socket.shutdown(socket.SHUT_WR)

    def settle(self) -> None:
        """
        Send the rest of what has been begun.
        """

    def read_end(self) -> None:
        """
        Read the end of the stream, which the daemon or this client has closed.
        """
        self.read(MOST_SENT)
        while (data := self._receive(65536)) is None:
            self._wait(select.POLLIN, "the end of the stream")
        if data:
            self._received(data)
        self.ended = True

    def finish(self) -> None:
        """
        Close the sending side, read the rest and the end of the stream, and close.
        """
        self.half_close()
        if not self.ended:
            self.read_end()
        self.socket.close()

    def leave(self, resets: bool) -> None:
        """
        End the connection at once.
        """
        if resets:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.left = self.ended = True
        self.socket.close()

    def truncate(self) -> None:
        """
        Close the sending side of the socket, which is the same here.
        """
        self.half_close()


class TLSClient(Client):
    """
    One client that speaks TLS.  Its end of the stream is a close_notify, and then a FIN.
    """

    tls: SSL.Connection

    def begin(self, version: str) -> None:
        """
        Make the handshake.
        """
        super().begin(version)
        self._unsent = memoryview(b"")
        self.tls = SSL.Connection(context(version), self.socket)
        self.tls.set_connect_state()
        self.tls.set_tlsext_host_name(b"localhost")
        while True:
            try:
                self.tls.do_handshake()
            except SSL.WantReadError:
                self._wait(select.POLLIN, "the handshake")
            except SSL.WantWriteError:
                self._wait(select.POLLOUT, "the handshake")
            else:
                return

    def _send(self, data: memoryview) -> int:
        # A record that OpenSSL has begun to send has to be sent whole, before any other.
        data = self._unsent or data
        try:
            taken = self.tls.send(data)
        except (SSL.WantReadError, SSL.WantWriteError):
            self._unsent = data
            return 0
        self._unsent = memoryview(b"")
        return taken

    def settle(self) -> None:
        """
        Send the rest of a record.  To let the daemon read it, read what it sends.
        """
        while self._unsent:
            taken = self._send(self._unsent)
            self.sent += taken
            if not taken:
                self._wait(select.POLLIN | select.POLLOUT, "the daemon to read")
                if data := self._receive(65536):
                    self._received(data)

    def urgent(self) -> None:
        """
        Do nothing: TLS has no urgent data.
        """

    def _receive(self, most: int) -> bytes | None:
        try:
            return self.tls.recv(most)
        except SSL.WantReadError:
            return None
        except SSL.ZeroReturnError:
            return b""

    def half_close(self) -> None:
        """
        Send a close_notify.
        """
        if not self.half_closed:
            self.settle()
            self.half_closed = True
            while True:
                try:
                    self.tls.shutdown()
                except SSL.WantWriteError:
                    self._wait(select.POLLIN | select.POLLOUT, "the daemon to read")
                    if data := self._receive(65536):
                        self._received(data)
                else:
                    return

    def finish(self) -> None:
        self.half_close()
        if not self.ended:
            self.read_end()
        while True:
            try:
                rest = self.socket.recv(100)
            except BlockingIOError:
                self._wait(select.POLLIN, "the FIN")
            else:
                assert not rest, f"{len(rest)} bytes after the close_notify: {self}"
                break
        self.socket.close()

    def truncate(self) -> None:
        """
        Close the sending side of the socket without a close_notify: an attack, for TLS.
        """
        self.left = self.ended = True
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)
        self.socket.close()


_sizes = st.one_of(
    st.integers(0, 64),
    st.integers(0, 70_000),
    st.sampled_from([1, 16384, 65536, 300_000, MOST_SENT]),
)
_pieces = st.sampled_from([1 << 20, 1 << 20, 65536, 16384, 16385, 1460, 100, 7])
_actions = st.one_of(
    st.tuples(st.just("send"), _sizes, _pieces),
    st.tuples(st.just("send"), _sizes, _pieces),
    st.tuples(st.just("send"), _sizes, st.just(1 << 20)),
    st.tuples(st.just("read"), _sizes, _pieces),
    st.tuples(st.just("read"), st.just(MOST_SENT), st.just(65536)),
    st.just(("urgent",)),
    st.just(("half_close",)),
    st.sampled_from([("finish",), ("finish",), ("truncate",), ("leave", False), ("leave", True)]),
)
_clients = st.tuples(
    st.sampled_from(LISTENERS),
    st.sampled_from([0, 0, 4096]),
    st.sampled_from(sorted(VERSIONS)),
    st.sampled_from(["v1", "v2", "none"]),
    st.integers(0, 60),
)
scripts = st.tuples(
    st.lists(_clients, min_size=1, max_size=4),
    st.lists(st.tuples(st.integers(0, 3), _actions), min_size=8, max_size=60),
)
"""Clients, and what they do: the number of a client, modulo theirs, and a method of it."""


class Clients:
    """
    Several daemons, and clients of each.
    """

    name = "clients"

    def __init__(self) -> None:
        made = make_certificate()
        self._daemons: dict[str, Daemon] = {}
        for name, options in DAEMONS.items():
            daemon: Daemon
            if "--workers" in options:
                daemon = WorkersDaemon(2, *LISTEN, *TLS)
            else:
                daemon = Daemon(*LISTEN, *TLS, *options)
            (daemon.directory / "pem").write_bytes(made.cert_pem + made.key_pem)
            self._daemons[name] = daemon
        self._headers = {
            "alone": False, "optional": True, "require": True, "workers": False
        }  # fmt: skip
        self._stack = ExitStack()

    def __enter__(self) -> "Clients":
        with ExitStack() as stack:
            for daemon in self._daemons.values():
                stack.enter_context(daemon)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        # Looks for tracebacks in the logs.
        self._stack.__exit__(*error)

    def round(self, number: int) -> int:
        script = st.tuples(st.sampled_from(sorted(DAEMONS)), scripts)
        return play(script, self._check, number, EXAMPLES)

    def _check(self, case: tuple[str, tuple[list[Any], list[Any]]]) -> None:
        name, (plans, steps) = case
        daemon = self._daemons[name]
        logged = len(daemon.log)
        clients: list[Client | None] = [None] * len(plans)
        over: list[Client] = []
        try:
            for number, (action, *arguments) in steps:
                index = number % len(plans)
                client = clients[index]
                if client is None:
                    client = clients[index] = self._connect(name, index, plans[index])
                getattr(client, action)(*arguments)
                if client.ended:
                    over.append(client)
                    clients[index] = None
            # Those that are left read and close in turn, so that none depends on another.
            for client in filter(None, clients):
                client.finish()
                over.append(client)
        finally:
            for client in (*over, *filter(None, clients)):
                client.socket.close()
        self._look_at_log(daemon, logged, over)

    def _connect(self, name: str, index: int, plan: tuple[str, int, str, str, int]) -> Client:
        listener, receive_buffer, version, header, cut = plan
        kind = TLSClient if "tls" in listener else Client
        daemon = self._daemons[name]
        client = kind(daemon.address(listener), index * 1000, receive_buffer, cut)
        if header == "none" and name == "require":
            header = "v2"
        if self._headers[name] and header != "none":
            # Its own port is the client's in the header, too, so that its record can be found.
            port = client.socket.getsockname()[1] if client.peer else 9
            make = v1 if header == "v1" else v2
            client.greet(make("127.0.0.1", port), cut)
        client.begin(version)
        return client

    def _look_at_log(self, daemon: Daemon, logged: int, over: list[Client]) -> None:
        """
        Each connection that its client ended as it should has a record that says so.
        """
        expected = Counter(
            (client.peer, str(client.sent), "client")
            for client in over
            if client.peer and not client.left and client.sent
        )
        found: Counter[tuple[str, ...]] = Counter()

        def logs_all() -> bool:
            nonlocal found
            found = Counter(_RECORD.findall(daemon.log[logged:]))
            return expected <= found

        try:
            wait_until(logs_all, "the records", PATIENCE_SECONDS)
        except AssertionError as error:
            raise AssertionError(f"{error}: {expected - found} is not in {found}") from None
