"""
The command C{echod-check}, from its options to its exit status.
"""

import errno
import io
import signal
import sys

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.python.usage import UsageError
from twisted.trial.unittest import SynchronousTestCase

from echod.check import cli
from echod.check.options import CheckOptions
from echod.check.results import CheckError, DescriptorError, Outcome
from tests.support import needs
from tests.support.certificates import make_certificate


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
    Tests for L{cli.run_and_exit}.
    """

    def perform(self, work):
        class Work:
            errors = []
            run = staticmethod(work)

            def output_failed(self, error):
                self.errors.append(error)
                return Outcome.USAGE

            descriptors_failed = output_failed

        self.reactor = WhenRunning()
        return Deferred.fromCoroutine(cli.run_and_exit(self.reactor, Work()))

    def status(self, running):
        return self.failureResultOf(running, SystemExit).value.code

    def test_status(self):
        """
        The exit status is that of the outcome.
        """

        async def lost():
            return Outcome.LOST

        self.assertEqual(self.status(self.perform(lost)), 9)

    def test_interrupt(self):
        """
        Ctrl-C and SIGTERM have an exit status of their own.
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
        Standard output that fails has the status of a usage error.
        """

        async def nobody_reads():
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")

        self.assertEqual(self.status(self.perform(nobody_reads)), 2)

    def test_descriptors(self):
        """
        A lack of file descriptors has the status of a usage error.
        """

        async def lacks():
            raise DescriptorError("Too many open files")

        self.assertEqual(self.status(self.perform(lacks)), 2)


class CommandTests(SynchronousTestCase):
    """
    Tests for L{cli.command} and what it prepares.
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

    def test_secure(self):
        """
        The files for TLS are read before a connection is made.
        """
        self.assertIsNone(cli.make_tls(self.options()))
        ca = self.file(make_certificate(authority=True).cert_pem)
        self.assertTrue(callable(cli.make_tls(self.options("--tls", "--ca", ca))))
        junk = self.file(b"junk")
        options = self.options("--tls", "--ca", junk)
        error = self.assertRaises(UsageError, cli.make_tls, options)
        self.assertIn("--ca", str(error))

    def test_skip_openssl(self):
        """
        OpenSSL is not imported without --tls, and stays if it is imported already.
        """
        for arguments, before, after in (
            ((), {}, {"OpenSSL": None}),
            ((), {"OpenSSL": 1}, {"OpenSSL": 1}),
            (("--tls",), {}, {}),
        ):
            cli.skip_openssl(self.options(*arguments), before)
            self.assertEqual(before, after)

    def test_wrong_option(self):
        """
        A wrong option is one line with an exit status of its own.
        """
        errors = io.StringIO()
        self.patch(sys, "stderr", errors)
        code = self.assertRaises(SystemExit, cli.command, ["--nope"]).code
        self.assertEqual(code, 2)
        self.assertEqual(len(errors.getvalue().splitlines()), 1)
        self.assertTrue(errors.getvalue().startswith("echod-check: "))

    def test_descriptors(self):
        """
        More connections than file descriptors, or than the conformance suite needs, are refused in
        one line; the limit is raised first.
        """
        for given, limit, line in (
            (
                ("--ping", "--connections", "1100"),
                1024,
                "--connections 1100: the limit of 1024 file descriptors allows 992; give fewer, or "
                "raise the hard limit (ulimit -Hn)",
            ),
            (
                ("--conformance",),
                131,
                "--conformance: needs 132 file descriptors, and the limit is 131; raise the hard "
                "limit (ulimit -Hn)",
            ),
        ):
            errors = io.StringIO()
            self.patch(sys, "stderr", errors)
            arguments = [*given, "localhost:9000"]
            end = self.assertRaises(
                SystemExit, cli.command, arguments, None, iter([limit]).__next__
            )
            self.assertEqual((end.code, errors.getvalue()), (2, f"echod-check: {line}\n"))
            cli.check_descriptors(self.options(*given), limit + 109)
        cli.check_descriptors(self.options(), 20)

    def test_full_disk(self):
        """
        Help that cannot be written is reported in one line.
        """
        needs.file("/dev/full")
        for option in ("--help", "--version"):
            errors = io.StringIO()
            with open("/dev/full", "w") as full:
                self.patch(sys, "stdout", full)
                self.patch(sys, "stderr", errors)
                end = self.assertRaises(SystemExit, cli.command, [option])
            self.assertEqual(end.code, 2)
            self.assertEqual(
                errors.getvalue(), "echod-check: standard output: No space left on device\n"
            )

    def test_reactor(self):
        """
        The reactor's clock is monotonic.
        """
        self.patch(reactor, "seconds", reactor.seconds)
        self.patch(sys, "stderr", io.StringIO())
        ran = []
        cli.command(["unix:/no/such/socket"], lambda *what, **how: ran.append((what, how)))
        [((work,), how)] = ran
        self.assertEqual(how, {"_reactor": reactor})
        self.assertEqual(reactor.seconds.__name__, "monotonic")
        running = WhenRunning()
        outcome = work(running)
        self.assertIsInstance(outcome, Deferred)
        outcome.addErrback(lambda failure: failure.trap(SystemExit, CheckError, AttributeError))
        outcome.cancel()
