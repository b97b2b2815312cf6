"""
Tests for L{build}: what is built from the options.
"""

import os
import resource
import socket
import sys

from twisted.application.service import IService, IServiceCollection
from twisted.internet import selectreactor
from twisted.internet.selectreactor import SelectReactor
from twisted.logger import LogLevel, capturedLogs, formatEvent
from zope.interface.verify import verifyObject

from echod.systemd import InheritedSocket, InheritedSockets
from echod.tap.build import build, connection_limit
from echod.tls import context
from tests.support.certificates import make_certificate
from tests.support.fakes import FakeConnection
from tests.support.handshakes import client_context, shake_hands
from tests.support.services import ServiceTestCase


class BuildTests(ServiceTestCase):
    """
    One process, from the options to the services.
    """

    def test_default(self):
        """
        Without options there is one listener, on port 9000, and nothing is opened yet.
        """
        service = self.build()
        verifyObject(IService, service)
        verifyObject(IServiceCollection, service)
        self.assertEqual([each.option for each in service.listeners], ["--port 9000"])
        self.assertEqual((self.reactor.adoptedPorts, self.reactor.getDelayedCalls()), ([], []))

    def test_listeners(self):
        """
        Each listener has its name, its option, and TLS or none, in a fixed order.
        """
        made = make_certificate()
        args = (
            "--listen",
            "unix:/x",
            "--listen",
            "tcp:7:interface=127.0.0.1",
            "--tls-port",
            "0",
            *self.local,
        )
        args = ("--backlog", "9", *args, "--tls-cert", self.file(made.cert_pem + made.key_pem))
        with capturedLogs() as events:
            service = self.build(*args)
        # There is nothing to warn of.
        self.assertEqual(list(events), [])
        service.startService()
        self.assertEqual(
            [each.option for each in service.listeners],
            [
                "--port 0 --interface 127.0.0.1",
                "--tls-port 0 --interface 127.0.0.1",
                "--listen unix:/x",
                "--listen tcp:7:interface=127.0.0.1",
            ],
        )
        factories = [port.factory for port in self.reactor.ports]
        self.assertEqual(
            [each.listener for each in factories],
            ["tcp", "tls", "unix:/x", "tcp:7:interface=127.0.0.1"],
        )
        self.assertEqual([each.tls is not None for each in factories], [False, True, False, False])
        for factory in factories:
            self.assertIs(factory.connections, service.connections)
        address, _, backlog, mode, locked = self.reactor.unixServers[0]
        # echod's own endpoint: Twisted's one uses a lock file, which a crash can leave behind.
        self.assertEqual((address, backlog, mode, locked), ("/x", 9, 0o666, 0))
        port, _, backlog, _ = self.reactor.tcpServers[0]
        self.assertEqual((port, backlog), (7, 9))

    def test_sockets(self):
        """
        Address, accept queue and write timeout of the options are those of the socket.
        """
        service = self.build(*self.local, "--backlog", "7", "--write-timeout", "200.5")
        service.startService()
        sock = self.reactor.ports[0].socket
        self.assertEqual(sock.getsockname()[0], "127.0.0.1")
        tcp = socket.IPPROTO_TCP
        self.assertEqual(sock.getsockopt(tcp, socket.TCP_USER_TIMEOUT), 205_500)
        # tcpi_sacked of struct tcp_info is a listening socket's queue.
        queue = sock.getsockopt(tcp, socket.TCP_INFO, 64)[28:32]
        self.assertEqual(int.from_bytes(queue, sys.byteorder), 7)

    def refused(self, *args):
        error = self.assertRaises(SystemExit, self.build, *args)
        line = error.code
        self.assertEqual(line.splitlines(), [line])
        return line

    def test_bad_credentials(self):
        """
        A certificate or key that cannot be served is one line with the option and the file.
        """
        one, other = make_certificate(), make_certificate()
        cert, key = self.file(one.cert_pem), self.file(other.key_pem)
        tls = ("--tls-port", "0", "--tls-cert")
        missing = os.path.abspath(self.mktemp())
        self.assertEqual(
            self.refused(*tls, missing + "\n"),
            f"echod: --tls-cert: cannot read {missing}\\n: No such file or directory; "
            "give a file that can be read",
        )
        self.assertEqual(
            self.refused(*tls, cert, "--tls-key", key),
            f"echod: --tls-key: the key in {key} does not belong to the first certificate "
            f"in {cert}; give its own",
        )
        self.assertEqual(
            self.refused(*tls, cert),
            f"echod: --tls-cert: {cert} holds no PEM private key; add --tls-key FILE",
        )

    def test_bad_authorities(self):
        """
        A file without an authority for client certificates is one line.
        """
        made = make_certificate()
        path = self.file(made.cert_pem + made.key_pem)
        empty = self.file()
        tls = ("--tls-port", "0", "--tls-cert", path, "--tls-client-auth", "require")
        self.assertEqual(
            self.refused(*tls, "--tls-client-ca", empty),
            f"echod: --tls-client-ca: {empty} holds no PEM certificate, it is empty; "
            "give one that does",
        )

    def test_bad_key_log(self):
        """
        A key log that cannot be written is one line.
        """
        made = make_certificate()
        path = self.file(made.cert_pem + made.key_pem)
        self.assertEqual(
            self.refused("--tls-port", "0", "--tls-cert", path, "--tls-keylog", "no/such\n"),
            f"echod: --tls-keylog '{os.getcwd()}/no/such\\n': No such file or directory; "
            "give a file that can be written",
        )

    def test_no_memory_for_callbacks(self):
        """
        If memory may not be both writable and executable, an option that needs such memory is one
        line.
        """

        def forbidden(context, protocols):
            raise MemoryError("Cannot allocate write+execute memory for ffi.callback()")

        self.patch(context, "set_protocols", forbidden)
        made = make_certificate()
        path = self.file(made.cert_pem + made.key_pem)
        self.assertEqual(
            self.refused("--tls-port", "0", "--tls-cert", path, "--tls-alpn", "echo"),
            "echod: several --tls-cert, --tls-alpn and --tls-keylog take memory that is both "
            "written and executed; give the service MemoryDenyWriteExecute=no",
        )

    def test_tls_policy(self):
        """
        A handshake follows the TLS options.
        """
        authority = make_certificate(["authority"], authority=True)
        shown = make_certificate(["client"], authority)
        one, other = (make_certificate([name]) for name in ("localhost", "b.example"))
        service = self.build(
            *("--tls-port", "0", "--tls-min", "1.3", "--tls-alpn", "x,echo"),
            *("--tls-cert", self.file(one.cert_pem), "--tls-key", self.file(one.key_pem)),
            *("--tls-cert", self.file(other.key_pem + other.cert_pem)),
            *("--tls-client-auth", "require", "--tls-client-ca", self.file(authority.cert_pem)),
        )
        context = service.certificates.getContext()
        hands = shake_hands(context, client_context(None, shown, alpn=(b"echo",)), b"b.example")
        self.assertEqual((hands.heard, hands.shown), (b"word", ["CN=b.example"]))
        self.assertEqual(hands.client.get_alpn_proto_negotiated(), b"echo")
        for version, certificate in (("TLSv1.2", shown), ("TLSv1.3", None)):
            hands = shake_hands(context, client_context(version, certificate))
            self.assertEqual(hands.heard, b"")

    def test_bad_endpoints(self):
        """
        An endpoint string that Twisted or a plugin does not take is one line with the string.
        """
        for description in (
            "nosuch:1",
            "nosuch:\n",
            "tcp:9000:nosuch=1",
            "tcp:9000:127.0.0.1:5:6",
            "unix:/x:lockfile=x",
            "ssl:9000:privateKey=/no/such/file",
            "haproxy:x",
        ):
            line = self.refused("--listen", description)
            shown = description.replace("\n", "\\n").replace("/no/such/file", "[hidden]")
            self.assertTrue(line.startswith(f"echod: --listen {shown}: not an endpoint ("), line)
            self.assertTrue(line.endswith("); give one such as tcp:9000 or unix:/run/echod.sock"))

    def test_layers(self):
        """
        An endpoint that puts a layer around the connection is used, with a warning.
        """
        made = make_certificate()
        pem = self.file(made.cert_pem + made.key_pem)
        folder = self.mktemp()
        os.mkdir(folder)
        with open(os.path.join(folder, "localhost.pem"), "wb") as file:
            file.write(made.cert_pem + made.key_pem)
        for description, advice in (
            (f"ssl:0:privateKey={pem}:certKey={pem}", "TLS, use --tls-listen"),
            (f"tls:{folder}:0", "TLS, use --tls-listen"),
            ("haproxy:tcp:0", "PROXY headers, use --proxy-protocol"),
        ):
            shown = description.replace(pem, "[hidden]")
            with capturedLogs() as events:
                service = self.build("--listen", description)
            (event,) = events
            self.assertIs(event["log_level"], LogLevel.warn)
            self.assertEqual(
                formatEvent(event),
                f"--listen {shown}: its layer around the connection loses data when "
                f"a client closes its sending side; for {advice}",
            )
            # The names in all logs, metrics and tables.
            [listener] = service.listeners
            self.assertEqual(
                (listener.option, listener.listener_name), (f"--listen {shown}", shown)
            )
            self.assertEqual(len(service.listeners), 1)


class InheritedTests(ServiceTestCase):
    """
    A daemon with sockets that the service manager hands over.
    """

    def setUp(self):
        super().setUp()
        self.sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
        for each in self.sockets:
            self.addCleanup(each.close)
        names = ("echo", "secure", "echo")
        self.inherited = InheritedSockets(
            [
                InheritedSocket(name, os.dup(each.fileno()))
                for name, each in zip(names, self.sockets, strict=True)
            ]
        )

    def test_listeners(self):
        """
        Each socket becomes a listener with the socket's name, with or without TLS.
        """
        made = make_certificate()
        pem = self.file(made.cert_pem + made.key_pem)
        with capturedLogs() as events:
            service = self.build(
                "--tls-listen", "systemd:name=secure", "--listen", "systemd:INET:name=echo",
                "--tls-cert", pem, inherited=self.inherited,
            )  # fmt: skip
        self.assertEqual(list(events), [])
        service.startService()
        factories = [port.factory for port in self.reactor.ports]
        self.assertEqual(
            [(factory.listener, factory.tls is not None) for factory in factories],
            [("echo", False), ("echo", False), ("secure", True)],
        )
        self.assertEqual(
            [listener.option for listener in service.listeners],
            ["--listen systemd:INET:name=echo"] * 2 + ["--tls-listen systemd:name=secure"],
        )

    def test_unused(self):
        """
        A socket that no option uses is a warning, which names the option for it.
        """
        with capturedLogs() as events:
            self.build("--listen", "systemd:name=echo", inherited=self.inherited)
        self.assertEqual(
            [(event["log_level"], formatEvent(event)) for event in events],
            [
                (
                    LogLevel.warn,
                    "no option listens on the inherited socket; add --listen systemd:name=secure",
                )
            ],
        )

    def test_missing(self):
        """
        A socket that was not handed over is one line.
        """
        options = self.options("--listen", "systemd:name=other")
        error = self.assertRaises(SystemExit, build, self.reactor, options, self.inherited)
        self.assertEqual(
            str(error),
            "echod: --listen systemd:name=other: no such socket was handed over; "
            "give one of echo, secure, echo",
        )


class ConnectionLimitTests(ServiceTestCase):
    """
    Tests for L{connection_limit}, with a fake limit of descriptors.
    """

    def setUp(self):
        super().setUp()
        # Another test may have imported the module.
        self.patch(sys, "modules", dict(sys.modules))
        sys.modules.pop("twisted.internet.selectreactor", None)

    def limit(self, asked, descriptors, reactor=None, share=None):
        """
        @param share: the share of a process; C{None} for all that is asked for.
        @return: the limit of connections, and the warnings.
        """
        self.patch(resource, "getrlimit", lambda _: (min(descriptors, 1024), descriptors))
        self.patch(resource, "setrlimit", lambda *_: None)
        with capturedLogs() as events:
            limit = connection_limit(reactor, share or asked, asked)
        self.assertTrue(all(event["log_level"] is LogLevel.warn for event in events))
        return limit, [formatEvent(event) for event in events]

    def warning(self, asked, limit):
        return [
            f"--max-connections {asked}: limited to {limit}: too few file descriptors; raise the "
            "hard limit (ulimit -Hn, LimitNOFILE=)"
        ]

    def test_share(self):
        """
        The warning of a worker has the number that was given, and its share.
        """
        warning = (
            "--max-connections 100000: a worker's share of 50000 is limited to 19936: too few file "
            "descriptors; raise the hard limit (ulimit -Hn, LimitNOFILE=)"
        )
        self.assertEqual(self.limit(100_000, 20_000, share=50_000), (19936, [warning]))
        self.assertEqual(self.limit(100_000, 50_064, share=50_000), (50_000, []))

    def test_enough(self):
        """
        The limit is what is asked for, if there are descriptors for that and the reserved ones.
        """
        self.assertEqual(self.limit(10000, 10064), (10000, []))
        self.assertEqual(self.limit(1, 65), (1, []))
        self.assertEqual(self.limit(10**7, resource.RLIM_INFINITY), (10**7, []))

    def test_too_few(self):
        """
        With too few descriptors the limit is lower, with a warning.
        """
        self.assertEqual(self.limit(10000, 10063), (9999, self.warning(10000, 9999)))
        self.assertEqual(self.limit(10000, 1024), (960, self.warning(10000, 960)))

    def test_hardly_any(self):
        """
        The limit is never lower than 1.
        """
        for limit in (64, 10, 0):
            self.assertEqual(self.limit(10000, limit), (1, self.warning(10000, 1)))

    def test_select(self):
        """
        With the reactor that uses select(2), there are 1024 descriptors at most.
        """
        # Not initialized, because that would install a waker for signals.
        reactor = SelectReactor.__new__(SelectReactor)
        sys.modules["twisted.internet.selectreactor"] = selectreactor
        self.assertEqual(self.limit(10000, 65536, reactor), (960, self.warning(10000, 960)))
        self.assertEqual(self.limit(960, 65536, reactor), (960, []))
        self.assertEqual(self.limit(960, 1000, reactor), (936, self.warning(960, 936)))
        self.assertEqual(self.limit(10000, 65536, self.reactor), (10000, []))

    def test_built(self):
        """
        The daemon has this limit.
        """
        self.patch(resource, "getrlimit", lambda _: (66, 66))
        self.patch(resource, "setrlimit", lambda *_: None)
        with capturedLogs():
            service = self.build("--max-connections", "5")
        service.connections.add(FakeConnection())
        self.assertFalse(service.admission.is_full())
        service.connections.add(FakeConnection())
        self.assertTrue(service.admission.is_full())
