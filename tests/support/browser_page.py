"""A page in a real browser and what a reader does with it.

One browser for all tests, driven over the network of this machine alone; every other
address is unreachable to it.
"""

import shutil

from selenium import webdriver
from selenium.webdriver.support.wait import WebDriverWait

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))),
    None,
)
DRIVER = shutil.which("chromedriver")


def start_browser():
    """A headless browser that reaches no network."""
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for flag in (
        *("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage"),
        *("disable-background-networking", "disable-component-update", "disable-sync"),
        *("no-first-run", "hide-scrollbars"),
        "host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1",
    ):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(DRIVER)
    browser = webdriver.Chrome(options=options, service=service)
    browser.set_page_load_timeout(120)
    return browser


class Page:
    """One opened page and what a reader does with it."""

    def __init__(self, driver, path, fragment=""):
        self.driver = driver
        # A fragment alone would not load anew.
        driver.get("about:blank")
        driver.get_log("browser")
        driver.get(path.as_uri() + (f"#{fragment}" if fragment else ""))
        self.wait(lambda: self.run("return document.documentElement.dataset.ready"))

    @staticmethod
    def look(driver, width, scheme, media="screen"):
        """A window of this width, a scheme of colours, a screen or paper."""
        driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": False},
        )
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        driver.execute_cdp_cmd(
            "Emulation.setEmulatedMedia", {"media": media, "features": features}
        )

    def wait(self, condition):
        """Until something holds that the browser does in its own time."""
        WebDriverWait(self.driver, 60).until(lambda _: condition())

    def run(self, script, *arguments):
        return self.driver.execute_script(script, *arguments)

    def text(self, selector):
        return self.run(
            "return document.querySelector(arguments[0]).textContent", selector
        )

    def count(self, selector):
        return self.run(
            "return document.querySelectorAll(arguments[0]).length", selector
        )

    def visible(self, selector):
        return self.run(
            "return [...document.querySelectorAll(arguments[0])]"
            ".filter((x) => x.getClientRects().length).map((x) => x.textContent)",
            selector,
        )

    def columns(self, selector):
        """Heads of each of some tables."""
        return self.run(
            "return [...document.querySelectorAll(arguments[0])]"
            ".map((x) => [...x.tHead.rows[0].cells].map((head) => head.textContent))",
            selector,
        )

    def options(self, selector):
        return self.run(
            "return [...document.querySelector(arguments[0]).options]"
            ".map((x) => x.textContent)",
            selector,
        )

    def set(self, selector, value):
        """Sets a control as a user would, who is told of by an event."""
        self.run(
            """const node = document.querySelector(arguments[0]);
            if (typeof arguments[1] === "boolean") node.checked = arguments[1];
            else node.value = arguments[1];
            node.dispatchEvent(new Event(node.type === "search" ? "input" : "change"));
            """,
            selector,
            value,
        )

    def click(self, selector):
        node = self.driver.find_element("css selector", selector)
        self.show(node)
        node.click()

    def show(self, node):
        self.run(
            "arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", node
        )

    def traces(self, chart):
        """What the chart was told to draw."""
        return self.run(
            "return document.getElementById(arguments[0]).data.map((trace) => ({"
            "type: trace.type, mode: trace.mode ?? null, x: trace.x ?? null,"
            "y: trace.y ?? null, z: trace.z ?? null, name: trace.name ?? null}))",
            chart,
        )

    def frames(self, count):
        """Until the browser has drawn so often."""
        self.driver.execute_async_script(
            "const [count, done] = arguments;"
            "const next = (left) => (left ? requestAnimationFrame(() => next(left - 1))"
            " : done());"
            "next(count);",
            count,
        )

    def settle(self, width):
        """Until the page has been laid out anew, and drawn twice after that."""
        self.wait(lambda: self.run("return window.innerWidth") == width)
        self.frames(3)

    def complaints(self):
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def overflow(self):
        """Pixels that the page is wider than its window."""
        return self.run(
            "return document.documentElement.scrollWidth - window.innerWidth"
        )


def aligned(page):
    """The page with its library on one line of the file, whatever stands before it.

    At one address and one line a browser compiles a script once, which takes longer
    than all else that a test does: 1.1 s of 1.5 s. Blank lines are no part of a script.
    """
    start = page.index("<script>", page.index('id="data"'))
    return page[:start] + "\n" * (20_000 - page.count("\n", 0, start)) + page[start:]
