"""Debian's chromium, without a window and without a network but this machine's, driven by selenium.

apt-get install chromium chromium-driver && make test-browser
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.end_to_end.headrace import wait_until

if TYPE_CHECKING:  # only make test-browser installs it
    from selenium.webdriver import Chrome, ChromeOptions

WIDTH, HEIGHT = 1280, 800
DEADLINE_SECONDS = 180.0
MOMENT_SECONDS = 1.0

# Names are not resolved, 127.0.0.1 excepted, and nothing is asked of the browser's makers.
_FLAGS = (
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--no-proxy-server",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-domain-reliability",
    "--disable-features=OptimizationHints,MediaRouter,Translate,AutofillServerCommunication",
    "--disable-sync",
    "--metrics-recording-only",
    "--no-default-browser-check",
    "--no-first-run",
    "--no-pings",
    "--headless=new",
    "--disable-dev-shm-usage",
)


class Browser:
    """One window, and what it has asked for and complained of since it opened its page."""

    def __init__(self, driver: Chrome) -> None:
        self.driver = driver
        self._complaints: list[dict[str, Any]] = []
        self._requests: list[str] = []

    def open(self, url: str) -> None:
        """Open a page afresh; what came before is forgotten."""
        self.driver.get("about:blank")  # a change after the # alone would load nothing
        self._drain()
        self._complaints, self._requests = [], []
        self.driver.get(url)

    def run(self, script: str, *values: Any) -> Any:
        """What a script in the page returns."""
        return self.driver.execute_script(script, *values)

    def wait_for(self, expression: str, what: str, *values: Any) -> Any:
        """The first true value of an expression in the page."""
        return wait_until(lambda: self.run(f"return {expression}", *values), what, DEADLINE_SECONDS)

    def wait_for_text(self, text: str) -> None:
        """Until the page shows the text."""
        self.wait_for("document.body.innerText.includes(arguments[0])", f"{text!r} on the page", text)

    def text(self) -> str:
        """What the page shows."""
        return str(self.run("return document.body.innerText"))

    def click(self, selector: str) -> None:
        """Click the first element of a CSS selector, once it is there."""
        self.wait_for("document.querySelector(arguments[0])", selector, selector)
        self.driver.find_element("css selector", selector).click()

    def type_into(self, selector: str, text: str) -> None:
        """Type into the first element of a CSS selector, once it is there."""
        self.wait_for("document.querySelector(arguments[0])", selector, selector)
        self.driver.find_element("css selector", selector).send_keys(text)

    def point_at(self, selector: str, x: float, y: float) -> None:
        """Move the pointer over an element, to that share of its width and height."""
        place = "const r = document.querySelector(arguments[0]).getBoundingClientRect(); "
        at = self.run(
            place + "return [r.left + r.width * arguments[1], r.top + r.height * arguments[2]]", selector, x, y
        )
        event = {"type": "mouseMoved", "x": at[0], "y": at[1]}
        self.driver.execute_cdp_cmd("Input.dispatchMouseEvent", event)

    def complaints(self) -> list[str]:
        """Errors on the page's console."""
        self._drain()
        return [entry["message"] for entry in self._complaints if entry["level"] == "SEVERE"]

    def requests(self) -> list[str]:
        """Whatever the page has asked a network for, or a file."""
        self._drain()
        return [url for url in self._requests if not url.startswith(("data:", "blob:", "about:"))]

    def wait_until_still(self) -> None:
        """Until two pictures, a moment apart, are the same: nothing loads or moves any more."""
        before = b""

        def is_still() -> bool:
            nonlocal before
            former, before = before, self.driver.get_screenshot_as_png()
            time.sleep(MOMENT_SECONDS)
            return former == before

        wait_until(is_still, "a page that stands still", DEADLINE_SECONDS)

    def screenshot(self, path: Path) -> None:
        """The window as a picture."""
        self.driver.save_screenshot(str(path))

    def size(self, width: int, height: int, scale: float = 1.0) -> None:
        """The size of the page's view in its own pixels, and how many of the picture's make one of them."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def _drain(self) -> None:
        self._complaints += self.driver.get_log("browser")
        messages = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        sent = [message["params"] for message in messages if message["method"] == "Network.requestWillBeSent"]
        self._requests += [params["request"]["url"] for params in sent]


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser with a profile of its own, ended with the block."""
    from selenium.webdriver import Chrome
    from selenium.webdriver.chrome.service import Service

    with tempfile.TemporaryDirectory(prefix="headrace-browser-", ignore_cleanup_errors=True) as profile:
        service = Service(_program("chromedriver"), env={**os.environ, "HOME": profile, "SE_OFFLINE": "true"})
        driver = Chrome(options=_options(profile), service=service)
        try:
            driver.set_page_load_timeout(DEADLINE_SECONDS)
            browser = Browser(driver)
            browser.size(WIDTH, HEIGHT)
            yield browser
        finally:
            driver.quit()


def _options(profile: str) -> ChromeOptions:
    from selenium.webdriver import ChromeOptions

    options = ChromeOptions()
    options.binary_location = _program("chromium")
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []  # it refuses to run as root
    for flag in (*_FLAGS, *sandbox, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return options


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise FileNotFoundError(f"{name}: must be installed for these tests; apt-get install chromium chromium-driver")
    return found
