"""The page in a real Chromium, where there is one (SALAD_CHROMIUM, or on the path), whose microphone plays noise."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time

import httpx2
import pytest

from salad.testing.sounds import noise_file

connect = pytest.importorskip("websockets.sync.client").connect
CHROMIUM = os.environ.get("SALAD_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here; SALAD_CHROMIUM names one")


class Page:
    """A tab, by Chrome's DevTools protocol."""

    def __init__(self, port, url):
        tab = httpx2.put(f"http://127.0.0.1:{port}/json/new?{url}").json()
        self.socket, self.last = connect(tab["webSocketDebuggerUrl"], max_size=None), 0

    def ask(self, method, **params):
        self.last += 1
        self.socket.send(json.dumps({"id": self.last, "method": method, "params": params}))
        while (told := json.loads(self.socket.recv(timeout=60))).get("id") != self.last:
            pass
        return told["result"]

    def js(self, code):
        told = self.ask("Runtime.evaluate", expression=code, awaitPromise=True, returnByValue=True, userGesture=True)
        assert "exceptionDetails" not in told, told
        return told["result"].get("value")

    def until(self, code, seconds=20):
        end = time.monotonic() + seconds
        while not self.js(code):
            assert time.monotonic() < end, (code, self.js("document.body.innerText"))
            time.sleep(0.1)

    def key(self, name, text):
        for kind in ("keyDown", "keyUp"):
            self.ask("Input.dispatchKeyEvent", type=kind, key=name, text=text, windowsVirtualKeyCode=13)


@pytest.fixture
def port(tmp_path):
    (tmp_path / "microphone.wav").write_bytes(noise_file(5.0))
    flags = ("--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0", f"--user-data-dir={tmp_path}",
             "--remote-allow-origins=*", "--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream",
             f"--use-file-for-fake-audio-capture={tmp_path / 'microphone.wav'}")  # fmt: skip
    with subprocess.Popen([CHROMIUM, *flags, "about:blank"], stderr=subprocess.DEVNULL) as chromium:
        told = tmp_path / "DevToolsActivePort"
        for _ in range(300):
            if told.is_file() and told.read_text():
                break
            time.sleep(0.1)
        yield int(told.read_text().splitlines()[0])
        chromium.terminate()


@pytest.mark.slow
def test_five_seconds_from_the_microphone_are_answered_by_keys_alone(port, url):
    page = Page(port, url)
    page.until("document.readyState === 'complete' && !!document.getElementById('record')")
    page.js("document.getElementById('record').focus()")
    page.key("Enter", "\r")
    page.until("document.getElementById('record').getAttribute('aria-pressed') === 'true'")
    time.sleep(5)
    page.key("Enter", "\r")
    page.until("!document.getElementById('playback').hidden")
    page.js("""window.steps = 0; new MutationObserver(() => window.steps++).observe(
        document.getElementById('answer'), {childList: true, characterData: true, subtree: true});
        document.getElementById('said').value = 'w1 w2'; document.getElementById('ask').focus()""")
    page.key("Enter", "\r")
    page.until("document.getElementById('status').textContent === 'Done.'")
    assert page.js("document.getElementById('answer').textContent").startswith("w") and page.js("window.steps") > 3
    assert page.js("document.getElementById('heard').textContent").startswith("w")
    assert page.js("document.querySelectorAll('#words tbody tr').length") == 2
    page.ask("Emulation.setDeviceMetricsOverride", width=360, height=740, deviceScaleFactor=1, mobile=True)
    assert page.js("document.documentElement.scrollWidth") == 360
