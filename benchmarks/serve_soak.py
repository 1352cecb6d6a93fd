"""`python benchmarks/serve.py --soak SECONDS`: a server in a process of its own, clients who mean well and who do not.

It is killed (kill -9) first and started again; memory is compared over the last eight tenths of the time behind that.
"""

from __future__ import annotations

import json
import math
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
from websockets.exceptions import WebSocketException
from websockets.sync.client import connect

PATIENCE_S = 120.0  # an answer that takes longer is silence
LARGE = 50 * 10**6


class Server:
    """`salad serve` on a free port."""

    def __init__(self) -> None:
        with socket.socket() as held:
            held.bind(("127.0.0.1", 0))
            self.port = held.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "salad.cli", "serve", "--port", str(self.port), "--asr", "none"],
            stdout=subprocess.DEVNULL,
        )
        while True:
            try:
                if httpx2.get(f"{self.url}/health", timeout=5).status_code == 200:
                    return
            except httpx2.HTTPError:
                assert self._process.poll() is None, "the server ended"
                time.sleep(0.2)

    @property
    def lives(self) -> bool:
        return self._process.poll() is None

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def stop(self) -> int:
        """SIGTERM; its exit status."""
        self._process.terminate()
        return self._process.wait(timeout=400)

    def memory(self) -> int:
        """Resident bytes."""
        pages = Path(f"/proc/{self._process.pid}/statm").read_text(encoding="ascii").split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")


class Soak:
    """Clients, and what they saw: `count` by what happened, `lost` and `bad` in words."""

    def __init__(self, server: Server, question: dict[str, Any]) -> None:
        self.server, self.question = server, question
        self.end = math.inf
        self.killed = threading.Event()  # set while the server is down, and what is then cut is no loss
        self.count: Counter[str] = Counter()
        self.lost: list[str] = []
        self.bad: list[str] = []

    def forever(self, act: Callable[[random.Random], None], seed: int) -> None:
        draws = random.Random(seed)
        while time.monotonic() < self.end:
            act(draws)
            time.sleep(draws.uniform(0, 0.2))

    def ask(self, draws: random.Random) -> None:
        """A question that must be answered, or end in an error where the server dies."""
        began_down, body = self.killed.is_set(), {**self.question, "max_tokens": draws.randint(1, 6)}
        begun = time.monotonic()
        try:
            with httpx2.stream(
                "POST", f"{self.server.url}/v1/chat/completions", json=body, timeout=PATIENCE_S
            ) as answer:
                lines = [line for line in answer.iter_lines() if line]
            told = answer.status_code == 429 or (answer.status_code == 200 and lines[-1] == "data: [DONE]")
            error = any('"error"' in line for line in lines) and answer.status_code == 200
            what = "" if told and not error else f"{answer.status_code} {lines[-1:]}"
        except (httpx2.HTTPError, OSError) as failure:
            what = type(failure).__name__
            if time.monotonic() - begun > PATIENCE_S:
                self.lost.append(f"silence: {what}")
                return
            if began_down or self.killed.is_set():
                self.count["cut by kill -9, told by an error"] += 1
                return
        self.count["asked"] += 1
        if what:
            self.lost.append(what)

    def post(self, content: bytes, headers: dict[str, str] | None = None, path: str = "/v1/chat/completions") -> None:
        """A bad request, whose answer must be a 4xx; a server that closes while 50 MB come in may cut its client."""
        try:
            status = httpx2.post(f"{self.server.url}{path}", content=content, headers=headers, timeout=60).status_code
        except (httpx2.HTTPError, OSError) as failure:
            if not self.killed.is_set() and len(content) < LARGE:
                self.bad.append(f"{type(failure).__name__} {content[:40]!r}")
            return
        self.count["bad requests"] += 1
        if not 400 <= status < 500:
            self.bad.append(f"{status} {path} {content[:40]!r}")

    def be_bad(self, draws: random.Random) -> None:
        draws.choice([self.garbage, self.large, self.half, self.cut, self.slow, self.not_http, self.realtime])(draws)

    def garbage(self, draws: random.Random) -> None:
        path = draws.choice(["/v1/chat/completions", "/v1/audio/transcriptions", "/v1/salad/compare", "/none"])
        self.post(draws.randbytes(draws.randint(0, 4000)), {"content-type": "application/json"}, path)
        self.post(json.dumps({**self.question, "messages": [{"role": draws.randint(0, 9)}]}).encode())

    def large(self, draws: random.Random) -> None:
        self.post(b"x" * LARGE)

    def _raw(self, data: bytes) -> socket.socket:
        plain = socket.create_connection(("127.0.0.1", self.server.port), timeout=60)
        plain.sendall(data)
        return plain

    def _request(self, length: int) -> bytes:
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n"
        return head.encode()

    def half(self, draws: random.Random) -> None:
        """Half a body, then gone."""
        body = json.dumps(self.question).encode()
        self._quietly(lambda: self._raw(self._request(len(body)) + body[: len(body) // 2]).close())

    def cut(self, draws: random.Random) -> None:
        """A question whose answer nobody waits for."""
        body = json.dumps({**self.question, "max_tokens": 200}).encode()

        def leave() -> None:
            with self._raw(self._request(len(body)) + body) as plain:
                plain.settimeout(draws.uniform(0.1, 3))
                plain.recv(200)

        self._quietly(leave)

    def slow(self, draws: random.Random) -> None:
        """An answer read byte by byte, with rests."""
        body = json.dumps({**self.question, "max_tokens": 8}).encode()

        def read() -> None:
            with self._raw(self._request(len(body)) + body) as plain:
                for _ in range(20):
                    if not plain.recv(1):
                        return
                    time.sleep(0.1)

        self._quietly(read)

    def not_http(self, draws: random.Random) -> None:
        def send() -> None:
            with self._raw(draws.randbytes(200) + b"\r\n\r\n") as plain:
                plain.recv(4000)

        self._quietly(send)

    def realtime(self, draws: random.Random) -> None:
        """Frames that mean nothing: each ends in an error event."""
        url = f"ws://127.0.0.1:{self.server.port}/v1/realtime"
        try:
            with connect(url, open_timeout=60) as raw:
                raw.recv(timeout=60)
                for _ in range(5):
                    raw.send(draws.choice([draws.randbytes(50), "{", '{"type": "x"}', '{"type": "response.cancel"}']))
                    if json.loads(raw.recv(timeout=60))["type"] != "error":
                        self.bad.append("a frame without an error")
                self.count["bad frames"] += 5
        except (WebSocketException, OSError, TimeoutError) as failure:
            if not self.killed.is_set():
                self.bad.append(f"realtime: {type(failure).__name__}")

    @staticmethod
    def _quietly(act: Callable[[], None]) -> None:
        try:
            act()
        except OSError:  # it is the client that misbehaves; `ask` says whether the server lives
            pass


def soak(question: dict[str, Any], seconds: float) -> dict[str, Any]:
    """lost: questions without an end; growth: of memory over the last eight tenths; bad_not_4xx. All of it runs at low
    priority; what it came to so far goes to stderr every minute."""
    os.nice(10)
    server = Server()
    try:
        return _soak(server, question, seconds)
    finally:
        if server.lives:
            server.kill()


def _soak(server: Server, question: dict[str, Any], seconds: float) -> dict[str, Any]:
    run = Soak(server, question)
    acts = [run.ask, run.ask, run.be_bad, run.be_bad]
    threads = [threading.Thread(target=run.forever, args=(act, i), daemon=True) for i, act in enumerate(acts)]
    for thread in threads:
        thread.start()
    time.sleep(seconds / 20)
    run.killed.set()
    server.kill()
    server.start()
    time.sleep(2)  # what was cut is told by then
    run.killed.clear()
    run.end, memory = time.monotonic() + seconds, []
    time.sleep(0.2 * seconds)
    told = time.monotonic()
    while time.monotonic() < run.end:
        memory.append(server.memory())
        if time.monotonic() > told + 60:
            told = time.monotonic()
            print(f"{run.end - told:.0f} s left, {memory[-1] / 2**20:.0f} MB, lost {len(run.lost)}, "
                  f"not 4xx {len(run.bad)}, {dict(run.count)}", file=sys.stderr, flush=True)  # fmt: skip
        time.sleep(min(1.0, seconds / 100))
    for thread in threads:
        thread.join()
    tenth = max(1, len(memory) // 8)
    first, last = (statistics.median(part) for part in (memory[:tenth], memory[-tenth:]))
    return {
        "soak_s": seconds, "lost": len(run.lost), "growth": round(last / first - 1, 4), "bad_not_4xx": len(run.bad),
        "memory_mb": round(last / 2**20), "exit_status": server.stop(), **run.count, "why": [*run.lost, *run.bad][:5],
    }  # fmt: skip
