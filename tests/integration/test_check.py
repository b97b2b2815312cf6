"""
C{echod-check} as people run it: against echod, and against servers that are wrong.
"""

import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from echod.check.results import Outcome
from tests.support import needs, prefork
from tests.support.certificates import MadeCertificate, make_certificate
from tests.support.daemons import (
    LOOPBACK,
    PATIENCE_SECONDS,
    Daemon,
    Process,
    show,
    tls_daemon,
    wait_until,
)
from tests.support.listeners import held_port
from tests.support.wrong_servers import (
    IN_TLS,
    NO_TLS,
    PATIENT,
    PLAIN,
    PROGRAM,
    Serve,
    WrongServer,
    ask,
    changed,
)

STATUS = {outcome.word: outcome.status for outcome in Outcome}
AT_A_TIME = 6
SHORT = ("--timeout", "5s")
"""For servers that leave a check waiting until half of this or all of it is over."""
LONGER = ("--timeout", "20s")
"""For those that were named wrong: on a busy machine the time may have been over too soon."""

START_SECONDS = 0.4


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """
    Run C{echod-check} to its end, in a process that is forked from one with its imports;
    patiently, unless a time limit is given.
    """
    limit = () if "--timeout" in arguments else PATIENT
    command = [PROGRAM, *limit, *arguments]
    return prefork.shared().run(command, Path.cwd(), os.environ, PATIENCE_SECONDS)


class Running(Process):
    """
    C{echod-check} that runs until it is stopped.
    """

    def __init__(self, *arguments: str):
        super().__init__(PROGRAM, *PATIENT, *arguments)

    def lines(self) -> list[str]:
        return self.stdout.splitlines()

    def handles_term(self) -> bool:
        """
        Whether main() has begun: Python itself takes over SIGINT, but not SIGTERM.
        """
        return bool(int(self.state("SigCgt"), 16) >> signal.SIGTERM - 1 & 1)


class Script(Process):
    """
    A Python program that prints its port.
    """

    def __init__(self, *arguments: str):
        super().__init__(sys.executable, *arguments)

    def start(self) -> None:
        super().start()
        self.port = int(wait_until(lambda: re.findall(r":(\d+),", self.stdout), "the port")[0])


class WrongTestCase(SynchronousTestCase):
    """
    Servers that are wrong are named.
    """

    def all_named(
        self, questions: Sequence[tuple[str, Callable[..., tuple[str, str, str]]]]
    ) -> None:
        """
        @param questions: for each server its name, and what asks about it with a time limit: it
            gives what was found, and the class and detail that are right.
        """

        def one(question: tuple[str, Callable[..., tuple[str, str, str]]]) -> str:
            name, asks = question
            for limit in (SHORT, LONGER):
                found, outcome, detail = asks(*limit)
                for _ in range(9):
                    if not (outcome == "reset" and " closed early" in found):
                        break
                    # While the kernel works on a reset, poll(2) can see the hang-up before it
                    # sees the error, and Twisted takes that for a clean end.  It will not always
                    # be so.
                    found, outcome, detail = asks(*limit)
                status = STATUS[outcome]
                if re.match(f"{status} {re.escape(outcome)}: .*{detail}", found, re.DOTALL):
                    return ""
            return f"{name}: {found!r}, not {status} {outcome}: {detail}"

        with ThreadPoolExecutor(AT_A_TIME) as pool:
            wrong = list(filter(None, pool.map(one, questions)))
        show(f"named correctly: {len(questions) - len(wrong)} of {len(questions)}")
        self.assertEqual(wrong, [])

    def question(
        self,
        serve: Serve,
        outcome: str,
        detail: str,
        *options: str,
        context: ssl.SSLContext | None = None,
    ) -> tuple[str, str, str]:
        """
        Ask about one server.
        """
        with WrongServer(serve, context) as server:
            return self.found(f"localhost:{server.port}", *options), outcome, detail

    def found(self, *arguments: str) -> str:
        status, answer = ask(*arguments)
        self.assertEqual(answer["status"], status)
        return f"{status} {answer['outcome']}: {answer['detail']}"


class PlainTests(WrongTestCase):
    """
    Over plain TCP.
    """

    def test_right(self) -> None:
        """
        The server that is wrong in nothing is right, so the others are judged for what
        they do wrong.
        """
        with WrongServer(changed(bytes)) as server:
            self.assertEqual(ask(f"localhost:{server.port}")[0], 0)

    def test_named(self) -> None:
        """
        Each server that changes, drops, doubles or breaks off is named for it.
        """
        self.all_named(
            [
                (name, lambda *limit, wrong=wrong: self.question(*wrong, *limit))
                for name, wrong in PLAIN.items()
            ]
        )

    def test_nobody(self) -> None:
        """
        So is each way not to find one.
        """
        # Where no name server answers, resolv.conf(5) lets a lookup take longer than a check.
        self.patch(os, "environ", {**os.environ, "RES_OPTIONS": "timeout:1 attempts:1"})
        port = self.enterContext(held_port())
        with tempfile.TemporaryDirectory() as folder:
            path = f"{folder}/dead"
            with socket.socket(socket.AF_UNIX) as dead:
                dead.bind(path)
            questions = {
                "refused": (f"127.0.0.1:{port}", "refused", "Connection refused"),
                "refused by all": (f"localhost:{port}", "refused", "Connection refused"),
                "no name": ("nobody.invalid.:9", "cannot resolve", "."),
                "no socket": (f"unix:{folder}/none", "unreachable", "No such file"),
                "dead socket": (f"unix:{path}", "refused", "Connection refused"),
                "nobody's address": ("255.255.255.255:9", "unreachable", "."),
                "no endpoint": (f"tcp:host=127.0.0.1:port={port}", "refused", "refused"),
            }
            self.all_named(
                [
                    (name, lambda *limit, it=it: (self.found(it[0], *limit), *it[1:]))
                    for name, it in questions.items()
                ]
            )

    def test_never_accepts(self) -> None:
        """
        Where no server accepts, the stage that takes too long is named: connecting when the
        queue is full, the echo when it is not.
        """
        with socket.create_server(("127.0.0.1", 0), backlog=0) as listening:
            where = listening.getsockname()
            found = self.found(*SHORT, f"127.0.0.1:{where[1]}")
            self.assertIn("5 timed out: waiting for the echo, after 5 s; 0 of 64", found)
            fillers = [socket.socket() for _ in range(3)]
            try:
                for filler in fillers:
                    filler.setblocking(False)
                    filler.connect_ex(where)
                found = self.found(*SHORT, f"127.0.0.1:{where[1]}")
            finally:
                for filler in fillers:
                    filler.close()
        self.assertEqual(found, "5 timed out: connecting, after 5 s")


class TLSTests(WrongTestCase):
    """
    Over TLS.
    """

    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.folder.mkdir()
        self.authority = make_certificate(("An authority",), authority=True)
        self.ca = self.folder / "ca.pem"
        self.ca.write_bytes(self.authority.cert_pem)
        self.tls = ("--tls", "--ca", str(self.ca))

    def pem(self, made: MadeCertificate) -> str:
        path = self.folder / f"{made.certificate.serial_number}.pem"
        path.write_bytes(made.chain + made.key_pem)
        return str(path)

    def context(self, made: MadeCertificate | None = None) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.pem(made or make_certificate(issuer=self.authority)))
        return context

    def test_right(self) -> None:
        """
        The server that is wrong in nothing is right, with both versions, and what was
        agreed on is told.
        """
        with WrongServer(changed(bytes), self.context()) as server:
            for version in ("1.2", "1.3"):
                status, answer = ask(
                    *self.tls, "--tls-version", version, f"localhost:{server.port}"
                )
                self.assertEqual((status, answer["tls"]["version"]), (0, f"TLSv{version}"))
                self.assertEqual(answer["tls"]["names"], ["localhost"])
                self.assertGreater(answer["ms"]["handshake"], 0)

    def test_no_tls(self) -> None:
        """
        Each way to speak TLS badly, or not at all, is named.
        """
        self.all_named(
            [
                (name, lambda *limit, wrong=wrong: self.question(*wrong, *self.tls, *limit))
                for name, wrong in NO_TLS.items()
            ]
        )

    def test_in_tls(self) -> None:
        """
        So is what is wrong inside TLS.
        """
        context = self.context()
        self.all_named(
            [
                (
                    name,
                    lambda *limit, wrong=wrong: self.question(
                        *wrong, *self.tls, *limit, context=context
                    ),
                )
                for name, wrong in IN_TLS.items()
            ]
        )

    def test_certificates(self) -> None:
        """
        So is each certificate that will not do, on either side.
        """
        stranger = make_certificate(("A stranger",), authority=True)
        demanding = self.context()
        demanding.verify_mode = ssl.CERT_REQUIRED
        demanding.load_verify_locations(self.ca)
        older = self.context()
        older.verify_mode = ssl.CERT_REQUIRED
        older.maximum_version = ssl.TLSVersion.TLSv1_2
        mine = ("--cert", self.pem(make_certificate(("me",), stranger)))

        def made(**how: object) -> ssl.SSLContext:
            return self.context(make_certificate(issuer=self.authority, **how))  # type: ignore[arg-type]

        refused = "TLS refused"
        questions = {
            "wrong name": (
                made(names=("echo.example", "192.0.2.1")),
                "wrong name",
                "is for echo.example, 192.0.2.1, not for localhost",
            ),
            "wrong wildcard": (made(names=("*.example",)), "wrong name", r"is for \*.example"),
            "expired": (made(days=-1), refused, "the certificate has expired"),
            "not yet valid": (made(days=9, valid_in_days=3), refused, "is not valid yet"),
            "self-signed": (self.context(make_certificate()), refused, "is self-signed"),
            "unknown authority": (
                self.context(make_certificate(issuer=stranger)),
                refused,
                "issuer is not trusted",
            ),
            "demands a certificate": (demanding, refused, "alert: certificate required"),
            "demands one, TLS 1.2": (older, refused, "alert: handshake failure"),
            "demands another": (demanding, refused, "alert: unknown ca", *mine),
        }
        self.all_named(
            [
                (
                    name,
                    lambda *limit, context=context, outcome=outcome, detail=detail, more=more: (
                        self.question(
                            *(changed(bytes), outcome, detail, *self.tls, *more, *limit),
                            context=context,
                        )
                    ),
                )
                for name, (context, outcome, detail, *more) in questions.items()
            ]
        )

    def test_own_name(self) -> None:
        """
        Another name may be asked for, and nothing verified; that is told.
        """
        context = self.context(make_certificate(("echo.example",), self.authority))
        with WrongServer(changed(bytes), context) as server:
            where = f"localhost:{server.port}"
            for name in ("echo.example", "echo.example."):
                self.assertEqual(ask(*self.tls, "--servername", name, where)[0], 0)
            done = run("--tls", "--insecure", where)
        self.assertEqual(done.returncode, 0)
        self.assertIn("NOT VERIFIED", done.stdout)
        self.assertIn("the server's identity is not verified", done.stderr)


class EchodTests(SynchronousTestCase):
    """
    Against echod, plain and over TLS.
    """

    def test_line(self) -> None:
        """
        One line with the times of all stages, over IPv4, by name, and on a unix socket.
        """
        with Daemon(*LOOPBACK, "--listen", "unix:{}/echo.sock") as daemon:
            port = daemon.port()
            for where in (
                f"127.0.0.1:{port}",
                f"localhost:{port}",
                daemon.address("--listen"),
                f"tcp:host=127.0.0.1:port={port}",
            ):
                done = run(where)
                self.assertEqual((done.returncode, done.stderr), (0, ""))
                line = (
                    r".*: ok, 64 bytes; .*connect [\d.]+ ms, "
                    r".*echo [\d.]+ ms \(first byte [\d.]+ ms\), close [\d.]+ ms; total [\d.]+ ms"
                )
                self.assertRegex(done.stdout, rf"\A{line}\n\Z")
            done = run(f"127.0.0.1:{port}", "--size", "3MiB", "--count", "3", "--interval", "10ms")
            self.assertEqual(len(re.findall("ok, 3145728 bytes", done.stdout)), 3)
            self.assertEqual(run("--quiet", f"localhost:{port}").stdout, "")
            daemon.ended("client", 8)

    def test_ipv6(self) -> None:
        """
        An address of IPv6 stands in brackets.
        """
        needs.ipv6()
        with Daemon("--port", "0", "--interface", "::1") as daemon:
            self.assertEqual(run(f"[::1]:{daemon.port()}").returncode, 0)

    def test_port_for_tls(self) -> None:
        """
        A plain check of echod's port for TLS says what to add, if the server answers within a
        second.
        """
        text = "; the server answers a ClientHello with a TLS handshake: add --tls\n"
        with tls_daemon("--port", "0") as daemon:
            for size in ("3", "64", "64K"):

                def explained(size: str = size) -> bool:
                    done = run(*SHORT, "--size", size, daemon.address("--tls-port"))
                    self.assertEqual((done.returncode == 0, done.stdout), (False, ""))
                    return done.stderr.endswith(text)

                wait_until(explained, f"the explanation, with {size} bytes")

    def test_fingerprint(self) -> None:
        """
        A certificate that is not trusted is reported with its fingerprint, which openssl(1) prints
        too; with it, the certificate is trusted.
        """
        openssl = needs.program("openssl")
        with tls_daemon("--port", "0") as daemon:
            server = daemon.address("--tls-port")
            done = run("--tls", server)
            self.assertEqual(done.returncode, Outcome.TLS_REFUSED.status)
            [found] = re.findall("--fingerprint ([0-9A-F:]{95});", done.stderr)
            command = (openssl, "x509", "-noout", "-fingerprint", "-sha256")
            pem = (daemon.directory / "pem").read_text()
            shown = subprocess.run(command, input=pem, capture_output=True, text=True, check=True)
            self.assertEqual(shown.stdout.partition("=")[2].strip(), found)
            for given in (found, shown.stdout.strip()):
                done = run("--tls", "--fingerprint", given, server)
                self.assertEqual((done.returncode, done.stderr), (0, ""))
                self.assertIn("verified by --fingerprint", done.stdout)
            other = run("--tls", "--fingerprint", found[:-2] + "00", server)
            self.assertEqual(other.returncode, Outcome.TLS_REFUSED.status)
            self.assertIn(f"another fingerprint: {found}", other.stderr)

    def test_conformance_of_nothing(self) -> None:
        """
        Where no server listens, the suite ends at once with one line.
        """
        with socket.socket() as bound:
            bound.bind(("127.0.0.1", 0))
            host, port = bound.getsockname()
            done = run("--conformance", host, str(port))
        self.assertEqual((done.returncode, done.stdout), (Outcome.REFUSED.status, ""))
        self.assertEqual(len(done.stderr.splitlines()), 1)

    def test_conformance(self) -> None:
        """
        echod passes the whole suite, plain and over TLS.
        """
        with Daemon(*LOOPBACK) as daemon:
            status, found = ask("--conformance", f"127.0.0.1:{daemon.port()}")
        self.assertEqual([case for case in found["cases"] if not case["passed"]], [])
        self.assertEqual((status, len(found["cases"])), (0, 11))
        with tls_daemon() as daemon:
            where = f"127.0.0.1:{daemon.port('--tls-port')}"
            status, found = ask("--tls", "--insecure", "--conformance", where)
        self.assertEqual([case for case in found["cases"] if not case["passed"]], [])
        self.assertEqual(status, 0)

    def test_wire_echo(self) -> None:
        """
        The suite tells an echo that loses from one that does not: Twisted's C{wire.Echo}
        fails where the client closes its sending side, and what it lost is counted.
        """
        with Script(str(Path(__file__).parents[1] / "support" / "wire_echo.py")) as server:
            status, found = ask("--conformance", f"127.0.0.1:{server.port}")
        failed = {case["case"]: case for case in found["cases"] if not case["passed"]}
        self.assertEqual(status, 1)
        self.assertIn("slow reader, 8 MiB, half-close", failed)
        self.assertEqual([n for n in failed if "half-close" not in n and "burst" not in n], [])
        for case in failed.values():
            self.assertEqual(case["outcome"], "lost")
            self.assertGreater(case["lost"], 0)
        show(", ".join(f"{name}: {case['lost']} lost" for name, case in failed.items()))

    def test_imports(self) -> None:
        """
        It imports no more than it needs: no TLS, no endpoints, not the other modes.  What
        a start costs: C{python -m tests.bench --only check}.
        """
        with Daemon(*LOOPBACK) as daemon:
            code = (
                "import sys, echod.check\n"
                "try:\n"
                f"    echod.check.main(['--quiet', '-t50', '127.0.0.1:{daemon.port()}'])\n"
                "except SystemExit as end:\n"
                "    print(end.code, *[name for name in sys.modules if sys.modules[name]])\n"
            )
            done = subprocess.run(
                [sys.executable, "-c", code], capture_output=True, text=True, timeout=60
            )
        status, *names = done.stdout.split()
        self.assertEqual((status, done.stderr), ("0", ""))
        for name in (
            *("OpenSSL.SSL", "cryptography.x509", "service_identity", "echod.check.tls"),
            *(
                "echod.check.ping",
                "echod.check.conformance",
                "echod.tap",
                "twisted.internet.endpoints",
            ),
        ):
            self.assertNotIn(name, names)
        self.assertIn("echod.check.probe", names)
        reactor = "import sys, twisted.internet.reactor; print(len(sys.modules))"
        done = subprocess.run([sys.executable, "-c", reactor], capture_output=True, timeout=60)
        # Not even as many as Twisted's reactor alone, with the parts that it takes.
        self.assertLess(len(names), int(done.stdout))


class PingTests(SynchronousTestCase):
    """
    Tests for C{--ping}.
    """

    def test_count(self) -> None:
        """
        A line for each message, and the summary.
        """
        with Daemon(*LOOPBACK) as daemon:
            done = run("--ping", "-c", "3", "-i", "20ms", f"127.0.0.1:{daemon.port()}")
        lines = done.stdout.splitlines()
        self.assertEqual(done.returncode, 0)
        for number, line in enumerate(lines[:3], 1):
            self.assertRegex(line, rf"\A64 bytes from [\d.:]+: seq={number} time=[\d.]+ ms\Z")
        self.assertIn("3 sent, 3 received, 0% loss", lines[4])
        self.assertRegex(lines[5], "min .* median .* p99 .* max ")
        self.assertIn("#", lines[6])

    def test_interrupt(self) -> None:
        """
        Ctrl-C ends with the summary, and with success when nothing was lost.
        """
        with (
            Daemon(*LOOPBACK) as daemon,
            Running("--ping", "-i", "20ms", f"127.0.0.1:{daemon.port()}") as ping,
        ):
            wait_until(lambda: len(ping.lines()) > 3, "some echoes")
            ping.signal(signal.SIGINT)
            ping.wait()
            self.assertIn(", 0% loss", ping.stdout)
            self.assertEqual((ping.status, ping.stderr), (0, ""))

    def test_interrupted_check(self) -> None:
        """
        A check that is interrupted or terminated has not succeeded.
        """
        with Daemon(*LOOPBACK) as daemon:
            for number in (signal.SIGINT, signal.SIGTERM):
                with Running("-c", "1000", f"127.0.0.1:{daemon.port()}") as check:
                    wait_until(check.lines, "the first check")
                    check.signal(number)
                    check.wait()
                    self.assertEqual(check.status, 130)

    def test_interrupted_at_once(self) -> None:
        """
        An interrupt while it is still being imported ends it without a word, and no sooner
        or later is there a traceback.
        """
        times = 8
        with Daemon(*LOOPBACK) as daemon:
            where = f"127.0.0.1:{daemon.port()}"
            for turn in range(times):
                with Running("-c", "1000", where) as check:
                    wait_until(check.handles_term, "its main()")
                    time.sleep(turn * START_SECONDS / times)
                    check.signal(signal.SIGINT)
                    check.wait()
                    self.assertEqual((check.status, check.stderr), (130, ""))

    def test_restart(self) -> None:
        """
        A server that goes away costs what was due in the meantime, and the ping goes on.
        """
        port = str(self.enterContext(held_port()))
        options = ("--port", port, "--interface", "127.0.0.1")
        with (
            Daemon(*options) as daemon,
            Running("--ping", "-i", "20ms", f"127.0.0.1:{port}") as ping,
        ):
            wait_until(lambda: len(ping.lines()) > 3, "some echoes")
            daemon.signal(signal.SIGKILL)
            daemon.wait()
            wait_until(lambda: "refused" in ping.stdout, "a refusal")
            with Daemon(*options):
                before = len(ping.lines())
                wait_until(
                    lambda: any("time=" in line for line in ping.lines()[before:]), "an echo"
                )
                ping.signal(signal.SIGINT)
                ping.wait()
            self.assertEqual(ping.status, 1)

    def test_stopped_server(self) -> None:
        """
        A server that is stopped for one second is charged for that second: the slowest
        message waited for it, and so did each that was due meanwhile.
        """
        rate, stopped = 100, 1.0
        with Daemon(*LOOPBACK) as daemon:
            where = f"127.0.0.1:{daemon.port()}"
            options = ("--ping", "--json", "--rate", str(rate), "--connections", "4")
            idle = daemon.descriptors()
            with Running(*options, "-c", "300", where) as ping:
                wait_until(lambda: daemon.descriptors() >= idle + 4, "connections")
                start = time.monotonic()
                daemon.signal(signal.SIGSTOP)
                time.sleep(stopped)
                daemon.signal(signal.SIGCONT)
                really = time.monotonic() - start
                ping.wait()
                found = json.loads(ping.stdout)
                self.assertEqual((found["sent"], found["lost"], ping.status), (300, 0, 0))
        slow = sum(row["number"] for row in found["histogram"] if row["ms"] > 300)
        show(f"stopped for {really:.2f} s: max {found['ms']['max']:.0f} ms, {slow} above 262 ms")
        self.assertGreater(found["ms"]["max"], stopped * 1000 * 0.9)
        # Those that were due in its first 700 ms and more waited for the rest of it.
        self.assertGreater(slow, rate * 0.5)

    def test_progress(self) -> None:
        """
        On a terminal the progress of a load is shown, and gone at the end.
        """
        needs.terminal()
        reading, writing = os.openpty()
        with Daemon(*LOOPBACK) as daemon:
            try:
                child = subprocess.Popen(
                    [PROGRAM, *PATIENT, "--ping", "--rate", "50", "-c", "80", daemon.address()],
                    stdout=subprocess.PIPE,
                    stderr=writing,
                )
                out, _ = child.communicate(timeout=PATIENCE_SECONDS)
                shown = os.read(reading, 65536)
            finally:
                os.close(writing)
                os.close(reading)
        self.assertEqual(child.returncode, 0)
        self.assertIn(b"80 sent, 80 received", out)
        self.assertRegex(shown, rb"\d s: \d+ sent, \d+ back, median")
        self.assertTrue(shown.endswith(b"\x1b[K"), shown)


class OutputTests(SynchronousTestCase):
    """
    Where the output goes.
    """

    def test_nobody_reads(self) -> None:
        """
        Output that cannot be written is one line and a status, not a traceback.
        """
        with Daemon(*LOOPBACK) as daemon:
            where = f"127.0.0.1:{daemon.port()}"
            reading, writing = os.pipe()
            os.close(reading)
            needs.file("/dev/full")
            with open("/dev/full", "w") as full, os.fdopen(writing, "w") as pipe:
                for out, text in ((full, "No space left on device"), (pipe, "Broken pipe")):
                    done = subprocess.run(
                        [PROGRAM, *PATIENT, "--ping", "-c", "2", "-i", "10ms", where],
                        stdout=out,
                        stderr=subprocess.PIPE,
                        text=True,
                        timeout=PATIENCE_SECONDS,
                    )
                    line = f"echod-check: standard output: {text}\n"
                    self.assertEqual((done.returncode, done.stderr), (2, line))

    def test_wrong_option(self) -> None:
        """
        A wrong option is one line, and a status of its own.
        """
        for arguments in (
            ("--nope",),
            ("--size", "0", "a:1"),
            ("a",),
            ("--tls", "--ca", "/", "a:1"),
            ("--tls", "--servername", "a..b", "a:1"),
            ("--tls", "--servername", ".example.com", "a:1"),
            ("--tls", "--servername", "x" * 64, "a:1"),
            ("--tls", "a..b:1"),
            ("a..b:1",),
            ("tcp:host=a..b:port=9",),
            ("tcp:127.0.0.1:99999",),
            ("unix:/" + "x" * 107,),
            ("unix:path=/" + "x" * 107,),
        ):
            done = run(*arguments)
            self.assertEqual((done.returncode, done.stdout), (2, ""))
            self.assertEqual(len(done.stderr.splitlines()), 1, done.stderr)

    def test_help(self) -> None:
        """
        The help ends with every exit status.
        """
        done = run("--help")
        self.assertEqual(done.returncode, 0)
        for outcome in Outcome:
            self.assertIn(f"{outcome.status}  {outcome.word}: ", done.stdout)
