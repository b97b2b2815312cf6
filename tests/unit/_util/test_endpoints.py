"""
Endpoint strings.
"""

from twisted.trial.unittest import SynchronousTestCase

from echod._util import endpoints


class EndpointTests(SynchronousTestCase):
    """
    The functions of L{endpoints}.
    """

    def refused(self, coerce, text):
        line = str(self.assertRaises(ValueError, coerce, text))
        self.assertIn("; give ", line, text)
        return line

    def test_endpoint_settings(self):
        """
        The settings of an endpoint string are those that Twisted reads from it.
        """
        for text, expected in (
            ("tcp:a:9", {"host": "a", "port": "9"}),
            ("tcp:port=9:host=a:timeout=3", {"host": "a", "port": "9", "timeout": "3"}),
            (r"tcp:\:\:1:9:", {"host": "::1", "port": "9", "": ""}),
            (r"unix:/a\=b\\c", {"host": r"/a=b\c"}),
            ("unix:path=/a=b", {"path": "/a=b"}),
            ("tcp", {}),
        ):
            self.assertEqual(endpoints.endpoint_settings(text, "host", "port"), expected)

    def test_colons(self):
        """
        An IPv6 address whose colons would end an argument is refused, and shown with backslashes;
        all else passes.
        """
        for text, given in (
            ("tcp:0:interface=::1", r"interface=\:\:1"),
            ("tcp6:0:interface=[fe80::1%eth0]:backlog=5", r"interface=fe80\:\:1%eth0"),
            ("tcp:host=::ffff:192.0.2.1:port=1", r"host=\:\:ffff\:192.0.2.1"),
            ("haproxy:tcp:0:interface=::", r"interface=\:\:"),
        ):
            for coerce in (endpoints.check_colons, endpoints.endpoint):
                line = self.refused(coerce, text)
                self.assertIn("a backslash before each colon", line)
                self.assertIn(f"give '{given}'", line)
        self.assertIn(
            "a backslash", self.refused(endpoints.datagram_endpoint, "udp:0:interface=::1")
        )
        for text in (
            *(
                r"tcp:0:interface=\:\:1",
                "tcp:0:interface=127.0.0.1:backlog=5",
                "tcp:0",
                "unix:/a=b:660",
            ),
            *("tcp:0:interface=:backlog=5", "systemd:name=cafe", "x:a=b:c:d", "x:a=1:2:3"),
        ):
            endpoints.check_colons(text)

    def test_secrets(self):
        """
        The arguments that are secrets are hidden, also a key that stands without its name.
        """
        for text, shown in (
            ("tcp:0:interface=127.0.0.1", "tcp:0:interface=127.0.0.1"),
            ("unix:/run/key", "unix:/run/key"),
            ("5m", "5m"),
            (
                r"x:1:privateKey=/a\:b:APIToken=c\\:d",
                r"x:1:privateKey=[hidden]:APIToken=[hidden]:d",
            ),
            ("ssl:0:privateKey=/k:certKey=/c", "ssl:0:privateKey=[hidden]:certKey=[hidden]"),
            ("ssl:0:/k:/c:interface=::", "ssl:0:[hidden]:[hidden]:interface=::"),
            ("ssl:port=0:0:/k", "ssl:port=0:0:[hidden]"),
            ("ssl:0:/k:/c:TLSv1_METHOD:a:5:b", "ssl:0:[hidden]:[hidden]:TLSv1_METHOD:a:5:b"),
            ("haproxy:ssl:0:/k", "haproxy:ssl:0:[hidden]"),
        ):
            self.assertEqual(endpoints.hide_secrets(text), shown)

    def test_server_arguments(self):
        """
        The arguments of a server endpoint are checked, with their names and without.
        """
        for text in (
            *(
                "tcp:0:127.0.0.1:5",
                "tcp6:0:5",
                "tcp6:0:backlog=65535",
                "unix:/s:660",
                "unix:/s:mode=0600",
            ),
            *("unix:/s:777:5:lockfile=0", "ssl:0:privateKey=k:backlog=5", "x:backlog=no:mode=no"),
        ):
            self.assertEqual(endpoints.endpoint(text), text)
        for text in (
            *("tcp:0:backlog=-1", "tcp:0:127.0.0.1:0", "tcp6:0:-5", "unix:/s:backlog=99999999999"),
            "ssl:0:backlog=1e3",
        ):
            self.assertIn("a number from 1 to 65535", self.refused(endpoints.endpoint, text))
        for text in ("unix:/s:mode=9", "unix:/s:mode=", "unix:/s:-1", "unix:/s:mode=77777"):
            self.assertIn("in octal, such as mode=660", self.refused(endpoints.endpoint, text))

    def test_timeout(self):
        """
        A timeout is a whole number of seconds.
        """
        self.assertEqual(endpoints.timeout("1"), 1.0)
        self.assertEqual(endpoints.timeout("604800"), 604800.0)
        for text in ("-1", "0", "604801", "nan", "inf", "1e3", "0.5", "", "9" * 400, "\u0661"):
            self.refused(endpoints.timeout, text)
