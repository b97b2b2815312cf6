"""
Names that want to be more than names, through everything that a client may say.
"""

import html.parser
import json
import random
import shutil
import tempfile
from pathlib import Path

from OpenSSL import SSL
from twisted.trial.unittest import SynchronousTestCase

from tests.support import proxyheaders
from tests.support.admin import ADMIN, AdminConnection
from tests.support.browser import Browser
from tests.support.certificates import MadeCertificate, make_certificate
from tests.support.clients import TLSClient
from tests.support.daemons import show, wait_until
from tests.support.tlsfiles import TLSDaemon, authority, certificate

HARM = (
    "<script>window.harm=1</script>",
    "<img src=x onerror=window.harm=1>",
    '"><svg onload=window.harm=1>',
    '\'><iframe srcdoc="<script>parent.harm=1</script>">',
    "</td></table><style>*{display:none}</style>",
    "<!--",
    "]]>",
    "&lt;script&gt;",
    "&#60;b&#62;",
    "{{7*7}}${7*7}",
    "javascript:window.harm=1",
    "</main><main>",
    "\x1b[2J\x1b]0;x\x07",
    "\r\nSet-Cookie: x=1\r\n\r\n",
    "\u202e\u2066\u2028\u2029\ufeff",
    "\x00\x7f\x80\x85\xff",
)
"""What names may consist of, mixed."""

TAGS = {
    *[
        "html",
        "head",
        "meta",
        "title",
        "link",
        "script",
        "noscript",
        "body",
        "main",
        "header",
        "h1",
        "p",
        "div",
        "figure",
        "figcaption",
    ],
    *[
        "strong",
        "span",
        "svg",
        "polygon",
        "polyline",
        "section",
        "table",
        "caption",
        "thead",
        "tbody",
        "tr",
        "th",
        "td",
    ],
    *["nav", "a", "ul", "li", "time", "path", "details", "summary"],
}
"""What the page is made of."""


class Strict(html.parser.HTMLParser):
    """
    A reader that takes nothing but what the page is made of.
    """

    def __init__(self, text: str):
        super().__init__()
        self.tags = 0
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags += 1
        wrong = [name for name, _ in attributes if name.startswith("on") or name == "style"]
        if tag not in TAGS or wrong:
            raise AssertionError(f"<{tag} {attributes}> in the page")
        if tag == "script" and dict(attributes) != {"src": "page.js", "defer": None}:
            raise AssertionError("another script in the page")

    def handle_comment(self, text: str) -> None:
        raise AssertionError("a comment in the page")

    def handle_data(self, text: str) -> None:
        for character in text:
            if not (character.isprintable() or character == "\n"):
                raise AssertionError(f"{character!r} in the page")


class HostilePageTests(SynchronousTestCase):
    """
    The page, while all clients lie.
    """

    strings = 10_000
    at_once = 50
    fields = 7

    def setUp(self) -> None:
        self.rng = random.Random(7)
        self.authority = authority()
        self.signer = certificate(self.authority)
        options = ("--tls-client-auth", "require", "--tls-client-ca", "{}/ca.pem")
        proxy = ("--proxy-protocol", "require", "--proxy-trust", "127.0.0.0/8")
        self.daemon = self.enterContext(
            TLSDaemon(
                [self.signer],
                *options,
                *proxy,
                *("--tls-alpn", "echo", "--access-log", "off", *ADMIN),
                files={"ca.pem": self.authority.cert_pem},
            )
        )
        self.page = AdminConnection(self.daemon)
        self.addCleanup(self.page.close)

    def name(self, most: int) -> bytes:
        pieces = b"".join(
            self.rng.choice(HARM).encode() if self.rng.random() < 0.8 else self.rng.randbytes(5)
            for _ in range(self.rng.randrange(1, 4))
        )
        return pieces[: self.rng.randrange(8, most)]

    def context(self) -> SSL.Context:
        """
        A client's context, with a certificate for a hostile name.
        """
        subject = self.name(60).decode("utf-8", "replace")
        made: MadeCertificate = make_certificate(
            ["x.example"], self.authority, key=self.signer.key, common_name=subject
        )
        context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        context.use_certificate(made.certificate)
        context.use_privatekey(made.key)  # type: ignore[arg-type]
        return context

    def come(self, context: SSL.Context) -> TLSClient:
        """
        Connect, and say something hostile in each field that there is.
        """
        sock = self.daemon.connect("--tls-port")
        self.sockets.append(sock)
        name, p = self.name, proxyheaders
        # The path of a UNIX socket is an address that may be anything.
        addresses = name(100).ljust(108, b"\x00") + b"/proxy".ljust(108, b"\x00")
        vectors = (
            p.tlv(p.ALPN, name(100)),
            p.tlv(p.AUTHORITY, name(100)),
            p.tlv(p.UNIQUE_ID, name(100)),
            p.tls_tlv(p.tlv(p.SSL_VERSION, name(30)), p.tlv(p.SSL_CN, name(100))),
        )
        sock.sendall(p.v2_header(addresses + b"".join(vectors), p.UNIX))
        client = TLSClient(sock, context)
        client.tls.set_tlsext_host_name(name(100).replace(b"\x00", b"") or b"x")
        client.tls.set_alpn_protos([name(100), b"echo"])
        return client.handshake()

    def test_hostile(self) -> None:
        """
        Ten thousand strings, in every field that a client can fill: none is anything but text
        in the page, and the JSON is JSON.
        """
        profile = Path(tempfile.mkdtemp(prefix="echod-browser-"))
        self.addCleanup(shutil.rmtree, profile, ignore_errors=True)
        browser = Browser(profile)
        self.addCleanup(browser.close)
        browser.window.get(f"http://{self.daemon.address('--admin')}/")
        batches = self.strings // (self.at_once * self.fields) + 1
        seen = set()
        for batch in range(batches):
            self.sockets = []
            # A certificate for some of them is enough: making one takes as long as the rest.
            contexts = [self.context() for _ in range(10)]
            clients = [self.come(self.rng.choice(contexts)) for _ in range(self.at_once)]
            _, text = self.page.get("/")
            Strict(text)
            _, listed = self.page.get("/connections")
            newest = json.loads(listed)["newest"]
            self.assertEqual(len(newest), self.at_once)
            for each in newest:
                shown = [each["peer"], *each["facts"].values()]
                self.assertTrue(all(value.isprintable() for value in shown), shown)
                seen.update(shown)
                for name in ("proxy_authority", "tls_sni", "tls_subject", "tls_alpn"):
                    self.assertIn(name, each["facts"])
            if batch % 10 == 0:
                browser.window.refresh()
                self.assertEqual(len(browser.column("Newest", "Peer")), self.at_once)
                self.assertIsNone(browser.run("window.harm || null"))
                self.assertEqual(browser.complaints(), [])
            for client in clients:
                client.close()
            wait_until(
                lambda: not json.loads(self.page.get("/connections")[1])["newest"], "all to go"
            )
        show(f"{batches * self.at_once * self.fields} hostile strings, {len(seen)} shown")
        self.assertGreater(len(seen), self.strings / 2)
        self.assertIn("<script>", "".join(seen))
