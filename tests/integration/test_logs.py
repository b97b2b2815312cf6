"""
Logs whose output is blocked, and clients that try to forge log lines.
"""

import ast
import json
import os
import pty
import pwd
import random
import re
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

from OpenSSL import SSL
from twisted.trial.unittest import SynchronousTestCase

from tests.support import needs, proxyheaders
from tests.support.certificates import make_certificate
from tests.support.clients import TLSClient
from tests.support.daemons import (
    LOOPBACK,
    TEXT_VALUE,
    Daemon,
    Worker,
    connect,
    echo,
    receive_rest,
    show,
    wait_until,
)
from tests.support.phrases import PHRASE, reason_of
from tests.support.tlsfiles import authority, certificate, put

ENOUGH = 5000
"""So many access records are more than a pipe and the daemon hold."""


class SocketDaemon(Daemon):
    """
    A daemon on a UNIX socket, where it is found even if its log cannot be read.

    @ivar output: as for any process.
    @ivar within: a command that starts the daemon's, which is added to it.
    """

    within: Sequence[str] = ()

    def __init__(self, *options: str, before: Sequence[str] = (), background: bool = False):
        super().__init__(
            "--listen",
            "unix:{}/echo.sock",
            *options,
            before=before,
            background=background,
            ready=SocketDaemon._listens,
        )

    def start(self) -> None:
        self._command = (*self.within, *self._command)
        super().start()

    def _listens(self: Any) -> bool:
        try:
            self.connect().close()
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        return True

    def connect(self, option: str = "", receive_buffer: int = 0) -> socket.socket:
        return connect(f"unix:{self.directory}/echo.sock", receive_buffer)

    def visit(self, number: int) -> float:
        """
        So many clients come one after the other, are sent back what they sent, and go.

        @return: the longest that one of them took, in seconds.
        """
        longest = 0.0
        for turn in range(number):
            start = time.perf_counter()
            with self.connect() as client:
                data = b"%d" % turn
                if echo(client, data) != data:
                    raise AssertionError(f"the echo of visitor {turn} is not what was sent")
            longest = max(longest, time.perf_counter() - start)
        return longest


def strict(line: str) -> dict[str, Any]:
    """
    A line as a JSON parser has it that lets nothing pass.
    """

    def no_constant(name: str) -> None:
        raise ValueError(f"{name} is no JSON")

    def no_double(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) != len(pairs):
            raise ValueError("a name stands there twice")
        return dict(pairs)

    line.encode("ascii")
    record = json.loads(line, parse_constant=no_constant, object_pairs_hook=no_double)
    # Python's parser takes halves of surrogate pairs, others do not.
    json.dumps(record, ensure_ascii=False).encode("utf-8")
    if not isinstance(record, dict):
        raise ValueError("not an object")
    return record


class NotTakenTests(SynchronousTestCase):
    """
    Logs that take nothing for a while.
    """

    def all_told(self, text: str, visitors: int) -> str:
        """
        The whole lines of a log, if each visitor has a record there or is counted among what was
        dropped; else an empty string.
        """
        whole = text[: text.rfind("\n") + 1]
        records = [strict(line) for line in whole.splitlines()]
        count = sum(
            record["count"] if record["event"] == "log-dropped" else record["event"] == "access"
            for record in records
            if "event" in record
        )
        return whole if count >= visitors else ""

    def accounted(self, text: str, visitors: int) -> dict[str, Any]:
        """
        Make sure that each visitor has a record, or is counted among what was dropped.

        @return: the record that tells how many were.
        """
        self.assertTrue(text.endswith("\n"))
        records = [strict(line) for line in text.splitlines()]
        (dropped,) = (record for record in records if record.get("event") == "log-dropped")
        numbers = [r["connection"] for r in records if r.get("event") == "access"]
        self.assertGreater(dropped["count"], 100)
        self.assertEqual((dropped["level"], dropped["count"]), ("warn", dropped["total"]))
        self.assertEqual(len(numbers) + dropped["count"], visitors)
        self.assertEqual(sorted(set(numbers)), numbers)
        # It stands where they are missing.
        after = records[records.index(dropped) + 1 :]
        first = next((r["connection"] for r in after if r.get("event") == "access"), 0)
        before = [r for r in records[: records.index(dropped)] if r.get("event") == "access"]
        self.assertEqual(first - before[-1]["connection"], dropped["count"] + 1)
        return dropped

    def test_pipe_that_nobody_reads(self) -> None:
        """
        With a pipe that no program reads, all is echoed; when a program reads it, the log says how
        many records are missing, and no line is cut.
        """
        reading, writing = os.pipe()
        self.addCleanup(os.close, reading)
        daemon = SocketDaemon("--log-format", "json")
        daemon.output = writing
        text: list[str] = []

        def read() -> None:
            with open(reading, encoding="utf-8", closefd=False) as file:
                for line in file:
                    text.append(line)

        with daemon:
            os.close(writing)
            longest = daemon.visit(ENOUGH)
            reader = Worker(read)
            wait_until(lambda: '"log-dropped"' in "".join(text), "the count of what is missing")
            daemon.visit(10)
            daemon.stop()
            reader.result()
        dropped = self.accounted("".join(text), ENOUGH + 10)
        self.assertIn("echod stopped: ", text[-1])
        show(
            f"a pipe without a reader: {ENOUGH} of {ENOUGH} echoes, the slowest connection "
            f"{longest * 1000:.0f} ms, {dropped['count']} records dropped and told"
        )

    def test_stop_with_a_pipe_that_nobody_reads(self) -> None:
        """
        A pipe that is not read does not hold up a stop for longer than half a second, nor
        a start.
        """
        reading, writing = os.pipe()
        self.addCleanup(os.close, reading)
        os.set_blocking(writing, False)
        with self.assertRaises(BlockingIOError):
            while True:
                os.write(writing, bytes(65536))
        os.set_blocking(writing, True)
        daemon = SocketDaemon()
        daemon.times = {}
        daemon.output = writing
        with daemon:
            os.close(writing)
            daemon.visit(100)
            took = daemon.stop()
            self.assertEqual(daemon.status, -signal.SIGTERM)
            show(f"a full pipe: exit {took:.2f} s after TERM")
            self.assertEqual(daemon.stderr, "")

    def test_reader_that_goes(self) -> None:
        """
        When the reader of a pipe has gone, the echo goes on.
        """
        reading, writing = os.pipe()
        daemon = SocketDaemon()
        daemon.output = writing
        with daemon:
            os.close(writing)
            os.close(reading)
            daemon.visit(100)
            daemon.stop()
            self.assertEqual((daemon.status, daemon.stderr), (-signal.SIGTERM, ""))

    def test_terminal_that_is_stopped(self) -> None:
        """
        Ctrl-S stops the terminal and not the echo; after Ctrl-Q every line is there.
        """
        needs.terminal()
        master, slave = pty.openpty()
        self.addCleanup(os.close, master)
        daemon = SocketDaemon()
        daemon.output = slave
        visitors = 500
        text = bytearray()

        def read_on() -> bool:
            if select.select([master], [], [], 0)[0]:
                text.extend(os.read(master, 65536))
            return text.count(b"bytes echoed in") >= visitors

        with daemon:
            os.close(slave)
            os.write(master, b"\x13")
            daemon.visit(visitors)
            os.write(master, b"\x11")
            wait_until(read_on, "all lines")
            self.assertEqual(text.count(b"bytes echoed in"), visitors)
            self.assertNotIn(b"log-dropped", text)
            daemon.stop()

    def tmpfs(self, daemon: SocketDaemon, output: str = "") -> Callable[[str], Path]:
        """
        Let the daemon start with a full disk of its own.

        @param output: where its output goes, in the shell's words.
        @return: tells the path of a file there.
        """
        folder = daemon.directory / "disk"
        folder.mkdir()
        private = ["unshare", "--mount"] + (["--map-root-user"] if os.getuid() else [])
        mount = 'mount -t tmpfs -o size=2m none "$0" && '
        needs.mount(*private[2:])
        fill = 'head -c 2m /dev/zero >"$0/filler"; exec "$@" ' + output
        daemon.within = (*private, "sh", "-c", mount + fill, str(folder))
        return lambda name: Path(f"/proc/{daemon.pid}/root{folder}/{name}")

    def test_full_disk(self) -> None:
        """
        With a log file on a full disk, all is echoed; when the disk has space again, the log says
        how many records are missing, and no line is cut.
        """
        daemon = SocketDaemon("--log-format", "json", before=("--logfile", "{}/disk/log"))
        self.full_disk(daemon, self.tmpfs(daemon))

    def test_full_disk_behind_the_output(self) -> None:
        """
        The same for a file that the shell opened.
        """
        daemon = SocketDaemon("--log-format", "json")
        self.full_disk(daemon, self.tmpfs(daemon, '>"$0/log"'))

    def full_disk(self, daemon: SocketDaemon, path: Callable[[str], Path]) -> None:
        """
        Have a log on a full disk, free space, and look at the log.

        @param path: tells the path of a file on that disk.
        """

        def text() -> str:
            # When the disk has space, it is soon rotated.
            names = (path("log.1"), path("log"))
            return "".join(name.read_text() for name in names if name.exists())

        with daemon:
            longest = daemon.visit(ENOUGH)
            self.assertEqual(text(), "")
            path("filler").unlink()
            wait_until(lambda: '"log-dropped"' in text(), "the count of what is missing")
            daemon.visit(10)
            whole = wait_until(lambda: self.all_told(text(), ENOUGH + 10), "the last records")
            daemon.stop()
            self.assertEqual((daemon.stdout, daemon.stderr), ("", ""))
        dropped = self.accounted(whole, ENOUGH + 10)
        self.assertEqual(dropped["reason"], "No space left on device")
        show(
            f"a full disk: {ENOUGH} of {ENOUGH} echoes, the slowest connection "
            f"{longest * 1000:.0f} ms, {dropped['count']} records dropped and told"
        )

    def test_stop_with_a_full_disk(self) -> None:
        """
        A disk that is full from the beginning to the end holds up neither.
        """
        daemon = SocketDaemon(before=("--logfile", "{}/disk/log"), background=False)
        self.tmpfs(daemon)
        with daemon:
            daemon.visit(10)
            daemon.stop()
            self.assertEqual((daemon.stdout, daemon.stderr), ("", ""))

    def test_closed_streams(self) -> None:
        """
        Without standard streams it echoes, in the foreground and in the background, and
        what would be written to one is discarded.
        """
        for background in (False, True):
            daemon = SocketDaemon(background=background)
            daemon.within = ("sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh")
            with daemon:
                daemon.visit(100)
                for number in range(3):
                    link = os.readlink(f"/proc/{daemon.pid}/fd/{number}")
                    self.assertEqual(link, "/dev/null")
                daemon.stop()
                self.assertEqual(daemon.log.count("bytes echoed in"), 100 * background)


class DescriptorTests(SynchronousTestCase):
    """
    A log file that is a descriptor which the daemon was started with, as in a container.
    """

    def logged_to(self, near: int, far: int, *options: str) -> str:
        """
        Have a daemon log to C{/dev/stdout}, and rotate.

        @return: what came out at the other end.
        """
        daemon = SocketDaemon(*options, before=("--logfile", "/dev/stdout"))
        daemon.output = near
        try:
            with daemon:
                daemon.visit(1)
                daemon.signal(signal.SIGUSR1)
                daemon.visit(1)
                daemon.stop()
        finally:
            os.close(near)
        with open(far, "rb") as output:
            return output.read().decode()

    def test_pipe_and_socket(self) -> None:
        """
        A pipe and a socket get every record, from workers too, and nothing is rotated.
        """
        for options in ((), ("--workers", "2")):
            ours, theirs = socket.socketpair()
            read, write = os.pipe()
            for near, far in ((write, read), (ours.detach(), theirs.detach())):
                text = self.logged_to(near, far, *options)
                self.assertEqual(text.count(": 1 bytes echoed in"), 2, text)
                self.assertIn("echod stopped: ", text)
                self.assertNotIn("log-rotation", text)


WITHOUT_EVENTS = """
import sys
from twisted.scripts.twistd import run
from echod.connections import tracker
tracker.emit_access = None
del sys.argv[0]
run()
"""
"""twistd, without the function that emits an access record as an event."""


class DirectTests(SynchronousTestCase):
    """
    Access records that go to the log without an event.
    """

    def test_direct(self) -> None:
        """
        By default no event is made: the log is the only observer that twistd has.
        """
        for before in ((), ("--logfile", "{}/log")):
            for format in ("text", "json"):
                daemon = SocketDaemon("--log-format", format, before=before)
                daemon.within = (sys.executable, "-c", WITHOUT_EVENTS)
                name = "log" if before else "out"
                with daemon:
                    daemon.visit(3)
                    daemon.stop()
                    lines = (daemon.directory / name).read_text().splitlines()
                    found = [line for line in lines if ": 1 bytes echoed in" in line]
                    self.assertEqual(len(found), 3, lines)
                    self.assertNotIn("Traceback", "".join(lines))

    def test_workers(self) -> None:
        """
        The records of workers name the worker, in both formats.
        """
        for format, pattern in (
            (
                "text",
                r"\S+ \[worker [01] echod\.connections#info\] "
                r"connection \d+ of .*, closed by client",
            ),
            ("json", r'\{"timestamp": .*, "reason": "client", "worker": "[01]"\}'),
        ):
            with SocketDaemon("--log-format", format, "--workers", "2") as daemon:
                daemon.visit(3)
                daemon.stop()
                found = [line for line in daemon.log.splitlines() if ": 1 bytes echoed" in line]
            self.assertEqual(len(found), 3)
            for line in found:
                self.assertRegex(line, f"^{pattern}$")


class RotationTests(SynchronousTestCase):
    """
    A file that gives way to a new one.
    """

    def test_by_size(self) -> None:
        """
        A file that has grown to a megabyte is rotated, and no record is lost or torn.
        """
        with SocketDaemon("--log-format", "json", before=("--logfile", "{}/log")) as daemon:
            daemon.visit(ENOUGH)
            daemon.stop()
            old, new = ((daemon.directory / name).read_text() for name in ("log.1", "log"))
            self.assertTrue(1_000_000 <= len(old) < 1_100_000, len(old))
            records = [strict(line) for line in (old + new).splitlines()]
            self.assertEqual(sum(r.get("event") == "access" for r in records), ENOUGH)

    def test_not_allowed(self) -> None:
        """
        In a folder that may not be written to, a rotation is a line in the old file.
        """
        user = pwd.getpwnam("nobody")
        before = ["--logfile", "{}/logs/log"]
        if os.getuid() == 0:
            needs.other_user(user.pw_uid)
            before += ["--uid", str(user.pw_uid), "--gid", str(user.pw_gid)]
        daemon = SocketDaemon(before=before)
        folder = daemon.directory / "logs"
        folder.mkdir()
        with daemon:
            folder.chmod(0o555)
            for _ in range(2):
                daemon.signal(signal.SIGUSR1)
                daemon.visit(1)
            told = "cannot rotate the log: Permission denied; the old file stays in use"
            log = folder / "log"
            wait_until(lambda: log.read_text().count(told), "the line")
            daemon.visit(1)
            daemon.stop()
            self.assertEqual(log.read_text().count("bytes echoed in"), 3)
            self.assertEqual([path.name for path in folder.iterdir()], ["log"])
            self.assertNotIn("Traceback", log.read_text())
            folder.chmod(0o755)


def hostile(chance: random.Random, most: int) -> bytes:
    """
    A string that would like to end the line, hide, or be taken for something else.

    @param most: how many bytes it has at most.
    """
    pieces = (
        *(b"\n", b"\r\n", b"\0", b"\t", b"\x0b", b"\x1b[2J", b"\x1b]0;title\x07", b"\x7f"),
        *("\x85", "\x9b31m", "\u2028", "\u2029", "\u202e", "\u2066", "\u2069", "\u200b", "\ufeff"),
        *(b"\xed\xa0\x80", b"\xff\xfe", b"\xc0\xaf", b"{peer}", b"{", b"%s", b'"}', b"\\"),
        *(b"\\u000a", b"; tls_subject CN=admin", b"</pre>", "\U000e0041"),
        b" to tcp:9: 999 bytes echoed in 1.000 s, closed by client",
        *(b'"; tls_subject "CN=admin', b'\\"'),
        b"2026-11-22T21:00:00+0000 [echod#info] all is well",
        chance.randbytes(20),
        b"x" * chance.choice((1, 30, 1000)),
    )
    chosen = (chance.choice(pieces) for _ in range(chance.randint(1, 6)))
    return b"".join(p.encode() if isinstance(p, str) else p for p in chosen)[:most]


RECORD = re.compile(
    rf"\S+ \[\S+\] connection (\d+) of (?P<peer>{TEXT_VALUE}) to (?P<listener>\S+): "
    rf"\d+ bytes echoed in [\d.]+ s, (?P<reason>{PHRASE})(?P<facts>(?:; \w+ {TEXT_VALUE})*)"
)
"""An access record in text."""


def text_fields(line: str) -> dict[str, str]:
    """
    The fields of an access record in text, but for numbers and the proxy's address.
    """
    match = RECORD.fullmatch(line)
    if match is None:
        raise AssertionError(f"no access record: {line}")
    facts = re.findall(rf"; (\w+) ({TEXT_VALUE})", match["facts"])
    found = {name: match[name] for name in ("peer", "listener")} | dict(facts)
    found["reason"] = reason_of(match["reason"])
    if len(found) != 3 + len(facts):
        raise AssertionError(f"a field twice: {line}")
    found.pop("proxy")
    return {
        name: ast.literal_eval(value) if value.startswith('"') else value
        for name, value in found.items()
    }


class HostileTests(SynchronousTestCase):
    """
    Hostile strings in every field that a peer or its proxy has a say in.
    """

    PROXIED = 5000
    SHAKEN: ClassVar[int] = int(os.environ.get("ECHOD_TEST_HANDSHAKES", "750"))

    def log_of(self, format: str, talk: Callable[[Daemon], None]) -> list[str]:
        """
        The lines of access records that a daemon logs while C{talk} goes on; of all it logs,
        each line has been looked at.
        """
        daemon = Daemon(
            *(*LOOPBACK, "--log-format", format, "--proxy-protocol", "require"),
            *("--proxy-trust", "127.0.0.0/8", "--tls-port", "0", "--tls-cert", "{}/pem"),
            *("--tls-client-auth", "require", "--tls-client-ca", "{}/ca", "--tls-alpn", "h2"),
        )
        self.authority = authority()
        made = certificate(self.authority)
        put(daemon.directory / "pem", made.chain + made.key_pem)
        put(daemon.directory / "ca", self.authority.cert_pem)
        with daemon:
            talk(daemon)
            daemon.stop()
            whole = (daemon.directory / "out").read_bytes().decode("utf-8", "strict")
            self.assertEqual(daemon.stderr, "")
        lines = whole.split("\n")
        self.assertEqual(lines.pop(), "")
        for line in lines:
            self.assertTrue(line.isprintable(), ascii(line))
            self.assertLess(len(line), 16384)
            if format == "json":
                strict(line)
            else:
                self.assertRegex(line, r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{4} \[\S+\] \S")
        records = [line for line in lines if re.search(r'"access"|\] connection \d+ of ', line)]
        # Nothing but the daemon's own lines is left.
        self.assertLess(len(lines) - len(records), 40)
        return records

    def headers(self, number: int) -> Iterator[bytes]:
        """
        PROXY headers with hostile strings in each field that can have one.
        """
        chance = random.Random(number)
        for _ in range(number):
            fields = [
                proxyheaders.tlv(proxyheaders.ALPN, hostile(chance, 255)),
                proxyheaders.tlv(proxyheaders.AUTHORITY, hostile(chance, 255)),
                proxyheaders.tlv(proxyheaders.UNIQUE_ID, hostile(chance, 128)),
                proxyheaders.tls_tlv(
                    proxyheaders.tlv(proxyheaders.SSL_VERSION, hostile(chance, 255)),
                    proxyheaders.tlv(proxyheaders.SSL_CN, hostile(chance, 255)),
                    proxyheaders.tlv(0x23, hostile(chance, 255)),
                ),
            ]
            name = hostile(chance, 107).replace(b"\0", b"\1").ljust(108, b"\0")
            rest = name + bytes(108) + b"".join(fields)
            yield proxyheaders.v2_header(rest, proxyheaders.UNIX)

    def test_proxy(self) -> None:
        """
        What a proxy tells: addresses, names, identifiers, and what it knows of TLS.
        """

        def talk(daemon: Daemon) -> None:
            # Looking it up reads the log.
            address = daemon.address()
            for header in self.headers(self.PROXIED):
                with connect(address) as client:
                    self.assertEqual(echo_behind(client, header), b"?")
            # Those that are no headers are refused, and told once a second.
            for header in self.headers(100):
                with connect(address) as client:
                    client.sendall(b"PROXY TCP4 " + header[16:60] + b"\r\n")
                    receive_rest(client)

        def echo_behind(client: socket.socket, header: bytes) -> bytes:
            client.sendall(header + b"?")
            return client.recv(10)

        texts, objects = (self.log_of(format, talk) for format in ("text", "json"))
        self.assertEqual((len(texts), len(objects)), (self.PROXIED, self.PROXIED))
        told = [text_fields(line) for line in texts]
        for fields, line in zip(told, objects, strict=True):
            record = json.loads(line)
            # In text, people read the address of a listener without a name.
            self.assertRegex(fields.pop("listener"), r"\A127\.0\.0\.1:\d+\Z")
            self.assertEqual(record["listener"], "tcp")
            self.assertEqual(fields, {name: record[name] for name in fields})
        # What was told of most of them, and where no header said it, of none.
        self.assertGreater(sum("proxy_tls_cn" in fields for fields in told), self.PROXIED * 0.9)
        self.assertEqual([fields for fields in told if "tls_subject" in fields], [])
        show(f"2 x {self.PROXIED} connections, 7 hostile strings in each: a line for each")

    def test_tls(self) -> None:
        """
        What a client tells: the name it asks for, its protocols, and its certificate.
        """
        chance = random.Random(7)
        strings = 0

        def contexts() -> list[SSL.Context]:
            made_contexts = []
            for _ in range(max(50, self.SHAKEN // 10)):
                name = hostile(chance, 64).decode("utf-8", "ignore") or "?"
                made = make_certificate([], self.authority, common_name=name)
                context = SSL.Context(SSL.TLS_CLIENT_METHOD)
                context.use_certificate(made.certificate)
                context.use_privatekey(made.key)
                made_contexts.append(context)
            return made_contexts

        def talk(daemon: Daemon) -> None:
            nonlocal strings
            known = contexts()
            address = daemon.address("--tls-port")
            for turn in range(self.SHAKEN):
                sock = connect(address)
                try:
                    sock.sendall(proxyheaders.v1("192.0.2.7", 4000))
                    client = TLSClient(sock, known[turn % len(known)])
                    name = hostile(chance, 255).replace(b"\0", b"\1")
                    client.tls.set_tlsext_host_name(name)
                    client.tls.set_alpn_protos([hostile(chance, 255), b"h2"])
                    self.assertEqual(client.handshake().exchange(b"?", close=False), b"?")
                    strings += 3
                finally:
                    sock.close()

        for format in ("text", "json"):
            records = self.log_of(format, talk)
            self.assertEqual(len(records), self.SHAKEN)
            self.assertGreater(sum("tls_sni" in line for line in records), self.SHAKEN * 0.9)
            self.assertEqual(sum("tls_subject" in line for line in records), self.SHAKEN)
        show(f"2 x {self.SHAKEN} handshakes, {strings} hostile strings: a line for each")
