"""Screenshots of HTML pages, such as reports, in headless Chromium. Made the pictures of docs/report.md:

    gan-dist report runs/emoji --output one.html
    gan-dist report runs/plain runs/p06 runs/adaptive --output several.html
    python benchmarks/screenshots.py one.html docs/report-light.png
    python benchmarks/screenshots.py several.html docs/report-comparison.png --dark

Needs Chromium, its driver and selenium.
"""

from __future__ import annotations

import argparse
import base64
import sys
import time
from pathlib import Path

from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from chromium import browsing, errors, open_page

DRAWN = 1.5  # seconds until the charts in view are drawn
COLORS = 128  # of the palette: enough for a page, and a third of the size


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("page", type=Path)
    parser.add_argument("output", type=Path, help="PNG file")
    parser.add_argument("--width", type=int, default=1200)
    parser.add_argument("--height", type=int, default=1150)
    parser.add_argument("--section", help="id of the section to which the page is scrolled")
    parser.add_argument("--dark", action="store_true")
    arguments = parser.parse_args()
    with browsing() as driver:
        scheme = "dark" if arguments.dark else "light"
        open_page(driver, arguments.page, arguments.width, arguments.height, scheme)
        if arguments.section:
            driver.execute_script("document.getElementById(arguments[0]).scrollIntoView()", arguments.section)
        time.sleep(DRAWN)
        assert not errors(driver)
        png = base64.b64decode(driver.execute_cdp_cmd("Page.captureScreenshot", {})["data"])
    arguments.output.write_bytes(png)
    Image.open(arguments.output).convert("RGB").quantize(COLORS, dither=Image.Dither.NONE).save(
        arguments.output, optimize=True
    )


if __name__ == "__main__":
    main()
