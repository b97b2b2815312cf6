"""
The page in a real browser, beside a daemon that is at work.
"""

import os
import random
import shutil
import socket
import tempfile
import threading
import urllib.request
from pathlib import Path

from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys
from twisted.trial.unittest import SynchronousTestCase

from tests.support.admin import ADMIN, shown
from tests.support.axe import VERSION, violations
from tests.support.browser import Browser
from tests.support.clients import TLSClient, context
from tests.support.daemons import Daemon, Worker, echo, show, tls_daemon, wait_until
from tests.support.nginx import Nginx

HTTP = "http {{ access_log off; {} %s }}".format(
    " ".join(
        f"{kind}_temp_path {kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
)
"""nginx's C{http} block, with all that it writes in its own directory."""

SLOWLY = 60.0
"""How long a browser may take on a busy machine, in seconds."""


class PageTests(SynchronousTestCase):
    """
    What the page shows.
    """

    stream_clients = 4
    idle_clients = 6

    def setUp(self) -> None:
        self.daemon = self.enterContext(
            tls_daemon(*ADMIN, "--port", "0", "--tls-alpn", "echo", "--max-connections", "500")
        )
        self.url = f"http://{self.daemon.address('--admin')}/"

    def browse(self, script: bool = True, dark: bool = False, width: int | None = None) -> Browser:
        profile = Path(tempfile.mkdtemp(prefix="echod-browser-"))
        self.addCleanup(shutil.rmtree, profile, ignore_errors=True)
        browser = Browser(profile, script, dark, width)
        self.addCleanup(browser.close)
        return browser

    def pictures(self) -> Path:
        """
        The folder for screenshots: that of ECHOD_TEST_PICTURES, or one that is removed at the end.
        """
        if kept := os.environ.get("ECHOD_TEST_PICTURES"):
            Path(kept).mkdir(parents=True, exist_ok=True)
            return Path(kept)
        return Path(self.enterContext(tempfile.TemporaryDirectory(prefix="echod-page-")))

    def work(self, daemon: Daemon) -> list[str]:
        """
        Let clients talk until the test is over, and others sit there.

        @return: their addresses.
        """
        over = threading.Event()
        peers = []

        def talk() -> None:
            rng = random.Random(1)
            with daemon.connect() as client:
                peers.append("{}:{}".format(*client.getsockname()))
                while not over.wait(0.01):
                    data = rng.randbytes(rng.randrange(1, 20_000))
                    if echo(client, data) != data:
                        raise AssertionError("the echo is not what was sent")

        for worker in [Worker(talk) for _ in range(self.stream_clients)]:
            self.addCleanup(worker.result)
        self.addCleanup(over.set)
        for _ in range(self.idle_clients):
            idle_client = TLSClient(daemon.connect("--tls-port"), context("TLS 1.3"))
            self.addCleanup(idle_client.close)
            idle_client.tls.set_tlsext_host_name(b"idle.example")
            idle_client.tls.set_alpn_protos([b"echo"])
            idle_client.handshake()
            peers.append("{}:{}".format(*idle_client.socket.getsockname()))
        wait_until(lambda: len(peers) == self.stream_clients + self.idle_clients, "all clients")
        return peers

    def test_at_work(self) -> None:
        """
        It shows the connections that are there, the numbers move, nothing is wrong, and it
        loads nothing from other hosts; dark and light.
        """
        peers = self.work(self.daemon)
        pictures = self.pictures()
        for dark in (False, True):
            browser = self.browse(dark=dark)
            browser.window.get(self.url)
            port = self.daemon.address("--port").rpartition(":")[2]
            self.assertEqual(browser.window.title, f"{socket.gethostname()}:{port} - echod")
            self.assertEqual(sorted(browser.column("Newest", "Peer")), sorted(peers))
            self.assertEqual(browser.column("Newest", "SNI").count("idle.example"), 6)
            self.assertEqual(browser.column("Newest", "ALPN").count("echo"), 6)
            self.assertEqual(browser.column("Newest", "TLS").count("TLSv1.3"), 6)
            self.assertEqual(browser.column("Listeners", "Open"), ["4", "6"])

            def figures(browser: Browser = browser) -> tuple[object, ...]:
                return (
                    browser.column("Newest", "Echoed"),
                    browser.run("document.querySelector('header').textContent"),
                    browser.run("document.querySelectorAll('polyline')[1].getAttribute('points')"),
                )

            before = figures()
            # All of it moves, without the page being loaded again.
            browser.run("window.same = true")
            wait_until(
                lambda f=figures, b=before: all(x != y for x, y in zip(f(), b, strict=True)),
                "the numbers to move",
                SLOWLY,
            )
            self.assertTrue(browser.run("window.same"))
            background = browser.run("getComputedStyle(document.body).backgroundColor")
            shades = [int(shade) for shade in background.strip("rgb()").split(",")]
            self.assertEqual(max(shades) < 128, dark)
            picture = pictures / f"page-{'dark' if dark else 'light'}.png"
            browser.picture(picture)
            self.assertGreater(picture.stat().st_size, 10_000)
            self.assertEqual(browser.complaints(), [])
            asked = browser.requests(self.url)
            self.assertGreater(len(asked), 4)
            self.assertEqual([url for url in asked if not url.startswith(self.url)], [])

    def test_under_a_path(self) -> None:
        """
        Behind nginx, under a path, all that it consists of is there, the links lead to what
        they say, and the figures move.
        """
        location = f"location /echod/ {{ proxy_pass http://{self.daemon.address('--admin')}/; }}"
        nginx = self.enterContext(Nginx(HTTP % f"server {{ listen LISTEN; {location} }}"))
        url = "http://{}:{}/echod/".format(*nginx.place)
        browser = self.browse()
        browser.window.get(url)
        uptime = "document.querySelector('header').textContent"
        before = browser.run(uptime)
        wait_until(lambda: browser.run(uptime) != before, "the figures to move", SLOWLY)
        self.assertEqual(browser.complaints(), [])
        asked = browser.requests(url)
        self.assertGreater(len(asked), 3)
        self.assertEqual([each for each in asked if not each.startswith(url)], [])
        links = browser.run("[...document.querySelectorAll('a')].map((each) => each.href)")
        self.assertGreater(len(links), 15)
        for link in links:
            self.assertTrue(link.startswith(url), link)
            with urllib.request.urlopen(link, timeout=60) as answer:
                self.assertEqual(answer.status, 200)

    def test_seen(self) -> None:
        """
        At a wide and a narrow width, light and dark: nothing is cut off, the plots of one row are
        at one height, a table that scrolls is marked, and axe-core finds nothing.
        """
        self.work(self.daemon)
        pictures = self.pictures()
        for width in (1280, 390):
            for dark in (False, True):
                browser = self.browse(dark=dark, width=width)
                browser.window.get(self.url)
                wait_until(
                    lambda b=browser: (
                        ","
                        in b.run("document.querySelectorAll('polyline')[0].getAttribute('points')")
                    ),
                    "a sample",
                    SLOWLY,
                )
                size = browser.run("document.documentElement.scrollWidth")
                self.assertLessEqual(size, width)
                tops = browser.run(
                    "[...document.querySelectorAll('svg')].map("
                    "(each) => each.getBoundingClientRect().top)"
                )
                rows = 1 if width > 1000 else 4
                self.assertEqual(len({round(top) for top in tops}), rows)
                cut = browser.run(
                    "[...document.querySelectorAll('figcaption, .now span')].filter("
                    "(each) => each.scrollWidth > each.clientWidth && "
                    "getComputedStyle(each).display != 'inline').length"
                )
                self.assertEqual(cut, 0)
                hint = browser.run(
                    "getComputedStyle(document.querySelector('.sortable caption'),"
                    " '::after').content"
                )
                self.assertEqual("sideways" in hint, width < 500)
                browser.run("document.querySelector('details').open = true")
                browser.resize(width, browser.run("document.documentElement.scrollHeight"))
                browser.picture(pictures / f"{width}{'-dark' if dark else ''}.png")
                self.assertEqual(violations(browser), [])
                browser.window.get(f"{self.url}reasons#write-timeout")
                self.assertEqual(violations(browser), [])
                self.assertEqual(browser.complaints(), [])
        show(f"axe-core {VERSION}: 0 violations on 8 pages")

    def test_sorted_and_filtered(self) -> None:
        """
        The newest connections can be sorted and filtered; both stay while the figures move, and
        so does the focus.
        """
        peers = self.work(self.daemon)
        browser = self.browse()
        browser.window.get(self.url)

        def sorted_by(name: str) -> list[str]:
            browser.run(
                f"[...document.querySelectorAll('.sortable button')]"
                f".find((each) => each.textContent == '{name}').click()"
            )
            return browser.column("Newest", name)

        number = [int(each) for each in sorted_by("Connection")]
        self.assertEqual(number, sorted(number))
        number = [int(each) for each in sorted_by("Connection")]
        self.assertEqual(number, sorted(number, reverse=True))
        sorted_by("Echoed")
        # Those that have echoed most come first.
        self.assertEqual(browser.column("Newest", "Listener"), ["tcp"] * 4 + ["tls"] * 6)
        marked = "[...document.querySelectorAll('[aria-sort]')].map((each) => each.ariaSort)"
        self.assertEqual(browser.run(marked), ["descending"])
        browser.window.find_element("id", "filter").send_keys(peers[0])
        rows = "[...document.querySelectorAll('.sortable tbody tr:not([hidden])')]"
        self.assertEqual(browser.run(f"{rows}.map((each) => each.cells[1].textContent)"), peers[:1])
        before = browser.run(f"{rows}[0].textContent")
        wait_until(lambda: browser.run(f"{rows}[0].textContent") != before, "its figures", SLOWLY)
        self.assertEqual(browser.run(f"{rows}.length"), 1)
        self.assertEqual(browser.run("document.activeElement.id"), "filter")
        self.assertIn("1 of these 10", browser.run("document.querySelector('output').textContent"))

    def test_value_in_plot(self) -> None:
        """
        A plot shows the value under the pointer, and where the arrow keys go.
        """
        self.work(self.daemon)
        browser = self.browse()
        browser.window.get(self.url)
        read = "document.querySelector('#cursor:not([hidden])')?.textContent ?? ''"
        plot = browser.window.find_element("css selector", "svg")
        ActionChains(browser.window).move_to_element(plot).perform()
        wait_until(lambda: "s ago" in browser.run(read), "the value", SLOWLY)
        ActionChains(browser.window).move_by_offset(0, 300).perform()
        wait_until(lambda: not browser.run(read), "its end", SLOWLY)
        for _ in range(20):
            ActionChains(browser.window).send_keys(Keys.TAB).perform()
            if browser.run("document.activeElement.nodeName") == "svg":
                break
        # A busy machine may have no sample of a second.
        wait_until(lambda: browser.run(read) == "10, now", "the value now", SLOWLY)
        wait_until(
            lambda: browser.run(
                "document.querySelector('svg').dataset.values.split(' ').length > 2"
            ),
            "samples",
            SLOWLY,
        )
        ActionChains(browser.window).send_keys(Keys.ARROW_LEFT).perform()
        wait_until(lambda: browser.run(read) == "10, 1 s ago", "the value before", SLOWLY)
        self.assertEqual(browser.complaints(), [])

    def test_without_script(self) -> None:
        """
        Without JavaScript it is the same page, with its tables.
        """
        peers = self.work(self.daemon)
        browser = self.browse(script=False)
        browser.window.get(self.url)
        text = browser.window.page_source
        for peer in peers:
            self.assertIn(f"<td>{peer}</td>", text)
        self.assertIn('http-equiv="refresh"', text)
        self.assertEqual(browser.complaints(), [])

    def test_daemon_gone(self) -> None:
        """
        When the daemon does not answer any more, the page says so instead of showing old
        figures as new ones.
        """
        browser = self.browse()
        browser.window.get(self.url)
        state = "document.querySelector('.state').textContent"
        self.assertEqual(browser.run(state), "ready")
        self.assertEqual(shown(self.daemon)["not_ready"], "")
        self.daemon.stop()
        light = browser.run("getComputedStyle(document.querySelector('strong')).color")
        wait_until(lambda: browser.run(state).startswith("no answer since "), "it", SLOWLY)
        self.assertTrue(browser.window.title.startswith("no answer - "))
        # Old figures are grey, and can still be read.
        grey = browser.run("getComputedStyle(document.querySelector('strong')).color")
        self.assertNotEqual(grey, light)
        self.assertEqual(violations(browser), [])
