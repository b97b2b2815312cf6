"""
Echo servers with one fault each, on real sockets; and C{echod-check} as a process.

Invariant: a server has one fault and is correct otherwise, and ends when its client does.
"""

import json
import os
import socket
import ssl
import struct
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support import prefork
from tests.support.daemons import PATIENCE_SECONDS

PROGRAM = str(Path(sys.executable).with_name("echod-check"))
PATIENT = ("--timeout", "60s")
"""For what must not time out, on a machine with much else to do."""

SIZE = 64
HALF = SIZE // 2

Serve = Callable[[Any], None]


def ask(*arguments: str) -> tuple[int, dict[str, Any]]:
    """
    Run C{echod-check}, in a process that has its imports already; patiently, unless a time limit
    is given.

    @return: its exit status, and what it printed as JSON.
    """
    limit = () if "--timeout" in arguments else PATIENT
    command = (PROGRAM, "--json", *limit, *arguments)
    done = prefork.shared().run(command, Path.cwd(), os.environ, PATIENCE_SECONDS)
    if done.stderr and not done.stderr.startswith("echod-check: --insecure"):
        raise AssertionError(done.stderr)
    return done.returncode, json.loads(done.stdout)


class WrongServer:
    """
    A server on a free port, each of whose connections has a thread.

    @ivar port: the port.
    """

    def __init__(self, serve: Serve, context: ssl.SSLContext | None = None):
        self._serve = serve
        self._context = context
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self._accepting = threading.Thread(target=self._accept, daemon=True)

    def __enter__(self) -> Self:
        self._accepting.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # shutdown(2) wakes the thread that accepts; close(2) alone does not.
        self._listening.shutdown(socket.SHUT_RDWR)
        self._accepting.join(PATIENCE_SECONDS)
        self._listening.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                threading.Thread(target=self._talk, args=(client,), daemon=True).start()

    def _talk(self, client: socket.socket) -> None:
        client.settimeout(PATIENCE_SECONDS)
        with client, suppress(OSError):
            if self._context is None:
                self._serve(client)
            else:
                with self._context.wrap_socket(client, server_side=True) as secured:
                    self._serve(secured)


def receive(client: Any) -> bytes:
    """
    Receive all that C{echod-check} sends.
    """
    came = b""
    while len(came) < SIZE and (piece := client.recv(SIZE)):
        came += piece
    return came


def until_end(client: Any) -> None:
    """
    Wait until the client has closed its sending side, and close.
    """
    while client.recv(4096):
        pass
    if isinstance(client, ssl.SSLSocket):
        client.unwrap()


def changed(change: Callable[[bytes], bytes]) -> Serve:
    """
    It sends other bytes, and closes cleanly.
    """

    def serve(client: Any) -> None:
        client.sendall(change(receive(client)))
        until_end(client)

    return serve


def swapped(data: bytes) -> bytes:
    """
    The two bytes in the middle swapped; if they are equal, one of them is changed first.
    """
    one, two = data[HALF : HALF + 2]
    if one == two:
        two ^= 255
    return data[:HALF] + bytes((two, one)) + data[HALF + 2 :]


def flipped(at: int) -> Serve:
    """
    It changes one bit.
    """
    return changed(lambda came: came[:at] + bytes((came[at] ^ 1,)) + came[at + 1 :])


def stalls(after: int) -> Serve:
    """
    It stops in the middle, and keeps the connection open.
    """

    def serve(client: Any) -> None:
        client.sendall(receive(client)[:after])
        until_end(client)
        # The client has given up its sending side, and waits for ours.
        threading.Event().wait(PATIENCE_SECONDS / 4)

    return serve


def resets(after: int | None) -> Serve:
    """
    It resets the connection: at once, or after this many bytes.
    """

    def serve(client: Any) -> None:
        if after is not None:
            client.sendall(receive(client)[:after])
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    return serve


def closes(after: int) -> Serve:
    """
    It closes its sending side early.
    """

    def serve(client: Any) -> None:
        client.sendall(receive(client)[:after])
        client.shutdown(socket.SHUT_WR)
        while client.recv(4096):
            pass

    return serve


def truncates(client: Any) -> None:
    """
    It delays some bytes, and drops them at the end.
    """
    client.sendall(receive(client)[:-10])
    until_end(client)


def cuts(client: Any) -> None:
    """
    It echoes, and closes without a close_notify.
    """
    client.sendall(receive(client))


def banner(client: Any) -> None:
    """
    It sends before the client does.
    """
    client.sendall(b"hello ")
    changed(bytes)(client)


def echoes(client: Any) -> None:
    """
    It echoes correctly.
    """
    while piece := client.recv(4096):
        client.sendall(piece)


def answers(record: bytes) -> Serve:
    """
    It answers a ClientHello with bytes that are no handshake.
    """

    def serve(client: Any) -> None:
        client.recv(4096)
        client.sendall(record)
        while client.recv(4096):
            pass

    return serve


def alert(number: int) -> Serve:
    """
    It answers a ClientHello with an alert (RFC 8446 6).
    """
    return answers(bytes((21, 3, 3, 0, 2, 2, number)))


def silent(client: Any) -> None:
    """
    It sends nothing.
    """
    while client.recv(4096):
        pass
    threading.Event().wait(PATIENCE_SECONDS / 4)


PLAIN: dict[str, tuple[Serve, str, str]] = {
    "drops the first byte": (changed(lambda b: b[1:]), "lost", "1 byte at offset [012] of 64"),
    "drops one in the middle": (
        changed(lambda b: b[:HALF] + b[HALF + 1 :]),
        "lost",
        "1 byte at offset 3[234] of 64",
    ),
    "drops the last byte": (changed(lambda b: b[:-1]), "lost", "63 of 64 bytes came back"),
    "drops a run": (changed(lambda b: b[:10] + b[30:]), "lost", "20 bytes at offset 1[012] of 64"),
    "drops everything": (changed(lambda b: b""), "lost", "0 of 64 bytes came back"),
    "truncates at the end": (truncates, "lost", "54 of 64 bytes came back"),
    "swaps two": (
        changed(swapped),
        "corrupted",
        r"offset 3[23] of 64: sent 0x[0-9a-f]{2}, got 0x[0-9a-f]{2}",
    ),
    "flips a bit of the first": (flipped(0), "corrupted", "offset 0 of 64: sent 0x"),
    "flips a bit in the middle": (flipped(HALF), "corrupted", "offset 32 of 64: sent 0x"),
    "flips a bit of the last": (flipped(63), "corrupted", "offset 63 of 64: sent 0x"),
    "is a web server": (
        changed(lambda b: b"HTTP/1.1 400 Bad Request\r\n\r\n"),
        "corrupted",
        "offset [01] of 64: sent 0x.*got 0x(48|54)",
    ),
    "stalls before the echo": (stalls(0), "timed out", "waiting for the echo.*0 of 64"),
    "stalls in the middle": (stalls(HALF), "timed out", "waiting for the echo.*32 of 64"),
    "does not close": (stalls(SIZE), "timed out", "waiting for the server to close"),
    "resets at once": (
        resets(None),
        "reset",
        "(0 of 64 bytes came back|as soon as it was connected)",
    ),
    "resets in the middle": (resets(HALF), "reset", "(0|32) of 64 bytes came back"),
    "closes before the echo": (closes(0), "closed early", "0 of 64 bytes came back"),
    "closes in the middle": (closes(HALF), "closed early", "32 of 64 bytes came back"),
    "echoes twice": (changed(lambda b: b + b), "surplus", "64 more than the 64 bytes sent"),
    "echoes a part twice": (
        changed(lambda b: b[:HALF] + b[HALF - 9 :]),
        "surplus",
        "9 bytes came back twice, from offset 3[234]",
    ),
    "echoes each piece twice": (
        changed(lambda b: b"".join(2 * b[i : i + 16] for i in range(0, SIZE, 16))),
        "surplus",
        "16 bytes came back twice, from offset 1[678]",
    ),
    "appends": (changed(lambda b: b + b"\n"), "surplus", "1 more than the 64 bytes sent"),
    "puts a byte between": (
        changed(lambda b: b[:HALF] + bytes((b[HALF] ^ 255,)) + b[HALF:]),
        "surplus",
        "1 byte at offset 32 never sent",
    ),
    "speaks before it is asked": (banner, "surplus", "6 bytes at offset [012] never sent"),
}
"""
Each server, the outcome that C{echod-check} must report, and a pattern for the detail.  The data
is random: if neighboring bytes are equal, a change shows a byte or two later.
"""

NO_TLS: dict[str, tuple[Serve, str, str]] = {
    "speaks plain": (
        answers(b"220 mail.example ESMTP\r\n"),
        "TLS refused",
        "the server does not use TLS",
    ),
    "echoes plain": (echoes, "TLS refused", "does not use TLS, it echoes"),
    "sends a ServerHello of garbage": (
        answers(bytes((22, 3, 3, 0, 40, 2, 0, 0, 36)) + bytes(36)),
        "TLS refused",
        ".",
    ),
    "alert: handshake_failure": (alert(40), "TLS refused", "alert: handshake failure"),
    "alert: protocol_version": (alert(70), "TLS refused", "alert: protocol version"),
    "alert: no_application_protocol": (alert(120), "TLS refused", "alert: no application proto"),
    "alert: unrecognized_name": (alert(112), "TLS refused", "alert: unrecognized name"),
    "closes in the handshake": (
        lambda client: client.recv(4096) and None,
        "TLS refused",
        "the server closed the connection",
    ),
    "resets in the handshake": (resets(0), "reset", "the connection was reset"),
    "stalls in the handshake": (silent, "timed out", "TLS handshake"),
}

IN_TLS: dict[str, tuple[Serve, str, str]] = {
    "drops a byte in TLS": (
        changed(lambda b: b[:9] + b[10:]),
        "lost",
        "1 byte at offset (9|1[01])",
    ),
    "flips a bit in TLS": (flipped(9), "corrupted", "offset 9 of 64"),
    "truncates in TLS": (truncates, "lost", "54 of 64 bytes came back"),
    "echoes twice in TLS": (changed(lambda b: b + b), "surplus", "64 more than"),
    "closes without a close_notify": (cuts, "closed early", "without a close_notify; 64 of 64"),
    "resets in TLS": (resets(HALF), "reset", "(0|32) of 64 bytes came back"),
}
