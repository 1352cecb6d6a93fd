"""Photograph the page of a running `salad serve` after one question, for light and for dark, into docs/pictures.

python scripts/photograph_page.py /path/to/chromium http://127.0.0.1:8000/ question.wav "What is the capital of France?"
"""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

PICTURES = Path(__file__).parents[1] / "docs" / "pictures"
DONE = "document.getElementById('status').textContent === 'Done.'"
WIDTH, PATIENCE_S = 900, 300


def ask(socket: ClientConnection, method: str, **params: Any) -> dict[str, Any]:
    """One call of Chromium's DevTools protocol; calls wait for each other, so one number does."""
    socket.send(json.dumps({"id": 1, "method": method, "params": params}))
    while (told := json.loads(socket.recv(timeout=60))).get("id") != 1:
        pass
    return told["result"]


def js(socket: ClientConnection, code: str) -> Any:
    return ask(socket, "Runtime.evaluate", expression=code, returnByValue=True)["result"].get("value")


def photograph(socket: ClientConnection, url: str, recording: Path, said: str) -> None:
    ask(socket, "Emulation.setDeviceMetricsOverride", width=WIDTH, height=900, deviceScaleFactor=1, mobile=False)
    ask(socket, "Page.enable")
    ask(socket, "Page.navigate", url=url)
    time.sleep(2)
    root = ask(socket, "DOM.getDocument")["root"]["nodeId"]
    file = ask(socket, "DOM.querySelector", nodeId=root, selector="#file")["nodeId"]
    ask(socket, "DOM.setFileInputFiles", nodeId=file, files=[str(recording.resolve())])
    time.sleep(1)
    js(socket, f"document.getElementById('said').value = {json.dumps(said)}; document.getElementById('ask').click()")
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end and not js(socket, DONE):
        time.sleep(1)
    height = js(socket, "document.documentElement.scrollHeight")
    ask(socket, "Emulation.setDeviceMetricsOverride", width=WIDTH, height=height, deviceScaleFactor=1, mobile=False)
    for scheme in ("light", "dark"):
        ask(socket, "Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        time.sleep(1)
        picture = ask(socket, "Page.captureScreenshot", format="png")["data"]
        (PICTURES / f"page-{scheme}.png").write_bytes(base64.b64decode(picture))


def main(chromium: str, url: str, recording: str, said: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0", "--remote-allow-origins=*"]
        with subprocess.Popen([chromium, *flags, f"--user-data-dir={folder}", "about:blank"]) as browser:
            told = Path(folder) / "DevToolsActivePort"
            while not (told.is_file() and told.read_text()):
                time.sleep(0.1)
            port = told.read_text().splitlines()[0]
            tab = urllib.request.Request(f"http://127.0.0.1:{port}/json/new?about:blank", method="PUT")
            with urllib.request.urlopen(tab) as answer:
                place = json.load(answer)["webSocketDebuggerUrl"]
            with connect(place, max_size=None) as socket:
                photograph(socket, url, Path(recording), said)
            browser.terminate()


if __name__ == "__main__":
    main(*sys.argv[1:])
