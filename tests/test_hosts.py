"""
Which Host may be asked for.
"""

import socket

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.trial.unittest import SynchronousTestCase

from echod.hosts import is_ours

LOCAL = IPv4Address("TCP", "127.0.0.1", 9001)


class HostsTests(SynchronousTestCase):
    """
    DNS rebinding.
    """

    def test_loopback(self):
        """
        What cannot mean another machine is taken, with any port.
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
            self.assertTrue(is_ours(host, LOCAL), host)

    def test_own_address(self):
        """
        The address that the client has connected to is taken, in any form, and no other.
        """
        for local in (
            IPv4Address("TCP", "192.0.2.1", 9001),
            IPv6Address("TCP", "::ffff:192.0.2.1", 9001),
        ):
            self.assertTrue(is_ours("192.0.2.1:9001", local))
            self.assertTrue(is_ours("[::ffff:192.0.2.1]:9001", local))
            self.assertFalse(is_ours("192.0.2.2:9001", local))
        local = IPv6Address("TCP", "2001:db8::1", 9001)
        self.assertTrue(is_ours("[2001:DB8:0::1]", local))
        self.assertFalse(is_ours("192.0.2.1", local))

    def test_own_name(self):
        """
        The machine's own name is taken.
        """
        self.assertTrue(is_ours("Web1:9001", LOCAL, "web1"))
        self.assertTrue(is_ours(socket.gethostname(), LOCAL))

    def test_strangers(self):
        """
        Names that somebody else may own are not, nor is what is no host at all.
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
        ):
            self.assertFalse(is_ours(host, LOCAL, "web1"), host)

    def test_unix(self):
        """
        Over a UNIX socket, where no browser comes, any host is taken.
        """
        self.assertTrue(is_ours("whatever", UNIXAddress(b"/x")))
