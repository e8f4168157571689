"""Chromium without a window, driven by its DevTools protocol: a page, what it said and what it asked for."""

import base64
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from websocket import WebSocket, create_connection

SECONDS = 20
NAMES = ("chromium", "chromium-browser", "google-chrome")


@dataclass
class Page:
    """`said` are lines of the console and of the browser's log, `asked` the addresses that were requested."""

    socket: WebSocket
    said: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    _sent: int = 0
    _events: list[str] = field(default_factory=list)

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._sent += 1
        self.socket.send(json.dumps({"id": self._sent, "method": method, "params": parameters}))
        while (message := self._next()).get("id") != self._sent:
            pass
        if "error" in message:
            raise RuntimeError(f"{method}: {message['error']}")
        result: dict[str, Any] = message["result"]
        return result

    def _next(self) -> dict[str, Any]:
        message: dict[str, Any] = json.loads(self.socket.recv())
        method, given = message.get("method"), message.get("params", {})
        if method == "Network.requestWillBeSent":
            self.asked.append(given["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.said.append(json.dumps(given["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled":
            self.said.append(json.dumps(given["args"]))
        elif method == "Log.entryAdded":
            self.said.append(given["entry"]["text"])
        if method:
            self._events.append(method)
        return message

    def open(self, path: Path, *, width: int = 1280, dark: bool = False) -> None:
        """The file, in a window of that width, when all of it is there."""
        self.said.clear()
        self.asked.clear()
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.send(f"{domain}.enable")
        self.show(width=width, dark=dark)
        self._events.clear()
        self.send("Page.navigate", url=path.resolve().as_uri())
        while "Page.loadEventFired" not in self._events:
            self._next()
        self.run("new Promise(done => requestAnimationFrame(() => setTimeout(done, 50)))")

    def show(self, *, width: int = 1280, height: int = 900, dark: bool = False, media: str = "screen") -> None:
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", media=media, features=[scheme])
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def run(self, script: str) -> Any:
        """The value of an expression, awaited. Raises RuntimeError where it throws."""
        found = self.send("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in found:
            raise RuntimeError(json.dumps(found["exceptionDetails"])[:2000])
        return found["result"].get("value")

    def press(self, key: str, code: int, text: str = "") -> None:
        shared = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        self.send("Input.dispatchKeyEvent", type="keyDown", text=text, **shared)
        self.send("Input.dispatchKeyEvent", type="keyUp", **shared)

    def picture(self, path: Path, *, height: int | None = None, scale: float = 1) -> None:
        """A PNG of the whole page, or of its first `height` pixels."""
        size = self.run("[document.documentElement.scrollWidth, document.documentElement.scrollHeight]")
        clip = {"x": 0, "y": 0, "width": size[0], "height": height or size[1], "scale": scale}
        found = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
        path.write_bytes(base64.b64decode(found["data"]))


def chromium() -> str:
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        raise FileNotFoundError(f"none of {', '.join(NAMES)} is installed: install Debian's chromium")
    return found


@contextmanager
def browser(directory: Path) -> Iterator[Page]:
    """A page of a Chromium whose files lie in `directory`; it may reach no host."""
    words = [
        chromium(), "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--hide-scrollbars",
        "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={directory}", "--remote-debugging-port=0",
        "about:blank",
    ]  # fmt: skip
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            port = _port(process, directory / "DevToolsActivePort")
            with urlopen(f"http://127.0.0.1:{port}/json/list", timeout=SECONDS) as answer:
                targets = json.load(answer)
            address = next(target["webSocketDebuggerUrl"] for target in targets if target["type"] == "page")
            socket = create_connection(address, timeout=SECONDS, suppress_origin=True)
            try:
                yield Page(socket)
            finally:
                socket.close()
        finally:
            process.terminate()


def _port(process: "subprocess.Popen[bytes]", file: Path) -> int:
    until = time.monotonic() + SECONDS
    while time.monotonic() < until:
        if file.is_file() and (lines := file.read_text().splitlines()):
            return int(lines[0])
        if process.poll() is not None:
            raise RuntimeError(f"{chromium()} ended with {process.returncode}")
        time.sleep(0.05)
    raise TimeoutError(f"{chromium()} has not begun within {SECONDS} s")
