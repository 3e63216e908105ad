"""A headless Chromium for tests and benchmarks, driven by selenium."""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CHROMIUM, DRIVER = (shutil.which(name) for name in ("chromium", "chromedriver"))
MISSING = "" if CHROMIUM and DRIVER else "needs Chromium and chromedriver (Debian: chromium, chromium-driver)"

# The container's root needs no-sandbox. The others keep Chromium from requests of its own.
FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--disable-quic"),
    *(
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--force-device-scale-factor=1",
    ),
)


@contextlib.contextmanager
def chromium() -> Iterator[Any]:
    """Yields a selenium driver, with logs of the console and of all requests."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    assert CHROMIUM is not None
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    # Not pytest's own temporary folders, which are kept.
    with tempfile.TemporaryDirectory() as profile:
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        driver = webdriver.Chrome(options, Service(DRIVER))
        driver.set_script_timeout(300)
        try:
            yield driver
        finally:
            driver.quit()


def show(driver: Any, page: Path, width: int = 1280, height: int = 1000, scheme: str = "light") -> None:
    """Open a file in a window of this size, in light or dark colours."""
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    for log in ("browser", "performance"):
        driver.get_log(log)  # of the previous page
    driver.get(page.absolute().as_uri())


def requests(driver: Any) -> list[str]:
    """The addresses that the page has asked for since `show`, its own included."""
    messages = (json.loads(entry["message"])["message"] for entry in driver.get_log("performance"))
    sent = (message for message in messages if message["method"] == "Network.requestWillBeSent")
    return [message["params"]["request"]["url"] for message in sent]
