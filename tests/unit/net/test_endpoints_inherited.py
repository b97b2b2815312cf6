"""
Inherited sockets: how they are found, and that closing them leaves them usable.
"""

import os
import socket
import stat

from twisted.internet.address import UNIXAddress
from twisted.internet.interfaces import IListeningPort, IStreamServerEndpoint
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from echod.net.endpoints import InheritedEndpoint
from echod.net.unix import EagerUNIXTransport
from echod.systemd import InheritedSocket, InheritedSockets, initial_environ
from tests.support.fakes import PortReactor
from tests.support.pairs import PairTestCase, RecordingFactory


class EnvironmentTests(SynchronousTestCase):
    """
    What the environment says about inherited sockets (sd_listen_fds(3)).
    """

    def left(self, pid=7, **environ):
        """
        The sockets that a process finds in an environment.
        """
        found = InheritedSockets.from_environment(environ, pid)
        return [(each.name, each.descriptor) for each in found.left]

    def test_named(self):
        """
        Sockets are numbered from 3, in the order of their names.
        """
        found = self.left(LISTEN_PID="7", LISTEN_FDS="2", LISTEN_FDNAMES="echo:echo-tls")
        self.assertEqual(found, [("echo", 3), ("echo-tls", 4)])

    def test_names_missing(self):
        """
        Sockets without a name are found too, with systemd's default name.
        """
        for names in ({}, {"LISTEN_FDNAMES": ""}, {"LISTEN_FDNAMES": ":"}):
            found = self.left(LISTEN_PID="7", LISTEN_FDS="2", **names)
            self.assertEqual(found, [("unknown", 3), ("unknown", 4)])
        found = self.left(LISTEN_PID="7", LISTEN_FDS="1", LISTEN_FDNAMES="a:b")
        self.assertEqual(found, [("a", 3)])

    def test_not_for_us(self):
        """
        Variables for another process, or malformed ones, give no sockets.
        """
        for environ in (
            {},
            {"LISTEN_FDS": "1"},
            {"LISTEN_PID": "7"},
            {"LISTEN_PID": "8", "LISTEN_FDS": "1"},
            {"LISTEN_PID": "x", "LISTEN_FDS": "1"},
            {"LISTEN_PID": "7", "LISTEN_FDS": "x"},
            {"LISTEN_PID": "7", "LISTEN_FDS": "0"},
        ):
            self.assertEqual(self.left(**environ), [])

    def test_first_environment(self):
        """
        The environment at the start of the process is still known after a program has changed it.
        """
        path = self.mktemp()
        with open(path, "wb") as file:
            file.write(b"LISTEN_PID=7\0A=b=c\0junk\0\xff=\xfe\0")
        self.assertEqual(
            initial_environ(path),
            {"LISTEN_PID": "7", "A": "b=c", os.fsdecode(b"\xff"): os.fsdecode(b"\xfe")},
        )
        self.assertRaises(OSError, initial_environ, self.mktemp())

    def test_from_process(self):
        """
        If the sockets are for another process, or the system does not tell, the error says why.
        """
        path = self.mktemp()
        with open(path, "wb") as file:
            file.write(b"LISTEN_PID=7\0LISTEN_FDS=1\0")
        self.assertEqual(len(InheritedSockets.from_process(7, path).left), 1)
        missing = self.mktemp()
        for inherited, words in (
            (
                InheritedSockets.from_process(8, path),
                "they were handed to process 7, and this is process 8; let that process exec "
                "this one, with no shell in between",
            ),
            (
                InheritedSockets.from_process(7, missing),
                f"{missing}, which tells of them, cannot be read: No such file or directory",
            ),
        ):
            error = self.assertRaises(ValueError, inherited.take, "systemd:name=a")
            self.assertEqual(str(error), f"no such socket was handed over: {words}")


class TakeTests(SynchronousTestCase):
    """
    Taking sockets by name or index.
    """

    def setUp(self):
        self.a, self.b, self.c = (
            InheritedSocket(name, number) for name, number in (("a", 3), ("b", 4), ("a", 5))
        )
        self.inherited = InheritedSockets([self.a, self.b, self.c])

    def test_name(self):
        """
        A name means all sockets with that name, for any address family.
        """
        self.assertEqual(self.inherited.take("systemd:name=a"), [self.a, self.c])
        self.assertEqual(self.inherited.left, [self.b])
        self.assertEqual(self.inherited.take("systemd:INET6:name=b"), [self.b])
        self.assertEqual(self.inherited.left, [])

    def test_index(self):
        """
        An index means one socket.
        """
        self.assertEqual(self.inherited.take("systemd:domain=UNIX:index=1"), [self.b])
        self.assertEqual(self.inherited.take("systemd:index=2"), [self.c])

    def test_refused(self):
        """
        A string that means no socket, or one that is taken already, is refused with a text.
        """
        self.inherited.take("systemd:index=0")
        for description, words in (
            ("systemd:name=a", "another option has taken it; give each once"),
            ("systemd:name=\n", "no such socket was handed over; give one of a, b, a"),
            ("systemd:index=3", "no such socket was handed over; give one of a, b, a"),
            ("systemd:INET", "says no socket; give name= or index= of one that is handed over"),
            (
                "systemd:name=a:index=0",
                "says no socket; give name= or index= of one that is handed over",
            ),
        ):
            error = self.assertRaises(ValueError, self.inherited.take, description)
            self.assertEqual(str(error), words)
        self.assertEqual(self.inherited.left, [self.b, self.c])
        error = self.assertRaises(ValueError, InheritedSockets().take, "systemd:name=a")
        self.assertEqual(
            str(error), "no such socket was handed over; give it to a socket unit of systemd's"
        )


class EndpointTests(PairTestCase):
    """
    Listening on real sockets that something else made.
    """

    def hand_over(self, bound):
        """
        @return: a descriptor of a socket, as an endpoint gets it.
        """
        self.addCleanup(bound.close)
        return InheritedSocket("echo", os.dup(bound.fileno()))

    def test_tcp(self):
        """
        The reactor adopts a TCP socket, with its address family.
        """
        reactor = PortReactor()
        self.addCleanup(reactor.close)
        bound = socket.create_server(("127.0.0.1", 0))
        endpoint = InheritedEndpoint(reactor, self.hand_over(bound))
        verifyObject(IStreamServerEndpoint, endpoint)
        port = self.successResultOf(endpoint.listen(RecordingFactory()))
        self.assertEqual(port.socket.getsockname(), bound.getsockname())
        self.assertEqual([asked[1] for asked in reactor.adoptedPorts], [socket.AF_INET])

    def test_unix(self):
        """
        A UNIX socket serves, and its file and permissions stay when the port closes.
        """
        path = self.mktemp()
        bound = socket.socket(socket.AF_UNIX)
        bound.bind(path)
        bound.listen(3)
        os.chmod(path, 0o600)
        inherited = self.hand_over(bound)
        factory = RecordingFactory()
        endpoint = InheritedEndpoint(self.reactor, inherited)
        port = self.successResultOf(endpoint.listen(factory))
        verifyObject(IListeningPort, port)
        self.assertEqual(port.getHost(), UNIXAddress(os.fsencode(path)))
        # The descriptor is the port's own now.
        self.assertRaises(OSError, os.fstat, inherited.descriptor)
        client = socket.socket(socket.AF_UNIX)
        self.addCleanup(client.close)
        client.connect(path)
        self.reactor.turn()
        (protocol,) = factory.protocols
        self.assertIs(type(protocol.transport), EagerUNIXTransport)
        self.addCleanup(protocol.transport.socket.close)
        port.stopListening()
        port.connectionLost(None)
        self.assertEqual(stat.S_IMODE(os.stat(path).st_mode), 0o600)
        # Its owner can still be reached there.
        later = socket.socket(socket.AF_UNIX)
        self.addCleanup(later.close)
        later.connect(path)
        bound.settimeout(60)
        bound.accept()[0].close()

    def test_no_listening_socket(self):
        """
        A descriptor that does not accept streams is refused with a text.
        """
        read, write = os.pipe()
        self.addCleanup(os.close, read)
        self.addCleanup(os.close, write)
        one, other = socket.socketpair()
        datagrams = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        for each in (one, other, datagrams):
            self.addCleanup(each.close)
        for descriptor, words in (
            (read, f"descriptor {read}: Socket operation on non-socket; give one"),
            (one.fileno(), "it accepts no streams; give its unit ListenStream="),
            (datagrams.fileno(), "it accepts no streams; give its unit ListenStream="),
        ):
            error = self.assertRaises(
                ValueError, InheritedEndpoint, self.reactor, InheritedSocket("x", descriptor)
            )
            self.assertIn(words, str(error))
            os.fstat(descriptor)


class DatagramTests(SynchronousTestCase):
    """
    Inherited sockets for UDP.
    """

    def setUp(self):
        made = [socket.create_server(("127.0.0.1", 0))]
        for family in (socket.AF_INET, socket.AF_UNIX):
            made.append(socket.socket(family, socket.SOCK_DGRAM))
        for each in made:
            self.addCleanup(each.close)
        self.stream, self.datagram, self.unix = (
            InheritedSocket("echo", each.fileno()) for each in made
        )

    def test_kind(self):
        """
        Only UDP sockets are for datagrams.
        """
        closed = InheritedSocket("echo", 2**20)
        kinds = [each.is_datagram() for each in (self.stream, self.datagram, self.unix, closed)]
        self.assertEqual(kinds, [False, True, False, False])

    def test_take(self):
        """
        The sockets of one unit have one name; each option takes those of its kind.
        """
        inherited = InheritedSockets([self.stream, self.datagram])
        self.assertEqual(inherited.take("systemd:name=echo", datagrams=True), [self.datagram])
        self.assertEqual(inherited.take("systemd:name=echo"), [self.stream])
        error = self.assertRaises(ValueError, inherited.take, "systemd:name=echo", datagrams=True)
        self.assertIn("another option has taken it", str(error))

    def test_no_datagrams(self):
        """
        A socket of another kind is refused.
        """
        inherited = InheritedSockets([self.stream])
        error = self.assertRaises(ValueError, inherited.take, "systemd:index=0", datagrams=True)
        self.assertEqual(str(error), "it takes no datagrams; give its unit ListenDatagram=")

    def test_socket(self):
        """
        The socket itself, or why there is none.
        """
        taken = InheritedSocket("echo", os.dup(self.datagram.descriptor)).take_socket()
        self.assertEqual(taken.type, socket.SOCK_DGRAM)
        taken.close()
        closed = InheritedSocket("echo", 2**20)
        self.assertIn("Bad file descriptor", str(self.assertRaises(ValueError, closed.take_socket)))
