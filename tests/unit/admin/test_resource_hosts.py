"""
Tests for the trusted hosts.
"""

import socket

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.trial.unittest import SynchronousTestCase

from echod.admin.resource import is_trusted_host, names_beside

LOCAL = IPv4Address("TCP", "127.0.0.1", 9001)


class HostsTests(SynchronousTestCase):
    """
    Tests against DNS rebinding.
    """

    def test_loopback(self):
        """
        Loopback names and addresses are trusted, with any port.
        """
        for host in (
            "localhost",
            "LOCALHOST:9001",
            "localhost.:1",
            "echod.localhost",
            "127.0.0.1",
            "127.0.0.1:80",
            "127.255.0.9",
            "[::1]:9001",
            "[::ffff:127.0.0.1]",
            "localhost:",
        ):
            self.assertTrue(is_trusted_host(host, LOCAL), host)

    def test_own_address(self):
        """
        The local address of the connection is trusted, in any form, and no other.
        """
        for local in (
            IPv4Address("TCP", "192.0.2.1", 9001),
            IPv6Address("TCP", "::ffff:192.0.2.1", 9001),
        ):
            self.assertTrue(is_trusted_host("192.0.2.1:9001", local))
            self.assertTrue(is_trusted_host("[::ffff:192.0.2.1]:9001", local))
            self.assertFalse(is_trusted_host("192.0.2.2:9001", local))
        local = IPv6Address("TCP", "2001:db8::1", 9001)
        self.assertTrue(is_trusted_host("[2001:DB8:0::1]", local))
        self.assertFalse(is_trusted_host("192.0.2.1", local))

    def test_own_name(self):
        """
        The machine's own name is trusted.
        """
        self.assertTrue(is_trusted_host("Web1:9001", LOCAL, hostname="web1"))
        self.assertTrue(is_trusted_host(socket.gethostname(), LOCAL))

    def test_link_local(self):
        """
        A link-local address is trusted with any zone or none.
        """
        local = IPv6Address("TCP", "fe80::1%lo", 9001)
        for host in ("[fe80::1]:9001", "[fe80::1%25eth0]", "[FE80:0::1%7]:1"):
            self.assertTrue(is_trusted_host(host, local), host)
        for host in ("[fe80::2]", "[fe80::2%25lo]", "[fe80::1%]", "fe80::1"):
            self.assertFalse(is_trusted_host(host, local), host)

    def test_names(self):
        """
        Names and addresses of the operator are trusted, in any form, and no others.
        """
        names = ("echod.example", "192.0.2.9", "2001:db8::9")
        for host in (
            "echod.example",
            "ECHOD.Example.:9001",
            "192.0.2.9:80",
            "[::ffff:192.0.2.9]",
            "[2001:DB8:0::9]:9001",
        ):
            self.assertTrue(is_trusted_host(host, LOCAL, names), host)
        for host in ("www.echod.example", "example", "192.0.2.8", "[2001:db8::8]"):
            self.assertFalse(is_trusted_host(host, LOCAL, names), host)

    def test_names_beside(self):
        """
        The names on the lines of hosts(5) with the machine's own name are found.
        """
        hosts = (
            "# web1 commented.example\n",
            "\n",
            "127.0.0.1\n",
            "127.0.0.1 localhost\n",
            "127.0.1.1\tWeb1.Example.Com. WEB1 # evil.example\n",
            "10.0.0.7 web1-0.web.svc.cluster.local web1\n",
            "192.0.2.1 web10 other.example\n",
        )
        self.assertEqual(
            names_beside("Web1", hosts),
            {"web1", "web1.example.com", "web1-0.web.svc.cluster.local"},
        )
        self.assertEqual(names_beside("web2", hosts), set())

    def test_strangers(self):
        """
        Other names are not trusted, nor is any other text.
        """
        for host in (
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "notlocalhost",
            "web1.evil.example",
            "",
            ":9001",
            "[::1",
            "[evil]",
            "a b",
            "localhost@evil.example",
            "localhost:9001:1",
            "127.1",
            "2130706433",
            "localhost\x00",
            "localhost/",
            "a..b",
        ):
            self.assertFalse(is_trusted_host(host, LOCAL, hostname="web1"), host)

    def test_unix(self):
        """
        Over a UNIX socket, which no browser uses, any host is trusted.
        """
        self.assertTrue(is_trusted_host("whatever", UNIXAddress(b"/x")))
