"""Headless Chromium over the DevTools protocol's pipe (NUL-separated JSON on descriptors 3 and 4): no package."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
TIMEOUT_S = 20.0
SPECIAL_KEYS = {"ArrowDown": 40, "ArrowUp": 38, "Enter": 13, "Escape": 27, "End": 35, "Home": 36}


def find_chromium() -> str | None:
    """$CHROMIUM, or the first of `NAMES` on the path."""
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """One page in a headless Chromium. Keeps the exceptions, console errors, dialogs and requests that it saw."""

    def __init__(self, executable: str, *, width: int = 1280, height: int = 900):
        self.exceptions: list[str] = []
        """Uncaught exceptions, console errors and browser messages such as blocked scripts."""
        self.dialogs: list[str] = []
        self.requests: list[str] = []
        self._profile = tempfile.TemporaryDirectory(prefix="chromium-")
        to_child, self._write = os.pipe()
        self._read, from_child = os.pipe()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (closed by `close`)
        # The pipe must be descriptors 3 and 4 of the child.
        script = f'exec "$0" "$@" 3<&{to_child} 4>&{from_child}'
        arguments = [
            "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--hide-scrollbars",
            "--remote-debugging-pipe", f"--user-data-dir={self._profile.name}", f"--window-size={width},{height}",
            "about:blank",
        ]  # fmt: skip
        self._process = subprocess.Popen(
            ["bash", "-c", script, executable, *arguments],
            pass_fds=(to_child, from_child), stdout=subprocess.DEVNULL, stderr=self._errors,
        )  # fmt: skip
        os.close(to_child)
        os.close(from_child)
        self._buffer = b""
        self._number = 0
        self._events: list[dict[str, Any]] = []
        self._session = ""
        targets = self._call("Target.getTargets")["targetInfos"]
        target = next(target["targetId"] for target in targets if target["type"] == "page")
        self._session = self._call("Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self._call(f"{domain}.enable")
        self.resize(width, height)

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the browser."""
        self._process.kill()
        self._process.wait()
        os.close(self._write)
        os.close(self._read)
        self._errors.close()
        # Helpers of the browser may write to the profile for a moment longer.
        for _ in range(50):
            try:
                self._profile.cleanup()
                return
            except OSError:
                time.sleep(0.1)

    def open(self, page: Path, fragment: str = "") -> None:
        """Go to a page and wait until it is loaded and its list drawn."""
        self._call("Page.navigate", {"url": "about:blank"})  # or a new fragment alone would not load the page anew
        self.exceptions, self.dialogs, self.requests = [], [], []
        self._call("Page.navigate", {"url": page.as_uri() + fragment})
        self.wait("document.readyState === 'complete' && 'listDrawnMs' in document.documentElement.dataset")

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression; promises are awaited."""
        answer = self._call("Runtime.evaluate", {"expression": expression, "returnByValue": True, "awaitPromise": True})
        if "exceptionDetails" in answer:
            raise AssertionError(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def wait(self, expression: str, timeout_s: float = TIMEOUT_S) -> None:
        """Wait until an expression is true."""
        deadline = time.monotonic() + timeout_s
        while not self.evaluate(f"Boolean({expression})"):
            if time.monotonic() > deadline:
                raise AssertionError(f"not true within {timeout_s} s: {expression}; {self.exceptions}")
            time.sleep(0.02)

    def press(self, key: str) -> None:
        """Press and release a key: a character, or one of `SPECIAL_KEYS`."""
        event: dict[str, Any] = {"key": key}
        if key in SPECIAL_KEYS:
            event["windowsVirtualKeyCode"] = SPECIAL_KEYS[key]
        else:
            event["text"] = key
        self._call("Input.dispatchKeyEvent", {"type": "keyDown", **event})
        self._call("Input.dispatchKeyEvent", {"type": "keyUp", **event})

    def type(self, text: str) -> None:
        """Type a text into what has the focus."""
        self._call("Input.insertText", {"text": text})

    def resize(self, width: int, height: int) -> None:
        """Set the window's size in CSS pixels."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self._call("Emulation.setDeviceMetricsOverride", size)

    def prefer(self, scheme: str) -> None:
        """Prefer the colour scheme ``light`` or ``dark``."""
        self._call("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})

    def screenshot(self, path: Path) -> None:
        """Write what is seen as PNG."""
        path.write_bytes(base64.b64decode(self._call("Page.captureScreenshot", {"format": "png"})["data"]))

    def _call(self, method: str, parameters: Mapping[str, Any] | None = None) -> dict[str, Any]:
        self._number += 1
        number = self._number
        message: dict[str, Any] = {"id": number, "method": method, "params": dict(parameters or {})}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == number:
                if "error" in answer:
                    raise AssertionError(f"{method}: {answer['error']}")
                return dict(answer["result"])
            self._take_event(answer)

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._read], [], [], TIMEOUT_S)
            data = os.read(self._read, 1 << 20) if ready else b""
            if not data:
                self._errors.seek(0)
                raise AssertionError(f"Chromium is silent: {self._errors.read()[-2000:]!r}")
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\0")
        return dict(json.loads(line))

    def _take_event(self, event: Mapping[str, Any]) -> None:
        parameters = event.get("params", {})
        match event.get("method"):
            case "Runtime.exceptionThrown":
                self.exceptions.append(json.dumps(parameters["exceptionDetails"])[:1000])
            case "Log.entryAdded":
                self.exceptions.append(parameters["entry"]["text"])
            case "Page.javascriptDialogOpening":
                self.dialogs.append(parameters["message"])
                self._number += 1
                message = {"id": self._number, "method": "Page.handleJavaScriptDialog", "params": {"accept": True},
                           "sessionId": self._session}  # fmt: skip
                os.write(self._write, json.dumps(message).encode() + b"\0")
            case "Network.requestWillBeSent":
                self.requests.append(parameters["request"]["url"])
