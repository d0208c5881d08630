"""Chromium without a window, driven by Selenium: pages are opened, looked at and used as a person would use them.

Whatever a page does that nobody expects fails its test: an error in the console of the browser, something that the
Content-Security-Policy stopped, a request to another host.
"""

import json
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

BROWSERS = "chromium", "chromium-browser", "google-chrome"
DRIVER = "chromedriver"
AXE = "4.14.1"
PATIENCE = 20.0
WIDE = 1440, 900
NARROW = 360, 740


def start_driver(*more: str) -> webdriver.Chrome:
    """A browser of its own with no window, started with ``more`` flags. Skips the test where this machine has none."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    driver = shutil.which(DRIVER)
    if browser is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is installed")
    if driver is None:
        pytest.skip(f"{DRIVER} is not installed (Debian: chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in (
        "--headless=new",
        "--no-sandbox",  # Chromium refuses to run as root with it, as CI does
        "--disable-dev-shm-usage",
        "--disable-gpu",
        "--force-device-scale-factor=1",
        "--hide-scrollbars",
        "--lang=en",
        *more,
    ):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return webdriver.Chrome(options=options, service=Service(driver))


def axe_source() -> str:
    """axe-core, from npm once for each virtual environment. Skips the test where it cannot be had."""
    kept = Path(sys.prefix) / "cache" / f"axe-core-{AXE}.js"
    if not kept.exists():
        npm = shutil.which("npm")
        if npm is None:
            pytest.skip("npm is not installed, which axe-core comes from")
        with tempfile.TemporaryDirectory() as folder:
            packed = subprocess.run(
                [npm, "pack", "--silent", f"axe-core@{AXE}"],
                cwd=folder, capture_output=True, text=True, timeout=90, check=False,
            )  # fmt: skip
            if packed.returncode != 0:
                pytest.skip(f"npm has no axe-core: {packed.stderr.strip()[-200:]}")
            with tarfile.open(Path(folder) / f"axe-core-{AXE}.tgz") as archive:
                script = archive.extractfile("package/axe.min.js").read()
        kept.parent.mkdir(exist_ok=True)
        made = kept.with_suffix(".new")
        made.write_bytes(script)
        made.replace(kept)
    return kept.read_text()


class Browser:
    """One tab, and all that it did since it was opened."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver
        self._console: list[str] = []
        self._requests: list[str] = []
        self._expected: list[str] = []
        self._allowed: set[str] = set()

    def open(
        self, url: str, *, size: tuple[int, int] = WIDE, scheme: str = "light", motion: str = "reduce"
    ) -> None:
        """Go to a page. Its host and port are those that it may ask from then on."""
        self._allowed.add(urlsplit(url).netloc)
        self.show_as(size=size, scheme=scheme, motion=motion)
        if self.driver.current_url.partition("#")[0] == url.partition("#")[0]:
            self.driver.get("about:blank")  # else only the hash would change
        self.driver.get(url)

    def show_as(self, *, size: tuple[int, int] = WIDE, scheme: str = "light", motion: str = "reduce") -> None:
        """Show the page at this size and with these wishes of its reader."""
        width, height = size
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        wishes = {"prefers-color-scheme": scheme, "prefers-reduced-motion": motion}
        features = [{"name": name, "value": value} for name, value in wishes.items()]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def go(self, fragment: str) -> None:
        """Show another view of the page: "#/errors"."""
        self.run("location.hash = arguments[0]", fragment)

    def run(self, script: str, *arguments: object) -> object:
        """What a function with this body answers in the page."""
        return self.driver.execute_script(script, *arguments)

    def find(self, css: str, text: str = "", *, within: float = PATIENCE) -> WebElement:
        """The first element that is shown, of this selector and with this text in it; it is waited for."""
        found: list[WebElement] = []

        def look() -> bool:
            found[:] = self.find_all(css, text)
            return bool(found)

        self.until(look, f"no {css} with the text {text!r}", within=within)
        return found[0]

    def find_all(self, css: str, text: str = "") -> list[WebElement]:
        """The elements that are shown now, of this selector and with this text in them."""
        elements = self.driver.find_elements(By.CSS_SELECTOR, css)
        try:
            return [each for each in elements if each.is_displayed() and text in each.text]
        except StaleElementReferenceException:  # the page was drawn meanwhile
            return []

    def click(self, css: str, text: str = "") -> None:
        """Click on the first such element, once it is there."""
        element = self.find(css, text)
        self.run("arguments[0].scrollIntoView({block: 'center'})", element)
        element.click()

    def fill(self, css: str, text: str) -> None:
        """Replace what a field has by this text."""
        field = self.find(css)
        field.clear()
        field.send_keys(text)

    def press(self, *keys: str) -> None:
        """Press keys one after another, wherever the focus is."""
        for key in keys:
            ActionChains(self.driver).send_keys(key).perform()

    def focused(self) -> WebElement:
        return self.driver.switch_to.active_element

    def text(self, css: str = "body") -> str:
        return self.find(css).text

    def until(self, reached: Callable[[], object], failing: str = "", *, within: float = PATIENCE) -> None:
        """Return when ``reached()`` is true; fail with what the page shows when that takes too long."""
        end = time.monotonic() + within
        while not reached():
            if time.monotonic() > end:
                shown = self.run("return document.body.innerText")
                raise AssertionError(
                    f"{failing or 'it did not come true'} in {within} s; errors: {self.errors()}; shown:\n{shown}"
                )
            time.sleep(0.05)

    def overflow(self) -> int:
        """By how many pixels the page is wider than what is seen of it."""
        return self.run(
            "const page = document.documentElement; return Math.max(0, page.scrollWidth - page.clientWidth)"
        )

    def picture(self, file: Path, *, whole: bool = False) -> None:
        """Write what is seen to a PNG file; the whole page if that is asked for."""
        options = {"format": "png", "captureBeyondViewport": whole}
        if whole:
            width, height = self.run(
                "return [innerWidth, Math.max(innerHeight, document.documentElement.scrollHeight)]"
            )
            options["clip"] = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
        from base64 import b64decode

        file.write_bytes(b64decode(self.driver.execute_cdp_cmd("Page.captureScreenshot", options)["data"]))

    def accessibility_faults(self) -> list[str]:
        """The serious and critical findings of axe-core in what is shown now."""
        if not self.run("return 'axe' in window"):
            # By the debugger, since the page's policy lets no foreign script in.
            self.driver.execute_cdp_cmd("Runtime.evaluate", {"expression": axe_source()})
        found = self.driver.execute_async_script(
            "const done = arguments[0]; axe.run(document, {resultTypes: ['violations'], preload: false})"
            ".then((result) => done(result.violations), (error) => done([{impact: 'critical', id: String(error), nodes: []}]))"
        )
        return [
            f"{each['id']} ({each['impact']}): {[node['html'][:200] + ' ' + node['failureSummary'] for node in each['nodes'][:3]]}"
            for each in found
            if each["impact"] in ("serious", "critical")
        ]

    def expect_error(self, pattern: str) -> None:
        """Let errors in the browser's console pass whose text this regular expression finds."""
        self._expected.append(pattern)

    def allow_host(self, netloc: str) -> None:
        """Let the page ask this "host:port", too."""
        self._allowed.add(netloc)

    def errors(self) -> list[str]:
        """Errors in the console that nobody expected: of scripts, of the policy, of requests."""
        self._console += [
            each["message"] for each in self.driver.get_log("browser") if each["level"] == "SEVERE"
        ]
        return [
            each for each in self._console if not any(re.search(pattern, each) for pattern in self._expected)
        ]

    def requests(self) -> list[str]:
        """The URLs of everything that was asked of a host, in their order."""
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                self._requests.append(message["params"]["request"]["url"])
            elif message["method"] == "Network.webSocketCreated":
                self._requests.append(message["params"]["url"])
        return [each for each in self._requests if urlsplit(each).netloc]

    def foreign_requests(self) -> list[str]:
        """Those that went elsewhere than to the hosts of the pages that were opened."""
        return [each for each in self.requests() if urlsplit(each).netloc not in self._allowed]

    def check(self) -> None:
        """Fail if the page did what nobody expected."""
        assert self.errors() == []
        assert self.foreign_requests() == []
