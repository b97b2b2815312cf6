"""
Tests for L{echod.tap.settings}: what the options on clients do in a built daemon.
"""

from random import Random

from twisted.internet.address import IPv4Address, UNIXAddress
from twisted.internet.testing import StringTransport
from twisted.logger import capturedLogs, formatEvent

from echod._util.errors import StartupError
from echod.connections.connection import Reason
from echod.net.reject import RejectProtocol
from echod.protocol import Echo, EchoFactory
from echod.proxyprotocol.protocol import ProxyHeaderProtocol
from echod.tap.listeners import listener_settings
from tests.support.fakes import FakeConnection
from tests.support.services import ServiceTestCase


class SettingsTests(ServiceTestCase):
    """
    The limits for clients, from the command line to the listener's factory.
    """

    def factory(self, *args):
        """
        Start a daemon, and return the factory of its only listener.
        """
        self.service = self.build(*self.local, *args)
        self.service.startService()
        self.assertTrue(self.reactor.ports[-1].factory.outermost)
        return self.reactor.ports[-1].factory

    def connect(self, factory, host="192.0.2.7"):
        protocol = factory.buildProtocol(IPv4Address("TCP", host, 1))
        if protocol is not None:
            protocol.makeConnection(StringTransport(peerAddress=IPv4Address("TCP", host, 1)))
        return protocol

    def counts(self):
        return {
            reason.value: n for (_, reason), n in self.service.connections.refusals.counts.items()
        }

    def test_secrets(self):
        """
        Neither the option nor the name of a listener has the secrets of its endpoint.
        """
        text = "x:1:token=a"
        [listener] = listener_settings(self.options("--listen", text).typed)
        shown = "x:1:token=[hidden]"
        self.assertEqual((listener.option, listener.name), (f"--listen {shown}", shown))
        self.assertEqual(listener.endpoint, text)

    def test_rules(self):
        """
        C{--allow} and C{--deny} decide which addresses may connect.
        """
        factory = self.factory("--allow", "192.0.2.0/24", "--deny", "192.0.2.9")
        self.assertIsInstance(self.connect(factory), Echo)
        for host in ("192.0.2.9", "198.51.100.1"):
            self.assertIsNone(self.connect(factory, host))
        self.assertEqual(self.counts(), {"denied": 2})

    def test_numbers(self):
        """
        C{--max-connections} and C{--max-per-client} limit the number of connections.
        """
        factory = self.factory("--max-connections", "3", "--max-per-client", "2")
        for _ in range(2):
            self.assertIsInstance(self.connect(factory), Echo)
        self.assertIsNone(self.connect(factory))
        self.assertIsInstance(self.connect(factory, "192.0.2.8"), Echo)
        self.assertIsNone(self.connect(factory, "192.0.2.9"))
        self.assertEqual(self.counts(), {"max-per-client": 1, "max-connections": 1})

    def test_rate(self):
        """
        C{--connect-rate} limits new connections by the reactor's clock; a client is forgotten when
        its bucket is full again.
        """
        factory = self.factory("--connect-rate", "0.5:2")
        admission = self.service.admission
        for _ in range(2):
            self.assertIsInstance(self.connect(factory), Echo)
        self.assertIsNone(self.connect(factory))
        self.assertEqual((self.counts(), admission.clients()), ({"connect-rate": 1}, 1))
        self.reactor.pump([0.5] * 4)
        self.assertIsInstance(self.connect(factory), Echo)
        self.assertIsNone(self.connect(factory))
        self.reactor.pump([0.5] * 7)
        self.assertEqual(admission.clients(), 1)
        self.reactor.pump([0.5])
        self.assertEqual(admission.clients(), 0)

    def test_no_limits(self):
        """
        Without options there is no limit for a client, and no count of clients.
        """
        factory = self.factory()
        for _ in range(100):
            self.assertIsInstance(self.connect(factory), Echo)
        self.assertEqual((self.counts(), self.service.admission.clients()), ({}, 0))
        self.assertIsNone(factory.proxies)

    def test_limits_of_all_listeners(self):
        """
        The limits are for all listeners together.
        """
        service = self.build(*self.local, "--listen", "tcp:0", "--max-per-client", "1")
        service.startService()
        one, other = (port.factory for port in self.reactor.ports)
        self.assertIsInstance(self.connect(one), Echo)
        self.assertIsNone(self.connect(other))
        self.assertEqual(service.connections.refusals.counts, {("tcp:0", Reason.MAX_PER_CLIENT): 1})

    def test_header_timeout(self):
        """
        C{--proxy-header-timeout} limits the time for a PROXY header; 0 is no limit.
        """
        trust = ("--proxy-protocol", "require", "--proxy-trust", "192.0.2.7")
        for given, limit in ((), 5), (("2s",), 2), (("0",), 0):
            options = [word for each in given for word in ("--proxy-header-timeout", each)]
            self.factory(*trust, *options)
            protocol = FakeConnection(self.service.connections)
            protocol.waiting_for = Reason.PROXY_HEADER
            asked = [("overdue", Reason.PROXY_HEADER)]
            self.reactor.pump([0.5] * int((limit or 1000) * 2 - 1))
            self.assertEqual(protocol.asked, [])
            self.reactor.pump([0.5] * 2)
            self.assertEqual(protocol.asked[:1], asked if limit else [])

    def test_proxies(self):
        """
        C{--proxy-trust} names the peers whose header is believed, C{--proxy-protocol} whether it is
        required.
        """
        trust = ("--proxy-trust", "192.0.2.7", "--proxy-trust", "unix")
        for mode, required, otherwise in (
            ("require", True, RejectProtocol),
            ("optional", False, Echo),
        ):
            factory = self.factory("--proxy-protocol", mode, *trust)
            factory.outermost = False
            self.assertIs(factory.proxies.required, required)
            for address, expected in (
                (IPv4Address("TCP", "192.0.2.7", 1), ProxyHeaderProtocol),
                (UNIXAddress(None), ProxyHeaderProtocol),
                (IPv4Address("TCP", "192.0.2.8", 1), otherwise),
            ):
                self.assertIsInstance(factory.buildProtocol(address), expected)
        factory = self.factory("--proxy-protocol", "optional", "--proxy-trust", "192.0.2.7")
        self.assertIsInstance(factory.buildProtocol(UNIXAddress(None)), Echo)

    def test_refusals_are_logged(self):
        """
        Refusals are logged once a second for each reason, and once more at the stop.
        """
        factory = self.factory("--deny", "192.0.2.7", "--max-connections", "1")
        with capturedLogs() as events:
            self.reactor.pump([0.25] * 4)
            for _ in range(30):
                self.connect(factory)
                self.reactor.advance(0.1)
        lines = [formatEvent(event) for event in events]
        self.assertEqual(len(lines), 3)
        self.assertTrue(
            all(line.endswith("denied, the last from 192.0.2.7:1 to tcp") for line in lines)
        )
        self.assertEqual(sum(event["count"] for event in events), 30)
        self.connect(factory)
        with capturedLogs() as events:
            self.successResultOf(self.service.stopService())
        self.assertEqual(
            [event.get("event") for event in events], ["drained", "refused", "stopped"]
        )


class FaultTests(ServiceTestCase):
    """
    The listeners that misbehave on purpose.
    """

    def factories(self, *args):
        self.service = self.build(*args)
        self.service.startService()
        return [port.factory for port in self.reactor.ports]

    def test_only_the_listener_before(self):
        """
        A listener without a fault and a greeting has the ordinary factory.
        """
        *faulty, other = self.factories(
            *(*self.local, "--fault", "refuse", "--listen", "tcp:0", "--greet"),
            *("--listen", "tcp:0", "--fault-seed", "7"),
        )
        self.assertIs(type(other), EchoFactory)
        self.assertEqual([each.greets for each in faulty], [False, True])
        ((fault, source),) = faulty[0].draw(1)
        self.assertEqual((fault.kind, source.random()), ("refuse", drawn("7 0 0 1 0")))
        self.assertEqual(list(faulty[1].draw(1)), [])

    def test_wrong(self):
        """
        A wrong fault ends the start with one line.
        """
        error = self.assertRaises(StartupError, self.build, *self.local, "--fault", "x\n")
        line = str(error)
        self.assertTrue(line.startswith(r"echod: --fault 'x\n': no such fault; give latency, "))
        self.assertEqual(len(line.splitlines()), 1)

    def test_warning(self):
        """
        A start warns of each listener that misbehaves, with the seed; a random one without the
        option.
        """
        seeds = set()
        for given in (("--fault-seed", "7"), (), ()):
            with capturedLogs() as events:
                self.build(*self.local, "--fault", "refuse", "--fault", "latency=1s", *given)
            [event] = [each for each in events if each.get("event") == "faults-enabled"]
            seeds.add(event["seed"])
            self.assertEqual(
                formatEvent(event),
                "--port 0 --interface 127.0.0.1: misbehaves on purpose: refuse latency=1s; "
                f"seed {event['seed']}",
            )
        self.assertIn(7, seeds)
        self.assertEqual(len(seeds), 3)


def drawn(key):
    """
    The second number that is drawn for a connection.
    """
    source = Random(key)
    source.random()
    return source.random()
