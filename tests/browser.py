"""A headless Chromium, driven over the WebDriver protocol, which is JSON over HTTP: no package is needed for it."""

import base64
import json
import re
import shutil
import subprocess
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

#: The parts that are wider than the page.
_WIDE = """
const page = document.documentElement.clientWidth, scrolls = element => {
  for (let own = element; own; own = own.parentElement) if (getComputedStyle(own).overflowX === "auto") return true;
};
return [...document.querySelectorAll("body *")]
  .filter(own => own.getBoundingClientRect().right > page + 1 && !scrolls(own))
  .map(own => own.tagName + "." + own.className + " " + own.textContent.trim().slice(0, 40));
"""
#: Text whose colour stands out too little from what is behind it (WCAG AA: 4.5, or 3 for large text).
_FAINT = """
const parse = text => text.match(/[\\d.]+/g).map(Number), light = ([r, g, b]) => {
  const part = value => (value /= 255) <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  return 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
}, behind = element => {
  for (let own = element; own; own = own.parentElement) {
    const colour = parse(getComputedStyle(own).backgroundColor);
    if (colour.length < 4 || colour[3] === 1) return colour;
  }
  return [255, 255, 255];
};
const faint = new Set();
for (const element of document.querySelectorAll("body *")) {
  const own = [...element.childNodes].some(node => node.nodeType === 3 && node.data.trim());
  if (!own || !element.checkVisibility()) continue;
  const style = getComputedStyle(element), [one, other] = [light(parse(style.color)), light(behind(element))];
  const contrast = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
  if (contrast < (parseFloat(style.fontSize) >= 24 ? 3 : 4.5)) faint.add(
    `${contrast.toFixed(2)} ${element.tagName}.${element.className} ${element.textContent.trim().slice(0, 30)}`);
}
return [...faint];
"""


class Browser:
    """One window of a browser."""

    def __init__(self, driver: str, dark: bool) -> None:
        self._at = driver
        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        options += ["--blink-settings=preferredColorScheme=" + ("0" if dark else "1")]
        always = {
            "goog:chromeOptions": {"args": options},
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        }
        self._at += "/session/" + self._ask("/session", capabilities={"alwaysMatch": always})["sessionId"]

    def _ask(self, path: str, **body: Any) -> Any:
        request = Request(self._at + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
        with urlopen(request, timeout=120) as reply:
            return json.loads(reply.read())["value"]

    def open(self, page: Path, width: int, height: int) -> None:
        """Show a page in a window of this size."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self._ask("/goog/cdp/execute", cmd="Emulation.setDeviceMetricsOverride", params=metrics)
        self._ask("/url", url=page.as_uri())

    def run(self, script: str) -> Any:
        """Return what a script in the page returns."""
        return self._ask("/execute/sync", script=script, args=[])

    def errors(self) -> list[str]:
        """Return what was logged as an error since the last call."""
        return [row["message"] for row in self._ask("/se/log", type="browser") if row["level"] == "SEVERE"]

    def requests(self) -> set[str]:
        """Return the addresses that were asked for since the last call."""
        events = [json.loads(row["message"])["message"] for row in self._ask("/se/log", type="performance")]
        asked = [own["params"] for own in events if own["method"] == "Network.requestWillBeSent"]
        return {own["request"]["url"] for own in asked if own.get("documentURL", "").startswith("file:")}

    def too_wide(self) -> list[str]:
        """Return what reaches beyond the right edge and cannot be scrolled to."""
        return self.run(_WIDE)

    def too_faint(self) -> list[str]:
        """Return visible text whose contrast is below WCAG's level AA."""
        return self.run(_FAINT)

    def close(self) -> None:
        """End the session, and the browser with it."""
        urlopen(Request(self._at, method="DELETE"), timeout=60).close()

    def picture(self, file: Path) -> None:
        """Write what the window shows as a PNG file; Chromium at times says that the page is not active yet."""
        for left in reversed(range(10)):
            try:
                shot = self._ask("/goog/cdp/execute", cmd="Page.captureScreenshot", params={})
                break
            except HTTPError:
                if not left:
                    raise
                time.sleep(0.2)
        file.write_bytes(base64.b64decode(shot["data"]))


def missing() -> str:
    """Return which program is missing, empty when none is."""
    return ", ".join(name for name in ("chromedriver", "chromium") if shutil.which(name) is None)


@contextmanager
def browser(dark: bool = False) -> Generator[Browser]:
    driver = subprocess.Popen(["chromedriver", "--port=0"], stdout=subprocess.PIPE, text=True)
    try:
        ports = (re.search(r"started successfully on port (\d+)", line) for line in driver.stdout)
        port = next(found[1] for found in ports if found)
        own = Browser(f"http://127.0.0.1:{port}", dark)
        try:
            yield own
        finally:
            own.close()
    finally:
        driver.terminate()
        driver.wait(timeout=30)
