"""Draw the images of the README from a report: `make demo`, then `python tools/figures.py`."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from playwright.sync_api import sync_playwright

ROOT = Path(__file__).parents[1]
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("report", nargs="?", type=Path, default=ROOT / "demo" / "report.html")
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "docs/figures/report.png")
    words = parser.parse_args()
    words.output.parent.mkdir(parents=True, exist_ok=True)
    browser_path = next(filter(None, map(shutil.which, BROWSERS)), None)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 860}, color_scheme="light")
        page.goto(words.report.resolve().as_uri())
        page.wait_for_selector("body[data-ready=yes]")
        page.screenshot(path=str(words.output))
        browser.close()
    print(words.output)


if __name__ == "__main__":
    main()
