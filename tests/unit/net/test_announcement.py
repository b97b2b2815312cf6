"""
Tests for what a person reads on a terminal.
"""

import socket

from twisted.trial.unittest import SynchronousTestCase

from echod.net.announcement import Place, announcement, is_dual_stack


class FakeSocket:
    """
    A socket of a family, with or without C{IPV6_V6ONLY}.
    """

    def __init__(self, family, only=0):
        self.family = family
        self._only = only

    def getsockopt(self, level, name):
        assert (level, name) == (socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
        return self._only


class AnnouncementTests(SynchronousTestCase):
    """
    Tests for L{announcement}.
    """

    def test_line(self):
        """
        The line says where the daemon listens, how to stop it, and what to try.
        """
        places = [Place("[::]:9000", False, True), Place("[::]:9443", True, True)]
        self.assertEqual(
            announcement("1.0", places, False),
            "echod 1.0 listens on port 9000 (IPv4 and IPv6) and port 9443 (TLS, IPv4 and IPv6); "
            "Ctrl-C stops it; try: nc -N localhost 9000",
        )

    def test_families(self):
        """
        IPv4 and IPv6 are told apart from one of them alone; an address stays as it is.
        """
        for place, expected in (
            (Place("[::]:7", False, True), "port 7 (IPv4 and IPv6)"),
            (Place("[::]:7", False, False), "port 7 (IPv6 only)"),
            (Place("0.0.0.0:7", False, False), "port 7 (IPv4 only)"),
            (Place("0.0.0.0:7", True, False), "port 7 (TLS, IPv4 only)"),
            (Place("127.0.0.1:7", False, False), "127.0.0.1:7"),
            (Place("[::1]:7", True, True), "[::1]:7 (TLS)"),
            (Place("unix:/run/echod.sock", False, False), "unix:/run/echod.sock"),
            (Place("[::]:7", False, True, udp=True), "port 7 (UDP, IPv4 and IPv6)"),
            (Place("127.0.0.1:7", False, False, udp=True), "127.0.0.1:7 (UDP)"),
        ):
            self.assertEqual(str(place), expected)

    def test_commands(self):
        """
        The command connects to that place, whatever it is.
        """
        for address, tls, expected in (
            ("[::]:7", False, "nc -N localhost 7"),
            ("0.0.0.0:7", False, "nc -N localhost 7"),
            ("[2001:db8::1]:7", False, "nc -N 2001:db8::1 7"),
            ("unix:/run/a b", False, "nc -N -U '/run/a b'"),
            ("[::]:7", True, "openssl s_client -quiet -connect localhost:7"),
            ("[::1]:7", True, "openssl s_client -quiet -connect '[::1]:7'"),
            ("unix:/run/a", True, "openssl s_client -quiet -unix /run/a"),
        ):
            self.assertEqual(Place(address, tls, False).command(False), expected)

    def test_udp(self):
        """
        The command for UDP sends a datagram, also if PROXY headers are required of others.
        """
        for proxied in (False, True):
            self.assertEqual(
                Place("[::]:7", False, True, udp=True).command(proxied),
                "echod-check --udp localhost:7",
            )

    def test_proxied(self):
        """
        If a PROXY header is required, the command sends one.
        """
        for tls, options in ((False, ""), (True, "--tls -k ")):
            self.assertEqual(
                Place("[::]:7", tls, True).command(True),
                f"echod-check --proxy-header v2 {options}localhost:7",
            )

    def test_dual_stack(self):
        """
        The socket knows whether it accepts both.
        """
        for family, only, expected in (
            (socket.AF_INET, 0, False),
            (socket.AF_INET6, 0, True),
            (socket.AF_INET6, 1, False),
            (socket.AF_UNIX, 0, False),
        ):
            self.assertIs(is_dual_stack(FakeSocket(family, only)), expected)
