"""A real headless Chromium for tests of pages."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.ui import WebDriverWait

REQUIRED = "REQUIRE_BROWSER"  # set to 1: no browser is a failure, not a skip
PATIENCE = 60  # seconds
POLL = 0.05
LOCAL = ("file:", "data:", "blob:", "about:", "chrome:")


def programs() -> tuple[str, str]:
    """Chromium and its driver; the test is skipped without them."""
    found = shutil.which("chromium"), shutil.which("chromedriver")
    if not all(found):
        message = f"no chromium or chromedriver on the path; {REQUIRED}=1 makes this a failure"
        if os.environ.get(REQUIRED) == "1":
            pytest.fail(message)
        pytest.skip(message)
    return str(found[0]), str(found[1])


@contextmanager
def chromium(width: int = 1440, height: int = 900, dark: bool = False) -> Iterator[Any]:
    """A window of this size, closed after the block."""
    browser, driver = programs()
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--hide-scrollbars"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    window = webdriver.Chrome(options=options, service=Service(driver))
    try:
        window.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600},
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        window.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        yield window
    finally:
        window.quit()


def opened(window: Any, page: Path, fragment: str = "") -> Any:
    """The page, loaded anew and ready."""
    window.get("about:blank")
    window.get(page.resolve().as_uri() + fragment)
    WebDriverWait(window, PATIENCE, POLL).until(
        lambda w: w.execute_script("return document.documentElement.dataset.ready") == "1"
    )
    return window


def wait_for(window: Any, script: str) -> Any:
    """What the script returns, once it is true."""
    return WebDriverWait(window, PATIENCE, POLL).until(lambda w: w.execute_script(script))


def complaints(window: Any) -> list[str]:
    """What the page wrote to the console, since the last call."""
    return [entry["message"] for entry in window.get_log("browser")]


def left_the_page(window: Any) -> list[str]:
    """Addresses asked for that are not part of the page, since the last call."""
    asked = []
    for entry in window.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            asked.append(message["params"]["request"]["url"])
    return [address for address in asked if not address.startswith(LOCAL)]
