"""A headless Chromium for tests and screenshots, which writes down what a page does wrong.

It is the browser of the machine; none is downloaded.
"""

import shutil
from contextlib import contextmanager
from urllib.parse import urlsplit

from playwright.sync_api import sync_playwright


NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# 3-D is drawn without a graphics card; a container has no user namespaces for the sandbox.
OPTIONS = ("--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--disable-dev-shm-usage")
LOCAL = ("127.0.0.1", None)  # None: files, data and blobs
HARMLESS = ("willReadFrequently", "GPU stall due to ReadPixels", "Automatic fallback to software WebGL")


def find_chromium():
    """Return the path of a Chromium, or None."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Watched:
    """A page with its faults: errors and warnings of the console, exceptions, dialogs, requests off the loopback."""

    def __init__(self, page):
        self.page, self.faults = page, []
        page.on("console", self._on_console)
        page.on("pageerror", lambda error: self.faults.append(f"exception: {error}"))
        page.on("dialog", lambda dialog: (self.faults.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.route("**/*", self._on_request)

    def _on_console(self, message):
        if message.type in ("error", "warning") and not any(text in message.text for text in HARMLESS):
            self.faults.append(f"{message.type}: {message.text}")

    def _on_request(self, route):
        if urlsplit(route.request.url).hostname in LOCAL:
            route.continue_()
        else:
            self.faults.append(f"request: {route.request.url}")
            route.abort()

    def open(self, url):
        self.page.goto(url)
        self.page.get_by_role("tab", name="Text").wait_for()
        self.wait_for_figures(1)

    def choose(self, view, figures):
        self.page.get_by_role("tab", name=view, exact=True).click()
        self.wait_for_figures(figures)

    def wait_for_figures(self, count):
        """Wait until that many figures of the open tab are drawn."""
        self.page.wait_for_function(
            """count => [...document.querySelectorAll('.js-plotly-plot')].filter(
                plot => plot.offsetParent && plot.querySelector('.main-svg') && plot._fullData?.length
            ).length === count""",
            arg=count,
        )


@contextmanager
def open_browser(timeout=60_000):
    """Give a function that opens a watched page of a width, light or dark."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=OPTIONS)

        def new_page(width=1280, height=900, dark=False, scale=1):
            page = browser.new_page(
                viewport={"width": width, "height": height},
                color_scheme="dark" if dark else "light",
                device_scale_factor=scale,
            )
            page.set_default_timeout(timeout)
            return Watched(page)

        yield new_page
        browser.close()
