"""A headless Chromium for tests, driven by ChromeDriver's own protocol (W3C WebDriver, plain HTTP
with JSON), so that nothing else is needed.

On Debian: `apt-get install chromium chromium-driver`. Where they are not, tests are skipped and say
so; CI installs them (CONTRIBUTING.md, "Before it is done").
"""

from __future__ import annotations

import base64
import contextlib
import json
import shutil
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")
MISSING = (
    ""
    if CHROMIUM and DRIVER
    else "no Chromium with its ChromeDriver here: apt-get install chromium chromium-driver"
)
# As root without a sandbox; without a network, which Chromium would look for at its start.
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage", "--hide-scrollbars", "--force-prefers-reduced-motion",
)  # fmt: skip
_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the key of the WebDriver recommendation
KEYS = {"left": "\ue012", "right": "\ue014", "escape": "\ue00c", "tab": "\ue004"}


class Browser:
    """One window. Errors: RuntimeError with what ChromeDriver says."""

    def __init__(self, address: str, size: tuple[int, int], dark: bool, profile: str) -> None:
        self._base = address
        options = {
            "binary": CHROMIUM,
            "args": [*FLAGS, f"--window-size={size[0]},{size[1]}", f"--user-data-dir={profile}",
                     *(["--force-dark-mode"] if dark else [])],
        }  # fmt: skip
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        made = self._call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        self._session = f"/session/{made['sessionId']}"

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        asked = urllib.request.Request(
            self._base + path, data, {"Content-Type": "application/json"}, method=method
        )
        try:
            with urllib.request.urlopen(asked, timeout=60) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise RuntimeError(json.load(error)["value"]["message"]) from None

    def open(self, url: str) -> None:
        """Load a page, and wait for it."""
        self._call("POST", f"{self._session}/url", {"url": url})

    def js(self, script: str, *arguments: Any) -> Any:
        """What the body of a function returns."""
        body = {"script": script, "args": list(arguments)}
        return self._call("POST", f"{self._session}/execute/sync", body)

    def find(self, css: str) -> dict[str, str]:
        """The first element."""
        return self._call(
            "POST", f"{self._session}/element", {"using": "css selector", "value": css}
        )

    def click(self, css: str) -> None:
        """Click the middle of an element, which is scrolled into view."""
        self._show(css)
        self._call("POST", f"{self._session}/element/{self.find(css)[_ELEMENT]}/click", {})

    def keys(self, css: str, text: str) -> None:
        """Type into an element."""
        element = self.find(css)[_ELEMENT]
        self._call("POST", f"{self._session}/element/{element}/value", {"text": text})

    def pointer(self, css: str, moves: Sequence[tuple[float, float]], press: bool) -> None:
        """Move the mouse along points of an element (shares of its sides), with the button pressed
        from the first to the last or not at all."""
        self._show(css)
        box = self.js(
            "const b = arguments[0].getBoundingClientRect(); return [b.x, b.y, b.width, b.height]",
            self.find(css),
        )
        steps: list[dict[str, Any]] = []
        for k, (x, y) in enumerate(moves):
            at = {"x": round(box[0] + x * box[2]), "y": round(box[1] + y * box[3])}
            steps.append({"type": "pointerMove", "duration": 30, "origin": "viewport", **at})
            if press and k == 0:
                steps.append({"type": "pointerDown", "button": 0})
        if press:
            steps.append({"type": "pointerUp", "button": 0})
        mouse = {"type": "pointer", "id": "mouse", "parameters": {"pointerType": "mouse"}}
        self._call("POST", f"{self._session}/actions", {"actions": [{**mouse, "actions": steps}]})

    def _show(self, css: str) -> None:
        self.js("arguments[0].scrollIntoView({block: 'center'})", self.find(css))

    def errors(self) -> list[str]:
        """What the console has said of errors since the last call."""
        told = self._call("POST", f"{self._session}/se/log", {"type": "browser"})
        return [entry["message"] for entry in told if entry["level"] in ("SEVERE", "WARNING")]

    def screenshot(self, file: Path) -> None:
        """The window as a PNG."""
        file.write_bytes(base64.b64decode(self._call("GET", f"{self._session}/screenshot")))

    def close(self) -> None:
        """End the window."""
        self._call("DELETE", self._session)


@contextlib.contextmanager
def browser(size: tuple[int, int] = (1400, 1000), dark: bool = False) -> Iterator[Browser]:
    """A window of a browser of its own."""
    assert DRIVER, MISSING
    with tempfile.TemporaryDirectory(prefix="imle-lab-chromium-") as profile:
        driver = subprocess.Popen(
            [DRIVER, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        try:
            window = Browser(f"http://127.0.0.1:{_port(driver)}", size, dark, profile)
            try:
                yield window
            finally:
                window.close()
        finally:
            driver.terminate()
            driver.wait(20)
            time.sleep(0.1)  # Chromium's last files in the profile


def _port(driver: subprocess.Popen[str]) -> int:
    assert driver.stdout
    for line in driver.stdout:
        if "started successfully on port" in line:
            return int(line.rsplit(" ", 1)[1].rstrip(".\n"))
    raise RuntimeError("ChromeDriver did not start")
