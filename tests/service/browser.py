"""The explorer as its user sees it, in a real browser."""

from pathlib import Path

AXE = Path(__file__).parent / "http" / "axe" / "axe.min.js"  # MPL-2.0, beside its licence
WAIT = 30


class Page:
    """The explorer, as its user sees it."""

    def __init__(self, browser, address):
        self.browser = browser
        browser.get(address)
        self.wait(lambda: self.script("return document.body.dataset.ready"))

    def script(self, code, *arguments):
        return self.browser.execute_script(code, *arguments)

    def wait(self, condition):
        from selenium.webdriver.support.ui import WebDriverWait

        return WebDriverWait(self.browser, WAIT, 0.05).until(lambda _: condition())

    def all(self, selector):
        return self.browser.find_elements("css selector", selector)

    def one(self, selector):
        return self.browser.find_element("css selector", selector)

    def resize(self, width):
        self.browser.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": False},
        )

    def dark(self, on):
        value = "dark" if on else "light"
        self.browser.execute_cdp_cmd(
            "Emulation.setEmulatedMedia",
            {"features": [{"name": "prefers-color-scheme", "value": value}]},
        )

    def open(self, view):
        self.one(f"#tab-{view}").click()

    def submit(self, view, **fields):
        """Fill the view's form, send it, and return its result once it is there."""
        for name, value in fields.items():
            self.script(
                "const one = document.querySelector(arguments[0]); one.value = arguments[1];",
                f"#{view} form.query [name={name}]",
                value,
            )
        result = self.one(f"#{view} > .result")
        self.script("arguments[0].replaceChildren()", result)
        self.one(f"#{view} > form button").click()
        self.wait(lambda: self.script("return arguments[0].children.length", result))
        return result

    def problems(self):
        """What axe-core finds wrong with the page as it is."""
        self.script(AXE.read_text(encoding="utf-8"))
        found = self.browser.execute_async_script(
            "const done = arguments[0];"
            "axe.run({runOnly: ['wcag2a', 'wcag2aa', 'wcag21aa', 'best-practice']})"
            ".then((r) => done(r.violations.map((v) => v.id + ': ' + v.nodes[0].html)))"
        )
        return found

    def overflow(self):
        return self.script(
            "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
        )
