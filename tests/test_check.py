"""
The command C{echod-check}, from its options to its exit status.
"""

import errno
import io
import json
import os
import signal
import sys

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.usage import UsageError
from twisted.trial.unittest import SynchronousTestCase

from echod import check
from echod.check_options import CheckOptions
from echod.outcome import Failed, Outcome, Session
from tests.certificates import make_certificate
from tests.memory import Dials, echo, fails, turn

SESSION = Session("TLSv1.3", "TLS_AES_256_GCM_SHA384", "x25519", None, ("localhost",), 7, True)


class Terminal(io.StringIO):
    """
    Somebody who watches.
    """

    def isatty(self):
        return True


class FakeDialler:
    """
    A dialler for servers in memory.
    """

    def __init__(self, dial):
        self.dial = dial


class CheckTests(SynchronousTestCase):
    """
    Tests for L{check.Check}.
    """

    err = io.StringIO

    def setUp(self):
        self.clock = Clock()

    def start(self, *arguments, dial=None):
        options = CheckOptions()
        options.parseOptions([*arguments, "localhost:9000"])
        self.out, self.errors = io.StringIO(), self.err()
        dialler = FakeDialler(dial or Dials(echo))
        return check.Check(self.clock, options, dialler, self.out, self.errors)

    def outcome(self, *arguments, dial=None, step=0.05):
        return turn(self.clock, self.start(*arguments, dial=dial).run(), step)

    def said(self):
        return self.out.getvalue(), self.errors.getvalue()

    def test_ok(self):
        """
        One line on standard output.
        """
        self.assertIs(self.outcome(), Outcome.OK)
        out, err = self.said()
        self.assertEqual(len(out.splitlines()), 1)
        self.assertTrue(out.startswith("localhost:9000 (192.0.2.1:9000): ok, 64 bytes; "), out)
        self.assertEqual(err, "")

    def test_failed(self):
        """
        One line on standard error.
        """
        self.assertIs(self.outcome(dial=fails(Outcome.REFUSED)), Outcome.REFUSED)
        line = "echod-check: localhost:9000: refused: of course\n"
        self.assertEqual(self.said(), ("", line))

    def test_quiet(self):
        """
        Not a word, whatever happens.
        """
        self.assertIs(self.outcome("-q"), Outcome.OK)
        self.assertEqual(self.said(), ("", ""))
        self.outcome("-q", "--tls", "--insecure", dial=fails(Outcome.REFUSED))
        self.assertEqual(self.said(), ("", ""))

    def test_json(self):
        """
        An object on standard output, whatever happens.
        """
        self.outcome("--json", dial=fails(Outcome.REFUSED))
        out, err = self.said()
        self.assertEqual((json.loads(out)["outcome"], err), ("refused", ""))

    def test_count(self):
        """
        Several checks, some time apart; the first that fails is the outcome.
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
        With TLS, a second line says what was agreed on; without verification, another
        one warns.
        """
        dials = Dials(echo)

        async def dial(answer):
            answer.session = SESSION
            return await dials(answer)

        self.outcome("--tls", "--insecure", dial=dial)
        out, err = self.said()
        self.assertIn("\n  TLSv1.3; TLS_AES_256_GCM_SHA384; x25519; certificate for localhost", out)
        self.assertEqual(err, "echod-check: --insecure: anybody could be answering\n")

    def test_conformance(self):
        """
        A line for each case as it is known, and how many passed.
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
        Where some came back, the status is that some were lost; where none did, it is why.
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

    def test_ping_json(self):
        """
        One object for the whole run.
        """
        self.outcome("--ping", "-c", "3", "--json")
        self.assertEqual(json.loads(self.said()[0])["received"], 3)

    def test_ping_stopped(self):
        """
        Ctrl-C ends with the summary; it is a success when nothing was lost, unless there
        was nothing at all.
        """

        async def answers(end):
            await end.write(await end.read())
            await Deferred()

        async def hangs(end):
            await Deferred()

        for server, expected in ((answers, Outcome.OK), (hangs, Outcome.INTERRUPTED)):
            work = self.start("--ping", dial=Dials(server))
            running = Deferred.fromCoroutine(work.run())
            self.clock.advance(0.5)
            running.cancel()
            self.assertIs(self.successResultOf(running), expected)
            self.assertIn("received", self.said()[0])

    def test_no_progress(self):
        """
        Where nobody watches, no progress is shown.
        """
        self.outcome("--ping", "--rate", "10", "-c", "30")
        self.assertEqual(self.said()[1], "")
        self.assertEqual(len(self.said()[0].splitlines()), 4)


class ProgressTests(CheckTests):
    """
    The same, on a terminal.
    """

    err = Terminal

    def test_no_progress(self):
        """
        On a terminal the progress is shown in one line, which is gone at the end.
        """
        self.outcome("--ping", "--rate", "10", "-c", "30")
        shown = self.said()[1]
        self.assertIn("\r\x1b[K1 s: 1", shown)
        self.assertTrue(shown.endswith("\r\x1b[K"))
        self.outcome("--ping", "--rate", "10", "-c", "30", "--quiet")
        self.assertEqual(self.said(), ("", ""))


class WhenRunning:
    """
    A reactor that is running.
    """

    def __init__(self):
        self.called = []

    def callWhenRunning(self, call, *arguments):
        self.called.append((call, *arguments))

    def callFromThread(self, call):
        call()


class PerformTests(SynchronousTestCase):
    """
    Tests for L{check.perform}.
    """

    def perform(self, work):
        class Work:
            errors = []
            run = staticmethod(work)

            def output_failed(self, error):
                self.errors.append(error)
                return Outcome.USAGE

        self.reactor = WhenRunning()
        return Deferred.fromCoroutine(check.perform(self.reactor, Work()))

    def status(self, running):
        return self.failureResultOf(running, SystemExit).value.code

    def test_status(self):
        """
        The status is the outcome's.
        """

        async def lost():
            return Outcome.LOST

        self.assertEqual(self.status(self.perform(lost)), 9)

    def test_interrupt(self):
        """
        Ctrl-C and SIGTERM have a status of their own.
        """

        async def for_ever():
            await Deferred()

        signals = (signal.SIGINT, signal.SIGTERM)
        for number in signals:
            self.addCleanup(signal.signal, number, signal.getsignal(number))
        for number in signals:
            running = self.perform(for_ever)
            [(call, *arguments)] = self.reactor.called
            call(*arguments)
            signal.raise_signal(number)
            self.assertEqual(self.status(running), 130)

    def test_output(self):
        """
        Output that goes nowhere is a status of its own.
        """

        async def nobody_reads():
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")

        self.assertEqual(self.status(self.perform(nobody_reads)), 2)


class MainTests(SynchronousTestCase):
    """
    Tests for L{check.main} and what it prepares.
    """

    def options(self, *arguments):
        made = CheckOptions()
        made.parseOptions([*arguments, "localhost:9000"])
        return made

    def file(self, content):
        name = self.mktemp()
        with open(name, "wb") as file:
            file.write(content)
        return name

    def test_output_failed(self):
        """
        A pipe that nobody reads is told once, and not again at exit.
        """
        reading, writing = os.pipe()
        os.close(reading)
        errors = io.StringIO()
        with os.fdopen(writing, "w") as out:
            work = check.Check(None, self.options(), None, out, errors)
            try:
                work._say("hello")
            except OSError as error:
                self.assertIs(work.output_failed(error), Outcome.USAGE)
        self.assertEqual(errors.getvalue(), "echod-check: standard output: Broken pipe\n")

    def test_secure(self):
        """
        Files for TLS are read before anything is connected.
        """
        self.assertIsNone(check.make_secure(self.options()))
        ca = self.file(make_certificate(authority=True).cert_pem)
        self.assertTrue(callable(check.make_secure(self.options("--tls", "--ca", ca))))
        junk = self.file(b"junk")
        options = self.options("--tls", "--ca", junk)
        error = self.assertRaises(UsageError, check.make_secure, options)
        self.assertIn("--ca", str(error))

    def test_leave_out_openssl(self):
        """
        OpenSSL is left out where nobody asks for it, and not taken from who has it.
        """
        for arguments, before, after in (
            ((), {}, {"OpenSSL": None}),
            ((), {"OpenSSL": 1}, {"OpenSSL": 1}),
            (("--tls",), {}, {}),
        ):
            check.leave_out_openssl(self.options(*arguments), before)
            self.assertEqual(before, after)

    def test_wrong_option(self):
        """
        A wrong option is one line and a status of its own.
        """
        errors = io.StringIO()
        self.patch(sys, "stderr", errors)
        code = self.assertRaises(SystemExit, check.main, ["--nope"]).code
        self.assertEqual(code, 2)
        self.assertEqual(len(errors.getvalue().splitlines()), 1)
        self.assertTrue(errors.getvalue().startswith("echod-check: "))

    def test_main(self):
        """
        The reactor that runs has a clock that cannot step.
        """
        self.patch(reactor, "seconds", reactor.seconds)
        self.patch(sys, "stderr", io.StringIO())
        ran = []
        check.main(["unix:/no/such/socket"], lambda *what, **how: ran.append((what, how)))
        [((work,), how)] = ran
        self.assertEqual(how, {"_reactor": reactor})
        self.assertEqual(reactor.seconds.__name__, "monotonic")
        running = WhenRunning()
        outcome = work(running)
        self.assertIsInstance(outcome, Deferred)
        outcome.addErrback(lambda failure: failure.trap(SystemExit, Failed, AttributeError))
        outcome.cancel()
