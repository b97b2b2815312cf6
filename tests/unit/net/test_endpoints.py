"""
Server endpoints, and the texts of their errors.
"""

import errno
import os
import socket
import stat
import sys

from twisted.internet import reactor
from twisted.internet.endpoints import TCP4ServerEndpoint, TCP6ServerEndpoint
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IStreamServerEndpoint
from twisted.internet.protocol import Factory
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface.verify import verifyObject

from echod.net import endpoints
from echod.net.endpoints import (
    TCPEndpoint,
    UNIXEndpoint,
    bind_error_text,
    server_endpoint_from_string,
)
from tests.support import needs
from tests.support.fakes import PortReactor

LISTEN_QUEUE_AT = 28
"""Where C{struct tcp_info} has the length of a listening socket's queue, C{tcpi_sacked}."""


class TCPEndpointTests(SynchronousTestCase):
    """
    The sockets that C{--port} binds.
    """

    def setUp(self):
        self.reactor = PortReactor()
        self.addCleanup(self.reactor.close)

    def listen(self, interface, backlog=7, dual_stack=None, port=0):
        """
        @return: the listening socket, and how the reactor was told to adopt it.
        """
        endpoint = TCPEndpoint(self.reactor, port, interface, backlog, dual_stack)
        verifyObject(IStreamServerEndpoint, endpoint)
        factory = Factory()
        port = self.successResultOf(endpoint.listen(factory))
        self.assertIs(port.factory, factory)
        _, family, _ = self.reactor.adoptedPorts[-1]
        self.assertEqual(family, port.socket.family)
        return port.socket

    def accepts(self, listening, family, host):
        """
        Whether a client of this family can connect.
        """
        with socket.socket(family) as client:
            client.settimeout(60)
            try:
                client.connect((host, listening.getsockname()[1]))
            except ConnectionRefusedError:
                return False
            return True

    def test_dual_stack(self):
        """
        By default one socket accepts clients of IPv4 and of IPv6.
        """
        needs.ipv6()
        for dual_stack in (True, None):
            listening = self.listen(None, dual_stack=dual_stack)
            self.assertTrue(self.accepts(listening, socket.AF_INET, "127.0.0.1"))
            self.assertTrue(self.accepts(listening, socket.AF_INET6, "::1"))

    def test_no_ipv6(self):
        """
        On a machine without IPv6, clients of IPv4 are accepted.
        """
        listening = self.listen(None, dual_stack=False)
        self.assertEqual(listening.family, socket.AF_INET)
        self.assertTrue(self.accepts(listening, socket.AF_INET, "127.0.0.1"))

    def test_interface(self):
        """
        With an IPv4 address, only clients that connect to it are accepted.
        """
        listening = self.listen("127.0.0.1")
        self.assertEqual(listening.getsockname()[0], "127.0.0.1")
        self.assertFalse(self.accepts(listening, socket.AF_INET, "127.0.0.2"))

    def test_interface_ipv6(self):
        """
        The address may be an IPv6 address.
        """
        needs.ipv6()
        listening = self.listen("::1")
        self.assertTrue(self.accepts(listening, socket.AF_INET6, "::1"))
        self.assertFalse(self.accepts(listening, socket.AF_INET, "127.0.0.1"))

    def test_backlog(self):
        """
        The accept queue is as long as the operator says.
        """
        for listening in (
            self.listen("127.0.0.1", 7),
            self.listen(None, 7, dual_stack=False),
        ):
            information = listening.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 64)
            queue = information[LISTEN_QUEUE_AT : LISTEN_QUEUE_AT + 4]
            self.assertEqual(int.from_bytes(queue, sys.byteorder), 7)

    def test_restart(self):
        """
        A restarted daemon gets its port back while old connections are in TIME_WAIT.
        """
        first = self.listen("127.0.0.1")
        address = first.getsockname()
        with socket.create_connection(address, timeout=60) as client:
            accepted, _ = first.accept()
            first.close()
            # The side that closes first keeps the port for a while (TIME_WAIT).
            accepted.close()
            self.assertEqual(client.recv(1), b"")
        self.listen("127.0.0.1", port=address[1])

    def test_in_use(self):
        """
        A port that is in use is a failure of the Deferred, with the system's reason.
        """
        taken = self.listen("127.0.0.1")
        endpoint = TCPEndpoint(self.reactor, taken.getsockname()[1], "127.0.0.1", 7)
        failure = self.failureResultOf(endpoint.listen(Factory()), OSError)
        self.assertEqual(failure.value.errno, errno.EADDRINUSE)


class UNIXEndpointTests(TestCase):
    """
    A socket in the file system, on the real reactor: what is bound is a file.
    """

    def setUp(self):
        # A path of at most 107 bytes (unix(7)).
        self.path = os.path.relpath(self.mktemp())[:100]

    async def listen(self, mode=0o666):
        endpoint = UNIXEndpoint(reactor, self.path, 7, mode)
        verifyObject(IStreamServerEndpoint, endpoint)
        port = await endpoint.listen(Factory())
        self.addCleanup(port.stopListening)
        return port

    async def test_listens(self):
        """
        It listens with the given permissions.
        """
        await self.listen(0o600)
        self.assertEqual(stat.S_IMODE(os.stat(self.path).st_mode), 0o600)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(self.path)

    async def test_stale(self):
        """
        A socket file that a dead process left behind does not keep it from starting.
        """
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(self.path)
            dead.listen()
        await self.listen()

    async def test_no_file(self):
        """
        A path that cannot be examined is an error only in the bind.
        """
        self.path = os.path.join(self.path, "no")
        await self.fails(errno.ENOENT)

    async def test_end(self):
        """
        At the end its file is removed.
        """
        port = await self.listen()
        await port.stopListening()
        self.assertFalse(os.path.lexists(self.path))

    async def test_socket_of_another(self):
        """
        A socket that another process has since renamed to the same path stays.
        """
        port = await self.listen()
        with socket.socket(socket.AF_UNIX) as new:
            new.bind(f"{self.path}.new")
            new.listen()
            os.rename(f"{self.path}.new", self.path)
            await port.stopListening()
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(self.path)

    async def test_file_is_gone(self):
        """
        A file that is missing, or cannot be removed, does not keep the socket from closing.
        """
        port = await self.listen()
        os.unlink(self.path)
        await port.stopListening()
        self.assertFalse(port.connected)
        port = await self.listen()
        os.unlink(self.path)
        os.mkdir(self.path)
        found = os.stat(self.path)
        port._bound = (found.st_dev, found.st_ino)
        await port.stopListening()
        self.assertFalse(port.connected)
        self.assertTrue(os.path.isdir(self.path))

    async def test_stale_no_more(self):
        """
        A stale file is not removed if another one has taken its place in the meantime.
        """
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(self.path)
        found = os.stat(self.path)
        self.patch(endpoints, "file_identity", lambda _: (found.st_dev, found.st_ino + 1))
        await self.fails(errno.EADDRINUSE)
        self.assertTrue(os.path.exists(self.path))

    async def fails(self, number):
        error = None
        try:
            await UNIXEndpoint(reactor, self.path, 7).listen(Factory())
        except CannotListenError as caught:
            error = caught.socketError
        self.assertEqual(error.errno, number)

    async def test_in_use(self):
        """
        A socket that listens is left alone, however often the bind is tried.
        """
        with socket.socket(socket.AF_UNIX) as taken:
            taken.bind(self.path)
            taken.listen()
            for _ in range(3):
                await self.fails(errno.EADDRINUSE)
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(self.path)

    async def test_full_queue(self):
        """
        A socket whose accept queue is full is left alone, too: connect(2) fails with EAGAIN there.
        """
        with socket.socket(socket.AF_UNIX) as taken:
            taken.bind(self.path)
            taken.listen(0)
            found = os.stat(self.path)
            refused = 0
            while not refused:
                client = socket.socket(socket.AF_UNIX)
                self.addCleanup(client.close)
                client.setblocking(False)
                refused = client.connect_ex(self.path)
            self.assertEqual(refused, errno.EAGAIN)
            await self.fails(errno.EADDRINUSE)
            self.assertEqual(os.stat(self.path).st_ino, found.st_ino)

    async def test_other_file(self):
        """
        A file that is not a socket is left alone.
        """
        with open(self.path, "w") as file:
            file.write("precious")
        await self.fails(errno.EADDRINUSE)
        with open(self.path) as file:
            self.assertEqual(file.read(), "precious")


class EndpointFromStringTests(SynchronousTestCase):
    """
    The strings of C{--listen}.
    """

    def unix(self, description):
        made = server_endpoint_from_string(None, description, 9)
        return type(made), made._path, made._backlog, made._mode

    def test_unix(self):
        """
        C{unix:} makes our endpoint, with Twisted's settings; a backslash escapes a colon.
        """
        self.assertEqual(self.unix("unix:/a"), (UNIXEndpoint, "/a", 9, 0o666))
        self.assertEqual(self.unix("unix:address=/a"), (UNIXEndpoint, "/a", 9, 0o666))
        self.assertEqual(
            self.unix(r"unix:/a\:b:mode=660:backlog=3:lockfile=0"),
            (UNIXEndpoint, "/a:b", 3, 0o660),
        )

    def test_unix_named_path(self):
        """
        A path that is named need not come first, as in Twisted's own syntax.
        """
        self.assertEqual(self.unix("unix:mode=660:address=/a"), (UNIXEndpoint, "/a", 9, 0o660))

    def test_unix_settings_without_names(self):
        """
        Settings in their order need no names, as in Twisted's own syntax.
        """
        self.assertEqual(self.unix("unix:/a:660"), (UNIXEndpoint, "/a", 9, 0o660))
        self.assertEqual(self.unix("unix:/a:660:3"), (UNIXEndpoint, "/a", 3, 0o660))

    def test_tcp(self):
        """
        C{tcp:} without an interface makes our endpoint, for IPv4 and IPv6.
        """
        for description, backlog in (
            ("tcp:80", 9),
            ("tcp:port=80", 9),
            ("tcp:80:backlog=3", 3),
            ("tcp:backlog=3:port=80", 3),
            ("tcp:80:interface=", 9),
            ("tcp:80::3", 3),
        ):
            made = server_endpoint_from_string(None, description, 9)
            self.assertIsInstance(made, TCPEndpoint)
            self.assertEqual(
                (made._port, made._interface, made._backlog), (80, None, backlog), description
            )

    def test_others(self):
        """
        Other strings make Twisted's endpoints, with our backlog unless the string has one.
        """
        for description, made_as, backlog in (
            ("tcp:80:interface=127.0.0.1", TCP4ServerEndpoint, 9),
            ("tcp:80:127.0.0.1", TCP4ServerEndpoint, 9),
            ("tcp:80:127.0.0.1:3", TCP4ServerEndpoint, 3),
            (r"tcp:80:interface=\:\:1:backlog=3", TCP4ServerEndpoint, 3),
            ("tcp6:80", TCP6ServerEndpoint, 9),
            ("tcp6:80:3", TCP6ServerEndpoint, 3),
            ("tcp6:80:backlog=3", TCP6ServerEndpoint, 3),
        ):
            made = server_endpoint_from_string(None, description, 9)
            self.assertIsInstance(made, made_as, description)
            self.assertEqual((made._port, made._backlog), (80, backlog), description)

    def test_invalid(self):
        """
        A string that describes no endpoint is an error without control characters.
        """
        for description in (
            "no\x1b:1",
            "unix:/a:mode=9",
            "unix:/a:what=1",
            "unix:/a:what",
            "unix:mode=660",
            "tcp:80:127.0.0.1:3:4",
            "tcp:80:what=1",
            "tcp:backlog=3",
            "unix:/a:660:9:0:1",
            "systemd:domain=INET:name=absent",
        ):
            error = self.assertRaises(ValueError, server_endpoint_from_string, None, description, 9)
            self.assertRegex(str(error), r"^not an endpoint \([ -~]+\)$")


class BindErrorTextTests(SynchronousTestCase):
    """
    Why a bind failed, in one line.
    """

    def test_texts(self):
        """
        The text has the system's reason and what to do.
        """
        in_use = OSError(errno.EADDRINUSE, "busy")
        unknown = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        for error, expected in (
            (in_use, "Address already in use; stop what listens there, or give another"),
            (
                CannotListenError("", 80, in_use),
                "Address already in use; stop what listens there, or give another",
            ),
            (
                PermissionError(errno.EACCES, "no"),
                "Permission denied; give one that this user may use, "
                "or start as root with twistd --uid",
            ),
            (
                OSError(errno.EADDRNOTAVAIL, "no"),
                "Cannot assign requested address; give an address of this machine",
            ),
            (
                OSError(errno.EINVAL, "no"),
                "Invalid argument; give an address of this machine, "
                "a link-local one with its %interface",
            ),
            (
                CannotListenError("/no/such/x", None, OSError(errno.ENOENT, "no")),
                "No such file or directory; give a path in a directory that exists",
            ),
            (OSError(errno.EIO, "no"), "Input/output error; give another"),
            (unknown, "Name or service not known; give an address of this machine"),
            (
                CannotListenError("no.such.host", 80, unknown),
                "Name or service not known; give an address of this machine",
            ),
            (
                OverflowError("port\nmust be"),
                r"port\nmust be; give one such as tcp:9000 or unix:/run/echod.sock",
            ),
            (
                CannotListenError("here", 80, "it is\nlocked"),
                r"it is\nlocked; give one such as tcp:9000 or unix:/run/echod.sock",
            ),
        ):
            self.assertEqual(bind_error_text(error), expected)
