"""
What an operator sees who gives a wrong option: one line that says which, and what to do.

Invariant: every row of the table is a real process, once as it stands and
once with C{--check}, and both have to say the same.  They are forked from one that has
imported what they all import.
"""

import functools
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from echod._util.errors import BIND_STATUS, CONFIG_STATUS
from tests.support import prefork
from tests.support.certificates import make_certificate
from tests.support.daemons import REACTOR, Daemon, echo, show
from tests.support.privileges import privileged_ports, unprivileged_command

PROCESSES_AT_A_TIME = 3
PATIENCE_SECONDS = 120.0

PRIVILEGED_PORT = 7
PORT = "from 0 (any free port) to 65535"
ENDPOINT = "give one such as tcp:9000 or unix:/run/echod.sock"
TIME = "give seconds, or such as 500ms, 30s, 5m"
HERE = ("--port", "0", "--interface", "127.0.0.1")

BAD_VALUES: dict[str, tuple[str, tuple[str, ...]]] = {
    "--port": (PORT, ("", "-1", "65536", "99999", "\u0663", "\x1b[31m", "1\n2")),
    "--interface": ("give one such as 127.0.0.1 or ::1", ("localhost", "127.0.0.1/8", "\u202e::1")),
    "--backlog": ("give a number from 1 to 65535", ("0", "65536", "x")),
    "--tls-port": (PORT, ("x", "99999")),
    "--allow": ("give one such as 192.0.2.0/24", ("192.0.2.1/24", "\x1b[31m")),
    "--max-connections": ("give one from 1 to", ("0",)),
    "--connect-rate": ("give connections a second, such as 10, 0.5, or 10:50", ("10:0",)),
    "--tls-cert": ("give the name of a file", ("",)),
    "--tls-key": ("give the name of a file", ("",)),
    "--tls-client-ca": ("give the name of a file", ("",)),
    "--tls-client-auth": ("give off or request or require", ("", "yes")),
    "--tls-min": ("give 1.2 or 1.3", ("", "1.1")),
    "--tls-alpn": ("give names such as h2,http/1.1", ("", "h2,,x", "h 2")),
    "--tls-keylog": ("give the name of a file", ("",)),
    "--admin-host": ("give a name or an address, without a port", ("", "a:1", "\x1b[31m")),
    "--proxy-header-timeout": (TIME, ("never",)),
    "--write-timeout": (TIME, ("nan", "604801")),
    "--drain-timeout": (TIME, ("-1", "10y")),
    "--log-level": ("give debug, info, warn or error", ("critical",)),
    "--log-format": ("give text or json", ("xml", "\udcff")),
    "--access-log": ("give on or off", ("maybe",)),
}
"""For each option what its line advises, and values that are malformed or out of range."""

BAD_ENDPOINTS = (
    "tcp:",
    "nosuch:1",
    "tcp:0:nonsense=1",
    "tcp:0:a:b:c:d",
    "tcp:0:backlog=x",
    "tcp:0:backlog=-1",
    "tcp:0:backlog=99999999999",
    "tcp:0:interface=::1",
    "unix:a\\",
    "unix:s:mode=9",
    "unix:s:mode=-1",
    "systemd:domain=INET:index=0",
    "systemd:domain=INET:name=nosuch",
    "ssl:0:privateKey=FILES/nosuch.pem",
    "ssl:0:privateKey=FILES/junk",
    "stdio:",
)
"""Strings that are no endpoint, each refused by another part of its parser."""

TWISTDS = ("--logfile", "--rundir", "--chroot", "--pidfile", "--uid")
"""Options that are twistd's own."""


@dataclass(frozen=True)
class Row:
    """
    One wrong command line, and what is asked of the one line that it gets.

    @ivar arguments: for echod; C{FILES} in one stands for the folder of fixtures.
    @ivar option: the option that the line has to name.
    @ivar advice: words that have to follow the line's semicolon.
    @ivar binds: whether only a bind can tell; else nothing may have been started.
    @ivar before: arguments for the program that runs the plugin.
    @ivar program: which program that is.
    @ivar unprivileged: whether it has to run without the powers of root.
    """

    arguments: tuple[str, ...]
    option: str
    advice: str = ""
    binds: bool = False
    before: tuple[str, ...] = ("-n",)
    program: str = "twistd"
    unprivileged: bool = False


@dataclass
class Ended:
    """
    How a process ended, and what it left in its directory, which had been empty.
    """

    status: int | None
    stdout: str
    stderr: str
    left: list[str] = field(default_factory=list)


def weak_pem() -> bytes:
    """
    A certificate and its key, of a strength that OpenSSL does not serve with any more.
    """
    key = ec.generate_private_key(ec.SECP192R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = x509.CertificateBuilder(
        name, name, key.public_key(), x509.random_serial_number(), now, now + timedelta(days=1)
    ).sign(key, hashes.SHA256())
    return certificate.public_bytes(Encoding.PEM) + key.private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )


@functools.cache
def contents() -> dict[str, bytes]:
    """
    What is in the files that the rows speak of, by name.
    """
    ours, other = make_certificate(), make_certificate()
    return {
        "cert.pem": ours.cert_pem,
        "key.pem": ours.key_pem,
        "both.pem": ours.cert_pem + ours.key_pem,
        "other.pem": other.key_pem,
        "secret.pem": ours.key_pem,
        "encrypted.pem": ours.encrypted_key_pem(b"secret"),
        "weak.pem": weak_pem(),
        "broken.pem": b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
        b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
        "empty": b"",
        "junk": b"\x00\xff\x1b" * 100,
    }


def make_fixtures(folder: Path) -> None:
    """
    Make the folder that C{FILES} stands for.
    """
    folder.mkdir()
    for name, content in contents().items():
        (folder / name).write_bytes(content)
        (folder / name).chmod(0o600)
    (folder / "secret.pem").chmod(0)
    (folder / "directory").mkdir()
    (folder / "locked").mkdir(mode=0o555)
    # Twisted's sign that a process, this one here, listens on the socket of that name.


def listen_unix(path: Path) -> socket.socket:
    """
    Listen as a program does that knows nothing of Twisted's locks.
    """
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(path))
    listening.listen()
    return listening


def bad_values() -> Iterator[Row]:
    for option, (advice, values) in BAD_VALUES.items():
        beside = () if option in HERE else HERE
        yield Row((*beside, option), option, "see --help")
        for value in values:
            yield Row((*beside, option, value), option, advice)


def bad_endpoints() -> Iterator[Row]:
    yield Row(("--listen",), "--listen", "see --help")
    for port in ("99999", "port=99999", "interface=127.0.0.1", "0\n"):
        yield Row(("--listen", f"tcp:{port}"), "--listen", PORT)
    for endpoint in BAD_ENDPOINTS:
        yield Row(("--listen", endpoint), "--listen", "give ")


def bad_credentials() -> Iterator[Row]:
    def tls(option: str, cert: str, key: str | None = None, advice: str = "") -> Row:
        keys = () if key is None else ("--tls-key", f"FILES/{key}")
        return Row((*HERE, "--tls-port", "0", "--tls-cert", f"FILES/{cert}", *keys), option, advice)

    yield tls("--tls-cert", "nosuch.pem")
    yield tls("--tls-cert", "\x1b[2J\n.pem")
    yield tls("--tls-cert", "directory")
    yield tls("--tls-cert", "empty", "key.pem")
    yield tls("--tls-cert", "broken.pem", "key.pem")
    yield tls("--tls-cert", "weak.pem")
    yield tls("--tls-cert", "cert.pem", advice="add --tls-key FILE")
    yield tls("--tls-key", "cert.pem", "nosuch.pem")
    yield tls("--tls-key", "cert.pem", "junk")
    yield tls("--tls-key", "cert.pem", "broken.pem")
    yield tls("--tls-key", "cert.pem", "other.pem")
    yield tls("--tls-key", "cert.pem", "encrypted.pem", "store it decrypted")
    served = ("--tls-port", "0", "--tls-cert", "FILES/both.pem")
    for file in ("nosuch.pem", "junk", "key.pem"):
        verified = ("--tls-client-auth", "require", "--tls-client-ca", f"FILES/{file}")
        yield Row((*HERE, *served, *verified), "--tls-client-ca")
    for file in ("directory", "directory/no/such"):
        yield Row((*HERE, *served, "--tls-keylog", f"FILES/{file}"), "--tls-keylog")
    unreadable = tls("--tls-key", "cert.pem", "secret.pem")
    yield Row(unreadable.arguments, "--tls-key", unprivileged=True)


def bad_binds(port: int) -> Iterator[Row]:
    """
    @param port: one that is in use on 127.0.0.1.
    """
    taken, no_address = "stop what listens there", "give an address of this machine"
    key = ("--tls-cert", "FILES/both.pem")
    at = ("--interface", "127.0.0.1")
    listen = functools.partial(Row, option="--listen", binds=True)
    yield Row(("--port", str(port), *at), f"--port {port}", taken, binds=True)
    yield Row(("--tls-port", str(port), *key, *at), f"--tls-port {port}", taken, binds=True)
    yield Row(("--port", "0", "--interface", "192.0.2.1"), "--interface", no_address, binds=True)
    yield Row(("--port", "0", "--interface", "fe80::1"), "--interface", binds=True)
    yield Row(("--port", "0", "--interface", "::1%nosuch"), "--interface", binds=True)
    yield listen(("--listen", f"tcp:{port}:interface=127.0.0.1"), advice=taken)
    yield listen(("--listen", "tcp:0:interface=192.0.2.1"), advice=no_address)
    yield listen(("--listen", "tcp:0:interface=nonsense"))
    yield listen(("--listen", "stdio:x"))
    # The layer that this puts around a connection would read the header.
    secure = ("--listen", "ssl:0:privateKey=FILES/both.pem:interface=127.0.0.1")
    for mode in ("optional", "require"):
        yield listen((*secure, "--proxy-protocol", mode, "--proxy-trust", "127.0.0.1"))
    yield listen(("--listen", "unix:FILES/nosuch/s"))
    yield listen(("--listen", "unix:FILES/\x1b]0;x\x07/s"))
    yield listen(("--listen", "unix:" + "x" * 200), binds=False)
    yield listen(("--listen", "unix:FILES/empty"))
    yield listen(("--listen", "unix:FILES/directory"))
    yield listen(("--listen", "unix:FILES/taken"), advice=taken)
    yield listen(("--listen", "unix:FILES/locked/s"), unprivileged=True)
    if PRIVILEGED_PORT in privileged_ports():
        advice = "give one that this user may use"
        number = str(PRIVILEGED_PORT)
        yield Row(
            ("--port", number, *at), f"--port {number}", advice, binds=True, unprivileged=True
        )
        yield listen(
            ("--listen", f"tcp:{number}:interface=127.0.0.1"), advice=advice, unprivileged=True
        )


def bad_combinations() -> Iterator[Row]:
    yield Row((*HERE, "--nosuch"), "--nosuch", "see --help")
    yield Row((*HERE, "--check=yes"), "--check", "see --help")
    yield Row((*HERE, "nosuch"), "'nosuch'", "see --help")
    yield Row(("--tls-port", "0"), "--tls-port", "add --tls-cert FILE")
    yield Row((*HERE, "--tls-cert", "x"), "--tls-cert", "add one")
    yield Row((*HERE, "--proxy-protocol", "require"), "--proxy-protocol", "add --proxy-trust with")
    yield Row((*HERE, "--admin-host", "a.example"), "--admin-host", "add one")
    yield Row((*HERE, "--proxy-trust", "::1"), "--proxy-trust", "add --proxy-protocol require")
    yield Row((*HERE, "--tls-key", "x"), "--tls-key", "give that first")
    yield Row((*HERE, "--tls-min", "1.3"), "--tls-min", "add one")
    asked = ("--tls-port", "0", "--tls-cert", "x")
    yield Row((*asked, "--tls-client-auth", "require"), "--tls-client-auth", "add --tls-client-ca")
    yield Row((*asked, "--tls-client-ca", "x"), "--tls-client-ca", "add --tls-client-auth")
    yield Row(
        ("--interface", "127.0.0.1", "--listen", "tcp:0"),
        "--interface",
        "give tcp:PORT:interface=ADDRESS",
    )


def bad_programs(port: int) -> Iterator[Row]:
    """
    What is wrong in the command line of twistd, or under twist.
    """
    log = functools.partial(Row, HERE, "--logfile", "give a file")
    for name in ("FILES/nosuch/log", "FILES/directory", "FILES/empty/log"):
        yield log(before=("-n", "--logfile", name))
    yield log(before=("-n", "--logfile", "FILES/locked/log"), unprivileged=True)
    for option, name in (
        *(("--rundir", "FILES/nosuch"), ("--rundir", "FILES/empty"), ("--chroot", "FILES/nosuch")),
        *(("--pidfile", "FILES/nosuch/pid"), ("--pidfile", "FILES/directory")),
        ("--uid", "4000000000"),
    ):
        yield Row(HERE, option, "give a", before=("-n", option, name))
    twist = functools.partial(Row, before=(), program="twist")
    yield twist(("--port", "99999"), "--port", PORT)
    yield twist(("--listen", "nosuch:1"), "--listen", ENDPOINT)
    yield twist((*HERE, "--log-level", "info"), "--log-level", "give it before echod")
    yield twist(
        ("--port", str(port), "--interface", "127.0.0.1"), f"--port {port}", "stop what", binds=True
    )


class BadInputTests(SynchronousTestCase):
    """
    Tests for wrong command lines.
    """

    def setUp(self) -> None:
        # The path of a unix socket must be short, and trial's own folder may not be.
        self.root = Path(tempfile.mkdtemp(prefix="echod-"))
        self.addCleanup(shutil.rmtree, self.root)
        self.files = self.root / "files"
        make_fixtures(self.files)
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(self.listening.close)
        self.port = self.listening.getsockname()[1]
        self.environment = {
            name: value for name, value in os.environ.items() if not name.startswith("LISTEN_")
        }

    def run_row(self, row: Row, *first: str) -> Ended:
        """
        Run a row's command line until it ends, in an empty directory and with fixtures of
        its own, so that no run meets what another has left.

        @param first: arguments for echod, put before those of the row.
        """
        place = Path(tempfile.mkdtemp(dir=self.root))
        directory, files = place / "cwd", place / "files"
        directory.mkdir()
        make_fixtures(files)
        program = [str(Path(sys.executable).with_name(row.program))]
        if REACTOR:
            program.append(f"--reactor={REACTOR}")
        command = [*program, *row.before, "echod", *first, *row.arguments]
        try:
            with listen_unix(files / "taken"):
                parts = [part.replace("FILES", str(files)) for part in command]
                if row.unprivileged:
                    done = subprocess.run(
                        [*unprivileged_command(), *parts],
                        cwd=directory,
                        env=self.environment,
                        stdin=subprocess.DEVNULL,
                        capture_output=True,
                        encoding="utf-8",
                        timeout=PATIENCE_SECONDS,
                    )
                else:
                    done = prefork.shared().run(
                        parts, directory, self.environment, PATIENCE_SECONDS
                    )
        except subprocess.TimeoutExpired as late:
            return Ended(None, str(late.stdout), str(late.stderr))
        left = [name for name in os.listdir(directory) if not name.endswith(".lock")]
        return Ended(done.returncode, done.stdout, done.stderr, left)

    def complaints(self, row: Row, ended: Ended) -> Iterator[str]:
        """
        What is wrong with how a row ended.
        """
        if ended.status != (BIND_STATUS if row.binds else CONFIG_STATUS):
            yield f"ended with {ended.status}"
        if "Traceback" in ended.stdout + ended.stderr:
            yield "a traceback"
        if ended.left:
            yield f"left {ended.left} behind"
        if not row.binds and ended.stdout:
            yield f"started, and could have known: {ended.stdout!r}"
        lines = ended.stderr.splitlines()
        if len(lines) != 1 or not ended.stderr.endswith("\n"):
            yield f"{len(lines)} lines on stderr"
            return
        [line] = lines
        begin = "twistd: " if row.option in TWISTDS else "echod: "
        if not line.startswith(begin):
            yield f"does not begin with {begin!r}"
        if not re.search(re.escape(row.option) + r"(?!\w)", line):
            yield f"does not name {row.option}"
        if row.advice not in line.partition("; ")[2] or "; " not in line:
            yield f"no way out, such as {row.advice!r}"
        if not line.isprintable():
            yield "control characters"
        if re.search("Unknown error|object has no attribute", line):
            yield "speaks of something else"

    def judge(self, rows: Iterable[Row]) -> None:
        """
        Run each row as it stands and with C{--check}, and fail with everything that is
        wrong with any of them.

        @raise SkipTest: when some of them cannot be run here, and all others are right.
        """
        missing = ""
        rows = list(rows)
        try:
            unprivileged_command()
        except SkipTest as skip:
            missing = str(skip)
        chosen = [row for row in rows if not (missing and row.unprivileged)]
        runs = [(row, first) for row in chosen for first in ((), ("--check",))]
        with ThreadPoolExecutor(PROCESSES_AT_A_TIME) as threads:
            ends = list(threads.map(lambda run: self.run_row(run[0], *run[1]), runs))
        wrong = [
            f"{row.program} {' '.join((*row.before, 'echod', *first, *row.arguments))!r}: "
            f"{complaint}\n    {ended.stderr!r}"
            for (row, first), ended in zip(runs, ends, strict=True)
            for complaint in self.complaints(row, ended)
        ]
        if wrong:
            self.fail("\n" + "\n".join(wrong))
        show(f"{len(runs) // 2} wrong command lines, each also with --check")
        if len(chosen) < len(rows):
            raise SkipTest(missing)

    def test_values(self) -> None:
        """
        A missing, malformed or out-of-range value is one line that names its option and
        says what a good one is.
        """
        self.judge(bad_values())

    def test_endpoints(self) -> None:
        """
        A string that is no endpoint is one line that shows it and a good one.
        """
        self.judge(bad_endpoints())

    def test_credentials(self) -> None:
        """
        A certificate or key that cannot serve is one line that says which file, why, and
        what to give instead.
        """
        self.judge(bad_credentials())

    def test_binds(self) -> None:
        """
        A place where nothing can listen is one line that says why, and what to do.
        """
        self.judge(bad_binds(self.port))

    def test_taken_again(self) -> None:
        """
        A unix socket on which another program listens stays that program's, however
        often echod is started on it.
        """
        path = self.files / "taken"
        row = Row(("--listen", f"unix:{path}"), "--listen", "stop what listens", binds=True)
        with listen_unix(path) as listening, socket.socket(socket.AF_UNIX) as client:
            for first in ((), ("--check",)):
                ended = self.run_row(row, *first)
                self.assertEqual([], list(self.complaints(row, ended)), f"{first} {ended}")
            listening.settimeout(PATIENCE_SECONDS)
            client.connect(str(path))
            listening.accept()[0].close()

    def test_combinations(self) -> None:
        """
        Options that do not go together, or do not exist, are one line.
        """
        self.judge(bad_combinations())

    def test_programs(self) -> None:
        """
        A log file that cannot be written, and wrong options under twist, are one line.
        """
        self.judge(bad_programs(self.port))

    def run_daemon(self, *arguments: str) -> Ended:
        """
        Run a command line that, were it right, would go to the background.
        """
        background = ("--pidfile", "pid", "--logfile", "log")
        return self.run_row(Row(arguments, "", before=background))

    def test_background(self) -> None:
        """
        What can be known before twistd goes to the background is the same one line
        there, and nothing has been started.
        """
        for arguments, option in (
            (("--port", "99999"), "--port"),
            ((*HERE, "--listen", "nosuch:1"), "--listen"),
            ((*HERE, "--tls-port", "0", "--tls-cert", "nosuch"), "--tls-cert"),
        ):
            ended = self.run_daemon(*arguments)
            self.assertEqual((CONFIG_STATUS, "", []), (ended.status, ended.stdout, ended.left))
            self.assertRegex(ended.stderr, rf"\Aechod: {option}\b[^\n]+\n\Z")

    def test_background_bind(self) -> None:
        """
        A port in use ends a twistd that has gone to the background: the one that was
        called says so, the log has the reason, and there is no pidfile.
        """
        arguments = ("--port", str(self.port), "--interface", "127.0.0.1")
        ended = self.run_daemon(*arguments)
        self.assertEqual((BIND_STATUS, ["log"]), (ended.status, ended.left))
        self.assertIn(f"--port {self.port}", ended.stderr)
        [log] = self.root.glob("*/cwd/log")
        text = log.read_text()
        self.assertRegex(
            text, rf"cannot listen, --port {self.port} [^\n]*: Address already in use; "
        )
        self.assertNotIn("Traceback", text + ended.stderr)

    def check(self, *arguments: str, program: str = "twistd", before: tuple[str, ...] = ()) -> str:
        """
        Run C{--check}, which has to find nothing wrong and to leave nothing behind.

        @return: what it printed.
        """
        row = Row(("--check", *arguments), "", program=program, before=before)
        ended = self.run_row(row)
        self.assertEqual((0, "", []), (ended.status, ended.stderr, ended.left))
        return ended.stdout

    def test_check(self) -> None:
        """
        --check of a good command line prints each place where it would listen, and ends
        with 0; afterwards nothing listens there and there is no socket file, no pidfile
        and no log, not even without -n.
        """
        path = self.files / "new"
        both = str(self.files / "both.pem")
        listeners = ("--tls-port", "0", "--tls-cert", both, "--listen", f"unix:{path}")
        for before in (("-n",), ("--logfile", "log")):
            shown = self.check(*HERE, *listeners, before=before)
            tls, plain = (
                re.search(rf"^  127\.0\.0\.1:(\d+), --{name}port 0 ", shown, re.MULTILINE)
                for name in ("tls-", "")
            )
            self.assertIn(f"  unix:{path}, --listen unix:{path}\n", shown)
            self.assertEqual([], list(self.files.glob("new*")))
            for found in (tls, plain):
                assert found is not None, shown
                address = ("127.0.0.1", int(found[1]))
                self.assertRaises(ConnectionRefusedError, socket.create_connection, address)

    def test_check_and_warnings(self) -> None:
        """
        What a start would warn of --check prints to standard error, and ends with 0.
        """
        both = self.files / "both.pem"
        both.chmod(0o644)
        command = [str(Path(sys.executable).with_name("twistd")), "-n", "--pidfile=", "echod"]
        done = subprocess.run(
            [*command, *HERE, "--tls-port", "0", "--tls-cert", str(both), "--check"],
            cwd=self.root,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
        )
        self.assertEqual(done.returncode, 0)
        key = f"echod: warning: the key in {both} can be read by users other than its owner; "
        self.assertEqual(done.stderr, key + "chmod 600 it\n")
        self.assertIn(": 1 warning; this would listen on\n", done.stdout)

    def test_check_under_twist(self) -> None:
        """
        --check works under twist as well.
        """
        shown = self.check(*HERE, program="twist")
        self.assertRegex(shown, r"  127\.0\.0\.1:\d+, --port 0 --interface 127\.0\.0\.1\n")

    def test_check_lets_go_of_all(self) -> None:
        """
        When --check finds the second listener wrong, the first one's socket is gone too.
        """
        path = self.files / "new"
        wrong = ("--listen", f"unix:{path}", "--listen", f"tcp:{self.port}:interface=127.0.0.1")
        ended = self.run_row(Row(("--check", *wrong), ""))
        self.assertEqual(BIND_STATUS, ended.status)
        self.assertEqual([], list(self.files.glob("new*")))

    def test_check_beside_a_daemon(self) -> None:
        """
        --check of the options of a daemon that runs says that its places are in use, and
        the daemon goes on to serve them.
        """
        path = self.files / "live"
        with Daemon(*HERE, "--listen", f"unix:{path}") as daemon:
            port = str(daemon.port())
            for row in (
                Row(("--port", port, *HERE[2:]), f"--port {port}", "stop what", binds=True),
                Row(("--listen", f"unix:{path}"), "--listen", binds=True),
            ):
                ended = self.run_row(row, "--check")
                self.assertEqual([], list(self.complaints(row, ended)), ended.stderr)
            for option in ("--port", "--listen"):
                with daemon.connect(option) as client:
                    self.assertEqual(b"still here", echo(client, b"still here"))

    def test_no_current_directory(self) -> None:
        """
        Where the current directory has been removed, a relative name is one line, and no name is
        needed.
        """
        advice = "there is no current directory; give an absolute path"
        script = 'cd "$0" && rmdir "$PWD" && exec "$@"'
        echod, twistd, check = (
            str(Path(sys.executable).with_name(name)) for name in ("echod", "twistd", "echod-check")
        )
        for command, status, line in (
            ((echod, *HERE, "--check"), 0, ""),
            (
                (echod, "--tls-port", "0", "--tls-cert", "cert.pem"),
                CONFIG_STATUS,
                f"echod: --tls-cert 'cert.pem': {advice}\n",
            ),
            (
                (twistd, "-n", "echod", *HERE),
                CONFIG_STATUS,
                f"twistd: --pidfile 'twistd.pid': {advice}, or --pidfile=\n",
            ),
            (
                (check, "--tls", "--ca", "ca.pem", "localhost:1"),
                2,
                f"echod-check: --ca 'ca.pem': {advice}\n",
            ),
        ):
            folder = tempfile.mkdtemp()
            done = subprocess.run(
                ["sh", "-c", script, folder, *command],
                capture_output=True,
                text=True,
                timeout=PATIENCE_SECONDS,
            )
            self.assertEqual((done.returncode, done.stderr), (status, line))
