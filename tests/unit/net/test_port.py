"""
Accepting, on real sockets and on a listening socket that fails on request.
"""

import contextlib
import errno
import os
import resource
import socket
from functools import partial

from twisted.internet import tcp, unix
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.internet.interfaces import IListeningPort
from twisted.logger import LogLevel, capturedLogs, formatEvent
from twisted.python.failure import Failure
from zope.interface.verify import verifyObject

from echod._util.sockets import set_socket_options
from echod.net.balance import YIELD_DELAY
from echod.net.port import ACCEPT_RETRY_DELAY, MAX_ACCEPTS, MAX_SINGLES, EagerPort
from echod.net.transport import EagerTransport
from echod.net.unix import EagerUNIXPort, EagerUNIXTransport, balance_accepts, use_eager_transport
from tests.support.arrivals import wait_for_arrival
from tests.support.pairs import PairTestCase, Recorder, RecordingFactory


class ScriptedSocket:
    """
    A listening socket whose clients and errors come from a list.

    @ivar waiting: what to accept: a socket and an address, or an error number.
    @ivar misses: how often nothing was there to accept.
    """

    def __init__(self, *waiting):
        self.waiting = list(waiting)
        self.misses = 0

    def accept(self):
        self.misses += not self.waiting
        answer = self.waiting.pop(0) if self.waiting else errno.EAGAIN
        if isinstance(answer, int):
            raise OSError(answer, os.strerror(answer))
        return answer

    def _accept(self):
        sock, address = self.accept()
        return sock.detach(), address


class PortTestCase(PairTestCase):
    """
    Makes ports.

    @ivar factory: the ports' factory.
    """

    def setUp(self):
        super().setUp()
        self.factory = RecordingFactory()

    def listen(self, port):
        """
        Let a port listen until the end of the test, and then close its connections too.
        """
        port.startListening()
        self.addCleanup(port.connectionLost, None)
        self.addCleanup(lambda: [each.socket.close() for each in self.connections()])
        return port

    def connections(self):
        """
        The open transports.
        """
        return [p.transport for p in self.factory.protocols if p.transport and not p.lost]

    def tcp_port(self, interface="127.0.0.1"):
        """
        One of our ports, listening.
        """
        return self.listen(EagerPort(0, self.factory, 50, interface, self.reactor))

    def unix_port(self):
        """
        A listening UNIX port, and the path of its socket.
        """
        name = self.mktemp()
        return self.listen(EagerUNIXPort(name, self.factory, reactor=self.reactor)), name

    def scripted(self, *waiting, interface="127.0.0.1"):
        """
        A port on a scripted listening socket.
        """
        port = EagerPort(0, self.factory, 50, interface, self.reactor)
        sock = socket.socket()
        self.addCleanup(sock.close)
        port.fileno = sock.fileno
        # As startListening does.
        port.connected, port.numberAccepts = True, 100
        port.socket = ScriptedSocket(*waiting)
        self.addCleanup(lambda: [each.socket.close() for each in self.connections()])
        return port

    def connect_unix(self, name, bind=None):
        """
        Connect to a UNIX socket.

        @param bind: the client's own name.
        """
        client = socket.socket(socket.AF_UNIX)
        self.addCleanup(client.close)
        client.settimeout(60)
        if bind is not None:
            client.bind(bind)
        client.connect(name)
        return client

    def accepted(self, client=("127.0.0.1", 40000)):
        """
        What a scripted socket accepts.

        @return: the socket and the address that are accepted, and the client's socket.
        """
        ours, peer = self.pair()
        return (ours, client), peer

    def warnings(self, events):
        """
        The warnings among these log events.
        """
        return [formatEvent(event) for event in events if event["log_level"] >= LogLevel.warn]


class ScriptedBalancer:
    """
    A balancer that answers as the test says.

    @ivar ahead: whether other processes should accept.
    @ivar allowed: how many clients may be accepted at once.
    """

    def __init__(self):
        self.ahead = False
        self.allowed = 4

    def should_yield(self):
        return self.ahead

    def allowance(self):
        return self.allowed


class BalancedPortTests(PortTestCase):
    """
    A port whose socket other processes accept from too.
    """

    def setUp(self):
        super().setUp()
        self.queued = []
        self.reactor.rearmExclusive = self.queue
        self.port = EagerPort(0, self.factory, 50, "127.0.0.1", self.reactor)
        self.port.startListening()
        self.addCleanup(lambda: self.port.connected and self.port.connectionLost(None))
        self.addCleanup(lambda: [each.socket.close() for each in self.connections()])
        self.balancer = ScriptedBalancer()
        balance_accepts(self.port, self.balancer)

    def queue(self, port):
        self.queued.append(port)
        self.reactor.addReader(port)

    def reads(self):
        return self.port in self.reactor.getReaders()

    def come(self, number):
        clients = [socket.create_connection(self.port.socket.getsockname()) for _ in range(number)]
        for client in clients:
            self.addCleanup(client.close)
        wait_for_arrival()

    def test_queue(self):
        """
        The port is last in the kernel's queue from the start, and after each of its turns.
        """
        self.assertEqual(self.queued, [self.port])
        self.come(1)
        self.reactor.turn()
        self.assertEqual((len(self.connections()), len(self.queued)), (1, 2))

    def test_a_few_at_once(self):
        """
        However many clients wait, a turn accepts a few.
        """
        self.come(10)
        counts = []
        for _ in range(3):
            self.port.doRead()
            counts.append(len(self.connections()))
        self.assertEqual(counts, [4, 8, 10])

    def test_ahead(self):
        """
        A port that is ahead pauses accepting, and then goes on, whatever the other processes do.
        """
        self.balancer.ahead = True
        self.come(1)
        self.reactor.turn()
        self.assertEqual((len(self.connections()), self.reads()), (1, False))
        self.come(1)
        self.reactor.advance(YIELD_DELAY / 2)
        self.assertFalse(self.reads())
        self.reactor.advance(YIELD_DELAY / 2)
        self.assertTrue(self.reads())
        self.reactor.turn()
        self.assertEqual(len(self.connections()), 2)

    def test_full(self):
        """
        A full port accepts nothing and stays paused until it may accept again, or all processes are
        full.
        """
        self.balancer.ahead, self.balancer.allowed = True, 0
        self.come(1)
        self.reactor.turn()
        for _ in range(5):
            self.reactor.advance(YIELD_DELAY)
            self.assertEqual((self.reads(), self.connections()), (False, []))
        self.balancer.allowed = 1
        self.reactor.advance(YIELD_DELAY)
        self.assertTrue(self.reads())
        self.reactor.turn()
        self.assertEqual(len(self.connections()), 1)

    def test_rearm(self):
        """
        A port that waits in the queue can be put into it again; a paused or closed one cannot.
        """
        self.queued.clear()
        self.port.rearm()
        self.assertEqual(self.queued, [self.port])
        self.balancer.ahead = True
        self.come(1)
        self.reactor.turn()
        self.port.rearm()
        self.assertEqual(self.queued, [self.port])
        self.reactor.advance(YIELD_DELAY)
        self.port.rearm()
        self.assertEqual(len(self.queued), 3)
        self.port.stopListening()
        self.port.rearm()
        self.assertEqual(len(self.queued), 3)

    def test_closed(self):
        """
        A closed port does not resume.
        """
        self.balancer.ahead = True
        self.come(1)
        self.reactor.turn()
        self.port.stopListening()
        self.queued.clear()
        self.reactor.advance(YIELD_DELAY)
        self.assertEqual(self.queued, [])

    def test_last_clients(self):
        """
        A port that is closing accepts the waiting clients, and does not enter the queue again.
        """
        self.come(1)
        self.port.stopListening()
        self.queued.clear()
        self.port.doRead()
        self.assertEqual((len(self.connections()), self.queued), (1, []))

    def test_stop_waiting(self):
        """
        A port that is about to close accepts in calls of C{doRead} only, also if it was paused;
        and it enters the queue no more.
        """
        for ahead in (False, True):
            self.balancer.ahead = ahead
            self.port.doRead()
            self.port.stopWaiting()
            self.queued.clear()
            self.come(2)
            self.reactor.advance(YIELD_DELAY)
            self.port.rearm()
            self.assertEqual((self.reads(), self.port.acceptingPaused), (False, False))
            self.port.numberAccepts = 2
            self.port.doRead()
            self.assertEqual((len(self.connections()), self.queued), (2 + 2 * ahead, []))
            self.port.disconnecting = False

    def test_shortage_at_the_end(self):
        """
        If such a port cannot accept, it says so, and does not try again by itself.
        """
        self.port.stopWaiting()
        self.port.socket, listening = ScriptedSocket(errno.ENFILE), self.port.socket
        self.port.doRead()
        self.port.socket = listening
        self.assertEqual((self.port.acceptingPaused, self.reactor.getDelayedCalls()), (True, []))

    def test_other_reactors(self):
        """
        On another reactor, and for other ports, nothing changes.
        """
        del self.reactor.rearmExclusive
        other = self.tcp_port()
        for port in (other, tcp.Port(0, self.factory, reactor=self.reactor)):
            balance_accepts(port, self.balancer)
            self.assertIsNone(getattr(port, "turns", None))
        other.rearm()
        self.assertEqual(self.queued, [self.port])

    def test_shared(self):
        """
        After a port has closed, other processes still accept from its socket.
        """
        with self.port.socket.dup() as same:
            self.port.stopListening()
            self.reactor.turn()
            self.assertFalse(self.port.connected)
            same.setblocking(True)
            with socket.create_connection(same.getsockname()):
                same.accept()[0].close()


class AcceptTests(PortTestCase):
    """
    Accepting clients.
    """

    def test_interface(self):
        """
        A port provides C{IListeningPort}.
        """
        verifyObject(IListeningPort, self.tcp_port())
        verifyObject(IListeningPort, self.unix_port()[0])

    def test_tcp(self):
        """
        A client is connected to a protocol by our transport, which knows both addresses.
        """
        port = self.tcp_port()
        self.assertEqual(port.getHost().host, "127.0.0.1")
        client = socket.create_connection(("127.0.0.1", port.getHost().port), timeout=60)
        self.addCleanup(client.close)
        client.sendall(b"hello")
        self.reactor.until(lambda: self.factory.protocols and self.factory.protocols[0].received)
        [protocol] = self.factory.protocols
        self.assertEqual(protocol.received, [b"hello"])
        self.assertIs(type(protocol.transport), EagerTransport)
        address = IPv4Address("TCP", *client.getsockname())
        self.assertEqual(self.factory.addresses, [address])
        self.assertEqual(protocol.transport.getPeer(), address)
        self.assertEqual(protocol.transport.getHost(), port.getHost())
        self.assertIn(f"on {port.getHost().port}", repr(protocol.transport))

    def test_unix(self):
        """
        The same on a UNIX socket.
        """
        _, name = self.unix_port()
        bound = self.mktemp()
        self.connect_unix(name).send(b"hello")
        self.connect_unix(name, bound).send(b"hello")
        protocols = self.factory.protocols
        self.reactor.until(lambda: len(protocols) == 2 and all(p.received for p in protocols))
        for protocol in self.factory.protocols:
            self.assertIs(type(protocol.transport), EagerUNIXTransport)
            self.assertEqual(protocol.received, [b"hello"])
        self.assertEqual(
            [protocol.transport.getPeer() for protocol in self.factory.protocols],
            [UNIXAddress(None), UNIXAddress(bound.encode())],
        )

    def test_adopted(self):
        """
        Clients that connected before the socket was adopted also have their urgent bytes in the
        stream.
        """
        listening = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(listening.close)
        listening.setblocking(False)
        client = socket.create_connection(listening.getsockname(), timeout=60)
        self.addCleanup(client.close)
        wait_for_arrival()
        self.listen(
            EagerPort._fromListeningDescriptor(
                self.reactor, listening.fileno(), socket.AF_INET, self.factory
            )
        )
        self.reactor.until(lambda: self.factory.protocols)
        client.send(b"X", socket.MSG_OOB)
        [protocol] = self.factory.protocols
        self.reactor.until(lambda: protocol.data)
        self.assertEqual(protocol.data, b"X")

    def test_adopted_and_empty(self):
        """
        Once the accept queue of an adopted socket was empty, a client has the options that the
        socket has, and no more.
        """
        listening = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(listening.close)
        listening.setblocking(False)
        port = self.listen(
            EagerPort._fromListeningDescriptor(
                self.reactor, listening.fileno(), socket.AF_INET, self.factory
            )
        )
        kept = []
        for _ in range(2):
            client = socket.create_connection(listening.getsockname(), timeout=60)
            self.addCleanup(client.close)
            self.reactor.until(self.factory.protocols.__len__)
            transport = self.factory.protocols.pop().transport
            self.addCleanup(transport.socket.close)
            kept.append(transport.socket.getsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE))
            port.doRead()
        self.assertEqual(kept, [1, 0])

    def test_options_of_early_clients(self):
        """
        A client that has connected before the listening socket had its options gets them itself.
        """
        listening = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(listening.close)
        listening.setblocking(False)
        client = socket.create_connection(listening.getsockname(), timeout=60)
        self.addCleanup(client.close)
        wait_for_arrival()
        port = self.listen(
            EagerPort._fromListeningDescriptor(
                self.reactor, listening.fileno(), socket.AF_INET, self.factory
            )
        )
        port.setOptions = partial(set_socket_options, write_timeout=30.0)
        self.reactor.until(self.factory.protocols.__len__)
        sock = self.factory.protocols.pop().transport.socket
        self.addCleanup(sock.close)
        for level, option in (
            (socket.SOL_SOCKET, socket.SO_KEEPALIVE),
            (socket.SOL_SOCKET, socket.SO_OOBINLINE),
            (socket.IPPROTO_TCP, socket.TCP_NODELAY),
            (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT),
        ):
            self.assertTrue(sock.getsockopt(level, option), option)

    def test_on_demand(self):
        """
        A factory with C{build_lazily} gets a function that makes the client's address.
        """
        port = self.tcp_port()
        functions = []
        self.factory.build_lazily = lambda make: functions.append(make) or Recorder()
        client = socket.create_connection(("127.0.0.1", port.getHost().port), timeout=60)
        self.addCleanup(client.close)
        self.reactor.until(lambda: functions)
        self.assertEqual(functions[0](), IPv4Address("TCP", *client.getsockname()))
        self.assertEqual(self.factory.addresses, [])

    def test_numbers(self):
        """
        Each connection has its own number.
        """
        _, name = self.unix_port()
        clients = [self.connect_unix(name) for _ in range(3)]
        self.reactor.turn()
        self.assertEqual(len(self.connections()), len(clients))
        numbers = [each.logPrefix().split(",")[1] for each in self.connections()]
        self.assertEqual(numbers, ["0", "1", "2"])

    def test_names_of_four(self):
        """
        A client on a UNIX socket may have a name of any length; a name of four bytes is not taken
        for an IPv6 address.
        """
        port, name = self.unix_port()
        for bound in (f"\0{os.getpid() % 1000:03}", "four"):
            self.addCleanup(lambda bound=bound: bound == "four" and os.unlink(bound))
            self.connect_unix(name, bound)
            port.doRead()
            self.assertEqual(self.connections()[-1].getPeer(), UNIXAddress(bound.encode()))

    def test_as_many_as_last_time(self):
        """
        A turn tries to accept as many clients as the turn before found, and more after that.
        """
        waiting = [self.accepted()[0] for _ in range(40)]
        port = self.scripted(*waiting[:3])
        counts = []
        for more in (waiting[3:13], [], waiting[13:], [], [], []):
            port.doRead()
            counts.append(len(self.factory.protocols) - sum(counts))
            port.socket.waiting += more
        self.assertEqual(counts, [3, 3, 7, 7, 20, 0])

    def test_one_at_least(self):
        """
        After a turn without clients, the next one still accepts one.
        """
        port = self.scripted()
        port.doRead()
        port.socket.waiting += [self.accepted()[0], self.accepted()[0]]
        port.doRead()
        self.assertEqual(len(self.factory.protocols), 1)
        port.doRead()
        self.assertEqual(len(self.factory.protocols), 2)

    def test_one_by_one(self):
        """
        If clients come one by one, few turns try to accept a second one; if many come at once,
        they are soon accepted many in a turn.
        """
        port = self.scripted()
        for _ in range(20):
            port.socket.waiting.append(self.accepted()[0])
            port.doRead()
        self.assertEqual((len(self.factory.protocols), port.socket.misses), (20, 4))
        port.socket.waiting += [self.accepted()[0] for _ in range(40)]
        for _ in range(MAX_SINGLES + 4):
            port.doRead()
        self.assertEqual(len(self.factory.protocols), 60)

    def test_bound_on_a_turn(self):
        """
        A turn accepts a bounded number of clients, however many wait.
        """
        accepted = self.accepted()[0][1]
        port = self.scripted(*[(socket.socket(), accepted) for _ in range(2 * MAX_ACCEPTS + 1)])
        self.addCleanup(lambda: [each[0].close() for each in port.socket.waiting])
        for turn in (1, 2):
            port.doRead()
            self.assertEqual(len(self.factory.protocols), turn * MAX_ACCEPTS)

    def test_bound_on_the_first_turn(self):
        """
        The same holds for the first turn of a port that listens.
        """
        _, name = self.unix_port()
        [port] = self.reactor.readers
        clients = [self.connect_unix(name) for _ in range(MAX_ACCEPTS + 1)]
        port.doRead()
        self.assertEqual(len(self.connections()), MAX_ACCEPTS)
        port.doRead()
        self.assertEqual(len(self.connections()), len(clients))

    def test_bound_of_the_factory(self):
        """
        No turn accepts more clients than the factory's C{acceptsAtOnce}.
        """
        self.factory.acceptsAtOnce = 8
        accepted = self.accepted()[0][1]
        port = self.scripted(*[(socket.socket(), accepted) for _ in range(20)])
        counts = []
        for _ in range(4):
            port.doRead()
            counts.append(len(self.factory.protocols) - sum(counts))
        self.assertEqual(counts, [8, 8, 4, 0])

    def test_none_for_now(self):
        """
        While the factory takes none, the clients wait, and the port does not read.
        """
        self.factory.acceptsAtOnce = 0
        port = self.scripted(self.accepted()[0])
        port.connected = True
        port.startReading()
        port.doRead()
        self.assertNotIn(port, self.reactor.getReaders())
        self.factory.acceptsAtOnce = 1
        self.reactor.advance(YIELD_DELAY)
        self.assertIn(port, self.reactor.getReaders())
        self.assertEqual(self.factory.protocols, [])
        port.doRead()
        self.assertEqual(len(self.factory.protocols), 1)

    def test_link_local(self):
        """
        A link-local address comes with its interface.
        """
        index, interface = socket.if_nameindex()[0]
        accepted, _ = self.accepted(("fe80::1", 40000, 0, index))
        self.scripted(accepted, interface="::1").doRead()
        host = f"fe80::1%{interface}"
        self.assertEqual([address.host for address in self.factory.addresses], [host])
        self.assertEqual(self.connections()[0].getPeer().host, host)

    def test_ipv6(self):
        """
        Any other IPv6 address is unchanged.
        """
        accepted, _ = self.accepted(("2001:db8::1", 40000, 0, 0))
        self.scripted(accepted, interface="::1").doRead()
        self.assertEqual(self.factory.addresses, [IPv6Address("TCP", "2001:db8::1", 40000)])


class FaultTests(PortTestCase):
    """
    Clients whose connection fails, while others are accepted.
    """

    def test_refused(self):
        """
        A client for which the factory has no protocol is closed, and others are accepted.
        """
        (one, refused), (two, _) = self.accepted(), self.accepted()
        protocols = [None, Recorder()]
        self.patch(self.factory, "buildProtocol", lambda address: protocols.pop(0))
        self.scripted(one, two).doRead()
        self.assertEqual(refused.recv(1), b"")
        self.assertEqual(len(self.reactor.readers), 1)

    def test_factory_fails(self):
        """
        When the factory fails, that is logged once, the client is closed, and others are accepted.
        """

        def build(address):
            failing.pop(0)()
            return Recorder()

        failing = [lambda: 1 / 0, lambda: None]
        (one, refused), (two, _) = self.accepted(), self.accepted()
        self.patch(self.factory, "buildProtocol", build)
        self.scripted(one, two).doRead()
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual(refused.recv(1), b"")
        self.assertEqual(len(self.reactor.readers), 1)

    def test_protocol_fails(self):
        """
        When a protocol fails in C{makeConnection}, that is logged once, C{connectionLost} is
        called, the client is closed, and others are accepted.
        """
        broken = Recorder()
        broken.connectionMade = lambda: 1 / 0
        protocols = [broken, Recorder()]
        self.patch(self.factory, "buildProtocol", lambda address: protocols.pop(0))
        (one, refused), (two, _) = self.accepted(), self.accepted()
        self.scripted(one, two).doRead()
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.reactor.turn()
        self.assert_lost(broken, ConnectionAborted)
        self.assertEqual(refused.recv(1), b"")
        self.assertEqual(len(self.reactor.readers), 1)

    def test_reactor_fails(self):
        """
        While the reactor cannot add a connection, the clients are closed, and one line a second
        counts them; afterwards others are accepted.
        """

        def watch(reader):
            if full:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            watched.append(reader)

        watched, full = [], True
        self.patch(self.reactor, "addReader", watch)
        arrivals = [self.accepted() for _ in range(5)]
        with capturedLogs() as events:
            self.scripted(*(accepted for accepted, _ in arrivals)).doRead()
        self.assertEqual([peer.recv(1) for _, peer in arrivals], [b""] * 5)
        self.assertEqual(
            self.warnings(events),
            ["cannot accept: No space left on device; 1 clients turned away"],
        )
        full = False
        self.scripted(self.accepted()[0]).doRead()
        self.assertEqual(len(watched), 1)

    def refusing(self, name):
        """
        Let the next call of this method of the reactor fail, and no later one.
        """
        whole = getattr(self.reactor, name)

        def refuse(port):
            setattr(self.reactor, name, whole)
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

        setattr(self.reactor, name, refuse)

    def test_cannot_resume(self):
        """
        If the kernel refuses to report the clients of a port after a pause, that is logged, and
        the port tries again until it is told of its clients.
        """
        port = self.tcp_port()
        port._pauseAccepting(1)
        self.refusing("addReader")
        with capturedLogs() as events:
            self.reactor.advance(1)
        self.assertEqual(
            self.warnings(events), ["cannot accept: Cannot allocate memory; 0 clients turned away"]
        )
        self.assertNotIn(port, self.reactor.readers)
        self.reactor.advance(ACCEPT_RETRY_DELAY)
        self.assertIn(port, self.reactor.readers)

    def test_cannot_queue(self):
        """
        The same holds for a port whose socket other processes accept from too: after each turn,
        after a pause, and when it is put into the queue again.
        """
        self.reactor.rearmExclusive = self.reactor.addReader
        port = self.tcp_port()
        balance_accepts(port, ScriptedBalancer())
        for act in (port.doRead, port._resumeAccepting, port.rearm):
            self.reactor.removeReader(port)
            self.refusing("rearmExclusive")
            act()
            port.rearm()
            self.assertNotIn(port, self.reactor.readers)
            self.reactor.advance(ACCEPT_RETRY_DELAY)
            self.assertIn(port, self.reactor.readers)

    def test_gone_already(self):
        """
        A client that is gone before it is accepted, or that a packet filter forbids, is skipped
        without a log line.
        """
        port = self.scripted(errno.ECONNABORTED, errno.EPERM, self.accepted()[0])
        with capturedLogs() as events:
            port.doRead()
        self.assertEqual(len(self.connections()), 1)
        self.assertEqual(self.warnings(events), [])


@contextlib.contextmanager
def no_descriptors(but=0):
    """
    Leave this process no descriptor to open, or only so many.
    """
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    taken = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 2, limits[1]))
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.dup(0))
        for _ in range(but):
            os.close(taken.pop())
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for descriptor in taken:
            os.close(descriptor)


class SheddingTests(PortTestCase):
    """
    When no descriptor is free.
    """

    def setUp(self):
        super().setUp()
        self.reservation = tcp._FileDescriptorReservation(socket.socket)
        self.patch(tcp, "_reservedFD", self.reservation)
        self.addCleanup(self.release)

    def release(self):
        """
        Close the descriptor that is held in reserve.
        """
        if self.reservation.available():
            self.reservation._fileDescriptor.close()
            self.reservation._fileDescriptor = None

    def out_of_descriptors(self, number):
        """
        Clients that connect when no descriptor is free.

        @return: what a scripted socket accepts, and the clients' sockets.
        """
        arrivals = [self.accepted() for _ in range(number)]
        waiting = []
        for accepted, _ in arrivals:
            waiting += [errno.EMFILE, accepted]
        return waiting, [peer for _, peer in arrivals]

    def test_turned_away(self):
        """
        Clients are turned away at once, one line is logged, and the next client for which there is
        a descriptor is served.
        """
        waiting, clients = self.out_of_descriptors(5)
        port = self.scripted(*waiting, self.accepted()[0])
        with capturedLogs() as events:
            port.doRead()
        for client in clients:
            self.assertEqual(client.recv(1), b"")
        self.assertEqual(len(self.connections()), 1)
        self.assertEqual(
            self.warnings(events), ["cannot accept: Too many open files; 1 clients turned away"]
        )

    def test_a_line_a_second(self):
        """
        One line a second is logged at most, and the lines together count every client.
        """
        port = self.scripted()
        counts = []
        for second in range(5):
            for _ in range(3):
                port.socket.waiting, _ = self.out_of_descriptors(2)
                with capturedLogs() as events:
                    port.doRead()
                counts += [(second, line) for line in self.warnings(events)]
                self.reactor.advance(0.25)
            self.reactor.advance(0.25)
        self.assertEqual([second for second, _ in counts], [0, 1, 2, 3, 4])
        numbers = [int(line.split("; ")[1].split()[0]) for _, line in counts]
        self.assertEqual(numbers, [1, 6, 6, 6, 6])

    def test_reserved_again(self):
        """
        The reserved descriptor is reserved again after each use, and opened if it was missing.
        """
        self.assertFalse(self.reservation.available())
        waiting, [client] = self.out_of_descriptors(1)
        self.scripted(*waiting).doRead()
        self.assertEqual(client.recv(1), b"")
        self.assertTrue(self.reservation.available())

    def test_real_shortage(self):
        """
        A process without free descriptors turns all waiting clients away, and serves the next as
        soon as it has a descriptor.
        """
        port, name = self.unix_port()
        clients = [self.connect_unix(name) for _ in range(3)]
        with no_descriptors(), capturedLogs() as events:
            port.doRead()
        for client in clients:
            self.assertEqual(client.recv(1), b"")
        self.assertEqual(
            self.warnings(events), ["cannot accept: Too many open files; 1 clients turned away"]
        )
        self.assertTrue(self.reservation.available())
        client = self.connect_unix(name)
        port.doRead()
        self.connections()[0].write(b"hello")
        self.assertEqual(client.recv(100), b"hello")

    def test_nothing_in_reserve(self):
        """
        Without a reserved descriptor the client waits, and one line a second is logged; once there
        is one again, the client is served.
        """
        port, name = self.unix_port()
        client = self.connect_unix(name)
        self.release()
        lines = []
        with no_descriptors():
            for _ in range(12):
                with capturedLogs() as events:
                    port.doRead()
                lines += self.warnings(events)
                self.reactor.advance(0.25)
        self.flushLoggedErrors(OSError)
        self.assertEqual(lines, ["cannot accept: Too many open files; 0 clients turned away"] * 3)
        port.doRead()
        self.connections()[0].write(b"hello")
        self.assertEqual(client.recv(100), b"hello")

    def test_pause(self):
        """
        A port that can neither accept nor turn away pauses and is not called again at once; one
        that is closed in the pause stays closed.
        """
        port = EagerPort(0, self.factory, 50, "127.0.0.1", self.reactor)
        port.startListening()
        self.release()
        client = socket.create_connection(port.socket.getsockname())
        self.addCleanup(client.close)
        wait_for_arrival()
        with no_descriptors():
            for _ in range(2):
                self.assertIn(port, self.reactor.readers)
                self.reactor.turn()
                self.assertNotIn(port, self.reactor.readers)
                self.reactor.advance(ACCEPT_RETRY_DELAY)
            self.reactor.turn()
            port.stopListening()
            self.reactor.advance(ACCEPT_RETRY_DELAY)
        self.flushLoggedErrors(OSError)
        self.assertNotIn(port, self.reactor.readers)
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_pause_with_other_processes(self):
        """
        A port whose socket other processes accept from too pauses in the same way.
        """
        queued = []
        self.reactor.rearmExclusive = lambda port: queued.append(port) or port.startReading()
        port = self.tcp_port()
        balance_accepts(port, ScriptedBalancer())
        queued.clear()
        self.release()
        client = socket.create_connection(port.socket.getsockname())
        self.addCleanup(client.close)
        wait_for_arrival()
        with no_descriptors():
            for number in (1, 2):
                self.reactor.turn()
                self.assertNotIn(port, self.reactor.readers)
                self.reactor.advance(ACCEPT_RETRY_DELAY)
                self.assertEqual(queued, [port] * number)
        self.flushLoggedErrors(OSError)
        self.reactor.turn()
        self.assertEqual(len(self.connections()), 1)

    def test_reserve_of_no_use(self):
        """
        When accept fails with the reserved descriptor, too, the port pauses.
        """
        accepted, _ = self.accepted()
        port = self.scripted(errno.EMFILE, errno.ENFILE, accepted)
        port.doRead()
        self.assertEqual(port.socket.waiting, [accepted])
        self.assertEqual(
            [call.getTime() for call in self.reactor.getDelayedCalls()], [ACCEPT_RETRY_DELAY]
        )

    def test_reserve_taken(self):
        """
        When something else takes the descriptor that was to be reserved, the client waits and the
        port goes on.
        """

        for number in (errno.EMFILE, errno.ENFILE):
            taken = ScriptedSocket(number, number)
            self.reservation._fileFactory = taken.accept
            accepted, _ = self.accepted()
            port = self.scripted(errno.EMFILE, accepted)
            port.doRead()
            self.flushLoggedErrors(OSError)
            self.assertEqual(port.socket.waiting, [accepted])
            port.doRead()
            self.assertEqual(len(self.connections()), 1)
            self.connections()[0].connectionLost(Failure(ConnectionDone()))

    def test_client_gone(self):
        """
        When the client has gone before it could be turned away, it is not counted, and the port
        goes on.
        """
        port = self.scripted(errno.EMFILE, errno.EAGAIN)
        with capturedLogs() as events:
            port.doRead()
        self.assertEqual(
            self.warnings(events), ["cannot accept: Too many open files; 0 clients turned away"]
        )
        port.socket.waiting = [self.accepted()[0]]
        port.doRead()
        self.assertEqual(len(self.connections()), 1)

    def test_other_shortages(self):
        """
        When the whole machine lacks something, the log says what, once a second at most, and
        clients wait.
        """
        for number in (errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
            port = self.scripted()
            lines = []
            for _ in range(4):
                accepted, _ = self.accepted()
                port.socket.waiting = [number, accepted]
                with capturedLogs() as events:
                    port.doRead()
                lines += self.warnings(events)
                self.assertEqual(port.socket.waiting, [accepted])
            self.assertEqual(
                lines, [f"cannot accept: {os.strerror(number)}; 0 clients turned away"]
            )


class UseEagerTransportTests(PortTestCase):
    """
    Twisted's own ports.
    """

    def test_tcp(self):
        """
        A TCP port of Twisted's makes our transports.
        """
        port = self.listen(tcp.Port(0, self.factory, 50, "127.0.0.1", self.reactor))
        use_eager_transport(port)
        client = socket.create_connection(("127.0.0.1", port.getHost().port), timeout=60)
        self.addCleanup(client.close)
        self.reactor.until(lambda: self.factory.protocols)
        transport = self.factory.protocols[0].transport
        self.assertIs(type(transport), EagerTransport)
        self.assertEqual(transport.getPeer(), IPv4Address("TCP", *client.getsockname()))
        transport.write(b"hello")
        self.assertEqual(client.recv(100), b"hello")

    def test_unix(self):
        """
        A UNIX port of Twisted's makes our transports.
        """
        name = self.mktemp()
        port = self.listen(unix.Port(name, self.factory, reactor=self.reactor))
        use_eager_transport(port)
        client = self.connect_unix(name)
        self.reactor.until(lambda: self.factory.protocols)
        [protocol] = self.factory.protocols
        self.assertIs(type(protocol.transport), EagerUNIXTransport)
        client.close()
        self.reactor.until(lambda: protocol.lost)
        self.assert_lost(protocol, ConnectionDone)

    def test_any_other(self):
        """
        Any other port is unchanged.
        """

        class OtherPort(tcp.Port):
            transport = object()

        other = OtherPort(0, self.factory, reactor=self.reactor)
        use_eager_transport(other)
        self.assertIs(other.transport, OtherPort.transport)
        self.assertIsNone(use_eager_transport(object()))
        self.assertIs(tcp.Port.transport, tcp.Server)
        self.assertIs(unix.Port.transport, unix.Server)
