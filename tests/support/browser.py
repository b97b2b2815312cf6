"""
A real browser: Chromium, through its own driver.

Invariant: it starts with an empty profile and sends no requests of its own, so every request is
the page's.
"""

import json
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.webdriver.chrome.service import Service

from tests.support import needs
from tests.support.daemons import PATIENCE_SECONDS

_ARGUMENTS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--disable-dev-shm-usage", "--window-size=1400,1200"),
)


HEIGHT = 900
"""The height of a page whose width is given, in pixels."""


class Browser:
    """
    Chromium with a window, until it is closed.
    """

    def __init__(
        self, profile: Path, script: bool = True, dark: bool = False, width: int | None = None
    ):
        """
        @param profile: an empty directory.
        @param script: whether scripts run.
        @param dark: what the user prefers.
        @param width: of the page, in pixels; below 500 as on a phone, where a window cannot be
            so narrow.  C{None} for that of the window.
        @raise SkipTest: Chromium is not installed.
        """
        chromium, driver = needs.program("chromium"), needs.program("chromedriver")
        options = webdriver.ChromeOptions()
        options.binary_location = chromium
        for argument in (*_ARGUMENTS, f"--user-data-dir={profile}"):
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.window = webdriver.Chrome(options=options, service=Service(driver))
        self.window.set_page_load_timeout(PATIENCE_SECONDS)
        self.window.set_script_timeout(PATIENCE_SECONDS)
        self._command("Emulation.setScriptExecutionDisabled", value=not script)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._command("Emulation.setEmulatedMedia", features=[scheme])
        if width is not None:
            self.resize(width, HEIGHT)

    def _command(self, name: str, **parameters: Any) -> None:
        self.window.execute_cdp_cmd(name, parameters)

    def resize(self, width: int, height: int) -> None:
        """
        Give the page this size, in pixels.
        """
        self._command(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 500,
        )

    def run(self, script: str) -> Any:
        """
        Run a script in the page.

        @return: what it returns.
        """
        return self.window.execute_script(f"return {script}")

    def column(self, caption: str, head: str) -> list[str]:
        """
        A column of a table, as it can be read.
        """
        found: list[str] = self.run(
            f"""(() => {{
                const caption = {json.dumps(caption)}, head = {json.dumps(head)};
                const table = [...document.querySelectorAll("table")]
                    .find((each) => each.caption.textContent.startsWith(caption));
                const heads = [...table.tHead.rows[0].cells].map((each) => each.textContent);
                return [...table.tBodies[0].rows]
                    .map((row) => row.cells[heads.indexOf(head)].textContent);
            }})()"""
        )
        return found

    def complaints(self) -> list[str]:
        """
        The messages in the console.
        """
        return [entry["message"] for entry in self.window.get_log("browser")]

    def requests(self, page: str) -> list[str]:
        """
        The URLs that were requested since the last call.
        """
        events = [
            json.loads(entry["message"])["message"] for entry in self.window.get_log("performance")
        ]
        return [
            event["params"]["request"]["url"]
            for event in events
            if event["method"] == "Network.requestWillBeSent"
            and event["params"]["documentURL"].startswith(page)
        ]

    def picture(self, path: Path) -> None:
        """
        Save a picture of the window.
        """
        self.window.save_screenshot(str(path))

    def close(self) -> None:
        """
        End it.
        """
        self.window.quit()
