"""
Tests for runs of C{echod-check}, with servers in memory.
"""

import io
import json
import os

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from echod.check.options import CheckOptions
from echod.check.results import DescriptorError, Outcome, TLSSession
from echod.check.runner import Runner
from echod.check.tlsprobe import CLIENT_HELLO
from tests.support import udpserver
from tests.support.memory import Dials, echo, fails, sleep, turn

SESSION = TLSSession("TLSv1.3", "TLS_AES_256_GCM_SHA384", "x25519", None, ("localhost",), 7, True)


class Terminal(io.StringIO):
    """
    A terminal.
    """

    def isatty(self):
        return True


class FakeConnector:
    """
    A connector for servers in memory.
    """

    def __init__(self, dial):
        self.dial = dial


class RunTests(SynchronousTestCase):
    """
    Tests for L{Runner}.
    """

    err = out_kind = io.StringIO
    environ = {}

    def setUp(self):
        self.clock = Clock()

    def start(self, *arguments, dial=None):
        options = CheckOptions()
        options.parseOptions([*arguments, "localhost:9000"])
        self.out, self.errors = self.out_kind(), self.err()
        connector = FakeConnector(dial or Dials(echo))
        return Runner(self.clock, options, connector, self.out, self.errors, self.environ)

    def outcome(self, *arguments, dial=None, step=0.05):
        return turn(self.clock, self.start(*arguments, dial=dial).run(), step)

    def said(self):
        return self.out.getvalue(), self.errors.getvalue()

    def test_ok(self):
        """
        A passed check is one line on standard output.
        """
        self.assertIs(self.outcome(), Outcome.OK)
        out, err = self.said()
        self.assertEqual(len(out.splitlines()), 1)
        self.assertTrue(out.startswith("localhost:9000 (192.0.2.1:9000): ok, 64 bytes; "), out)
        self.assertEqual(err, "")

    def test_failed(self):
        """
        A failed check is one line on standard error.
        """
        self.assertIs(self.outcome(dial=fails(Outcome.REFUSED)), Outcome.REFUSED)
        line = "echod-check: localhost:9000: refused: of course\n"
        self.assertEqual(self.said(), ("", line))

    def test_descriptors(self):
        """
        A lack of file descriptors ends each kind of run, and is no result of the server.
        """

        async def lacks(result):
            raise DescriptorError("Too many open files")

        for arguments in ((), ("--ping", "-c", "2"), ("--conformance",)):
            runner = self.start(*arguments, dial=lacks)
            running = Deferred.fromCoroutine(runner.run())
            error = self.failureResultOf(running, DescriptorError).value
            self.assertIs(runner.descriptors_failed(error), Outcome.USAGE)
            self.assertEqual(self.said(), ("", "echod-check: Too many open files\n"))

    def test_quiet(self):
        """
        With --quiet nothing is printed.
        """
        self.assertIs(self.outcome("-q"), Outcome.OK)
        self.assertEqual(self.said(), ("", ""))
        self.outcome("-q", "--tls", "--insecure", dial=fails(Outcome.REFUSED))
        self.assertEqual(self.said(), ("", ""))

    def test_json(self):
        """
        With --json each check is one object on standard output.
        """
        self.outcome("--json", dial=fails(Outcome.REFUSED))
        out, err = self.said()
        self.assertEqual((json.loads(out)["outcome"], err), ("refused", ""))

    def test_count(self):
        """
        Several checks run at an interval; the first failure is the outcome.
        """
        served = []

        async def second_fails(end):
            served.append(self.clock.seconds())
            if len(served) == 2:
                end.abort()
            await echo(end)

        self.assertIs(
            self.outcome("-c", "3", "-i", "2s", dial=Dials(second_fails), step=1), Outcome.RESET
        )
        self.assertEqual(served, [0, 2, 4])

    def test_session(self):
        """
        With TLS, a second line has the session; without verification, a warning is printed.
        """
        dials = Dials(echo)

        async def dial(answer):
            answer.session = SESSION
            return await dials(answer)

        self.outcome("--tls", "--insecure", dial=dial)
        out, err = self.said()
        self.assertIn("\n  TLSv1.3; TLS_AES_256_GCM_SHA384; x25519; certificate for localhost", out)
        self.assertEqual(err, "echod-check: --insecure: the server's identity is not verified\n")

    def test_port_for_tls(self):
        """
        A plain check of a port for TLS says so, unless nothing is printed.
        """

        async def tls(end):
            if (await end.read())[:3] == CLIENT_HELLO[:3]:
                await end.write(b"\x16\3\3\0\x04\2\0\0\0")
            await end.finish()

        dials = Dials(tls)
        self.assertIs(self.outcome(dial=dials), Outcome.CLOSED_EARLY)
        text = "the server answers a ClientHello with a TLS handshake: add --tls\n"
        self.assertTrue(self.said()[1].endswith(f"0 of 64 bytes came back; {text}"))
        self.assertEqual(len(dials.ends), 2)
        dials = Dials(tls)
        self.assertIs(self.outcome("--quiet", dial=dials), Outcome.CLOSED_EARLY)
        self.assertEqual(len(dials.ends), 1)

        async def closes(end):
            await end.read()
            await end.finish()

        self.assertIs(self.outcome(dial=Dials(closes)), Outcome.CLOSED_EARLY)
        self.assertTrue(self.said()[1].endswith(" 0 of 64 bytes came back\n"))

    def test_conformance_of_nothing(self):
        """
        Without a server, the suite does not run, and the outcome is that of the connection.
        """
        dial = fails(Outcome.REFUSED)
        self.assertIs(self.outcome("--conformance", dial=dial), Outcome.REFUSED)
        self.assertEqual(self.said(), ("", "echod-check: localhost:9000: refused: of course\n"))
        self.assertIs(self.outcome("--conformance", "--json", dial=dial), Outcome.REFUSED)
        found = json.loads(self.said()[0])
        self.assertEqual((found["outcome"], found["status"], found["cases"]), ("refused", 4, []))
        self.assertIs(found["passed"], False)

    def test_conformance(self):
        """
        Each case is a line when it ends; then the number that passed.
        """
        self.assertIs(self.outcome("--conformance"), Outcome.OK)
        lines = self.said()[0].splitlines()
        self.assertEqual(len(lines), 12)
        self.assertIn("8 MiB, half-close, 5 times", lines[1])
        self.assertEqual(lines[-1], "11 of 11 passed")

    def test_conformance_json(self):
        """
        One object with all cases.
        """
        outcome = self.outcome("--conformance", "--json", dial=fails(Outcome.RESET))
        self.assertIs(outcome, Outcome.FAILED)
        found = json.loads(self.said()[0])
        self.assertEqual((found["passed"], len(found["cases"])), (False, 11))
        self.assertEqual(found["cases"][0]["outcome"], "reset")

    def test_ping(self):
        """
        A line for each message, and the summary.
        """
        self.assertIs(self.outcome("--ping", "-c", "3"), Outcome.OK)
        lines = self.said()[0].splitlines()
        self.assertEqual(lines[2], "64 bytes from 192.0.2.1:9000: seq=3 time=0.000 ms")
        self.assertIn("3 sent, 3 received, 0% loss", lines[4])

    def test_ping_lost(self):
        """
        If some messages came back, the outcome is that some are lost; if none did, the
        reason.
        """
        self.assertIs(
            self.outcome("--ping", "-c", "2", dial=fails(Outcome.REFUSED)), Outcome.REFUSED
        )
        served = []

        async def once(end):
            served.append(end)
            if len(served) > 1:
                await Deferred()
            await end.write(await end.read())
            await end.finish()

        self.assertIs(self.outcome("--ping", "-c", "2", dial=Dials(once)), Outcome.FAILED)

    def test_ping_reason(self):
        """
        With a rate there is no line for each message, and the summary has the reason of the last
        loss.
        """
        arguments = ("--ping", "-c", "2")
        for rate, number in (((), 0), (("--rate", "100"), 1)):
            self.outcome(*arguments, *rate, dial=fails(Outcome.REFUSED))
            out, _ = self.said()
            self.assertEqual(out.count("last failure: refused: of course\n"), number)
            self.assertIn("refused: of course\n", out)
        self.outcome(*arguments, "--rate", "100")
        self.assertNotIn("last failure", self.said()[0])

    def test_ping_json(self):
        """
        One object for the whole run.
        """
        self.outcome("--ping", "-c", "3", "--json")
        found = json.loads(self.said()[0])
        self.assertEqual((found["received"], found["outcome"], found["status"]), (3, "ok", 0))
        self.outcome("--ping", "-c", "3", "--json", dial=fails(Outcome.REFUSED))
        found = json.loads(self.said()[0])
        self.assertEqual((found["outcome"], found["status"]), ("refused", 4))

    def test_ping_stopped(self):
        """
        Ctrl-C prints the summary; the run has passed when no message is lost, unless none
        was sent.
        """

        async def answers(end):
            await end.write(await end.read())
            await Deferred()

        async def hangs(end):
            await Deferred()

        for server, expected in ((answers, Outcome.OK), (hangs, Outcome.INTERRUPTED)):
            runner = self.start("--ping", dial=Dials(server))
            running = Deferred.fromCoroutine(runner.run())
            self.clock.advance(0.5)
            running.cancel()
            self.assertIs(self.successResultOf(running), expected)
            self.assertIn("received", self.said()[0])

    def test_no_progress(self):
        """
        Without a terminal, no progress is printed.
        """
        self.outcome("--ping", "--rate", "10", "-c", "30")
        self.assertEqual(self.said()[1], "")
        self.assertEqual(len(self.said()[0].splitlines()), 4)


class ProgressTests(RunTests):
    """
    The same tests, on a terminal.
    """

    err = Terminal
    environ = {"NO_COLOR": "1"}

    def test_conformance_progress(self):
        """
        The progress of the suite is one line, which is erased before each result.
        """

        async def slow(end):
            await sleep(self.clock, 0.7)
            await echo(end)

        self.outcome("--conformance", dial=Dials(slow))
        shown = self.said()[1]
        self.assertIn("\r\x1b[K1 of 11: 1 byte, half-close, 5 times, 1 s", shown)
        self.assertTrue(shown.endswith("\r\x1b[K"))

    def test_no_progress(self):
        """
        On a terminal the progress is one line, which is erased at the end.
        """
        self.outcome("--ping", "--rate", "10", "-c", "30")
        shown = self.said()[1]
        self.assertIn("\r\x1b[K1 s: 1", shown)
        self.assertTrue(shown.endswith("\r\x1b[K"))
        self.outcome("--ping", "--rate", "10", "-c", "30", "--quiet")
        self.assertEqual(self.said(), ("", ""))


class TerminalTests(RunTests):
    """
    The same tests, with both outputs on a wide terminal.
    """

    err = out_kind = Terminal
    environ = {"NO_COLOR": "1", "COLUMNS": "100"}

    def test_no_progress(self):
        """
        A run of messages ends with a plot.
        """
        self.outcome("--ping", "--rate", "10", "-c", "30")
        self.assertIn("latency over time", self.said()[0])
        self.outcome("--ping", "-c", "2", "--json")
        self.assertEqual(len(self.said()[0].splitlines()), 1)

    def test_plot_of_losses(self):
        """
        Lost messages are in the plot, too.
        """

        async def once(end):
            piece = await end.read()
            await sleep(self.clock, 0.2)
            await end.write(piece)
            await end.finish()

        dials = Dials(once)

        async def dial(answer):
            return await (fails(Outcome.REFUSED) if dials.ends else dials)(answer)

        self.outcome("--ping", "-c", "3", dial=dial)
        self.assertIn("x", self.said()[0].splitlines()[-2])

    def test_color(self):
        """
        The outcome has a color, unless C{NO_COLOR} is set.
        """
        self.environ = {"COLUMNS": "100"}
        self.outcome()
        self.assertIn("\x1b[32mok\x1b[0m", self.said()[0])
        self.outcome(dial=fails(Outcome.REFUSED))
        self.assertIn("\x1b[31mrefused\x1b[0m", self.said()[1])


class OutputTests(SynchronousTestCase):
    """
    Standard output that cannot be written.
    """

    def test_broken_pipe(self):
        """
        A pipe without a reader is reported once, and not again at exit.
        """
        reading, writing = os.pipe()
        os.close(reading)
        options = CheckOptions()
        options.parseOptions(["localhost:9000"])
        errors = io.StringIO()
        with os.fdopen(writing, "w") as out:
            runner = Runner(None, options, None, out, errors, {})
            try:
                runner._print("hello")
            except OSError as error:
                self.assertIs(runner.output_failed(error), Outcome.USAGE)
        self.assertEqual(errors.getvalue(), "echod-check: standard output: Broken pipe\n")


class UDPTests(SynchronousTestCase):
    """
    C{--udp}.
    """

    def run_udp(self, *arguments, answers=udpserver.echo):
        """
        @return: the outcome, and what was printed.
        """
        reactor, server = MemoryReactorClock(), udpserver.UDPServer(answers)
        self.addCleanup(server.close)
        options = CheckOptions()
        options.parseOptions(["--udp", *arguments, "{}:{}".format(*server.target)])
        out, err = io.StringIO(), io.StringIO()
        runner = Runner(reactor, options, FakeConnector(None), out, err, {})
        outcome = udpserver.turn(reactor, server, runner.run(), 0.05)
        return outcome, out.getvalue(), err.getvalue()

    def test_check(self):
        """
        A check is one line.
        """
        outcome, out, err = self.run_udp("--size=1000")
        self.assertIs(outcome, Outcome.OK)
        self.assertRegex(out, r"^127\.0\.0\.1:\d+: ok, 1000 bytes; .*\n$")
        self.assertEqual(err, "")
        outcome, out, err = self.run_udp(answers=lambda datagram: [b"x"])
        self.assertEqual((outcome.status, out), (8, ""))
        self.assertIn("corrupted: ", err)

    def test_ping(self):
        """
        Each message is a line, with a line for each answer too many, and the counts at the end.
        """
        outcome, out, _ = self.run_udp(
            *("--ping", "--count=2", "--interval=100ms"), answers=lambda datagram: [datagram] * 2
        )
        self.assertIs(outcome, Outcome.OK)
        lines = out.splitlines()
        self.assertRegex(lines[0], r"^64 bytes from 127\.0\.0\.1:\d+: seq=1 time=")
        self.assertEqual(lines[1], "seq=1 came again")
        self.assertEqual(lines[-1], "0 reordered, 1 duplicates, 0 late, 0 wrong")

    def test_ping_rate(self):
        """
        With a rate there is no line for each message.
        """
        outcome, out, _ = self.run_udp(
            *("--ping", "--count=2", "--rate=10"), answers=lambda datagram: [datagram] * 2
        )
        self.assertIs(outcome, Outcome.OK)
        self.assertNotIn("seq=", out)
        outcome, out, _ = self.run_udp(
            *("--ping", "--count=2", "--rate=10"), answers=lambda datagram: [b"x"]
        )
        self.assertIn("last failure: ", out)

    def test_ping_json(self):
        """
        The counts in JSON.
        """
        outcome, out, _ = self.run_udp("--ping", "--count=1", "--json")
        self.assertIs(outcome, Outcome.OK)
        summary = json.loads(out)
        self.assertEqual((summary["received"], summary["reordered"]), (1, 0))
        self.assertEqual((summary["duplicates"], summary["late"], summary["wrong"]), (0, 0, 0))
