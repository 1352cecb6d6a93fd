"""`transformers serve` on the text LLM of the shipped ears: the peer of `python benchmarks/serve.py`.

Both are asked the same written questions, greedily and in float32, one by one and by sixteen clients at once. The peer
runs as it is, and with its continuous batching; what a way of running it ends in is printed where it gives no answer.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2

from salad import assets
from salad.serve.served_model import DEFAULT_MODEL

CLIENTS, PATIENCE_S = 16, 300.0
WAYS = {"transformers serve": (), "transformers serve --continuous-batching": ("--continuous-batching",)}
TOPICS = ("rivers", "bread", "the moon", "bees", "glass", "snow", "trains", "salt", "paper", "sleep", "whales",
          "coffee", "bridges", "music", "gold", "rain")  # fmt: skip


def bodies(model: str, max_tokens: int) -> list[dict[str, Any]]:
    """As many questions as clients, each of another text."""
    return [
        {"model": model, "max_tokens": max_tokens, "temperature": 0,
         "messages": [{"role": "user", "content": f"Tell me at length all that you know about {topic}."}]}
        for topic in TOPICS[:CLIENTS]
    ]  # fmt: skip


def rates(url: str, asked: list[dict[str, Any]]) -> tuple[float, float]:
    """Tokens a second of the first four questions one by one, and of all at once. Raises RuntimeError for no answer."""

    def ask(body: dict[str, Any]) -> int:
        try:
            answer = httpx2.post(f"{url}/v1/chat/completions", json=body, timeout=PATIENCE_S)
        except httpx2.HTTPError as error:
            raise RuntimeError(f"{type(error).__name__}: {error}") from None
        tokens = answer.json().get("usage", {}).get("completion_tokens", 0) if answer.status_code == 200 else 0
        if not tokens:
            raise RuntimeError(f"{answer.status_code} {answer.text[:300]}")
        return int(tokens)

    ask(asked[0])
    begun = time.perf_counter()
    alone = sum(map(ask, asked[:4])) / (time.perf_counter() - begun)
    begun = time.perf_counter()
    with ThreadPoolExecutor(len(asked)) as clients:
        together = sum(clients.map(ask, asked)) / (time.perf_counter() - begun)
    return alone, together


@contextmanager
def serving(folder: Path, options: tuple[str, ...]) -> Iterator[str]:
    """The address of a peer, which is ended behind. Raises RuntimeError with its last words where it does not start."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
    command = [str(Path(sys.executable).parent / "transformers"), "serve", str(folder), "--port", str(port),
               "--host", "127.0.0.1", "--device", "cpu", "--dtype", "float32", *options]  # fmt: skip
    url, end = f"http://127.0.0.1:{port}", time.monotonic() + PATIENCE_S
    with tempfile.TemporaryFile("w+") as log:
        offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
        process = subprocess.Popen(command, env=os.environ | offline, stdout=log, stderr=log)
        try:
            while True:
                if process.poll() is not None or time.monotonic() > end:
                    log.seek(0)
                    raise RuntimeError(f"it did not start: {log.read()[-300:]}")
                try:
                    if httpx2.get(f"{url}/health", timeout=5).status_code == 200:
                        break
                except httpx2.HTTPError:
                    time.sleep(0.2)
            yield url
        finally:
            process.terminate()
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()


def compare(url: str, max_tokens: int) -> dict[str, Any]:
    """Ours at `url`, and the faster way of the peer. text_tokens_s_1 and _16 are ours, of the same questions."""
    recipe = assets.recipe_behind(DEFAULT_MODEL)
    assert recipe is not None
    folder = assets.llm_folder(recipe["assets"]["llm"])
    found: dict[str, Any] = {"peer": None, "peer_tokens_s_1": None, "peer_tokens_s_16": None}
    ours_1, ours_16 = rates(url, bodies("salad", max_tokens))
    for name, options in WAYS.items():
        try:
            with serving(folder, options) as peer:
                one, all_ = rates(peer, bodies(str(folder), max_tokens))
        except RuntimeError as error:
            found[f"not run: {name}"] = str(error)
            continue
        found[name] = [round(one, 2), round(all_, 2)]
        if found["peer"] is None or all_ > found["peer_tokens_s_16"]:
            found |= {"peer": name, "peer_tokens_s_1": round(one, 2), "peer_tokens_s_16": round(all_, 2)}
    best = found["peer_tokens_s_16"]
    return {
        "text_tokens_s_1": round(ours_1, 2), "text_tokens_s_16": round(ours_16, 2), **found,
        "ratio_to_peer": round(ours_16 / best, 2) if best else None,
    }  # fmt: skip
