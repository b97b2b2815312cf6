"""
Tests for L{echod.tap.udp}: the UDP listeners of one process and of the master.
"""

import os
import socket

from twisted.logger import capturedLogs, formatEvent

from echod.systemd import InheritedSocket, InheritedSockets
from echod.tap.build import build
from echod.udp import Drop
from echod.workers.master import HeldUDPListener
from echod.workers.spawn import WorkerConfig
from tests.support.fakeprocesses import ProcessReactor
from tests.support.services import ServiceTestCase


class UDPTests(ServiceTestCase):
    """
    One process.
    """

    def inherited(self):
        """
        One UDP socket from the service manager.
        """
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.bind(("127.0.0.1", 0))
        self.descriptor = os.dup(made.fileno())
        made.close()
        return InheritedSockets([InheritedSocket("echo", self.descriptor)])

    def udp(self, service):
        """
        The UDP listeners of a service.
        """
        return [each for each in service.listeners if "--udp" in each.option]

    def test_none(self):
        """
        Without its options there is no UDP.
        """
        self.assertEqual(self.udp(self.build()), [])

    def test_listeners(self):
        """
        Each listener has its name and option; they share what decides whom they answer.
        """
        service = self.build(
            *("--udp-port=0", "--interface=127.0.0.1", "--deny=192.0.2.0/24", "--udp-rate=0"),
            *("--udp-listen=udp:0:interface=127.0.0.1", "--udp-listen=systemd:name=echo"),
            inherited=self.inherited(),
        )
        one, two, three = self.udp(service)
        self.assertEqual(service.listeners, [one, two, three])
        self.assertEqual(
            [(each.listener_name, each.option) for each in (one, two, three)],
            [
                ("udp", "--udp-port 0 --interface 127.0.0.1"),
                ("udp:0:interface=127.0.0.1", "--udp-listen udp:0:interface=127.0.0.1"),
                ("echo", "--udp-listen systemd:name=echo"),
            ],
        )
        for each in (one, two, three):
            each.privilegedStartService()
            self.assertTrue(each.address().startswith("127.0.0.1:"), each.address())
            self.addCleanup(each.stopService)
        self.assertEqual(three.fileno(), self.descriptor)
        for each in (one, two, three):
            each.echo.datagramReceived(b"", ("192.0.2.1", 5000))
            port = int(one.address().rpartition(":")[2])
            each.echo.datagramReceived(b"", ("198.51.100.1", port))
            self.assertEqual(each.echo.dropped, {Drop.DENIED: 1, Drop.OWN_PORT: 1})

    def test_all_addresses(self):
        """
        Without an interface there is IPv4, and IPv6 if the machine has it.
        """
        for args in (["--udp-port=0"], ["--udp-listen=udp:0"]):
            [listener] = self.udp(self.build(*args))
            listener.privilegedStartService()
            expected = "[::]:" if socket.has_dualstack_ipv6() else "0.0.0.0:"
            self.assertTrue(listener.address().startswith(expected))
            self.successResultOf(listener.stopService())

    def test_no_such_socket(self):
        """
        A name that was not handed over ends the start with one line.
        """
        error = self.assertRaises(SystemExit, self.build, "--udp-listen=systemd:name=x")
        self.assertIn("--udp-listen systemd:name=x: no such socket was handed over", error.code)

    def test_unused(self):
        """
        A UDP socket that no option takes is warned of.
        """
        with capturedLogs() as events:
            self.build(*self.local, inherited=self.inherited())
        os.close(self.descriptor)
        self.assertEqual(
            [formatEvent(each) for each in events],
            ["no option listens on the inherited socket; add --udp-listen systemd:name=echo"],
        )

    def test_snapshot(self):
        """
        The figures of UDP are in the snapshot, and not among those of connections.
        """
        service = self.build(*self.local, "--udp-port=0")
        [stats] = service.collector.snapshot().datagrams
        self.assertEqual((stats.listener, stats.address, stats.received), ("udp", None, 0))
        self.assertEqual(stats.dropped, {each.value: 0 for each in Drop})
        [listener] = self.udp(service)
        listener.privilegedStartService()
        self.addCleanup(listener.stopService)
        listener.echo.datagramReceived(b"", ("192.0.2.1", 7))
        snapshot = service.collector.snapshot()
        [stats] = snapshot.datagrams
        self.assertEqual((stats.received, stats.dropped["low-port"]), (1, 1))
        self.assertEqual(stats.address, listener.address())
        self.assertEqual([each.listener for each in snapshot.traffic], ["tcp"])

    def test_master(self):
        """
        The master binds, and answers nothing: the workers get the socket.
        """
        self.reactor = ProcessReactor()
        self.addCleanup(self.reactor.close)
        options = self.options(*self.local, "--udp-port=0", "--udp-listen=systemd:name=echo")
        service = build(self.reactor, options, self.inherited(), None, 2)
        self.reactor.balancer = [lambda: [each.send(up=True) for each in self.reactor.far_ends]]
        service.privilegedStartService()
        service.startService()
        one, two = self.udp(service)
        self.assertIsInstance(one, HeldUDPListener)
        readers = [each for each in self.reactor.getReaders() if hasattr(each, "datagramReceived")]
        self.assertEqual(readers, [])
        process = self.reactor.processes[0]
        config = WorkerConfig.take_from(dict(process.environment))
        self.assertEqual(
            [(each.name, each.datagrams, each.borrowed) for each in config.listeners],
            [("tcp", False, False), ("udp", True, False), ("echo", True, True)],
        )
        for number, listener in ((4, one), (5, two)):
            self.assertTrue(
                os.path.samestat(process.inherited[number], os.fstat(listener.fileno()))
            )
        for each in (one, two):
            self.successResultOf(each.stopService())
            self.assertFalse(each.bound)
