"""A headless Chromium for tests and screenshots, which writes down what a page does wrong.

It is the browser of the machine; none is downloaded.
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import Dialog, sync_playwright


NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# 3-D is drawn without a graphics card; a container has no user namespaces for the sandbox.
OPTIONS = ("--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--disable-dev-shm-usage")
LOCAL = ("127.0.0.1", None)  # None: files, data and blobs
HARMLESS = ("willReadFrequently", "GPU stall due to ReadPixels", "Automatic fallback to software WebGL")

DRAWN = """count => [...document.querySelectorAll('.js-plotly-plot')].filter(
    plot => plot.offsetParent && plot.querySelector('.main-svg') && plot._fullData?.length
).length === count"""


def find_chromium() -> str | None:
    """Return the path of a Chromium, or None."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Watched:
    """A page with its faults: errors and warnings of the console, exceptions, dialogs, requests off the loopback."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.faults: list[str] = []
        page.on("console", self._on_console)
        page.on("pageerror", lambda error: self.faults.append(f"exception: {error}"))
        page.on("dialog", self._on_dialog)
        page.route("**/*", self._on_request)

    def _on_console(self, message: Any) -> None:
        if message.type in ("error", "warning") and not any(text in message.text for text in HARMLESS):
            self.faults.append(f"{message.type}: {message.text}")

    def _on_dialog(self, dialog: Dialog) -> None:
        self.faults.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def _on_request(self, route: Any) -> None:
        if urlsplit(route.request.url).hostname in LOCAL:
            route.continue_()
        else:
            self.faults.append(f"request: {route.request.url}")
            route.abort()

    def open(self, url: str, figures: int = 1) -> None:
        """Open a page and wait until its first view is drawn."""
        self.page.goto(url)
        self.wait_for_figures(figures)

    def choose(self, view: str, figures: int) -> None:
        """Change to a tab and wait until its figures are drawn."""
        self.page.get_by_role("tab", name=view, exact=True).click()
        self.wait_for_figures(figures)

    def wait_for_figures(self, count: int) -> None:
        """Wait until that many figures of the open tab are drawn."""
        self.page.wait_for_function(DRAWN, arg=count)


@contextmanager
def open_browser() -> Iterator[Callable[..., Watched]]:
    """Give a function that opens an empty page of a width, light or dark, in a browser of a language."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=OPTIONS)

        def new_page(width: int = 1280, height: int = 900, dark: bool = False, locale: str = "en-GB") -> Watched:
            page = browser.new_page(
                viewport={"width": width, "height": height},
                color_scheme="dark" if dark else "light",
                locale=locale,
            )
            page.set_default_timeout(60_000)
            return Watched(page)

        yield new_page
        browser.close()
