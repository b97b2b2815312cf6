"""
Tests for targets, the resolver and Happy Eyeballs.
"""

import errno
import os
import socket
import threading

from twisted.internet import endpoints
from twisted.internet.address import IPv4Address
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.error import (
    ConnectError,
    ConnectingCancelledError,
    ConnectionRefusedError,
    DNSLookupError,
    TimeoutError,
)
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from echod.check.connect import ATTEMPT_DELAY, happy_eyeballs, resolve, start_thread
from echod.check.results import CheckError, CheckResult, DescriptorError, Outcome
from echod.check.target import NO_TIMEOUT, parse_target

V4 = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", 9000))
V6 = (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("2001:db8::1", 9000, 0, 0))
LOCAL = (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("fe80::1", 9000, 0, 3))


class ThreadedReactor(MemoryReactorClock):
    """
    A reactor whose C{callFromThread} is recorded.
    """

    def callFromThread(self, call, *arguments):
        self.callLater(0, call, *arguments)


class ParseTests(SynchronousTestCase):
    """
    Tests for L{parse_target}.
    """

    def test_hosts(self):
        """
        The host is the name for the certificate; a path and an endpoint have none.
        """
        for text, host in (
            ("localhost:9000", "localhost"),
            ("192.0.2.1:9000", "192.0.2.1"),
            ("[::1]:9000", "::1"),
            ("[fe80::1%eth0]:9000", "fe80::1%eth0"),
            ("localhost.:9000", "localhost"),
            ("stra\u00dfe.example:9000", "xn--strae-oqa.example"),
            ("unix:/run/echod.sock", None),
            ("tcp:host=localhost:port=9000", None),
            ("unix:path=/run/echod.sock:timeout=3", None),
            ("unix:path=/run/echod.sock:lockfile=0", None),
        ):
            self.assertEqual(parse_target(text)[0], host)

    def test_wrong(self):
        """
        Another text is an error with what to give, and escaped.
        """
        for text in (
            *("localhost", "::1:9000", "unix:", "unix:a\0", "host:99999", "host:0", "nope:a:b"),
            *("tls:localhost:9000", "ssl:localhost:9000", "tcp:host=a:port=x", "\x1b[0m:a:b"),
            *("a..b:9000", ".example:9000", "x" * 64 + ":9000", "tcp:host=a..b:port=9000"),
            *("tcp:127.0.0.1:99999", "tcp:host=127.0.0.1:port=-1", "unix:/" + "x" * 107),
            *("unix:path=/" + "x" * 107 + ":timeout=3", "tcp:localhost:port=0"),
            *("tcp:a:1:timeout=-1", "tcp:a:1:timeout=0", "tcp:a:1:timeout=nan"),
            *("unix:/s:timeout=-1", "unix:path=/s:timeout=inf", "unix:/s:timeout=" + "9" * 400),
            *("tcp:a:1:bindAddress=b", "tcp:a:1:bindAddress=::1", "tcp:host=::1:port=1"),
        ):
            error = self.assertRaises(ValueError, parse_target, text)
            self.assertIn("; ", str(error))
            self.assertIn("give", str(error))
            self.assertTrue(str(error).isprintable(), text)

    def test_no_port(self):
        """
        A host alone is told that its port is missing.
        """
        for text in ("localhost", "192.0.2.1", ""):
            error = self.assertRaises(ValueError, parse_target, text)
            self.assertEqual(str(error).partition(";")[0], "not a server (no port)")


class ResolveTests(SynchronousTestCase):
    """
    Tests for L{resolve}.
    """

    def setUp(self):
        self.reactor = ThreadedReactor()

    def resolve(self, answer, host="echo.example"):
        def getaddrinfo(host, port, type, flags=0):
            self.assertEqual(type, socket.SOCK_STREAM)
            if flags == socket.AI_NUMERICHOST and host != "192.0.2.1":
                raise socket.gaierror(socket.EAI_NONAME, "a name")
            if isinstance(answer, Exception):
                raise answer
            return answer

        self.started = []
        return resolve(self.reactor, host, 9000, getaddrinfo, self.started.append)

    def test_name(self):
        """
        A name is looked up in a thread, and the result is passed to the reactor.
        """
        waiting = self.resolve([V4])
        self.assertNoResult(waiting)
        self.started.pop()()
        self.assertNoResult(waiting)
        self.reactor.advance(0)
        self.assertEqual(self.successResultOf(waiting), [V4])

    def test_address(self):
        """
        An address needs no thread.
        """
        self.assertEqual(self.successResultOf(self.resolve([V4], "192.0.2.1")), [V4])
        self.assertEqual(self.started, [])

    def test_none(self):
        """
        A name without an address fails with the system's error.
        """
        waiting = self.resolve(socket.gaierror(socket.EAI_NONAME, "not known"))
        self.started.pop()()
        self.reactor.advance(0)
        self.failureResultOf(waiting, socket.gaierror)

    def test_no_thread(self):
        """
        Without a thread a name fails; an address needs none.
        """

        def start(work):
            raise RuntimeError("can't start new thread")

        def getaddrinfo(host, port, type, flags=0):
            raise socket.gaierror(socket.EAI_NONAME, "a name")

        failure = self.failureResultOf(
            resolve(self.reactor, "echo.example", 9000, getaddrinfo, start), CheckError
        )
        self.assertIs(failure.value.outcome, Outcome.UNRESOLVED)
        self.assertIn("no thread for the lookup", failure.value.detail)

    def test_given_up(self):
        """
        A late result of a canceled lookup is ignored.
        """
        waiting = self.resolve([V4])
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)
        self.started.pop()()
        self.reactor.advance(0)

    def test_thread(self):
        """
        The thread is a daemon thread.
        """
        said = threading.Event()
        daemons = []
        start_thread(lambda: (daemons.append(threading.current_thread().daemon), said.set()))
        self.assertTrue(said.wait(60))
        self.assertEqual(daemons, [True])


class FirstOfTests(SynchronousTestCase):
    """
    Tests for L{happy_eyeballs}.
    """

    def setUp(self):
        self.clock = Clock()
        self.cancelled = []
        self.attempts = []

    def start(self, number):
        def attempt():
            self.attempts.append(Deferred(lambda d: self.cancelled.append(d)))
            return self.attempts[-1]

        return happy_eyeballs(self.clock, [attempt] * number)

    def test_first(self):
        """
        The first attempt to succeed wins; no other is started.
        """
        winner = self.start(2)
        self.attempts[0].callback("a")
        self.assertEqual(self.successResultOf(winner), "a")
        self.clock.advance(10)
        self.assertEqual(len(self.attempts), 1)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_next_after_failure(self):
        """
        After a failure the next attempt starts at once.
        """
        winner = self.start(2)
        self.attempts[0].errback(ConnectionRefusedError())
        self.attempts[1].callback("b")
        self.assertEqual(self.successResultOf(winner), "b")

    def test_next_after_delay(self):
        """
        After a delay the next attempt starts as well; the slow one may still win, and the
        others are canceled.
        """
        winner = self.start(3)
        self.clock.advance(ATTEMPT_DELAY)
        self.assertEqual(len(self.attempts), 2)
        self.attempts[0].callback("a")
        self.assertEqual(self.successResultOf(winner), "a")
        self.assertEqual(self.cancelled, [self.attempts[1]])

    def test_all_fail(self):
        """
        When all fail, the last failure is returned.
        """
        winner = self.start(2)
        self.clock.advance(ATTEMPT_DELAY)
        self.clock.advance(ATTEMPT_DELAY)
        self.attempts[1].errback(ConnectionRefusedError())
        self.assertNoResult(winner)
        self.attempts[0].errback(TimeoutError())
        self.failureResultOf(winner, TimeoutError)

    def test_cancel(self):
        """
        Canceling it cancels all attempts.
        """
        winner = self.start(2)
        winner.cancel()
        self.failureResultOf(winner, CancelledError)
        self.assertEqual(len(self.cancelled), 1)
        self.assertEqual(self.clock.getDelayedCalls(), [])


class ConnectTests(SynchronousTestCase):
    """
    Tests for the L{Connect} functions of L{parse_target}.
    """

    def setUp(self):
        self.reactor = ThreadedReactor()
        self.answer = CheckResult()

    def connect(self, text, addresses=(V4,)):
        def look_up(reactor, host, port):
            self.assertEqual(self.answer.stage, "resolving")
            self.reactor.advance(1)
            return fail(addresses) if isinstance(addresses, Exception) else succeed(addresses)

        _, connect = parse_target(text, look_up)
        return Deferred.fromCoroutine(connect(self.reactor, self.answer))

    def outcome(self, waiting, outcome, text):
        failure = self.failureResultOf(waiting, CheckError).value
        self.assertEqual((failure.outcome, failure.detail), (outcome, text))

    def fail_with(self, error, to=None):
        clients = self.reactor.tcpClients if to is None else to
        factory = clients[-1][2] if to is None else clients[-1][1]
        factory.clientConnectionFailed(None, Failure(error))
        self.reactor.advance(0)

    def test_tcp(self):
        """
        A connection is made, and both stages are timed.
        """
        waiting = self.connect("localhost:9000")
        host, port, factory, *_ = self.reactor.tcpClients[0]
        self.assertEqual((host, port), ("192.0.2.1", 9000))
        self.assertEqual(self.answer.stage, "connecting")
        self.reactor.advance(2)
        protocol = factory.buildProtocol(None)
        protocol.makeConnection(StringTransport(peerAddress=IPv4Address("TCP", *V4[4])))
        self.reactor.advance(0)
        self.assertIs(self.successResultOf(waiting), protocol)
        self.assertEqual((self.answer.times.resolve, self.answer.times.connect), (1, 2))

    def test_link_local(self):
        """
        A link-local address keeps its zone.
        """
        self.connect("[fe80::1%3]:9000", (LOCAL,))
        self.assertEqual(self.reactor.tcpClients[0][0], "fe80::1%3")

    def test_every_address(self):
        """
        All addresses are tried; the last failure is reported.
        """
        waiting = self.connect("localhost:9000", (V6, V4))
        self.assertEqual(self.reactor.tcpClients[0][0], "2001:db8::1")
        self.fail_with(ConnectionRefusedError())
        self.assertEqual(self.reactor.tcpClients[1][0], "192.0.2.1")
        self.fail_with(ConnectionRefusedError())
        self.outcome(waiting, Outcome.REFUSED, "Connection refused")

    def test_failures(self):
        """
        Each failure has its outcome.
        """
        for error, outcome, text in (
            (TimeoutError(), Outcome.TIMED_OUT, "connecting: Connection timed out"),
            (ConnectError(errno.ENETUNREACH), Outcome.UNREACHABLE, "Network is unreachable"),
            (ConnectError(errno.ECONNRESET), Outcome.RESET, "as soon as it was connected"),
            (
                ConnectError(string="a\x1bb"),
                Outcome.UNREACHABLE,
                "An error occurred while connecting: a\\x1bb.",
            ),
        ):
            waiting = self.connect("localhost:9000")
            self.fail_with(error)
            self.outcome(waiting, outcome, text)

    def test_no_descriptor(self):
        """
        A lack of file descriptors is no failure of the server: not in the lookup, nor in any kind
        of connection.
        """
        for number, advice in ((errno.EMFILE, "ulimit -Hn"), (errno.ENFILE, "fs.file-max")):
            error = OSError(number, os.strerror(number))
            waiting = [self.connect("localhost:9000", error), self.connect("localhost:9000")]
            self.fail_with(ConnectError(number))
            for path in ("unix:/run/echod.sock", "unix:path=/run/echod.sock:timeout=3"):
                waiting.append(self.connect(path))
                self.fail_with(ConnectError(number), self.reactor.unixClients)
            for each in waiting:
                text = str(self.failureResultOf(each, DescriptorError).value)
                self.assertIn(os.strerror(number), text)
                self.assertIn(advice, text)

    def test_unresolved(self):
        """
        A name without an address fails with the system's reason.
        """
        error = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        waiting = self.connect("nope:9000", error)
        self.outcome(waiting, Outcome.UNRESOLVED, "Name or service not known")
        error = UnicodeError("label empty or too long")
        waiting = self.connect("[fe80::1%a..b]:9000", error)
        self.outcome(waiting, Outcome.UNRESOLVED, "not a host name")
        waiting = self.connect("nope:9000", OSError("of a kind without a number"))
        self.outcome(waiting, Outcome.UNRESOLVED, "of a kind without a number")

    def test_whole_name(self):
        """
        The resolver gets the name in ASCII, with its trailing dot.
        """
        asked = []

        def look_up(reactor, host, port):
            asked.append(host)
            return succeed(())

        for text in ("stra\u00dfe.example:9000", "localhost.:9000"):
            _, connect = parse_target(text, look_up)
            waiting = Deferred.fromCoroutine(connect(self.reactor, self.answer))
            waiting.cancel()
            self.failureResultOf(waiting, CancelledError)
        self.assertEqual(asked, ["xn--strae-oqa.example", "localhost."])

    def test_unix(self):
        """
        A UNIX socket is not looked up.
        """
        waiting = self.connect("unix:/run/echod.sock")
        self.assertEqual(self.reactor.unixClients[0][0], "/run/echod.sock")
        self.fail_with(ConnectError(errno.ENOENT), self.reactor.unixClients)
        self.outcome(waiting, Outcome.UNREACHABLE, "No such file or directory")
        self.assertIsNone(self.answer.times.resolve)

    def test_endpoint(self):
        """
        Any client endpoint of Twisted is accepted.
        """
        waiting = self.connect("unix:path=/run/echod.sock:timeout=3")
        self.fail_with(DNSLookupError("no such name"), self.reactor.unixClients)
        self.assertIn("no such name", self.failureResultOf(waiting, CheckError).value.detail)

    def test_endpoint_that_raises(self):
        """
        Any exception of an endpoint is one line, except a cancellation.
        """
        where = "unix:path=/run/echod.sock:timeout=3"
        waiting = self.connect(where)
        self.fail_with(LookupError("a\x1bb"), self.reactor.unixClients)
        self.outcome(waiting, Outcome.UNREACHABLE, "a\\x1bb")
        for given_up in (CancelledError(), ConnectingCancelledError(None)):
            waiting = self.connect(where)
            self.fail_with(given_up, self.reactor.unixClients)
            self.failureResultOf(waiting, CancelledError)

    def test_endpoint_of_a_plugin(self):
        """
        So is an endpoint of a plugin.
        """

        class Nowhere:
            prefix = "nowhere"

            def parseStreamClient(self, reactor, *args):
                return self

            def connect(self, factory):
                raise RuntimeError("can't start new thread")

        self.patch(endpoints, "getPlugins", lambda _: [Nowhere()])
        waiting = self.connect("nowhere:at:all")
        self.outcome(waiting, Outcome.UNREACHABLE, "can't start new thread")

    def test_tcp_endpoint(self):
        """
        A TCP endpoint is looked up and connected as HOST:PORT is, with its arguments.
        """
        for text, timeout, bind in (
            ("tcp:localhost:9000", NO_TIMEOUT, None),
            ("tcp:port=9000:host=localhost:timeout=3:bindAddress=127.0.0.2", 3, ("127.0.0.2", 0)),
        ):
            self.connect(text)
            host, port, _, *more = self.reactor.tcpClients[-1]
            self.assertEqual((host, port, *more), ("192.0.2.1", 9000, timeout, bind))

    def test_bind_address(self):
        """
        With a bindAddress, only addresses of the same version are tried.
        """
        for text, address in (
            (r"tcp:localhost:9000:bindAddress=\:\:1", "2001:db8::1"),
            ("tcp:localhost:9000:bindAddress=127.0.0.2", "192.0.2.1"),
        ):
            waiting = self.connect(text, (V4, V6))
            self.assertEqual(self.reactor.tcpClients[-1][0], address)
            self.fail_with(ConnectionRefusedError())
            self.outcome(waiting, Outcome.REFUSED, "Connection refused")
        waiting = self.connect(r"tcp:localhost:9000:bindAddress=\:\:1", (V4,))
        self.outcome(
            waiting,
            Outcome.UNREACHABLE,
            "the server has no address of the same version as bindAddress",
        )
