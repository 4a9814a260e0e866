"""Chromium without a window, driven by its DevTools protocol over a pipe: no package needed."""

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
WAIT = 90.0  # seconds for what a page should show; only failing tests wait that long


def find() -> str | None:
    """A Chromium of this machine."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Page:
    """One tab, the address of everything that it asked for, and what it complained of."""

    def __init__(self, to: int, from_: int):
        self._to, self._from, self._unread = to, from_, b""
        self._last, self._session, self.requests, self.complaints = 0, None, [], []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Network", "DOM", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """The protocol's answer to one of its methods."""
        self._last += 1
        message = {"id": self._last, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = json.loads(self._read())
            if answer.get("method") == "Network.requestWillBeSent":
                self.requests.append(answer["params"]["request"]["url"])
            if answer.get("method") in ("Log.entryAdded", "Runtime.exceptionThrown"):
                self.complaints.append(answer["params"])
            if answer.get("id") == self._last:
                assert "error" not in answer, answer
                return answer["result"]

    def _read(self) -> bytes:
        while b"\0" not in self._unread:
            assert select.select([self._from], [], [], WAIT)[0], "the browser does not answer"
            found = os.read(self._from, 1 << 20)
            assert found, "the browser ended"
            self._unread += found
        message, _, self._unread = self._unread.partition(b"\0")
        return message

    def open(self, url: str, width: int = 1200, height: int = 900, scheme: str = "light") -> None:
        """Shows a page of the web or a file; `scheme` is the reader's choice, light or dark."""
        preferred = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", features=preferred)
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=False,
        )  # fmt: skip
        self.call("Page.navigate", url=url)
        self.wait("document.readyState == 'complete'")

    def run(self, expression: str) -> Any:
        """The value of a JavaScript expression."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait(self, expression: str) -> Any:
        """Its value once it is true; the page's text is in the error where it never is."""
        end = time.monotonic() + WAIT
        while not (found := self.run(expression)):
            assert time.monotonic() < end, f"{expression}: {self.run('document.body.innerText')}"
            time.sleep(0.1)
        return found

    def drop(self, selector: str, path: str) -> None:
        """Gives a file to an <input type=file>."""
        root = self.call("DOM.getDocument", depth=0)["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(path)])

    def screenshot(self, path: Path) -> None:
        """The whole page as PNG."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        answer = self.call(
            "Page.captureScreenshot", captureBeyondViewport=True, clip={**size, "scale": 1}
        )
        path.write_bytes(base64.b64decode(answer["data"]))


@contextlib.contextmanager
def open_browser() -> Iterator[Page]:
    """A browser of its own, gone afterwards."""
    their_in, our_out = os.pipe()
    our_in, their_out = os.pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        # The protocol speaks on file descriptors 3 and 4.
        script = f'exec "$0" "$@" 3<&{their_in} 4>&{their_out}'
        process = subprocess.Popen(
            [
                "bash", "-c", script, find(), "--headless=new", "--no-sandbox", "--disable-gpu",
                "--hide-scrollbars", "--disable-dev-shm-usage", "--no-first-run",
                "--disable-background-networking", "--remote-debugging-pipe",
                f"--user-data-dir={profile}",
            ],
            pass_fds=(their_in, their_out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(their_in)
        os.close(their_out)
        try:
            page = Page(our_out, our_in)
            yield page
            page._session = None
            page.call("Browser.close")
        finally:
            os.close(our_out)
            os.close(our_in)
            process.kill()
            process.wait()
