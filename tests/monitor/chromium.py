"""Debian's chromium without a screen, driven as a person would, and what a test looks at in it.

It is found, or missing, as the peers of the interop tests are. Nothing of it is left on the
machine, and it resolves no name, so it talks to nobody but the page.
"""

import base64
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

from tests.interop.peers import program
from tests.wirepeer import PATIENCE

__all__ = ["DESKTOP", "PHONE", "Browser", "chromium"]

#: Width and height of what a person looks at.
DESKTOP, PHONE = (1400, 900), (390, 844)

_FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    "--disable-dev-shm-usage",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)
# A text must stand out from what is behind it (WCAG 2.2, 1.4.3): what does not, and by how much.
_FAINT = """
const parse = (color) => (color.match(/[\\d.]+/g) ?? []).map(Number);
const light = ([r, g, b]) => [r, g, b].map((part) => part / 255)
  .map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4))
  .reduce((sum, part, place) => sum + part * [0.2126, 0.7152, 0.0722][place], 0);
const ground = (node) => {
  for (; node; node = node.parentElement) {
    const color = parse(getComputedStyle(node).backgroundColor);
    if (color.length === 3 || color[3] === 1) return color;
  }
  return [255, 255, 255];
};
const faint = [];
for (const node of document.body.querySelectorAll("*")) {
  const words = [...node.childNodes].filter((one) => one.nodeType === 3 && one.data.trim());
  if (!words.length || !node.checkVisibility() || node.closest("[disabled]:not(.name)")) continue;
  const style = getComputedStyle(node);
  const [one, other] = [parse(style.color), ground(node)].map(light).sort((a, b) => b - a);
  const contrast = (one + 0.05) / (other + 0.05);
  if (contrast < 4.5) faint.push(`${node.tagName} ${words[0].data.trim()}: ${contrast.toFixed(2)}`);
}
return faint;
"""


class Browser:
    """A browser with one tab."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver

    def show(self, url: str, *, size: tuple[int, int] = DESKTOP, dark: bool = False) -> None:
        """Open a page on a screen of this size, for somebody who likes it dark or light."""
        # What the page before has left in the log and in the tab is not this one's.
        self.driver.get("about:blank")
        self.complaints()
        self.look(size=size, dark=dark)
        self.driver.get(url)

    def look(self, *, size: tuple[int, int] = DESKTOP, dark: bool = False) -> None:
        """Change the screen under the page."""
        width, height = size
        screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": size == PHONE}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})

    def find(self, selector: str) -> WebElement:
        """The first element that fits."""
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector: str) -> list[WebElement]:
        """All elements that fit and can be seen."""
        found = self.driver.find_elements(By.CSS_SELECTOR, selector)
        return [element for element in found if element.is_displayed()]

    def text(self, selector: str) -> str:
        """What a person reads there."""
        return str(self.run("return document.querySelector(arguments[0])?.innerText", selector))

    def texts(self, selector: str) -> list[str]:
        """The same of all that fit, at one moment."""
        script = "return [...document.querySelectorAll(arguments[0])].map((one) => one.innerText)"
        return list(self.run(script, selector))

    def run(self, script: str, *arguments: Any) -> Any:
        """Ask the page's document."""
        return self.driver.execute_script(script, *arguments)

    def until(self, condition: Callable[[], object]) -> None:
        """Wait for what the page is going to show."""
        WebDriverWait(self.driver, PATIENCE, 0.05).until(lambda _: condition())

    def complaints(self) -> list[str]:
        """What the browser found wrong since the last time: errors of the script, of the policy."""
        return [str(entry["message"]) for entry in self.driver.get_log("browser")]

    def faint(self) -> list[str]:
        """Texts that do not stand out from their ground."""
        return list(self.run(_FAINT))

    def accessible(self, selector: str = "body") -> list[tuple[str, str]]:
        """Role and name of all that a screen reader finds there."""
        document = self.driver.execute_cdp_cmd("DOM.getDocument", {"depth": 0})["root"]
        place = {"nodeId": document["nodeId"], "selector": selector}
        node = self.driver.execute_cdp_cmd("DOM.querySelector", place)["nodeId"]
        found = self.driver.execute_cdp_cmd("Accessibility.queryAXTree", {"nodeId": node})
        return [
            (entry["role"]["value"], entry.get("name", {}).get("value", ""))
            for entry in found["nodes"]
            if not entry["ignored"]
        ]

    def photograph(self, path: Path) -> None:
        """Leave a picture of what can be seen without scrolling."""
        picture = self.driver.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})
        path.write_bytes(base64.b64decode(picture["data"]))


@contextmanager
def chromium(folder: Path) -> Iterator[Browser]:
    """A browser that keeps what it has to keep in `folder`."""
    options = webdriver.ChromeOptions()
    options.binary_location = program("chromium")
    for flag in (*_FLAGS, f"--user-data-dir={folder}/profile"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = Service(program("chromedriver"), env={"HOME": str(folder), "PATH": "/usr/bin:/bin"})
    driver = webdriver.Chrome(options=options, service=service)
    try:
        yield Browser(driver)
    finally:
        driver.quit()
